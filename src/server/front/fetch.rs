//! `Fetch` over grpcio.

use grpcio::{DuplexSink, Method, MethodType, RequestStream, RpcContext};

use super::super::deadline::{self, Over};
use super::super::fetch::Fetch;
use super::super::slice::Reply;
use super::stream::Stream;
use super::{Door, Request, log_lost, raw};

pub(super) const FETCH: Method<Request, Reply> = Method {
    ty: MethodType::Duplex,
    ..raw("/corecache.v1.Cache/Fetch")
};

impl Door {
    pub(super) fn on_fetch(
        &self,
        ctx: &RpcContext<'_>,
        requests: RequestStream<Request>,
        sink: DuplexSink<Reply>,
    ) {
        let fetch = Fetch::new(&self.service, deadline::of(ctx));
        let stream = Stream::new(fetch, requests, sink, self.gate.closing(), Over::of(ctx));
        ctx.spawn(log_lost(stream.run()));
    }
}
