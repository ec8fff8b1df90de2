//! One state of a file, read while others may write to it.
//!
//! A file is read between two looks at its size, times and identity. When the looks differ, it
//! changed, and what was read may be half old and half new. The looks are only as good as the
//! times, and those have two weaknesses.
//!
//! A file system stamps changes with a clock that ticks every few milliseconds, so two changes
//! within a tick leave one stamp, and one right after the first look may not show in the second
//! (as in git's index, where such entries are called racy). So the first look has to find a file
//! whose last change is more than a tick ago; a fresh one is waited for, a moment, once.
//!
//! A change is stamped when it begins, and a writer that pauses, between two writes or within one,
//! leaves a file that stands still and is half written. Nothing tells that from a whole one but
//! time: a value is kept only when its file was last modified [`QUIET`] ago. Until then it is
//! delivered, and read again for the next who asks. A tool that gives the file an older time when
//! it is complete (`cp -p`, `rsync -t`, `tar`) need not wait.
//!
//! Files that the kernel makes up as they are read (in /proc, in /sys) have sizes that are not
//! theirs and times that stand still. They are read to their end, delivered and not kept.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::group::{LoadContext, LoadError, Sink};

use super::Named;

/// How much is read before the deadline is looked at again.
pub(super) const PIECE_BYTES: u64 = 256 * 1024;

/// Longer than a tick of any kernel's clock (10 ms at 100 Hz) and its lag behind the time of day.
const TICK: Duration = Duration::from_millis(20);

/// Longer than writers should pause, and than a tick of file systems that stamp whole seconds, or
/// every second one.
const QUIET: Duration = Duration::from_millis(2_100);

/// What reading a file came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The file's bytes, to be kept.
    Settled(Vec<u8>),
    /// The file's bytes, which may be of a file that is still being written.
    Fleeting(Vec<u8>),
    /// The file changed while it was read.
    Changed,
}

/// Reads `file`, from its start, if it fits `sink`; writes nothing to it.
///
/// # Errors
/// [`LoadError::TooLarge`], [`LoadError::TimedOut`], and [`LoadError::Unavailable`] with the
/// system's words.
pub(super) fn read(
    file: &File,
    key: &[u8],
    ctx: &LoadContext<'_>,
    sink: &mut Sink,
    after_piece: &mut impl FnMut(),
) -> Result<Outcome, LoadError> {
    let failed = |error: io::Error| {
        LoadError::Unavailable(format!(
            "the file of the key {} can not be read: {error}",
            Named(key)
        ))
    };
    let mut before = Stamp::of(file).map_err(failed)?;
    if let Some(left) = left_of(TICK, before.changed, SystemTime::now()) {
        thread::sleep(left.min(ctx.remaining()));
        before = Stamp::of(file).map_err(failed)?;
        if left_of(TICK, before.changed, SystemTime::now()).is_some() && !ctx.remaining().is_zero()
        {
            return Ok(Outcome::Changed);
        }
    }
    let is_quiet = left_of(QUIET, before.modified, SystemTime::now()).is_none();
    let size_bytes = usize::try_from(before.size_bytes).unwrap_or(usize::MAX);
    sink.expect(size_bytes)?;

    let mut value = Vec::with_capacity(size_bytes.saturating_add(1));
    loop {
        if ctx.remaining().is_zero() {
            return Err(LoadError::TimedOut(format!(
                "reading the file of the key {} took longer than the caller waits",
                Named(key)
            )));
        }
        let piece = file.take(PIECE_BYTES).read_to_end(&mut value);
        let piece_bytes = piece.map_err(failed)? as u64;
        after_piece();
        sink.expect(value.len())?;
        if piece_bytes < PIECE_BYTES {
            break;
        }
    }

    if before != Stamp::of(file).map_err(failed)? {
        return Ok(Outcome::Changed);
    }
    Ok(if is_quiet && value.len() == size_bytes {
        Outcome::Settled(value)
    } else {
        Outcome::Fleeting(value)
    })
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
}

/// What is left at `now` of a `span` that began at `time`; `None` when it is over, and when it
/// lies so far ahead that a clock was wrong.
fn left_of(span: Duration, time: Time, now: SystemTime) -> Option<Duration> {
    let since_1970 = Duration::new(time.0.try_into().ok()?, time.1.try_into().ok()?);
    let began = UNIX_EPOCH.checked_add(since_1970)?;
    let left = match now.duration_since(began) {
        Ok(past) => span.checked_sub(past)?,
        Err(ahead) if ahead.duration() < span => span + ahead.duration(),
        Err(_) => return None,
    };
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_span_is_over_when_it_is_past_or_far_ahead() {
        let ms = Duration::from_millis;
        let left = |time| left_of(ms(20), time, UNIX_EPOCH + ms(1500));
        assert_eq!(left((1, 480_000_000)), None);
        assert_eq!(left((1, 490_000_000)), Some(ms(10)));
        assert_eq!(left((1, 500_000_000)), Some(ms(20)));
        assert_eq!(left((1, 510_000_000)), Some(ms(30)));
        assert_eq!(left((1, 520_000_000)), None);
        for odd in [(-1, 0), (i64::MAX, 0), (0, -1)] {
            assert_eq!(left(odd), None, "{odd:?}");
        }
    }

    fn read_now(file: &File) -> Outcome {
        let ctx = LoadContext::new("blobs", Instant::now() + Duration::from_secs(60));
        read(file, b"a", &ctx, &mut Sink::detached(100), &mut || ()).unwrap()
    }

    #[test]
    fn a_value_is_kept_when_its_file_is_quiet() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), "value").unwrap();
        let read = || read_now(&File::open(temp.path()).unwrap());
        let modified = |time| temp.as_file().set_modified(time).unwrap();

        modified(SystemTime::now() + QUIET / 2);
        let fresh = read();
        modified(SystemTime::now() - QUIET);
        let quiet = read();
        modified(SystemTime::now() + 10 * QUIET);
        let ahead = read();
        assert!(
            matches!(&fresh, Outcome::Fleeting(value) if value == b"value"),
            "{fresh:?}"
        );
        assert!(
            matches!(&quiet, Outcome::Settled(value) if value == b"value"),
            "{quiet:?}"
        );
        assert!(
            matches!(&ahead, Outcome::Settled(value) if value == b"value"),
            "{ahead:?}"
        );
    }

    #[test]
    fn a_change_is_a_tick_old_when_its_file_is_read() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), "value").unwrap();
        let file = File::open(temp.path()).unwrap();
        read_now(&file);
        let changed = Stamp::of(&file).unwrap().changed;
        assert_eq!(left_of(TICK, changed, SystemTime::now()), None);
    }
}
