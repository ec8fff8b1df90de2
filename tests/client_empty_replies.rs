//! A server that ends calls well and sends no message: none should, and no client may be lost by it. In the C-core, a call that
//! is over its time while the reply comes can end like that too.

mod support;

use std::thread;

use corecache::client::{Client, ClientError};
use corecache::server::pb;
use corecache::server::pb::cache::{
    Chunk, GetManyReply, GetManyRequest, GetRequest, ReadRequest, StatsReply, StatsRequest, Value,
};
use corecache::server::pb::cluster::{MembersReply, MembersRequest};
use futures_util::SinkExt;
use grpcio::{Method, MethodType, ServiceBuilder};
use protobuf::Message;
use support::cluster::timed;
use support::served::Served;
use support::{Node, corecache, folder, group, run};

/// A method of one reply, served as one of many: here, of none.
const fn emptily<Q: Message, R: Message>(path: &'static str) -> Method<Q, R> {
    pb::method(MethodType::ServerStreaming, path)
}

const GET: Method<GetRequest, Value> = emptily("/corecache.v1.Cache/Get");
const GET_MANY: Method<GetManyRequest, GetManyReply> = emptily("/corecache.v1.Cache/GetMany");
const READ: Method<ReadRequest, Chunk> = emptily("/corecache.v1.Cache/Read");
const STATS: Method<StatsRequest, StatsReply> = emptily("/corecache.v1.Cache/Stats");
const MEMBERS: Method<MembersRequest, MembersReply> = emptily("/corecache.v1.Cluster/Members");

fn speechless() -> Served {
    let service = serve(ServiceBuilder::new(), &GET);
    let service = serve(service, &GET_MANY);
    let service = serve(service, &READ);
    let service = serve(service, &STATS);
    Served::start(serve(service, &MEMBERS).build())
}

fn serve<Q: Message, R: Message>(service: ServiceBuilder, method: &Method<Q, R>) -> ServiceBuilder {
    service.add_server_streaming_handler(method, |call, _, mut replies| {
        call.spawn(async move {
            let _ = replies.close().await;
        });
    })
}

#[test]
fn a_client_says_so_and_goes_on() {
    let speechless = speechless();
    let client = Client::builder().node(speechless.addr.to_string());
    let client = client.build().unwrap();
    let ((), took) = timed(|| {
        for _ in 0..3 {
            let one = client.get("pages", "k").unwrap_err();
            let [many] = client.get_many("pages", &["k"]).try_into().unwrap();
            for error in [one, many.unwrap_err()] {
                assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
            }
        }
    });
    // Not one of them has waited for its deadline, which is 30 seconds.
    assert!(took < support::PATIENCE / 3, "{took:?}");
}

#[test]
fn another_node_is_asked() {
    let blobs = folder(&[("a", b"1")]);
    let node = Node::start(["--group", &group("blobs", &blobs)]);
    let speechless = speechless();
    let both = [speechless.addr.to_string(), node.addr.to_string()];
    let client = Client::builder().nodes(both).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(client.get("blobs", "a").unwrap(), b"1");
                }
            });
        }
    });
}

#[test]
fn a_command_says_so() {
    let speechless = speechless();
    let at = speechless.addr.to_string();
    let stats = (&["stats"][..], "no message");
    let get = (&["get", "pages", "k"][..], "ended before the value did");
    for (command, words) in [stats, get] {
        let output = run(corecache().args(command).args(["--node", &at]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(said.contains(&at) && said.contains(words), "{said}");
    }
}
