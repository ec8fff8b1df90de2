use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Instant;

use super::*;

const LIMIT_BYTES: usize = 1 << 20;

/// A request as the origin saw it.
struct Asked {
    /// The number of its connection, from 0.
    connection: usize,
    /// Its number in all, from 0.
    number: usize,
    head: String,
}

/// What the origin does once it has written its bytes.
enum Then {
    Keep,
    Close,
}

/// An origin made of a socket, whose bytes a test chooses.
struct Web {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    heads: Mutex<Vec<String>>,
    connections: AtomicUsize,
    is_over: AtomicBool,
}

impl Web {
    fn new<A>(answer: A) -> Self
    where
        A: Fn(&Asked, &mut TcpStream) -> Then + Send + Sync + 'static,
    {
        Self::at(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// An origin that answers everything with the same bytes.
    fn saying(bytes: impl Into<Vec<u8>>, keep: bool) -> Self {
        let bytes = bytes.into();
        Self::new(move |_, stream| {
            let _ = stream.write_all(&bytes);
            if keep { Then::Keep } else { Then::Close }
        })
    }

    fn at<A>(listener: TcpListener, answer: A) -> Self
    where
        A: Fn(&Asked, &mut TcpStream) -> Then + Send + Sync + 'static,
    {
        let address = listener.local_addr().unwrap();
        let (seen, answer) = (Arc::new(Seen::default()), Arc::new(answer));
        let web = Self {
            address,
            seen: Arc::clone(&seen),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if seen.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let connection = seen.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                let stream = stream.unwrap();
                thread::spawn(move || converse(stream, connection, &seen, &*answer));
            }
        });
        web
    }

    fn url(&self) -> String {
        format!("http://{}/base", self.address)
    }

    fn origin(&self) -> Http {
        Http::open(&self.url()).unwrap()
    }

    fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.seen.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(
    mut stream: TcpStream,
    connection: usize,
    seen: &Seen,
    answer: &dyn Fn(&Asked, &mut TcpStream) -> Then,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match lines.read_line(&mut head) {
                Ok(bytes) if bytes > 0 => {}
                _ => return,
            }
        }
        let number = {
            let mut heads = seen.heads.lock().unwrap();
            heads.push(head.clone());
            heads.len() - 1
        };
        let asked = Asked {
            connection,
            number,
            head,
        };
        match answer(&asked, &mut stream) {
            Then::Keep => {}
            Then::Close => return,
        }
    }
}

fn ok(value: &str) -> Vec<u8> {
    answer("200 OK", value)
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

fn redirect(location: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into()
}

fn within(time: Duration) -> LoadContext<'static> {
    LoadContext::new("blobs", Instant::now() + time)
}

fn load(origin: &Http, key: impl AsRef<[u8]>) -> Result<Vec<u8>, LoadError> {
    let mut sink = Sink::detached(LIMIT_BYTES);
    origin.load(key.as_ref(), &within(Duration::from_secs(20)), &mut sink)?;
    Ok(sink.bytes().to_vec())
}

/// Loads a key from an origin that says `bytes` and closes.
fn load_said(bytes: impl Into<Vec<u8>>) -> Result<Vec<u8>, LoadError> {
    load(&Web::saying(bytes, false).origin(), "k")
}

/// The same, with what is only logged.
fn details_said(bytes: impl Into<Vec<u8>>) -> Failed {
    let web = Web::saying(bytes, false);
    let origin = web.origin();
    let mut uri = origin.base.address(b"k").unwrap();
    let mut sink = Sink::detached(LIMIT_BYTES);
    let ctx = within(Duration::from_secs(20));
    origin.follow(&mut uri, &ctx, &mut sink).unwrap_err()
}

#[track_caller]
fn assert_unavailable(loaded: Result<Vec<u8>, LoadError>, why: &str) {
    assert!(
        matches!(&loaded, Err(LoadError::Unavailable(text)) if text.contains(why)),
        "{loaded:?}, not {why:?}"
    );
}

#[test]
fn a_200_is_the_value() {
    assert_eq!(load_said(ok("value")).unwrap(), b"value");
    assert_eq!(load_said(ok("")).unwrap(), b"");
    assert_eq!(
        load_said("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab").unwrap(),
        b"ab"
    );
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
                  3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n";
    assert_eq!(load_said(chunks).unwrap(), b"abcde");
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    assert_eq!(
        load_said([early.as_bytes(), &ok("x")].concat()).unwrap(),
        b"x"
    );
    let large = "x".repeat(LIMIT_BYTES);
    assert_eq!(load_said(ok(&large)).unwrap(), large.as_bytes());
}

