//! The standard health service, `grpc.health.v1.Health`: what load balancers and probes ask.
//!
//! A [`Health`] is what the node says of itself. It is cheap to clone, and each clone sets and
//! shows the same statuses:
//!
//! ```no_run
//! # use corecache::server::health::{Health, Status};
//! # fn register(service: grpcio::Service) {}
//! let health = Health::new();
//! register(health.service());
//! health.set("", Status::Serving);
//! health.set("corecache.v1.Cache", Status::Serving);
//! // ... and when the node is asked to stop:
//! health.close();
//! ```
//!
//! A watch is one future, polled on the completion-queue thread of its call. It keeps no queue of
//! changes: whenever it can send, it looks at the newest status and sends it if it is not the one
//! that it sent last. So a caller that reads slowly misses what came and went meanwhile, and
//! costs nothing.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use futures_util::{FutureExt, SinkExt};
use grpcio::{
    Method, MethodType, RpcContext, ServerStreamingSink, Service, ServiceBuilder, UnarySink,
    WriteFlags,
};
use parking_lot::Mutex;

use super::deadline::Over;
use super::pb::health::health_check_response::ServingStatus;
use super::pb::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use super::pb::{self, Received};
use super::service::{Code, Status as Refusal};

/// Tells the status of one service; NOT_FOUND if there is no such service.
pub const CHECK: Method<HealthCheckRequest, HealthCheckResponse> =
    pb::method(MethodType::Unary, "/grpc.health.v1.Health/Check");

/// Tells the statuses of all services.
pub const LIST: Method<HealthListRequest, HealthListResponse> =
    pb::method(MethodType::Unary, "/grpc.health.v1.Health/List");

/// Tells the status of one service now, and again whenever it changes.
pub const WATCH: Method<HealthCheckRequest, HealthCheckResponse> =
    pb::method(MethodType::ServerStreaming, "/grpc.health.v1.Health/Watch");

/// How many watches may be open at once; another one is refused with RESOURCE_EXHAUSTED.
const MOST_WATCHES: usize = 1024;

/// The longest name that is looked up; a longer one is refused with INVALID_ARGUMENT.
const NAME_LIMIT_BYTES: usize = 1024;

/// Whether a service can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Calls are answered.
    Serving,
    /// Calls should go elsewhere for now.
    NotServing,
}

impl From<Status> for ServingStatus {
    fn from(status: Status) -> ServingStatus {
        match status {
            Status::Serving => ServingStatus::SERVING,
            Status::NotServing => ServingStatus::NOT_SERVING,
        }
    }
}

/// The health of a node: a status for each of its services, and one, under the empty name, for
/// the node as a whole.
#[derive(Clone)]
pub struct Health {
    board: Arc<Mutex<Board>>,
}

#[derive(Default)]
struct Board {
    statuses: BTreeMap<String, Status>,
    /// The open watches by number, each with what wakes it once it has been polled.
    watches: HashMap<u64, Option<Waker>>,
    next_watch: u64,
    closed: bool,
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}

impl Health {
    /// Returns the health of a node that is not serving yet and has no named service.
    pub fn new() -> Health {
        let health = Health {
            board: Arc::default(),
        };
        health.set("", Status::NotServing);
        health
    }

    /// Sets the status of a service and tells those who watch it. The empty name stands for the
    /// node as a whole. Does nothing after [`close`](Health::close).
    pub fn set(&self, service: &str, status: Status) {
        self.change(|board| {
            board.statuses.insert(service.to_owned(), status);
        });
    }

    /// Sets the status of all services, and of the node as a whole, to
    /// [`NotServing`](Status::NotServing).
    pub fn set_all_not_serving(&self) {
        self.change(Board::set_all_not_serving);
    }

    /// Sets all statuses to [`NotServing`](Status::NotServing), for good, and lets each watch, of
    /// now and of later, end when it has told so. An open watch would keep a server that drains
    /// from ever being done.
    pub fn close(&self) {
        self.change(|board| {
            board.set_all_not_serving();
            board.closed = true;
        });
    }

    /// Returns the gRPC service that answers from this health.
    pub fn service(&self) -> Service {
        let (check, list, watch) = (self.clone(), self.clone(), self.clone());
        ServiceBuilder::new()
            .add_unary_handler(&pb::served(&CHECK), move |ctx, request, sink| {
                check.on_check(&ctx, request, sink);
            })
            .add_unary_handler(&pb::served(&LIST), move |ctx, request, sink| {
                list.on_list(&ctx, request, sink);
            })
            .add_server_streaming_handler(&pb::served(&WATCH), move |ctx, request, sink| {
                watch.on_watch(&ctx, request, sink);
            })
            .build()
    }

    /// Answers a `Check`, whichever door it has come in by.
    pub(super) fn check(
        &self,
        request: &HealthCheckRequest,
    ) -> Result<HealthCheckResponse, Refusal> {
        check_name(&request.service)?;
        let status = self.board.lock().statuses.get(&request.service).copied();
        let status = status.ok_or_else(|| unknown_service(&request.service))?;
        Ok(response(status.into()))
    }

    /// Answers a `List`.
    pub(super) fn list(&self) -> HealthListResponse {
        let mut list = HealthListResponse::new();
        for (service, &status) in &self.board.lock().statuses {
            list.statuses
                .insert(service.clone(), response(status.into()));
        }
        list
    }

