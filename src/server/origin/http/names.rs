//! The addresses of host names, looked up beside the loads.
//!
//! The client asks for a host's addresses before each request, even when a connection is at hand.
//! The system's lookup has no deadline and may take half a minute. So a lookup has a thread of its
//! own, one at a time for a name, which all who need it wait for no longer than they may; and its
//! answer is used for a while, also while it is being renewed, so that a name server that is slow
//! or away for a moment is not felt.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::address::Site;

/// After this long an answer is renewed.
const RENEW: Duration = Duration::from_secs(10);

/// After this long an answer is not used any more.
const FORGET: Duration = Duration::from_secs(60);

/// The most names that are known or looked up at a time: an origin's own and its redirects'.
const NAMES: usize = 32;

type Lookup = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// The client's resolver.
#[derive(Clone)]
pub(super) struct Names {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Box<Lookup>,
    known: Mutex<HashMap<(String, u16), Name>>,
    answered: Condvar,
}

#[derive(Default)]
struct Name {
    /// The addresses, and when they were found.
    found: Option<(Vec<SocketAddr>, Instant)>,
    /// What the last lookup said, if it failed.
    failure: String,
    /// How many lookups have ended.
    lookups: u64,
    is_looked_up: bool,
}

impl Names {
    /// Names that the system looks up.
    pub(super) fn of_system() -> Self {
        Self::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
    }

    /// Names that `lookup` looks up.
    pub(super) fn new(
        lookup: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                lookup: Box::new(lookup),
                known: Mutex::default(),
                answered: Condvar::new(),
            }),
        }
    }

    /// The addresses of a host; `None` when `longest` passes without them.
    fn addresses(
        &self,
        host: &str,
        port: u16,
        longest: Duration,
    ) -> io::Result<Option<Vec<SocketAddr>>> {
        let key = (host.to_owned(), port);
        let mut known = self.shared.known.lock();
        if !known.contains_key(&key) {
            make_room(&mut known)?;
        }
        let name = known.entry(key.clone()).or_default();
        let usable = name.usable();
        if !name.is_looked_up && name.is_due() {
            name.is_looked_up = true;
            if let Err(error) = self.start_lookup(&key) {
                name.is_looked_up = false;
                return usable.map(Some).ok_or(error);
            }
        }
        if usable.is_some() {
            return Ok(usable);
        }
        let lookups = name.lookups;
        let is_open = |known: &mut HashMap<_, Name>| {
            known.get(&key).is_some_and(|name| name.lookups == lookups)
        };
        let answered = &self.shared.answered;
        let wait = answered.wait_while_for(&mut known, is_open, longest);
        match known.get(&key) {
            _ if wait.timed_out() => Ok(None),
            Some(name) => match name.usable() {
                None => Err(io::Error::other(name.failure.clone())),
                usable => Ok(usable),
            },
            None => Err(io::Error::other("its name was crowded out by others")),
        }
    }

    /// Starts the thread that looks `key` up and tells all who wait for it.
    fn start_lookup(&self, key: &(String, u16)) -> io::Result<()> {
        let (shared, key) = (Arc::clone(&self.shared), key.clone());
        let run = move || {
            let answer = (shared.lookup)(&key.0, key.1);
            if let Some(name) = shared.known.lock().get_mut(&key) {
                name.answer(answer);
            }
            shared.answered.notify_all();
        };
        let thread = thread::Builder::new().name("origin-name".into());
        thread.spawn(run).map(drop)
    }
}

/// Drops the name that was found longest ago when there is no place for another.
fn make_room(known: &mut HashMap<(String, u16), Name>) -> io::Result<()> {
    if known.len() < NAMES {
        return Ok(());
    }
    let idle = known.iter().filter(|(_, name)| !name.is_looked_up);
    let oldest = idle.min_by_key(|(_, name)| name.found.as_ref().map(|(_, at)| *at));
    let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
        return Err(io::Error::other("too many names are being looked up"));
    };
    known.remove(&oldest);
    Ok(())
}

impl Name {
    fn usable(&self) -> Option<Vec<SocketAddr>> {
        let (addresses, at) = self.found.as_ref()?;
        (at.elapsed() < FORGET).then(|| addresses.clone())
    }

