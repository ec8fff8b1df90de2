//! A client of a node, as a stock client is: no limits but grpcio's own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use corecache::server::pb;
use corecache::server::pb::cache::{Counters, GetManyReply, StatsReply, StatsRequest, Value};
use corecache::server::pb::health::health_check_response::ServingStatus;
use corecache::server::pb::health::{HealthCheckRequest, HealthCheckResponse};
use futures_executor::block_on;
use futures_util::StreamExt;
use grpcio::{
    CallOption, ChannelBuilder, Client as Stub, ClientSStreamReceiver, ClientUnaryReceiver,
    Environment, Error, Marshaller, Method, MethodType, RpcStatusCode,
};
use protobuf::Message;

use super::PATIENCE;

/// Why a call was not answered.
#[derive(Debug)]
pub struct Refusal {
    pub code: RpcStatusCode,
    pub text: String,
}

impl Refusal {
    /// Fails the test unless the refusal has this code and all of these words.
    #[track_caller]
    pub fn expect(&self, code: RpcStatusCode, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for word in words {
            assert!(self.text.contains(word), "no {word:?} in {self:?}");
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        match error {
            Error::RpcFailure(status) => Refusal {
                code: status.code(),
                text: status.message().to_owned(),
            },
            error => panic!("not the status of a call: {error:?}"),
        }
    }
}

/// A call that has been sent.
pub struct Pending(ClientUnaryReceiver<Vec<u8>>);

impl Pending {
    /// Waits for the value.
    pub fn value(mut self) -> Result<Vec<u8>, Refusal> {
        let (_, reply, _) = self.0.receive_sync()?;
        Ok(decode::<Value>(&reply).value)
    }
}

/// A client with one connection of its own.
pub struct Client(Stub);

impl Client {
    pub fn connect(addr: SocketAddr) -> Client {
        let env = Arc::new(Environment::new(1));
        Client(Stub::new(
            ChannelBuilder::new(env).connect(&addr.to_string()),
        ))
    }

    /// Makes a unary call with these bytes as the request.
    pub fn call(&self, path: &'static str, request: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        Ok(self.0.unary_call(&bytes(path), &request, patience())?)
    }

    pub fn get(&self, group: &str, key: impl AsRef<[u8]>) -> Result<Vec<u8>, Refusal> {
        self.start_get(group, key).value()
    }

    pub fn start_get(&self, group: &str, key: impl AsRef<[u8]>) -> Pending {
        let request = request(group, &[key.as_ref()]);
        let method = bytes("/corecache.v1.Cache/Get");
        let sent = self.0.unary_call_async(&method, &request, patience());
        Pending(sent.expect("a call can be sent"))
    }

    /// As `get`, by a caller that gives up after `timeout`.
    pub fn get_within(
        &self,
        timeout: Duration,
        group: &str,
        key: impl AsRef<[u8]>,
    ) -> Result<Vec<u8>, Refusal> {
        let request = request(group, &[key.as_ref()]);
        let method = bytes("/corecache.v1.Cache/Get");
        let options = CallOption::default().timeout(timeout);
        let reply = self.0.unary_call(&method, &request, options)?;
        Ok(decode::<Value>(&reply).value)
    }

    pub fn get_many(&self, group: &str, keys: &[&[u8]]) -> Result<GetManyReply, Refusal> {
        let reply = self.call("/corecache.v1.Cache/GetMany", request(group, keys))?;
        Ok(decode(&reply))
    }

    /// As `get_many`, by a caller that gives up after `timeout`.
    pub fn get_many_within(
        &self,
        timeout: Duration,
        group: &str,
        keys: &[&[u8]],
    ) -> Result<GetManyReply, Refusal> {
        let method = bytes("/corecache.v1.Cache/GetMany");
        let options = CallOption::default().timeout(timeout);
        let reply = self.0.unary_call(&method, &request(group, keys), options)?;
        Ok(decode(&reply))
    }

    pub fn stats(&self) -> StatsReply {
        let path = "/corecache.v1.Cache/Stats";
        let reply = self.call(path, encode(&StatsRequest::new()));
        decode(&reply.expect("a node tells its figures"))
    }

    /// What the only group, or all groups together, have done.
    pub fn counters(&self) -> Counters {
        self.stats().total.unwrap_or_default()
    }

    pub fn health(&self, service: &str) -> Result<ServingStatus, Refusal> {
        let path = "/grpc.health.v1.Health/Check";
        let reply = self.call(path, encode(&health_request(service)))?;
        Ok(decode::<HealthCheckResponse>(&reply).status.unwrap())
    }

    pub fn watch_health(&self, service: &str) -> Watch {
        let path = "/grpc.health.v1.Health/Watch";
        let method = pb::method(MethodType::ServerStreaming, path);
        let watch = self
            .0
            .server_streaming(&method, &health_request(service), patience());
        Watch(watch.expect("a call can be sent"))
    }
}

/// An open watch of a service's health.
pub struct Watch(ClientSStreamReceiver<HealthCheckResponse>);

impl Watch {
    /// Waits for the next status; none when the node has ended the watch.
    pub fn next(&mut self) -> Option<ServingStatus> {
        let response = block_on(self.0.next())?;
        Some(response.expect("a watch goes on").status.unwrap())
    }
}

/// A limit for calls that are expected to end long before it.
fn patience() -> CallOption {
    CallOption::default().timeout(PATIENCE)
}

/// A `GetRequest`, or a `GetManyRequest`: they only differ in how many keys there are.
pub fn request(group: &str, keys: &[&[u8]]) -> Vec<u8> {
    let mut request = Vec::new();
    put(&mut request, 1, group.as_bytes());
    for key in keys {
        put(&mut request, 2, key);
    }
    request
}

fn put(message: &mut Vec<u8>, number: u8, field: &[u8]) {
    message.push(number << 3 | 2);
    let mut len = field.len();
    while len >= 0x80 {
        message.push(len as u8 | 0x80);
        len >>= 7;
    }
    message.push(len as u8);
    message.extend(field);
}

fn health_request(service: &str) -> HealthCheckRequest {
    let mut request = HealthCheckRequest::new();
    request.service = service.to_owned();
    request
}

fn encode(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().expect("a message can be encoded")
}

fn decode<M: Message>(bytes: &[u8]) -> M {
    M::parse_from_bytes(bytes).expect("a node sends valid messages")
}

/// A unary method whose messages are left as they are on the wire.
fn bytes(path: &'static str) -> Method<Vec<u8>, Vec<u8>> {
    const BYTES: Marshaller<Vec<u8>> = Marshaller {
        ser: |bytes, slice| {
            *slice = bytes.clone().into();
            Ok(())
        },
        de: |mut reader| {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut bytes)
                .map_err(|error| Error::Codec(Box::new(error)))?;
            Ok(bytes)
        },
    };
    Method {
        ty: MethodType::Unary,
        name: path,
        req_mar: BYTES,
        resp_mar: BYTES,
    }
}
