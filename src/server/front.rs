//! The front door: `corecache.v1.Cache` over grpcio.
//!
//! A hit is answered on the completion-queue thread where the call arrives, from the stored frame. A miss never blocks
//! that thread: a future waits on it for the answer, which a loader brings.

mod cluster;
mod fetch;
mod link;
mod stream;

use std::io::{BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use grpcio::{
    GrpcSlice, Marshaller, MessageReader, Method, MethodType, RpcContext, RpcStatus, RpcStatusCode,
    ServiceBuilder, UnarySink, UnarySinkResult,
};

use super::connections::Connections;
use super::deadline::{self, Over};
use super::gate::Gate;
use super::lookout::Caller;
use super::outgoing::Encoded;
use super::pb;
use super::service::{Lookup, Many, Service, Status};
use super::slice::{self, Reply};
use super::waiting::Place;
use crate::group::Value;

mod read;

pub(super) use cluster::service as cluster_service;
pub(super) use link::service as peer_service;

/// `Get` with request and reply as the bytes that they are on the wire.
const GET: Method<Request, Reply> = raw("/corecache.v1.Cache/Get");
const GET_MANY: Method<Request, Reply> = raw("/corecache.v1.Cache/GetMany");
const STATS: Method<pb::cache::StatsRequest, pb::cache::StatsReply> =
    pb::method(MethodType::Unary, "/corecache.v1.Cache/Stats");

const fn raw(path: &'static str) -> Method<Request, Reply> {
    Method {
        ty: MethodType::Unary,
        name: path,
        req_mar: Marshaller {
            ser: |_, _| Ok(()),
            de: |reader| Ok(Request(reader)),
        },
        resp_mar: Marshaller {
            ser: Reply::serialize,
            de: |_| Ok(Reply::new(GrpcSlice::default())),
        },
    }
}

/// An encoded message that has come, still in the C-core's slices.
pub(super) struct Request(MessageReader);

impl Request {
    /// Shows the message to `f`: in place if it lies in one slice, as nearly all do.
    pub fn with_bytes<R>(mut self, f: impl FnOnce(&[u8]) -> R) -> R {
        let len = self.0.len();
        match self.0.fill_buf() {
            Ok(bytes) if bytes.len() == len => f(bytes),
            _ => {
                let mut bytes = Vec::with_capacity(len);
                // A reader over memory does not fail; a message that it cut short is refused as malformed.
                let _ = self.0.read_to_end(&mut bytes);
                f(&bytes)
            }
        }
    }
}

type Answered<T> = oneshot::Receiver<Result<T, Status>>;

enum Get {
    Hit(GrpcSlice),
    Loading(Answered<Value>, Place),
}

enum GetMany {
    Reply(Encoded),
    Loading(Answered<Encoded>, Place),
}

/// The service for grpcio to register. Its answers leave by `gate`.
pub(super) fn service(
    service: &Arc<Service>,
    gate: &Arc<Gate>,
    connections: Connections,
) -> grpcio::Service {
    let door = Door {
        service: service.clone(),
        gate: gate.clone(),
        connections,
    };
    let (get, get_many, fetch) = (door.clone(), door.clone(), door.clone());
    let (read, stats) = (door.clone(), door);
    ServiceBuilder::new()
        .add_unary_handler(&GET, move |ctx, request, sink| {
            get.on_get(&ctx, request, sink);
        })
        .add_unary_handler(&GET_MANY, move |ctx, request, sink| {
            get_many.on_get_many(&ctx, request, sink);
        })
        .add_server_streaming_handler(&read::READ, move |ctx, request, sink| {
            read.on_read(&ctx, request, sink);
        })
        .add_duplex_streaming_handler(&fetch::FETCH, move |ctx, requests, sink| {
            fetch.on_fetch(&ctx, requests, sink);
        })
        .add_unary_handler(&pb::served(&STATS), move |ctx, request, sink| {
            let reply = caught(|| {
                request
                    .map(|_| super::stats::reply(&stats.service))
                    .map_err(Status::from)
            });
            stats.answer(&ctx, sink, reply);
        })
        .build()
}

#[derive(Clone)]
struct Door {
    service: Arc<Service>,
    gate: Arc<Gate>,
    connections: Connections,
}

impl Door {
    /// Who has made a call that has to wait.
    fn caller(&self, ctx: &RpcContext<'_>) -> Caller {
        Caller {
            deadline: deadline::of(ctx),
            line: self.connections.of_peer(&ctx.peer()),
        }
    }

    fn on_get(&self, ctx: &RpcContext<'_>, request: Request, sink: UnarySink<Reply>) {
        let found = caught(|| {
            request.with_bytes(|bytes| {
                Ok(match self.service.look_up(bytes, slice::of_lent)? {
                    Lookup::Hit(slice) => Get::Hit(slice),
                    Lookup::Hot(reply) => Get::Hit(slice::of_encoded(reply)),
                    Lookup::Miss(miss) => {
                        let caller = self.caller(ctx);
                        let deadline = caller.deadline;
                        let place = self.service.waiting.enter(miss.group, caller)?;
                        let (answer, loaded) = oneshot::channel();
                        // The call may be gone by then.
                        self.service
                            .load(&miss, deadline, move |value| drop(answer.send(value)));
                        Get::Loading(loaded, place)
                    }
                })
            })
        });
        match found {
            Ok(Get::Hit(slice)) if slice::is_copy(&slice) => {
                self.answer(ctx, sink, Ok(Reply::new(slice)));
            }
            Ok(Get::Hit(slice)) => self.hand_over(ctx, sink, async { Ok(slice) }),
            Ok(Get::Loading(loaded, place)) => self.hand_over(ctx, sink, async {
                let value = within(loaded, place).await?;
                value.map(|value| slice::of_blob(value.frame()))
            }),
            Err(status) => self.answer(ctx, sink, Err(status)),
        }
    }

    fn on_get_many(&self, ctx: &RpcContext<'_>, request: Request, sink: UnarySink<Reply>) {
        let found = caught(|| {
            request.with_bytes(|bytes| {
                Ok(match self.service.look_up_many(bytes)? {
                    Many::Reply(reply) => GetMany::Reply(reply),
                    Many::Missing(missing) => {
                        let caller = self.caller(ctx);
                        // Before anything is loaded: a call that is refused is to cost nothing.
                        let place = self.service.waiting.enter(missing.group, caller.clone())?;
                        let (answer, gathered) = oneshot::channel();
                        self.service
                            .gather(missing, caller, move |reply| drop(answer.send(reply)));
                        GetMany::Loading(gathered, place)
                    }
                })
            })
        });
        match found {
            Ok(GetMany::Reply(reply)) => {
                self.hand_over(ctx, sink, async { Ok(slice::of_encoded(reply)) });
            }
            Ok(GetMany::Loading(gathered, place)) => self.hand_over(ctx, sink, async {
                let reply = within(gathered, place).await?;
                reply.map(slice::of_encoded)
            }),
            Err(status) => self.answer(ctx, sink, Err(status)),
        }
    }

    fn answer<R: Send + 'static>(
        &self,
        ctx: &RpcContext<'_>,
        sink: UnarySink<R>,
        answer: Result<R, Status>,
    ) {
        if self.gate.is_open() {
            ctx.spawn(log_lost(send(sink, answer)));
        } else {
            self.answer_later(ctx, sink, async { answer });
        }
    }

    /// As `answer_later`, with a reply that holds memory of the node until its caller has taken it.
    fn hand_over(
        &self,
        ctx: &RpcContext<'_>,
        sink: UnarySink<Reply>,
        reply: impl Future<Output = Result<GrpcSlice, Status>> + Send + 'static,
    ) {
        let (gate, service) = (self.gate.clone(), self.service.clone());
        ctx.spawn(async move {
            let reply = reply.await;
            gate.pass().await;
            log_lost(taken(sink, reply, &service)).await;
        });
    }

    /// What is sent when it is there, or that the caller's time is over.
    fn answer_later<R: Send + 'static>(
        &self,
        ctx: &RpcContext<'_>,
        sink: UnarySink<R>,
        answer: impl Future<Output = Result<R, Status>> + Send + 'static,
    ) {
        let (gate, over) = (self.gate.clone(), Over::of(ctx));
        ctx.spawn(async move {
            let answer = deadline::within(over, answer).await;
            gate.pass().await;
            log_lost(send(sink, answer)).await;
        });
    }
}

