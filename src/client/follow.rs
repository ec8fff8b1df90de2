//! Following the cluster: who is in, and whether those who were down are back. Callers take no part in that.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::Inner;
use super::call::Fault;
use super::known::Known;
use super::node::Node;

/// How often nodes that are down are asked whether they are back.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// What a node may take to say who is in.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nodes that are asked at once by a client that knows nothing yet.
const FIRST_ASKED_MAX: usize = 16;

/// Runs until the client is dropped; `news` is told when a node was found to be down.
pub(super) fn run(client: &Weak<Inner>, news: &Receiver<()>, every: Duration) {
    let mut due = Instant::now() + every;
    let mut turn = 0;
    let mut is_any_down = false;
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        let wait = if is_any_down {
            wait.min(PROBE_EVERY)
        } else {
            wait
        };
        match news.recv_timeout(wait) {
            Ok(()) => due = Instant::now(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(inner) = client.upgrade() else {
            return;
        };
        let known = inner.known.read().clone();
        if Instant::now() >= due {
            due = Instant::now() + every;
            turn += 1;
            refresh(&inner, &known, turn);
        }
        // Not in one expression: the lock would be held while nodes are asked, and what they say is written under it.
        let known = inner.known.read().clone();
        is_any_down = probe(&inner, &known);
    }
}

/// Asks one node after the other, until one says who is in.
fn refresh(inner: &Inner, known: &Known, turn: usize) {
    let mut up: Vec<_> = known
        .all()
        .into_iter()
        .filter(|node| node.is_up())
        .collect();
    let middle = turn % up.len().max(1);
    up.rotate_left(middle);
    for node in up {
        match node.members(known.epoch.0, PATIENCE).end() {
            Ok(reply) => return inner.learn(&reply),
            // An older node: it knows of no cluster.
            Err(Fault::Said(..)) => return,
            Err(_) => {
                node.set_down(true);
            }
        }
    }
}

/// Asks those who are down; returns whether some still are.
fn probe(inner: &Inner, known: &Known) -> bool {
    let down: Vec<_> = known
        .all()
        .into_iter()
        .filter(|node| !node.is_up())
        .collect();
    let asked: Vec<_> = down
        .iter()
        .map(|node| (node, node.members(known.epoch.0, PATIENCE)))
        .collect();
    for (node, asking) in asked {
        match asking.end() {
            Ok(reply) => {
                node.set_down(false);
                inner.learn(&reply);
            }
            Err(Fault::Said(..)) => {
                node.set_down(false);
            }
            Err(_) => {}
        }
    }
    down.iter().any(|node| !node.is_up())
}

/// Asks all nodes that were given, and takes the first that says who is in. Returns whether anything is known now: also
/// that a node is too old to tell.
pub(super) fn first_word(inner: &Inner, given: &[Arc<Node>], timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    let (answer, answers) = crossbeam::channel::unbounded();
    let asked = given.iter().take(FIRST_ASKED_MAX);
    let asked = asked.map(|node| {
        let answer = answer.clone();
        node.start_members(timeout, move |reply| drop(answer.send(reply)));
    });
    let mut left = asked.count();
    let mut is_old = false;
    while left > 0 {
        match answers.recv_deadline(until) {
            Ok(Ok(reply)) => {
                inner.learn(&reply);
                return true;
            }
            Ok(Err(Fault::Said(..))) => is_old = true,
            _ => {}
        }
        left -= 1;
    }
    is_old
}
