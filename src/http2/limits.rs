//! What a client may take of one connection.

use std::time::Duration;

/// Limits of a connection. The defaults are meant for a port that programs of one's own call, and that others may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Calls that may be open at once.
    pub streams_max: u32,
    /// The metadata of a call, in bytes, as HTTP/2 counts them: names, values, and 32 for each pair.
    pub header_list_bytes: u32,
    /// The largest request.
    pub message_bytes: usize,
    /// Requests that have begun to come, taken together.
    pub assembling_bytes: usize,
    /// What a client may send on a stream before it is told to go on; 65,535 bytes at least.
    pub stream_window_bytes: u32,
    /// The same for all streams of the connection.
    pub connection_window_bytes: u32,
    /// The table that clients may keep for their headers.
    pub header_table_bytes: u32,
    /// Frames that are put together and not written yet: no more is read, and no reply is cut into frames, until the
    /// client has taken some.
    pub out_bytes_max: usize,
    /// Replies that wait for the client's windows. Over a quarter of it no more calls are begun until some have been sent;
    /// over it, answers that come later are turned into an error.
    pub held_bytes_max: usize,
    /// The largest DATA frame that is sent, if the client takes so much.
    pub frame_bytes_max: u32,
    /// Resets of streams without an answer, by the client before it has waited, or by an error that it makes. A client that
    /// gives up all its calls at once does no harm, so this should begin with as many as there may be streams. Answered calls
    /// give more of it.
    pub resets: Allowance,
    /// SETTINGS frames. This allowance, and those below, grow with all that is done for a client: calls that have come, calls
    /// that were answered, and each KiB of answers.
    pub settings: Allowance,
    /// PING frames.
    pub pings: Allowance,
    /// DATA frames with nothing in them, but for those that end a stream.
    pub empty_data: Allowance,
    /// WINDOW_UPDATE frames.
    pub window_updates: Allowance,
    /// Frames that mean nothing here: PRIORITY, GOAWAY, unknown ones, and what comes for streams that have ended.
    pub idle_frames: Allowance,
    /// Frames that a header block may come in.
    pub header_frames_max: u32,
    /// How long a client may take for its preface and first SETTINGS.
    pub handshake: Duration,
    /// How long it may take to acknowledge ours.
    pub settings_ack: Duration,
    /// How long a connection may have no call; none: for ever.
    pub idle: Option<Duration>,
    /// How long replies may lie without the client taking any of them; less if the handler says so.
    pub stalled_reader: Duration,
    /// How long a request may take from its first byte to its last.
    pub slow_writer: Duration,
}

/// How much of something is free: so many at once, and more with time and with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// At once, and never more.
    pub burst: u32,
    pub per_second: u32,
    pub per_call: u32,
}

impl Allowance {
    pub const fn new(burst: u32, per_second: u32, per_call: u32) -> Self {
        Self {
            burst,
            per_second,
            per_call,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_max: 1024,
            header_list_bytes: 16 << 10,
            message_bytes: 4 << 20,
            assembling_bytes: 8 << 20,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 1 << 20,
            header_table_bytes: 4096,
            out_bytes_max: 256 << 10,
            held_bytes_max: 16 << 20,
            frame_bytes_max: 64 << 10,
            resets: Allowance::new(1024, 100, 1),
            settings: Allowance::new(64, 10, 1),
            pings: Allowance::new(64, 10, 4),
            empty_data: Allowance::new(64, 10, 4),
            window_updates: Allowance::new(1024, 1000, 8),
            idle_frames: Allowance::new(1024, 100, 4),
            header_frames_max: 16,
            handshake: Duration::from_secs(10),
            settings_ack: Duration::from_secs(30),
            idle: Some(Duration::from_secs(600)),
            stalled_reader: Duration::from_secs(30),
            slow_writer: Duration::from_secs(30),
        }
    }
}
