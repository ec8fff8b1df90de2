//! `Fetch` over grpcio: a future on the completion-queue thread of its call, which reads requests and writes replies as
//! long as the connection takes them.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use futures_util::{FutureExt, SinkExt, StreamExt};
use grpcio::{DuplexSink, Method, MethodType, RequestStream, RpcContext, WriteFlags};

use super::super::deadline;
use super::super::fetch::Fetch;
use super::super::gate::Closing;
use super::super::service::Status;
use super::super::slice::{self, Reply};
use super::{Door, Request, caught, log_lost, raw};

pub(super) const FETCH: Method<Request, Reply> = Method {
    ty: MethodType::Duplex,
    ..raw("/corecache.v1.Cache/Fetch")
};

impl Door {
    pub(super) fn on_fetch(
        &self,
        ctx: &RpcContext<'_>,
        requests: RequestStream<Request>,
        sink: DuplexSink<Reply>,
    ) {
        let stream = Stream {
            fetch: Fetch::new(&self.service, deadline::of(ctx)),
            requests,
            sink,
            closing: self.gate.closing(),
            reads: true,
        };
        ctx.spawn(log_lost(stream.run()));
    }
}

struct Stream {
    fetch: Fetch,
    requests: RequestStream<Request>,
    sink: DuplexSink<Reply>,
    closing: Closing,
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

impl Stream {
    async fn run(mut self) -> grpcio::Result<()> {
        let ended = poll_fn(|cx| self.poll(cx)).await?;
        match ended {
            End::Answered => self.sink.close().await,
            End::Failed(status) => self.sink.fail(status.into()).await,
            // A status would wait behind what is not taken: dropped, the sink cancels the call.
            End::Stalled => Ok(()),
        }
    }

    /// How the call ends. It fails when the caller has gone, or its time is over: the sink tells.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<grpcio::Result<End>> {
        loop {
            let can_send = self.sink.poll_ready_unpin(cx)?.is_ready();
            if self.fetch.poll_taken(can_send, cx).is_ready() {
                return Poll::Ready(Ok(End::Stalled));
            }
            if let Err(status) = self.gather(cx) {
                return Poll::Ready(Ok(End::Failed(status)));
            }
            if can_send && let Some(reply) = self.fetch.take_reply() {
                let reply = Reply::new(slice::of_encoded(reply));
                self.sink.start_send_unpin((reply, WriteFlags::default()))?;
                continue;
            }
            match self.poll_request(cx)? {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(status)) => return Poll::Ready(Ok(End::Failed(status))),
                Poll::Pending => {}
            }
            if self.reads || !self.fetch.is_done() {
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
            self.fetch.gather(cx);
            Ok(())
        })
    }

    /// Takes the next request, if one is wanted.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<grpcio::Result<Result<(), Status>>> {
        if !self.reads || !self.fetch.wants_requests() {
            return Poll::Pending;
        }
        match ready!(self.requests.poll_next_unpin(cx)?) {
            Some(request) => {
                let asked = caught(|| request.with_bytes(|bytes| self.fetch.ask(bytes)));
                Poll::Ready(Ok(asked))
            }
            None => {
                self.reads = false;
                Poll::Ready(Ok(Ok(())))
            }
        }
    }
}
