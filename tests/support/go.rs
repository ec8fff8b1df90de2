//! The Go programs of the tests.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the module `tests/go/NAME` of one program. None, where Go is not installed, which is said.
pub fn build(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    fs::create_dir_all(&folder).expect("the folder for the tests' files is writable");
    let program = folder.join(name);
    let build = Command::new("go")
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&program)
        .current_dir(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/go")
                .join(name),
        )
        .env("CGO_ENABLED", "0")
        .output();
    match build {
        Ok(build) => {
            let complaint = String::from_utf8_lossy(&build.stderr);
            assert!(build.status.success(), "go build failed: {complaint}");
            Some(program)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Past the test harness, which would swallow what a passing test prints.
            let _ = writeln!(io::stderr(), "skipped, no Go client: go is not installed");
            None
        }
        Err(error) => panic!("go does not run: {error}"),
    }
}
