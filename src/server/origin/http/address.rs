//! The URL of an origin, and what a key makes of it.
//!
//! Every byte of a key is percent-escaped but RFC 3986's unreserved characters. Below a base path
//! `/` stays as it is, and the key is a plain path, so that nobody on the way finds dots or empty
//! components to remove. After `?NAME=` the key is the value, `/` is escaped as well, and any
//! bytes are a key.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use ureq::http::Uri;
use ureq::http::uri::{Authority, Scheme};

use crate::group::LoadError;
use crate::server::origin::{OriginError, require_plain_path, without_userinfo};

/// All bytes but RFC 3986's unreserved characters.
const IN_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const IN_PATH: &AsciiSet = &IN_VALUE.remove(b'/');

/// The most bytes of a URL.
pub(super) const URL_BYTES: usize = 28 * 1024;

/// The most bytes of a base: a key of 4 KiB, each byte escaped, has room after it.
const BASE_BYTES: usize = 12 * 1024;

/// The URL of an origin, without user name and password.
#[derive(Debug)]
pub(super) struct Base {
    /// What comes before the key.
    prefix: String,
    /// The URL as logs show it, without a query.
    shown: String,
    site: Site,
    keys: Keys,
}

/// Scheme, host and port: whom a request is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    https: bool,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    BelowPath,
    QueryValue,
}

/// The user name that a URL carries, and the password if there is one, decoded.
pub(super) struct Credentials {
    pub(super) user: Vec<u8>,
    pub(super) password: Option<Vec<u8>>,
}

impl Base {
    /// Reads the URL of an origin.
    ///
    /// # Errors
    /// [`OriginError::Url`], without what may be a password.
    pub(super) fn parse(url: &str) -> Result<(Self, Option<Credentials>), OriginError> {
        parse(url).map_err(|reason| OriginError::Url {
            url: without_userinfo(url),
            reason,
        })
    }

    /// The URL of `key`.
    ///
    /// # Errors
    /// [`LoadError::InvalidKey`] for a key that could leave the base, and one too long for a URL.
    pub(super) fn address(&self, key: &[u8]) -> Result<Uri, LoadError> {
        let escaped = match self.keys {
            Keys::BelowPath => {
                require_plain_path(key)?;
                percent_encode(key, IN_PATH)
            }
            Keys::QueryValue => percent_encode(key, IN_VALUE),
        };
        let url = format!("{}{escaped}", self.prefix);
        if url.len() > URL_BYTES {
            return Err(LoadError::InvalidKey(format!(
                "it makes a URL of more than {URL_BYTES} bytes"
            )));
        }
        url.parse()
            .map_err(|error| LoadError::InvalidKey(format!("it makes no URL: {error}")))
    }

    /// Whom this origin's credentials are for.
    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// The URL without user name, password and query.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }
}

