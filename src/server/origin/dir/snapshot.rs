//! One state of a file, read while others may write to it.
//!
//! A file is read between two looks at its size, times and identity. When the looks differ, it
//! changed, and what was read may be half old and half new. The looks are only as good as the
//! times, and those have two weaknesses.
//!
//! A file system stamps changes with a clock that ticks every few milliseconds, so two changes
//! within a tick leave one stamp, and one right after the first look may not show in the second
//! (as in git's index, where such entries are called racy). And a change is stamped when it
//! begins: a writer that pauses, between two writes or within one, leaves a file that stands still
//! and is half written, which nothing but time tells from a whole one.
//!
//! So the first look has to find a file that was last modified [`QUIET`] ago, and one that is
//! fresher is waited for, once a look. Who can not wait so long gets the file as it stands, and it
//! is not kept. Waiting is for files that are loaded as soon as they are written; one that was
//! written elsewhere and renamed into place, or given an older time (`cp -p`, `rsync -t`), waits
//! for a tick of the clock alone.
//!
//! Files that the kernel makes up as they are read (in /proc, in /sys) have sizes that are not
//! theirs and times that stand still. They are read to their end, delivered and not kept.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::group::{LoadContext, LoadError, Sink};

/// How much is read before the deadline is looked at again.
pub(super) const PIECE_BYTES: u64 = 256 * 1024;

/// Longer than a tick of any kernel's clock (10 ms at 100 Hz) and its lag behind the time of day.
const TICK: Duration = Duration::from_millis(20);

/// Longer than a writer pauses that was not held up.
pub(super) const QUIET: Duration = Duration::from_millis(200);

/// What reading a file came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The sink has the file's bytes, to be kept.
    Settled,
    /// The sink has the file's bytes, which may be of a file that is still being written.
    Fleeting,
    /// The file changed while it was read: the sink has nothing, or what is to be cleared away.
    Changed,
}

/// Reads `file`, from its start, into `sink`, which is empty. It is to have been quiet for `quiet`.
///
/// # Errors
/// [`LoadError::TooLarge`], [`LoadError::TimedOut`], and [`LoadError::Unavailable`] with the
/// system's words.
pub(super) fn read(
    file: &File,
    ctx: &LoadContext<'_>,
    sink: &mut Sink,
    quiet: Duration,
    after_piece: &mut impl FnMut(),
) -> Result<Outcome, LoadError> {
    let mut before = Stamp::of(file).map_err(failed)?;
    let unrest = before.unrest(quiet);
    let can_wait = unrest < ctx.remaining();
    if can_wait && !unrest.is_zero() {
        thread::sleep(unrest);
        before = Stamp::of(file).map_err(failed)?;
        if !before.unrest(quiet).is_zero() {
            return Ok(Outcome::Changed);
        }
    }
    let size_bytes = usize::try_from(before.size_bytes).unwrap_or(usize::MAX);
    sink.expect(size_bytes)?;

    loop {
        if ctx.remaining().is_zero() {
            return Err(LoadError::TimedOut(
                "reading its file took longer than the caller waits".into(),
            ));
        }
        let piece_bytes = io::copy(&mut file.take(PIECE_BYTES), sink).map_err(failed)?;
        after_piece();
        if piece_bytes < PIECE_BYTES {
            break;
        }
    }

    if before != Stamp::of(file).map_err(failed)? {
        return Ok(Outcome::Changed);
    }
    Ok(if can_wait && sink.len() == size_bytes {
        Outcome::Settled
    } else {
        Outcome::Fleeting
    })
}

fn failed(error: io::Error) -> LoadError {
    match error.into() {
        LoadError::Unavailable(words) => {
            LoadError::Unavailable(format!("its file can not be read: {words}"))
        }
        other => other,
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size_bytes: u64,
    modified: Time,
    changed: Time,
}

/// Seconds and nanoseconds since 1970.
type Time = (i64, i64);

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            file: (metadata.dev(), metadata.ino()),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// How long it still takes until the file has been quiet for `quiet`, if nothing happens.
    fn unrest(&self, quiet: Duration) -> Duration {
        let now = SystemTime::now();
        left_of(quiet, self.modified, now).max(left_of(TICK, self.changed, now))
    }
}

/// What is left at `now` of a `span` that began at `time`: nothing when it is over, and when it
/// lies so far ahead that a clock was wrong.
fn left_of(span: Duration, time: Time, now: SystemTime) -> Duration {
    let (Ok(seconds), Ok(nanoseconds)) = (time.0.try_into(), time.1.try_into()) else {
        return Duration::ZERO;
    };
    let began = UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds));
    match began.map(|began| now.duration_since(began)) {
        Some(Ok(past)) => span.saturating_sub(past),
        Some(Err(ahead)) if ahead.duration() < span => span + ahead.duration(),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use tempfile::NamedTempFile;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_span_is_over_when_it_is_past_or_far_ahead() {
        let ms = Duration::from_millis;
        let left = |time| left_of(ms(20), time, UNIX_EPOCH + ms(1500));
        assert_eq!(left((1, 480_000_000)), ms(0));
        assert_eq!(left((1, 490_000_000)), ms(10));
        assert_eq!(left((1, 500_000_000)), ms(20));
        assert_eq!(left((1, 510_000_000)), ms(30));
        assert_eq!(left((1, 520_000_000)), ms(0));
        for odd in [(-1, 0), (i64::MAX, 0), (0, -1)] {
            assert_eq!(left(odd), ms(0), "{odd:?}");
        }
    }

    fn file(value: &str) -> NamedTempFile {
        let file = NamedTempFile::new().unwrap();
        fs::write(file.path(), value).unwrap();
        file
    }

    fn read_within(time: Duration, file: &NamedTempFile, quiet: Duration) -> (Outcome, Vec<u8>) {
        let (file, mut sink) = (File::open(file.path()).unwrap(), Sink::detached(100));
        let ctx = LoadContext::new("blobs", Instant::now() + time);
        let outcome = read(&file, &ctx, &mut sink, quiet, &mut || ()).unwrap();
        (outcome, sink.bytes().to_vec())
    }

    #[test]
    fn a_fresh_file_is_waited_for_and_kept() {
        let file = file("value");
        let read = read_within(HOUR, &file, QUIET);
        assert_eq!(read, (Outcome::Settled, b"value".to_vec()));
        let waited = Stamp::of(file.as_file()).unwrap().unrest(QUIET);
        assert_eq!(waited, Duration::ZERO);
    }

    #[test]
    fn a_fresh_file_that_can_not_be_waited_for_is_not_kept() {
        let file = file("value");
        let read = read_within(HOUR, &file, 2 * HOUR);
        assert_eq!(read, (Outcome::Fleeting, b"value".to_vec()));
        for time in [SystemTime::now() - 3 * HOUR, SystemTime::now() + 3 * HOUR] {
            file.as_file().set_modified(time).unwrap();
            let read = read_within(HOUR, &file, 2 * HOUR);
            assert_eq!(read, (Outcome::Settled, b"value".to_vec()), "{time:?}");
        }
    }
}