#[test]
fn the_request_is_what_the_origin_needs() {
    let web = Web::saying(ok("v"), true);
    let origin = web.origin();
    load(&origin, b"a/ %?#+&\xff\0'.txt").unwrap();
    load(&origin, [0xff; 4096]).unwrap();
    let heads = web.heads();
    let mut lines: Vec<&str> = heads[0].trim_end().lines().collect();
    lines.sort_unstable();
    let host = format!("host: {}", web.address);
    let agent = concat!("user-agent: corecache/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        lines,
        [
            "GET /base/a/%20%25%3F%23%2B%26%FF%00%27.txt HTTP/1.1",
            "accept-encoding: identity",
            "accept: */*",
            &host,
            agent,
        ]
    );
    let escaped = "%FF".repeat(4096);
    assert!(heads[1].starts_with(&format!("GET /base/{escaped} HTTP/1.1\r\n")));
}

#[test]
fn keys_that_leave_the_base_are_not_asked_for() {
    let web = Web::saying(ok("v"), true);
    let origin = web.origin();
    for key in ["../x", "a/../../x", "/x", "//host/x", "a//b", "./x", ""] {
        let loaded = load(&origin, key);
        assert!(
            matches!(loaded, Err(LoadError::InvalidKey(_))),
            "{loaded:?}"
        );
    }
    assert!(web.heads().is_empty());
}

#[test]
fn a_key_may_be_the_value_of_a_query() {
    let web = Web::saying(ok("v"), true);
    let url = format!("http://{}/get?key=", web.address);
    load(&Http::open(&url).unwrap(), "http://x/../y?z").unwrap();
    let asked = "GET /get?key=http%3A%2F%2Fx%2F..%2Fy%3Fz HTTP/1.1\r\n";
    assert!(web.heads()[0].starts_with(asked), "{:?}", web.heads());
}

#[test]
fn a_body_that_is_cut_is_unavailable() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_unavailable(
        load_said("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        "broke off after 3 bytes",
    );
    assert_unavailable(
        load_said("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
        "broke off",
    );
    for chunks in [
        "5\r\nabc",
        "3\r\nabc",
        "3\r\nabc\r\n",
        "3\r\nabc\r\n4",
        "zz\r\n",
        "",
    ] {
        assert_unavailable(load_said(format!("{chunked}{chunks}")), "broke off");
    }
}

#[test]
fn a_body_of_unknown_length_is_told() {
    let web = Web::saying("HTTP/1.1 200 OK\r\n\r\nabc", false);
    let origin = web.origin();
    assert_eq!(load(&origin, "k").unwrap(), b"abc");
    assert!(origin.warned.load(Ordering::Relaxed));
    let web = Web::saying(ok("abc"), true);
    let origin = web.origin();
    load(&origin, "k").unwrap();
    assert!(!origin.warned.load(Ordering::Relaxed));
}

#[test]
fn answers_that_can_not_be_read_are_unavailable() {
    for (said, why) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
            "gzip",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "gzip, chunked",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
            "gzip",
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
            "failed",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxy", "failed"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "failed"),
        ("HTTP/1.1 200 OK\r\nContent-Le", "without an answer"),
        ("", "without an answer"),
    ] {
        assert_unavailable(load_said(said), why);
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES));
    assert_unavailable(load_said(long), "too big");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000));
    assert_unavailable(load_said(many), "failed");
}

#[test]
fn a_status_that_is_no_value_is_told_and_the_origins_words_are_for_the_log() {
    type Class = fn(String) -> LoadError;
    let classes: [(Class, &[&str]); 4] = [
        (LoadError::NotFound, &["404 Not Found", "410 Gone"]),
        (
            LoadError::InvalidKey,
            &["400 Bad Request", "414 URI Too Long"],
        ),
        (
            LoadError::Unavailable,
            &[
                "408 Request Timeout",
                "429 Too Many Requests",
                "500 Internal Server Error",
                "999 <unknown status code>",
                "503 Service Unavailable",
                "201 Created",
                "206 Partial Content",
                "300 Multiple Choices",
                "302 Found",
            ],
        ),
        (
            LoadError::Refused,
            &[
                "401 Unauthorized",
                "403 Forbidden",
                "451 Unavailable For Legal Reasons",
            ],
        ),
    ];
    for (class, statuses) in classes {
        for status in statuses {
            let said = answer(status, "the\r\n\x07disk is\tfull");
            let Failed { error, details } = details_said(said);
            let text = error.to_string();
            assert_eq!(error, class(text.clone()), "{status}");
            assert!(text.contains(status) && !text.contains("disk"), "{text}");
            assert!(!text.contains("127.0.0.1"), "{text}");
            assert_eq!(details, "the disk is full");
        }
    }
    assert_unavailable(load_said("HTTP/1.1 204 No Content\r\n\r\n"), "204");
    let failed = details_said(answer("500 Oh", &"x".repeat(100_000)));
    assert!(failed.details.len() < 300, "{failed:?}");
}

