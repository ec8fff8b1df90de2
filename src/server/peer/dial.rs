//! The asking side of a link over grpcio: a future on a completion-queue thread, which sends what the link has and hands
//! it what comes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::{SinkExt, StreamExt};
use grpcio::{
    CallOption, Channel, ChannelBuilder, Client, ClientDuplexReceiver, ClientDuplexSender,
    ClientSStreamReceiver, Environment, GrpcSlice, WriteFlags,
};

use super::super::front::{LINK, READ, Request};
use super::super::service::UNARY_LIMIT_BYTES;
use super::super::slice::Reply;
use super::pulls::{End, Pulling};
use super::wire::{self, Answer, HELLO_IN_ASK, Hello, MAJOR, MINOR, Outcome, Question};
use super::{Forward, Peer, Peers};
use crate::cluster::Epoch;
use crate::cluster::link::{Link, Next};
use crate::engine::guarded;

/// A message of questions has so many bytes, or one question.
const MESSAGE_BYTES: usize = 64 << 10;
/// What the question that comes last takes at the most, with what a message has beside its questions.
const REST_BYTES: usize = 5 << 10;
/// A connection on which nothing comes is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How other nodes are reached.
pub(in super::super) struct Dialler {
    pub env: Arc<Environment>,
    pub tls: Option<LinkTls>,
}

/// What it takes to speak TLS with the other nodes.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(in super::super) struct LinkTls {
    pub roots: Vec<u8>,
    pub certificates: Vec<u8>,
    pub key: Vec<u8>,
}

impl Dialler {
    /// A channel with a connection of its own: another one to the same node would share it.
    pub(super) fn channel(&self, address: &str) -> Channel {
        let builder = ChannelBuilder::new(self.env.clone())
            .use_local_subchannel_pool(true)
            .max_receive_message_len(UNARY_LIMIT_BYTES as i32)
            .max_send_message_len(UNARY_LIMIT_BYTES as i32)
            .enable_retry(false)
            .enable_http_proxy(false)
            .keepalive_time(KEEPALIVE)
            .keepalive_timeout(KEEPALIVE);
        match &self.tls {
            Some(tls) => secure(builder, tls, address),
            None => builder.connect(address),
        }
    }
}

#[cfg(feature = "tls")]
fn secure(builder: ChannelBuilder, tls: &LinkTls, address: &str) -> Channel {
    let credentials = grpcio::ChannelCredentialsBuilder::new()
        .root_cert(tls.roots.clone())
        .cert(tls.certificates.clone(), tls.key.clone())
        .build();
    builder.set_credentials(credentials).connect(address)
}

#[cfg(not(feature = "tls"))]
fn secure(builder: ChannelBuilder, _: &LinkTls, address: &str) -> Channel {
    // A node with TLS does not start without the feature.
    builder.connect(address)
}

/// Opens a stream of a link. It is driven by a completion-queue thread until it ends.
pub(super) fn open(peers: &Arc<Peers>, peer: &Arc<Peer>, link: &Arc<Link<Forward>>, stream: u64) {
    let client = Client::new(peers.dialler.channel(&peer.address));
    let asking = Asking {
        peers: peers.clone(),
        peer: peer.clone(),
        link: link.clone(),
        stream,
        message_bytes: MESSAGE_BYTES,
        has_greeted: false,
        is_greeted: false,
    };
    match client.duplex_streaming(&LINK, CallOption::default()) {
        Ok((sink, answers)) => client.spawn(asking.run(client.clone(), sink, answers)),
        Err(error) => asking.end(&error.to_string()),
    }
}

struct Asking {
    peers: Arc<Peers>,
    peer: Arc<Peer>,
    link: Arc<Link<Forward>>,
    stream: u64,
    message_bytes: usize,
    /// Whether this node has said hello, and whether the other one has.
    has_greeted: bool,
    is_greeted: bool,
}

type Sink = ClientDuplexSender<Reply>;
type Answers = ClientDuplexReceiver<Request>;

