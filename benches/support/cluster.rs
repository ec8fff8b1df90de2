//! Nodes that are one cluster, each in a process of its own.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use super::{Server, origin};

/// Addresses that nobody listens at.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let bind = |_| TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listeners: Vec<_> = (0..count).map(bind).collect();
    let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
    listeners.iter().map(address).collect()
}

/// A member that answers at `own`, by the express door as `args` say, and has its values from `origin`.
pub fn member(
    own: SocketAddr,
    addresses: &[SocketAddr],
    origin: SocketAddr,
    args: &[&str],
) -> Server {
    let peers: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    let mut node = Command::new(env!("CARGO_BIN_EXE_corecache"));
    node.args(["serve", "--admin", "off"])
        .args(["--listen", &own.to_string()])
        .args(["--group", &origin::group_argument(origin)])
        .args(["--peers", &peers.join(",")])
        .args(args);
    Server::start(&mut node)
}
