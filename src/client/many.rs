//! Many keys: split by their owners, asked for at the same time, answered in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError, Sender};

use super::call::{Fault, name_of};
use super::dial::Stub;
use super::error::Asked;
use super::known::Known;
use super::node::{Doors, Node};
use super::{ATTEMPTS, Client, ClientError, silence};
use crate::server::pb::cache::{Failure, GetManyReply, answer};

/// Keys of one message, and their bytes.
const KEYS_MAX: usize = 1000;
const KEYS_MAX_BYTES: usize = 256 << 10;
/// Messages without an answer. A reply has 4 MiB at the most.
const UNDER_WAY_MAX: usize = 32;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;
/// What a node says of a key that a reply had no room for.
const FULL: &str = "the reply is full";

type Answer = Result<Vec<u8>, ClientError>;

/// Keys that go to one node in one message, by their places.
struct Batch {
    node: Arc<Node>,
    places: Vec<usize>,
    tried: Vec<Arc<Node>>,
    /// What it was asked with, if that was at the express door.
    express: Option<Stub>,
}

struct Gathering<'a, K> {
    client: &'a Client,
    known: Arc<Known>,
    group: &'a str,
    keys: &'a [K],
    deadline: Instant,
    silence: Duration,
    answers: Vec<Option<Answer>>,
    waiting: VecDeque<Batch>,
    under_way: HashMap<u64, Batch>,
    /// Keys whose values fit into no reply to many.
    large: Vec<usize>,
    next: u64,
    done: Sender<(u64, Result<GetManyReply, Fault>)>,
    came: Receiver<(u64, Result<GetManyReply, Fault>)>,
}

pub(super) fn get<K: AsRef<[u8]>>(client: &Client, group: &str, keys: &[K]) -> Vec<Answer> {
    let deadline = Instant::now() + client.deadline;
    let (done, came) = channel::unbounded();
    let mut gathering = Gathering {
        client,
        known: client.inner.known(client.deadline),
        group,
        keys,
        deadline,
        silence: silence(client.deadline),
        answers: keys.iter().map(|_| None).collect(),
        waiting: VecDeque::new(),
        under_way: HashMap::new(),
        large: Vec::new(),
        next: 0,
        done,
        came,
    };
    gathering.split((0..keys.len()).collect(), &[]);
    gathering.run();
    let (mut answers, large) = (gathering.answers, gathering.large);
    for place in large {
        let left = deadline.saturating_duration_since(Instant::now());
        answers[place] = Some(client.with_deadline(left).get(group, &keys[place]));
    }
    // Each key was in a batch, and each batch has come to an end.
    let answer = |answer: Option<Answer>| answer.expect("each key is answered");
    answers.into_iter().map(answer).collect()
}

