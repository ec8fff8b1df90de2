//! The front door: `corecache.v1.Cache` over grpcio.
//!
//! A hit is answered on the completion-queue thread where the call arrives, from the stored frame. A miss never blocks
//! that thread: a future waits on it for the answer, which a loader brings.

use std::io::{BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_channel::oneshot;
use grpcio::{
    GrpcSlice, Marshaller, MessageReader, Method, MethodType, RpcContext, RpcStatus, RpcStatusCode,
    ServiceBuilder, UnarySink,
};

use super::pb;
use super::service::{Lookup, Service, Status};
use super::slice::{self, Reply};
use crate::group::Value;

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

/// An encoded request, still in the C-core's slices.
struct Request(MessageReader);

impl Request {
    /// Shows the message to `f`: in place if it lies in one slice, as nearly all do.
    fn with_bytes<R>(mut self, f: impl FnOnce(&[u8]) -> R) -> R {
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

type Loaded = oneshot::Receiver<Result<Value, Status>>;

enum Get {
    Hit(GrpcSlice),
    Loading(Loaded),
}

/// The service for grpcio to register.
pub(super) fn service(service: &Arc<Service>) -> grpcio::Service {
    let (get, get_many, stats) = (service.clone(), service.clone(), service.clone());
    ServiceBuilder::new()
        .add_unary_handler(&GET, move |ctx, request, sink| {
            on_get(&get, &ctx, request, sink)
        })
        .add_unary_handler(&GET_MANY, move |ctx, request, sink| {
            on_get_many(&get_many, &ctx, request, sink);
        })
        .add_unary_handler(&STATS, move |ctx, _, sink| {
            let done = match caught(|| Ok(super::stats::reply(&stats))) {
                Ok(reply) => sink.success(reply),
                Err(status) => sink.fail(status.into()),
            };
            ctx.spawn(log_lost(done));
        })
        .build()
}

fn on_get(service: &Service, ctx: &RpcContext<'_>, request: Request, sink: UnarySink<Reply>) {
    let found = caught(|| {
        request.with_bytes(|bytes| {
            Ok(match service.look_up(bytes, slice::of_lent)? {
                Lookup::Hit(slice) => Get::Hit(slice),
                Lookup::Miss(miss) => {
                    let (answer, loaded) = oneshot::channel();
                    // The call may be gone by then.
                    service.load(&miss, move |value| drop(answer.send(value)));
                    Get::Loading(loaded)
                }
            })
        })
    });
    match found {
        Ok(Get::Hit(slice)) => ctx.spawn(log_lost(sink.success(Reply::new(slice)))),
        Ok(Get::Loading(loaded)) => ctx.spawn(async move {
            let value = loaded.await.unwrap_or_else(|_| Err(Status::stopping()));
            log_lost(match value {
                Ok(value) => sink.success(Reply::new(slice::of_blob(value.frame()))),
                Err(status) => sink.fail(status.into()),
            })
            .await;
        }),
        Err(status) => ctx.spawn(log_lost(sink.fail(status.into()))),
    }
}

fn on_get_many(service: &Service, ctx: &RpcContext<'_>, request: Request, sink: UnarySink<Reply>) {
    let (answer, gathered) = oneshot::channel();
    let found = caught(|| {
        request.with_bytes(|bytes| service.get_many(bytes, move |reply| drop(answer.send(reply))))
    });
    match found {
        Ok(Some(reply)) => ctx.spawn(log_lost(sink.success(Reply::new(reply.into())))),
        Ok(None) => ctx.spawn(async move {
            log_lost(match gathered.await {
                Ok(reply) => sink.success(Reply::new(reply.into())),
                Err(_) => sink.fail(Status::stopping().into()),
            })
            .await;
        }),
        Err(status) => ctx.spawn(log_lost(sink.fail(status.into()))),
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
