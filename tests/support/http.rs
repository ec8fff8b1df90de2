//! The least of an HTTP client: what a probe does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

/// Makes a request without a body. Returns the status, the head and the body of the answer.
pub fn request(addr: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(addr).expect("the admin port is open");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a time limit can be set");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )
    .expect("the admin port takes a request");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the admin port answers with text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head has an end");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (
        status.expect("a head has a status"),
        head.to_owned(),
        body.to_owned(),
    )
}

/// The status and the body of a page.
pub fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let (status, _, body) = request(addr, "GET", path);
    (status, body)
}
