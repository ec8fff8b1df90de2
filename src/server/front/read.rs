//! `Read` over grpcio: a message at a time, the next one when the C-core has sent the last. The call ends when its
//! deadline has passed and the last message is taken, when its caller goes away, or takes nothing for too long; what it holds
//! is let go then.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use futures_channel::oneshot;
use futures_util::SinkExt;
use futures_util::future::{Either, select};
use grpcio::{GrpcSlice, Method, MethodType, RpcContext, ServerStreamingSink, WriteFlags};

use super::super::outgoing::Outgoing;
use super::super::read::{Message, Reading, Start};
use super::super::service::Status;
use super::super::slice::{self, Reply};
use super::{Door, Request, caught, log_lost, raw, within};

pub(super) const READ: Method<Request, Reply> = Method {
    ty: MethodType::ServerStreaming,
    ..raw("/corecache.v1.Cache/Read")
};

impl Door {
    pub(super) fn on_read(
        &self,
        ctx: &RpcContext<'_>,
        request: Request,
        sink: ServerStreamingSink<Reply>,
    ) {
        let caller = self.caller(ctx);
        let deadline = caller.deadline;
        let (answer, loaded) = oneshot::channel();
        let started = caught(|| {
            // The call may be gone by then.
            let answer = move |value| drop(answer.send(value));
            request.with_bytes(|bytes| self.service.read(bytes, caller, answer))
        });
        let (gate, outgoing) = (self.gate.clone(), self.service.outgoing.clone());
        ctx.spawn(log_lost(async move {
            let mut sink = sink;
            let reading = match started {
                Ok(Start::Held(reading)) => Ok(reading),
                Ok(Start::Loading(wanted, place)) => {
                    let loaded = unless_gone(&mut sink, within(loaded, place)).await?;
                    loaded.and_then(|value| wanted.of(value?))
                }
                Err(status) => Err(status),
            };
            gate.pass().await;
            match reading {
                Ok(reading) => send(sink, reading, deadline, &outgoing).await,
                Err(status) => sink.fail(status.into()).await,
            }
        }));
    }
}

pub(super) async fn send(
    mut sink: ServerStreamingSink<Reply>,
    mut reading: Reading,
    deadline: Option<Instant>,
    outgoing: &Outgoing,
) -> grpcio::Result<()> {
    loop {
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            drop(reading);
            return sink.fail(Status::over().into()).await;
        }
        match caught(|| Ok(next(&mut reading))) {
            Ok(Some(message)) => {
                let message = (Reply::new(message), WriteFlags::default());
                let stalled = reading.stalled();
                match select(sink.send(message), stalled).await {
                    Either::Left((sent, _)) => sent?,
                    // A status would wait behind what is not taken: dropped, the sink cancels the call.
                    Either::Right(_) => {
                        outgoing.note_stalled();
                        return Ok(());
                    }
                }
            }
            Ok(None) => break,
            Err(status) => return sink.fail(status.into()).await,
        }
    }
    drop(reading);
    sink.close().await
}

fn next(reading: &mut Reading) -> Option<GrpcSlice> {
    Some(match reading.next()? {
        Message::Stored(range) => slice::of_part(reading.stored(), range),
        Message::Copied(message) => GrpcSlice::from(message),
    })
}

/// What `answer` brings, unless the caller goes away first.
async fn unless_gone<T>(
    sink: &mut ServerStreamingSink<Reply>,
    answer: impl Future<Output = T>,
) -> grpcio::Result<T> {
    // A sink that nothing was sent to is always ready; it also looks whether the call has ended.
    let gone = poll_fn(|cx| match sink.poll_ready_unpin(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error),
        _ => Poll::Pending,
    });
    match select(pin!(answer), gone).await {
        Either::Left((value, _)) => Ok(value),
        Either::Right((error, _)) => Err(error),
    }
}
