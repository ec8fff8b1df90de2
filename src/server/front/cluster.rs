//! `corecache.v1.Cluster` over grpcio.

use std::sync::Arc;
use std::thread;

use futures_channel::oneshot;
use grpcio::{RpcContext, ServiceBuilder, UnarySink};

use super::super::cluster::Cluster;
use super::super::connections::Connections;
use super::{Door, Gate, Service, Status, caught};
use crate::server::pb::cluster::{WeighReply, WeighRequest};
use crate::server::pb::{self, Received};

/// The service for grpcio to register. Its answers leave by `gate`.
pub(in super::super) fn service(
    service: &Arc<Service>,
    cluster: &Arc<Cluster>,
    gate: &Arc<Gate>,
    connections: Connections,
) -> grpcio::Service {
    let cluster = cluster.clone();
    let door = Door {
        service: service.clone(),
        gate: gate.clone(),
        connections,
    };
    let (members, peek, top, weigh) = (door.clone(), door.clone(), door.clone(), door);
    let (of_members, of_peek, of_top) = (cluster.clone(), cluster.clone(), cluster.clone());
    ServiceBuilder::new()
        .add_unary_handler(&pb::served(&pb::MEMBERS), move |ctx, request, sink| {
            let reply = caught(|| Ok(of_members.members(&request?)));
            members.answer(&ctx, sink, reply);
        })
        .add_unary_handler(&pb::served(&pb::PEEK), move |ctx, request, sink| {
            let reply = caught(|| of_peek.peek(&request?));
            peek.answer(&ctx, sink, reply);
        })
        .add_unary_handler(&pb::served(&pb::TOP_KEYS), move |ctx, request, sink| {
            let reply = caught(|| of_top.top_keys(&request?));
            top.answer(&ctx, sink, reply);
        })
        .add_unary_handler(&pb::served(&pb::WEIGH), move |ctx, request, sink| {
            weigh.on_weigh(&ctx, &cluster, request, sink);
        })
        .build()
}

impl Door {
    /// What is held is walked over by a thread of its own, of which there is one at a time.
    fn on_weigh(
        &self,
        ctx: &RpcContext<'_>,
        cluster: &Arc<Cluster>,
        request: Received<WeighRequest>,
        sink: UnarySink<WeighReply>,
    ) {
        let started = caught(|| {
            let weighing = cluster.begin_weighing(&request?)?;
            let (answer, weighed) = oneshot::channel();
            thread::Builder::new()
                .name("weigh".to_owned())
                // The call may be gone by then.
                .spawn(move || drop(answer.send(caught(|| Ok(weighing.run())))))
                .map_err(|_| Status::internal())?;
            Ok(weighed)
        });
        match started {
            Ok(weighed) => self.answer_later(ctx, sink, async {
                weighed.await.unwrap_or_else(|_| Err(Status::internal()))
            }),
            Err(status) => self.answer(ctx, sink, Err(status)),
        }
    }
}
