//! The own key in etcd, which lives as long as a lease that the node renews.
//!
//! Where the key is there already, another process wrote it: one that has died and was this node's, or one that lives and has
//! the same address. The lease tells: a living node renews it each third of its time. The key of a dead one is taken over, so
//! that a restart is no change of members; a living one keeps it.

use std::time::{Duration, Instant};

use super::client::{Endpoint, Fault};
use super::roster::{self, Entry, Roster};
use crate::cluster::Member;
use crate::cluster::membership::{Doubt, Report};

/// How often the lease of another process is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The own key.
pub(super) struct Registration {
    key: Vec<u8>,
    value: Vec<u8>,
    ttl: Duration,
    lease: Option<Lease>,
    rival: Option<Rival>,
}

/// Another process with our address.
#[derive(Clone, Copy)]
struct Rival {
    lease: i64,
    /// When that lease was seen first.
    since: Instant,
    /// What was left of it when it was last looked at, in seconds.
    left: i64,
}

impl Rival {
    /// Whether its lease has been renewed since then, of which that much is left of what was granted. Those are whole seconds,
    /// and a short lease may always show the same; but none lives for longer than was granted without that.
    fn is_alive(&self, left: i64, granted: i64, now: Instant) -> bool {
        let lived = now.saturating_duration_since(self.since).as_secs();
        left > self.left || lived > granted.unsigned_abs() + 1
    }
}

#[derive(Clone, Copy)]
struct Lease {
    id: i64,
    seconds: u64,
}

impl Registration {
    pub fn new(prefix: &str, own: &Member, ttl: Duration) -> Self {
        Self {
            key: roster::key(prefix, own),
            value: roster::value(own),
            ttl,
            lease: None,
            rival: None,
        }
    }

    /// After what time [`keep`](Self::keep) is to be called again.
    pub fn pause(&self) -> Duration {
        match self.lease {
            _ if self.rival.is_some() => LOOK_EVERY.min(self.ttl / 3),
            Some(lease) => Duration::from_secs(lease.seconds) / 3,
            None => LOOK_EVERY,
        }
    }

    /// Renews the lease, or gets another one if it is over.
    pub fn keep(&mut self, etcd: &Endpoint) -> Result<(), Fault> {
        if let Some(lease) = self.lease {
            if etcd.keep_alive(lease.id)? {
                return Ok(());
            }
            log::warn!(
                "members: etcd: the lease is over; it was not renewed for {} s. Registering again",
                lease.seconds
            );
        }
        let (id, seconds) = etcd.grant(self.ttl)?;
        self.lease = Some(Lease { id, seconds });
        Ok(())
    }

    /// Sees to it that the own key is there and ends with our lease.
    pub fn claim(
        &mut self,
        etcd: &Endpoint,
        roster: &Roster,
        report: &Report,
    ) -> Result<(), Fault> {
        let Some(Lease { id, .. }) = self.lease else {
            return Ok(());
        };
        let seen = match roster.own() {
            None => 0,
            Some(entry) if entry.lease == id => {
                self.rival = None;
                report.doubt(Doubt::Taken, None);
                return Ok(());
            }
            Some(entry) => match self.is_left(etcd, entry, report)? {
                true => entry.mod_revision,
                false => return Ok(()),
            },
        };
        // If the key has changed meanwhile, the watch will say so.
        etcd.put(&self.key, &self.value, id, seen).map(drop)
    }

    /// Whether the process that wrote the key is dead.
    fn is_left(&mut self, etcd: &Endpoint, entry: Entry, report: &Report) -> Result<bool, Fault> {
        let lived = match entry.lease {
            // Nobody's, as an operator may have written it.
            0 => None,
            lease => etcd.time_to_live(lease)?,
        };
        let Some((left, granted)) = lived else {
            return Ok(true);
        };
        if 2 * left < granted - 2 {
            return Ok(true);
        }
        let now = Instant::now();
        let known = self.rival.filter(|rival| rival.lease == entry.lease);
        match known {
            Some(rival) if rival.is_alive(left, granted, now) => {
                let words = "another node has registered it in etcd, and is alive; give each node an --advertise of its own";
                report.doubt(Doubt::Taken, Some(words.to_owned()));
            }
            Some(_) => {}
            None => log::info!(
                "members: etcd: the own address is registered by another process; looking whether it is alive"
            ),
        }
        self.rival = Some(Rival {
            lease: entry.lease,
            since: known.map_or(now, |rival| rival.since),
            left,
        });
        Ok(false)
    }

    /// Ends the lease, and the key with it.
    pub fn give_back(&mut self, etcd: &Endpoint) -> Result<(), Fault> {
        self.lease
            .take()
            .map_or(Ok(()), |lease| etcd.revoke(lease.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_was_renewed_is_told_from_one_that_runs_out() {
        let since = Instant::now();
        let after = |seconds| since + Duration::from_secs(seconds);
        let rival = |left| Rival {
            lease: 7,
            since,
            left,
        };
        assert!(rival(6).is_alive(9, 10, after(1)));
        assert!(!rival(9).is_alive(8, 10, after(1)));
        // A short one shows the same each time.
        assert!(!rival(1).is_alive(1, 2, after(1)));
        assert!(!rival(1).is_alive(1, 2, after(3)));
        assert!(rival(1).is_alive(1, 2, after(4)));
    }
}
