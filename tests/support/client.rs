//! A client of a node, as a stock client is: no limits but grpcio's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use corecache::server::pb;
use corecache::server::pb::cache::{
    Chunk, Counters, FetchReply, GetManyReply, ReadRequest, StatsReply, StatsRequest, Value,
};
use corecache::server::pb::health::health_check_response::ServingStatus;
use corecache::server::pb::health::{HealthCheckRequest, HealthCheckResponse};
use futures_executor::block_on;
use futures_util::{SinkExt, StreamExt};
use grpcio::{
    CallOption, ChannelBuilder, Client as Stub, ClientDuplexReceiver, ClientDuplexSender,
    ClientSStreamReceiver, ClientUnaryReceiver, CompressionAlgorithms, Environment, Error,
    Marshaller, MetadataBuilder, Method, MethodType, RpcStatusCode, WriteFlags,
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
        Client(Stub::new(channel().connect(&addr.to_string())))
    }

    /// A client that is sent no more than it has room for, however fast the connection is.
    pub fn connect_narrow(addr: SocketAddr) -> Client {
        let channel = channel().http2_bdp_probe(false);
        Client(Stub::new(channel.connect(&addr.to_string())))
    }

    /// A client that compresses what it sends.
    pub fn connect_compressing(addr: SocketAddr) -> Client {
        let gzip = CompressionAlgorithms::GRPC_COMPRESS_GZIP;
        let channel = channel().default_compression_algorithm(gzip);
        Client(Stub::new(channel.connect(&addr.to_string())))
    }

    /// Makes a unary call with these bytes as the request.
    pub fn call(&self, path: &'static str, request: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        Ok(self.0.unary_call(&bytes(path), &request, patience())?)
    }

    pub fn get(&self, group: &str, key: impl AsRef<[u8]>) -> Result<Vec<u8>, Refusal> {
        self.start_get(group, key).value()
    }

    /// As `get`, with something in its metadata.
    pub fn get_saying(
        &self,
        said: &str,
        group: &str,
        key: impl AsRef<[u8]>,
    ) -> Result<Vec<u8>, Refusal> {
        let mut metadata = MetadataBuilder::new();
        metadata.add_str("said", said).expect("it is plain text");
        let options = patience().headers(metadata.build());
        let request = request(group, &[key.as_ref()]);
        let method = bytes("/corecache.v1.Cache/Get");
        let reply = self.0.unary_call(&method, &request, options)?;
        Ok(decode::<Value>(&reply).value)
    }

    pub fn start_get(&self, group: &str, key: impl AsRef<[u8]>) -> Pending {
        self.start_get_within(PATIENCE, group, key)
    }

    /// As `start_get`, by a caller that gives up after `timeout`.
    pub fn start_get_within(
        &self,
        timeout: Duration,
        group: &str,
        key: impl AsRef<[u8]>,
    ) -> Pending {
        let request = request(group, &[key.as_ref()]);
        let method = bytes("/corecache.v1.Cache/Get");
        let options = CallOption::default().timeout(timeout);
        let sent = self.0.unary_call_async(&method, &request, options);
        Pending(sent.expect("a call can be sent"))
    }

    /// As `start_get`, by a caller without a deadline.
    pub fn start_endless_get(&self, group: &str, key: impl AsRef<[u8]>) -> Pending {
        self.start_endless("/corecache.v1.Cache/Get", request(group, &[key.as_ref()]))
    }

    /// As `get_many`, by a caller without a deadline, and only begun.
    pub fn start_endless_get_many(&self, group: &str, keys: &[&[u8]]) -> Pending {
        self.start_endless("/corecache.v1.Cache/GetMany", request(group, keys))
    }

    fn start_endless(&self, path: &'static str, request: Vec<u8>) -> Pending {
        let method = bytes(path);
        let sent = self
            .0
            .unary_call_async(&method, &request, CallOption::default());
        Pending(sent.expect("a call can be sent"))
    }

    /// As `get`, by a caller that gives up after `timeout`.
    pub fn get_within(
        &self,
        timeout: Duration,
        group: &str,
        key: impl AsRef<[u8]>,
    ) -> Result<Vec<u8>, Refusal> {
        self.start_get_within(timeout, group, key).value()
    }

    pub fn get_many(&self, group: &str, keys: &[&[u8]]) -> Result<GetManyReply, Refusal> {
        let reply = self.call("/corecache.v1.Cache/GetMany", request(group, keys))?;
        Ok(decode(&reply))
    }

    /// Begins to read a value, or a part of it, for `timeout` at the most.
    pub fn start_read(
        &self,
        timeout: Duration,
        group: &str,
        key: &str,
        offset: u64,
        length: u64,
    ) -> Reader {
        let request = ReadRequest {
            group: group.to_owned(),
            key: key.to_owned(),
            offset,
            length,
            ..ReadRequest::default()
        };
        let path = "/corecache.v1.Cache/Read";
        let method = pb::method(MethodType::ServerStreaming, path);
        let options = CallOption::default().timeout(timeout);
        let reader = self.0.server_streaming(&method, &request, options);
        Reader(reader.expect("a call can be sent"))
    }

    /// The size of a value, and the part of it that was asked for.
    pub fn read(
        &self,
        group: &str,
        key: &str,
        offset: u64,
        length: u64,
    ) -> Result<(u64, Vec<u8>), Refusal> {
        // It may be hundreds of MiB.
        let mut reader = self.start_read(5 * PATIENCE, group, key, offset, length);
        let first = reader.next()?.expect("an answer has a first chunk");
        let (value_bytes, mut read) = (first.value_bytes, first.data);
        while let Some(chunk) = reader.next()? {
            assert_eq!(chunk.value_bytes, 0, "only the first chunk tells the size");
            assert!(!chunk.data.is_empty(), "a chunk that says nothing");
            read.extend(chunk.data);
        }
        Ok((value_bytes, read))
    }

    /// Opens a stream of keys and values.
    pub fn fetch(&self) -> Fetch {
        self.fetch_within(PATIENCE)
    }

    /// As `fetch`, by a caller that gives up after `timeout`.
    pub fn fetch_within(&self, timeout: Duration) -> Fetch {
        let method = Method {
            ty: MethodType::Duplex,
            ..bytes("/corecache.v1.Cache/Fetch")
        };
        let options = CallOption::default().timeout(timeout);
        let stream = self.0.duplex_streaming(&method, options);
        let (asking, reading) = stream.expect("a call can be begun");
        Fetch {
            asking: Asking(asking),
            reading: Reading {
                replies: reading,
                hot: Vec::new(),
            },
        }
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

/// What became of a key: its value, or the code of its failure and what is said of it.
pub type Fetched = Result<Vec<u8>, (i32, String)>;

/// An open stream of keys and values.
pub struct Fetch {
    pub asking: Asking,
    pub reading: Reading,
}

impl Fetch {
    /// Asks for keys, the first of which has this id. Waits while the node takes no more requests.
    pub fn ask(&mut self, group: &str, first_id: u64, keys: &[&[u8]]) {
        self.asking.ask(group, first_id, keys);
    }

    /// Has no more requests.
    pub fn close(&mut self) {
        self.asking.close();
    }

    /// Waits for a reply; none at the end of the call, if it ends well.
    pub fn next(&mut self) -> Result<Option<BTreeMap<u64, Fetched>>, Refusal> {
        self.reading.next()
    }

    /// Waits for so many answers.
    pub fn answers(&mut self, count: usize) -> BTreeMap<u64, Fetched> {
        self.reading.answers(count)
    }
}

/// The client's side of a stream.
pub struct Asking(ClientDuplexSender<Vec<u8>>);

impl Asking {
    /// See [`Fetch::ask`].
    pub fn ask(&mut self, group: &str, first_id: u64, keys: &[&[u8]]) {
        self.send(fetch_request(group, first_id, keys));
    }

    /// Sends these bytes as a request.
    pub fn send(&mut self, request: Vec<u8>) {
        let sent = self.0.send((request, WriteFlags::default()));
        block_on(sent).expect("the call goes on");
    }

    /// As `send`, where the node may be quicker to end the call.
    pub fn send_in_vain(&mut self, request: Vec<u8>) {
        let _ = block_on(self.0.send((request, WriteFlags::default())));
    }

    /// See [`Fetch::close`].
    pub fn close(&mut self) {
        // It fails if the node is quicker with its answer to that: the end of the call, which `next` tells.
        let _ = block_on(self.0.close());
    }
}

/// The node's side of a stream.
pub struct Reading {
    replies: ClientDuplexReceiver<Vec<u8>>,
    /// Ids of keys that the node has said to be hot.
    pub hot: Vec<u64>,
}

impl Reading {
    /// See [`Fetch::next`].
    pub fn next(&mut self) -> Result<Option<BTreeMap<u64, Fetched>>, Refusal> {
        let Some(reply) = block_on(self.replies.next()) else {
            return Ok(None);
        };
        let reply = reply?;
        assert!(reply.len() <= 4 << 20, "a reply of {} bytes", reply.len());
        let mut answers = BTreeMap::new();
        let reply = decode::<FetchReply>(&reply);
        self.hot.extend(reply.hot_keys.iter().map(|key| key.id));
        for answer in reply.answers {
            let fetched = if answer.has_value() {
                Ok(answer.value().value.clone())
            } else {
                assert!(answer.has_failure(), "an answer is one of the two");
                Err((answer.failure().code, answer.failure().message.clone()))
            };
            assert!(
                answers.insert(answer.id, fetched).is_none(),
                "{} twice",
                answer.id
            );
        }
        Ok(Some(answers))
    }

    /// See [`Fetch::answers`].
    pub fn answers(&mut self, count: usize) -> BTreeMap<u64, Fetched> {
        let mut answers = BTreeMap::new();
        while answers.len() < count {
            let reply = self.next().expect("the call goes on");
            for (id, answer) in reply.expect("the call goes on") {
                assert!(answers.insert(id, answer).is_none(), "{id} twice");
            }
        }
        assert_eq!(answers.len(), count);
        answers
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

/// A value that is being read. Dropped before its end, it cancels the call.
pub struct Reader(ClientSStreamReceiver<Chunk>);

impl Reader {
    /// Waits for the next chunk; none at the end.
    pub fn next(&mut self) -> Result<Option<Chunk>, Refusal> {
        Ok(block_on(self.0.next()).transpose()?)
    }
}

/// A channel that shares its connection with no other to the same node.
fn channel() -> ChannelBuilder {
    let channel = ChannelBuilder::new(Arc::new(Environment::new(1)));
    channel.raw_cfg_int(c"grpc.use_local_subchannel_pool".into(), 1)
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

/// A `FetchRequest`.
pub fn fetch_request(group: &str, first_id: u64, keys: &[&[u8]]) -> Vec<u8> {
    let mut request = request(group, keys);
    request.push(3 << 3);
    put_varint(&mut request, first_id);
    request
}

fn put(message: &mut Vec<u8>, number: u8, field: &[u8]) {
    message.push(number << 3 | 2);
    put_varint(message, field.len() as u64);
    message.extend(field);
}

fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        message.push(number as u8 | 0x80);
        number >>= 7;
    }
    message.push(number as u8);
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
