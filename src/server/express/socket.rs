//! A connection's socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{Shutdown, SocketFlags, acceptfrom_with, shutdown, sockopt};

/// What the kernel keeps of what a peer has sent and the node has not read.
const RECEIVED_MAX_BYTES: usize = 256 << 10;

pub(super) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// The next of those who want to come in, and its address.
    pub fn accept(listener: &OwnedFd) -> io::Result<(Self, SocketAddr)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, peer) = acceptfrom_with(listener, flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        // Requests are small. It can be refused, and then is as it was.
        let _ = sockopt::set_socket_recv_buffer_size(&fd, RECEIVED_MAX_BYTES);
        Ok((Self { fd }, peer))
    }

    #[inline]
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, into)?)
    }

    #[inline]
    pub fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.fd, pieces)?)
    }

    /// Says that nothing more will be written.
    pub fn finish(&mut self) {
        let _ = shutdown(&self.fd, Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
