//! `GetMany`: answers gathered in the order of their keys, within the bytes of one reply.
//!
//! What is held is encoded at once, into the reply itself. What is not is asked for a few keys at a time, so that one
//! call does not fill the loaders' queue for all others; its answer is put where a gap was left for it. A value that
//! the reply has no room for is let go as soon as it comes, and its key told so: a call holds no more than one reply's
//! bytes, however many keys it has.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::lookout::Caller;
use super::outgoing::{Encoded, Full, Outgoing};
use super::service::{Code, Miss, Service, Status, UNARY_LIMIT_BYTES};
use super::wire::{self, Head, Label};
use crate::engine::Lent;
use crate::group::{Group, Value, chunks};

/// Keys of one call that are being loaded at a time.
pub(super) const LOADING_MAX: usize = 64;

/// What is said of a key that the reply has no room for; within [`RESERVED_BYTES`] when it is encoded.
const FULL: &str = "the reply is full; ask for this key again";
/// Room that is kept for each key until its answer is there.
const RESERVED_BYTES: usize = 56;
/// A larger frame is not copied before the reply is complete: until then it is the cache's memory that holds it.
const COPY_MAX_BYTES: usize = 4096;

/// The answers so far. Their encoded bytes, and those reserved for keys without one, are within the limit.
pub(super) struct Answers {
    /// The answers that were encoded at once, those in the gaps left out.
    encoded: Encoded,
    gaps: Vec<Gap>,
    /// What is said of hot keys, encoded; it goes to the end.
    hot_keys: Vec<u8>,
    keys: usize,
    bytes: usize,
}

/// A place among the encoded answers where another one belongs.
struct Gap {
    index: usize,
    at: usize,
    answer: Option<Answer>,
}

/// What became of one key.
enum Answer {
    Value(Value),
    Failure(Status),
    Full,
}

impl Answers {
    pub fn new(outgoing: &Arc<Outgoing>, keys: usize) -> Self {
        Self {
            encoded: outgoing.reply(),
            gaps: Vec::new(),
            hot_keys: Vec::new(),
            keys,
            bytes: keys * RESERVED_BYTES,
        }
    }

    /// Says of keys, by their indexes, how hot they are.
    pub fn mark(&mut self, hot: &[(usize, u32)]) {
        for &(index, heat) in hot {
            wire::put_hot_key(&mut self.hot_keys, index as u64, heat);
        }
        self.bytes += self.hot_keys.len();
    }

    /// Answers those of the keys that something can be said of at once.
    pub fn read(&mut self, group: &Group, keys: &[&[u8]]) -> Result<(), Full> {
        let read = group.read_frames(keys, |index, held| {
            let put = match held {
                Ok(Some(lent)) => self.put_lent(index, lent),
                Ok(None) => {
                    self.leave_gap(index, None);
                    Ok(())
                }
                Err(error) => self.put_failure(&error.into()),
            };
            put.map_or_else(ControlFlow::Break, ControlFlow::Continue)
        });
        match read {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(full) => Err(full),
        }
    }

    fn put_lent(&mut self, index: usize, lent: &Lent) -> Result<(), Full> {
        let frame = lent.value();
        let head = Head::of_value(Label::Place, frame);
        let bytes = head.with(frame);
        if bytes > UNARY_LIMIT_BYTES {
            return self.put_failure(&never_fits(frame));
        }
        if !self.take_room(bytes) {
            return self.put_full();
        }
        if frame.len() > COPY_MAX_BYTES {
            let value = Value::from(lent.to_blob());
            self.leave_gap(index, Some(Answer::Value(value)));
            return Ok(());
        }
        if self.encoded.is_empty() {
            // A guess: the others are as large.
            let all = bytes.saturating_mul(self.keys - index);
            self.encoded.reserve(all.min(UNARY_LIMIT_BYTES))?;
        }
        self.encoded.reserve(bytes)?;
        head.put_before(frame, self.encoded.bytes());
        Ok(())
    }

    fn put_failure(&mut self, status: &Status) -> Result<(), Full> {
        let bytes = wire::failure_len(Label::Place, &status.message);
        if !self.take_room(bytes) {
            return self.put_full();
        }
        self.encoded.reserve(bytes)?;
        put_failure(self.encoded.bytes(), status);
        Ok(())
    }

