//! What the system says of this process.

use std::fs::{self, File};
use std::mem;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Processor time of all its threads, those that have ended included.
pub fn cpu_time() -> Duration {
    // SAFETY: a struct of numbers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    // SAFETY: `usage` is writable and of the size that the call fills.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(
        status, 0,
        "getrusage has no other failure than a bad argument"
    );
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

/// How long a thread had work and no core to do it on.
pub struct CoreWaits(Option<File>);

impl CoreWaits {
    /// Of the thread that calls this. Where the system does not keep count, they stay at nothing.
    pub fn of_this_thread() -> Self {
        Self(File::open("/proc/thread-self/schedstat").ok())
    }

    /// In all, until now.
    pub fn total(&self) -> Duration {
        let mut buffer = [0; 128];
        let length = self
            .0
            .as_ref()
            .and_then(|file| file.read_at(&mut buffer, 0).ok());
        let text = str::from_utf8(&buffer[..length.unwrap_or(0)]).unwrap_or("");
        // Nanoseconds on a core, nanoseconds of waiting for one, and the number of turns.
        let waits_ns = text
            .split_whitespace()
            .nth(1)
            .and_then(|waits| waits.parse().ok());
        Duration::from_nanos(waits_ns.unwrap_or(0))
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000)
}

/// Memory that is resident. `/proc/self/status` has it too, but lags behind by some pages for each thread.
pub fn resident_bytes() -> usize {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux 4.14 or later");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes
        .and_then(|n| n.parse::<usize>().ok())
        .expect("a line `Rss: N kB`")
        << 10
}
