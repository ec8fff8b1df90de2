//! The engine in a plain synchronous program: no server, no gRPC, no C++ in the build.
//!
//! ```text
//! cargo run --no-default-features --example embed
//! ```

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use corecache::engine::{Builder, Cache};

const THREADS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    // 64 MiB for all that the cache holds. A String owns bytes on the heap: say how many, so that they count.
    let cache = Cache::<String, String>::from_builder(&Builder::new(64 << 20).shards(2))?
        .weigh_with(|key, value| key.capacity() + value.capacity());
    let cache = Arc::new(cache);

    // Many threads ask for one cold key. One of them loads it; the others wait for that load and share it.
    let loads = Arc::new(AtomicU32::new(0));
    let start = Arc::new(Barrier::new(THREADS));
    let askers: Vec<_> = (0..THREADS)
        .map(|_| {
            let (cache, loads, start) = (cache.clone(), loads.clone(), start.clone());
            thread::spawn(move || {
                start.wait();
                cache.get_or_load("the answer", |key| {
                    loads.fetch_add(1, Ordering::Relaxed);
                    Ok(slow_origin(key))
                })
            })
        })
        .collect();
    for asker in askers {
        let value = asker.join().expect("no asker panics")?;
        assert_eq!(value, "THE ANSWER");
    }
    println!(
        "{THREADS} threads asked, {} load was run",
        loads.load(Ordering::Relaxed)
    );

    // A hit needs no loader, and can be read without a copy.
    cache.flush();
    let len = cache.get_with("the answer", String::len);
    println!("the value has {} bytes", len.unwrap_or_default());

    // Errors reach whoever asked, and are not kept: the next one tries again.
    let failed = cache.get_or_load("no such key", |_| Err("the origin has no such key".into()));
    println!(
        "a failed load says: {}",
        failed.expect_err("this loader fails")
    );

    let stats = cache.stats();
    println!(
        "{} hits, {} misses, {} of them joined another's load; {} entries in {} bytes",
        stats.hits, stats.misses, stats.joined, stats.entries, stats.used_bytes
    );
    Ok(())
}

fn slow_origin(key: &str) -> String {
    thread::sleep(Duration::from_millis(100));
    key.to_uppercase()
}
