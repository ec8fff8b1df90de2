//! The programs in `examples`.

use std::env;
use std::path::{Path, PathBuf};

/// One of our examples. Cargo has built it beside this test.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(name);
    assert!(
        path.exists(),
        "{path:?} is not there; `cargo test` builds it unless told which tests to build, and \
         `cargo build --examples` builds it as well"
    );
    path
}
