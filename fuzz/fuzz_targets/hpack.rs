//! Reads the fuzzer's bytes as header blocks, beside another implementation: the same fields, or both refuse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loona_hpack::decoder::DecoderError;

// The protocol alone: what is around it would need the gRPC C-core.
#[allow(dead_code, unused_imports)]
#[path = "../../src/http2/mod.rs"]
mod http2;

/// What stands between two blocks: it begins no field of a small table.
const SEPARATOR: u8 = 0xfe;

/// A change of the table's size may stand here. The other takes one after a field as well, and RFC 7541 (4.2) does not.
fn may_have_size(block: &[u8]) -> bool {
    block.iter().skip(1).any(|byte| (0x20..0x40).contains(byte))
}

/// Ours gives up where fields are far longer than their block.
fn blows_up(fields: &[(Vec<u8>, Vec<u8>)]) -> bool {
    let lens = fields.iter().map(|(name, value)| name.len() + value.len() + 32);
    lens.sum::<usize>() > 64 << 10
}

fuzz_target!(|bytes: &[u8]| {
    let mut ours = http2::tests::fields::Reader::default();
    let mut other = loona_hpack::Decoder::new();
    other.set_max_allowed_table_size(4096);
    for block in bytes.split(|byte| *byte == SEPARATOR) {
        match (ours.read(block), other.decode(block)) {
            (Some(fields), Ok(others)) => assert_eq!(fields, others),
            (None, Err(_)) => return,
            (None, Ok(_)) if may_have_size(block) => return,
            (None, Ok(others)) if blows_up(&others) => return,
            // It wants a field after a size, but a block may have none.
            (Some(fields), Err(DecoderError::SizeUpdateAtEnd)) if fields.is_empty() => return,
            (fields, others) => panic!("{fields:?} beside {others:?}"),
        }
    }
});
