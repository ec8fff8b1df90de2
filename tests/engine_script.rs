//! Scripts of operations, nested as loaders and borrowers nest them, on caches that evict all the time.

#[path = "engine_support/script.rs"]
mod script;

use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_cache_shows_what_was_written_or_nothing(bytes in vec(any::<u8>(), 0..3000)) {
        script::play(&bytes);
    }
}
