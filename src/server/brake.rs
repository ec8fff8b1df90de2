//! The last resort against a flood: when the process has grown far over what it should have, and grows on, the connection
//! that sends most is cut.
//!
//! The gRPC core bounds what a connection has open, but not what was opened and reset: it reads on as long as there is
//! something to read, and each call that it has begun has its memory (some 20 KB) until a thread has handled it. Its
//! quota cancels streams, of which none is left then. So the memory of the whole process is watched.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use super::connections::Connections;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a process has beside cache and gRPC core: threads, loads, admin pages.
const REST_BYTES: usize = 64 << 20;

/// What the process may have before connections are cut. A cache may take more than its budget where sizes change; see
/// `docs/performance.md`.
pub(super) fn limit_bytes(memory_bytes: usize, core_bytes: usize) -> usize {
    memory_bytes
        .saturating_mul(2)
        .saturating_add(core_bytes)
        .saturating_add(REST_BYTES)
}

/// Watches until the process ends.
pub(super) fn start(connections: Connections, limit_bytes: usize) -> io::Result<()> {
    let watch = move || {
        // What grows more slowly is no flood, or what is left of one.
        let step_bytes = limit_bytes / 128;
        let mut before = usize::MAX;
        loop {
            thread::sleep(LOOK_EVERY);
            let Some(now) = resident_bytes() else { return };
            let grows = now.saturating_sub(before) > step_bytes;
            if now > limit_bytes && grows && connections.cut_heaviest() {
                log::warn!(
                    "the process has {now} bytes, over {limit_bytes}, and grows: the connection that sent most was cut"
                );
            }
            before = now;
        }
    };
    let thread = thread::Builder::new().name("brake".to_owned());
    thread.spawn(watch).map(drop)
}

/// What the process has in memory; none where the system does not tell.
fn resident_bytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_has() {
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(resident_bytes().unwrap() > block.len());
    }

    #[test]
    fn no_size_is_too_large_for_a_limit() {
        assert_eq!(limit_bytes(1 << 20, 1 << 20), (3 << 20) + REST_BYTES);
        assert_eq!(limit_bytes(usize::MAX, 1), usize::MAX);
    }
}
