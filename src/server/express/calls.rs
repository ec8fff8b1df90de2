//! The calls that this door answers: from the protocol to the service core, and back.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use protobuf::Message;

use super::thread::Letter;
use super::waiters::{Held, Waiter, Waiters};
use super::{Body, Services};
use crate::engine::{Blob, Lent};
use crate::http2::{self, Answer, Handler, Method, Reply, Request, StreamId};
use crate::server::lookout::Caller;
use crate::server::mail::Slot;
use crate::server::outgoing::Encoded;
use crate::server::places::Token;
use crate::server::reflection;
use crate::server::service::{Code, Lookup, Many, Miss, Missing, Status};
use crate::server::wire::Malformed;
use crate::server::{pb, stats};

/// Larger messages are not copied into what is written, but referred to.
const COPY_MAX_BYTES: usize = 4096;
/// As [`COPY_MAX_BYTES`], for replies that were put together: a reference costs an allocation.
const COPY_ENCODED_MAX_BYTES: usize = 16 << 10;
/// Calls of a thread that others have in hand, those included whose callers have given them up.
const UNANSWERED_MAX: usize = 1 << 16;

/// What is called, by the number that the protocol gives back for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Name {
    Get,
    GetMany,
    Stats,
    Members,
    Peek,
    Weigh,
    TopKeys,
    Check,
    List,
    Reflection,
}

const NAMES: [(&str, Name); 11] = [
    ("/corecache.v1.Cache/Get", Name::Get),
    ("/corecache.v1.Cache/GetMany", Name::GetMany),
    ("/corecache.v1.Cache/Stats", Name::Stats),
    ("/corecache.v1.Cluster/Members", Name::Members),
    ("/corecache.v1.Cluster/Peek", Name::Peek),
    ("/corecache.v1.Cluster/Weigh", Name::Weigh),
    ("/corecache.v1.Cluster/TopKeys", Name::TopKeys),
    ("/grpc.health.v1.Health/Check", Name::Check),
    ("/grpc.health.v1.Health/List", Name::List),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Name::Reflection,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Name::Reflection,
    ),
];

/// Answers the calls of one connection, for one turn.
pub(super) struct Calls<'a> {
    pub services: &'a Arc<Services>,
    pub waiters: &'a mut Waiters,
    pub slot: &'a Slot<Letter>,
    pub token: Token,
    /// How many have been begun.
    pub count: &'a mut u64,
}

impl Handler for Calls<'_> {
    fn method(&mut self, path: &str) -> Result<Method, http2::Status> {
        match NAMES.iter().find(|(known, _)| *known == path) {
            Some((_, Name::Reflection)) => Ok(Method::Stream(Name::Reflection as u16)),
            Some((_, name)) => Ok(Method::Unary(*name as u16)),
            None => Err(elsewhere(path, self.services).into()),
        }
    }

    fn call(&mut self, request: Request<'_>, reply: Reply<'_>) {
        *self.count += 1;
        let mut reply = Some(reply);
        // A panic must not reach the thread, which has the connections of others.
        let answered = catch_unwind(AssertUnwindSafe(|| self.answer(&request, &mut reply)));
        let refusal = answered.unwrap_or_else(|_| Err(Status::internal()));
        if let (Err(status), Some(reply)) = (refusal, reply) {
            reply.failed(status.into());
        }
    }

    fn gone(&mut self, stream: StreamId) {
        self.waiters.remove((self.token, stream));
    }

    fn stall_limit(&self, at_most: Duration) -> Duration {
        self.services.service.outgoing.stall_limit(at_most)
    }
}

/// A reply that is taken by who answers.
type Open<'a> = Option<Reply<'a>>;

