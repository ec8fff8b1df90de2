//! `http://` and `https://`: a key is what follows the base in the URL of a GET.
//!
//! **Addresses.** `http://HOST[:PORT]/BASE` and the key `a/b c` make `GET /BASE/a/b%20c`. Below a
//! base path a key has to be a plain path. A base that ends in `?NAME=` takes any key, as its
//! value. `http://USER:PASSWORD@…` sends basic authentication, to that host and port alone.
//!
//! **Answers.** 200 is the value. 404 and 410 are [`LoadError::NotFound`]; 400 and 414
//! [`LoadError::InvalidKey`]; 408, 429, 500 and above, other answers below 400 (204, 206, a redirect that
//! leads nowhere), as well as everything that goes wrong on the way, [`LoadError::Unavailable`]; no
//! answer in time [`LoadError::TimedOut`]; all others (401, 403) [`LoadError::Refused`]: the node is
//! not let in, and asking again does not help. Up to [`REDIRECTS`] redirects are followed, also to other hosts, never
//! from https to http, and never with a user name that a Location carries.
//!
//! **Words.** Callers are told the status or the system's error, and not whom the node has asked:
//! they need not know its network. The log has the address, and the first words of the answer,
//! unless there is no such key; a line a second at the most for an origin.
//!
//! **Whole values alone.** A body that ends before its Content-Length, or before its last chunk,
//! is an error. One that has neither ends with the connection, whole or not: it is delivered, and
//! not kept. A compressed body is refused, since none is asked for and a value has no header to
//! say so. Freshness (Cache-Control, Expires) is not looked at: groups are immutable.
//!
//! **Connections** are kept and shared by the loads of an origin. A request that meets a kept
//! connection which the origin has closed is sent once more, over a new one. Proxies that the
//! environment names are not used. For https, the system's roots are trusted.

mod address;
mod complaints;
mod connect;
mod names;
mod redirect;
mod words;

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ureq::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, LOCATION, TRANSFER_ENCODING,
};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version};
use ureq::{Agent, Body};

use crate::counted;
use crate::group::{LoadContext, LoadError, Loader, Sink};

use super::OriginError;
use address::{Base, Credentials, Site};
use complaints::{Complaints, Failed};
use connect::Connect;
use names::Names;

/// The most redirects that are followed for a key.
const REDIRECTS: usize = 5;

/// How long connecting may take, the TLS handshake included.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection is kept unused.
const KEEP: Duration = Duration::from_secs(15);

/// The most connections that are kept unused.
const KEPT: usize = 64;

/// The most bytes of an answer's head.
const HEAD_BYTES: usize = 16 * 1024;

/// The buffer a connection reads into; a head has to fit.
const INPUT_BYTES: usize = 2 * HEAD_BYTES;

/// The buffer a request is written from; its URL has to fit.
const OUTPUT_BYTES: usize = address::URL_BYTES + 4 * 1024;

/// A web server whose resources are the values of a group.
#[derive(Debug)]
pub struct Http {
    base: Base,
    authorization: Option<HeaderValue>,
    agent: Agent,
    /// Whether the log has been told that this origin's answers say nowhere how long they are.
    warned: AtomicBool,
    complaints: Complaints,
}

impl Http {
    /// Reads the URL of an origin, and connects to nothing yet.
    ///
    /// # Errors
    /// [`OriginError::Url`] when the URL is none, or not one that keys can follow.
    pub fn open(url: &str) -> Result<Self, OriginError> {
        let (base, credentials) = Base::parse(url)?;
        Ok(Self::new(base, credentials))
    }

    /// The same, of a URL with a user name whose password is told apart from it.
    ///
    /// # Errors
    /// Those of [`Http::open`], and [`OriginError::Password`] when the URL has no user name, or a password of its own.
    pub fn open_with_password(url: &str, password: &[u8]) -> Result<Self, OriginError> {
        let (base, credentials) = Base::parse(url)?;
        let wrong = |reason| OriginError::Password {
            origin: base.shown().to_owned(),
            reason,
        };
        match credentials {
            None => Err(wrong("has no user name: write http://USER@HOST/BASE")),
            Some(Credentials {
                password: Some(_), ..
            }) => Err(wrong("has one in its URL too: leave one of them out")),
            Some(Credentials { user, .. }) => {
                let password = Some(password.to_vec());
                Ok(Self::new(base, Some(Credentials { user, password })))
            }
        }
    }

