//! Where a redirect leads: RFC 3986, section 5.2, and the rules of who may be asked next.
//!
//! The client's own following of redirects is off, because it would go from https to http once a
//! hop has come from http, and would follow a Location out of a head that was cut.

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use ureq::http::{HeaderValue, Uri};

use super::address::Site;

/// What some servers leave unescaped in a Location, beside what is not ASCII.
const UNESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

/// Whether an answer with this status and a Location is to be followed.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The URL that `location` names in an answer to a request for `from`.
///
/// # Errors
/// What is wrong with the location, or why it is not followed.
pub(super) fn target(from: &Uri, location: &HeaderValue) -> Result<Uri, String> {
    let location = percent_encode(location.as_bytes(), UNESCAPED).to_string();
    let reference = location.split('#').next().unwrap_or_default();
    let to: Uri = resolve(from, reference)
        .parse()
        .map_err(|error| format!("its Location {location:?} is no URL: {error}"))?;
    if to.authority().is_some_and(|it| it.as_str().contains('@')) {
        return Err("its Location carries a user name".into());
    }
    let site = Site::of(&to).map_err(|why| format!("its Location {location:?}: {why}"))?;
    if from.scheme_str() == Some("https") && !site.is_https() {
        return Err("it leads from https to http".into());
    }
    Ok(to)
}

fn resolve(from: &Uri, reference: &str) -> String {
    let scheme = from.scheme_str().unwrap_or_default();
    let site = || {
        format!(
            "{scheme}://{}",
            from.authority().map_or("", |it| it.as_str())
        )
    };
    let (path, query) = match reference.find('?') {
        Some(at) => reference.split_at(at),
        None => (reference, ""),
    };
    if has_scheme(path) {
        reference.to_owned()
    } else if path.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if path.is_empty() && query.is_empty() {
        from.to_string()
    } else if path.is_empty() {
        format!("{}{}{query}", site(), from.path())
    } else if path.starts_with('/') {
        format!("{}{}{query}", site(), without_dots(path))
    } else {
        let folder = from
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!(
            "{}{}{query}",
            site(),
            without_dots(&format!("{folder}/{path}"))
        )
    }
}

/// Whether a reference starts with a scheme: a colon before any slash.
fn has_scheme(path: &str) -> bool {
    path.split_once(':')
        .is_some_and(|(scheme, _)| !scheme.contains('/'))
}

/// An absolute path without the segments `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        kept.push("");
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(from: &str, location: &[u8]) -> Result<String, String> {
        let location = HeaderValue::from_bytes(location).unwrap();
        target(&from.parse().unwrap(), &location).map(|uri| uri.to_string())
    }

    #[test]
    fn references_are_resolved() {
        for (location, expected) in [
            ("http://other/x", "http://other/x"),
            ("http://other:81/x?y#z", "http://other:81/x?y"),
            ("//other/x", "http://other/x"),
            ("/x", "http://host:80/x"),
            ("/x/../../y/./z", "http://host:80/y/z"),
            ("/x:y", "http://host:80/x:y"),
            ("x", "http://host:80/a/b/x"),
            ("../x?y=/../z", "http://host:80/a/x?y=/../z"),
            ("..", "http://host:80/a/"),
            ("./", "http://host:80/a/b/"),
            ("../../../../x", "http://host:80/x"),
            ("?k=v", "http://host:80/a/b/c?k=v"),
            ("#z", "http://host:80/a/b/c?q=1"),
            ("/caf\u{e9} 1", "http://host:80/caf%C3%A9%201"),
        ] {
            let went = go("http://host:80/a/b/c?q=1", location.as_bytes());
            assert_eq!(went.as_deref(), Ok(expected), "{location}");
        }
    }

    #[test]
    fn what_is_not_followed_is_told_why() {
        for (location, why) in [
            ("ftp://other/x", "neither"),
            ("mailto:me", "neither"),
            ("http://me:secret@other/", "user name"),
            ("http://other:0/", "port"),
            ("http:///x", "URL"),
        ] {
            let error = go("http://host/a", location.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{location}: {error}");
            assert!(!error.contains("secret"));
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn https_is_not_left() {
        assert!(go("http://host/a", b"https://host/b").is_ok());
        assert!(go("https://host/a", b"/b").is_ok());
        let error = go("https://host/a", b"http://host/b").unwrap_err();
        assert!(error.contains("from https to http"), "{error}");
    }
}
