//! A node as the client sees it: by which door it is asked, and whether it is there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use grpcio::{CallOption, Method, MethodType};
use parking_lot::Mutex;
use protobuf::Message;

use super::call::{Asking, Fault, ask, ask_holding, asking, next_within, request, start};
use super::dial::{Dialler, Stub};
use super::express::{Express, Way};
use super::reading::Reading;
use crate::server::pb;
use crate::server::pb::cache::{Chunk, GetManyReply, ReadRequest, Value};
use crate::server::pb::cluster::{
    MembersReply, MembersRequest, PeekReply, PeekRequest, TopKeysReply, TopKeysRequest, WeighReply,
    WeighRequest,
};

/// What a node may take to say where its express door is, and that to say that it is there.
const FIND_PATIENCE: Duration = Duration::from_secs(1);
/// Calls of which each node takes so many at a time from one connection. Where there are more, others may wait in the gRPC core
/// until one of them has ended.
const CROWD: usize = 100;

const GET: Method<Vec<u8>, Value> = asking("/corecache.v1.Cache/Get");
const GET_MANY: Method<Vec<u8>, GetManyReply> = asking("/corecache.v1.Cache/GetMany");
const READ: Method<Vec<u8>, Chunk> = Method {
    ty: MethodType::ServerStreaming,
    ..asking("/corecache.v1.Cache/Read")
};

/// How a node is waited for that says nothing.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    /// After so long it is asked whether it is there.
    pub silence: Duration,
    /// Whether another one could be asked if it is not; otherwise it is waited for until the time of the call is over.
    pub has_other: &'a dyn Fn() -> bool,
}

/// A node, and a channel to each of its doors.
pub(super) struct Node {
    pub address: String,
    stub: Stub,
    /// For what must not wait behind a crowd of calls.
    side: OnceLock<Stub>,
    /// Each call for values has one of these until it has ended.
    under_way: Arc<()>,
    /// When it was last asked in a crowd whether it is there, and what came of that.
    beside: Mutex<Option<(Instant, Result<(), Fault>)>>,
    express: Arc<Express<Stub>>,
    dialler: Dialler,
    is_down: AtomicBool,
    /// It is being asked whether it is there, after a call that was late.
    is_checked: AtomicBool,
}

impl Node {
    pub fn new(dialler: &Dialler, address: &str) -> Arc<Self> {
        Arc::new(Self {
            address: address.to_owned(),
            stub: dialler.stub(address),
            side: OnceLock::new(),
            under_way: Arc::default(),
            beside: Mutex::default(),
            express: Arc::default(),
            dialler: dialler.clone(),
            is_down: AtomicBool::new(false),
            is_checked: AtomicBool::new(false),
        })
    }

    /// Whether it is asked before those that are not up.
    pub fn is_up(&self) -> bool {
        !self.is_down.load(Ordering::Relaxed)
    }

    /// Returns whether that is news.
    pub fn set_down(&self, is_down: bool) -> bool {
        self.is_up() == is_down && self.is_down.swap(is_down, Ordering::Relaxed) != is_down
    }

    /// Whether nobody is asking whether it is there: from now on the caller is.
    pub fn begin_check(&self) -> bool {
        !self.is_checked.swap(true, Ordering::Relaxed)
    }

    pub fn end_check(&self) {
        self.is_checked.store(false, Ordering::Relaxed);
    }

    /// What a value is asked for with at the express door, if that is known to be open.
    fn by_express(&self) -> Option<Stub> {
        match self.express.way(Instant::now()) {
            Way::Front => None,
            Way::Ask => {
                self.find_express();
                None
            }
            Way::Express(stub) => Some(stub),
        }
    }

    /// Asks the node where its express door is, and that door whether it is there. Nobody waits for it.
    fn find_express(&self) {
        let (express, dialler) = (self.express.clone(), self.dialler.clone());
        let address = self.address.clone();
        self.start_members(FIND_PATIENCE, move |told| {
            let told = told.unwrap_or_default();
            let Some(address) = with_port(&address, told.express_port) else {
                return express.shut(Instant::now());
            };
            let (stub, request) = (dialler.stub(&address), MembersRequest::new());
            let opened = stub.clone();
            start(&stub, &pb::MEMBERS, &request, FIND_PATIENCE, move |reply| {
                match reply {
                    // Ports may be mapped on the way: another node may be there.
                    Ok(reply) if reply.node == told.node => express.open(opened),
                    _ => express.shut(Instant::now()),
                }
            });
        });
    }

    /// The express door is gone; the node may be there.
    pub fn leave_express(&self) {
        self.express.shut(Instant::now());
    }

    /// A call was late. If it was made at the express door, that may be why.
    pub fn doubt_express(&self) {
        if let Some(stub) = self.express.stub().filter(|_| !self.is_crowded()) {
            let (express, request) = (self.express.clone(), MembersRequest::new());
            start(&stub, &pb::MEMBERS, &request, FIND_PATIENCE, move |reply| {
                if reply.is_err() {
                    express.shut(Instant::now());
                }
            });
        }
    }

