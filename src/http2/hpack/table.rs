//! The dynamic table (RFC 7541, 2.3.2 and 4).

use std::collections::VecDeque;

use super::FIELD_OVERHEAD_BYTES;
use super::static_table::Name;

/// Fields that the other side has added, the newest first.
///
/// Their text lies in one buffer that is never larger than the table may be, so a table that is warm allocates nothing.
pub(super) struct Table {
    /// The oldest first.
    entries: VecDeque<Entry>,
    /// Names and values of the entries, in their order; what is before the oldest is no longer used.
    text: Vec<u8>,
    size_bytes: usize,
    max_bytes: usize,
    /// Counts the changes: with the same number, the same bytes mean the same fields.
    version: u64,
}

struct Entry {
    kind: Name,
    start: u32,
    name_len: u32,
    value_len: u32,
}

impl Entry {
    fn size_bytes(&self) -> usize {
        (self.name_len + self.value_len) as usize + FIELD_OVERHEAD_BYTES
    }
}

impl Table {
    pub fn new(max_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            text: Vec::new(),
            size_bytes: 0,
            max_bytes,
            version: 0,
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    #[cfg(test)]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// The field that was added as the last but `back`.
    pub fn get(&self, back: usize) -> Option<(Name, &[u8], &[u8])> {
        let place = self.entries.len().checked_sub(back + 1)?;
        let entry = &self.entries[place];
        let text = &self.text[entry.start as usize..];
        let (name, text) = text.split_at(entry.name_len as usize);
        Some((entry.kind, name, &text[..entry.value_len as usize]))
    }

    /// Sets how large the table may be, which the other side does.
    pub fn resize(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.version += 1;
        self.evict(0);
    }

    /// Adds a field. One that is larger than the table empties it, and is not added.
    pub fn insert(&mut self, kind: Name, name: &[u8], value: &[u8]) {
        self.version += 1;
        let added_bytes = name.len() + value.len() + FIELD_OVERHEAD_BYTES;
        self.evict(added_bytes);
        if added_bytes > self.max_bytes {
            return;
        }
        if self.text.len() + name.len() + value.len() > self.max_bytes {
            self.compact();
        }
        let start = self.text.len() as u32;
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.size_bytes += added_bytes;
        self.entries.push_back(Entry {
            kind,
            start,
            name_len: name.len() as u32,
            value_len: value.len() as u32,
        });
    }

    fn evict(&mut self, room_bytes: usize) {
        while self.size_bytes + room_bytes > self.max_bytes {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.size_bytes -= oldest.size_bytes();
        }
    }

    fn compact(&mut self) {
        let unused = match self.entries.front() {
            Some(oldest) => oldest.start,
            None => self.text.len() as u32,
        };
        self.text.drain(..unused as usize);
        for entry in &mut self.entries {
            entry.start -= unused;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(table: &Table) -> Vec<String> {
        let names = (0..).map_while(|back| table.get(back));
        names
            .map(|(_, name, _)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    #[test]
    fn the_oldest_leave_when_there_is_no_room() {
        let mut table = Table::new(100);
        table.insert(Name::Other, b"first", b"1");
        table.insert(Name::Other, b"second", b"2");
        assert_eq!(names(&table), ["second", "first"]);
        assert_eq!(table.size_bytes(), 38 + 39);
        table.insert(Name::Other, b"third", b"3");
        assert_eq!(names(&table), ["third", "second"]);
        table.resize(40);
        assert_eq!(names(&table), ["third"]);
        table.insert(Name::Other, b"too", b"large for a table of 40 bytes");
        assert_eq!((names(&table).len(), table.size_bytes()), (0, 0));
    }

    #[test]
    fn the_text_stays_within_the_table() {
        let mut table = Table::new(200);
        for round in 0..1000 {
            let value = vec![b'v'; round % 150];
            table.insert(Name::Other, b"name", &value);
            assert!(table.text.len() <= 200);
            let (_, name, newest) = table.get(0).expect("it fits");
            assert_eq!((name, newest), (&b"name"[..], &value[..]));
            assert_eq!(
                table.size_bytes(),
                table.entries.iter().map(Entry::size_bytes).sum::<usize>()
            );
        }
    }
}
