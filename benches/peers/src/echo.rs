//! A bare tonic server on one thread: `Get` that looks nothing up, and always answers with the same bytes.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Clone, PartialEq, prost_tonic::Message)]
#[prost(prost_path = "::prost_tonic")]
struct GetRequest {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(string, tag = "2")]
    key: String,
}

#[derive(Clone, PartialEq, prost_tonic::Message)]
#[prost(prost_path = "::prost_tonic")]
struct Value {
    #[prost(bytes = "bytes", tag = "1")]
    value: Bytes,
}

/// Answers with this.
#[derive(Clone)]
struct Get(Bytes);

impl UnaryService<GetRequest> for Get {
    type Response = Value;
    type Future = BoxFuture<Response<Value>, Status>;

    fn call(&mut self, _request: Request<GetRequest>) -> Self::Future {
        let value = self.0.clone();
        Box::pin(async { Ok(Response::new(Value { value })) })
    }
}

/// What tonic's generator makes of a service with one method.
#[derive(Clone)]
struct Cache(Get);

impl NamedService for Cache {
    const NAME: &'static str = "corecache.v1.Cache";
}

impl Service<http::Request<tonic::body::Body>> for Cache {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let get = self.0.clone();
        Box::pin(async {
            let codec = tonic_prost::ProstCodec::default();
            Ok(Grpc::new(codec).unary(get, request).await)
        })
    }
}

/// Serves values of so many bytes until the process is killed.
pub fn serve(value_bytes: usize) -> ! {
    let get = Get(vec![b'x'; value_bytes].into());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build();
    let served = runtime.expect("a runtime").block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound address");
        println!("listening on {addr}");
        // As tonic does where it binds itself.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder()
            .add_service(Cache(get))
            .serve_with_incoming(incoming)
            .await
    });
    panic!("the echo ended: {served:?}");
}