    /// A value in one message.
    pub fn get(
        &self,
        group: &str,
        key: &[u8],
        timeout: Duration,
        patience: Patience<'_>,
    ) -> Result<Value, Fault> {
        let request = request(group, [key]);
        let until = Instant::now() + timeout;
        if let Some(stub) = self.by_express() {
            let asking = self.ask_for(&stub, &GET, &request, timeout);
            if let Some(reply) = self.wait_at_express(&stub, &asking, patience) {
                return reply;
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        let asking = self.ask_for(&self.stub, &GET, &request, left);
        self.wait(&asking, patience)
    }

    /// As [`ask`], for values.
    fn ask_for<Q, R: Send + Unpin + 'static>(
        &self,
        stub: &Stub,
        method: &Method<Q, R>,
        request: &Q,
        timeout: Duration,
    ) -> Asking<R> {
        ask_holding(self.under_way.clone(), stub, method, request, timeout)
    }

    /// Whether calls of this client may wait here for each other.
    fn is_crowded(&self) -> bool {
        Arc::strong_count(&self.under_way) > CROWD
    }

    /// What it is asked with about itself.
    fn stub_for_itself(&self) -> &Stub {
        match self.is_crowded() {
            true => self
                .side
                .get_or_init(|| self.dialler.side_stub(&self.address)),
            false => &self.stub,
        }
    }

    /// As [`Node::wait`]. None if the door is gone, or silent, and not the node: it is to be asked at the front door.
    fn wait_at_express<R>(
        &self,
        stub: &Stub,
        asking: &Asking<R>,
        patience: Patience<'_>,
    ) -> Option<Result<R, Fault>> {
        let mut late = Fault::Late;
        loop {
            match asking.within(patience.silence) {
                Some(Err(Fault::Late)) => return Some(Err(late)),
                Some(Err(Fault::Lost(_))) => {
                    self.leave_express();
                    return None;
                }
                Some(reply) => return Some(reply),
                None => match self.hear(&self.inquire(Some(stub), patience.silence)) {
                    Ok(Doors::AsBefore) => late = Fault::Late,
                    Ok(Doors::FrontAlone) => return None,
                    Err(fault) if (patience.has_other)() => return Some(Err(fault)),
                    Err(fault) => late = fault,
                },
            }
        }
    }

    /// Waits for what the node has been asked.
    pub fn wait<R>(&self, asking: &Asking<R>, patience: Patience<'_>) -> Result<R, Fault> {
        let mut late = Fault::Late;
        loop {
            match asking.within(patience.silence) {
                Some(Err(Fault::Late)) => return Err(late),
                Some(reply) => return reply,
                None => late = self.check(patience)?,
            }
        }
    }

    /// Asks for many keys; `done` is called on one of grpcio's threads. Returns what was asked with at the express door, if
    /// it was. Where that is lost, [`Node::leave_express`], and they can be asked for at the front door.
    pub fn start_get_many<'a>(
        &self,
        group: &str,
        keys: impl IntoIterator<Item = &'a [u8]>,
        timeout: Duration,
        done: impl FnOnce(Result<GetManyReply, Fault>) + Send + 'static,
    ) -> Option<Stub> {
        let request = request(group, keys);
        let under_way = self.under_way.clone();
        let done = move |reply| {
            drop(under_way);
            done(reply);
        };
        let Some(stub) = self.by_express() else {
            start(&self.stub, &GET_MANY, &request, timeout, done);
            return None;
        };
        start(&stub, &GET_MANY, &request, timeout, done);
        Some(stub)
    }

