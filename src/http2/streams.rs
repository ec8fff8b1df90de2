//! The calls of a connection that are not answered yet, found by their numbers.

use std::ops::{Index, IndexMut};

use super::stream::Stream;

/// The place of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u32);

#[derive(Default)]
pub(super) struct Streams {
    /// Numbers and places, sorted by number. Clients count up, so a new one is nearly always the last.
    order: Vec<(u32, Slot)>,
    slots: Vec<Option<Stream>>,
    free: Vec<Slot>,
}

impl Streams {
    pub fn len(&self) -> usize {
        self.order.len()
    }

    pub fn insert(&mut self, stream: Stream) -> Slot {
        let id = stream.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = Some(stream);
                slot
            }
            None => {
                self.slots.push(Some(stream));
                Slot(self.slots.len() as u32 - 1)
            }
        };
        match self.order.last() {
            Some((last, _)) if *last > id => {
                let place = self.place_of(id);
                self.order.insert(place, (id, slot));
            }
            _ => self.order.push((id, slot)),
        }
        slot
    }

    pub fn find(&self, id: u32) -> Option<Slot> {
        let place = self
            .order
            .binary_search_by_key(&id, |(other, _)| *other)
            .ok()?;
        Some(self.order[place].1)
    }

    pub fn remove(&mut self, slot: Slot) -> Stream {
        let stream = self.slots[slot.0 as usize]
            .take()
            .expect("the slot is taken");
        // Answered in the order in which they came, it is the first.
        let place = match self.order.first() {
            Some((first, _)) if *first == stream.id => 0,
            _ => self.place_of(stream.id),
        };
        self.order.remove(place);
        self.free.push(slot);
        stream
    }

    fn place_of(&self, id: u32) -> usize {
        self.order.partition_point(|(other, _)| *other < id)
    }

    /// All of them, by number.
    pub fn slots(&self) -> impl DoubleEndedIterator<Item = Slot> {
        self.order.iter().map(|(_, slot)| *slot)
    }

    pub fn shrink(&mut self) {
        if self.order.is_empty() {
            *self = Self::default();
        }
    }
}

impl Index<Slot> for Streams {
    type Output = Stream;

    fn index(&self, slot: Slot) -> &Stream {
        self.slots[slot.0 as usize]
            .as_ref()
            .expect("the slot is taken")
    }
}

impl IndexMut<Slot> for Streams {
    fn index_mut(&mut self, slot: Slot) -> &mut Stream {
        self.slots[slot.0 as usize]
            .as_mut()
            .expect("the slot is taken")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn streams_are_found_until_they_are_removed() {
        let now = Instant::now();
        let mut streams = Streams::default();
        for id in [1, 3, 7, 5] {
            let slot = streams.insert(Stream::of_whole_request(id, 0, now));
            assert_eq!(streams.find(id), Some(slot));
        }
        let slot = streams.find(3).expect("it is there");
        assert_eq!(streams.remove(slot).id, 3);
        assert_eq!(streams.find(3), None);
        let again = streams.insert(Stream::of_whole_request(9, 0, now));
        assert_eq!(again, slot);
        let ids: Vec<_> = streams.slots().map(|slot| streams[slot].id).collect();
        assert_eq!(ids, [1, 5, 7, 9]);
    }
}