    fn change(&self, how: impl FnOnce(&mut Board)) {
        let mut board = self.board.lock();
        if board.closed {
            return;
        }
        how(&mut board);
        let wakers: Vec<Waker> = board.watches.values().flatten().cloned().collect();
        drop(board);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn on_check(
        &self,
        ctx: &RpcContext,
        request: Received<HealthCheckRequest>,
        sink: UnarySink<HealthCheckResponse>,
    ) {
        let response = request
            .map_err(Refusal::from)
            .and_then(|request| self.check(&request));
        ctx.spawn(finish(match response {
            Ok(response) => sink.success(response),
            Err(refusal) => sink.fail(refusal.into()),
        }));
    }

    fn on_list(
        &self,
        ctx: &RpcContext,
        request: Received<HealthListRequest>,
        sink: UnarySink<HealthListResponse>,
    ) {
        ctx.spawn(finish(match request {
            Ok(_) => sink.success(self.list()),
            Err(malformed) => sink.fail(Refusal::from(malformed).into()),
        }));
    }

    fn on_watch(
        &self,
        ctx: &RpcContext,
        request: Received<HealthCheckRequest>,
        sink: ServerStreamingSink<HealthCheckResponse>,
    ) {
        let watch = request.map_err(Refusal::from).and_then(|request| {
            check_name(&request.service)?;
            Watch::open(self, request.service)
        });
        match watch {
            Ok(watch) => ctx.spawn(finish(watch.run(sink, Over::of(ctx)))),
            Err(refusal) => ctx.spawn(finish(sink.fail(refusal.into()))),
        }
    }
}

impl Board {
    fn set_all_not_serving(&mut self) {
        for status in self.statuses.values_mut() {
            *status = Status::NotServing;
        }
    }
}

/// One open watch: a place on the board, given back when it is dropped.
struct Watch {
    board: Arc<Mutex<Board>>,
    number: u64,
    service: String,
    /// The status that was sent last.
    told: Option<ServingStatus>,
}

enum News {
    Status(ServingStatus),
    /// The time that the caller has given it.
    Over,
    Closed,
}

impl Watch {
    fn open(health: &Health, service: String) -> Result<Watch, Refusal> {
        let mut board = health.board.lock();
        if board.watches.len() >= MOST_WATCHES {
            return Err(Refusal::new(
                Code::ResourceExhausted,
                format!("{MOST_WATCHES} health watches are open already; use Check instead"),
            ));
        }
        let number = board.next_watch;
        board.next_watch += 1;
        board.watches.insert(number, None);
        Ok(Watch {
            board: health.board.clone(),
            number,
            service,
            told: None,
        })
    }

    /// Sends each status in turn, until the caller goes away, its time is over, or the board is closed.
    async fn run(
        mut self,
        mut sink: ServerStreamingSink<HealthCheckResponse>,
        mut over: Over,
    ) -> grpcio::Result<()> {
        loop {
            let news = poll_fn(|cx| {
                // Wakes this future as well when the caller goes away, and fails then.
                ready!(sink.poll_ready_unpin(cx))?;
                if over.poll_unpin(cx).is_ready() {
                    return Poll::Ready(Ok(News::Over));
                }
                self.poll_news(cx).map(grpcio::Result::Ok)
            });
            match news.await? {
                News::Status(status) => {
                    let message = (response(status), WriteFlags::default());
                    sink.send(message).await?;
                    self.told = Some(status);
                }
                News::Over => return sink.fail(Refusal::over().into()).await,
                News::Closed => return sink.close().await,
            }
        }
    }

    fn poll_news(&self, cx: &Context) -> Poll<News> {
        let mut board = self.board.lock();
        let status = match board.statuses.get(&self.service) {
            Some(&status) => status.into(),
            None => ServingStatus::SERVICE_UNKNOWN,
        };
        if self.told != Some(status) {
            Poll::Ready(News::Status(status))
        } else if board.closed {
            Poll::Ready(News::Closed)
        } else {
            board.watches.insert(self.number, Some(cx.waker().clone()));
            Poll::Pending
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.board.lock().watches.remove(&self.number);
    }
}

/// Waits until an answer is on its way. That it fails means that the caller has gone.
async fn finish(answer: impl Future<Output = grpcio::Result<()>>) {
    if let Err(error) = answer.await {
        log::debug!("health: the caller has gone: {error}");
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
        ..HealthCheckResponse::default()
    }
}

fn check_name(service: &str) -> Result<(), Refusal> {
    if service.len() <= NAME_LIMIT_BYTES {
        return Ok(());
    }
    Err(Refusal::new(
        Code::InvalidArgument,
        format!(
            "the name of a service has {} bytes, at most {NAME_LIMIT_BYTES} are allowed",
            service.len()
        ),
    ))
}

fn unknown_service(service: &str) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!("this node has no service {service:?}; grpc.health.v1.Health/List names them all"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_can_not_send_misses_what_came_and_went() {
        let health = Health::new();
        let mut watch = Watch::open(&health, String::new()).unwrap();
        let cx = Context::from_waker(Waker::noop());
        let news = |watch: &mut Watch| match watch.poll_news(&cx) {
            Poll::Ready(News::Status(status)) => {
                watch.told = Some(status);
                Some(status)
            }
            Poll::Ready(News::Over | News::Closed) | Poll::Pending => None,
        };

        health.set("", Status::Serving);
        health.set("", Status::NotServing);
        health.set("", Status::Serving);
        assert_eq!(news(&mut watch), Some(ServingStatus::SERVING));
        assert_eq!(news(&mut watch), None);
        health.set("", Status::NotServing);
        health.set("", Status::Serving);
        assert_eq!(news(&mut watch), None);
    }

    #[test]
    fn a_watch_that_ends_leaves_nothing_behind() {
        let health = Health::new();
        let watch = Watch::open(&health, "any".to_owned()).unwrap();
        assert_eq!(health.board.lock().watches.len(), 1);
        drop(watch);
        assert!(health.board.lock().watches.is_empty());
    }
}
