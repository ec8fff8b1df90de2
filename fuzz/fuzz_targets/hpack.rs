//! Reads the fuzzer's bytes as header blocks, beside another implementation: the same fields, or both refuse.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The protocol alone: what is around it would need the gRPC C-core.
#[allow(dead_code, unused_imports)]
#[path = "../../src/http2/mod.rs"]
mod http2;

fuzz_target!(|bytes: &[u8]| {
    let mut ours = http2::tests::fields::Reader::default();
    let mut other = loona_hpack::Decoder::new();
    other.set_max_allowed_table_size(4096);
    for block in bytes.split(|byte| *byte == 0xfe) {
        let fields = ours.read(block);
        let others = other.decode(block);
        match (&fields, &others) {
            (None, Err(_)) => return,
            (Some(fields), Ok(others)) => assert_eq!(fields, others),
            _ => panic!("{fields:?} beside {others:?}"),
        }
    }
});
