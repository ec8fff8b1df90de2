//! Header blocks as lists of fields.

use super::super::hpack::Decoder;

pub(crate) struct Reader(Decoder);

impl Default for Reader {
    fn default() -> Self {
        Self(Decoder::new())
    }
}

impl Reader {
    /// The fields of the next block; none if it is refused.
    pub fn read(&mut self, block: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut fields = Vec::new();
        let add = |field: super::super::hpack::Field<'_>| {
            fields.push((field.name.to_vec(), field.value.to_vec()))
        };
        self.0.decode(block, usize::MAX, add).ok()?;
        Some(fields)
    }
}
