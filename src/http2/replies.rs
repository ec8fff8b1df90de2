//! The frames around an answer. On a connection that is warm they are always the same but for the stream's number and the
//! length, so they are kept as they are written.

use super::frame::{self, HEADER_BYTES, flag, kind};
use super::grpc::{self, PREFIX_BYTES};
use super::hpack::{self, Encoder};
use super::status::{Code, Status};

/// The most that a status may say: it has to fit one frame, and what clients take for headers.
const MESSAGE_MAX_BYTES: usize = 4096;

/// Writes HEADERS frames in the order in which they leave.
pub(super) struct Replies {
    encoder: Encoder,
    /// HEADERS, the header of DATA, and the prefix of a message; empty until the encoder has settled.
    opening: Vec<u8>,
    /// The trailers; the same.
    trailers: Vec<u8>,
}

impl Replies {
    pub fn new() -> Self {
        Self {
            encoder: Encoder::new(),
            opening: Vec::new(),
            trailers: Vec::new(),
        }
    }

    /// The client says how large its table is.
    pub fn limit_table(&mut self, max_bytes: u32) {
        self.encoder.limit(max_bytes as usize);
        self.opening.clear();
        self.trailers.clear();
    }

    /// The headers of an answer.
    pub fn put_headers(&mut self, out: &mut Vec<u8>, stream: u32) {
        put_frame(out, flag::END_HEADERS, stream, |out| {
            self.encoder.put_headers(out)
        });
        self.settle();
    }

    /// The headers of an answer, and room for what stands before its message: the header of a DATA frame and the prefix.
    /// Returns where that room is.
    pub fn open(&mut self, out: &mut Vec<u8>, stream: u32) -> usize {
        if self.opening.is_empty() {
            self.put_headers(out, stream);
            let at = out.len();
            put_room(out, stream);
            return at;
        }
        let begin = out.len();
        out.extend_from_slice(&self.opening);
        let at = out.len() - HEADER_BYTES - PREFIX_BYTES;
        let id = stream.to_be_bytes();
        out[begin + 5..begin + 9].copy_from_slice(&id);
        out[at + 5..at + 9].copy_from_slice(&id);
        at
    }

    /// Fills the room before a message of `len` bytes.
    pub fn close(out: &mut [u8], at: usize, len: usize) {
        let (header, prefix) = out[at..at + HEADER_BYTES + PREFIX_BYTES].split_at_mut(HEADER_BYTES);
        frame::set_len(header, PREFIX_BYTES + len);
        prefix.copy_from_slice(&grpc::prefix(len));
    }

    /// The trailers of an answer that is complete.
    pub fn put_trailers(&mut self, out: &mut Vec<u8>, stream: u32) {
        if self.trailers.is_empty() {
            put_frame(out, flag::END_HEADERS | flag::END_STREAM, stream, |out| {
                self.encoder.put_trailers(out)
            });
            self.settle();
            return;
        }
        let begin = out.len();
        out.extend_from_slice(&self.trailers);
        out[begin + 5..begin + 9].copy_from_slice(&stream.to_be_bytes());
    }

    /// The end of a call: trailers, or headers and trailers in one if there were no headers.
    pub fn put_status(
        &mut self,
        out: &mut Vec<u8>,
        stream: u32,
        has_headers: bool,
        status: &Status,
    ) {
        if has_headers && *status == Status::new(Code::OK, "") {
            return self.put_trailers(out, stream);
        }
        put_frame(out, flag::END_HEADERS | flag::END_STREAM, stream, |out| {
            if has_headers {
                self.encoder.put_sizes(out);
            } else {
                self.encoder.put_headers(out);
            }
            let code = status.code.0.to_string();
            hpack::field_without_index(out, b"grpc-status", code.as_bytes());
            if !status.message.is_empty() {
                let message = grpc::percent_encoded(&status.message, MESSAGE_MAX_BYTES);
                hpack::field_without_index(out, b"grpc-message", &message);
            }
            if status.code == Code::UNIMPLEMENTED {
                hpack::field_without_index(out, b"grpc-accept-encoding", b"identity");
            }
        });
        self.settle();
    }

    /// The headers of an answer of HTTP.
    pub fn put_refusal(
        &mut self,
        out: &mut Vec<u8>,
        stream: u32,
        status: &str,
        content: Option<usize>,
    ) {
        let end = if content.is_none() {
            flag::END_STREAM
        } else {
            0
        };
        put_frame(out, flag::END_HEADERS | end, stream, |out| {
            self.encoder.put_sizes(out);
            hpack::field_without_index(out, b":status", status.as_bytes());
            if status == "405" {
                hpack::field_without_index(out, b"allow", b"POST");
            }
            if let Some(len) = content {
                hpack::field_without_index(out, b"content-type", b"text/plain");
                hpack::field_without_index(out, b"content-length", len.to_string().as_bytes());
            }
        });
        self.settle();
    }

    /// Keeps the frames, if they will be the same from now on.
    fn settle(&mut self) {
        if !self.opening.is_empty() || !self.encoder.is_settled() {
            return;
        }
        put_frame(&mut self.opening, flag::END_HEADERS, 0, |out| {
            self.encoder.put_headers(out)
        });
        put_room(&mut self.opening, 0);
        put_frame(
            &mut self.trailers,
            flag::END_HEADERS | flag::END_STREAM,
            0,
            |out| {
                self.encoder.put_trailers(out);
            },
        );
    }
}

fn put_room(out: &mut Vec<u8>, stream: u32) {
    frame::put_header(out, 0, kind::DATA, 0, stream);
    out.extend_from_slice(&[0; PREFIX_BYTES]);
}

fn put_frame(out: &mut Vec<u8>, flags: u8, stream: u32, put_block: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    frame::put_header(out, 0, kind::HEADERS, flags, stream);
    put_block(out);
    let len = out.len() - at - HEADER_BYTES;
    frame::set_len(&mut out[at..], len);
}
