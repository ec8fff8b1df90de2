//! TLS at this door, by rustls.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, ServerConnection};

use super::socket::Wrote;
use crate::server::node::Identity;

/// What every gRPC client asks for.
const ALPN: &[u8] = b"h2";

/// The configuration of all connections; none if the certificates or the key can not be used.
pub(super) fn config(identity: &Identity) -> Option<Arc<ServerConfig>> {
    let certificates = CertificateDer::pem_slice_iter(&identity.certificates);
    let certificates = certificates.collect::<Result<Vec<_>, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key).ok()?;
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth();
    let mut config = config.with_single_cert(certificates, key).ok()?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Connections last: nothing is kept for resuming them, which threads would share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(Arc::new(config))
}

/// TLS on one connection.
pub(super) struct Session(ServerConnection);

impl Session {
    pub fn new(config: &Arc<ServerConfig>) -> io::Result<Self> {
        let connection = ServerConnection::new(config.clone());
        connection.map(Self).map_err(io::Error::other)
    }

    /// As [`Socket::read`](super::socket::Socket::read).
    pub fn read(&mut self, fd: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
        let mut len = 0;
        loop {
            match self.0.reader().read(&mut into[len..]) {
                // It has said its end.
                Ok(0) => return Ok(len),
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if len == into.len() {
                return Ok(len);
            }
            match self.0.read_tls(&mut Fd(fd)) {
                Ok(0) => return Ok(len),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && len > 0 => {
                    return Ok(len);
                }
                Err(error) => return Err(error),
            }
            if let Err(error) = self.0.process_new_packets() {
                // It is told why, if it can be told at once.
                let _ = self.0.write_tls(&mut Fd(fd));
                return Err(io::Error::other(error));
            }
        }
    }

    pub fn write(&mut self, fd: &OwnedFd, pieces: &[IoSlice<'_>]) -> io::Result<Wrote> {
        // As much as it takes: it has a limit of its own.
        let len_bytes = self.0.writer().write_vectored(pieces)?;
        while self.0.wants_write() {
            match self.0.write_tls(&mut Fd(fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Wrote {
                        len_bytes,
                        is_full: true,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Wrote {
            len_bytes,
            is_full: false,
        })
    }

    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    pub fn finish(&mut self, fd: &OwnedFd) {
        self.0.send_close_notify();
        let _ = self.0.write_tls(&mut Fd(fd));
    }
}

/// The socket below.
struct Fd<'a>(&'a OwnedFd);

impl Read for Fd<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, into)?)
    }
}

impl Write for Fd<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(self.0, pieces)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
