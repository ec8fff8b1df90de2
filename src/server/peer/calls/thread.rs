//! A thread that does nothing but drive calls, for a node whose I/O threads do not.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::driver::{Driver, Letter, Post};
use crate::server::mail::Letters;

/// What is read at a time. One buffer is there for all calls of a thread.
const INPUT_BYTES: usize = 64 << 10;
const EVENTS_MAX: usize = 64;
const BELL: u64 = 0;

/// Drives calls for as long as anybody can write to it.
pub(super) fn run(letters: &Letters<Letter>, post: Post) -> io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&poll, letters.bell(), epoll::EventData::new_u64(BELL), edge)?;
    let mut driver = Driver::new(post);
    let mut input = vec![0; INPUT_BYTES];
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut wake_at = None;
    loop {
        let patience = wake_at.map(patience);
        match epoll::wait(&poll, spare_capacity(&mut events), patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                driver.end_all();
                return Err(error.into());
            }
        }
        for event in events.drain(..) {
            let data = event.data.u64();
            match Driver::token(data) {
                Some(token) => driver.on_edge(token, event.flags),
                None => read_letters(letters, &mut driver, &poll),
            }
        }
        wake_at = driver.run(&mut input);
    }
}

fn read_letters(letters: &Letters<Letter>, driver: &mut Driver, poll: &OwnedFd) {
    letters.hush();
    while let Some(letter) = letters.take() {
        driver.on_letter(letter, poll);
    }
}

fn patience(until: Instant) -> Timespec {
    let wait = until.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    }
}
