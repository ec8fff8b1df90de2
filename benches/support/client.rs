//! A gRPC client of a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use corecache::server::pb;
use corecache::server::pb::cache::{GetRequest, StatsReply, StatsRequest, Value};
use grpcio::{CallOption, ChannelBuilder, Client, Environment, Method, MethodType, Result};

pub const GROUP: &str = "blobs";

pub const GET: Method<GetRequest, Value> = pb::method(MethodType::Unary, "/corecache.v1.Cache/Get");

const STATS: Method<StatsRequest, StatsReply> =
    pb::method(MethodType::Unary, "/corecache.v1.Cache/Stats");

/// Clients with a connection each, all of them on one thread.
pub fn connect(addr: SocketAddr, connections: usize) -> Vec<Client> {
    let env = Arc::new(Environment::new(1));
    let client = |_| {
        // Otherwise channels to one address share a connection.
        let channel = ChannelBuilder::new(env.clone()).use_local_subchannel_pool(true);
        Client::new(channel.connect(&addr.to_string()))
    };
    (0..connections).map(client).collect()
}

pub fn get_request(key: &str) -> GetRequest {
    GetRequest {
        group: GROUP.to_owned(),
        key: key.to_owned(),
        ..GetRequest::default()
    }
}

/// A limit for calls that are expected to end long before it.
pub fn patience() -> CallOption {
    CallOption::default().timeout(Duration::from_secs(60))
}

pub fn get(client: &Client, key: &str) -> Result<Vec<u8>> {
    let value = client.unary_call(&GET, &get_request(key), patience());
    value.map(|value| value.value)
}

pub fn stats(client: &Client) -> StatsReply {
    let reply = client.unary_call(&STATS, &StatsRequest::new(), patience());
    reply.expect("a node answers Stats")
}
