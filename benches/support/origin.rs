//! An HTTP origin within the benchmark's process, which answers as slowly as it is asked to.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Starts an origin on a free port: `value` gets the key of each request, on a thread of the connection's own, and
/// may sleep. It serves until the process ends.
pub fn start(value: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a bound address");
    let value = Arc::new(value);
    thread::spawn(move || {
        super::give_way();
        for stream in listener.incoming() {
            let (stream, value) = (stream.expect("a connection"), value.clone());
            // A connection ends when the node closes it.
            thread::spawn(move || serve(&stream, &*value));
        }
    });
    addr
}

/// The origin's argument for a node.
pub fn group_argument(addr: SocketAddr) -> String {
    format!("{}=http://{addr}/", super::client::GROUP)
}

fn serve(stream: &TcpStream, value: &dyn Fn(&str) -> Vec<u8>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut requests = BufReader::new(stream);
    while let Some(key) = read_request(&mut requests)? {
        let value = value(&key);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", value.len());
        let answer = [head.as_bytes(), &value].concat();
        { stream }.write_all(&answer)?;
    }
    Ok(())
}

/// The key of the next GET; none at the end of the connection.
fn read_request(requests: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    requests.read_line(&mut line)?;
    let path = line.split(' ').nth(1);
    let Some(key) = path.and_then(|path| path.strip_prefix('/')) else {
        return Ok(None);
    };
    let key = key.to_owned();
    while line != "\r\n" {
        line.clear();
        if requests.read_line(&mut line)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(key))
}
