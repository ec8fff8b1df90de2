//! The client's side of one gRPC call that has its connection to itself, without any I/O: messages go in both ways for as
//! long as the call lasts.
//!
//! It is for peers that are trusted: what is wrong ends the call and says so, nothing is counted. What comes is bounded by
//! the largest message, and by a window that is granted again as messages are taken.

use super::ErrorCode;
use super::frame::{
    self, FRAME_MAX_BYTES, FrameHeader, HEADER_BYTES, WINDOW_BYTES, WINDOW_MOST_BYTES, flag, kind,
    setting,
};
use super::grpc::{self, PREFIX_BYTES};
use super::hpack::{Decoder, field_without_index};
use super::status::{Code, Status};
use super::window::ReceiveWindow;

/// The one stream.
const STREAM: u32 = 1;
/// What the peer may send before it is told to go on.
const RECEIVE_BYTES: u32 = 4 << 20;
/// The largest frame that is taken.
const FRAME_TAKEN_BYTES: u32 = 1 << 20;
/// The largest that is sent, however large a one the peer takes.
const FRAME_SENT_BYTES: u32 = 64 << 10;
/// What headers or trailers may have.
const BLOCK_MAX_BYTES: usize = 64 << 10;
/// While more than this is to be written, no message is asked for.
const UNWRITTEN_BYTES: usize = 64 << 10;
/// Buffers that have grown beyond this are given back.
const KEPT_MAX_BYTES: usize = 256 << 10;
/// Answers to pings and settings that wait to be written. A peer that wants more may not read them at all.
const ANSWERS_MAX: usize = 1000;

/// What is called.
pub(crate) struct Target<'a> {
    pub authority: &'a str,
    pub path: &'a str,
    pub is_secure: bool,
}

/// How a call has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer has said how.
    Status(Status),
    /// It has not; why not, for people.
    Broken(String),
}

fn broken<T>(why: impl Into<String>) -> Result<T, End> {
    Err(End::Broken(why.into()))
}

pub(crate) struct Solo {
    message_max_bytes: usize,
    /// To be written, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Answers to pings and settings that may not have been written.
    answers: usize,
    /// When so many bytes more have been, the first of them was, and they are counted anew.
    to_first_answer: usize,
    /// Messages that the peer's windows have no room for, from `framed` on.
    unframed: Vec<u8>,
    framed: usize,
    /// No message follows those that are there.
    is_last: bool,
    sending: Sending,
    connection_window: ReceiveWindow,
    stream_window: ReceiveWindow,
    has_settings: bool,
    /// A frame that has not come to its end; of DATA its header alone.
    frame: Vec<u8>,
    /// What is to come of a frame of DATA.
    data_left: usize,
    data_ends: bool,
    /// A message that has not, with its prefix.
    message: Vec<u8>,
    block: Option<Block>,
    decoder: Decoder,
    has_headers: bool,
}

/// What the peer takes.
struct Sending {
    connection: i64,
    stream: i64,
    initial: i64,
    frame_max_bytes: u32,
}

/// Headers or trailers that have not come to their end.
struct Block {
    bytes: Vec<u8>,
    ends_stream: bool,
}