impl Site {
    /// The site that `uri` names.
    ///
    /// # Errors
    /// What is wrong with it: no scheme of ours, no host, a bad port.
    pub(super) fn of(uri: &Uri) -> Result<Self, String> {
        let https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err("it is neither http:// nor https://".into()),
        };
        let (host, port) = uri
            .authority()
            .and_then(host_and_port)
            .ok_or("write a host, and a port from 1 to 65535 if any, after http://")?;
        if https && cfg!(not(feature = "tls")) {
            return Err("this corecache was built without the feature `tls`: use http://".into());
        }
        Ok(Self {
            https,
            host: host.to_ascii_lowercase(),
            port: port.unwrap_or(if https { 443 } else { 80 }),
        })
    }

    /// The host without the brackets of an IPv6 address.
    pub(super) fn bare_host(&self) -> &str {
        let host = self
            .host
            .strip_prefix('[')
            .and_then(|it| it.strip_suffix(']'));
        host.unwrap_or(&self.host)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is reached over TLS.
    pub(super) fn is_https(&self) -> bool {
        self.https
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

fn parse(url: &str) -> Result<(Base, Option<Credentials>), String> {
    if url.len() > BASE_BYTES {
        return Err(format!("it has more than {BASE_BYTES} bytes"));
    }
    if url.contains('#') {
        return Err("it has a fragment, which no server sees: leave out '#' and the rest".into());
    }
    let uri: Uri = percent_encode(url.as_bytes(), &AsciiSet::EMPTY)
        .to_string()
        .parse()
        .map_err(|error| format!("{error}; write http://HOST[:PORT]/BASE"))?;
    let site = Site::of(&uri)?;
    let (path, query) = (uri.path(), uri.query());
    let (prefix, keys) = match query {
        None if path.ends_with('/') => (format!("{site}{path}"), Keys::BelowPath),
        None => (format!("{site}{path}/"), Keys::BelowPath),
        Some(query) if query.ends_with('=') => (format!("{site}{path}?{query}"), Keys::QueryValue),
        Some(_) => {
            return Err("its query has to end in '=', where the key follows, as in ?key=".into());
        }
    };
    let shown = match query {
        None => format!("{site}{path}"),
        Some(_) => format!("{site}{path}?…"),
    };
    let base = Base {
        prefix,
        shown,
        site,
        keys,
    };
    Ok((base, uri.authority().and_then(credentials)))
}

/// The host and the port, if there is one; `None` when there is no host, or the port is none.
fn host_and_port(authority: &Authority) -> Option<(&str, Option<u16>)> {
    let text = authority.as_str();
    let after_userinfo = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    let host = authority.host();
    let port = match after_userinfo.strip_prefix(host)? {
        "" => None,
        port => Some(port.strip_prefix(':').and_then(port_number)?),
    };
    (!host.is_empty()).then_some((host, port))
}

fn port_number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    (number > 0).then_some(number)
}

fn credentials(authority: &Authority) -> Option<Credentials> {
    let (userinfo, _) = authority.as_str().rsplit_once('@')?;
    let (user, password) = match userinfo.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (userinfo, None),
    };
    Some(Credentials {
        user: percent_decode_str(user).collect(),
        password: password.map(|password| percent_decode_str(password).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str, key: &[u8]) -> String {
        let (base, _) = Base::parse(url).unwrap();
        base.address(key).unwrap().to_string()
    }

    #[test]
    fn keys_are_escaped_below_the_base() {
        for url in ["http://Host/b", "http://host:80/b/", "HTTP://host/b"] {
            assert_eq!(address(url, b"c"), "http://host:80/b/c", "{url}");
        }
        assert_eq!(address("http://host", b"a/b"), "http://host:80/a/b");
        assert_eq!(
            address("http://host/\u{e9}/", b"a"),
            "http://host:80/%C3%A9/a"
        );
        assert_eq!(
            address("http://[::1]:8080/x", b" %?#+&=:@\xff\0\"\\aZ09-._~"),
            "http://[::1]:8080/x/%20%25%3F%23%2B%26%3D%3A%40%FF%00%22%5CaZ09-._~"
        );
        assert_eq!(
            address("http://h/b", b"%2e%2e/x"),
            "http://h:80/b/%252e%252e/x"
        );
        let (base, _) = Base::parse("http://host/b").unwrap();
        for key in ["..", "a/../../c", "/a", "a//b", "a/", ".", ""] {
            let address = base.address(key.as_bytes());
            assert!(matches!(address, Err(LoadError::InvalidKey(_))), "{key}");
        }
        let long = base.address(&[b' '; 30_000]);
        assert!(matches!(long, Err(LoadError::InvalidKey(_))), "{long:?}");
    }

    #[test]
    fn any_bytes_are_the_value_of_a_query() {
        assert_eq!(
            address("http://host/get?v=1&key=", b"https://x/../a//b?c#d&e=\xff"),
            "http://host:80/get?v=1&key=https%3A%2F%2Fx%2F..%2Fa%2F%2Fb%3Fc%23d%26e%3D%FF"
        );
    }

    #[test]
    fn a_bad_url_is_told_why() {
        for (url, why) in [
            ("http://", "HOST"),
            ("http:///x", "HOST"),
            ("http://:80/x", "host"),
            ("http://host:0/x", "port"),
            ("http://host:/x", "port"),
            ("http://host:99999/x", "port"),
            ("http://host:8x/x", "port"),
            ("http://ho st/x", "uri"),
            ("http://h\u{e9}/", "HOST"),
            ("http://host/x#y", "fragment"),
            ("http://host/x?y", "end in '='"),
        ] {
            let error = Base::parse(url).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(&format!("{url:?}")), "{error}");
            let (_, reason) = error.split_once("can not be used").unwrap();
            assert!(reason.contains(why), "{reason}, not {why}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_not_shown() {
        let (base, credentials) = Base::parse("http://me:p%40s%3as@host/b?token=t&key=").unwrap();
        let credentials = credentials.unwrap();
        assert_eq!(credentials.user, b"me");
        assert_eq!(credentials.password.unwrap(), b"p@s:s");
        assert_eq!(base.shown(), "http://host:80/b?…");
        assert!(!format!("{base:?}").contains("p%40"));
        assert_eq!(
            base.address(b"k").unwrap(),
            "http://host:80/b?token=t&key=k"
        );
        let (_, credentials) = Base::parse("http://me@host").unwrap();
        let credentials = credentials.unwrap();
        assert_eq!(
            (&*credentials.user, credentials.password),
            (&b"me"[..], None)
        );
        assert!(Base::parse("http://host/a@b").unwrap().1.is_none());
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn https_takes_the_feature_tls() {
        let error = Base::parse("https://host/x").map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("feature `tls`"), "{error}");
    }
}
