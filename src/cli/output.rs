//! Standard output.

use std::io::{self, ErrorKind, Write};

/// Writes `bytes`, all of them at once. That nobody reads on (`| head`) is no error: the reader has what it wanted.
pub fn write(bytes: &[u8]) -> Result<(), String> {
    write_part(bytes).map(drop)
}

/// As [`write`], and tells whether anybody reads on.
pub fn write_part(bytes: &[u8]) -> Result<bool, String> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("standard output: {error}")),
    }
}
