//! The admin port: plain HTTP for Prometheus and for those who watch over a node.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | the node's figures, Prometheus text |
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 while it serves, 503 from the moment that it drains |

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oxhttp::Server;
use oxhttp::model::{Body, Method, Request, Response, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::connections::Connections;
use super::service::Service;
use super::stats::Metrics;

const CONNECTIONS_MAX: usize = 256;
/// A request that is sent by halves takes a connection no longer than this.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Serves on `address` until the process ends; returns the address with its port.
pub(super) fn start(
    address: SocketAddr,
    service: &Arc<Service>,
    connections: Connections,
    ready: Arc<AtomicBool>,
) -> io::Result<SocketAddr> {
    let mut registry = Registry::with_prefix("corecache");
    registry.register_collector(Box::new(Metrics {
        service: service.clone(),
        connections,
    }));
    let address = free_port(address)?;
    Server::new(move |request| answer(request, &registry, &ready))
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

fn answer(request: &Request<Body>, registry: &Registry, ready: &AtomicBool) -> Response<Body> {
    match *request.method() {
        Method::GET => page(request.uri().path(), registry, ready),
        Method::HEAD => {
            // The HTTP server would send the body along. It takes Content-Length from what it sends, so that is 0, whatever
            // GET would have; no header of ours is let through instead.
            page(request.uri().path(), registry, ready).map(|_| Body::default())
        }
        _ => text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is answered here\n",
        ),
    }
}

fn page(path: &str, registry: &Registry, ready: &AtomicBool) -> Response<Body> {
    match path {
        "/metrics" => metrics(registry),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ready\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /healthz and /readyz\n",
        ),
    }
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

fn text(status: StatusCode, line: &'static str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", line.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let kind = oxhttp::model::HeaderValue::from_static(kind);
    response.headers_mut().insert("content-type", kind);
    response
}