impl Asking {
    /// Keeps the channel: it would end with the last of those who have it.
    async fn run(mut self, channel: Client, mut sink: Sink, mut answers: Answers) {
        let why = poll_fn(|cx| {
            // A panic must not reach the completion-queue thread.
            let polled = guarded("a link", || self.poll(cx, &mut sink, &mut answers));
            let panicked = || {
                Poll::Ready(Some(
                    "it has failed here in a way that it should not".to_owned(),
                ))
            };
            polled.unwrap_or_else(panicked)
        })
        .await;
        sink.cancel();
        drop(channel);
        if let Some(why) = why {
            self.end(&why);
        }
    }

    /// Why the stream is at its end; none if it is not wanted any more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Sink,
        answers: &mut Answers,
    ) -> Poll<Option<String>> {
        loop {
            let can_send = match sink.poll_ready_unpin(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Some(self.cause(cx, answers, &error)));
                }
                Poll::Pending => false,
            };
            let message = match self.has_greeted {
                false if can_send => {
                    self.has_greeted = true;
                    Next::Send(self.hello())
                }
                false => Next::Wait,
                true => self.next(cx, can_send),
            };
            match message {
                Next::Send(message) => {
                    let message = (Reply::new(GrpcSlice::from(message)), WriteFlags::default());
                    if let Err(error) = sink.start_send_unpin(message) {
                        return Poll::Ready(Some(self.cause(cx, answers, &error)));
                    }
                    continue;
                }
                Next::Stop => return Poll::Ready(None),
                Next::Wait => {}
            }
            match answers.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Err(words) = message.with_bytes(|bytes| self.take(bytes)) {
                        return Poll::Ready(Some(words));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(words_of(&error))),
                Poll::Ready(None) => {
                    return Poll::Ready(Some("the node has ended it".to_owned()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// A sink that fails does not say why; the other side may.
    fn cause(&self, cx: &mut Context<'_>, answers: &mut Answers, error: &grpcio::Error) -> String {
        match answers.poll_next_unpin(cx) {
            Poll::Ready(Some(Err(error))) => words_of(&error),
            _ => words_of(error),
        }
    }

    fn hello(&self) -> Vec<u8> {
        let mut message = Vec::new();
        let own = Hello {
            major: MAJOR,
            minor: MINOR,
            address: self.peers.own_address().as_bytes(),
            message_max_bytes: UNARY_LIMIT_BYTES as u64,
        };
        own.put(HELLO_IN_ASK, &mut message);
        wire::put_news(&mut message, self.peers.epoch(), 0);
        message
    }

    /// What has queued up, as one message of questions that were asked by one ring.
    fn next(&self, cx: &Context<'_>, can_send: bool) -> Next<Vec<u8>> {
        self.link
            .next(self.stream, cx.waker(), can_send, |sending| {
                let now = Instant::now();
                let ping = u64::from(sending.ping);
                let mut message = Vec::with_capacity(1024);
                let mut epoch: Option<Epoch> = None;
                let mut group: Option<crate::group::Group> = None;
                sending.questions(|id, forward, until| {
                    let theirs = forward.epoch();
                    if *epoch.get_or_insert(theirs) != theirs || message.len() >= self.message_bytes
                    {
                        return false;
                    }
                    let load = &forward.load;
                    let question = Question {
                        id,
                        group: load.group().name().as_bytes(),
                        key: load.key(),
                        left_ms: wire::left_ms(until.saturating_duration_since(now)),
                        hops: 1,
                        peek: forward.is_peek(),
                    };
                    let before = group
                        .as_ref()
                        .map_or(&b""[..], |group| group.name().as_bytes());
                    question.put(before, &mut message);
                    if before != question.group {
                        group = Some(load.group().clone());
                    }
                    true
                });
                wire::put_news(
                    &mut message,
                    epoch.unwrap_or_else(|| self.peers.epoch()),
                    ping,
                );
                message
            })
    }

    /// Takes a message of answers.
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let answer = Answer::parse(bytes).map_err(|error| error.to_string())?;
        if let Some(hello) = &answer.hello {
            if let Some(words) = hello.refusal() {
                return Err(words);
            }
            let theirs = usize::try_from(hello.message_max_bytes).unwrap_or(usize::MAX);
            self.message_bytes = theirs.saturating_sub(REST_BYTES).clamp(1, MESSAGE_BYTES);
        }
        if !self.is_greeted {
            if answer.hello.is_none() {
                return Err(
                    "its first message does not say hello: it is no node, or a broken one"
                        .to_owned(),
                );
            }
            self.is_greeted = true;
            self.peer.note_open();
            self.link.greeted(self.stream);
        }
        let taken = self.link.heard(self.stream, answer.epoch, |waiting| {
            let mut taken = Vec::with_capacity(answer.replies.len());
            for reply in &answer.replies {
                match reply.result {
                    Outcome::Loading => waiting.loading(reply.id),
                    _ => taken.extend(waiting.take(reply.id).map(|asked| (asked, &reply.result))),
                }
            }
            taken
        });
        let (mut good, mut garbage) = (0, 0);
        for (forward, result) in taken.into_iter().flatten() {
            match self.peers.answered(&self.peer, forward, result) {
                true => good += 1,
                false => garbage += 1,
            }
        }
        if garbage > 0 {
            let address = &self.peer.address;
            log::warn!(
                "link to {address}: {garbage} answers of a message are not what was asked for"
            );
        }
        for forward in self.link.judge(self.stream, good, garbage) {
            self.peers.go_on(forward);
        }
        Ok(())
    }

    fn end(&self, why: &str) {
        self.peer.note(why);
        for forward in self.link.ended(self.stream) {
            self.peers.go_on(forward);
        }
    }
}

/// Reads a value in parts. It is driven by a completion-queue thread until it ends.
pub(super) fn pull(pulling: Pulling) {
    let client = Client::new(pulling.peers().dialler.channel(pulling.address()));
    let question = Reply::new(GrpcSlice::from(pulling.question()));
    match client.server_streaming(&READ, &question, CallOption::default()) {
        Ok(parts) => client.spawn(take_parts(client.clone(), parts, pulling)),
        Err(error) => pulling.end(End::Failed(error.to_string())),
    }
}

/// Keeps the channel: it would end with the last of those who have it.
async fn take_parts(
    channel: Client,
    mut parts: ClientSStreamReceiver<Request>,
    mut pulling: Pulling,
) {
    let mut watch = pulling.watch();
    let end = loop {
        match select(parts.next(), &mut watch).await {
            Either::Left((Some(Ok(part)), _)) => {
                // A panic must not reach the completion-queue thread.
                let taken = guarded("a pull", || part.with_bytes(|part| pulling.take(part)));
                match taken {
                    Some(Ok(())) => {}
                    Some(Err(words)) => break End::Failed(words),
                    None => {
                        break End::Failed(
                            "it has failed here in a way that it should not".to_owned(),
                        );
                    }
                }
            }
            Either::Left((Some(Err(error)), _)) => break end_of(&error),
            Either::Left((None, _)) => break End::Whole,
            Either::Right(((), _)) => match pulling.look() {
                Some(end) => break end,
                None => watch = pulling.watch(),
            },
        }
    };
    parts.cancel();
    drop((parts, channel, watch));
    let peers = pulling.peers().clone();
    guarded("the end of a pull", || {
        pulling.end(end);
        // It has left room.
        peers.begin_pulls();
    });
}

fn end_of(error: &grpcio::Error) -> End {
    use grpcio::RpcStatusCode as Its;

    let words = words_of(error);
    match error {
        grpcio::Error::RpcFailure(status) if status.code() == Its::NOT_FOUND => End::Gone,
        grpcio::Error::RpcFailure(status) if status.code() == Its::RESOURCE_EXHAUSTED => {
            End::Busy(status.message().to_owned())
        }
        _ => End::Failed(words),
    }
}

fn words_of(error: &grpcio::Error) -> String {
    match error {
        grpcio::Error::RpcFailure(status) | grpcio::Error::RpcFinished(Some(status)) => {
            format!("{}: {}", status.code(), status.message())
        }
        other => other.to_string(),
    }
}
