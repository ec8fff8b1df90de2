//! A call to a node, over grpcio: how it is made, how it is waited for, and what it may end with.

use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError};
use futures_util::{Stream, StreamExt};
use grpcio::{CallOption, GrpcSlice, Marshaller, Method, MethodType, RpcStatusCode};
use protobuf::Message;

use super::dial::Stub;
use crate::server::pb;

/// What the gRPC core says when the time of a call is over; a node says more.
const OWN_DEADLINE: &str = "Deadline Exceeded";

/// A method whose request is encoded already: keys are bytes, and the generated messages take text.
pub(super) const fn asking<R: Message>(path: &'static str) -> Method<Vec<u8>, R> {
    Method {
        ty: MethodType::Unary,
        name: path,
        req_mar: Marshaller {
            ser: |bytes, slice| {
                *slice = GrpcSlice::from(bytes.as_slice());
                Ok(())
            },
            de: |_| Ok(Vec::new()),
        },
        resp_mar: Marshaller {
            ser: grpcio::pb_ser,
            de: grpcio::pb_de,
        },
    }
}

/// Why a call brought nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The node has answered with this status.
    Said(String, String),
    /// The node could not be reached, or is stopping, or silent: another one may be asked.
    Lost(String),
    /// The time of the call is over.
    Late,
}

impl From<grpcio::Error> for Fault {
    fn from(error: grpcio::Error) -> Self {
        let (grpcio::Error::RpcFailure(status) | grpcio::Error::RpcFinished(Some(status))) = error
        else {
            return Self::Lost(error.to_string());
        };
        let message = status.message().to_owned();
        match status.code() {
            RpcStatusCode::DEADLINE_EXCEEDED if message == OWN_DEADLINE => Self::Late,
            RpcStatusCode::UNAVAILABLE if !is_of_origin(&message) => Self::Lost(message),
            // What the core says of a stream whose connection ends in the middle of it.
            RpcStatusCode::CANCELLED => Self::Lost(message),
            RpcStatusCode::INTERNAL | RpcStatusCode::UNKNOWN
                if message.contains("RST_STREAM") || message.contains("Stream removed") =>
            {
                Self::Lost(message)
            }
            code => Self::Said(name_of(code), message),
        }
    }
}

/// Whether a node says of a key that its origin failed. Another node would ask the same origin, and that once more.
fn is_of_origin(message: &str) -> bool {
    message.starts_with("key ") && message.contains(" could not be loaded: ")
}

/// `RESOURCE_EXHAUSTED` for 8.
pub(super) fn name_of(code: impl Into<RpcStatusCode>) -> String {
    let code = code.into().to_string();
    let name = code.split_once('-').map_or(code.as_str(), |(_, name)| name);
    name.to_owned()
}

/// Makes a call, and has its answer handed over on one of grpcio's threads.
pub(super) fn start<Q, R: Send + Unpin + 'static>(
    stub: &Stub,
    method: &Method<Q, R>,
    request: &Q,
    timeout: Duration,
    done: impl FnOnce(Result<R, Fault>) + Send + 'static,
) {
    let options = CallOption::default().timeout(timeout).wait_for_ready(false);
    match stub.server_streaming(method, request, options) {
        Ok(messages) => {
            // The channel would end with the last of those who have it.
            let kept = stub.clone();
            stub.spawn(async move {
                done(pb::reply(messages).await.map_err(Fault::from));
                drop(kept);
            });
        }
        Err(error) => done(Err(error.into())),
    }
}

/// As [`start`], and the answer can be waited for.
pub(super) fn ask<Q, R: Send + Unpin + 'static>(
    stub: &Stub,
    method: &Method<Q, R>,
    request: &Q,
    timeout: Duration,
) -> Asking<R> {
    ask_holding((), stub, method, request, timeout)
}

/// As [`ask`]; what is held is dropped when the call has ended.
pub(super) fn ask_holding<Q, R: Send + Unpin + 'static>(
    held: impl Send + 'static,
    stub: &Stub,
    method: &Method<Q, R>,
    request: &Q,
    timeout: Duration,
) -> Asking<R> {
    let until = Instant::now() + timeout;
    let (answer, came) = channel::bounded(1);
    start(stub, method, request, timeout, move |reply| {
        drop(held);
        // Nobody may wait for it any more.
        drop(answer.send(reply));
    });
    Asking { came, until }
}

/// A call that was made, and when its time is over: whoever waits goes by that, whatever has become of the call.
pub(super) struct Asking<R> {
    came: Receiver<Result<R, Fault>>,
    until: Instant,
}

impl<R> Asking<R> {
    /// The answer; none if there was none for so long.
    pub fn within(&self, patience: Duration) -> Option<Result<R, Fault>> {
        let wake = self.until.min(Instant::now() + patience);
        match self.came.recv_deadline(wake) {
            Ok(reply) => Some(reply),
            Err(RecvTimeoutError::Timeout) if wake < self.until => None,
            Err(RecvTimeoutError::Timeout) => Some(Err(Fault::Late)),
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(Fault::Lost("the call was dropped".to_owned())))
            }
        }
    }

    /// The answer, or that there was none in the time of the call.
    pub fn end(&self) -> Result<R, Fault> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.within(left).unwrap_or(Err(Fault::Late))
    }
}

/// What comes next on a stream, or that it has ended; none if nothing has for so long.
pub(super) fn next_within<S: Stream + Unpin>(
    stream: &mut S,
    patience: Duration,
) -> Option<Option<S::Item>> {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let until = Instant::now() + patience;
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(next) = stream.poll_next_unpin(&mut context) {
            return Some(next);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

/// An encoded `GetRequest`, `GetManyRequest`, or the head of a `ReadRequest`: they have group and keys in common.
pub(super) fn request<'a>(group: &str, keys: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    const GROUP: u8 = 0x0a;
    const KEY: u8 = 0x12;
    let mut bytes = Vec::with_capacity(64);
    let mut put = |tag: u8, field: &[u8]| {
        bytes.push(tag);
        let mut len = field.len();
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        bytes.extend_from_slice(field);
    };
    put(GROUP, group.as_bytes());
    keys.into_iter().for_each(|key| put(KEY, key));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::pb::cache::GetManyRequest;

    #[test]
    fn a_request_is_the_message_of_the_interface() {
        let long = "k".repeat(300);
        let bytes = request("blobs", [&b"a"[..], long.as_bytes()]);
        let read = GetManyRequest::parse_from_bytes(&bytes).unwrap();
        assert_eq!(
            (read.group.as_str(), read.keys),
            ("blobs", vec!["a".to_owned(), long])
        );
    }

    #[test]
    fn what_the_origin_did_is_not_taken_for_a_node_that_is_gone() {
        let fault = |message: &str| {
            let status =
                grpcio::RpcStatus::with_message(RpcStatusCode::UNAVAILABLE, message.into());
            Fault::from(grpcio::Error::RpcFailure(status))
        };
        let of_origin = "key \"a\" of group \"b\" could not be loaded: it is closed";
        assert!(matches!(fault(of_origin), Fault::Said(..)));
        for of_node in ["the node is stopping", "failed to connect to all addresses"] {
            assert_eq!(fault(of_node), Fault::Lost(of_node.to_owned()));
        }
    }
}
