//! A listener for each thread, all of them at one address: the kernel spreads the connections over them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt,
};

/// Connections that may wait until they are accepted, a listener; the system may allow fewer.
const BACKLOG: i32 = 1024;

/// Listens at an address, so many times; port 0 for any free one. Returns the address with its port too.
///
/// The first socket is bound alone, which fails if anybody has the address, and lets the others in then. So two nodes
/// never share a port without a word.
pub(super) fn listen_at(
    address: SocketAddr,
    count: usize,
) -> io::Result<(Vec<OwnedFd>, SocketAddr)> {
    let first = socket(address)?;
    bind(&first, &address)?;
    sockopt::set_socket_reuseport(&first, true)?;
    let bound = SocketAddr::try_from(getsockname(&first)?)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let next = socket(address)?;
        sockopt::set_socket_reuseport(&next, true)?;
        bind(&next, &bound)?;
        sockets.push(next);
    }
    for socket in &sockets {
        listen(socket, BACKLOG)?;
    }
    Ok((sockets, bound))
}

fn socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // Connections of a node that has just ended do not keep the port from the next one.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn anywhere() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn several_listen_at_one_port_and_nobody_else_does() {
        let (listeners, address) = listen_at(anywhere(), 3).unwrap();
        assert_eq!(listeners.len(), 3);
        TcpStream::connect(address).unwrap();
        for refused in [
            listen_at(address, 1).map(drop),
            listen_at(address, 3).map(drop),
            TcpListener::bind(address).map(drop),
        ] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        drop(listeners);
        listen_at(address, 2).unwrap();
    }

    #[test]
    fn a_port_that_another_program_has_is_refused() {
        let other = TcpListener::bind(anywhere()).unwrap();
        let refused = listen_at(other.local_addr().unwrap(), 2).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