impl<K: AsRef<[u8]>> Gathering<'_, K> {
    /// Queues keys for the nodes that are next for them.
    fn split(&mut self, places: Vec<usize>, tried: &[Arc<Node>]) {
        let mut open: HashMap<*const Node, (Batch, usize)> = HashMap::new();
        for place in places {
            let key = self.keys[place].as_ref();
            let inner = &self.client.inner;
            let Some(node) = inner.pick(&self.known, self.group, key, tried) else {
                let last = tried.last().map_or("", |node| &node.address);
                let fault = Fault::Lost("no other node is known".to_owned());
                self.fail(&[place], last, &fault);
                continue;
            };
            let of_node = Arc::as_ptr(&node);
            let begin = || {
                let batch = Batch {
                    node,
                    places: Vec::new(),
                    tried: tried.to_vec(),
                    express: None,
                };
                (batch, 0)
            };
            let (batch, bytes) = open.entry(of_node).or_insert_with(begin);
            batch.places.push(place);
            *bytes += key.len();
            if batch.places.len() >= KEYS_MAX || *bytes >= KEYS_MAX_BYTES {
                let full = open.remove(&of_node).map(|(batch, _)| batch);
                self.waiting.extend(full);
            }
        }
        let rest = open.into_values().map(|(batch, _)| batch);
        self.waiting.extend(rest);
    }

    fn run(&mut self) {
        loop {
            while self.under_way.len() < UNDER_WAY_MAX
                && let Some(batch) = self.waiting.pop_front()
            {
                self.send(batch);
            }
            if self.under_way.is_empty() {
                return;
            }
            let now = Instant::now();
            match self
                .came
                .recv_deadline(self.deadline.min(now + self.silence))
            {
                Ok((id, reply)) => {
                    // One that was silent may answer after all.
                    if let Some(batch) = self.under_way.remove(&id) {
                        self.take(batch, reply);
                    }
                }
                Err(RecvTimeoutError::Timeout) if self.left().is_zero() => self.give_up(),
                Err(RecvTimeoutError::Timeout) => self.look(),
                // A sender is kept here.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn send(&mut self, batch: Batch) {
        if batch.tried.is_empty() {
            self.client.inner.budget.earn();
        }
        self.ask(batch);
    }

    fn ask(&mut self, mut batch: Batch) {
        let (id, done) = (self.next, self.done.clone());
        self.next += 1;
        let keys = batch.places.iter().map(|&place| self.keys[place].as_ref());
        let done = move |reply| drop(done.send((id, reply)));
        batch.express = batch
            .node
            .start_get_many(self.group, keys, self.left(), done);
        self.under_way.insert(id, batch);
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The time is over, whatever has become of the calls.
    fn give_up(&mut self) {
        for (_, batch) in std::mem::take(&mut self.under_way) {
            self.take_fault(batch, &Fault::Late);
        }
    }

    /// Nothing has come for a while: are those who were asked still there?
    fn look(&mut self) {
        let mut asked: Vec<_> = self
            .under_way
            .values()
            .map(|batch| (batch.node.clone(), batch.express.clone()))
            .collect();
        // Of each node one, which was asked at the express door if any was.
        asked.sort_by_key(|(node, express)| (Arc::as_ptr(node), express.is_none()));
        asked.dedup_by_key(|(node, _)| Arc::as_ptr(node));
        let asked: Vec<_> = asked
            .into_iter()
            .map(|(node, express)| {
                let inquiry = node.inquire(express.as_ref(), self.silence);
                (node, inquiry)
            })
            .collect();
        for (node, inquiry) in asked {
            let heard = node.hear(&inquiry);
            if heard == Ok(Doors::AsBefore) {
                continue;
            }
            let of_node = |_: &u64, batch: &mut Batch| {
                let is_gone = match &heard {
                    Ok(_) => batch.express.is_some(),
                    Err(_) => self.known.has_other(&node, &batch.tried),
                };
                is_gone && Arc::ptr_eq(&batch.node, &node)
            };
            let lost: Vec<_> = self.under_way.extract_if(of_node).collect();
            for (_, mut batch) in lost {
                match &heard {
                    Ok(_) => self.ask(batch),
                    Err(fault) => {
                        // The node has been asked at both doors.
                        batch.express = None;
                        self.take(batch, Err(fault.clone()));
                    }
                }
            }
        }
    }

    fn take(&mut self, batch: Batch, reply: Result<GetManyReply, Fault>) {
        match reply {
            Ok(reply) if reply.answers.len() == batch.places.len() => {
                batch.node.set_down(false);
                for hot in &reply.hot_keys {
                    if let Some(&place) = batch.places.get(hot.index as usize) {
                        let (spread, key) = (&self.client.inner.spread, self.keys[place].as_ref());
                        spread.learn(&self.known, self.group, key, hot.heat);
                    }
                }
                self.take_reply(&batch, reply);
            }
            Ok(reply) => {
                let words = format!(
                    "{} answers to {} keys",
                    reply.answers.len(),
                    batch.places.len()
                );
                let fault = Fault::Said(name_of(13), words);
                self.fail(&batch.places, &batch.node.address, &fault);
            }
            Err(Fault::Lost(_)) if batch.express.is_some() => {
                batch.node.leave_express();
                self.ask(batch);
            }
            Err(fault) => self.take_fault(batch, &fault),
        }
    }

    fn take_reply(&mut self, batch: &Batch, reply: GetManyReply) {
        let mut again = Vec::new();
        let mut is_any_answered = false;
        for (&place, answer) in batch.places.iter().zip(reply.answers) {
            match answer.result {
                Some(answer::Result::Value(value)) => {
                    is_any_answered = true;
                    self.answers[place] = Some(Ok(value.value));
                }
                Some(answer::Result::Failure(failure)) if is_full(&failure) => again.push(place),
                Some(answer::Result::Failure(failure)) if failure.code == OUT_OF_RANGE => {
                    self.large.push(place);
                }
                Some(answer::Result::Failure(failure)) => {
                    let fault = Fault::Said(name_of(failure.code), failure.message);
                    self.fail(&[place], &batch.node.address, &fault);
                }
                // Of neither kind: no answer that this client knows.
                _ => {
                    let words = "an answer without a value or a failure".to_owned();
                    let fault = Fault::Said(name_of(13), words);
                    self.fail(&[place], &batch.node.address, &fault);
                }
            }
        }
        // A reply without room for any value has said so of each key: they go one by one.
        match is_any_answered {
            true if !again.is_empty() => self.split(again, &[]),
            _ => self.large.extend(again),
        }
    }

    fn take_fault(&mut self, batch: Batch, fault: &Fault) {
        let Batch {
            node,
            places,
            mut tried,
            ..
        } = batch;
        if matches!(fault, Fault::Late) {
            self.client.inner.suspect(&node);
        }
        if matches!(fault, Fault::Lost(_)) {
            self.client.inner.lost(&node);
            let may_go_on = tried.len() + 1 < ATTEMPTS && !self.left().is_zero();
            if may_go_on && self.client.inner.budget.spend() {
                tried.push(node);
                return self.split(places, &tried);
            }
        }
        self.fail(&places, &node.address, fault);
    }

    fn fail(&mut self, places: &[usize], node: &str, fault: &Fault) {
        for &place in places {
            let asked = Asked {
                group: self.group,
                key: self.keys[place].as_ref(),
                within: self.client.deadline,
            };
            self.answers[place] = Some(Err(asked.error(node, fault)));
        }
    }
}

fn is_full(failure: &Failure) -> bool {
    failure.code == RESOURCE_EXHAUSTED && failure.message.starts_with(FULL)
}
