//! Plain memory, as an entry's value is: to be written by one thread, or read by many, but not both at a time.

use std::cell::RefCell;

use super::memory::{self, Moment};

/// Panics where two threads access it, one of them writes, and neither knows that the other is done; and where it is
/// used after it was freed.
#[derive(Default)]
pub(crate) struct Plain(RefCell<Past>);

#[derive(Default)]
struct Past {
    written: Option<Moment>,
    read: Vec<Moment>,
    is_freed: bool,
}

// SAFETY: the threads of an execution take turns on one thread of the system.
unsafe impl Sync for Plain {}
// SAFETY: as above.
unsafe impl Send for Plain {}

impl Plain {
    /// Written by the calling thread.
    pub fn written() -> Self {
        let plain = Self::default();
        plain.write();
        plain
    }

    pub fn read(&self) {
        let mut past = self.0.borrow_mut();
        assert!(!past.is_freed, "read after it was freed");
        memory::with(|memory| {
            let is_written = past.written.is_none_or(|moment| memory.has_seen(moment));
            assert!(is_written, "read while it may still be written");
            past.read.push(memory.tick());
        });
    }

    fn write(&self) {
        let mut past = self.0.borrow_mut();
        memory::with(|memory| {
            let mut uses = past.read.iter().chain(&past.written);
            let is_unused = uses.all(|&moment| memory.has_seen(moment));
            assert!(is_unused, "written or freed while it may still be used");
            past.written = Some(memory.tick());
        });
    }

    pub fn free(&self) {
        assert!(!self.0.borrow().is_freed, "freed twice");
        self.write();
        self.0.borrow_mut().is_freed = true;
    }
}
