//! A connection's socket, with TLS or without.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{Shutdown, SocketFlags, acceptfrom_with, shutdown, sockopt};

#[cfg(feature = "tls")]
use super::tls::Session;

/// What the kernel keeps of what a peer has sent and the node has not read.
const RECEIVED_MAX_BYTES: usize = 256 << 10;

/// Accepts the next of those who want to come in; with the peer's address.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (fd, peer) = acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    let peer = peer.ok_or(io::ErrorKind::NotConnected)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    // Requests are small. It can be refused, and then is as it was.
    let _ = sockopt::set_socket_recv_buffer_size(&fd, RECEIVED_MAX_BYTES);
    Ok((fd, peer))
}

pub(super) struct Socket {
    fd: OwnedFd,
    #[cfg(feature = "tls")]
    session: Option<Box<Session>>,
}

/// How far a handshake is that has not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(super) enum Handshake {
    New,
    /// The node has said what took it the most work.
    Answered,
}

/// What was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Got {
    pub len_bytes: usize,
    /// There was no more.
    pub is_all: bool,
}

/// What was written.
pub(super) struct Wrote {
    pub len_bytes: usize,
    /// The system takes no more for now.
    pub is_full: bool,
}

impl Socket {
    pub fn plain(fd: OwnedFd) -> Self {
        Self {
            fd,
            #[cfg(feature = "tls")]
            session: None,
        }
    }

    #[cfg(feature = "tls")]
    pub fn tls(fd: OwnedFd, session: Session) -> Self {
        Self {
            fd,
            session: Some(Box::new(session)),
        }
    }

    /// What there is, up to the buffer's end. Nothing at the end.
    #[inline]
    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Got> {
        #[cfg(feature = "tls")]
        if let Some(session) = &mut self.session {
            return session.read(&self.fd, into);
        }
        let room_bytes = into.len();
        let len_bytes = rustix::io::read(&self.fd, into)?;
        Ok(Got {
            len_bytes,
            is_all: len_bytes < room_bytes,
        })
    }

    #[inline]
    pub fn write(&mut self, pieces: &[IoSlice<'_>], all_bytes: usize) -> io::Result<Wrote> {
        #[cfg(feature = "tls")]
        if let Some(session) = &mut self.session {
            return session.write(&self.fd, pieces);
        }
        let len_bytes = rustix::io::writev(&self.fd, pieces)?;
        Ok(Wrote {
            len_bytes,
            is_full: len_bytes < all_bytes,
        })
    }

    /// Whether there is something of its own to be written, or something that it has taken.
    #[inline]
    pub fn wants_write(&self) -> bool {
        #[cfg(feature = "tls")]
        if let Some(session) = &self.session {
            return session.wants_write();
        }
        false
    }

    /// What TLS keeps; what the system does is not looked at.
    #[inline]
    pub fn memory_bytes(&self) -> usize {
        #[cfg(feature = "tls")]
        if let Some(session) = &self.session {
            return session.memory_bytes();
        }
        0
    }

    /// None if there is none, or if it is over.
    #[inline]
    pub fn handshake(&self) -> Option<Handshake> {
        #[cfg(feature = "tls")]
        if let Some(session) = &self.session {
            return session.handshake();
        }
        None
    }

    /// Says that nothing more will be written.
    pub fn finish(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(session) = &mut self.session {
            session.finish(&self.fd);
        }
        let _ = shutdown(&self.fd, Shutdown::Write);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
