//! The admin port: plain HTTP for Prometheus and for those who watch over a node.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | the node's figures, Prometheus text |
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 while it serves, with lines on what is wrong about its members; 503 until it is warm, if it is to wait for that, and from the moment that it drains |

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxhttp::Server;
use oxhttp::model::{Body, Method, Request, Response, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::connections::Connections;
use super::express::ExpressFigures;
use super::peer::{PeerMetrics, Peers};
use super::readiness::{Readiness, State};
use super::service::Service;
use super::stats::{MemberMetrics, Metrics};
use crate::cluster::membership::{Membership, Standing};

const CONNECTIONS_MAX: usize = 256;
/// Nodes that see other members, of which `/readyz` tells.
const AT_ODDS_SHOWN: usize = 8;
/// A request that is sent by halves takes a connection no longer than this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Serves on `address` until the process ends; returns the address with its port.
pub(super) fn start(
    address: SocketAddr,
    service: &Arc<Service>,
    (connections, express): (Connections, Option<Arc<ExpressFigures>>),
    members: &Arc<Membership>,
    readiness: Arc<Readiness>,
) -> io::Result<SocketAddr> {
    let mut registry = Registry::with_prefix("corecache");
    registry.register_collector(Box::new(Metrics {
        service: service.clone(),
        connections,
        express,
    }));
    registry.register_collector(Box::new(MemberMetrics(members.clone())));
    registry.register_collector(Box::new(PeerMetrics(service.peers.clone())));
    let address = free_port(address)?;
    let pages = Pages {
        registry,
        readiness,
        members: members.clone(),
        peers: service.peers.clone(),
    };
    Server::new(move |request| pages.answer(request))
        .bind(address)
        .with_global_timeout(TIMEOUT)
        .with_max_concurrent_connections(CONNECTIONS_MAX)
        .spawn()?;
    Ok(address)
}

/// The HTTP server does not tell which port it got for port 0, so one is chosen here. If another process takes it in
/// between, the start fails as for any port that is taken.
fn free_port(address: SocketAddr) -> io::Result<SocketAddr> {
    if address.port() != 0 {
        return Ok(address);
    }
    TcpListener::bind(address)?.local_addr()
}

struct Pages {
    registry: Registry,
    readiness: Arc<Readiness>,
    members: Arc<Membership>,
    peers: Arc<Peers>,
}

impl Pages {
    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        match *request.method() {
            Method::GET => self.page(path),
            // The HTTP server would send the body along. It takes Content-Length from what it sends, so that is 0, whatever
            // GET would have; no header of ours is let through instead.
            Method::HEAD => self.page(path).map(|_| Body::default()),
            _ => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is answered here\n",
            ),
        }
    }

    fn page(&self, path: &str) -> Response<Body> {
        match path {
            "/metrics" => metrics(&self.registry),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.readiness.state() {
                State::Ready => text(
                    StatusCode::OK,
                    ready(&self.members.standing(), &self.peers.at_odds()),
                ),
                State::Warming(why, until) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, warming(&why, until))
                }
                State::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /healthz and /readyz\n",
            ),
        }
    }
}

fn warming(why: &str, until: Instant) -> String {
    let left = until.saturating_duration_since(Instant::now());
    format!(
        "warming: {why}; ready in {} s at the latest\n",
        left.as_secs() + 1
    )
}

/// A node whose members are in doubt is ready all the same, and says so.
fn ready(members: &Standing, at_odds: &[String]) -> String {
    let mut page = "ready\n".to_owned();
    if let Some((why, time)) = &members.down {
        page += &format!(
            "members: {} is down for {} s: {why}; the last view is kept, members: {}\n",
            members.source,
            time.as_secs(),
            members.members
        );
    }
    for (_, words) in &members.doubts {
        page += &format!("the own address may be wrong: {words}\n");
    }
    for words in at_odds.iter().take(AT_ODDS_SHOWN) {
        page += &format!("{words}\n");
    }
    if at_odds.len() > AT_ODDS_SHOWN {
        page += &format!(
            "{} more nodes see other members\n",
            at_odds.len() - AT_ODDS_SHOWN
        );
    }
    page
}

fn metrics(registry: &Registry) -> Response<Body> {
    let mut figures = String::new();
    if text::encode(&mut figures, registry).is_err() {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the figures can not be written\n",
        );
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    respond(StatusCode::OK, kind, figures)
}

fn text(status: StatusCode, page: impl Into<String>) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", page.into())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let kind = oxhttp::model::HeaderValue::from_static(kind);
    response.headers_mut().insert("content-type", kind);
    response
}
