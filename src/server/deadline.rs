//! A call's deadline as a point in time. grpcio only tells whether it has passed.

use std::time::{Duration, Instant, SystemTime};

use grpcio::{Deadline, RpcContext};
use grpcio_sys::gpr_timespec;

/// When the caller of a call stops waiting, if it ever does.
pub(super) fn of(ctx: &RpcContext<'_>) -> Option<Instant> {
    instant(spec(ctx.deadline()))
}

/// The one field of a [`Deadline`], by the real-time clock.
fn spec(deadline: Deadline) -> gpr_timespec {
    const { assert!(size_of::<Deadline>() == size_of::<gpr_timespec>()) };
    // SAFETY: a deadline is a struct with this one field, which fills it, so that it lies at its start.
    unsafe { std::mem::transmute(deadline) }
}

fn instant(spec: gpr_timespec) -> Option<Instant> {
    // So the C-core says: never.
    if spec.tv_sec == i64::MAX {
        return None;
    }
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(spec.tv_sec), u32::try_from(spec.tv_nsec)) else {
        return Some(Instant::now());
    };
    let since_epoch =
        Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    Instant::now().checked_add(since_epoch.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_as_far_off_as_it_was_given() {
        for seconds in [1, 100, 1_000_000] {
            let span = Duration::from_secs(seconds);
            let before = Instant::now();
            let deadline = instant(spec(Deadline::from(span))).unwrap();
            let after = Instant::now();
            // Clocks that are not the same one, and not to the same tick.
            let slack = Duration::from_millis(100);
            let range = before + span - slack..=after + span + slack;
            assert!(range.contains(&deadline), "{deadline:?} in {range:?}");
        }
    }

    #[test]
    fn one_that_has_passed_is_now_and_one_that_never_comes_is_none() {
        let spec = |tv_sec| gpr_timespec {
            tv_sec,
            ..spec(Deadline::from(Duration::ZERO))
        };
        for past in [i64::MIN, -1, 0, 1] {
            assert!(instant(spec(past)).unwrap() <= Instant::now());
        }
        assert_eq!(instant(spec(i64::MAX)), None);
    }
}
