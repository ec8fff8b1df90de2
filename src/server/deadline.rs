//! A call's deadline as a point in time, of which grpcio only tells whether it has passed; and when it has. The gRPC core
//! does not look at deadlines here.

use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{Either, select};
use grpcio::{Deadline, RpcContext};
use grpcio_sys::gpr_timespec;

use super::lookout::{Caller, Lookout, Ticket};
use super::service::Status;

/// Of all calls that wait for something else than a load, which has a lookout of its own: no more of them than there may
/// be calls. None where the system gave no thread.
static LOOKOUT: LazyLock<Option<Lookout>> = LazyLock::new(|| {
    let started = Lookout::start("call-deadlines");
    let complain = |error| log::error!("calls that wait go on after their deadlines: {error}");
    started.map_err(complain).ok()
});

/// When the caller of a call stops waiting, if it ever does.
pub(super) fn of(ctx: &RpcContext<'_>) -> Option<Instant> {
    instant(spec(ctx.deadline()))
}

/// Is done soon after a call's deadline, and never if it has none.
pub(super) struct Over(Option<Ticket>);

impl Over {
    pub fn of(ctx: &RpcContext<'_>) -> Self {
        Self::after(of(ctx))
    }

    fn after(deadline: Option<Instant>) -> Self {
        let ticket = deadline.and_then(|deadline| {
            let caller = Caller {
                deadline: Some(deadline),
                line: None,
            };
            LOOKOUT.as_ref().map(|lookout| lookout.enter(caller))
        });
        Self(ticket)
    }
}

impl Future for Over {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(ticket) => Pin::new(ticket).poll(cx),
            None => Poll::Pending,
        }
    }
}

/// What a call waits for, unless its time is over before that.
pub(super) async fn within<T>(
    over: Over,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match select(pin!(answer), over).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => Err(Status::over()),
    }
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
