//! What other threads have for an I/O thread: one wake-up for many letters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::channel::{self, Receiver, Sender};
use rustix::event::{EventfdFlags, eventfd};

/// Where letters are put in. Each is read, or dropped with the box.
pub(super) struct Slot<T> {
    letters: Sender<T>,
    bell: Arc<Bell>,
}

/// Where they are taken out. How many may lie in it is for those to say who send.
pub(super) struct Letters<T> {
    letters: Receiver<T>,
    bell: Arc<Bell>,
}

struct Bell {
    event: OwnedFd,
    /// Whether it has rung since the box was last looked into.
    has_rung: AtomicBool,
}

pub(super) fn letter_box<T>() -> io::Result<(Slot<T>, Letters<T>)> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Arc::new(Bell {
        event,
        has_rung: AtomicBool::new(false),
    });
    let (sender, letters) = channel::unbounded();
    let slot = Slot {
        letters: sender,
        bell: bell.clone(),
    };
    Ok((slot, Letters { letters, bell }))
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self {
            letters: self.letters.clone(),
            bell: self.bell.clone(),
        }
    }
}

impl<T> Slot<T> {
    pub fn put(&self, letter: T) {
        // Who does not read any more has ended.
        let _ = self.letters.send(letter);
        if !self.bell.has_rung.swap(true, Ordering::AcqRel) {
            // It can not be full: each ring adds 1 to 64 bits.
            let _ = rustix::io::write(&self.bell.event, &1_u64.to_ne_bytes());
        }
    }
}

impl<T> Letters<T> {
    /// To be watched for its edges: each ring is one, although nobody reads it.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.event.as_fd()
    }

    /// What comes from now on rings again. What is there already is to be taken after this.
    pub fn hush(&self) {
        self.bell.has_rung.swap(false, Ordering::AcqRel);
    }

    pub fn take(&self) -> Option<T> {
        self.letters.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::epoll;

    use super::*;

    fn rings(poll: &OwnedFd) -> usize {
        let mut events = Vec::with_capacity(4);
        let at_once = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        epoll::wait(
            poll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&at_once),
        )
        .unwrap()
    }

    #[test]
    fn many_letters_ring_once_until_they_are_taken() {
        let (slot, letters) = letter_box().unwrap();
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&poll, letters.bell(), epoll::EventData::new_u64(1), edge).unwrap();
        for round in 0..3 {
            for letter in 0..100 {
                slot.clone().put(letter);
            }
            assert_eq!(rings(&poll), 1, "round {round}");
            assert_eq!(rings(&poll), 0, "an edge is told once");
            letters.hush();
            assert!(std::iter::from_fn(|| letters.take()).eq(0..100));
            assert_eq!(rings(&poll), 0, "nothing has come since");
        }
    }
}
