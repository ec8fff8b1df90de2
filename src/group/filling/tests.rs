use super::super::chunks::{chunk_with, value_len};
use super::*;
use crate::engine::BlobCache;

const OVER_BYTES: usize = 4 << 20;
const LIMIT_BYTES: usize = 40 << 20;

fn large(limit_bytes: usize) -> Large {
    Large {
        over_bytes: OVER_BYTES,
        limit_bytes,
        limit_is: "",
        account: Account::new(chunks::stored_bytes(limit_bytes)),
    }
}

fn value(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 7) ^ (at >> 13)) as u8).collect()
}

/// What is stored of a value that was written in such pieces.
fn stored(value: &[u8], piece_bytes: usize, is_expected: bool) -> Vec<u8> {
    let large = large(LIMIT_BYTES);
    let account = large.account.clone();
    let mut filling = Filling::new(b"key", Some(large));
    if is_expected {
        filling.expect(value.len()).unwrap();
    }
    for piece in value.chunks(piece_bytes) {
        filling.append(piece).unwrap();
    }
    assert_eq!(filling.len(), value.len());
    let cache = BlobCache::new(1 << 20).unwrap();
    let (blob, prefix, used) = filling.finish();
    let entry = cache.seal(blob, &cache.facts(0, b"key"), &prefix[..used]);
    let charged = if value.len() > OVER_BYTES {
        value.len()
    } else {
        0
    };
    assert!(account.bytes() >= charged, "held, and not in a budget");
    let stored = entry.value().to_vec();
    drop(entry);
    assert_eq!(account.bytes(), 0);
    stored
}

#[test]
fn a_value_is_in_its_chunks_whatever_the_pieces_were() {
    let edges = [
        0,
        1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        OVER_BYTES - 1,
        OVER_BYTES,
    ];
    let larger = [
        OVER_BYTES + 1,
        OVER_BYTES + 127,
        OVER_BYTES + 128,
        5 * CHUNK_BYTES - 1,
        5 * CHUNK_BYTES,
        5 * CHUNK_BYTES + 1,
        33 * CHUNK_BYTES + 17,
    ];
    for len in edges.into_iter().chain(larger) {
        let value = value(len);
        for (piece_bytes, is_expected) in [(1000, false), (OVER_BYTES, true), (usize::MAX, false)] {
            let stored = stored(&value, piece_bytes, is_expected);
            assert_eq!(frame::is_whole(&stored), len <= OVER_BYTES, "{len} bytes");
            assert_eq!(value_len(&stored), len);
            let mut at = 0;
            while at < len {
                let chunk = chunk_with(&stored, at);
                assert_eq!(chunk.at, at);
                assert_eq!(chunk, chunk_with(&stored, at + chunk.data.len() - 1));
                let (head, used) = frame::prefix(chunk.data.len());
                assert_eq!(stored[chunk.message.start..chunk.data.start], head[..used]);
                assert_eq!(chunk.message.end, chunk.data.end);
                let data = &stored[chunk.data];
                assert!(*data == value[at..at + data.len()], "{len} bytes, at {at}");
                at += data.len();
            }
        }
    }
}

#[test]
fn a_value_that_is_smaller_than_it_was_said_lies_in_one_piece() {
    let large = large(LIMIT_BYTES);
    let account = large.account.clone();
    let mut filling = Filling::new(b"key", Some(large));
    filling.expect(2 * OVER_BYTES).unwrap();
    assert!(account.bytes() >= 2 * OVER_BYTES);
    filling.append(b"value").unwrap();
    assert_eq!(filling.bytes(), Some(&b"value"[..]));
    let (blob, prefix, used) = filling.finish();
    assert_eq!(
        (&prefix[..used], blob.value()),
        (&[0x0a, 5][..], &b"value"[..])
    );
    assert_eq!(account.bytes(), 0);
}

#[test]
fn the_largest_value_fits_the_account_also_where_its_length_was_not_told() {
    for mib in [5, 16, 21, 64] {
        let mut filling = Filling::new(b"key", Some(large(mib << 20)));
        for _ in 0..mib {
            filling.append(&[7; 1 << 20]).unwrap();
        }
    }
}

#[test]
fn what_the_account_has_no_room_for_is_refused() {
    let large = large(LIMIT_BYTES);
    let mut first = Filling::new(b"1", Some(large.clone()));
    first.expect(30 << 20).unwrap();
    let mut second = Filling::new(b"2", Some(large));
    let refusal = second.expect(20 << 20).unwrap_err();
    assert!(
        matches!(&refusal, LoadError::Busy(text) if text.contains("32505856 bytes")),
        "{refusal:?}"
    );
    drop(first);
    second.expect(20 << 20).unwrap();
    second.append(&value(20 << 20)).unwrap();
    second.clear();
    second.append(b"another").unwrap();
    assert_eq!(second.bytes(), Some(&b"another"[..]));
}

#[test]
fn what_was_refused_begins_again_with_its_room_taken() {
    let large = large(LIMIT_BYTES);
    let account = large.account.clone();
    let mut first = Filling::new(b"1", Some(large.clone()));
    first.expect(30 << 20).unwrap();
    let mut second = Filling::new(b"2", Some(large.clone()));
    second.expect(20 << 20).unwrap_err();
    let lacks = second.lacks_bytes().unwrap();
    assert!(lacks >= 20 << 20);
    drop(second);
    assert!(Room::take(&account, lacks).is_none());
    drop(first);

    let room = Room::take(&account, lacks).unwrap();
    let mut second = Filling::with_room(b"2", Some(large.clone()), Some(room));
    assert_eq!(account.bytes(), lacks);
    second.append(&value(OVER_BYTES + 1)).unwrap();
    assert_eq!(account.bytes(), lacks, "its room stays its own");
    let mut third = Filling::new(b"3", Some(large));
    third.expect(30 << 20).unwrap_err();
    second.expect(LIMIT_BYTES).unwrap();
    assert_eq!(second.lacks_bytes(), None);
    drop((second, third));
    assert_eq!(account.bytes(), 0);
}

#[test]
fn without_a_node_a_value_lies_in_one_piece() {
    let mut filling = Filling::new(b"key", None);
    let value = value(OVER_BYTES + 1);
    filling.append(&value).unwrap();
    assert!(filling.bytes() == Some(&value[..]));
}
