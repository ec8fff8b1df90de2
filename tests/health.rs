//! The health service, asked by a real client over a real socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use corecache::server::health::{CHECK, Health, LIST, Status, WATCH};
use corecache::server::pb::health::health_check_response::ServingStatus;
use corecache::server::pb::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest};
use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{
    CallOption, ChannelBuilder, Client, ClientSStreamReceiver, Environment, Error, RpcStatus,
    RpcStatusCode, Server, ServerBuilder, ServerCredentials,
};

const CACHE: &str = "corecache.v1.Cache";

/// A server with nothing but `health`, and a client that is connected to it.
fn start(health: &Health) -> (Server, Client) {
    let env = Arc::new(Environment::new(1));
    let mut server = ServerBuilder::new(env.clone())
        .register_service(health.service())
        .build()
        .unwrap();
    let port = server
        .add_listening_port("127.0.0.1:0", ServerCredentials::insecure())
        .unwrap();
    server.start();
    let channel = ChannelBuilder::new(env).connect(&format!("127.0.0.1:{port}"));
    (server, Client::new(channel))
}

/// A limit for calls that are expected to end long before it.
fn patience() -> CallOption {
    CallOption::default().timeout(Duration::from_secs(30))
}

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
        ..HealthCheckRequest::default()
    }
}

fn check(client: &Client, service: &str) -> Result<ServingStatus, RpcStatusCode> {
    let reply = client.unary_call(&CHECK, &request(service), patience());
    reply
        .map(status_of)
        .map_err(|error| rpc_status(error).code())
}

struct Watch(ClientSStreamReceiver<HealthCheckResponse>);

impl Watch {
    fn open(client: &Client, service: &str) -> Watch {
        let receiver = client.server_streaming(&WATCH, &request(service), patience());
        Watch(receiver.unwrap())
    }

    /// Waits for the next status, or for the code that the watch ends with.
    fn next(&mut self) -> Result<ServingStatus, RpcStatusCode> {
        match block_on(self.0.next()) {
            Some(Ok(response)) => Ok(status_of(response)),
            Some(Err(error)) => Err(rpc_status(error).code()),
            None => Err(RpcStatusCode::OK),
        }
    }
}

fn status_of(response: HealthCheckResponse) -> ServingStatus {
    response.status.unwrap()
}

fn rpc_status(error: Error) -> RpcStatus {
    match error {
        Error::RpcFailure(status) => status,
        error => panic!("not the status of a call: {error:?}"),
    }
}

#[test]
fn check_tells_the_status_of_each_service() {
    let health = Health::new();
    let (_server, client) = start(&health);
    assert_eq!(check(&client, ""), Ok(ServingStatus::NOT_SERVING));

    health.set("", Status::Serving);
    health.set(CACHE, Status::NotServing);
    assert_eq!(check(&client, ""), Ok(ServingStatus::SERVING));
    assert_eq!(check(&client, CACHE), Ok(ServingStatus::NOT_SERVING));

    health.set(CACHE, Status::Serving);
    assert_eq!(check(&client, CACHE), Ok(ServingStatus::SERVING));
    health.set_all_not_serving();
    assert_eq!(check(&client, ""), Ok(ServingStatus::NOT_SERVING));
    assert_eq!(check(&client, CACHE), Ok(ServingStatus::NOT_SERVING));
}

#[test]
fn check_of_an_unknown_service_is_not_found() {
    let (_server, client) = start(&Health::new());
    let reply = client.unary_call(&CHECK, &request("corecache.v1.Teapot"), patience());
    let status = rpc_status(reply.unwrap_err());
    assert_eq!(status.code(), RpcStatusCode::NOT_FOUND);
    assert!(status.message().contains("corecache.v1.Teapot"));
}

#[test]
fn a_name_without_end_is_refused() {
    let (_server, client) = start(&Health::new());
    let name = "x".repeat(1 << 20);
    let refused = Err(RpcStatusCode::INVALID_ARGUMENT);
    assert_eq!(check(&client, &name), refused);
    assert_eq!(Watch::open(&client, &name).next(), refused);
}

#[test]
fn list_tells_all_statuses() {
    let health = Health::new();
    let (_server, client) = start(&health);
    health.set(CACHE, Status::Serving);

    let list = client
        .unary_call(&LIST, &HealthListRequest::new(), patience())
        .unwrap();
    let mut statuses: Vec<_> = list
        .statuses
        .into_iter()
        .map(|(service, response)| (service, status_of(response)))
        .collect();
    statuses.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        statuses,
        [
            (String::new(), ServingStatus::NOT_SERVING),
            (CACHE.to_owned(), ServingStatus::SERVING),
        ]
    );
}

#[test]
fn a_watch_tells_each_change() {
    let health = Health::new();
    let (_server, client) = start(&health);
    let mut node = Watch::open(&client, "");
    let mut cache = Watch::open(&client, CACHE);
    assert_eq!(node.next(), Ok(ServingStatus::NOT_SERVING));
    assert_eq!(cache.next(), Ok(ServingStatus::SERVICE_UNKNOWN));

    health.set(CACHE, Status::Serving);
    assert_eq!(cache.next(), Ok(ServingStatus::SERVING));
    health.set(CACHE, Status::Serving);
    health.set(CACHE, Status::NotServing);
    assert_eq!(cache.next(), Ok(ServingStatus::NOT_SERVING));

    // What happened to the cache was no news to the other watch.
    health.set("", Status::Serving);
    assert_eq!(node.next(), Ok(ServingStatus::SERVING));
}

#[test]
fn close_ends_watches_so_that_the_server_can_stop() {
    let health = Health::new();
    let (mut server, client) = start(&health);
    health.set(CACHE, Status::Serving);
    let mut known = Watch::open(&client, CACHE);
    let mut unknown = Watch::open(&client, "corecache.v1.Teapot");
    assert_eq!(known.next(), Ok(ServingStatus::SERVING));
    assert_eq!(unknown.next(), Ok(ServingStatus::SERVICE_UNKNOWN));

    health.close();
    assert_eq!(known.next(), Ok(ServingStatus::NOT_SERVING));
    assert_eq!(known.next(), Err(RpcStatusCode::OK));
    assert_eq!(unknown.next(), Err(RpcStatusCode::OK));

    // Nothing brings a closed node back, and a late watch is told so.
    health.set(CACHE, Status::Serving);
    let mut late = Watch::open(&client, CACHE);
    assert_eq!(late.next(), Ok(ServingStatus::NOT_SERVING));
    assert_eq!(late.next(), Err(RpcStatusCode::OK));
    block_on(server.shutdown()).unwrap();
}

#[test]
fn watches_are_bounded_and_those_that_leave_make_room() {
    let health = Health::new();
    let (_server, client) = start(&health);
    let mut watches = Vec::new();
    let refusal = loop {
        let mut watch = Watch::open(&client, "");
        match watch.next() {
            Ok(_) => watches.push(watch),
            Err(refusal) => break refusal,
        }
        assert!(watches.len() <= 10_000, "watches have no bound");
    };
    assert_eq!(refusal, RpcStatusCode::RESOURCE_EXHAUSTED);

    watches.pop();
    let start = Instant::now();
    while Watch::open(&client, "").next().is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "no room was made"
        );
    }
    // Those that stayed are told of changes as before.
    health.set("", Status::Serving);
    for watch in &mut watches {
        assert_eq!(watch.next(), Ok(ServingStatus::SERVING));
    }
}
