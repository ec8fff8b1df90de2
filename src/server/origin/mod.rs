//! Origins: the sources outside the node that its groups are filled from.
//!
//! | origin | a key is | module |
//! |---|---|---|
//! | `dir:PATH` | the path of a regular file below the folder PATH | `dir` |
//! | `http://HOST[:PORT]/BASE` | what follows BASE in the URL of a GET | `http` |
//! | `https://HOST[:PORT]/BASE` | the same, with the feature `tls` | `http` |
//!
//! In all of them a key is a *plain path*: components that `/` separates, none of them empty, `.`
//! or `..`. Anything else is refused before the origin is touched, so no key leads out of the
//! folder or above the base of the URL, and no two keys are one file because something on the way
//! tidied them up. (An origin whose URL ends in `?NAME=` has no path to leave and takes any key.)

mod dir;
mod http;

use std::{fmt, io};

use crate::group::{LoadContext, LoadError, Loader, Sink};

pub use dir::Dir;
pub use http::Http;

/// Where a group is filled from, as the command line names it.
///
/// Displayed, an origin names itself for logs, without user names, passwords and queries.
#[derive(Debug)]
pub enum Origin {
    /// `dir:PATH`
    Dir(Dir),
    /// `http://…` and `https://…`
    Http(Http),
}

impl Origin {
    /// Opens the origin that `spec` names.
    ///
    /// A folder has to exist. A web server need not be up yet: it is asked when a key is.
    ///
    /// # Errors
    /// [`OriginError`] says what is wrong with `spec`; its text is meant for the person who wrote it.
    pub fn open(spec: &str) -> Result<Self, OriginError> {
        if let Some(path) = spec.strip_prefix("dir:") {
            return Dir::open(path).map(Self::Dir);
        }
        match spec.split_once("://") {
            Some((scheme, _))
                if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") =>
            {
                Http::open(spec).map(Self::Http)
            }
            _ => Err(OriginError::UnknownForm(without_userinfo(spec))),
        }
    }

    /// The same, of `http://USER@HOST/BASE` with the password of that user, so that it need not stand in `spec`.
    ///
    /// # Errors
    /// Those of [`Origin::open`], and [`OriginError::Password`].
    pub fn open_with_password(spec: &str, password: &[u8]) -> Result<Self, OriginError> {
        match Self::open(spec)? {
            Self::Dir(_) => Err(OriginError::Password {
                origin: spec.to_owned(),
                reason: "is a folder: leave it out",
            }),
            Self::Http(_) => Http::open_with_password(spec, password).map(Self::Http),
        }
    }
}

impl Origin {
    /// The host that is asked, for an origin that is on one: scheme, host and port.
    pub fn site(&self) -> Option<String> {
        match self {
            Self::Dir(_) => None,
            Self::Http(http) => Some(http.site()),
        }
    }
}

impl Loader for Origin {
    fn load(&self, key: &[u8], ctx: &LoadContext<'_>, sink: &mut Sink) -> Result<(), LoadError> {
        match self {
            Self::Dir(dir) => dir.load(key, ctx, sink),
            Self::Http(http) => http.load(key, ctx, sink),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => dir.fmt(f),
            Self::Http(http) => http.fmt(f),
        }
    }
}

/// Why an origin can not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// The text has none of the forms that an origin has.
    #[error(
        "{0:?} is not an origin: write dir:PATH, http://HOST[:PORT]/BASE or https://HOST[:PORT]/BASE"
    )]
    UnknownForm(String),
    /// The folder can not be used.
    #[error("the origin dir:{path} can not be used: {source}; give a folder that exists")]
    Folder {
        /// The folder, as it was given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The URL can not be used.
    #[error("the origin {url:?} can not be used: {reason}")]
    Url {
        /// The URL without its user name and password.
        url: String,
        /// What is wrong with it and what to write.
        reason: String,
    },
    /// A password was given apart from an origin that takes none.
    #[error("a password is given for the origin {origin:?}, which {reason}")]
    Password {
        /// The origin, without user name, password and query.
        origin: String,
        /// Why it takes none, and what to do.
        reason: &'static str,
    },
}

/// `spec` with all that may be a user name or a password cut out.
fn without_userinfo(spec: &str) -> String {
    let Some((before, after)) = spec.rsplit_once('@') else {
        return spec.to_owned();
    };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://…@{after}"),
        None => format!("…@{after}"),
    }
}

/// Refuses a key that is not a plain path (see the module's head).
fn require_plain_path(key: &[u8]) -> Result<(), LoadError> {
    let wrong = key.split(|&byte| byte == b'/').find_map(|part| match part {
        b"" => Some("an empty component"),
        b"." => Some("the component \".\""),
        b".." => Some("the component \"..\""),
        _ => None,
    });
    match wrong {
        None => Ok(()),
        Some(wrong) => Err(LoadError::InvalidKey(format!(
            "it has {wrong}; give a path below the origin, such as \"a/b\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_pass_and_others_do_not() {
        for key in ["a", "a/b", "...", "a/.b/..c", "%2e%2e/x", " ", "\0"] {
            assert_eq!(require_plain_path(key.as_bytes()), Ok(()), "{key:?}");
        }
        for (wrong, keys) in [
            (
                "an empty component",
                ["", "/", "/a", "a/", "a//b"].as_slice(),
            ),
            ("the component \".\"", &[".", "./a", "a/."]),
            ("the component \"..\"", &["..", "../a", "a/../b"]),
        ] {
            for key in keys {
                let refused = require_plain_path(key.as_bytes());
                assert!(
                    matches!(&refused, Err(LoadError::InvalidKey(text)) if text.contains(wrong)),
                    "{key:?}: {refused:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_origin_is_told_the_forms() {
        for spec in ["", "blobs", "/srv/blobs", "ftp://host/x", "dir", "DIR:x"] {
            let text = Origin::open(spec).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{spec:?}")), "{text}");
            assert!(text.contains("dir:PATH") && text.contains("http://HOST"));
        }
    }

    #[test]
    fn a_password_is_in_no_error() {
        for spec in [
            "ftp://me:secret@host/x",
            "me:secret@host",
            "http://me:sec/ret@host/x",
            "http://me:secret@host:port/x",
            "http://me:secret@/x",
            "http://me:secret@host/x#y",
            "http://me:secret@host/x?y",
            "http://me:secret @host/x",
        ] {
            let error = Origin::open(spec).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("secret") && !text.contains("ret@"), "{text}");
            assert!(!text.contains("me:"), "{text}");
        }
    }
}
