//! What a node shows its callers at TLS, the same at both doors. It can be renewed while the node serves.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::node::StartError;

/// A certificate chain and its private key, PEM.
#[derive(PartialEq, Eq)]
pub struct Identity {
    /// The chain, the server's own certificate first.
    pub certificates: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// The identity that is shown to who connects next, and how often it has been another one before.
pub(super) struct Shown(Mutex<(u64, Arc<Identity>)>);

impl Shown {
    pub fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Self(Mutex::new((0, Arc::new(identity)))))
    }

    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub fn now(&self) -> (u64, Arc<Identity>) {
        self.0.lock().clone()
    }
}

/// Lets a node show another identity to those who connect from then on.
#[derive(Clone)]
pub struct Renewal(pub(super) Option<Arc<Shown>>);

impl Renewal {
    /// Shows this identity from now on. What the node shows its peers when it calls them is as it was when it started.
    ///
    /// # Errors
    /// [`StartError::Identity`] if it can not be used, and [`StartError::NoTls`] if the node does not speak TLS. The node
    /// shows the one before then.
    pub fn renew(&self, identity: Identity) -> Result<(), StartError> {
        let shown = self.0.as_ref().ok_or(StartError::NoTls)?;
        if !is_usable(&identity) {
            return Err(StartError::Identity);
        }
        let mut now = shown.0.lock();
        if *now.1 != identity {
            *now = (now.0 + 1, Arc::new(identity));
        }
        Ok(())
    }
}

#[cfg(feature = "tls")]
fn is_usable(identity: &Identity) -> bool {
    super::express::certified(identity).is_some()
}

#[cfg(not(feature = "tls"))]
fn is_usable(_: &Identity) -> bool {
    false
}
