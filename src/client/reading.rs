//! A value that is read in chunks: by one node, or by several where one was lost in the middle. Values do not change, so
//! what one node has begun the next one goes on with, at the offset that was reached.

use super::call::Fault;
use crate::group::error::Shown;
use crate::server::pb::cache::Chunk;

/// What is wanted of a value, and how far it has come.
pub(super) struct Reading<'a> {
    pub group: &'a str,
    pub key: &'a [u8],
    offset: u64,
    /// 0 for all that there is.
    length: u64,
    taken: u64,
    /// Who was the first to say how large the whole value is, and how large that is.
    said: Option<(String, u64)>,
    /// How hot the nodes say that the key is.
    pub heat: u32,
    take: &'a mut dyn FnMut(&[u8]) -> bool,
}

impl<'a> Reading<'a> {
    /// `take` gets each chunk, and tells whether it wants more.
    pub fn new(
        (group, key): (&'a str, &'a [u8]),
        (offset, length): (u64, u64),
        take: &'a mut dyn FnMut(&[u8]) -> bool,
    ) -> Self {
        Self {
            group,
            key,
            offset,
            length,
            taken: 0,
            said: None,
            heat: 0,
            take,
        }
    }

    /// Offset and length of what is still to be read.
    pub fn rest(&self) -> (u64, u64) {
        (
            self.offset + self.taken,
            self.length - self.taken.min(self.length),
        )
    }

    /// Takes what comes first from a node: that tells how large the whole value is.
    pub fn begin(&mut self, node: &str, chunk: &Chunk) -> Result<bool, Fault> {
        let bytes = chunk.value_bytes;
        match &self.said {
            None => self.said = Some((node.to_owned(), bytes)),
            Some((_, said)) if *said != bytes => {
                return Err(self.changed(&format!("it has {bytes} bytes here")));
            }
            _ => {}
        }
        self.take(chunk)
    }

    /// Takes a chunk. Returns whether more is wanted.
    pub fn take(&mut self, chunk: &Chunk) -> Result<bool, Fault> {
        self.heat = self.heat.max(chunk.heat);
        let taken = self.taken + chunk.data.len() as u64;
        if let Some(wanted) = self.wanted().filter(|wanted| taken > *wanted) {
            let message = format!("the node has sent more than the {wanted} bytes that it has");
            return Err(Fault::Said("INTERNAL".to_owned(), message));
        }
        self.taken = taken;
        Ok((self.take)(&chunk.data))
    }

    /// The node has ended the stream.
    pub fn end(&self) -> Result<(), Fault> {
        match self.wanted() {
            Some(wanted) if self.taken >= wanted => Ok(()),
            _ => Err(Fault::Lost(
                "the node has ended before the value did".to_owned(),
            )),
        }
    }

    /// What has come of a stream that has failed.
    pub fn failed(&self, fault: Fault) -> Result<(), Fault> {
        match fault {
            // Only its end had not been said.
            Fault::Lost(_) if self.end().is_ok() => Ok(()),
            Fault::Said(code, message) if self.taken > 0 && code == "OUT_OF_RANGE" => {
                Err(self.changed(&message))
            }
            fault => Err(fault),
        }
    }

    /// How many bytes are wanted in all, as far as that is known.
    fn wanted(&self) -> Option<u64> {
        let (_, bytes) = self.said.as_ref()?;
        let rest = bytes.saturating_sub(self.offset);
        Some(match self.length {
            0 => rest,
            length => length.min(rest),
        })
    }

    /// What two nodes have is not the same.
    fn changed(&self, here: &str) -> Fault {
        let (before, bytes) = self
            .said
            .as_ref()
            .map_or(("", 0), |(node, bytes)| (node, *bytes));
        let message = format!(
            "key {} of group {:?} has changed while it was read: it had {bytes} bytes at node {before}, which was lost after \
             {} of them; {here}. Read it again from its beginning",
            Shown(self.key),
            self.group,
            self.taken
        );
        Fault::Said("ABORTED".to_owned(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(value_bytes: u64, data: &[u8]) -> Chunk {
        let mut chunk = Chunk::new();
        (chunk.value_bytes, chunk.data) = (value_bytes, data.to_vec());
        chunk
    }

    fn lost() -> Fault {
        Fault::Lost("gone".to_owned())
    }

    #[test]
    fn the_next_node_is_asked_for_what_is_missing() {
        for (part, rest, data) in [
            ((0, 0), (3, 0), 7),
            ((2, 0), (5, 0), 5),
            ((2, 6), (5, 3), 3),
        ] {
            let mut taken = 0;
            let mut take = |data: &[u8]| {
                taken += data.len();
                true
            };
            let mut reading = Reading::new(("g", b"k"), part, &mut take);
            assert_eq!(reading.rest(), part);
            assert!(reading.begin("a", &chunk(10, b"")).unwrap());
            assert!(reading.take(&chunk(0, b"abc")).unwrap());
            assert_eq!(reading.rest(), rest);
            assert_eq!(reading.failed(lost()), Err(lost()));
            assert!(reading.end().is_err(), "it has not come to its end");
            assert!(reading.begin("b", &chunk(10, &vec![0; data])).unwrap());
            assert_eq!(
                reading.failed(lost()),
                Ok(()),
                "nothing is missing any more"
            );
            assert_eq!(reading.end(), Ok(()));
            assert_eq!(taken, 3 + data);
        }
    }

    #[test]
    fn another_length_is_another_value() {
        let mut take = |_: &[u8]| true;
        let mut reading = Reading::new(("g", b"k"), (0, 0), &mut take);
        reading.begin("a", &chunk(10, b"abc")).unwrap();
        let beyond = Fault::Said("OUT_OF_RANGE".to_owned(), "it has 2 bytes".to_owned());
        let faults = [
            reading.begin("b", &chunk(9, b"")).unwrap_err(),
            reading.failed(beyond.clone()).unwrap_err(),
        ];
        for fault in faults {
            assert!(
                matches!(&fault, Fault::Said(code, _) if code == "ABORTED"),
                "{fault}"
            );
        }
        let fresh = Reading::new(("g", b"k"), (11, 0), &mut take);
        assert_eq!(fresh.failed(beyond.clone()), Err(beyond));
    }

    #[test]
    fn an_empty_value_has_an_end() {
        let mut take = |_: &[u8]| true;
        let mut reading = Reading::new(("g", b"k"), (0, 0), &mut take);
        assert!(reading.end().is_err(), "a node that says nothing is none");
        reading.begin("a", &chunk(0, b"")).unwrap();
        assert_eq!(reading.end(), Ok(()));
    }
}