impl Calls<'_> {
    #[inline]
    fn answer(&mut self, request: &Request<'_>, reply: &mut Open<'_>) -> Result<(), Status> {
        if request.method == Name::Get as u16 {
            return self.get(request, reply);
        }
        if request.method == Name::GetMany as u16 {
            return self.get_many(request, reply);
        }
        self.answer_rare(request, reply)
    }

    fn answer_rare(&mut self, request: &Request<'_>, reply: &mut Open<'_>) -> Result<(), Status> {
        let name = NAMES.iter().find(|(_, n)| *n as u16 == request.method);
        let message = request.message;
        let services = self.services;
        match name.map_or(Name::Get, |(_, name)| *name) {
            Name::Get | Name::GetMany => Err(Status::internal()),
            Name::Stats => {
                read::<pb::cache::StatsRequest>(message, "StatsRequest")?;
                write(reply, &stats::reply(&services.service))
            }
            Name::Members => {
                let request = read(message, "MembersRequest")?;
                write(reply, &services.cluster.members(&request))
            }
            Name::Peek => {
                let request = read(message, "PeekRequest")?;
                write(reply, &services.cluster.peek(&request)?)
            }
            Name::Weigh => self.weigh(request, reply),
            Name::TopKeys => {
                let request = read(message, "TopKeysRequest")?;
                write(reply, &services.cluster.top_keys(&request)?)
            }
            Name::Check => {
                let request = read(message, "HealthCheckRequest")?;
                write(reply, &services.health.check(&request)?)
            }
            Name::List => {
                read::<pb::health::HealthListRequest>(message, "HealthListRequest")?;
                write(reply, &services.health.list())
            }
            Name::Reflection => {
                let request = read(message, "ServerReflectionRequest")?;
                write(reply, &reflection::respond(&services.reflection, request))
            }
        }
    }

    #[inline]
    fn get(&mut self, request: &Request<'_>, reply: &mut Open<'_>) -> Result<(), Status> {
        let services = self.services;
        let found = services
            .service
            .look_up(request.message, |lent| put_lent(reply, lent))?;
        match found {
            Lookup::Hit(()) => Ok(()),
            Lookup::Hot(encoded) => {
                put_encoded(reply, encoded);
                Ok(())
            }
            Lookup::Miss(miss) => self.load(&miss, request.deadline, reply),
        }
    }

    fn load(
        &mut self,
        miss: &Miss<'_>,
        deadline: Option<Instant>,
        reply: &mut Open<'_>,
    ) -> Result<(), Status> {
        let services = self.services;
        let seat = services.service.waiting.take_seat(miss.group)?;
        let waiter = Waiter {
            deadline,
            _seat: Some(seat),
            line: None,
        };
        let answering = self.wait(waiter, reply)?;
        services.service.load(miss, deadline, move |value| {
            answering.answer(value.map(|value| of_blob(value.frame())));
        });
        Ok(())
    }

    fn get_many(&mut self, request: &Request<'_>, reply: &mut Open<'_>) -> Result<(), Status> {
        let services = self.services;
        match services.service.look_up_many(request.message)? {
            Many::Reply(encoded) => {
                put_encoded(reply, encoded);
                Ok(())
            }
            Many::Missing(missing) => self.gather(missing, request.deadline, reply),
        }
    }

    fn gather(
        &mut self,
        missing: Missing<'_>,
        deadline: Option<Instant>,
        reply: &mut Open<'_>,
    ) -> Result<(), Status> {
        let services = self.services;
        let seat = services.service.waiting.take_seat(missing.group)?;
        let line = Arc::new(Held::default());
        let waiter = Waiter {
            deadline,
            _seat: Some(seat),
            line: Some(line.clone()),
        };
        let answering = self.wait(waiter, reply)?;
        let caller = Caller {
            deadline,
            line: Some(line),
        };
        services.service.gather(missing, caller, move |encoded| {
            answering.answer(encoded.map(|encoded| Answer::Held(Arc::new(encoded))));
        });
        Ok(())
    }

    /// What is held is walked over by a thread of its own, of which there is one at a time.
    fn weigh(&mut self, request: &Request<'_>, reply: &mut Open<'_>) -> Result<(), Status> {
        let weighing = read(request.message, "WeighRequest")?;
        let weighing = self.services.cluster.begin_weighing(&weighing)?;
        let waiter = Waiter {
            deadline: request.deadline,
            _seat: None,
            line: None,
        };
        let answering = self.wait(waiter, reply)?;
        let run = move || {
            let weighed = catch_unwind(AssertUnwindSafe(|| encode(&weighing.run())));
            let weighed = weighed.unwrap_or_else(|_| Err(Status::internal()));
            answering.answer(weighed.map(Answer::Message));
        };
        let thread = thread::Builder::new().name("weigh".to_owned()).spawn(run);
        // Where there is none, the answer is that of a call that was dropped.
        drop(thread);
        Ok(())
    }

    /// Puts the answer off.
    fn wait(&mut self, waiter: Waiter, reply: &mut Open<'_>) -> Result<Answering, Status> {
        if self.waiters.unanswered() >= UNANSWERED_MAX {
            let message = format!(
                "{UNANSWERED_MAX} calls of one thread wait for keys that are being loaded, or were given up by their callers \
                 while they are: try again later"
            );
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        let reply = reply.take().ok_or_else(Status::internal)?;
        let call = (self.token, reply.later());
        self.waiters.insert(call, waiter);
        Ok(Answering {
            call,
            slot: Some(self.slot.clone()),
        })
    }
}

