//! `GetMany`: answers gathered in the order of their keys, within the bytes of one reply.
//!
//! What is held is taken at once. What is not is asked for a few keys at a time, so that one call does not fill the
//! loaders' queue for all others. A value that the reply has no room for is let go as soon as it comes, and its key
//! told so: a call holds no more than one reply's bytes, however many keys it has.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::outgoing::Encoded;
use super::service::{Code, Miss, Service, Status, UNARY_LIMIT_BYTES};
use super::wire;
use crate::group::{Group, Value};

/// Keys of one call that are being loaded at a time.
const LOADING_MAX: usize = 64;

/// What is said of a key that the reply has no room for; within [`RESERVED_BYTES`] when it is encoded.
const FULL: &str = "the reply is full; ask for this key again";
/// Room that is kept for each key until its answer is there.
const RESERVED_BYTES: usize = 56;

/// What became of one key.
enum Answer {
    Value(Value),
    Failure(Status),
    Full,
}

/// The answers so far. Their encoded bytes, and those reserved for keys without one, are within the limit.
pub(super) struct Answers {
    answers: Vec<Option<Answer>>,
    encoded_bytes: usize,
}

impl Answers {
    pub fn new(keys: usize) -> Self {
        Self {
            answers: (0..keys).map(|_| None).collect(),
            encoded_bytes: keys * RESERVED_BYTES,
        }
    }

    pub fn put(&mut self, index: usize, answer: Result<Value, Status>) {
        let (answer, bytes) = match answer {
            Ok(value) => {
                let bytes = wire::value_len(value.frame());
                (Answer::Value(value), bytes)
            }
            Err(status) => {
                let bytes = wire::failure_len(&status.message);
                (Answer::Failure(status), bytes)
            }
        };
        let with_it = self.encoded_bytes - RESERVED_BYTES + bytes;
        self.answers[index] = Some(if with_it <= UNARY_LIMIT_BYTES {
            self.encoded_bytes = with_it;
            answer
        } else {
            Answer::Full
        });
    }

    /// Keys that nothing has been said of.
    pub fn missing(&self) -> Vec<usize> {
        let is_missing = |index: &usize| self.answers[*index].is_none();
        (0..self.answers.len()).filter(is_missing).collect()
    }

    /// The encoded `GetManyReply`.
    pub fn encode(&self) -> Vec<u8> {
        let mut reply = Vec::with_capacity(self.encoded_bytes);
        for answer in &self.answers {
            match answer {
                Some(Answer::Value(value)) => wire::put_value(&mut reply, value.frame()),
                Some(Answer::Failure(Status { code, message })) => {
                    wire::put_failure(&mut reply, *code as i32, message);
                }
                Some(Answer::Full) => {
                    wire::put_failure(&mut reply, Code::ResourceExhausted as i32, FULL);
                }
                None => wire::put_failure(&mut reply, Code::Internal as i32, "no answer"),
            }
        }
        reply
    }
}

/// A call that waits for some of its keys.
pub(super) struct Gathering<F> {
    service: Arc<Service>,
    group: Group,
    /// Those that were not held: their places in the request, and the keys.
    missed: Vec<(usize, Box<[u8]>)>,
    /// When the caller has gone. What is missing then is not asked for any more.
    deadline: Option<Instant>,
    state: Mutex<State<F>>,
}

struct State<F> {
    answers: Answers,
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
        deadline: Option<Instant>,
        answers: Answers,
        answer: F,
    ) {
        let missed = answers.missing().into_iter();
        let gathering = Arc::new(Self {
            service: service.clone(),
            group: group.clone(),
            missed: missed.map(|index| (index, keys[index].into())).collect(),
            deadline,
            state: Mutex::new(State {
                answers,
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
            let (index, key) = &self.missed[next];
            let (gathering, index) = (self.clone(), *index);
            if self.is_too_late() {
                gathering.put(index, Err(Status::too_late()));
                continue;
            }
            let miss = Miss {
                group: &self.group,
                key,
            };
            self.service.load(&miss, self.deadline, move |value| {
                gathering.put(index, value)
            });
        }
        self.finish();
    }

    fn is_too_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    fn put(self: &Arc<Self>, index: usize, value: Result<Value, Status>) {
        let mut state = self.state.lock();
        state.answers.put(index, value);
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
        let Some(answer) = state.answer.take() else {
            return;
        };
        let reply = state.answers.encode();
        drop(state);
        answer(self.service.outgoing.count(reply).map_err(Status::from));
    }
}

#[cfg(test)]
mod tests {
    use protobuf::Message;

    use super::super::pb::cache::GetManyReply;
    use super::*;

    #[test]
    fn what_is_said_of_a_full_reply_fits_its_reserve() {
        assert!(wire::failure_len(FULL) <= RESERVED_BYTES);
    }

    #[test]
    fn a_reply_stays_within_its_limit_whatever_is_put_into_it() {
        let mut answers = Answers::new(10_000);
        for index in 0..10_000 {
            let message = "x".repeat(index % 3000);
            answers.put(index, Err(Status::new(Code::NotFound, message)));
        }
        let reply = answers.encode();
        assert!(reply.len() <= UNARY_LIMIT_BYTES, "{} bytes", reply.len());
        let reply = GetManyReply::parse_from_bytes(&reply).unwrap();
        assert_eq!(reply.answers.len(), 10_000);
        assert_eq!(reply.answers[9_999].failure().message, FULL);
        assert_eq!(reply.answers[1].failure().message, "x");
    }
}
