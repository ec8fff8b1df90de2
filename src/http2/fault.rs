//! What is wrong with what a client has sent, and how far that reaches.

use super::abuse::Abuse;
use super::connection::Closing;
use super::frame::ErrorCode;

#[derive(Debug)]
pub(super) enum Fault {
    /// The end of the connection.
    Connection(Closing),
    /// The end of a stream. What comes of it later is ignored.
    Stream { id: u32, code: ErrorCode },
}

impl Fault {
    pub fn connection(code: ErrorCode, reason: &'static str) -> Self {
        Self::Connection(Closing {
            code,
            reason,
            abuse: Some(Abuse::Protocol),
        })
    }

    pub fn protocol(reason: &'static str) -> Self {
        Self::connection(ErrorCode::PROTOCOL_ERROR, reason)
    }

    pub fn frame_size(reason: &'static str) -> Self {
        Self::connection(ErrorCode::FRAME_SIZE_ERROR, reason)
    }

    pub fn abuse(kind: Abuse, reason: &'static str) -> Self {
        Self::Connection(Closing {
            code: ErrorCode::ENHANCE_YOUR_CALM,
            reason,
            abuse: Some(kind),
        })
    }

    pub fn stream(id: u32, code: ErrorCode) -> Self {
        Self::Stream { id, code }
    }
}
