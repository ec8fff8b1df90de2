//! What a call means, whichever door it comes in by: groups, frames, errors, limits. No transport is named here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::loaders::Loaders;
use super::outgoing::{Encoded, Full, Outgoing};
use super::wire::{self, GetManyRequest, GetRequest, Malformed};
use crate::engine::Lent;
use crate::group::{ErrorKind, GetError, Group, Groups, Value};

/// The largest reply to a unary call, encoded: what a stock client takes.
pub const UNARY_LIMIT_BYTES: usize = 4 << 20;

/// The largest value whose encoded reply is within [`UNARY_LIMIT_BYTES`]: a tag and a length of four bytes go before it.
pub const VALUE_LIMIT_BYTES: usize = UNARY_LIMIT_BYTES - 5;

/// Keys that one call may ask for.
const KEYS_MAX: usize = 10_000;

/// The codes of gRPC that a node answers with (<https://grpc.io/docs/guides/status-codes>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    OutOfRange = 11,
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
    fn new(code: Code, message: impl Into<String>) -> Self {
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

impl From<GetError> for Status {
    fn from(error: GetError) -> Self {
        let code = match error.kind() {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::InvalidKey => Code::InvalidArgument,
            ErrorKind::TooLarge => Code::OutOfRange,
            ErrorKind::TimedOut => Code::DeadlineExceeded,
            ErrorKind::Unavailable | ErrorKind::Closed => Code::Unavailable,
            ErrorKind::Busy => Code::ResourceExhausted,
            ErrorKind::Panicked | ErrorKind::Reentrant | ErrorKind::Other => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// What became of a `Get` at once.
pub(super) enum Lookup<'a, R> {
    Hit(R),
    /// To be passed to [`Service::load`].
    Miss(Miss<'a>),
}

pub(super) struct Miss<'a> {
    group: &'a Group,
    key: &'a [u8],
}

/// The calls of `corecache.v1.Cache` on the groups of this node.
pub(super) struct Service {
    pub groups: Groups,
    pub loaders: Loaders,
    pub outgoing: Arc<Outgoing>,
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
        let held = group.read_frame(key, |lent| {
            check_reply(group, lent.value().len())?;
            Ok(hit(lent))
        });
        match held {
            Some(reply) => reply.map(Lookup::Hit),
            None => Ok(Lookup::Miss(Miss { group, key })),
        }
    }

    /// Loads what was missed; `answer` is called once, at once or on another thread.
    pub fn load(
        &self,
        miss: &Miss<'_>,
        answer: impl FnOnce(Result<Value, Status>) + Send + 'static,
    ) {
        let group = miss.group.clone();
        let answer = move |value: Result<Value, GetError>| {
            let value = value.map_err(Status::from).and_then(|value| {
                check_reply(&group, value.frame().len())?;
                Ok(value)
            });
            answer(value);
        };
        if let Some(load) = miss.group.ask(miss.key, answer) {
            self.loaders.submit(miss.group, load);
        }
    }

    /// Answers a `GetManyRequest` with an encoded `GetManyReply`: at once if all keys are held, and otherwise by
    /// `answer`, when the last of them is there. One of the two is called.
    pub fn get_many(
        &self,
        request: &[u8],
        answer: impl FnOnce(Result<Encoded, Status>) + Send + 'static,
    ) -> Result<Option<Encoded>, Status> {
        let GetManyRequest { group, keys } = GetManyRequest::parse(request)?;
        let group = self.group(group)?;
        if keys.len() > KEYS_MAX {
            let message = format!(
                "{} keys in one call, {KEYS_MAX} are the most; ask for them in several calls",
                keys.len()
            );
            return Err(Status::new(Code::InvalidArgument, message));
        }
        let mut answers: Vec<Option<Result<Value, Status>>> = Vec::with_capacity(keys.len());
        for key in &keys {
            answers.push(self.held(group, key));
        }
        let missing: Vec<usize> = (0..keys.len()).filter(|&i| answers[i].is_none()).collect();
        if missing.is_empty() {
            return Ok(Some(self.outgoing.count(encode(group, &answers))?));
        }
        let gathering = Arc::new(Gathering {
            group: group.clone(),
            outgoing: self.outgoing.clone(),
            left: AtomicUsize::new(missing.len()),
            state: Mutex::new((answers, Some(answer))),
        });
        for index in missing {
            let gathering = gathering.clone();
            let key = keys[index];
            self.load(&Miss { group, key }, move |value| {
                gathering.put(index, value)
            });
        }
        Ok(None)
    }

    /// What can be said of a key at once.
    fn held(&self, group: &Group, key: &[u8]) -> Option<Result<Value, Status>> {
        if let Err(error) = group.check_key(key) {
            return Some(Err(error.into()));
        }
        group.held(key).map(Ok)
    }

    fn group(&self, name: &[u8]) -> Result<&Group, Status> {
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

fn check_reply(group: &Group, reply_bytes: usize) -> Result<(), Status> {
    if reply_bytes <= UNARY_LIMIT_BYTES {
        return Ok(());
    }
    let message = format!(
        "the value, of group {:?}, makes a reply of {reply_bytes} bytes, a unary reply has {UNARY_LIMIT_BYTES} bytes \
         at the most",
        group.name()
    );
    Err(Status::new(Code::OutOfRange, message))
}

type Answers = Vec<Option<Result<Value, Status>>>;

/// A `GetMany` that waits for some of its keys.
struct Gathering<F> {
    group: Group,
    outgoing: Arc<Outgoing>,
    left: AtomicUsize,
    state: Mutex<(Answers, Option<F>)>,
}

impl<F: FnOnce(Result<Encoded, Status>)> Gathering<F> {
    fn put(&self, index: usize, value: Result<Value, Status>) {
        self.state.lock().0[index] = Some(value);
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let (answers, answer) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.0), state.1.take())
        };
        if let Some(answer) = answer {
            let reply = self.outgoing.count(encode(&self.group, &answers));
            answer(reply.map_err(Status::from));
        }
    }
}

/// The encoded `GetManyReply`. A value that would take it over the limit is left out, and its key told so; room for
/// that is kept.
fn encode(group: &Group, answers: &[Option<Result<Value, Status>>]) -> Vec<u8> {
    const FAILURE_BYTES: usize = 160;
    let mut reply = Vec::with_capacity(reply_len(answers).min(UNARY_LIMIT_BYTES));
    for (index, answer) in answers.iter().enumerate() {
        let still_to_come = answers.len() - index - 1;
        let room = UNARY_LIMIT_BYTES.saturating_sub(reply.len() + still_to_come * FAILURE_BYTES);
        match answer {
            Some(Ok(value)) if wire::value_len(value.frame()) <= room => {
                wire::put_value(&mut reply, value.frame());
            }
            Some(Ok(value)) => {
                let status = check_reply(group, value.frame().len())
                    .err()
                    .unwrap_or_else(|| {
                        Status::new(
                            Code::ResourceExhausted,
                            "the reply is full; ask for this key in another call",
                        )
                    });
                wire::put_failure(&mut reply, status.code as i32, &status.message);
            }
            Some(Err(status)) if status.message.len() + 32 <= room.max(FAILURE_BYTES) => {
                wire::put_failure(&mut reply, status.code as i32, &status.message);
            }
            Some(Err(status)) => {
                wire::put_failure(&mut reply, status.code as i32, "the reply is full")
            }
            None => {
                let status = Status::internal();
                wire::put_failure(&mut reply, status.code as i32, &status.message);
            }
        }
    }
    reply
}

fn reply_len(answers: &[Option<Result<Value, Status>>]) -> usize {
    let len = |answer: &Option<Result<Value, Status>>| match answer {
        Some(Ok(value)) => wire::value_len(value.frame()),
        Some(Err(status)) => status.message.len() + 32,
        None => 0,
    };
    answers.iter().map(len).sum()
}
