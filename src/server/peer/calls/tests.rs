use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};

use super::*;
use crate::http2::Code;

const PATIENCE: Duration = Duration::from_secs(20);

fn opening() -> Opening {
    Opening {
        path: "/a/b",
        request: None,
        message_max_bytes: 1 << 20,
    }
}

/// Says what it is told to say, and tells what it hears.
struct Told {
    say: Receiver<Vec<u8>>,
    heard: Sender<Vec<u8>>,
    ended: Sender<End>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Talk for Told {
    fn next(&mut self, waker: &Waker, can_send: bool) -> Next<Vec<u8>> {
        *self.waker.lock() = Some(waker.clone());
        if !can_send {
            return Next::Wait;
        }
        match self.say.try_recv() {
            Ok(message) => Next::Send(message),
            Err(channel::TryRecvError::Disconnected) => Next::Stop,
            Err(channel::TryRecvError::Empty) => Next::Wait,
        }
    }

    fn take(&mut self, message: &[u8]) -> Result<(), String> {
        self.heard.send(message.to_vec()).unwrap();
        Ok(())
    }

    fn end(self: Box<Self>, end: End) {
        self.ended.send(end).unwrap();
    }
}

struct Call {
    say: Sender<Vec<u8>>,
    heard: Receiver<Vec<u8>>,
    ended: Receiver<End>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Call {
    fn open(calls: &Calls, address: &str) -> Self {
        Self::open_by(calls, address, channel::unbounded())
    }

    fn open_by(
        calls: &Calls,
        address: &str,
        (hear, heard): (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    ) -> Self {
        let (say, to_say) = channel::unbounded();
        let (end, ended) = channel::unbounded();
        let waker = Arc::default();
        let told = Told {
            say: to_say,
            heard: hear,
            ended: end,
            waker: Arc::clone(&waker),
        };
        calls.open(address, None, opening(), Box::new(told));
        Self {
            say,
            heard,
            ended,
            waker,
        }
    }

    fn say(&self, message: &[u8]) {
        self.say.send(message.to_vec()).unwrap();
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.lock().clone() {
            waker.wake();
        }
    }

    fn why(&self) -> String {
        match self.ended.recv_timeout(PATIENCE).unwrap() {
            End::Broken(why) => why,
            End::Status(status) => panic!("{status}"),
        }
    }
}

#[test]
fn who_can_not_be_reached_is_told_of() {
    let calls = Calls::new(None, 1);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let why = Call::open(&calls, &free.unwrap().to_string()).why();
    assert!(why.contains("refused"), "{why}");
    let why = Call::open(&calls, "a name with blanks:8800").why();
    assert!(!why.is_empty());
}

#[test]
fn who_does_not_speak_http2_is_told_of() {
    let calls = Calls::new(None, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let call = Call::open(&calls, &listener.local_addr().unwrap().to_string());
    let (mut socket, _) = listener.accept().unwrap();
    socket
        .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .unwrap();
    assert_eq!(call.why(), "it does not speak HTTP/2");
    let call = Call::open(&calls, &listener.local_addr().unwrap().to_string());
    drop(listener.accept().unwrap());
    let why = call.why();
    assert!(
        why.contains("ended the connection") || why.contains("reset"),
        "{why}"
    );
}

/// Settings, headers (`:status: 200`, of the static table), and messages of one byte.
fn said(messages: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut said = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    said.extend([0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]);
    for number in messages {
        said.extend([0, 0, 6, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, number]);
    }
    said
}

/// A peer that answers the call with what it is sent, without looking at windows.
fn answer(listener: &TcpListener, messages: usize) {
    let (mut socket, _) = listener.accept().unwrap();
    let mut said = said(0..messages as u8);
    // `grpc-status: 0`, as a literal.
    let trailers = [&[0, 11][..], b"grpc-status", &[1], b"0"].concat();
    said.extend([0, 0, trailers.len() as u8, 1, 5, 0, 0, 0, 1]);
    said.extend(trailers);
    socket.write_all(&said).unwrap();
    let mut rest = Vec::new();
    let _ = socket.read_to_end(&mut rest);
    let greeting = rest.windows(3).any(|bytes| bytes == b"PRI");
    assert!(greeting && rest.windows(5).any(|bytes| bytes == b"hello"));
}

#[test]
fn what_is_said_is_heard_and_the_end_is_told() {
    let calls = Calls::new(None, 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let call = Call::open(&calls, &listener.local_addr().unwrap().to_string());
    call.say(b"hello");
    answer(&listener, 200);
    for number in 0..200 {
        assert_eq!(call.heard.recv_timeout(PATIENCE).unwrap(), [number]);
    }
    let end = call.ended.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(end, End::Status(status) if status.code == Code::OK));
}

#[test]
fn who_stops_hears_no_end() {
    let calls = Calls::new(None, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut call = Call::open(&calls, &listener.local_addr().unwrap().to_string());
    let (mut socket, _) = listener.accept().unwrap();
    while call.waker.lock().is_none() {
        std::thread::yield_now();
    }
    call.say = channel::unbounded().0;
    call.wake();
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    assert!(
        call.ended.recv_timeout(PATIENCE).is_err(),
        "its end is dropped with it"
    );
}

/// Data and the end of the connection are one event, as the thread has something else to do when they come.
#[test]
fn an_end_that_comes_with_data_is_not_overlooked() {
    let calls = Calls::new(None, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let busy = Call::open_by(&calls, &address, channel::bounded(0));
    let (mut socket, _) = listener.accept().unwrap();
    socket.write_all(&said([1, 2])).unwrap();
    assert_eq!(busy.heard.recv_timeout(PATIENCE).unwrap(), [1]);
    let call = Call::open(&calls, &address);
    let (mut ending, _) = listener.accept().unwrap();
    ending.write_all(&said([])).unwrap();
    ending.shutdown(Shutdown::Write).unwrap();
    assert_eq!(busy.heard.recv_timeout(PATIENCE).unwrap(), [2]);
    let why = call.why();
    assert!(why.contains("ended the connection"), "{why}");
}

/// Is over at once, and then has another call say something.
struct Overdue {
    since: Instant,
    say: Sender<Vec<u8>>,
    waker: Waker,
}

impl Talk for Overdue {
    fn take(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn look_at(&self) -> Option<Instant> {
        Some(self.since)
    }

    fn look(&mut self, _: Instant) -> Option<End> {
        Some(End::Broken("its time was over".to_owned()))
    }

    fn end(self: Box<Self>, _: End) {
        self.say.send(b"hello".to_vec()).unwrap();
        self.waker.wake();
    }
}

#[test]
fn who_is_woken_by_the_end_of_one_that_is_overdue_says_it_at_once() {
    let calls = Calls::new(None, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let call = Call::open(&calls, &address);
    let (mut socket, _) = listener.accept().unwrap();
    let waker = loop {
        if let Some(waker) = call.waker.lock().clone() {
            break waker;
        }
        std::thread::yield_now();
    };
    let overdue = Overdue {
        since: Instant::now(),
        say: call.say.clone(),
        waker,
    };
    calls.open(&address, None, opening(), Box::new(overdue));
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        let mut bytes = [0; 4096];
        let len = socket.read(&mut bytes).expect("it says it in time");
        assert!(len > 0, "it has not ended");
        heard.extend_from_slice(&bytes[..len]);
    }
}

#[test]
fn all_that_is_said_leaves_when_there_is_room_again() {
    const MESSAGES: usize = 600;
    const BYTES: usize = 40_000;
    let calls = Calls::new(None, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let call = Call::open(&calls, &listener.local_addr().unwrap().to_string());
    let (mut socket, _) = listener.accept().unwrap();
    // The largest windows, of the stream and of the connection.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff];
    let update = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0];
    socket.write_all(&settings).unwrap();
    socket.write_all(&update).unwrap();
    while call.waker.lock().is_none() {
        std::thread::yield_now();
    }
    for _ in 0..MESSAGES {
        call.say.send(vec![7; BYTES]).unwrap();
    }
    call.wake();
    // Until the system takes no more: nothing is read meanwhile.
    let (mut left, mut since) = (MESSAGES, Instant::now());
    while since.elapsed() < Duration::from_millis(200) {
        if call.say.len() != left {
            (left, since) = (call.say.len(), Instant::now());
        }
        std::thread::yield_now();
    }
    assert!(left > 0, "there is more than the system takes");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut read, mut bytes) = (0, vec![0; 1 << 20]);
    while read < MESSAGES * BYTES {
        let len = socket.read(&mut bytes).expect("all of it comes");
        read += bytes[..len].iter().filter(|byte| **byte == 7).count();
    }
}