    /// Goes on to read a value, or a part of it.
    pub fn read(
        &self,
        reading: &mut Reading<'_>,
        (timeout, patience): (Duration, Patience<'_>),
    ) -> Result<(), Fault> {
        let mut bytes = request(reading.group, [reading.key]);
        let mut rest = ReadRequest::new();
        (rest.offset, rest.length) = reading.rest();
        // Of two parts of a message that follow each other, the fields come together.
        bytes.extend(rest.write_to_bytes().unwrap_or_default());
        let options = CallOption::default().timeout(timeout).wait_for_ready(false);
        let until = Instant::now() + timeout;
        let _under_way = self.under_way.clone();
        let mut chunks = self.stub.server_streaming(&READ, &bytes, options)?;
        let mut has_begun = false;
        let mut late = Fault::Late;
        loop {
            let chunk = match next_within(&mut chunks, patience.silence) {
                Some(Some(Ok(chunk))) => chunk,
                Some(Some(Err(error))) => {
                    return reading.failed(match error.into() {
                        Fault::Late => late,
                        fault => fault,
                    });
                }
                Some(None) => return reading.end(),
                None if Instant::now() >= until => return reading.failed(late),
                None => match self.check(patience) {
                    Ok(fault) => {
                        late = fault;
                        continue;
                    }
                    Err(fault) => return reading.failed(fault),
                },
            };
            let wants_more = match std::mem::replace(&mut has_begun, true) {
                false => reading.begin(&self.address, &chunk)?,
                true => reading.take(&chunk)?,
            };
            if !wants_more {
                chunks.cancel();
                return Ok(());
            }
        }
    }

    /// Asks the node whether it is there. If it is, it is loading; otherwise that is the error, unless there is no other to be
    /// asked. What comes back is what is to be said if the time of the call is over before the node says more.
    pub fn check(&self, patience: Patience<'_>) -> Result<Fault, Fault> {
        match self.hear(&self.inquire(None, patience.silence)) {
            Ok(_) => Ok(Fault::Late),
            Err(fault) if (patience.has_other)() => Err(fault),
            Err(fault) => Ok(fault),
        }
    }

    /// Asks the node whether it is there, at the front door and, if something was asked there, at the express door.
    pub fn inquire(&self, express: Option<&Stub>, patience: Duration) -> Inquiry {
        let at_express = |stub| ask(stub, &pb::MEMBERS, &MembersRequest::new(), patience);
        let at_doors = || (self.members(0, patience), express.map(at_express));
        Inquiry {
            doors: (!self.is_crowded()).then(at_doors),
            patience,
        }
    }

    /// Asks the node, for all who want to know at the same time, whether it is there.
    fn inquire_beside(&self, patience: Duration) -> Result<(), Fault> {
        let came = Instant::now();
        // Who has it waits for the node, and no longer than that; who has waited for him goes by what he has heard, and who
        // has no time for that is none the wiser.
        let Some(mut last) = self.beside.try_lock_for(patience) else {
            return Ok(());
        };
        if let Some((asked, heard)) = &*last
            && came.saturating_duration_since(*asked) < patience
        {
            return heard.clone();
        }
        let asked = Instant::now();
        let ask = || is_there(&self.members(0, patience), patience);
        // With so many callers it may be the client that has no time, and not the node.
        let heard = ask().or_else(|_| ask());
        *last = Some((asked, heard.clone()));
        heard
    }

    /// What has come of it. An express door that says nothing is left alone; not so in a crowd, where there may be no more to it
    /// than that the door takes no more calls.
    pub fn hear(&self, inquiry: &Inquiry) -> Result<Doors, Fault> {
        let Some((front, express)) = &inquiry.doors else {
            return self
                .inquire_beside(inquiry.patience)
                .map(|()| Doors::AsBefore);
        };
        let front = is_there(front, inquiry.patience);
        let express = express.as_ref();
        match (
            front,
            express.map(|express| is_there(express, inquiry.patience)),
        ) {
            (Ok(()), Some(Err(_))) => {
                self.leave_express();
                Ok(Doors::FrontAlone)
            }
            (Ok(()), _) | (Err(_), Some(Ok(()))) => Ok(Doors::AsBefore),
            (Err(fault), _) => Err(fault),
        }
    }

    /// Who is in, unless the epoch is the one that is known.
    pub fn members(&self, known_epoch: u64, timeout: Duration) -> Asking<MembersReply> {
        let mut request = MembersRequest::new();
        request.known_epoch = known_epoch;
        ask(self.stub_for_itself(), &pb::MEMBERS, &request, timeout)
    }

    /// The same, of a client that knows nothing yet; `done` is called on one of grpcio's threads.
    pub fn start_members(
        &self,
        timeout: Duration,
        done: impl FnOnce(Result<MembersReply, Fault>) + Send + 'static,
    ) {
        start(
            self.stub_for_itself(),
            &pb::MEMBERS,
            &MembersRequest::new(),
            timeout,
            done,
        );
    }

    pub fn peek(&self, group: &str, key: &[u8], timeout: Duration) -> Asking<PeekReply> {
        let mut request = PeekRequest::new();
        request.group = group.to_owned();
        request.key = key.to_vec();
        ask(&self.stub, &pb::PEEK, &request, timeout)
    }

    pub fn top_keys(&self, request: &TopKeysRequest, timeout: Duration) -> Asking<TopKeysReply> {
        ask(&self.stub, &pb::TOP_KEYS, request, timeout)
    }

    pub fn weigh(&self, request: &WeighRequest, timeout: Duration) -> Asking<WeighReply> {
        ask(&self.stub, &pb::WEIGH, request, timeout)
    }
}

/// The same host at another port; none for port 0.
fn with_port(address: &str, port: u32) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    (port != 0).then(|| format!("{host}:{port}"))
}

/// A node has been asked whether it is there.
pub(super) struct Inquiry {
    /// The front door and the express door; none where it is to be asked beside a crowd.
    doors: Option<(Asking<MembersReply>, Option<Asking<MembersReply>>)>,
    patience: Duration,
}

/// At which doors a node is that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doors {
    AsBefore,
    /// What was asked at the express door is to be asked at the front door.
    FrontAlone,
}

/// Whether a node that was asked for its members, and given so long, is there.
fn is_there(asking: &Asking<MembersReply>, patience: Duration) -> Result<(), Fault> {
    match asking.end() {
        Err(Fault::Lost(why)) => Err(Fault::Lost(why)),
        Err(Fault::Late) => {
            let seconds = patience.as_secs_f64();
            Err(Fault::Lost(format!(
                "the node says nothing, for {seconds:.1} s and more"
            )))
        }
        _ => Ok(()),
    }
}
