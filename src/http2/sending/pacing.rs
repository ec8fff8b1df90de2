//! The client's windows, and whose turn it is to be cut into frames.

use super::super::frame::{self, WINDOW_MOST_BYTES, flag, kind};
use super::super::stream::End;
use super::super::streams::Slot;
use super::Sending;

/// The windows were made larger than they can be.
pub(in super::super) struct Overflow;

impl Sending {
    /// The client takes more on the connection.
    pub fn widen(&mut self, increment: u32) -> Result<(), Overflow> {
        self.window += i64::from(increment);
        if self.window > WINDOW_MOST_BYTES.into() {
            Err(Overflow)
        } else {
            Ok(())
        }
    }

    /// The client takes more on a stream.
    pub fn widen_stream(&mut self, slot: Slot, increment: u32) -> Result<(), Overflow> {
        let stream = &mut self.streams[slot];
        stream.send_window += i64::from(increment);
        if stream.send_window > WINDOW_MOST_BYTES.into() {
            return Err(Overflow);
        }
        self.make_ready(slot);
        Ok(())
    }

    /// The client says what it takes on each stream, now and from now on.
    pub fn set_initial_window(&mut self, size: u32) -> Result<(), Overflow> {
        let change = i64::from(size) - self.initial_window;
        self.initial_window = size.into();
        let slots: Vec<Slot> = self.streams.slots().collect();
        for slot in slots {
            let stream = &mut self.streams[slot];
            stream.send_window += change;
            if stream.send_window > WINDOW_MOST_BYTES.into() {
                return Err(Overflow);
            }
            self.make_ready(slot);
        }
        Ok(())
    }

    pub fn set_frame_max(&mut self, size: u32) {
        self.frame_max_bytes = size.min(self.limits.frame_bytes_max) as usize;
    }

    pub(super) fn make_ready(&mut self, slot: Slot) {
        let stream = &mut self.streams[slot];
        if stream.queue.is_empty() || stream.is_ready {
            return;
        }
        #[cfg(any(test, fuzzing))]
        {
            self.has_queued = true;
        }
        if stream.send_window > 0 {
            stream.is_ready = true;
            stream.stalled = None;
            self.ready.push_back(stream.id);
        }
    }

    /// Cuts what waits into frames, in turns, as far as the client's windows and our buffer have room. Returns how much.
    pub fn pump(&mut self) -> usize {
        let mut sent_bytes = 0;
        while self.window > 0 && !self.is_full() {
            let Some(id) = self.ready.pop_front() else {
                break;
            };
            if let Some(slot) = self.streams.find(id) {
                sent_bytes += self.send_frame(slot);
            }
        }
        sent_bytes
    }

    fn send_frame(&mut self, slot: Slot) -> usize {
        let stream = &mut self.streams[slot];
        stream.is_ready = false;
        let window = self.window.min(stream.send_window);
        let (Some(part), 1..) = (stream.queue.front_mut(), window) else {
            self.make_ready(slot);
            return 0;
        };
        let len = part.left().min(self.frame_max_bytes).min(window as usize);
        let is_last_of_part = len == part.left();
        let is_last = is_last_of_part && stream.queue.len() == 1;
        let part = stream.queue.front_mut().expect("it was there");
        let flags = if is_last && matches!(stream.end, End::Data) {
            flag::END_STREAM
        } else {
            0
        };
        frame::put_header(&mut self.out.bytes, len, kind::DATA, flags, stream.id);
        part.put(len, &mut self.out);
        self.window -= len as i64;
        stream.send_window -= len as i64;
        self.sent_bytes += len as u64;
        if is_last_of_part && let Some(part) = stream.queue.pop_front() {
            self.held_bytes -= part.body_bytes();
            self.copied_bytes -= part.copied_bytes();
        }
        if !is_last {
            self.make_ready(slot);
            return len;
        }
        match &stream.end {
            End::Open => (),
            End::Data => self.finish(slot),
            End::Status(status) => {
                self.replies
                    .put_status(&mut self.out.bytes, stream.id, true, status);
                self.finish(slot);
            }
        }
        len
    }
}
