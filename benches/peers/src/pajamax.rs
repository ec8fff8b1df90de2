//! A bare pajamax server, a thread a connection: `Get` that looks nothing up, and always answers with the same bytes.

use std::net::SocketAddr;

use pajamax::error::Error;
use pajamax::status::Status;
use pajamax::{Config, PajamaxService, local_build_response};
use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct GetRequest {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(string, tag = "2")]
    key: String,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(bytes = "bytes", tag = "1")]
    value: bytes::Bytes,
}

/// What pajamax's generator makes of a service with one method; answers with this.
struct Cache(bytes::Bytes);

impl PajamaxService for Cache {
    fn route(&self, path: &[u8]) -> Option<usize> {
        (path == b"/corecache.v1.Cache/Get" || path == b"corecache.v1.Cache/Get").then_some(0)
    }

    fn handle(&self, _: usize, request: &[u8], stream: u32, len: usize) -> Result<(), Error> {
        GetRequest::decode(request)?;
        let value = self.0.clone();
        local_build_response(stream, Ok::<_, Status>(Value { value }), len)
    }

    fn is_dispatch_mode(&self) -> bool {
        false
    }
}

/// Serves values of so many bytes until the process is killed.
pub fn serve(addr: SocketAddr, value_bytes: usize) -> ! {
    let cache = Cache(vec![b'x'; value_bytes].into());
    let served = Config::new().add_service(cache).serve(addr);
    panic!("pajamax ended: {served:?}");
}