#[test]
fn redirects_are_followed_to_a_limit() {
    let web = Web::new(|asked, stream| {
        let left: usize = asked.head["GET /base/".len()..]
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let said = match left {
            0 => ok("there"),
            // With a body, which must not cost the connection.
            _ => format!(
                "HTTP/1.1 302 Found\r\nLocation: ./{}\r\nContent-Length: 5\r\n\r\nmoved",
                left - 1
            )
            .into(),
        };
        stream.write_all(&said).unwrap();
        Then::Keep
    });
    let origin = web.origin();
    assert_eq!(load(&origin, REDIRECTS.to_string()).unwrap(), b"there");
    let loaded = load(&origin, (REDIRECTS + 1).to_string());
    assert_unavailable(loaded, "more than 5");
    assert_eq!(web.connections(), 1);

    let web = Web::saying(redirect("/base/k"), true);
    assert_unavailable(load(&web.origin(), "k"), "more than 5");
    assert_eq!(web.heads().len(), REDIRECTS + 1);
}

#[test]
fn redirects_that_lead_nowhere_are_errors() {
    for (location, why) in [
        ("ftp://127.0.0.1/x", "neither"),
        ("http://me:secret@127.0.0.1/x", "user name"),
        ("http://127.0.0.1:0/x", "port"),
    ] {
        let Failed { error, details } = details_said(redirect(location));
        assert!(matches!(error, LoadError::Unavailable(_)), "{error}");
        assert!(details.contains(why), "{details}");
        let text = format!("{error} {details}");
        assert!(!text.contains("secret"), "{text}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
    let there = Web::saying(ok("v"), true);
    let head = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nX: ", there.url());
    assert_unavailable(load_said(head), "without an answer");
    assert!(there.heads().is_empty());
}

#[test]
fn credentials_are_for_the_origin_alone() {
    let other = Web::saying(ok("from the other"), true);
    let location = other.url();
    let web = Web::new(move |asked, stream| {
        let said = match asked.number {
            0 => redirect("/again"),
            _ => redirect(&location),
        };
        stream.write_all(&said).unwrap();
        Then::Keep
    });
    let url = format!("http://me:p%40ss@{}/base", web.address);
    let origin = Http::open(&url).unwrap();
    assert_eq!(load(&origin, "k").unwrap(), b"from the other");
    for head in web.heads() {
        assert!(
            head.contains("\r\nauthorization: Basic bWU6cEBzcw==\r\n"),
            "{head}"
        );
    }
    assert_eq!(web.heads().len(), 2);
    let head = &other.heads()[0];
    assert!(!head.to_lowercase().contains("authorization"), "{head}");
    let shown = format!("{origin} {origin:?}");
    for secret in ["me:", "p%40ss", "p@ss", "bWU6cEBzcw"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// An answer that goes on when the test lets it, or is over.
fn gate() -> (mpsc::Sender<()>, Mutex<mpsc::Receiver<()>>) {
    let (open, gate) = mpsc::channel();
    (open, Mutex::new(gate))
}

#[test]
fn a_slow_origin_times_out() {
    for said in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    ] {
        let (_hold, held) = gate();
        let web = Web::new(move |_, stream| {
            stream.write_all(said.as_bytes()).unwrap();
            let _ = held.lock().unwrap().recv();
            Then::Close
        });
        let ctx = within(Duration::from_millis(50));
        let loaded = web
            .origin()
            .load(b"k", &ctx, &mut Sink::detached(LIMIT_BYTES));
        assert!(
            matches!(loaded, Err(LoadError::TimedOut(_))),
            "{said}: {loaded:?}"
        );
    }
}

#[test]
fn a_deadline_that_passed_asks_for_nothing() {
    let web = Web::saying(ok("v"), true);
    let loaded = web.origin().load(
        b"k",
        &within(Duration::ZERO),
        &mut Sink::detached(LIMIT_BYTES),
    );
    assert!(matches!(loaded, Err(LoadError::TimedOut(_))), "{loaded:?}");
    assert_eq!(web.connections(), 0);
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_body_comes() {
    let (_hold, held) = gate();
    let web = Web::new(move |_, stream| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            LIMIT_BYTES + 1
        );
        stream.write_all(head.as_bytes()).unwrap();
        let _ = held.lock().unwrap().recv();
        Then::Close
    });
    let error = load(&web.origin(), "k").unwrap_err();
    let LoadError::TooLarge(text) = error else {
        panic!("{error:?}");
    };
    assert!(
        text.contains("1048577") && text.contains("1048576"),
        "{text}"
    );
}

#[test]
fn an_endless_body_ends_at_the_limit() {
    for head in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ] {
        let web = Web::new(move |_, stream| {
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
            let _ = stream.write_all(head.as_bytes());
            while stream.write_all(chunk.as_bytes()).is_ok() {}
            Then::Close
        });
        let loaded = load(&web.origin(), "k");
        assert!(matches!(loaded, Err(LoadError::TooLarge(_))), "{loaded:?}");
    }
}

#[test]
fn a_connection_is_used_again() {
    let web = Web::new(|asked, stream| {
        let said = match asked.number % 3 {
            0 => ok("value"),
            1 => answer("404 Not Found", &"no such thing ".repeat(500)),
            _ => answer("503 Service Unavailable", "busy"),
        };
        stream.write_all(&said).unwrap();
        Then::Keep
    });
    let origin = web.origin();
    for _ in 0..10 {
        load(&origin, "k").unwrap();
        assert!(matches!(load(&origin, "k"), Err(LoadError::NotFound(_))));
        assert!(matches!(load(&origin, "k"), Err(LoadError::Unavailable(_))));
    }
    assert_eq!(web.heads().len(), 30);
    assert_eq!(web.connections(), 1);
}

#[test]
fn a_connection_the_origin_closed_is_not_noticed() {
    let web = Web::saying(ok("value"), false);
    let origin = web.origin();
    for _ in 0..50 {
        assert_eq!(load(&origin, "k").unwrap(), b"value");
    }
    assert_eq!(web.connections(), 50);
}

#[test]
fn a_request_is_sent_again_only_after_a_kept_connection() {
    // Each connection answers once and then closes on the next request, unanswered.
    let answered = Mutex::new(None);
    let web = Web::new(move |asked, stream| {
        if answered.lock().unwrap().replace(asked.connection) == Some(asked.connection) {
            return Then::Close;
        }
        stream.write_all(&ok("value")).unwrap();
        Then::Keep
    });
    let origin = web.origin();
    for _ in 0..3 {
        assert_eq!(load(&origin, "k").unwrap(), b"value");
    }
    assert_eq!(web.heads().len(), 5);
    assert_eq!(web.connections(), 3);

    let web = Web::saying("", false);
    assert_unavailable(load(&web.origin(), "k"), "without an answer");
    assert_eq!(web.heads().len(), 1);
}

#[test]
fn a_request_that_is_sent_again_goes_over_a_new_connection() {
    // Two connections are kept, and both close on the next request.
    let both = Barrier::new(2);
    let web = Web::new(move |asked, stream| {
        match asked.number {
            0 | 1 => drop(both.wait()),
            _ if asked.connection < 2 => return Then::Close,
            _ => {}
        }
        stream.write_all(&ok("value")).unwrap();
        Then::Keep
    });
    let origin = web.origin();
    thread::scope(|scope| {
        scope.spawn(|| load(&origin, "k").unwrap());
        scope.spawn(|| load(&origin, "k").unwrap());
    });
    assert_eq!(web.connections(), 2);
    assert_eq!(load(&origin, "k").unwrap(), b"value");
    assert_eq!(web.connections(), 3);
}

#[test]
fn an_origin_that_is_down_is_unavailable_until_it_is_up() {
    let listener = TcpListener::bind("127.0.0.7:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let origin = Http::open(&format!("http://{address}")).unwrap();
    assert_unavailable(load(&origin, "k"), "Connection refused");
    let web = Web::at(TcpListener::bind(address).unwrap(), |asked, stream| {
        let said = match asked.number {
            0 => answer("503 Service Unavailable", "warming up"),
            _ => ok("value"),
        };
        stream.write_all(&said).unwrap();
        Then::Keep
    });
    assert_unavailable(load(&origin, "k"), "503 Service Unavailable");
    assert_eq!(load(&origin, "k").unwrap(), b"value");
    drop(web);
}

#[test]
fn host_names_are_looked_up() {
    let web = Web::saying(ok("value"), true);
    let address = web.address;
    let named = |names: Names| Http {
        agent: agent(names),
        ..Http::open("http://Origin.test:81/base").unwrap()
    };
    let origin = named(Names::new(move |host, port| {
        assert_eq!((host, port), ("origin.test", 81));
        Ok(vec![address])
    }));
    assert_eq!(load(&origin, "k").unwrap(), b"value");
    assert!(web.heads()[0].contains("\r\nhost: origin.test:81\r\n"));

    let origin = named(Names::new(|_, _| Err(io::Error::other("no such host"))));
    assert_unavailable(load(&origin, "k"), "no such host");
}

#[test]
#[cfg(feature = "tls")]
fn https_speaks_tls_and_tells_why_it_fails() {
    const HANDSHAKE: u8 = 22;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/base", listener.local_addr().unwrap());
    let first = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        // A fatal alert: handshake_failure.
        stream.write_all(&[21, 3, 3, 0, 2, 2, 40]).unwrap();
        first[0]
    });
    assert_unavailable(load(&Http::open(&url).unwrap(), "k"), "handshake failure");
    assert_eq!(first.join().unwrap(), HANDSHAKE);
}
