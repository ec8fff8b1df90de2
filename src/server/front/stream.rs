//! Streams of questions and answers over grpcio: a future on the completion-queue thread of its call, which reads requests
//! and writes replies as long as the connection takes them.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, SinkExt, StreamExt};
use grpcio::{DuplexSink, RequestStream, WriteFlags};

use super::super::deadline::Over;
use super::super::fetch::Fetch;
use super::super::gate::Closing;
use super::super::outgoing::Encoded;
use super::super::peer::Answering;
use super::super::service::Status;
use super::super::slice::{self, Reply};
use super::{Request, caught};

/// What a stream means.
pub(super) trait Answers {
    /// The last reply has been taken, or has not been yet. Ready when that has been so for too long: then the call is to end.
    fn poll_taken(&mut self, is_taken: bool, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether another request may be read.
    fn wants_requests(&self) -> bool;

    /// Whether all that was asked has been answered, and the answers taken.
    fn is_done(&self) -> bool;

    /// Takes an encoded request, when one is wanted. An error ends the call.
    fn ask(&mut self, request: &[u8]) -> Result<(), Status>;

    /// Sees to what can go on without another request. `cx` is woken when there is more of that.
    fn gather(&mut self, cx: &Context<'_>);

    /// An encoded reply, to be sent now.
    fn take_reply(&mut self) -> Option<Encoded>;
}

/// What both have by these names.
macro_rules! answers {
    ($($stream:ty),*) => {$(
        impl Answers for $stream {
            fn poll_taken(&mut self, is_taken: bool, cx: &mut Context<'_>) -> Poll<()> {
                <$stream>::poll_taken(self, is_taken, cx)
            }

            fn wants_requests(&self) -> bool {
                <$stream>::wants_requests(self)
            }

            fn is_done(&self) -> bool {
                <$stream>::is_done(self)
            }

            fn ask(&mut self, request: &[u8]) -> Result<(), Status> {
                <$stream>::ask(self, request)
            }

            fn gather(&mut self, cx: &Context<'_>) {
                <$stream>::gather(self, cx);
            }

            fn take_reply(&mut self) -> Option<Encoded> {
                <$stream>::take_reply(self)
            }
        }
    )*};
}

answers!(Fetch, Answering);

pub(super) struct Stream<A> {
    answers: A,
    requests: RequestStream<Request>,
    sink: DuplexSink<Reply>,
    closing: Closing,
    over: Over,
    /// Requests are read: the client may have more, and the node is not stopping.
    reads: bool,
}

/// How a call ends.
enum End {
    Answered,
    Failed(Status),
    /// Its caller does not take what is sent.
    Stalled,
}

impl<A: Answers> Stream<A> {
    pub fn new(
        answers: A,
        requests: RequestStream<Request>,
        sink: DuplexSink<Reply>,
        closing: Closing,
        over: Over,
    ) -> Self {
        Self {
            answers,
            requests,
            sink,
            closing,
            over,
            reads: true,
        }
    }

    pub async fn run(mut self) -> grpcio::Result<()> {
        let ended = poll_fn(|cx| self.poll(cx)).await?;
        match ended {
            End::Answered => self.sink.close().await,
            End::Failed(status) => self.sink.fail(status.into()).await,
            // A status would wait behind what is not taken: dropped, the sink cancels the call.
            End::Stalled => Ok(()),
        }
    }

    /// How the call ends. It fails when the caller has gone: the sink tells.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<grpcio::Result<End>> {
        loop {
            let can_send = self.sink.poll_ready_unpin(cx)?.is_ready();
            if self.answers.poll_taken(can_send, cx).is_ready() {
                return Poll::Ready(Ok(End::Stalled));
            }
            if self.over.poll_unpin(cx).is_ready() {
                // Behind what is not taken it would only wait.
                return match can_send {
                    true => Poll::Ready(Ok(End::Failed(Status::over()))),
                    false => Poll::Pending,
                };
            }
            if let Err(status) = self.gather(cx) {
                return Poll::Ready(Ok(End::Failed(status)));
            }
            if can_send && let Some(reply) = self.answers.take_reply() {
                let reply = Reply::new(slice::of_encoded(reply));
                self.sink.start_send_unpin((reply, WriteFlags::default()))?;
                continue;
            }
            match self.poll_request(cx)? {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(status)) => return Poll::Ready(Ok(End::Failed(status))),
                Poll::Pending => {}
            }
            if self.reads || !self.answers.is_done() {
                return Poll::Pending;
            }
            ready!(self.sink.poll_flush_unpin(cx))?;
            return Poll::Ready(Ok(End::Answered));
        }
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        if self.reads && self.closing.poll_unpin(cx).is_ready() {
            self.reads = false;
        }
        caught(|| {
            self.answers.gather(cx);
            Ok(())
        })
    }

    /// Takes the next request, if one is wanted.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<grpcio::Result<Result<(), Status>>> {
        if !self.reads || !self.answers.wants_requests() {
            return Poll::Pending;
        }
        match ready!(self.requests.poll_next_unpin(cx)?) {
            Some(request) => {
                let asked = caught(|| request.with_bytes(|bytes| self.answers.ask(bytes)));
                Poll::Ready(Ok(asked))
            }
            None => {
                self.reads = false;
                Poll::Ready(Ok(Ok(())))
            }
        }
    }
}