    fn is_due(&self) -> bool {
        self.found
            .as_ref()
            .is_none_or(|(_, at)| at.elapsed() >= RENEW)
    }

    fn answer(&mut self, answer: io::Result<Vec<SocketAddr>>) {
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                self.found = Some((addresses, Instant::now()));
            }
            Ok(_) => self.failure = "its name has no address".into(),
            Err(error) => self.failure = error.to_string(),
        }
        self.lookups += 1;
        self.is_looked_up = false;
    }
}

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let site = Site::of(uri).map_err(ureq::Error::BadUri)?;
        let (host, port) = (site.bare_host(), site.port());
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => self
                .addresses(host, port, *timeout.after)?
                .ok_or(ureq::Error::Timeout(timeout.reason))?,
        };
        let mut resolved = self.empty();
        for address in addresses {
            if resolved.try_push(address).is_err() {
                break;
            }
        }
        Ok(resolved)
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn all_who_ask_meanwhile_share_one_lookup() {
        let (open, gate) = mpsc::channel::<()>();
        let (gate, lookups) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&lookups);
        let names = Names::new(move |_, port| {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = gate.lock().recv();
            Ok(vec![address(port)])
        });
        let out_of_time = names.addresses("slow", 80, Duration::from_millis(1));
        assert_eq!(out_of_time.unwrap(), None);
        thread::scope(|scope| {
            let asking: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| names.addresses("slow", 80, LONG)))
                .collect();
            drop(open);
            for one in asking {
                assert_eq!(one.join().unwrap().unwrap(), Some(vec![address(80)]));
            }
        });
        assert_eq!(
            names.addresses("slow", 80, LONG).unwrap(),
            Some(vec![address(80)])
        );
        assert_eq!(lookups.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_told_and_the_next_asks_again() {
        let turn = AtomicUsize::new(0);
        let names = Names::new(move |_, port| match turn.fetch_add(1, Ordering::SeqCst) {
            0 => Err(io::Error::other("no such name")),
            1 => Ok(vec![]),
            _ => Ok(vec![address(port)]),
        });
        for why in ["no such name", "no address"] {
            let error = names.addresses("host", 1, LONG).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(
            names.addresses("host", 1, LONG).unwrap(),
            Some(vec![address(1)])
        );
    }

    #[test]
    fn an_answer_is_renewed_beside_its_use_and_survives_a_failure() {
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let turn = AtomicUsize::new(0);
        let names = Names::new(move |_, port| {
            let answer = match turn.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(vec![address(port)]),
                _ => Err(io::Error::other("the name server is away")),
            };
            tell.lock().send(()).unwrap();
            answer
        });
        names.addresses("host", 1, LONG).unwrap();
        told.recv().unwrap();
        age(&names, RENEW);
        assert_eq!(
            names.addresses("host", 1, LONG).unwrap(),
            Some(vec![address(1)])
        );
        told.recv().unwrap();
        age(&names, FORGET);
        names.addresses("host", 1, LONG).unwrap_err();
    }

    /// Makes what is known older by `by`.
    fn age(names: &Names, by: Duration) {
        for name in names.shared.known.lock().values_mut() {
            if let Some((_, at)) = &mut name.found {
                *at = at.checked_sub(by).unwrap();
            }
        }
    }

    #[test]
    fn names_are_bounded_in_number() {
        let names = Names::new(|_, port| Ok(vec![address(port)]));
        for port in 1..=2 * NAMES as u16 {
            names.addresses("host", port, LONG).unwrap();
        }
        let known = names.shared.known.lock();
        assert_eq!(known.len(), NAMES);
        assert!(known.contains_key(&("host".into(), 2 * NAMES as u16)));
    }

    #[test]
    fn names_that_all_hang_crowd_out_no_more() {
        let (hold, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let names = Names::new(move |_, _| {
            let _ = gate.lock().recv();
            Ok(vec![])
        });
        for port in 1..=NAMES as u16 {
            assert_eq!(names.addresses("host", port, Duration::ZERO).unwrap(), None);
        }
        let error = names.addresses("host", 1000, LONG).unwrap_err();
        assert!(error.to_string().contains("too many"), "{error}");
        drop(hold);
    }
}
