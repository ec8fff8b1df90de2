//! Standard output.

use std::io::{self, ErrorKind, Write};

/// Writes `bytes`, all of them at once. That nobody reads on (`| head`) is no error: the reader has what it wanted.
pub fn write(bytes: &[u8]) -> Result<(), String> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}
