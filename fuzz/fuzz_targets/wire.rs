//! Reads the fuzzer's bytes as requests: nothing is read that is not there, and what is read, written again, is read as
//! the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The decoder alone: what is around it would need the gRPC C-core.
#[allow(dead_code)]
#[path = "../../src/server/wire.rs"]
mod wire;

use wire::{FetchRequest, GetManyRequest, GetRequest, ReadRequest};

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn put_bytes(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    put_varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn put_number(message: &mut Vec<u8>, number: u8, value: u64) {
    message.push(number << 3);
    put_varint(message, value);
}

fuzz_target!(|bytes: &[u8]| {
    let one = GetRequest::parse(bytes);
    let many = GetManyRequest::parse(bytes);
    let read = ReadRequest::parse(bytes);
    let fetch = FetchRequest::parse(bytes);
    let (Ok(one), Ok(many), Ok(read), Ok(fetch)) = (&one, &many, &read, &fetch) else {
        let all_refuse = one.is_err() && many.is_err() && read.is_err() && fetch.is_err();
        assert!(all_refuse, "all read the same fields");
        return;
    };
    // Of a field that comes twice the last one counts, but for keys where there may be many.
    assert!([one.group, read.group, fetch.group].iter().all(|group| *group == many.group));
    assert_eq!(one.key, many.keys.last().copied().unwrap_or_default());
    assert_eq!(read.key, one.key);
    assert_eq!(fetch.keys, many.keys);
    assert_eq!(read.offset, fetch.first_id, "both are field 3");
    let inside = bytes.as_ptr_range();
    let parts = many.keys.iter().chain(&fetch.keys);
    let parts = parts.chain([&one.group, &many.group, &read.group, &fetch.group, &one.key, &read.key]);
    for part in parts.filter(|part| !part.is_empty()) {
        let part = part.as_ptr_range();
        assert!(inside.start <= part.start && part.end <= inside.end);
    }

    let mut again = Vec::new();
    put_bytes(&mut again, 1, many.group);
    for key in &many.keys {
        put_bytes(&mut again, 2, key);
    }
    put_number(&mut again, 3, read.offset);
    put_number(&mut again, 4, read.length);
    let same = "what was written is read";
    assert_eq!(&GetRequest::parse(&again).expect(same), one);
    assert_eq!(&ReadRequest::parse(&again).expect(same), read);
    let again_many = GetManyRequest::parse(&again).expect(same);
    assert_eq!((again_many.group, &again_many.keys), (many.group, &many.keys));
    let again_fetch = FetchRequest::parse(&again).expect(same);
    assert_eq!((again_fetch.group, &again_fetch.keys), (many.group, &many.keys));
    assert_eq!(again_fetch.first_id, fetch.first_id);
});
