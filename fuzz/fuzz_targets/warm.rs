//! Restores a cache from a file that the fuzzer wrote: as it is, or with all checksums put right, since no fuzzer finds
//! those. A file is refused whole, or its entries are there.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use corecache::engine::BlobCache;
use libfuzzer_sys::fuzz_target;

/// One a process: fuzzers may run side by side.
static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("corecache-fuzz-{}.warm", std::process::id());
    std::env::temp_dir().join(name)
});

/// A chunk with the right checksum, which is added to `crcs`.
fn put_chunk(file: &mut Vec<u8>, crcs: &mut Vec<u8>, entries: u32, rank: u32, payload: &[u8]) {
    let head = [payload.len() as u32, entries, rank].map(u32::to_le_bytes).concat();
    let crc = crc32fast::hash(&[&head, payload].concat()).to_le_bytes();
    crcs.extend(crc);
    file.extend([&head, &crc[..], payload].concat());
}

/// A file of chunks as the bytes tell: how many entries, of which rank, of how many bytes, and these.
fn file_of(mut bytes: &[u8]) -> Vec<u8> {
    let mut file = b"corewarm".to_vec();
    file.extend(1u32.to_le_bytes());
    file.extend(7u64.to_le_bytes());
    let crc = crc32fast::hash(&file).to_le_bytes();
    file.extend(crc);
    let (mut crcs, mut all) = (crc.to_vec(), 0);
    while let [entries, rank, len, rest @ ..] = bytes {
        let (payload, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        put_chunk(&mut file, &mut crcs, (*entries).into(), (*rank).into(), payload);
        all += u64::from(*entries);
        bytes = rest;
    }
    let end = [&all.to_le_bytes()[..], &crc32fast::hash(&crcs).to_le_bytes()].concat();
    put_chunk(&mut file, &mut Vec::new(), 0, u32::MAX, &end);
    file
}

fuzz_target!(|bytes: &[u8]| {
    let Some((is_raw, bytes)) = bytes.split_first() else {
        return;
    };
    let file = match is_raw % 4 {
        0 => bytes.to_vec(),
        _ => file_of(bytes),
    };
    fs::write(&*PATH, file).expect("a temporary file");
    let cache = BlobCache::new(1 << 20).expect("a cache");
    match cache.restore(&*PATH) {
        Ok(restored) => assert!(cache.stats().entries <= restored.entries),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(cache.stats().entries, 0, "refused whole");
        }
    }
    cache.insert(b"key", b"value").expect("it is a cache still");
    assert_eq!(cache.get(b"key").as_deref(), Some(&b"value"[..]));
});
