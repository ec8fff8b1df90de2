//! Running code that is not ours: a key's or a value's, or a callback's.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `f`, which runs the code of `whose`; none, and an error in the log, if that panics.
pub(crate) fn guarded<R>(whose: &str, f: impl FnOnce() -> R) -> Option<R> {
    let panic = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => return Some(value),
        Err(panic) => panic,
    };
    // What was thrown is not ours either.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(second);
    }
    log::error!("{whose} panicked");
    None
}
