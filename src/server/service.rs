//! What a call means, whichever door it comes in by: groups, frames, errors, limits. No transport is named here.

use std::sync::Arc;
use std::time::Instant;

use super::hot::Hot;
use super::loaders::Loaders;
use super::lookout::Caller;
use super::many::{Answers, Gathering};
use super::outgoing::{Encoded, Full, Outgoing};
use super::peer::Peers;
use super::read::Reads;
use super::waiting::{Crowded, Waiting};
use super::wire::{self, GetManyRequest, GetRequest, HEAT_MAX_BYTES, Malformed};
use crate::engine::Lent;
use crate::group::chunks;
use crate::group::error::Shown;
use crate::group::relay::Elsewhere;
use crate::group::{ErrorKind, GetError, Group, Groups, Value};

/// The largest reply to a unary call, encoded: what a stock client takes.
pub const UNARY_LIMIT_BYTES: usize = 4 << 20;

/// The largest value whose encoded reply is within [`UNARY_LIMIT_BYTES`]: a tag and a length of four bytes go before it.
pub const VALUE_LIMIT_BYTES: usize = UNARY_LIMIT_BYTES - 5;

/// Keys that one call, or one message of a stream, may ask for.
pub(super) const KEYS_MAX: usize = 10_000;

/// The codes of gRPC that a node answers with (<https://grpc.io/docs/guides/status-codes>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// Why a call, or one key of it, is not answered with a value.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// For a panic that was caught.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "the node failed in a way that it should not; its log says more",
        )
    }

    /// For a caller whose time was over before its key was loaded. It knows by its own clock.
    pub fn too_late() -> Self {
        let message = "the deadline passed while the key was being loaded";
        Self::new(Code::DeadlineExceeded, message)
    }

    /// For a call that is not over when its time is.
    pub fn over() -> Self {
        let message = "the deadline passed before the call had come to its end";
        Self::new(Code::DeadlineExceeded, message)
    }

    /// For a caller whose load was dropped.
    pub fn stopping() -> Self {
        Self::new(Code::Unavailable, "the node is stopping")
    }
}

impl From<Malformed> for Status {
    fn from(error: Malformed) -> Self {
        Self::new(Code::InvalidArgument, error.to_string())
    }
}

impl From<Full> for Status {
    fn from(error: Full) -> Self {
        Self::new(Code::ResourceExhausted, error.to_string())
    }
}

impl From<Crowded> for Status {
    fn from(error: Crowded) -> Self {
        Self::new(Code::ResourceExhausted, error.to_string())
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::InvalidKey => Self::InvalidArgument,
            ErrorKind::TooLarge => Self::OutOfRange,
            ErrorKind::TimedOut => Self::DeadlineExceeded,
            ErrorKind::Unavailable | ErrorKind::Closed => Self::Unavailable,
            ErrorKind::Busy => Self::ResourceExhausted,
            ErrorKind::Refused => Self::FailedPrecondition,
            ErrorKind::Panicked | ErrorKind::Reentrant | ErrorKind::Other => Self::Internal,
        }
    }
}

impl From<GetError> for Status {
    fn from(error: GetError) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

/// What became of a `Get` at once.
pub(super) enum Lookup<'a, R> {
    Hit(R),
    /// A hit of a hot key, the whole reply with its mark.
    Hot(Encoded),
    /// To be passed to [`Service::load`].
    Miss(Miss<'a>),
}

/// What became of a `GetMany` at once.
pub(super) enum Many<'a> {
    Reply(Encoded),
    /// To be passed to [`Service::gather`].
    Missing(Missing<'a>),
}

/// What a `GetMany` has found, and what not.
pub(super) struct Missing<'a> {
    pub group: &'a Group,
    keys: Vec<&'a [u8]>,
    answers: Answers,
}

/// Where a key is loaded that another node has asked for.
pub(super) enum Served {
    Here,
    /// On yet another node, so that the one that asks is to load it itself.
    Elsewhere,
}

pub(super) struct Miss<'a> {
    pub group: &'a Group,
    pub key: &'a [u8],
}

/// The calls of `corecache.v1.Cache` on the groups of this node.
pub(super) struct Service {
    pub groups: Groups,
    pub loaders: Loaders,
    pub peers: Arc<Peers>,
    pub hot: Arc<Hot>,
    pub outgoing: Arc<Outgoing>,
    pub reads: Arc<Reads>,
    pub waiting: Waiting,
    pub started: Instant,
}

