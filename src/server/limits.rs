//! What callers may take of a node: connections, calls, bytes and time.

use std::time::Duration;

/// Limits of the doors. [`ConnectionLimits::default`] is meant for a port that programs of one's own call, and that
/// others may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections that may be open; one more is closed as soon as it is there.
    pub connections: usize,
    /// Those that one address may have at the express door; if not given, three in four of all.
    pub connections_an_address: Option<usize>,
    /// Calls that one connection may have open.
    pub streams_a_connection: usize,
    /// The largest request, in bytes.
    pub request_bytes: usize,
    /// The metadata of a call, in bytes, as HTTP/2 counts them: names, values, and 32 for each pair.
    pub metadata_bytes: usize,
    /// How long a connection may have no call.
    pub idle: Option<Duration>,
    /// How long a connection is used for new calls; clients open another one.
    pub age: Option<Duration>,
    /// How long the calls of a connection that is too old may go on.
    pub age_grace: Duration,
    /// How long a connection may take until it speaks HTTP/2, with TLS if that is asked for.
    pub handshake: Duration,
    /// What the gRPC core may use for connections, calls and what they have read, in bytes. Over it, idle
    /// connections are closed, calls are cancelled, and new connections are not taken.
    pub core_bytes: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_an_address: None,
            streams_a_connection: 1024,
            request_bytes: 4 << 20,
            metadata_bytes: 16 << 10,
            idle: Some(Duration::from_secs(600)),
            age: Some(Duration::from_secs(3600)),
            age_grace: Duration::from_secs(300),
            handshake: Duration::from_secs(10),
            core_bytes: 512 << 20,
        }
    }
}
