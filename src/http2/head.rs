//! What the headers of a request say (RFC 9113, 8.3; gRPC over HTTP/2).

use std::time::{Duration, Instant};

use super::call::{Handler, Method};
use super::grpc;
use super::hpack::{Decoder, Field, Name, Unread};
use super::status::{Code, Status};

/// A call, as its headers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub method: Method,
    pub timeout: Option<Duration>,
}

impl Call {
    /// When the time of a call is over that has come now.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        now.checked_add(self.timeout?)
    }
}

/// An answer of HTTP, to who does not speak gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: &'static str,
    pub text: &'static str,
    /// Not so to a HEAD.
    pub has_body: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Call(Call),
    Refused(Refusal),
    Failed(Status),
    /// The metadata is over the limit; this is its size in bytes.
    TooLarge(usize),
    /// No request of HTTP at all.
    Malformed(&'static str),
}

/// Reads the headers of a request, and asks the handler what is at its path. `path` is for use again and again.
pub(super) fn read(
    decoder: &mut Decoder,
    block: &[u8],
    list_max_bytes: usize,
    path: &mut Vec<u8>,
    handler: &mut impl Handler,
) -> Result<(Head, Option<u64>), Unread> {
    path.clear();
    let mut reader = Reader::new(path);
    let list_bytes = decoder.decode(block, list_max_bytes, |field| reader.field(field))?;
    let content_length = reader.content_length;
    if list_bytes > list_max_bytes && reader.malformed.is_none() {
        return Ok((Head::TooLarge(list_bytes), content_length));
    }
    Ok((reader.finish(handler), content_length))
}

/// Reads trailers, in which nothing matters here but that they are well-formed.
pub(super) fn read_trailers(
    decoder: &mut Decoder,
    block: &[u8],
) -> Result<Option<&'static str>, Unread> {
    let mut malformed = None;
    decoder.decode(block, usize::MAX, |field| match field.kind {
        Name::Malformed => malformed = Some("a malformed header field"),
        Name::OfConnection => malformed = Some("a header field about the connection"),
        Name::Authority | Name::Method | Name::Path | Name::Scheme | Name::OtherPseudo => {
            malformed = Some("a pseudo-header field among trailers");
        }
        _ => (),
    })?;
    Ok(malformed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Post,
    Head,
    Connect,
    Other,
}

struct Reader<'a> {
    verb: Option<Verb>,
    has_scheme: bool,
    has_path: bool,
    has_authority: bool,
    path: &'a mut Vec<u8>,
    /// A field that is no pseudo-header was there.
    is_past_pseudo: bool,
    is_grpc: bool,
    is_encoded: bool,
    /// None: it is there, and makes no sense.
    timeout: Option<Option<Duration>>,
    content_length: Option<u64>,
    malformed: Option<&'static str>,
}

impl<'a> Reader<'a> {
    fn new(path: &'a mut Vec<u8>) -> Self {
        Self {
            verb: None,
            has_scheme: false,
            has_path: false,
            has_authority: false,
            path,
            is_past_pseudo: false,
            is_grpc: false,
            is_encoded: false,
            timeout: None,
            content_length: None,
            malformed: None,
        }
    }

    fn field(&mut self, field: Field<'_>) {
        let value = field.value;
        match field.kind {
            Name::Method => {
                let verb = match value {
                    b"POST" => Verb::Post,
                    b"HEAD" => Verb::Head,
                    b"CONNECT" => Verb::Connect,
                    _ => Verb::Other,
                };
                let is_first = self.verb.replace(verb).is_none();
                self.pseudo(is_first);
            }
            Name::Scheme => {
                let is_first = !std::mem::replace(&mut self.has_scheme, true);
                self.pseudo(is_first);
            }
            Name::Path => {
                let is_first = !std::mem::replace(&mut self.has_path, true);
                self.pseudo(is_first);
                self.path.clear();
                self.path.extend_from_slice(value);
            }
            Name::Authority => {
                let is_first = !std::mem::replace(&mut self.has_authority, true);
                self.pseudo(is_first);
            }
            Name::OtherPseudo => self.malformed = Some("a pseudo-header field that no request has"),
            Name::Malformed => self.malformed = Some("a malformed header field"),
            Name::OfConnection => self.malformed = Some("a header field about the connection"),
            Name::Te if value != b"trailers" => self.malformed = Some("a te other than trailers"),
            kind => {
                self.is_past_pseudo = true;
                self.plain(kind, value);
            }
        }
    }

    fn pseudo(&mut self, is_first: bool) {
        if !is_first {
            self.malformed = Some("a pseudo-header field twice");
        } else if self.is_past_pseudo {
            self.malformed = Some("a pseudo-header field after another field");
        }
    }

    fn plain(&mut self, kind: Name, value: &[u8]) {
        match kind {
            Name::ContentType => self.is_grpc = grpc::is_content_type(value),
            Name::GrpcEncoding => self.is_encoded = value != b"identity",
            Name::GrpcTimeout => self.timeout = Some(grpc::timeout(value)),
            Name::ContentLength => {
                let len = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok());
                if len.is_none()
                    || self
                        .content_length
                        .is_some_and(|before| Some(before) != len)
                {
                    self.malformed = Some("a content-length that is no length");
                }
                self.content_length = len;
            }
            _ => (),
        }
    }

    fn finish(self, handler: &mut impl Handler) -> Head {
        if let Some(why) = self.malformed {
            return Head::Malformed(why);
        }
        let has_target = self.has_scheme && self.has_path && !self.path.is_empty();
        let is_whole = match self.verb {
            None => false,
            Some(Verb::Connect) => self.has_authority && !self.has_scheme && !self.has_path,
            Some(_) => has_target,
        };
        if !is_whole {
            return Head::Malformed("a request without its pseudo-header fields");
        }
        if self.verb != Some(Verb::Post) {
            return Head::Refused(Refusal {
                status: "405",
                text: "gRPC calls are POST requests\n",
                has_body: self.verb != Some(Verb::Head),
            });
        }
        if !self.is_grpc {
            return Head::Refused(Refusal {
                status: "415",
                text: "the content-type of gRPC calls is application/grpc\n",
                has_body: true,
            });
        }
        if self.timeout == Some(None) {
            return Head::Failed(Status::new(Code::INTERNAL, "the grpc-timeout is malformed"));
        }
        if self.is_encoded {
            // Some clients compress what becomes shorter by it, and only that. They are told before it matters.
            let message = "compressed messages are not taken: send them as they are (identity)";
            return Head::Failed(Status::new(Code::UNIMPLEMENTED, message));
        }
        let Ok(path) = std::str::from_utf8(self.path) else {
            return Head::Malformed("a path that is no text");
        };
        match handler.method(path) {
            Ok(method) => Head::Call(Call {
                method,
                timeout: self.timeout.flatten(),
            }),
            Err(status) => Head::Failed(status),
        }
    }
}
