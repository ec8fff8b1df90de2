//! The Go programs of the tests.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Builds the module `tests/go/NAME` of one program. None, where Go is not installed, which is said.
pub fn build(name: &str) -> Option<PathBuf> {
    let program = folder().join(name);
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
    is_built(build).then_some(program)
}

/// Builds a program of others: a package and its version, as its own module pins the rest.
pub fn install(package: &str) -> Option<PathBuf> {
    let (path, _version) = package.split_once('@').expect("a version");
    let (_, name) = path.rsplit_once('/').expect("a path");
    let install = Command::new("go")
        .args(["install", "-buildvcs=false", package])
        .env("GOBIN", folder())
        .env("CGO_ENABLED", "0")
        .output();
    is_built(install).then(|| folder().join(name))
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    fs::create_dir_all(&folder).expect("the folder for the tests' files is writable");
    folder
}

/// False where Go is not installed, which is said.
fn is_built(build: io::Result<Output>) -> bool {
    match build {
        Ok(build) => {
            let complaint = String::from_utf8_lossy(&build.stderr);
            assert!(build.status.success(), "go build failed: {complaint}");
            true
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Past the test harness, which would swallow what a passing test prints.
            let _ = writeln!(io::stderr(), "skipped, no Go client: go is not installed");
            false
        }
        Err(error) => panic!("go does not run: {error}"),
    }
}
