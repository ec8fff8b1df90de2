//! Servers that say what no node says: calls fail, and neither the client nor the program goes with them.

mod support;

use std::time::Duration;

use corecache::client::{BuildClientError, Client, ClientError};
use corecache::server::pb;
use corecache::server::pb::cache::{Chunk, GetRequest, ReadRequest, Value};
use corecache::server::pb::cluster::{ClusterMember, MembersReply, MembersRequest};
use futures_util::SinkExt;
use grpcio::{Method, MethodType, RpcStatus, RpcStatusCode, ServiceBuilder, WriteFlags};
use support::served::Served;

const GET: Method<GetRequest, Value> = pb::method(MethodType::Unary, "/corecache.v1.Cache/Get");
const READ: Method<ReadRequest, Chunk> =
    pb::method(MethodType::ServerStreaming, "/corecache.v1.Cache/Read");
const MEMBERS: Method<MembersRequest, MembersReply> =
    pb::method(MethodType::Unary, "/corecache.v1.Cluster/Members");

/// What a value has, as the server says.
const SAID_BYTES: u64 = 100;
const CHUNK_BYTES: usize = 60;

/// A server that knows the members at these addresses, has each small value, and sends of large ones chunk after chunk.
fn odd(members: &'static [&'static str]) -> Served {
    let service = ServiceBuilder::new()
        .add_unary_handler(&MEMBERS, move |_, _, sink| {
            drop(sink.success(reply(members)));
        })
        .add_unary_handler(&GET, |_, request: GetRequest, sink| {
            drop(match &*request.key {
                "large" => sink.fail(RpcStatus::new(RpcStatusCode::OUT_OF_RANGE)),
                _ => sink.success(Value::new()),
            });
        })
        .add_server_streaming_handler(&READ, |call, _, mut chunks| {
            call.spawn(async move {
                let mut chunk = Chunk::new();
                (chunk.value_bytes, chunk.data) = (SAID_BYTES, vec![7; CHUNK_BYTES]);
                let flags = WriteFlags::default();
                while chunks.send((chunk.clone(), flags)).await.is_ok() {}
            });
        });
    Served::start(service.build())
}

fn client(odd: &Served) -> Client {
    let builder = Client::builder().node(odd.addr.to_string());
    let builder = builder.refresh(Duration::from_millis(100));
    builder.deadline(Duration::from_secs(3)).build().unwrap()
}

fn reply(members: &[&str]) -> MembersReply {
    let mut reply = MembersReply::new();
    reply.epoch = 7;
    reply.members = members
        .iter()
        .map(|address| {
            let mut member = ClusterMember::new();
            (member.address, member.weight) = ((*address).to_owned(), 100);
            member
        })
        .collect();
    reply
}

#[test]
fn members_at_what_is_no_address_are_none() {
    let odd = odd(&["127.0.0.1:1", "a\0b:1"]);
    let client = client(&odd);
    for _ in 0..3 {
        assert_eq!(client.get("pages", "k"), Ok(Vec::new()));
    }
    assert_eq!(client.view().members().len(), 0);
}

#[test]
fn a_client_of_what_is_no_address_is_not_made() {
    let made = Client::builder().node("a:1").node("a\0b:1").build();
    assert!(matches!(made.err(), Some(BuildClientError::Address(address)) if address == "a\0b:1"));
}

#[test]
fn no_more_is_taken_of_a_value_than_it_was_said_to_have() {
    let odd = odd(&[]);
    let client = client(&odd);
    let error = client.get("pages", "large").unwrap_err();
    let is_said = matches!(&error, ClientError::Failed { code, .. } if code == "INTERNAL");
    assert!(
        is_said && error.to_string().contains("100 bytes"),
        "{error}"
    );
    for (offset, length, most) in [(0, 0, SAID_BYTES), (50, 0, 50), (0, 70, 70)] {
        let mut taken = 0;
        let read = client.read("pages", "k", offset, length, |chunk| {
            taken += chunk.len() as u64;
            true
        });
        assert!(read.is_err() && taken <= most, "{taken} of {most} bytes");
    }
}
