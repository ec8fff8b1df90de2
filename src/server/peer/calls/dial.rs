//! How a node is reached: its name is looked up, one of its addresses answers, and TLS is spoken where nodes do. All of it
//! may take its time, so each dial is a thread; how many there are is bounded.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::Duration;
#[cfg(feature = "tls")]
use std::time::Instant;

use parking_lot::Mutex;

use super::driver::{Letter, Opened, Post};
use super::{End, Opening, Talk};
use crate::http2::{Solo, Target};
use crate::server::identity::Shown;

/// Nodes that are dialled at a time.
const DIALS_MAX: usize = 256;
/// How long one address may take to answer, and may be silent before TLS is spoken.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take until TLS is spoken, whatever is said meanwhile.
#[cfg(feature = "tls")]
const TLS_PATIENCE: Duration = Duration::from_secs(10);
const STACK_BYTES: usize = 256 << 10;

/// What it takes to speak TLS with the other nodes.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(in crate::server) struct LinkTls {
    /// The PEM file of those who sign the nodes' certificates.
    pub roots: Vec<u8>,
    /// What this node shows.
    pub identity: Arc<Shown>,
}

/// Dials that are under way.
#[derive(Default)]
pub(super) struct Dials(AtomicUsize);

/// A place among them.
struct Dialling(Arc<Dials>);

impl Dials {
    fn begin(self: &Arc<Self>) -> Option<Dialling> {
        let dialling = Dialling(self.clone());
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        (before < DIALS_MAX).then_some(dialling)
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to be said, and to whom.
pub(super) struct Speech {
    pub address: String,
    pub tls: Option<Arc<LinkTls>>,
    pub opening: Opening,
    pub talk: Box<dyn Talk>,
}

/// Reaches the node and hands the connection to the thread that drives it.
pub(super) fn dial(dials: &Arc<Dials>, speech: Speech, post: Post) {
    let Some(dialling) = dials.begin() else {
        let why = format!("{DIALS_MAX} nodes are being dialled already");
        return speech.talk.end(End::Broken(why));
    };
    // The closure is lost with a thread that does not start; what is to be said must not be.
    let speech = Arc::new(Mutex::new(Some(speech)));
    let dialled = speech.clone();
    let builder = Builder::new()
        .name("dial".to_owned())
        .stack_size(STACK_BYTES);
    let started = builder.spawn(move || {
        let _dialling = dialling;
        let Some(speech) = dialled.lock().take() else {
            return;
        };
        match Stream::open(&speech.address, speech.tls.as_deref()) {
            Ok(stream) => {
                let target = Target {
                    authority: &speech.address,
                    path: speech.opening.path,
                    is_secure: speech.tls.is_some(),
                };
                let mut solo = Solo::new(&target, speech.opening.message_max_bytes);
                if let Some(request) = &speech.opening.request {
                    solo.send(request, true);
                }
                let talk = speech.talk;
                post(Letter::Opened(Box::new(Opened { stream, solo, talk })));
            }
            Err(error) => speech.talk.end(End::Broken(error.to_string())),
        }
    });
    if let Err(error) = started
        && let Some(speech) = speech.lock().take()
    {
        let why = format!("the system starts no thread to dial it: {error}");
        speech.talk.end(End::Broken(why));
    }
}

/// A connection to a node.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(openssl::ssl::SslStream<TcpStream>),
}

impl Stream {
    fn open(address: &str, tls: Option<&LinkTls>) -> io::Result<Self> {
        let socket = connect(address)?;
        socket.set_nodelay(true)?;
        let stream = match tls {
            None => Self::Plain(socket),
            Some(tls) => secure(socket, tls, address, TLS_PATIENCE)?,
        };
        stream.socket().set_nonblocking(true)?;
        Ok(stream)
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref(),
        }
    }

    /// Whether a read that did not fill its buffer has read all there is.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    pub fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(into),
        }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(bytes),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