    fn new(base: Base, credentials: Option<Credentials>) -> Self {
        Self {
            base,
            authorization: credentials.and_then(basic),
            agent: agent(Names::of_system()),
            warned: AtomicBool::new(false),
            complaints: Complaints::default(),
        }
    }
}

impl Http {
    /// Whom keys are asked from: scheme, host and port.
    pub fn site(&self) -> String {
        self.base.site().to_string()
    }
}

impl Loader for Http {
    fn load(&self, key: &[u8], ctx: &LoadContext<'_>, sink: &mut Sink) -> Result<(), LoadError> {
        let mut uri = self.base.address(key)?;
        self.follow(&mut uri, ctx, sink).map_err(|failed| {
            self.complaints.log(ctx.group(), key, &uri, &failed);
            failed.error
        })
    }
}

impl Http {
    /// Gets the value at `uri`, and leaves there whom was asked last.
    fn follow(&self, uri: &mut Uri, ctx: &LoadContext<'_>, sink: &mut Sink) -> Result<(), Failed> {
        for _ in 0..=REDIRECTS {
            let site = Site::of(uri).map_err(LoadError::Unavailable)?;
            let mut answer = self.ask(uri, &site, ctx)?;
            let status = answer.status().as_u16();
            if status == 200 {
                return Ok(self.deliver(answer, sink)?);
            }
            match answer.headers().get(LOCATION) {
                Some(location) if redirect::is_redirect(status) => {
                    *uri = redirect::target(uri, location).map_err(|why| Failed {
                        error: LoadError::Unavailable(format!(
                            "the origin redirects ({status}) to where it is not to be followed"
                        )),
                        details: why,
                    })?;
                    words::drain(answer.body_mut());
                }
                _ => return Err(refusal(&mut answer)),
            }
        }
        Err(LoadError::Unavailable(format!(
            "the origin redirects it more than {REDIRECTS} times"
        ))
        .into())
    }
}

impl Http {
    /// The head of the answer to a GET of `uri`, and its body to be read.
    fn ask(
        &self,
        uri: &Uri,
        site: &Site,
        ctx: &LoadContext<'_>,
    ) -> Result<Response<Body>, LoadError> {
        let (mut answer, connected) = connect::watched(|| self.send(uri, site, ctx, KEEP));
        if !connected && answer.as_ref().is_err_and(is_closed) {
            answer = self.send(uri, site, ctx, Duration::ZERO);
        }
        answer.map_err(failure)
    }

    /// Sends a GET, over a connection that has been unused for less than `keep`, or a new one.
    fn send(
        &self,
        uri: &Uri,
        site: &Site,
        ctx: &LoadContext<'_>,
        keep: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let left = ctx.remaining();
        if left.is_zero() {
            return Err(ureq::Error::Timeout(ureq::Timeout::Global));
        }
        let mut request = Request::get(uri.clone()).body(())?;
        if let Some(authorization) = self.authorization.as_ref()
            && site == self.base.site()
        {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let configured = self.agent.configure_request(request);
        let request = configured
            .timeout_global(Some(left))
            .max_idle_age(keep)
            .build();
        self.agent.run(request)
    }

    /// Writes the body of a 200 into `sink`.
    fn deliver(&self, answer: Response<Body>, sink: &mut Sink) -> Result<(), LoadError> {
        let length = body_length(&answer).map_err(|why| {
            LoadError::Unavailable(format!("the origin's answer can not be read: {why}"))
        })?;
        let (_, body) = answer.into_parts();
        match length {
            Length::Bytes(bytes) => sink.expect(usize::try_from(bytes).unwrap_or(usize::MAX))?,
            Length::Chunks => {}
            Length::UntilClosed => {
                sink.do_not_store();
                if !self.warned.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "the answers of {self} have neither Content-Length nor chunks, so a cut \
                         one looks whole: they are served, but not kept"
                    );
                }
            }
        }
        copy(body.into_reader(), sink)
    }
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.shown())
    }
}

