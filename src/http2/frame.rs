//! Frames: their nine bytes of header, and those that a server writes (RFC 9113, 4 and 6).

pub(super) const HEADER_BYTES: usize = 9;

/// What each client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The largest payload before anything is said about it, and the one that we take.
pub(super) const FRAME_MAX_BYTES: u32 = 16_384;
/// The largest that can be said.
pub(super) const FRAME_MOST_BYTES: u32 = (1 << 24) - 1;
/// The window of a stream and of a connection before anything is said about it.
pub(super) const WINDOW_BYTES: u32 = 65_535;
pub(super) const WINDOW_MOST_BYTES: u32 = i32::MAX as u32;

pub(super) mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

pub(super) mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// An error code of RFC 9113, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ErrorCode(pub u32);

impl ErrorCode {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const SETTINGS_TIMEOUT: Self = Self(4);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// What stands before a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl FrameHeader {
    /// The header at the beginning of `bytes`; none if they are too few.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g, ..] = bytes else {
            return None;
        };
        Some(Self {
            len: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff,
        })
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn bytes(self) -> [u8; HEADER_BYTES] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }
}

/// Appends the header of a frame.
pub(super) fn put_header(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    let header = FrameHeader {
        len,
        kind,
        flags,
        stream,
    };
    out.extend_from_slice(&header.bytes());
}

/// Writes a length into a frame's header that is there already.
pub(super) fn set_len(header: &mut [u8], len: usize) {
    header[..3].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
}

pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_header(out, settings.len() * 6, kind::SETTINGS, 0, 0);
    for (id, value) in settings {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn put_settings_ack(out: &mut Vec<u8>) {
    put_header(out, 0, kind::SETTINGS, flag::ACK, 0);
}

pub(super) fn put_ping(out: &mut Vec<u8>, flags: u8, data: [u8; 8]) {
    put_header(out, data.len(), kind::PING, flags, 0);
    out.extend_from_slice(&data);
}

pub(super) fn put_reset(out: &mut Vec<u8>, stream: u32, code: ErrorCode) {
    put_header(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

pub(super) fn put_window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    put_header(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

pub(super) fn put_goaway(out: &mut Vec<u8>, last_stream: u32, code: ErrorCode, reason: &str) {
    put_header(out, 8 + reason.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last_stream.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// The payload without its padding; none if there is more padding than payload.
pub(super) fn without_padding(header: FrameHeader, payload: &[u8]) -> Option<&[u8]> {
    if !header.has(flag::PADDED) {
        return Some(payload);
    }
    let (&padding, rest) = payload.split_first()?;
    let len = rest.len().checked_sub(padding.into())?;
    Some(&rest[..len])
}

/// The settings in a payload, in their order.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).map(|pair| {
        let id = u16::from_be_bytes([pair[0], pair[1]]);
        (id, u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_without_its_reserved_bit() {
        let header = FrameHeader {
            len: 0x12_3456,
            kind: kind::DATA,
            flags: flag::PADDED,
            stream: 0x7fff_fffe,
        };
        let mut bytes = header.bytes();
        bytes[5] |= 0x80;
        assert_eq!(FrameHeader::read(&bytes), Some(header));
        assert_eq!(FrameHeader::read(&bytes[..8]), None);
    }

    #[test]
    fn padding_is_taken_away() {
        let padded = |payload: &'static [u8]| {
            let header = FrameHeader {
                len: payload.len(),
                kind: kind::DATA,
                flags: flag::PADDED,
                stream: 1,
            };
            without_padding(header, payload)
        };
        assert_eq!(padded(b"\x02abcd"), Some(&b"ab"[..]));
        assert_eq!(padded(b"\x04abcd"), Some(&b""[..]));
        assert_eq!(padded(b"\x05abcd"), None);
        assert_eq!(padded(b""), None);
    }
}