impl Solo {
    /// Begins the call. Its messages, of which the peer's may have so many bytes, go both ways from now on.
    pub fn new(target: &Target<'_>, message_max_bytes: usize) -> Self {
        let mut out = frame::PREFACE.to_vec();
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, RECEIVE_BYTES),
            (setting::MAX_FRAME_SIZE, FRAME_TAKEN_BYTES),
            (setting::MAX_HEADER_LIST_SIZE, BLOCK_MAX_BYTES as u32),
        ];
        frame::put_settings(&mut out, &settings);
        frame::put_window_update(&mut out, 0, RECEIVE_BYTES - WINDOW_BYTES);
        let head = head(target);
        frame::put_header(
            &mut out,
            head.len(),
            kind::HEADERS,
            flag::END_HEADERS,
            STREAM,
        );
        out.extend_from_slice(&head);
        Self {
            message_max_bytes,
            out,
            written: 0,
            answers: 0,
            to_first_answer: 0,
            unframed: Vec::new(),
            framed: 0,
            is_last: false,
            sending: Sending {
                connection: WINDOW_BYTES.into(),
                stream: WINDOW_BYTES.into(),
                initial: WINDOW_BYTES.into(),
                frame_max_bytes: FRAME_MAX_BYTES,
            },
            connection_window: ReceiveWindow::new(RECEIVE_BYTES),
            stream_window: ReceiveWindow::new(RECEIVE_BYTES),
            has_settings: false,
            frame: Vec::new(),
            data_left: 0,
            data_ends: false,
            message: Vec::new(),
            block: None,
            decoder: Decoder::new(),
            has_headers: false,
        }
    }

    /// Whether another message would leave soon.
    pub fn is_ready(&self) -> bool {
        self.unframed.is_empty() && !self.is_last && self.unwritten().len() < UNWRITTEN_BYTES
    }

    /// Sends a message; the last one ends this side of the call.
    pub fn send(&mut self, message: &[u8], is_last: bool) {
        self.unframed
            .extend_from_slice(&grpc::prefix(message.len()));
        self.unframed.extend_from_slice(message);
        self.is_last = is_last;
        self.frame_messages();
    }

    /// What is to be written.
    pub fn unwritten(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So many bytes of it have been.
    pub fn written(&mut self, len_bytes: usize) {
        self.written += len_bytes;
        self.to_first_answer = self.to_first_answer.saturating_sub(len_bytes);
        if self.written == self.out.len() {
            self.written = 0;
            empty(&mut self.out);
        } else if self.written >= UNWRITTEN_BYTES.max(self.unwritten().len()) {
            // A peer that is slow may for long not have taken all.
            self.out.drain(..std::mem::take(&mut self.written));
        }
    }

    /// Takes what has come, and shows each message to `take`, which says what is wrong with it.
    ///
    /// # Errors
    /// The call has ended.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), End> {
        while !bytes.is_empty() {
            if self.data_left > 0 {
                let (data, rest) = bytes.split_at(self.data_left.min(bytes.len()));
                bytes = rest;
                self.data_left -= data.len();
                self.on_data(data, &mut take)?;
                if self.data_left == 0 && self.data_ends {
                    return broken("the node has ended its side without a status");
                }
                continue;
            }
            let needed = match FrameHeader::read(&self.frame) {
                None => HEADER_BYTES,
                Some(header) => HEADER_BYTES + header.len,
            };
            let (part, rest) = bytes.split_at((needed - self.frame.len()).min(bytes.len()));
            bytes = rest;
            self.frame.extend_from_slice(part);
            self.on_frame_bytes(&mut take)?;
        }
        self.grant();
        Ok(())
    }

    /// Looks whether the frame is to be acted on as far as it has come.
    fn on_frame_bytes(
        &mut self,
        take: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), End> {
        let Some(header) = FrameHeader::read(&self.frame) else {
            return Ok(());
        };
        if !self.has_settings && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return broken("it does not speak HTTP/2");
        }
        if header.len > FRAME_TAKEN_BYTES as usize {
            return broken(format!("it has sent a frame of {} bytes", header.len));
        }
        if self.block.is_some() && header.kind != kind::CONTINUATION {
            return broken("it has sent a frame within its headers");
        }
        if header.kind == kind::DATA && !header.has(flag::PADDED) {
            self.frame.clear();
            self.begin_data(header)?;
            self.data_left = header.len;
            self.data_ends = header.has(flag::END_STREAM);
            return match self.data_left == 0 && self.data_ends {
                true => broken("the node has ended its side without a status"),
                false => Ok(()),
            };
        }
        if self.frame.len() < HEADER_BYTES + header.len {
            return Ok(());
        }
        let mut frame = std::mem::take(&mut self.frame);
        self.on_frame(header, &frame[HEADER_BYTES..], take)?;
        empty(&mut frame);
        self.frame = frame;
        Ok(())
    }

    fn on_frame(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        take: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), End> {
        match header.kind {
            kind::DATA => {
                self.begin_data(header)?;
                let data = unpadded(header, payload)?;
                self.on_data(data, take)?;
                match header.has(flag::END_STREAM) {
                    true => broken("the node has ended its side without a status"),
                    false => Ok(()),
                }
            }
            kind::HEADERS => self.on_headers(header, payload),
            kind::CONTINUATION => self.on_continuation(header, payload),
            kind::RST_STREAM if header.stream == STREAM => {
                let code = number(payload)?;
                broken(format!("it has reset the call, with HTTP/2's code {code}"))
            }
            kind::SETTINGS => self.on_settings(header, payload),
            kind::PUSH_PROMISE => broken("it pushes what was not asked for"),
            kind::PING => self.on_ping(header, payload),
            kind::GOAWAY => on_goaway(payload),
            kind::WINDOW_UPDATE => self.on_window_update(header, payload),
            _ => Ok(()),
        }
    }

    fn begin_data(&mut self, header: FrameHeader) -> Result<(), End> {
        if header.stream != STREAM || !self.has_headers {
            return broken("it has sent a part of a message before its headers");
        }
        let windows = [&mut self.connection_window, &mut self.stream_window];
        for window in windows {
            if window.take(header.len).is_err() {
                return broken("it has sent more than its window had room for");
            }
        }
        Ok(())
    }

    fn on_data(
        &mut self,
        mut data: &[u8],
        take: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), End> {
        while !data.is_empty() {
            // A message that lies there as a whole is shown in place.
            if self.message.is_empty()
                && let Some(len) = self.message_bytes(data)?
                && let Some(message) = data.get(PREFIX_BYTES..len)
            {
                take(message).map_err(End::Broken)?;
                data = &data[len..];
                continue;
            }
            let needed = self.message_bytes(&self.message)?.unwrap_or(PREFIX_BYTES);
            let (part, rest) = data.split_at((needed - self.message.len()).min(data.len()));
            data = rest;
            self.message.reserve_exact(needed - self.message.len());
            self.message.extend_from_slice(part);
            if self.message_bytes(&self.message)? == Some(self.message.len()) {
                take(&self.message[PREFIX_BYTES..]).map_err(End::Broken)?;
                empty(&mut self.message);
            }
        }
        Ok(())
    }

    /// The length of the message that `bytes` begin with, with its prefix; none if they are too few to say.
    fn message_bytes(&self, bytes: &[u8]) -> Result<Option<usize>, End> {
        match grpc::read_prefix(bytes) {
            None => Ok(None),
            Some((0, len)) if len <= self.message_max_bytes => Ok(Some(PREFIX_BYTES + len)),
            Some((0, len)) => broken(format!("it has sent a message of {len} bytes")),
            Some(_) => broken("it has sent a message that is compressed"),
        }
    }

    fn on_headers(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), End> {
        if header.stream != STREAM {
            return broken("it has sent headers of a call that was not made");
        }
        let mut bytes = unpadded(header, payload)?;
        if header.has(flag::PRIORITY) {
            let Some(rest) = bytes.get(5..) else {
                return broken("it has sent headers that are cut short");
            };
            bytes = rest;
        }
        let block = Block {
            bytes: bytes.to_vec(),
            ends_stream: header.has(flag::END_STREAM),
        };
        self.go_on_with(block, header)
    }

    fn on_continuation(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), End> {
        match self.block.take() {
            Some(mut block) if header.stream == STREAM => {
                block.bytes.extend_from_slice(payload);
                self.go_on_with(block, header)
            }
            _ => broken("it goes on with headers that it has not begun"),
        }
    }

    fn go_on_with(&mut self, block: Block, header: FrameHeader) -> Result<(), End> {
        if block.bytes.len() > BLOCK_MAX_BYTES {
            return broken("its headers are too large");
        }
        match header.has(flag::END_HEADERS) {
            true => self.on_block(&block),
            false => {
                self.block = Some(block);
                Ok(())
            }
        }
    }

    fn on_block(&mut self, block: &Block) -> Result<(), End> {
        let (mut http, mut code, mut message) = (None, None, String::new());
        let read = self
            .decoder
            .decode(&block.bytes, BLOCK_MAX_BYTES, |field| match field.name {
                b":status" => http = text(field.value),
                b"grpc-status" => code = text(field.value).and_then(|code| code.parse().ok()),
                b"grpc-message" => message = grpc::percent_decoded(field.value),
                _ => {}
            });
        if read.is_err() {
            return broken("its headers are not HPACK");
        }
        let is_interim = http.as_ref().is_some_and(|http| http.starts_with('1'));
        if is_interim && !block.ends_stream {
            return Ok(());
        }
        if let Some(http) = http.filter(|http| http != "200") {
            return broken(format!("it has answered with HTTP's status {http}"));
        }
        self.has_headers = true;
        match (block.ends_stream, code) {
            (false, _) => Ok(()),
            (true, Some(code)) => Err(End::Status(Status::new(Code(code), message))),
            (true, None) => broken("the node has ended its side without a status"),
        }
    }

    fn on_settings(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), End> {
        self.has_settings = true;
        if header.has(flag::ACK) {
            return Ok(());
        }
        for (id, value) in frame::settings(payload) {
            match id {
                setting::INITIAL_WINDOW_SIZE => {
                    self.sending.stream += i64::from(value) - self.sending.initial;
                    self.sending.initial = value.into();
                }
                setting::MAX_FRAME_SIZE => {
                    self.sending.frame_max_bytes = value.clamp(FRAME_MAX_BYTES, FRAME_SENT_BYTES);
                }
                _ => {}
            }
        }
        frame::put_settings_ack(&mut self.out);
        self.count_answer()?;
        self.frame_messages();
        Ok(())
    }

    fn on_ping(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), End> {
        let Ok(data) = payload.try_into() else {
            return broken("it has sent a ping that is cut short");
        };
        if header.has(flag::ACK) {
            return Ok(());
        }
        frame::put_ping(&mut self.out, flag::ACK, data);
        self.count_answer()
    }

    /// An answer was put last of what is to be written.
    fn count_answer(&mut self) -> Result<(), End> {
        if self.to_first_answer == 0 {
            self.answers = 0;
            self.to_first_answer = self.unwritten().len();
        }
        self.answers += 1;
        match self.answers > ANSWERS_MAX {
            true => broken(format!(
                "it has sent {ANSWERS_MAX} pings and settings, and more, before it took the answers"
            )),
            false => Ok(()),
        }
    }

    fn on_window_update(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), End> {
        let increment = i64::from(number(payload)? & WINDOW_MOST_BYTES);
        let window = match header.stream {
            0 => &mut self.sending.connection,
            _ => &mut self.sending.stream,
        };
        *window += increment;
        if *window > WINDOW_MOST_BYTES.into() {
            return broken("it has granted a larger window than there is");
        }
        self.frame_messages();
        Ok(())
    }

    /// Frames what the peer's windows have room for.
    fn frame_messages(&mut self) {
        while self.framed < self.unframed.len() {
            let window = self.sending.connection.min(self.sending.stream);
            let left = self.unframed.len() - self.framed;
            let most = usize::try_from(window).unwrap_or(0);
            let len = left.min(most).min(self.sending.frame_max_bytes as usize);
            if len == 0 {
                return;
            }
            let is_end = len == left && self.is_last;
            let flags = if is_end { flag::END_STREAM } else { 0 };
            frame::put_header(&mut self.out, len, kind::DATA, flags, STREAM);
            let end = self.framed + len;
            self.out.extend_from_slice(&self.unframed[self.framed..end]);
            self.framed = end;
            self.sending.connection -= len as i64;
            self.sending.stream -= len as i64;
        }
        self.framed = 0;
        empty(&mut self.unframed);
    }

    /// Tells the peer to go on, where it is worth a frame.
    fn grant(&mut self) {
        if let Some(increment) = self.connection_window.grant() {
            frame::put_window_update(&mut self.out, 0, increment);
        }
        if let Some(increment) = self.stream_window.grant() {
            frame::put_window_update(&mut self.out, STREAM, increment);
        }
    }
}

