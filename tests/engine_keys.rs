//! The code of keys, `Hash`, `Eq`, `Clone` and `Drop`, may use the cache that the keys are in, wherever it runs.

mod engine_support;

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;
use std::thread;

use corecache::engine::{Builder, Cache};
use engine_support::without_deadlock;

static CACHE: OnceLock<Cache<Nosy, u64>> = OnceLock::new();

type Use = fn(&Cache<Nosy, u64>);

thread_local! {
    static USE: Cell<Option<Use>> = const { Cell::new(None) };
}

/// Uses the cache in all of its code, but not from within that.
struct Nosy(u64);

fn use_cache() {
    if let (Some(of), Some(cache)) = (USE.take(), CACHE.get()) {
        of(cache);
        USE.set(Some(of));
    }
}

impl Hash for Nosy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        use_cache();
        self.0.hash(state);
    }
}

impl PartialEq for Nosy {
    fn eq(&self, other: &Self) -> bool {
        use_cache();
        self.0 == other.0
    }
}

impl Eq for Nosy {}

impl Clone for Nosy {
    fn clone(&self) -> Self {
        use_cache();
        Self(self.0)
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        use_cache();
    }
}

const USES: [Use; 8] = [
    |cache| assert!(cache.stats().flights <= 2),
    |cache| assert!(cache.get(&Nosy(1)).is_none_or(|number| number < 2000)),
    |cache| drop(cache.insert(Nosy(2), 2)),
    |cache| _ = cache.remove(&Nosy(3)),
    |cache| cache.flush(),
    |cache| assert!(cache.iter().count() <= 101),
    |cache| assert_eq!(cache.get_or_load(&Nosy(1000), |_| Ok(7)).unwrap(), 7),
    |cache| {
        let found = cache.get_many_or_load(&[Nosy(1), Nosy(1001)], |keys| Ok(vec![8; keys.len()]));
        assert_eq!(found.unwrap().len(), 2);
    },
];

#[test]
fn a_key_may_use_its_cache() {
    without_deadlock(|| {
        let builder = Builder::new(256 << 10).shards(1);
        let cache = CACHE.get_or_init(|| Cache::from_builder(&builder).unwrap());
        for of in USES {
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(move || {
                        USE.set(Some(of));
                        for number in 0..2000 {
                            cache.insert(Nosy(number % 50), number).unwrap();
                            cache.get(&Nosy(number % 70));
                            let loaded = cache.get_or_load(&Nosy(number % 100), |_| Ok(number));
                            assert!(loaded.is_ok(), "{loaded:?}");
                            cache.remove(&Nosy(number % 30));
                        }
                        USE.set(None);
                    });
                }
            });
        }
        cache.flush();
        assert_eq!(cache.stats().flights, 0);
    });
}