/// An answer that is to come from another thread. Dropped without one, it is that the node is stopping.
struct Answering {
    call: (Token, StreamId),
    slot: Option<Slot<Letter>>,
}

impl Answering {
    fn answer(mut self, answer: Result<Answer, Status>) {
        self.put(answer);
    }

    fn put(&mut self, answer: Result<Answer, Status>) {
        if let Some(slot) = self.slot.take() {
            let answer = answer.unwrap_or_else(|status| Answer::Failed(status.into()));
            slot.put(Letter::Answer(self.call, answer));
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.put(Err(Status::stopping()));
    }
}

#[inline]
fn put_lent(reply: &mut Open<'_>, lent: &Lent) {
    let Some(reply) = reply.take() else { return };
    let frame = lent.value();
    if frame.len() <= COPY_MAX_BYTES {
        reply.message(|out| out.extend_from_slice(frame));
    } else {
        reply.held(Arc::new(lent.to_blob()));
    }
}

fn of_blob(frame: &Blob) -> Answer {
    if frame.len() <= COPY_MAX_BYTES {
        Answer::Message(frame.to_vec())
    } else {
        let body: Body = Arc::new(frame.clone());
        Answer::Held(body)
    }
}

fn put_encoded(reply: &mut Open<'_>, encoded: Encoded) {
    let Some(reply) = reply.take() else { return };
    if encoded.len() <= COPY_ENCODED_MAX_BYTES {
        reply.message(|out| out.extend_from_slice(&encoded));
    } else {
        reply.held(Arc::new(encoded));
    }
}

fn read<M: Message>(message: &[u8], name: &'static str) -> Result<M, Status> {
    M::parse_from_bytes(message).map_err(|_| Malformed(name).into())
}

fn encode(message: &impl Message) -> Result<Vec<u8>, Status> {
    message.write_to_bytes().map_err(|_| Status::internal())
}

fn write(reply: &mut Open<'_>, message: &impl Message) -> Result<(), Status> {
    let encoded = encode(message)?;
    let reply = reply.take().ok_or_else(Status::internal)?;
    reply.message(|out| out.extend_from_slice(&encoded));
    Ok(())
}

fn elsewhere(path: &str, services: &Services) -> Status {
    let message = format!(
        "{path} is not answered at the express door, which has the unary calls alone: the front door, {}, has all there are",
        place_of(services.front)
    );
    Status::new(Code::Unimplemented, message)
}

/// Where an address is, as who has called can use it.
fn place_of(address: SocketAddr) -> String {
    match address.ip().is_unspecified() {
        true => format!("port {} of this node", address.port()),
        false => address.to_string(),
    }
}

impl From<Status> for http2::Status {
    fn from(Status { code, message }: Status) -> Self {
        Self::new(http2::Code(code as u8), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_that_can_be_called() {
        let place = |text: &str| place_of(text.parse().unwrap());
        assert_eq!(place("10.0.0.1:8800"), "10.0.0.1:8800");
        assert_eq!(place("0.0.0.0:8800"), "port 8800 of this node");
        assert_eq!(place("[::]:8800"), "port 8800 of this node");
    }
}