fn head(target: &Target<'_>) -> Vec<u8> {
    let scheme = if target.is_secure { "https" } else { "http" };
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", target.path),
        (":authority", target.authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        (
            "user-agent",
            concat!("corecache/", env!("CARGO_PKG_VERSION")),
        ),
    ] {
        field_without_index(&mut head, name.as_bytes(), value.as_bytes());
    }
    head
}

fn empty(buffer: &mut Vec<u8>) {
    match buffer.capacity() > KEPT_MAX_BYTES {
        true => *buffer = Vec::new(),
        false => buffer.clear(),
    }
}

fn unpadded(header: FrameHeader, payload: &[u8]) -> Result<&[u8], End> {
    match frame::without_padding(header, payload) {
        Some(rest) => Ok(rest),
        None => broken("it has sent more padding than there is room for"),
    }
}

fn number(payload: &[u8]) -> Result<u32, End> {
    match payload.try_into() {
        Ok(bytes) => Ok(u32::from_be_bytes(bytes)),
        Err(_) => broken("it has sent a frame that is cut short"),
    }
}

/// Who goes away for good has not begun the call; who drains ends it when it is done.
fn on_goaway(payload: &[u8]) -> Result<(), End> {
    let Some((numbers, reason)) = payload.split_at_checked(8) else {
        return broken("it has sent a frame that is cut short");
    };
    let last_stream = number(&numbers[..4])? & 0x7fff_ffff;
    let code = ErrorCode(number(&numbers[4..])?);
    if last_stream >= STREAM && code == ErrorCode::NO_ERROR {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(reason);
    broken(format!(
        "it goes away, with HTTP/2's code {}: {reason}",
        code.0
    ))
}

fn text(value: &[u8]) -> Option<String> {
    String::from_utf8(value.to_vec()).ok()
}

#[cfg(test)]
mod tests;
