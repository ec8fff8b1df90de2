//! TLS at this door, by rustls.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};

use super::socket::{Got, Handshake, Wrote};
use crate::server::identity::{Identity, Shown};

/// What every gRPC client asks for.
const ALPN: &[u8] = b"h2";

/// What is read from the socket before others have their turn, however little of it are contents.
const SEALED_MAX_BYTES: usize = 80 << 10;

/// The configuration of all connections; none if the certificates or the key can not be used.
pub(super) fn config(shown: &Arc<Shown>) -> Option<Arc<ServerConfig>> {
    let shows = Shows::new(shown)?;
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .ok()?
        .with_no_client_auth();
    let mut config = config.with_cert_resolver(Arc::new(shows));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Connections last: nothing is kept for resuming them, which threads would share.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Some(Arc::new(config))
}

/// What an identity is to rustls; none if it can not be used.
pub(in crate::server) fn certified(identity: &Identity) -> Option<CertifiedKey> {
    let certificates = CertificateDer::pem_slice_iter(&identity.certificates);
    let certificates = certificates.collect::<Result<Vec<_>, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key).ok()?;
    CertifiedKey::from_der(certificates, key, &ring::default_provider()).ok()
}

/// Shows each who connects the identity of that time.
struct Shows {
    shown: Arc<Shown>,
    last: Mutex<(u64, Arc<CertifiedKey>)>,
}

impl fmt::Debug for Shows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shows")
    }
}

impl Shows {
    fn new(shown: &Arc<Shown>) -> Option<Self> {
        let (version, identity) = shown.now();
        let certified = certified(&identity)?;
        Some(Self {
            shown: shown.clone(),
            last: Mutex::new((version, Arc::new(certified))),
        })
    }
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (version, identity) = self.shown.now();
        let mut last = self.last.lock();
        if version != last.0
            && let Some(certified) = certified(&identity)
        {
            *last = (version, Arc::new(certified));
        }
        Some(last.1.clone())
    }
}

/// TLS on one connection.
pub(super) struct Session(ServerConnection);

impl Session {
    pub fn new(config: &Arc<ServerConfig>) -> io::Result<Self> {
        let connection = ServerConnection::new(config.clone());
        connection.map(Self).map_err(io::Error::other)
    }

    /// As [`Socket::read`](super::socket::Socket::read). Interrupted if what has come so far says nothing: others are to
    /// have their turn.
    pub fn read(&mut self, fd: &OwnedFd, into: &mut [u8]) -> io::Result<Got> {
        let mut len_bytes = 0;
        let mut sealed_bytes = 0;
        let got = |len_bytes, is_all| Ok(Got { len_bytes, is_all });
        loop {
            match self.0.reader().read(&mut into[len_bytes..]) {
                // It has said its end.
                Ok(0) => return got(len_bytes, true),
                Ok(more) => len_bytes += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if len_bytes == into.len() || len_bytes > 0 && sealed_bytes >= SEALED_MAX_BYTES {
                return got(len_bytes, false);
            }
            if sealed_bytes >= SEALED_MAX_BYTES {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match self.0.read_tls(&mut Fd(fd)) {
                Ok(0) => return got(len_bytes, true),
                Ok(more) => sealed_bytes += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && len_bytes > 0 => {
                    return got(len_bytes, true);
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

    pub fn handshake(&self) -> Option<Handshake> {
        if !self.0.is_handshaking() {
            return None;
        }
        Some(match self.0.negotiated_cipher_suite() {
            None => Handshake::New,
            Some(_) => Handshake::Answered,
        })
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

    use super::*;

    /// A certificate by openssl; none where that is missing. In CI it is not.
    fn identity() -> Option<Identity> {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-subj", "/CN=localhost"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(folder.path())
            .output();
        if made.is_err() {
            assert!(std::env::var_os("CI").is_none(), "openssl does not run");
            eprintln!("SKIPPED: openssl does not run");
            return None;
        }
        let read = |name| std::fs::read(folder.path().join(name)).unwrap();
        Some(Identity {
            certificates: read("cert.pem"),
            key: read("key.pem"),
        })
    }

    #[derive(Debug)]
    struct Anybody;

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }

    /// A byte costs its record of 23 and the work on it.
    #[test]
    fn who_sends_small_records_has_no_longer_turn() {
        let Some(identity) = identity() else { return };
        let config = config(&Shown::new(identity)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let (fd, mut session) = (OwnedFd::from(accepted), Session::new(&config).unwrap());
        let trusting = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(trusting), name).unwrap();
        let mut buffer = vec![0; 64 << 10];
        while client.is_handshaking() {
            client.write_tls(&mut socket).unwrap();
            let _ = session.read(&fd, &mut buffer);
            session.write(&fd, &[]).unwrap();
            client.read_tls(&mut socket).unwrap();
            client.process_new_packets().unwrap();
        }
        const BYTES: usize = 8000;
        for _ in 0..BYTES {
            client.writer().write_all(b"x").unwrap();
            client.write_tls(&mut socket).unwrap();
        }
        let mut read = 0;
        let mut turns = 0;
        while read < BYTES {
            match session.read(&fd, &mut buffer) {
                Ok(got) => read += got.len_bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            }
            turns += 1;
        }
        assert!(turns >= 2, "{} sealed bytes in {turns} turn", 23 * BYTES);
    }
}
