//! Links over grpcio: how they are called, and the side that answers. The side that asks is `peer/asking`.

use std::sync::Arc;

use futures_channel::oneshot;
use grpcio::{
    DuplexSink, Method, MethodType, RequestStream, RpcContext, ServerStreamingSink, ServiceBuilder,
    UnarySink,
};

use super::super::connections::Connections;
use super::super::deadline::{self, Over};
use super::super::gate::Gate;
use super::super::pb;
use super::super::peer::Answering;
use super::super::service::{Service, Status};
use super::super::slice::Reply;
use super::read::send;
use super::stream::Stream;
use super::{Door, Request, caught, log_lost, raw};

const PATH: &str = "/corecache.peer.v1.Peer/Link";

const ANSWERED: Method<Request, Reply> = Method {
    ty: MethodType::Duplex,
    ..raw(PATH)
};

const TAKE: Method<pb::peer::Offer, pb::peer::Taken> =
    pb::method(MethodType::Unary, "/corecache.peer.v1.Peer/Take");

const READ_PATH: &str = "/corecache.peer.v1.Peer/Read";

const SENT: Method<Request, Reply> = Method {
    ty: MethodType::ServerStreaming,
    ..raw(READ_PATH)
};

/// The service for grpcio to register; its messages may have so many bytes.
pub(in super::super) fn service(
    service: &Arc<Service>,
    gate: &Arc<Gate>,
    connections: Connections,
    message_max_bytes: usize,
) -> grpcio::Service {
    let door = Door {
        service: service.clone(),
        gate: gate.clone(),
        connections,
    };
    let (taking, reading) = (door.clone(), door.clone());
    ServiceBuilder::new()
        .add_server_streaming_handler(&SENT, move |ctx, question, sink| {
            reading.on_peer_read(&ctx, question, sink);
        })
        .add_unary_handler(&TAKE, move |ctx, offer, sink| {
            taking.on_take(&ctx, &offer, sink);
        })
        .add_duplex_streaming_handler(&ANSWERED, move |ctx, requests, sink| {
            door.on_link(&ctx, requests, sink, message_max_bytes);
        })
        .build()
}

impl Door {
    fn on_take(
        &self,
        ctx: &RpcContext<'_>,
        offer: &pb::peer::Offer,
        sink: UnarySink<pb::peer::Taken>,
    ) {
        let (answer, settled) = oneshot::channel();
        let taken = caught(|| {
            self.service.take(offer, move |held| {
                // The call may be gone by then.
                let _ = answer.send(held);
            })
        });
        match taken {
            Err(status) => self.answer(ctx, sink, Err(status)),
            Ok(()) => self.answer_later(ctx, sink, async {
                let held = settled.await.map_err(|_| Status::stopping())?;
                let mut taken = pb::peer::Taken::new();
                taken.held = held;
                Ok(taken)
            }),
        }
    }

    fn on_peer_read(
        &self,
        ctx: &RpcContext<'_>,
        question: Request,
        sink: ServerStreamingSink<Reply>,
    ) {
        let reading =
            caught(|| question.with_bytes(|question| self.service.read_for_peer(question)));
        let (gate, outgoing) = (self.gate.clone(), self.service.outgoing.clone());
        let deadline = deadline::of(ctx);
        ctx.spawn(log_lost(async move {
            gate.pass().await;
            match reading {
                Ok(reading) => send(sink, reading, deadline, &outgoing).await,
                Err(status) => sink.fail(status.into()).await,
            }
        }));
    }

    fn on_link(
        &self,
        ctx: &RpcContext<'_>,
        requests: RequestStream<Request>,
        sink: DuplexSink<Reply>,
        message_max_bytes: usize,
    ) {
        let answering = Answering::new(&self.service, message_max_bytes);
        let closing = self.gate.closing();
        let stream = Stream::new(answering, requests, sink, closing, Over::of(ctx));
        ctx.spawn(log_lost(stream.run()));
    }
}
