//! Hits as fast as a server answers them, by h2load.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use corecache::server::pb::cache::Value;
use protobuf::Message;

use super::between;
use super::client::get_request;

/// In front of each gRPC message: a flag, and the length.
const MESSAGE_PREFIX_BYTES: usize = 5;
/// Values over that take windows that do not hold up the server.
const LARGE_BYTES: usize = 64 << 10;

/// Calls for one key, over 8 connections of 32 streams.
pub struct H2load {
    request: PathBuf,
    reply_bytes: usize,
    wide: bool,
    scheme: &'static str,
}

impl H2load {
    /// Calls for a value of so many bytes; what is sent lies in `folder`. None if h2load is not installed.
    pub fn new(folder: &Path, key: &str, value_bytes: usize) -> Option<Self> {
        Command::new("h2load").arg("--version").output().ok()?;
        let message = get_request(key).write_to_bytes().expect("a message");
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        let request = folder.join("request");
        fs::write(&request, body).expect("a file");
        let value = Value {
            value: vec![0; value_bytes],
            ..Value::default()
        };
        Some(Self {
            request,
            reply_bytes: MESSAGE_PREFIX_BYTES + value.compute_size() as usize,
            wide: value_bytes > LARGE_BYTES,
            scheme: "http",
        })
    }

    /// The same over TLS, whatever certificate the server has.
    pub fn over_tls(self) -> Self {
        Self {
            scheme: "https",
            ..self
        }
    }

    /// Makes so many calls, all of which are answered with the value; how many a second.
    pub fn calls_a_second(&self, addr: SocketAddr, calls: usize) -> f64 {
        let output = self.command(addr, calls).output().expect("h2load runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let check = || -> Option<f64> {
            let bytes: usize = between(&text, "(space savings", " data")?
                .rsplit_once('(')
                .and_then(|(_, bytes)| bytes.strip_suffix(')')?.parse().ok())?;
            let replied = bytes == calls * self.reply_bytes;
            let succeeded = text.contains(&format!(" {calls} succeeded, 0 failed, 0 errored"));
            let speed = between(&text, "s, ", " req/s")?.parse().ok();
            speed.filter(|_| replied && succeeded)
        };
        check().unwrap_or_else(|| panic!("not all calls succeeded:\n{text}"))
    }

    fn command(&self, addr: SocketAddr, calls: usize) -> Command {
        let mut command = Command::new("h2load");
        command
            .args(["-t", "1", "-c", "8", "-m", "32"])
            .args(["-n", &calls.to_string()])
            .args(["-H", "content-type: application/grpc"])
            .args(["-H", "te: trailers"])
            .arg("-d")
            .arg(&self.request);
        if self.wide {
            command.args(["-w", "30", "-W", "30"]);
        }
        command.arg(format!("{}://{addr}/corecache.v1.Cache/Get", self.scheme));
        command
    }
}
