use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

type Entry = (u8, u64, Vec<u8>, Vec<u8>);

fn written(entries: &[Entry]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = Writer::begin(&mut file, 77).unwrap();
    for (rank, left_ns, key, value) in entries {
        let record = Record {
            left_ns: *left_ns,
            key,
            value,
        };
        assert!(writer.add(*rank, &record).unwrap());
    }
    writer.end().unwrap();
    assert_eq!(writer.entries, entries.len() as u64);
    let bytes = writer.bytes;
    assert_eq!(bytes, file.len() as u64);
    file
}

fn read(folder: &TempDir, file: &[u8]) -> Result<(u64, Vec<Entry>), RestoreError> {
    let path = folder.path().join("saved");
    fs::write(&path, file).unwrap();
    let reader = Reader::open(&path)?;
    let (saved_at_ns, mut entries) = (reader.saved_at_ns, Vec::new());
    reader.for_each(|rank, record| {
        let (key, value) = (record.key.to_vec(), record.value.to_vec());
        entries.push((rank, record.left_ns, key, value));
    })?;
    Ok((saved_at_ns, entries))
}

/// A chunk whose checksum is right, whatever it holds.
fn chunk(entries: u32, rank: u32, payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend((payload.len() as u32).to_le_bytes());
    head.extend(entries.to_le_bytes());
    head.extend(rank.to_le_bytes());
    let crc = crc_of_chunk(&head, payload).to_le_bytes();
    [&head[..], &crc, payload].concat()
}

fn record(key_bytes: u32, value_bytes: u32, bytes: &[u8]) -> Vec<u8> {
    let mut record = 5u64.to_le_bytes().to_vec();
    record.extend(key_bytes.to_le_bytes());
    record.extend(value_bytes.to_le_bytes());
    record.extend(bytes);
    record
}

proptest! {
    #[test]
    fn what_was_written_is_read_the_most_valuable_first(
        entries in vec((0..RANKS as u8, any::<u64>(), vec(any::<u8>(), 0..20), vec(any::<u8>(), 0..20)), 0..50),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (saved_at_ns, read) = read(&folder, &written(&entries)).unwrap();
        prop_assert_eq!(saved_at_ns, 77);
        let mut expected = entries;
        expected.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn what_is_no_chunk_is_refused(
        entries in any::<u32>(),
        rank in prop_oneof![0..RANKS as u32, any::<u32>(), Just(END)],
        payload in vec(any::<u8>(), 0..60),
    ) {
        let is_end = rank == END && payload.len() == 12;
        prop_assume!(!is_end && (entries > 0 || rank >= RANKS as u32 || !payload.is_empty()));
        let folder = tempfile::tempdir().unwrap();
        let mut file = written(&[])[..HEAD_BYTES].to_vec();
        file.extend(chunk(entries, rank, &payload));
        let refused = read(&folder, &file);
        let is_damaged = matches!(refused, Err(RestoreError::Damaged { .. }));
        prop_assert!(is_damaged, "{:?}", refused);
    }
}

#[test]
fn entries_that_do_not_fill_their_chunk_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = record(1, 2, b"kvv");
    let read_chunk = |entries, payload: &[u8]| {
        let mut file = written(&[])[..HEAD_BYTES].to_vec();
        let chunk = chunk(entries, 0, payload);
        let mut crcs = Hasher::new();
        crcs.update(&file[HEAD_BYTES - 4..]);
        crcs.update(&chunk[12..16]);
        let mut end = u64::from(entries).to_le_bytes().to_vec();
        end.extend(crcs.finalize().to_le_bytes());
        file.extend(chunk);
        file.extend(self::chunk(0, END, &end));
        read(&folder, &file)
    };
    let (_, entries) = read_chunk(1, &whole).unwrap();
    assert_eq!(entries, [(0, 5, b"k".to_vec(), b"vv".to_vec())]);
    for (entries, payload) in [
        (0, whole.clone()),
        (2, whole.clone()),
        (1, [&whole[..], b"x"].concat()),
        (1, record(1, 3, b"kvv")),
        (1, record(u32::MAX, 0, b"kvv")),
        (1, record(0, u32::MAX, b"kvv")),
        (u32::MAX, whole.clone()),
    ] {
        let refused = read_chunk(entries, &payload);
        let is_damaged = matches!(refused, Err(RestoreError::Damaged { at_byte: 24, .. }));
        assert!(is_damaged, "{refused:?}");
    }
}

#[test]
fn chunks_of_two_files_do_not_make_one() {
    let folder = tempfile::tempdir().unwrap();
    let one = |value: u8| written(&[(3, 1, vec![1], vec![value])]);
    let (a, b) = (one(1), one(2));
    let end = a.len() - CHUNK_HEAD_BYTES - 12;
    assert!(read(&folder, &a).is_ok() && read(&folder, &b).is_ok());
    let mixed = [&a[..end], &b[end..]].concat();
    assert!(
        matches!(read(&folder, &mixed), Err(RestoreError::Damaged { at_byte, .. }) if at_byte == end as u64)
    );
    let twice = [&a[..end], &a[HEAD_BYTES..end], &a[end..]].concat();
    assert!(read(&folder, &twice).is_err());
    let without = [&a[..HEAD_BYTES], &a[end..]].concat();
    assert!(read(&folder, &without).is_err());
}

#[test]
fn another_format_is_told_from_a_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = written(&[]);
    file[8] = 2;
    let crc = crc32fast::hash(&file[..HEAD_BYTES - 4]).to_le_bytes();
    file[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&crc);
    let refused = read(&folder, &file);
    assert!(matches!(
        refused,
        Err(RestoreError::OtherVersion { version: 2, .. })
    ));
}

#[test]
fn a_large_entry_has_a_chunk_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let large = (1, 9, vec![1; 10], vec![2; 3 * CHUNK_BYTES]);
    let small = (1, 9, vec![3; 10], vec![4; 10]);
    let entries = [small.clone(), large, small];
    let (_, read) = read(&folder, &written(&entries)).unwrap();
    assert_eq!(read, entries);
}