fn agent(names: Names) -> Agent {
    let config = Agent::config_builder()
        .user_agent(concat!("corecache/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_connect(Some(CONNECT))
        .max_response_header_size(HEAD_BYTES)
        .input_buffer_size(INPUT_BYTES)
        .output_buffer_size(OUTPUT_BYTES)
        .max_idle_connections(KEPT)
        .max_idle_connections_per_host(KEPT)
        .max_idle_age(KEEP);
    #[cfg(feature = "tls")]
    let config = config.tls_config(
        ureq::tls::TlsConfig::builder()
            .provider(ureq::tls::TlsProvider::NativeTls)
            .root_certs(ureq::tls::RootCerts::PlatformVerifier)
            .build(),
    );
    Agent::with_parts(config.build(), Connect::default(), names)
}

fn basic(Credentials { user, password }: Credentials) -> Option<HeaderValue> {
    let encoded = BASE64_STANDARD.encode([user, password.unwrap_or_default()].join(&b':'));
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// How the end of a body is told.
#[derive(Debug, PartialEq, Eq)]
enum Length {
    Bytes(u64),
    Chunks,
    UntilClosed,
}

/// How long the body of `answer` is, or why its bytes are not the value.
fn body_length(answer: &Response<Body>) -> Result<Length, String> {
    let headers = answer.headers();
    if let Some(coding) = header(headers, CONTENT_ENCODING)
        && !coding.eq_ignore_ascii_case("identity")
    {
        return Err(format!(
            "its Content-Encoding is {coding:?}, which was not asked for"
        ));
    }
    match header(headers, TRANSFER_ENCODING) {
        Some(coding) if coding.eq_ignore_ascii_case("chunked") => {
            if answer.version() == Version::HTTP_10 {
                return Err("it has chunks, which HTTP/1.0 does not know".into());
            }
            Ok(Length::Chunks)
        }
        Some(coding) => Err(format!("its Transfer-Encoding is {coding:?}")),
        None => Ok(match answer.body().content_length() {
            Some(bytes) => Length::Bytes(bytes),
            // The client has no body to read where the length is 0.
            None if headers.contains_key(CONTENT_LENGTH) => Length::Bytes(0),
            None => Length::UntilClosed,
        }),
    }
}

/// All values of a header, as one.
fn header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let values = headers.get_all(name);
    let values: Vec<_> = values
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// Reads a body to its end.
fn copy(mut body: impl Read, sink: &mut Sink) -> Result<(), LoadError> {
    let mut piece = [0; 16 * 1024];
    loop {
        match body.read(&mut piece).map_err(ureq::Error::from) {
            Ok(0) => return Ok(()),
            Ok(bytes) => sink.append(&piece[..bytes])?,
            Err(error @ ureq::Error::Timeout(_)) => return Err(failure(error)),
            Err(error) => {
                return Err(LoadError::Unavailable(format!(
                    "the origin's answer broke off after {}: {}",
                    counted(sink.len(), "byte", "bytes"),
                    error.into_io()
                )));
            }
        }
    }
}

/// What an answer that is no value comes to.
fn refusal(answer: &mut Response<Body>) -> Failed {
    let status = answer.status();
    let details = words::first(answer.body_mut());
    let said = format!("the origin answered {status}");
    let error = match status.as_u16() {
        404 | 410 => LoadError::NotFound(said),
        400 | 414 => LoadError::InvalidKey(said),
        100..=399 => LoadError::Unavailable(said + "; only 200 is a value"),
        408 | 429 | 500.. => LoadError::Unavailable(said),
        401 | 403 => LoadError::Refused(said + ": it does not let this node in"),
        _ => LoadError::Refused(said + "; only 200 is a value"),
    };
    Failed { error, details }
}

/// What a request without an answer comes to.
fn failure(error: ureq::Error) -> LoadError {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Connect) => LoadError::TimedOut(format!(
            "the origin took more than {} s to connect",
            CONNECT.as_secs()
        )),
        ureq::Error::Timeout(_) => {
            LoadError::TimedOut("the origin did not answer in the time there was".into())
        }
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            LoadError::Unavailable("the origin closed the connection without an answer".into())
        }
        error => LoadError::Unavailable(format!("asking the origin failed: {}", error.into_io())),
    }
}

/// Whether the origin ended the connection before it answered.
fn is_closed(error: &ureq::Error) -> bool {
    let ureq::Error::Io(error) = error else {
        return false;
    };
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests;
