//! Files with a password.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More is no password, but another file.
const LONGEST_BYTES: usize = 4096;

/// The one line of a file, without the line break that editors and `echo` put at its end. `what` is the flag with its value,
/// for the error.
pub fn read(what: &str, path: &Path) -> Result<String, String> {
    let wrong = |cause: &str| format!("{what}: {cause}");
    let mut text = String::new();
    File::open(path)
        .and_then(|file| {
            file.take(LONGEST_BYTES as u64 + 1)
                .read_to_string(&mut text)
        })
        .map_err(|error| wrong(&error.to_string()))?;
    if text.len() > LONGEST_BYTES {
        return Err(wrong(&format!(
            "over {LONGEST_BYTES} bytes are no password; give a file with nothing else in it"
        )));
    }
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(wrong("no password in it")),
        line if line.contains(char::is_control) => Err(wrong(
            "a password is one line without control characters; give a file with nothing else in it",
        )),
        line => Ok(line.to_owned()),
    }
}
