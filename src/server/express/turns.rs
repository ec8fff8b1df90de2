//! The connections of a thread that wait for a turn.

use std::collections::VecDeque;

use super::socket::Handshake;
use crate::server::places::Token;

/// Each is in it once at the most. Who has gone is in it until it would be his turn.
#[derive(Default)]
pub(super) struct Turns {
    /// Those that have more to do than one turn lets them.
    ready: Vec<Token>,
    /// Those that go on with their handshakes, which are work for many turns of others: a few at a time have theirs.
    handshakes: VecDeque<Token>,
}

impl Turns {
    /// Who has been answered is before those who are new: who has waited once shall come in, and the step that is left
    /// to him is a small one.
    pub fn wait(&mut self, token: Token, handshake: Option<Handshake>) {
        match handshake {
            None => self.ready.push(token),
            Some(Handshake::New) => self.handshakes.push_back(token),
            Some(Handshake::Answered) => self.handshakes.push_front(token),
        }
    }

    /// All who wait, but for handshakes. Who comes meanwhile is for the next time.
    pub fn take_ready(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.ready)
    }

    pub fn next_handshake(&mut self) -> Option<Token> {
        self.handshakes.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.handshakes.is_empty()
    }
}
