//! Hits as fast as a node answers them, by h2load.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use protobuf::Message;

use super::client::get_request;

/// Calls for one key, over 8 connections of 32 streams.
pub struct H2load {
    request: PathBuf,
}

impl H2load {
    /// None if it is not installed.
    pub fn new(folder: &Path, key: &str) -> Option<Self> {
        Command::new("h2load").arg("--version").output().ok()?;
        let message = get_request(key).write_to_bytes().expect("a message");
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        let request = folder.join("request");
        fs::write(&request, body).expect("a file");
        Some(Self { request })
    }

    /// Makes so many calls, all of which succeed; how many a second.
    pub fn calls_a_second(&self, addr: SocketAddr, calls: usize) -> f64 {
        let output = Command::new("h2load")
            .args(["-t", "1", "-c", "8", "-m", "32", "-n", &calls.to_string()])
            .args(["-H", "content-type: application/grpc"])
            .args(["-H", "te: trailers"])
            .arg("-d")
            .arg(&self.request)
            .arg(format!("http://{addr}/corecache.v1.Cache/Get"))
            .output()
            .expect("h2load runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let succeeded = text.contains(&format!(" {calls} succeeded, 0 failed, 0 errored"));
        let speed = text.split_once("s, ").and_then(|(_, rest)| {
            let (speed, _) = rest.split_once(" req/s")?;
            speed.parse().ok()
        });
        speed
            .filter(|_| succeeded)
            .unwrap_or_else(|| panic!("not all calls succeeded:\n{text}"))
    }
}
