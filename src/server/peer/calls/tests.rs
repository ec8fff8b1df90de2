use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};

use super::*;
use crate::http2::Code;

const PATIENCE: Duration = Duration::from_secs(20);

/// Says what it is told to say, and tells what it hears.
struct Told {
    say: Receiver<Vec<u8>>,
    heard: Sender<Vec<u8>>,
    ended: Sender<End>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Talk for Told {
    fn path(&self) -> &'static str {
        "/a/b"
    }

    fn is_brief(&self) -> bool {
        false
    }

    fn next(&mut self, waker: &Waker, can_send: bool) -> Next<Vec<u8>> {
        *self.waker.lock() = Some(waker.clone());
        match self.say.try_recv() {
            Ok(message) if can_send => Next::Send(message),
            Ok(_) => panic!("there is room for what this test says"),
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
        let (say, to_say) = channel::unbounded();
        let (hear, heard) = channel::unbounded();
        let (end, ended) = channel::unbounded();
        let waker = Arc::default();
        let told = Told {
            say: to_say,
            heard: hear,
            ended: end,
            waker: Arc::clone(&waker),
        };
        calls.open(address, None, 1 << 20, Box::new(told));
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

/// A peer that answers the call with what it is sent, without looking at windows.
fn answer(listener: &TcpListener, messages: usize) {
    let (mut socket, _) = listener.accept().unwrap();
    let mut said = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    // `:status: 200`, of the static table.
    said.extend([0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]);
    for number in 0..messages as u8 {
        said.extend([0, 0, 6, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, number]);
    }
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
