//! What clients do that no client should, each kind with a counter.

use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of load that a client puts on a server at little cost to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// Streams that are opened and reset, by the client itself or by an error that it makes on purpose.
    RapidReset,
    /// Header blocks in too many pieces, or without an end.
    Continuation,
    /// Header blocks that are too large.
    HeaderBytes,
    /// SETTINGS frames without need.
    Settings,
    /// PING frames without need.
    Ping,
    /// DATA frames with nothing in them.
    EmptyData,
    /// WINDOW_UPDATE frames that add next to nothing.
    WindowUpdate,
    /// Frames that mean nothing here: PRIORITY, unknown types, what belongs to streams that have ended.
    Idle,
    /// More streams at once than the client may have.
    Streams,
    /// A message over the limit, or more of them at once.
    MessageBytes,
    /// Replies that the client does not read, or leaves no window for.
    SlowReader,
    /// Requests that do not come to their end.
    SlowWriter,
    /// No preface or SETTINGS in time, or no acknowledgement of ours.
    Handshake,
    /// Whatever else RFC 9113 calls an error of the connection.
    Protocol,
}

impl Abuse {
    pub const COUNT: usize = Self::ALL.len();
    /// All kinds, with their names in figures.
    pub const ALL: [(Self, &str); 14] = [
        (Self::RapidReset, "rapid_reset"),
        (Self::Continuation, "continuation"),
        (Self::HeaderBytes, "header_bytes"),
        (Self::Settings, "settings"),
        (Self::Ping, "ping"),
        (Self::EmptyData, "empty_data"),
        (Self::WindowUpdate, "window_update"),
        (Self::Idle, "idle_frames"),
        (Self::Streams, "streams"),
        (Self::MessageBytes, "message_bytes"),
        (Self::SlowReader, "slow_reader"),
        (Self::SlowWriter, "slow_writer"),
        (Self::Handshake, "handshake"),
        (Self::Protocol, "protocol"),
    ];
}

/// How often each kind of abuse was met, on all connections that share this.
#[derive(Debug, Default)]
pub(crate) struct Counts([AtomicU64; Abuse::COUNT]);

impl Counts {
    pub fn add(&self, kind: Abuse) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn of(&self, kind: Abuse) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}