    fn put_full(&mut self) -> Result<(), Full> {
        self.encoded.reserve(RESERVED_BYTES)?;
        put_full(self.encoded.bytes());
        Ok(())
    }

    fn leave_gap(&mut self, index: usize, answer: Option<Answer>) {
        let at = self.encoded.len();
        self.gaps.push(Gap { index, at, answer });
    }

    /// In place of what is reserved for a key; false if there is not so much.
    fn take_room(&mut self, bytes: usize) -> bool {
        let with_it = self.bytes - RESERVED_BYTES + bytes;
        let fits = with_it <= UNARY_LIMIT_BYTES;
        if fits {
            self.bytes = with_it;
        }
        fits
    }

    /// The gaps that are to be filled, and the indexes of their keys.
    pub fn missing(&self) -> impl Iterator<Item = (usize, usize)> {
        let gaps = self.gaps.iter().enumerate();
        let open = gaps.filter(|(_, gap)| gap.answer.is_none());
        open.map(|(number, gap)| (number, gap.index))
    }

    /// Fills a gap.
    pub fn fill(&mut self, gap: usize, answer: Result<Value, Status>) {
        let answer = answer.and_then(|value| {
            let bytes = Head::of_value(Label::Place, value.frame()).with(value.frame());
            match bytes <= UNARY_LIMIT_BYTES {
                true => Ok((value, bytes)),
                false => Err(never_fits(value.frame())),
            }
        });
        let (answer, bytes) = match answer {
            Ok((value, bytes)) => (Answer::Value(value), bytes),
            Err(status) => {
                let bytes = wire::failure_len(Label::Place, &status.message);
                (Answer::Failure(status), bytes)
            }
        };
        let fits = self.take_room(bytes);
        self.gaps[gap].answer = Some(if fits { answer } else { Answer::Full });
    }

    /// The encoded `GetManyReply`.
    pub fn finish(mut self, outgoing: &Arc<Outgoing>) -> Result<Encoded, Full> {
        if self.gaps.is_empty() {
            if !self.hot_keys.is_empty() {
                self.encoded.reserve(self.hot_keys.len())?;
                self.encoded.bytes().extend_from_slice(&self.hot_keys);
            }
            self.encoded.shrink();
            return Ok(self.encoded);
        }
        let mut reply = outgoing.reply();
        reply.reserve(self.bytes)?;
        let bytes = reply.bytes();
        let mut from = 0;
        for Gap { at, answer, .. } in &self.gaps {
            bytes.extend_from_slice(&self.encoded[from..*at]);
            from = *at;
            match answer {
                Some(Answer::Value(value)) => {
                    Head::of_value(Label::Place, value.frame()).put_before(value.frame(), bytes);
                }
                Some(Answer::Failure(status)) => put_failure(bytes, status),
                Some(Answer::Full) => put_full(bytes),
                None => put_failure(bytes, &Status::internal()),
            }
        }
        bytes.extend_from_slice(&self.encoded[from..]);
        bytes.extend_from_slice(&self.hot_keys);
        Ok(reply)
    }
}

fn put_failure(reply: &mut Vec<u8>, Status { code, message }: &Status) {
    wire::put_failure(reply, Label::Place, *code as i32, message);
}

fn put_full(reply: &mut Vec<u8>) {
    wire::put_failure(reply, Label::Place, Code::ResourceExhausted as i32, FULL);
}

/// For a value that not even an empty reply has room for.
pub(super) fn never_fits(frame: &[u8]) -> Status {
    let message = format!(
        "the value has {} bytes, and a reply of {UNARY_LIMIT_BYTES} bytes to many keys has no room for it: ask for it with Read",
        chunks::value_len(frame)
    );
    Status::new(Code::OutOfRange, message)
}

/// A call that waits for some of its keys.
pub(super) struct Gathering<F> {
    service: Arc<Service>,
    group: Group,
    /// Those that were not held: their gaps among the answers, and the keys.
    missed: Vec<(usize, Box<[u8]>)>,
    /// When he has gone, what is missing is not asked for any more.
    caller: Caller,
    state: Mutex<State<F>>,
}

