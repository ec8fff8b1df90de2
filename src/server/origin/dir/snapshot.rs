//! One state of a file, read while others may write to it.
//!
//! A file is read between two looks at its size, times and identity. When the looks differ, it
//! changed, and what was read may be half old and half new. The looks are only as good as the
//! times: a file system stamps a change with a clock that ticks every few milliseconds, so two
//! changes within a tick leave one stamp, and a change right after the first look may not show in
//! the second (as in git's index, where such entries are called racy). So the first look has to
//! find a file whose last change is older than a tick; a fresh one is waited for, a moment once.
//! Where stamps are whole seconds, waiting would be long: the value is delivered and not kept.
//!
//! Files that the kernel makes up as they are read (in /proc, in /sys) have sizes that are not
//! theirs and times that stand still. They are read to their end, delivered and not kept.

use std::fs::{File, Metadata};
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

/// Longer than a tick of file systems that keep whole seconds, or every second one.
const COARSE_TICK: Duration = Duration::from_millis(2_500);

/// What reading a file came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The file's bytes, which did not change meanwhile.
    Settled(Vec<u8>),
    /// The file's bytes, of which a later change could not be told.
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
    let (mut before, mut age) = look(file).map_err(failed)?;
    if let Age::Fresh(left) = age {
        thread::sleep(left.min(ctx.remaining()));
        (before, age) = look(file).map_err(failed)?;
    }
    if matches!(age, Age::Fresh(_)) && !ctx.remaining().is_zero() {
        return Ok(Outcome::Changed);
    }
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

    let (after, _) = look(file).map_err(failed)?;
    if before != after {
        return Ok(Outcome::Changed);
    }
    let made_up = value.len() != size_bytes;
    Ok(if made_up || age == Age::FreshForLong {
        Outcome::Fleeting(value)
    } else {
        Outcome::Settled(value)
    })
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// How long ago a file was changed, in ticks of its file system.
#[derive(Debug, PartialEq, Eq)]
enum Age {
    /// More than a tick: a change from now on gets another stamp.
    Old,
    /// Less than a tick, which will be over in this time.
    Fresh(Duration),
    /// Less than a tick of whole seconds.
    FreshForLong,
}

fn look(file: &File) -> io::Result<(Stamp, Age)> {
    let stamp = Stamp::of(&file.metadata()?);
    Ok((stamp, stamp.age(SystemTime::now())))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The age at `now`. A stamp from the future, which a clock that was set back leaves, is old:
    /// no change from now on gets it again soon.
    fn age(&self, now: SystemTime) -> Age {
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (seconds.try_into(), nanoseconds.try_into()) else {
            return Age::Old;
        };
        let Some(changed) = UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds)) else {
            return Age::Old;
        };
        let tick = if nanoseconds == 0 { COARSE_TICK } else { TICK };
        match now.duration_since(changed) {
            Ok(age) if age >= tick => Age::Old,
            Err(ahead) if ahead.duration() >= tick => Age::Old,
            _ if nanoseconds == 0 => Age::FreshForLong,
            Ok(age) => Age::Fresh(tick - age),
            Err(ahead) => Age::Fresh(tick + ahead.duration()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(changed: (i64, i64), now: Duration) -> Age {
        let stamp = Stamp {
            file: (1, 1),
            size_bytes: 0,
            modified: (0, 0),
            changed,
        };
        stamp.age(UNIX_EPOCH + now)
    }

    #[test]
    fn a_stamp_is_old_after_a_tick() {
        let at = |ms| Duration::from_millis(ms);
        let changed = (1, 500_000_000);
        assert_eq!(age(changed, at(1500)), Age::Fresh(at(20)));
        assert_eq!(age(changed, at(1515)), Age::Fresh(at(5)));
        assert_eq!(age(changed, at(1520)), Age::Old);
        assert_eq!(age(changed, at(1490)), Age::Fresh(at(30)));
        assert_eq!(age(changed, at(1480)), Age::Old);
        assert_eq!(age((1, 0), at(3499)), Age::FreshForLong);
        assert_eq!(age((1, 0), at(3500)), Age::Old);
        assert_eq!(age((-1, 5), at(0)), Age::Old);
        assert_eq!(age((i64::MAX, 5), at(0)), Age::Old);
    }
}
