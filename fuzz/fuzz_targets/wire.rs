//! Reads the fuzzer's bytes as requests: nothing is read that is not there, and what is read, written again, is read as
//! the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The decoder alone: what is around it would need the gRPC C-core.
#[allow(dead_code)]
#[path = "../../src/server/wire.rs"]
mod wire;

use wire::{GetManyRequest, GetRequest};

fn put(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    let mut len = bytes.len();
    while len >= 0x80 {
        message.push(len as u8 | 0x80);
        len >>= 7;
    }
    message.push(len as u8);
    message.extend(bytes);
}

fuzz_target!(|bytes: &[u8]| {
    let one = GetRequest::parse(bytes);
    let many = GetManyRequest::parse(bytes);
    let (Ok(one), Ok(many)) = (&one, &many) else {
        assert!(one.is_err() && many.is_err(), "both read the same fields");
        return;
    };
    // Of a field that comes twice the last one counts, and the two messages differ in that for keys alone.
    assert_eq!(one.group, many.group);
    assert_eq!(one.key, many.keys.last().copied().unwrap_or_default());
    let inside = bytes.as_ptr_range();
    for part in many.keys.iter().chain([&one.group]).filter(|part| !part.is_empty()) {
        let part = part.as_ptr_range();
        assert!(inside.start <= part.start && part.end <= inside.end);
    }

    let mut again = Vec::new();
    put(&mut again, 1, many.group);
    for key in &many.keys {
        put(&mut again, 2, key);
    }
    let read = GetManyRequest::parse(&again).expect("what was written is read");
    assert_eq!((read.group, read.keys), (many.group, many.keys.clone()));
});
