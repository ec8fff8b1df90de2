use std::io::Write;

use super::*;

/// A second save may open the temporary file just before the first one renames it, and lock it just after.
#[test]
fn a_file_that_was_published_is_not_written_to_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let mut first = Replacement::begin(&path).unwrap();
    let temporary = first.temporary.clone();
    let opened = OpenOptions::new().write(true).open(&temporary).unwrap();
    assert!(!system::try_lock(&opened).unwrap());
    assert!(system::is_named(&opened, &temporary).unwrap());
    first.file.write_all(b"first").unwrap();
    first.publish().unwrap();
    assert!(system::try_lock(&opened).unwrap());
    assert!(!system::is_named(&opened, &temporary).unwrap());

    let second = Replacement::begin(&path).unwrap();
    assert!(!system::is_named(&opened, &temporary).unwrap());
    drop(second);
    assert!(!temporary.exists());
    assert_eq!(fs::read(&path).unwrap(), b"first");
}