/// The first of a name's addresses that answers.
fn connect(address: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// By OpenSSL, as the front door of the other node: what one of them takes for a certificate, the other does.
#[cfg(feature = "tls")]
fn secure(
    socket: TcpStream,
    tls: &LinkTls,
    address: &str,
    patience: Duration,
) -> io::Result<Stream> {
    use openssl::ssl::HandshakeError;

    let until = Instant::now() + patience;
    socket.set_nonblocking(true)?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut shaken = connector(tls)?.connect(host, socket);
    while let Err(HandshakeError::WouldBlock(begun)) = shaken {
        let is_to_write = begun.error().code() == openssl::ssl::ErrorCode::WANT_WRITE;
        wait_for(begun.get_ref(), is_to_write, until)?;
        shaken = begun.handshake();
    }
    match shaken {
        Ok(stream) => Ok(Stream::Tls(stream)),
        Err(HandshakeError::WouldBlock(_)) => Err(io::ErrorKind::WouldBlock.into()),
        Err(HandshakeError::SetupFailure(error)) => Err(error.into()),
        Err(HandshakeError::Failure(failed)) => {
            let refused = failed.ssl().verify_result();
            Err(io::Error::other(match refused.as_raw() {
                0 => format!("TLS: {}", failed.error()),
                _ => format!("its certificate is refused: {}", refused.error_string()),
            }))
        }
    }
}

/// Waits until the socket can be read, or written.
#[cfg(feature = "tls")]
fn wait_for(socket: &TcpStream, is_to_write: bool, until: Instant) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let events = match is_to_write {
        true => PollFlags::OUT,
        false => PollFlags::IN,
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer in TLS");
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late());
    }
    let wait = left.min(PATIENCE);
    let patience = Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    match poll(&mut [PollFd::new(socket, events)], Some(&patience)) {
        Ok(0) => Err(late()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(feature = "tls")]
fn connector(tls: &LinkTls) -> io::Result<openssl::ssl::SslConnector> {
    use openssl::pkey::PKey;
    use openssl::ssl::{SslConnector, SslMethod};
    use openssl::x509::X509;
    use openssl::x509::store::X509StoreBuilder;
    use openssl::x509::verify::X509VerifyFlags;

    const ALPN: &[u8] = b"\x02h2";

    let (_, identity) = tls.identity.now();
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_alpn_protos(ALPN)?;
    let mut roots = X509StoreBuilder::new()?;
    for root in X509::stack_from_pem(&tls.roots)? {
        roots.add_cert(root)?;
    }
    // As the C-core has it: who is trusted need not have signed himself.
    roots.set_flags(X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::TRUSTED_FIRST)?;
    builder.set_cert_store(roots.build());
    let mut certificates = X509::stack_from_pem(&identity.certificates)?.into_iter();
    if let Some(own) = certificates.next() {
        builder.set_certificate(&own)?;
    }
    for signer in certificates {
        builder.add_extra_chain_cert(signer)?;
    }
    builder.set_private_key(&*PKey::private_key_from_pem(&identity.key)?)?;
    Ok(builder.build())
}

#[cfg(not(feature = "tls"))]
fn secure(_: TcpStream, _: &LinkTls, _: &str) -> io::Result<Stream> {
    // A node with TLS does not start without the feature.
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::{PKey, Private};
    use openssl::ssl::{SslAcceptor, SslMethod};
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
    use openssl::x509::{X509, X509NameBuilder};

    use super::*;
    use crate::server::identity::Identity;

    struct Signed {
        certificate: X509,
        key: PKey<Private>,
    }

    /// A certificate of a name, signed by another one, or by itself.
    fn signed(name: &str, signer: Option<&Signed>) -> Signed {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(64, openssl::bn::MsbOption::ONE, false).unwrap();
        let serial = serial.to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_subject_name(&subject).unwrap();
        let issuer = signer.map_or(&*subject, |signer| signer.certificate.subject_name());
        builder.set_issuer_name(issuer).unwrap();
        let (from, to) = (Asn1Time::days_from_now(0), Asn1Time::days_from_now(1));
        builder.set_not_before(&from.unwrap()).unwrap();
        builder.set_not_after(&to.unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        let extension = match name {
            "node" => {
                let context = builder.x509v3_context(None, None);
                let mut names = SubjectAlternativeName::new();
                names.ip("127.0.0.1").build(&context).unwrap()
            }
            _ => BasicConstraints::new().critical().ca().build().unwrap(),
        };
        builder.append_extension(extension).unwrap();
        let signing = signer.map_or(&key, |signer| &signer.key);
        builder.sign(signing, MessageDigest::sha256()).unwrap();
        Signed {
            certificate: builder.build(),
            key,
        }
    }

    /// Reaches the node that shows the first of these, with its signers, and trusts the last.
    fn reach(shown: &[&Signed], trusted: &Signed) -> io::Result<Stream> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).unwrap();
        acceptor.set_private_key(&shown[0].key).unwrap();
        acceptor.set_certificate(&shown[0].certificate).unwrap();
        for signer in &shown[1..] {
            let signer = signer.certificate.clone();
            acceptor.add_extra_chain_cert(signer).unwrap();
        }
        let acceptor = acceptor.build();
        let accepting = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            acceptor.accept(socket).is_ok()
        });
        let tls = LinkTls {
            roots: trusted.certificate.to_pem().unwrap(),
            identity: Shown::new(Identity {
                certificates: shown[0].certificate.to_pem().unwrap(),
                key: shown[0].key.private_key_to_pem_pkcs8().unwrap(),
            }),
        };
        let reached = Stream::open(&address, Some(&tls));
        let _ = accepting.join().unwrap();
        reached
    }

    #[test]
    fn who_answers_a_byte_at_a_time_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            // The head of a message that would be a long one.
            socket.write_all(&[22, 3, 3, 64, 0]).unwrap();
            while socket.write_all(&[2]).is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let root = signed("root", None);
        let tls = LinkTls {
            roots: root.certificate.to_pem().unwrap(),
            identity: Shown::new(Identity {
                certificates: root.certificate.to_pem().unwrap(),
                key: root.key.private_key_to_pem_pkcs8().unwrap(),
            }),
        };
        let (told, reached) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let socket = TcpStream::connect(&address).unwrap();
            let patience = Duration::from_millis(200);
            told.send(secure(socket, &tls, &address, patience).err())
        });
        let error = reached.recv_timeout(TLS_PATIENCE).expect("it gives up");
        let error = error.expect("there is no TLS");
        assert_eq!(error.to_string(), "it does not answer in TLS");
    }

    #[test]
    fn whoever_is_trusted_ends_the_chain() {
        let root = signed("root", None);
        let between = signed("between", Some(&root));
        let node = signed("node", Some(&between));
        for trusted in [&root, &between, &node] {
            let reached = reach(&[&node, &between], trusted);
            assert!(reached.is_ok(), "{:?}", reached.err());
        }
        let other = signed("root", None);
        let Err(error) = reach(&[&node, &between], &other) else {
            panic!("nobody who is trusted has signed it");
        };
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}