/// Sends a reply that holds memory of the node until it has been taken. A caller who leaves it for too long is let go.
async fn taken(
    sink: UnarySink<Reply>,
    reply: Result<GrpcSlice, Status>,
    service: &Service,
) -> grpcio::Result<()> {
    let Service {
        reads, outgoing, ..
    } = service;
    let limit = outgoing.stall_limit(reads.stall_limit);
    let stalled = reads.stalled.enter(Caller {
        deadline: Some(Instant::now() + limit),
        line: None,
    });
    match select(send(sink, reply.map(Reply::new)), stalled).await {
        Either::Left((sent, _)) => sent,
        Either::Right(((), mut sent)) => {
            outgoing.note_stalled();
            // Dropped, it cancels the call, if nothing refers to that any more; and who would be woken does.
            let _ = sent.poll_unpin(&mut Context::from_waker(Waker::noop()));
            Ok(())
        }
    }
}

/// What is being loaded, or that the caller has gone: his time is over, or nobody hears what is said.
async fn within<T>(loaded: oneshot::Receiver<T>, place: Place) -> Result<T, Status> {
    match select(loaded, place).await {
        Either::Left((loaded, _)) => loaded.map_err(|_| Status::stopping()),
        Either::Right(_) => Err(Status::too_late()),
    }
}

fn send<R>(sink: UnarySink<R>, answer: Result<R, Status>) -> UnarySinkResult {
    match answer {
        Ok(reply) => sink.success(reply),
        Err(status) => sink.fail(status.into()),
    }
}

/// A panic must not reach the completion-queue thread: it would end, and its connections would hang.
fn caught<R>(f: impl FnOnce() -> Result<R, Status>) -> Result<R, Status> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|_| Err(Status::internal()))
}

/// A reply that can not be sent has no reader any more: the caller has gone.
async fn log_lost(sent: impl Future<Output = grpcio::Result<()>>) {
    if let Err(error) = sent.await {
        log::debug!("a reply was not sent: {error}");
    }
}

impl From<Status> for RpcStatus {
    fn from(status: Status) -> Self {
        RpcStatus::with_message(RpcStatusCode::from(status.code as i32), status.message)
    }
}