impl Service {
    /// Looks a `GetRequest` up; `hit` gets the frame, to make a reply of it.
    pub fn look_up<'a, R>(
        &'a self,
        request: &'a [u8],
        hit: impl FnOnce(&Lent) -> R,
    ) -> Result<Lookup<'a, R>, Status> {
        let GetRequest { group, key } = GetRequest::parse(request)?;
        let group = self.group(group)?;
        group.check_key(key)?;
        let heat = self.hot.note(group, key);
        let held = group.read_frame(key, |lent| {
            check_reply(group, key, lent.value())?;
            Ok(match heat {
                0 => Lookup::Hit(hit(lent)),
                heat => match self.marked(lent.value(), heat) {
                    Some(marked) => Lookup::Hot(marked),
                    None => Lookup::Hit(hit(lent)),
                },
            })
        });
        held.unwrap_or(Ok(Lookup::Miss(Miss { group, key })))
    }

    /// A reply that says how hot its key is; none if there is nobody to share it with, or no room for that.
    #[cold]
    fn marked(&self, frame: &[u8], heat: u32) -> Option<Encoded> {
        let bytes = frame.len() + HEAT_MAX_BYTES;
        if bytes > UNARY_LIMIT_BYTES || !self.peers.has_others() {
            return None;
        }
        let mut reply = self.outgoing.reply();
        reply.reserve(bytes).ok()?;
        reply.bytes().extend_from_slice(frame);
        wire::put_heat(reply.bytes(), heat);
        Some(reply)
    }

    /// Loads what was missed, to be sent in a unary reply to a caller that waits until `deadline`; `answer` is called
    /// once, at once or on another thread.
    pub fn load(
        &self,
        miss: &Miss<'_>,
        deadline: Option<Instant>,
        answer: impl FnOnce(Result<Value, Status>) + Send + 'static,
    ) {
        let (group, key): (_, Box<[u8]>) = (miss.group.clone(), miss.key.into());
        self.load_any(miss, deadline, move |value| {
            let value = value.and_then(|value| {
                check_reply(&group, &key, value.frame())?;
                Ok(value)
            });
            answer(value);
        });
    }

    /// As [`Service::load`], however large the value is.
    pub fn load_any(
        &self,
        miss: &Miss<'_>,
        deadline: Option<Instant>,
        answer: impl FnOnce(Result<Value, Status>) + Send + 'static,
    ) {
        let answer = move |value: Result<Value, GetError>| answer(value.map_err(Status::from));
        if let Some(load) = miss.group.ask_by(miss.key, deadline, answer) {
            self.peers.load(load);
        }
    }

    /// As [`Service::load_any`], for another node: the key is loaded on this one, or not at all.
    pub fn load_here(
        &self,
        miss: &Miss<'_>,
        deadline: Option<Instant>,
        answer: impl FnOnce(Result<Value, Status>) + Send + 'static,
    ) -> Served {
        let answer = move |value: Result<Value, GetError>| answer(value.map_err(Status::from));
        match miss.group.ask_here(miss.key, deadline, answer) {
            Ok(Some(load)) => self.peers.load_own(load),
            Ok(None) => {}
            Err(Elsewhere) => return Served::Elsewhere,
        }
        Served::Here
    }

    /// Looks all keys of a `GetManyRequest` up. If all are held, this is the encoded `GetManyReply`.
    pub fn look_up_many<'a>(&'a self, request: &'a [u8]) -> Result<Many<'a>, Status> {
        let GetManyRequest { group, keys } = GetManyRequest::parse(request)?;
        let group = self.group(group)?;
        check_keys(keys.len(), "call")?;
        let hot = self.hot.note_all(group, &keys);
        let mut answers = Answers::new(&self.outgoing, keys.len());
        if !hot.is_empty() && self.peers.has_others() {
            answers.mark(&hot);
        }
        answers.read(group, &keys)?;
        if answers.missing().next().is_none() {
            return Ok(Many::Reply(answers.finish(&self.outgoing)?));
        }
        Ok(Many::Missing(Missing {
            group,
            keys,
            answers,
        }))
    }

    /// Loads what is missing, for a caller who has a place to wait in; `answer` gets the encoded reply when all is there, at
    /// once or on another thread.
    pub fn gather(
        self: &Arc<Self>,
        missing: Missing<'_>,
        caller: Caller,
        answer: impl FnOnce(Result<Encoded, Status>) + Send + 'static,
    ) {
        let Missing {
            group,
            keys,
            answers,
        } = missing;
        Gathering::start(self, group, &keys, caller, answers, answer);
    }

    pub fn group(&self, name: &[u8]) -> Result<&Group, Status> {
        self.groups.get_bytes(name).ok_or_else(|| {
            let shown = &name[..name.len().min(crate::group::NAME_MAX_BYTES)];
            let names: Vec<_> = self.groups.iter().take(16).map(Group::name).collect();
            let message = format!(
                "no group \"{}\" on this node; its groups are: {}",
                shown.escape_ascii(),
                names.join(", ")
            );
            Status::new(Code::NotFound, message)
        })
    }
}

/// Whether a call, or a message of one, may ask for so many keys.
pub(super) fn check_keys(keys: usize, of: &str) -> Result<(), Status> {
    if keys <= KEYS_MAX {
        return Ok(());
    }
    let message =
        format!("{keys} keys in one {of}, {KEYS_MAX} are the most; ask for them in several {of}s");
    Err(Status::new(Code::InvalidArgument, message))
}

fn check_reply(group: &Group, key: &[u8], stored: &[u8]) -> Result<(), Status> {
    if stored.len() <= UNARY_LIMIT_BYTES {
        return Ok(());
    }
    let message = format!(
        "the value of key {} in group {:?} has {} bytes, and a unary reply of {UNARY_LIMIT_BYTES} bytes carries \
         {VALUE_LIMIT_BYTES} at the most: ask for it with Read",
        Shown(key),
        group.name(),
        chunks::value_len(stored)
    );
    Err(Status::new(Code::OutOfRange, message))
}
