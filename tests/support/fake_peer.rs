//! A node of a cluster that says what a test wants, and a caller of a node that is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corecache::server::pb;
use corecache::server::pb::peer::{Answer, Ask, Hello, Part, Question, Reply};
use futures_executor::block_on;
use futures_util::{SinkExt, StreamExt};
use grpcio::{
    CallOption, ChannelBuilder, Client, ClientDuplexReceiver, ClientDuplexSender, Environment,
    Method, MethodType, ServiceBuilder, WriteFlags,
};

use super::PATIENCE;
use super::client::Refusal;
use super::served::Served;

const LINK: Method<Ask, Answer> = pb::method(MethodType::Duplex, "/corecache.peer.v1.Peer/Link");
const READ: Method<Question, Part> =
    pb::method(MethodType::ServerStreaming, "/corecache.peer.v1.Peer/Read");

/// What a node says first.
pub fn hello(major: u32, minor: u32) -> Hello {
    let mut hello = Hello::new();
    hello.major = major;
    hello.minor = minor;
    hello.message_max_bytes = 4 << 20;
    hello
}

/// A reply with a value, as it should be.
pub fn value(question: &Question, value: &[u8]) -> Reply {
    let mut frame = vec![0x0a, value.len() as u8];
    frame.extend(value);
    let mut reply = Reply::new();
    reply.id = question.id;
    reply.checksum = crc32fast::hash(&[question.key.as_bytes(), &frame].concat());
    reply.set_value(frame);
    reply
}

/// A node that answers links.
pub struct FakePeer {
    pub addr: SocketAddr,
    questions: Arc<AtomicUsize>,
    _served: Served,
}

impl FakePeer {
    /// Starts it: `answer` is shown each message; where it says nothing, nothing is answered.
    pub fn start(answer: impl Fn(&Ask) -> Option<Answer> + Clone + Send + Sync + 'static) -> Self {
        Self::start_sending(answer, |_| Vec::new())
    }

    /// The same, which sends what `parts` says to who reads a large value.
    pub fn start_sending(
        answer: impl Fn(&Ask) -> Option<Answer> + Clone + Send + Sync + 'static,
        parts: impl Fn(&Question) -> Vec<Part> + Clone + Send + Sync + 'static,
    ) -> Self {
        let questions = Arc::<AtomicUsize>::default();
        let counted = questions.clone();
        let service = ServiceBuilder::new().add_duplex_streaming_handler(
            &LINK,
            move |ctx, mut asks, mut answers| {
                let (answer, counted) = (answer.clone(), counted.clone());
                ctx.spawn(async move {
                    while let Some(Ok(ask)) = asks.next().await {
                        counted.fetch_add(ask.questions.len(), Ordering::SeqCst);
                        if let Some(answer) = answer(&ask)
                            && answers.send((answer, WriteFlags::default())).await.is_err()
                        {
                            return;
                        }
                    }
                    let _ = answers.close().await;
                });
            },
        );
        let service =
            service.add_server_streaming_handler(&READ, move |ctx, question, mut sink| {
                let parts = parts(&question);
                ctx.spawn(async move {
                    for part in parts {
                        if sink.send((part, WriteFlags::default())).await.is_err() {
                            return;
                        }
                    }
                    let _ = sink.close().await;
                });
            });
        let served = Served::start(service.build());
        Self {
            addr: served.addr,
            questions,
            _served: served,
        }
    }

    /// How many questions it was asked.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

/// The asking side of a link, by hand.
pub struct FakeLink {
    asks: ClientDuplexSender<Ask>,
    answers: ClientDuplexReceiver<Answer>,
    _client: Client,
}

impl FakeLink {
    pub fn open(addr: SocketAddr) -> Self {
        let channel = ChannelBuilder::new(Arc::new(Environment::new(1)));
        let client = Client::new(channel.connect(&addr.to_string()));
        let options = CallOption::default().timeout(PATIENCE);
        let stream = client.duplex_streaming(&LINK, options);
        let (asks, answers) = stream.expect("a call can be begun");
        Self {
            asks,
            answers,
            _client: client,
        }
    }

    pub fn send(&mut self, ask: Ask) {
        let sent = self.asks.send((ask, WriteFlags::default()));
        // It fails if the node has ended the call, which `next` tells.
        let _ = block_on(sent);
    }

    /// Waits for a message; none at the end of the call, if it ends well.
    pub fn next(&mut self) -> Result<Option<Answer>, Refusal> {
        Ok(block_on(self.answers.next()).transpose()?)
    }
}
