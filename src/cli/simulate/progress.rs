//! A bar on standard error, while something takes long and somebody looks.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What takes less than this shows no bar.
const SHOW_AFTER: Duration = Duration::from_millis(500);
const DRAW_EVERY: Duration = Duration::from_millis(100);
const WIDTH: usize = 40;

/// How far something has come. The bar goes away when this is dropped.
pub struct Progress {
    what: &'static str,
    /// 0 if nobody knows.
    total: u64,
    done: AtomicU64,
    start: Instant,
    /// When the bar was drawn last; none if there is no terminal to draw on.
    drawn: Option<Mutex<Option<Instant>>>,
}

impl Progress {
    pub fn new(what: &'static str, total: u64) -> Self {
        Self {
            what,
            total,
            done: AtomicU64::new(0),
            start: Instant::now(),
            drawn: io::stderr().is_terminal().then(Mutex::default),
        }
    }

    pub fn add(&self, done: u64) {
        let done = self.done.fetch_add(done, Ordering::Relaxed) + done;
        let Some(drawn) = &self.drawn else { return };
        // Another thread that draws draws for this one, too.
        let Ok(mut drawn) = drawn.try_lock() else {
            return;
        };
        let is_due = match *drawn {
            None => self.start.elapsed() >= SHOW_AFTER,
            Some(last) => last.elapsed() >= DRAW_EVERY,
        };
        if is_due {
            *drawn = Some(Instant::now());
            // A bar that can not be drawn is no reason to stop.
            let _ = write!(io::stderr(), "\r{}", self.line(done));
        }
    }

    fn line(&self, done: u64) -> String {
        let mut line = format!("{:<9} ", self.what);
        if self.total == 0 {
            let _ = write!(line, "{:.1} MB", done as f64 / 1e6);
            return line;
        }
        let part = (done as f64 / self.total as f64).min(1.0);
        let full = (part * WIDTH as f64) as usize;
        let _ = write!(
            line,
            "[{:<WIDTH$}] {:3.0} %",
            "#".repeat(full),
            100.0 * part
        );
        let left = self.start.elapsed().as_secs_f64() * (1.0 - part) / part.max(1e-9);
        let _ = write!(line, ", {left:.0} s left   ");
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let drawn = self.drawn.take().and_then(|drawn| drawn.into_inner().ok());
        if drawn.flatten().is_some() {
            let _ = write!(io::stderr(), "\r{:79}\r", "");
        }
    }
}

/// A source whose bytes are counted as they are read.
pub struct Watched<'a, R> {
    source: R,
    progress: &'a Progress,
}

impl<'a, R> Watched<'a, R> {
    pub fn new(source: R, progress: &'a Progress) -> Self {
        Self { source, progress }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.progress.add(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_how_far_it_has_come() {
        let progress = Progress::new("reading", 200);
        let line = progress.line(50);
        assert!(line.starts_with("reading   [##########   "), "{line}");
        assert!(line.contains("]  25 %"), "{line}");
        assert!(progress.line(500).contains("] 100 %, 0 s left"));
    }

    #[test]
    fn what_nobody_knows_the_end_of_is_shown_in_bytes() {
        assert_eq!(
            Progress::new("reading", 0).line(2_500_000),
            "reading   2.5 MB"
        );
    }
}
