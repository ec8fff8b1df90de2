//! Who may come in: so many connections at both doors together, and so many by one address at this one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::server::connections::{Admitted as Counted, Connections};

pub(super) struct Admission {
    connections: Connections,
    /// Connections that one address may have.
    limit: usize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    refused: AtomicU64,
}

/// A connection that is counted until this is dropped.
pub(super) struct Admitted {
    _counted: Counted,
    address: IpAddr,
    admission: Arc<Admission>,
}

impl Admission {
    pub fn new(connections: Connections, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            connections,
            limit,
            by_address: Mutex::default(),
            refused: AtomicU64::new(0),
        })
    }

    pub fn admit(self: &Arc<Self>, fd: BorrowedFd<'_>, address: IpAddr) -> Option<Admitted> {
        let address = network(address);
        let counted = self.connections.admit(fd)?;
        let mut by_address = self.by_address.lock();
        let open = by_address.entry(address).or_default();
        if *open == self.limit {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *open += 1;
        Some(Admitted {
            _counted: counted,
            address,
            admission: self.clone(),
        })
    }

    /// How many were closed because their address had too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut by_address = self.admission.by_address.lock();
        if let Some(open) = by_address.get_mut(&self.address) {
            *open -= 1;
            if *open == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// Who has one address of IPv6 has 64 bits of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_address_has_its_share_and_gives_it_back() {
        let admission = Admission::new(Connections::new(4), 2);
        // Any socket will do.
        let sockets = [(); 9].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let mut sockets = sockets.iter();
        let mut admit = |text: &str| {
            let socket = sockets.next().unwrap();
            admission.admit(socket.as_fd(), text.parse().unwrap())
        };
        let first = admit("10.0.0.1").unwrap();
        let _mapped = admit("::ffff:10.0.0.1").unwrap();
        assert!(admit("10.0.0.1").is_none());
        let _other = [admit("fd00::1").unwrap(), admit("fd00::2").unwrap()];
        assert!(admit("fd01::1").is_none(), "there are four");
        drop(first);
        assert!(admit("fd00::3").is_none(), "one network");
        assert!(admit("10.0.0.1").is_some());
        assert_eq!(admission.refused(), 2);
        assert_eq!(admission.by_address.lock().len(), 2);
    }
}
