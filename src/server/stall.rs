//! A stream whose caller leaves a reply untaken, and when that has been for too long.
//!
//! Streams that go well are not to pay for it: the ticket of a former wait is kept, and a new one is taken when it has
//! called too early.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::lookout::{Caller, Lookout, Ticket};

#[derive(Default)]
pub(super) struct Stall {
    /// When it has been for too long, while a reply is not taken.
    until: Option<Instant>,
    watch: Option<(Ticket, Instant)>,
}

impl Stall {
    /// What was sent has been taken.
    pub fn end(&mut self) {
        self.until = None;
    }

    /// What was sent has not been taken yet; ready when that has been so for a `limit`.
    pub fn poll(
        &mut self,
        lookout: &Lookout,
        limit: impl FnOnce() -> Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + limit());
        loop {
            // Where room has become short meanwhile, it is to call sooner.
            self.watch.take_if(|(_, calls)| *calls > until);
            let (ticket, _) = self.watch.get_or_insert_with(|| {
                let caller = Caller {
                    deadline: Some(until),
                    line: None,
                };
                (lookout.enter(caller), until)
            });
            if Pin::new(ticket).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.watch = None;
            if until <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_executor::block_on;

    use super::*;

    #[test]
    fn a_reply_that_is_taken_in_time_puts_the_end_off() {
        const LIMIT: Duration = Duration::from_secs(1);
        let lookout = Lookout::start("test").unwrap();
        let mut stall = Stall::default();
        let poll_once = |stall: &mut Stall, limit| {
            block_on(poll_fn(|cx| {
                Poll::Ready(stall.poll(&lookout, || limit, cx).is_ready())
            }))
        };
        assert!(!poll_once(&mut stall, LIMIT));
        stall.end();
        let begun = Instant::now();
        assert!(!poll_once(&mut stall, 2 * LIMIT));
        block_on(poll_fn(|cx| stall.poll(&lookout, || LIMIT, cx)));
        assert!(begun.elapsed() >= 2 * LIMIT);

        stall.end();
        assert!(!poll_once(&mut stall, Duration::from_secs(3600)));
        stall.end();
        block_on(poll_fn(|cx| stall.poll(&lookout, || LIMIT, cx)));
    }
}