struct State<F> {
    answers: Option<Answers>,
    /// How many of `missed` have been asked for.
    asked: usize,
    loading: usize,
    /// Whether a thread is asking now; the others leave it to that one.
    asking: bool,
    answer: Option<F>,
}

impl<F> Gathering<F>
where
    F: FnOnce(Result<Encoded, Status>) + Send + 'static,
{
    /// Asks for what is missing; `answer` gets the encoded reply when all of it is there.
    pub fn start(
        service: &Arc<Service>,
        group: &Group,
        keys: &[&[u8]],
        caller: Caller,
        answers: Answers,
        answer: F,
    ) {
        let missed = answers.missing();
        let gathering = Arc::new(Self {
            service: service.clone(),
            group: group.clone(),
            missed: missed
                .map(|(gap, index)| (gap, keys[index].into()))
                .collect(),
            caller,
            state: Mutex::new(State {
                answers: Some(answers),
                asked: 0,
                loading: 0,
                asking: true,
                answer: Some(answer),
            }),
        });
        gathering.ask();
    }

    /// Asks for keys until enough are on their way. A loop: an answer that comes at once must not ask in its turn, or
    /// ten thousand of them would be as deep.
    fn ask(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                if state.asked == self.missed.len() || state.loading == LOADING_MAX {
                    state.asking = false;
                    break;
                }
                state.asked += 1;
                state.loading += 1;
                state.asked - 1
            };
            let (gap, key) = &self.missed[next];
            let (gathering, gap) = (self.clone(), *gap);
            if self.caller.has_gone() {
                gathering.put(gap, Err(Status::too_late()));
                continue;
            }
            let miss = Miss {
                group: &self.group,
                key,
            };
            let deadline = self.caller.deadline;
            self.service.load(&miss, deadline, move |value| {
                gathering.put(gap, value);
            });
        }
        self.finish();
    }

    fn put(self: &Arc<Self>, gap: usize, value: Result<Value, Status>) {
        let mut state = self.state.lock();
        if let Some(answers) = &mut state.answers {
            answers.fill(gap, value);
        }
        state.loading -= 1;
        if state.asking {
            return;
        }
        state.asking = true;
        drop(state);
        self.ask();
    }

    /// Hands the reply over, if nothing is missing any more.
    fn finish(&self) {
        let mut state = self.state.lock();
        if state.loading > 0 || state.asked < self.missed.len() {
            return;
        }
        let (Some(answers), Some(answer)) = (state.answers.take(), state.answer.take()) else {
            return;
        };
        drop(state);
        let reply = answers.finish(&self.service.outgoing);
        answer(reply.map_err(Status::from));
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Message;

    use super::super::pb::cache::GetManyReply;
    use super::*;

    #[test]
    fn what_is_said_of_a_full_reply_fits_its_reserve() {
        assert!(wire::failure_len(Label::Place, FULL) <= RESERVED_BYTES);
    }

    #[test]
    fn a_reply_stays_within_its_limit_whatever_is_put_into_it() {
        let outgoing = Outgoing::new(0);
        let mut answers = Answers::new(&outgoing, 10_000);
        let failure = |index| Status::new(Code::NotFound, "x".repeat(index % 3000));
        for index in 0..10_000 {
            match index % 2 {
                0 => answers.put_failure(&failure(index)).unwrap(),
                _ => answers.leave_gap(index, None),
            }
        }
        let missing: Vec<_> = answers.missing().collect();
        for (gap, index) in missing {
            answers.fill(gap, Err(failure(index)));
        }
        let reply = answers.finish(&outgoing).unwrap();
        assert!(reply.len() <= UNARY_LIMIT_BYTES, "{} bytes", reply.len());
        let reply = GetManyReply::parse_from_bytes(&reply).unwrap();
        assert_eq!(reply.answers.len(), 10_000);
        assert_eq!(reply.answers[9_999].failure().message, FULL);
        assert_eq!(reply.answers[1].failure().message, "x");
        assert_eq!(reply.answers[2].failure().message, "xx");
    }
}
