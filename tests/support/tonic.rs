//! The tonic program of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the crate `tests/tonic`, in a target folder of its own that is kept.
pub fn build() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tonic/Cargo.toml");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tonic");
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--locked"])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(&folder)
        // Where it is set, the program would lie in a folder named after it.
        .env_remove("CARGO_BUILD_TARGET")
        .output();
    let build = build.expect("cargo runs");
    let complaint = String::from_utf8_lossy(&build.stderr);
    assert!(build.status.success(), "cargo build failed: {complaint}");
    folder.join("release/both_doors")
}
