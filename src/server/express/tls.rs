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

/// The buffer for what comes, which rustls keeps when nothing is in it, and the most that it puts into it while a handshake or a
/// record has not come to its end.
const BUFFER_BYTES: usize = 4 << 10;
const PARTIAL_MAX_BYTES: usize = 64 << 10;
/// What it takes to send before the system has taken it.
const SENDING_MAX_BYTES: usize = 64 << 10;

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

/// TLS on one connection, and what it keeps: rustls does not tell all of it, so some is what it can be at the most.
pub(super) struct Session {
    tls: ServerConnection,
    /// What has come since it gave contents the last time: records and handshakes may wait for their ends in it.
    partial_bytes: usize,
    /// Contents that have not been asked for.
    contents_bytes: usize,
    /// What the system has not taken.
    sealed_bytes: usize,
}

impl Session {
    pub fn new(config: &Arc<ServerConfig>) -> io::Result<Self> {
        let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(SENDING_MAX_BYTES));
        Ok(Self {
            tls,
            partial_bytes: 0,
            contents_bytes: 0,
            sealed_bytes: 0,
        })
    }

    /// What it keeps for the connection beside itself.
    pub fn memory_bytes(&self) -> usize {
        let partial_bytes = self.partial_bytes.min(PARTIAL_MAX_BYTES);
        BUFFER_BYTES + partial_bytes + self.contents_bytes + self.sealed_bytes
    }

    /// As [`Socket::read`](super::socket::Socket::read). Interrupted if what has come so far says nothing: others are to
    /// have their turn.
    pub fn read(&mut self, fd: &OwnedFd, into: &mut [u8]) -> io::Result<Got> {
        let mut len_bytes = 0;
        let mut taken_bytes = 0;
        let got = |len_bytes, is_all| Ok(Got { len_bytes, is_all });
        loop {
            match self.tls.reader().read(&mut into[len_bytes..]) {
                // It has said its end.
                Ok(0) => return got(len_bytes, true),
                Ok(more) => {
                    len_bytes += more;
                    self.contents_bytes -= more;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if len_bytes == into.len() || len_bytes > 0 && taken_bytes >= SEALED_MAX_BYTES {
                return got(len_bytes, false);
            }
            if taken_bytes >= SEALED_MAX_BYTES {
                return Err(io::ErrorKind::Interrupted.into());
            }
            match self.tls.read_tls(&mut Fd(fd)) {
                Ok(0) => return got(len_bytes, true),
                Ok(more) => {
                    taken_bytes += more;
                    self.unseal(fd, more)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && len_bytes > 0 => {
                    return got(len_bytes, true);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes apart what has come, of which so much is new.
    fn unseal(&mut self, fd: &OwnedFd, new_bytes: usize) -> io::Result<()> {
        match self.tls.process_new_packets() {
            Ok(state) => {
                let contents_bytes = state.plaintext_bytes_to_read();
                // No record stands within a handshake, so nothing from before these contents is kept.
                if contents_bytes > self.contents_bytes {
                    self.partial_bytes = 0;
                }
                self.partial_bytes += new_bytes;
                self.contents_bytes = contents_bytes;
                self.sealed_bytes = state.tls_bytes_to_write();
                Ok(())
            }
            Err(error) => {
                // It is told why, if it can be told at once.
                let _ = self.tls.write_tls(&mut Fd(fd));
                Err(io::Error::other(error))
            }
        }
    }

    pub fn write(&mut self, fd: &OwnedFd, pieces: &[IoSlice<'_>]) -> io::Result<Wrote> {
        // As much as it takes: it has a limit of its own.
        let len_bytes = self.tls.writer().write_vectored(pieces)?;
        self.sealed_bytes += len_bytes;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Fd(fd)) {
                Ok(taken) => self.sealed_bytes = self.sealed_bytes.saturating_sub(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Wrote {
                        len_bytes,
                        is_full: true,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        // What records add to contents was not counted.
        self.sealed_bytes = 0;
        Ok(Wrote {
            len_bytes,
            is_full: false,
        })
    }

    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    pub fn handshake(&self) -> Option<Handshake> {
        if !self.tls.is_handshaking() {
            return None;
        }
        Some(match self.tls.negotiated_cipher_suite() {
            None => Handshake::New,
            Some(_) => Handshake::Answered,
        })
    }

    pub fn finish(&mut self, fd: &OwnedFd) {
        self.tls.send_close_notify();
        let _ = self.tls.write_tls(&mut Fd(fd));
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

    /// A session and its client, whose handshake is over.
    struct Pair {
        session: Session,
        fd: OwnedFd,
        client: ClientConnection,
        socket: TcpStream,
    }

    impl Pair {
        fn new(identity: Identity) -> Self {
            let config = config(&Shown::new(identity)).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            let trusting = ClientConfig::builder_with_provider(ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody))
                .with_no_client_auth();
            let name = ServerName::try_from("localhost").unwrap();
            let mut pair = Self {
                session: Session::new(&config).unwrap(),
                fd: OwnedFd::from(accepted),
                client: ClientConnection::new(Arc::new(trusting), name).unwrap(),
                socket,
            };
            pair.shake_hands();
            pair
        }

        fn shake_hands(&mut self) {
            let mut buffer = [0; 1024];
            while self.client.is_handshaking() {
                self.client.write_tls(&mut self.socket).unwrap();
                let _ = self.session.read(&self.fd, &mut buffer);
                self.session.write(&self.fd, &[]).unwrap();
                self.client.read_tls(&mut self.socket).unwrap();
                self.client.process_new_packets().unwrap();
            }
            self.client.write_tls(&mut self.socket).unwrap();
            while self.session.handshake().is_some() {
                let _ = self.session.read(&self.fd, &mut buffer);
            }
        }

        fn sealed(&mut self, contents: &[u8]) -> Vec<u8> {
            let mut sealed = Vec::new();
            self.client.writer().write_all(contents).unwrap();
            self.client.write_tls(&mut sealed).unwrap();
            sealed
        }

        /// Reads until something has come, or what has come last is seen in what is kept.
        fn read(&mut self, into: &mut [u8]) -> usize {
            let before_bytes = self.session.memory_bytes();
            loop {
                match self.session.read(&self.fd, into) {
                    Ok(got) => return got.len_bytes,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}"),
                }
                if self.session.memory_bytes() > before_bytes {
                    return 0;
                }
            }
        }
    }

    /// A byte costs its record of 23 and the work on it.
    #[test]
    fn who_sends_small_records_has_no_longer_turn() {
        let Some(identity) = identity() else { return };
        let mut pair = Pair::new(identity);
        const BYTES: usize = 8000;
        for _ in 0..BYTES {
            let sealed = pair.sealed(b"x");
            pair.socket.write_all(&sealed).unwrap();
        }
        let mut buffer = vec![0; 64 << 10];
        let (mut read, mut turns) = (0, 0);
        while read < BYTES {
            match pair.session.read(&pair.fd, &mut buffer) {
                Ok(got) => read += got.len_bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            }
            turns += 1;
        }
        assert!(turns >= 2, "{} sealed bytes in {turns} turn", 23 * BYTES);
    }

    #[test]
    fn what_rustls_keeps_is_counted() {
        let Some(identity) = identity() else { return };
        let mut pair = Pair::new(identity);
        let mut buffer = [0; 1000];
        let sealed = pair.sealed(&[7; 10_000]);
        // A record without its end.
        let (most, last) = sealed.split_at(9_000);
        pair.socket.write_all(most).unwrap();
        assert_eq!(pair.read(&mut buffer), 0);
        while pair.session.partial_bytes < most.len() {
            pair.read(&mut buffer);
        }
        assert!(pair.session.memory_bytes() > most.len());
        // Contents that have no room yet.
        pair.socket.write_all(last).unwrap();
        assert_eq!(pair.read(&mut buffer), buffer.len());
        assert_eq!(pair.session.contents_bytes, 9_000);
        for _ in 0..9 {
            pair.read(&mut buffer);
        }
        let rest_bytes = BUFFER_BYTES + last.len();
        assert!(pair.session.memory_bytes() <= rest_bytes, "all is given");
    }

    #[test]
    fn what_the_system_does_not_take_is_counted_and_bounded() {
        let Some(identity) = identity() else { return };
        let mut pair = Pair::new(identity);
        let piece = vec![7; 256 << 10];
        let pieces = [IoSlice::new(&piece)];
        while !pair.session.write(&pair.fd, &pieces).unwrap().is_full {}
        for _ in 0..10 {
            pair.session.write(&pair.fd, &pieces).unwrap();
        }
        let kept_bytes = pair.session.memory_bytes();
        assert!((48 << 10..80 << 10).contains(&kept_bytes), "{kept_bytes}");
        pair.socket.set_nonblocking(true).unwrap();
        let mut unread = vec![0; 1 << 20];
        while pair.session.write(&pair.fd, &[]).unwrap().is_full {
            let _ = pair.socket.read(&mut unread);
        }
        assert!(pair.session.memory_bytes() < 8 << 10, "all is sent");
    }
}
