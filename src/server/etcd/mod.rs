//! Members from etcd: each node has a key below a prefix, which lives as long as the node renews its lease, and watches the
//! keys of all.
//!
//! A *session* with one endpoint reads all keys, watches them from there on, and renews the lease. When it breaks, by
//! whatever cause, another one begins with the next endpoint, and reads all keys anew: so nothing that was missed
//! meanwhile, or compacted, is asked for. The lease goes from one session to the next.

mod client;
mod registration;
mod roster;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, RecvError};
use grpcio::{EnvBuilder, Environment};

use super::identity::Identity;
use super::members::MembersError;
use super::pb::etcd::WatchResponse;
use crate::cluster::membership::{Report, Source};
use crate::cluster::{MEMBERS_MAX, Member, MemberError};
use client::{Endpoint, Fault, WATCHED_MAX};
use registration::Registration;
use roster::Roster;

/// The pauses between tries: from one to the other, doubled each round, and up to a half less by chance.
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);
/// A session that has gone on for so long after it said who is in was a good one.
const GOOD: Duration = Duration::from_secs(2);

/// How etcd is reached.
pub struct EtcdConfig {
    /// Host and port of each endpoint.
    pub endpoints: Vec<String>,
    /// What the keys of the members begin with.
    pub prefix: String,
    /// After so long a node that is silent is no member, in whole seconds.
    pub ttl: Duration,
    /// For TLS.
    pub tls: Option<EtcdTls>,
    /// User and password.
    pub login: Option<(String, String)>,
}

/// How etcd is called by TLS.
#[derive(Debug)]
pub struct EtcdTls {
    /// The certificates that are trusted, PEM.
    pub ca: Vec<u8>,
    /// Who the node is, where etcd asks for that.
    pub identity: Option<Identity>,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The source of members.
pub(super) struct Etcd {
    env: Arc<Environment>,
    config: EtcdConfig,
    /// The first key behind those of the members.
    end: Vec<u8>,
}

/// How a session ended that did not break.
enum End {
    /// Nobody listens any more.
    Left,
    /// What has changed is not known: all keys are to be read anew.
    Behind,
}

impl Etcd {
    pub fn new(config: EtcdConfig) -> Result<Self, MembersError> {
        if cfg!(not(feature = "tls")) && config.tls.is_some() {
            return Err(MembersError::NoTls);
        }
        let env = EnvBuilder::new().cq_count(1).name_prefix("etcd").build();
        Ok(Self {
            env: Arc::new(env),
            end: end(config.prefix.as_bytes()),
            config,
        })
    }

    /// A session, from its beginning to its end. `heard` gets the time at which it said who is in.
    fn session(
        &self,
        address: &str,
        registration: &mut Registration,
        report: &Report,
        heard: &mut Option<Instant>,
    ) -> Result<End, Fault> {
        let etcd = Endpoint::connect(&self.env, &self.config, address)?;
        let prefix = self.config.prefix.as_bytes();
        let all = etcd.range(prefix, &self.end, MEMBERS_MAX + 1)?;
        let watch = etcd.watch(prefix, &self.end, all.header.revision + 1)?;
        let mut roster = Roster::new(&self.config.prefix, report.own(), &all.kvs);
        report.members(check(roster.members())?);
        let mut next = Instant::now();
        *heard = Some(next);
        loop {
            if next <= Instant::now() {
                registration.keep(&etcd)?;
                registration.claim(&etcd, &roster, report)?;
                report.confirm();
                next = Instant::now() + registration.pause();
            }
            channel::select! {
                recv(watch.messages) -> message => {
                    // Many changes at once are one view.
                    let more = watch.messages.try_iter().take(WATCHED_MAX).map(Ok);
                    for message in iter::once(message).chain(more) {
                        if !take(&mut roster, message).map_err(|why| format!("{address}: {why}"))? {
                            return Ok(End::Behind);
                        }
                    }
                    report.members(check(roster.members())?);
                    registration.claim(&etcd, &roster, report)?;
                }
                recv(report.silence()) -> _ => {
                    registration.give_back(&etcd)?;
                    return Ok(End::Left);
                }
                default(next.saturating_duration_since(Instant::now())) => {}
            }
        }
    }
}

impl Source for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn follow(&mut self, report: &Report) {
        let mut registration =
            Registration::new(&self.config.prefix, report.own(), self.config.ttl);
        let endpoints = &self.config.endpoints;
        let mut failures = 0;
        let first = chance() as usize;
        for number in 0.. {
            let address = &endpoints[(first.wrapping_add(number)) % endpoints.len()];
            let mut heard = None;
            let end = self.session(address, &mut registration, report, &mut heard);
            let why = match end {
                Ok(End::Left) => return,
                Ok(End::Behind) => {
                    log::info!("members: etcd: {address}: the watch fell behind; reading all");
                    if !report.pause(jittered(0, self.config.ttl / 4)) {
                        return;
                    }
                    continue;
                }
                Err(why) => why,
            };
            failures = match heard {
                Some(heard) if heard.elapsed() >= GOOD => 0,
                _ => failures + 1,
            };
            let rounds = failures / endpoints.len();
            // One of several that fails is no reason to doubt the view; and each round tells the same, once.
            if rounds > 0 && failures % endpoints.len() == 0 {
                report.down(&why);
            } else if rounds == 0 {
                log::info!("members: etcd: {why}; trying again");
            }
            if !report.pause(jittered(rounds, self.config.ttl / 4)) {
                return;
            }
        }
    }
}

/// Too many members are none, before they are kept.
fn check(members: Vec<Member>) -> Result<Vec<Member>, Fault> {
    match members.len() {
        ..=MEMBERS_MAX => Ok(members),
        count => Err(MemberError::TooMany(count).to_string()),
    }
}

/// Takes what the watch has heard. Returns false if it has not heard all: there was more than it keeps here, or than etcd
/// does.
fn take(
    roster: &mut Roster,
    message: Result<Result<WatchResponse, Fault>, RecvError>,
) -> Result<bool, Fault> {
    let Ok(message) = message else {
        return Ok(false);
    };
    let message = message?;
    if message.compact_revision != 0 {
        return Ok(false);
    }
    if message.canceled {
        return Err(format!(
            "etcd has ended the watch: {}",
            message.cancel_reason
        ));
    }
    message.events.iter().for_each(|event| roster.take(event));
    Ok(true)
}

/// The first key behind all that begin with `prefix`.
fn end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // To etcd: no end.
    vec![0]
}

/// The pause after so many rounds through all endpoints that have failed. A lease must not end because of it.
fn jittered(rounds: usize, most: Duration) -> Duration {
    let doubled = PAUSE_LEAST.saturating_mul(1 << rounds.min(16));
    let pause = doubled.min(PAUSE_MOST).min(most);
    pause.mul_f64(1.0 - 0.5 * (chance() as f64 / u64::MAX as f64))
}

fn chance() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_prefix_have_an_end() {
        assert_eq!(end(b"/members/"), b"/members0");
        assert_eq!(end(b"a\xff"), b"b");
        assert_eq!(end(b"\xff"), [0]);
    }

    #[test]
    fn pauses_grow_and_are_not_the_same_for_all() {
        let long = Duration::from_secs(3600);
        let pauses: Vec<_> = (0..8).map(|_| jittered(0, long)).collect();
        let range = PAUSE_LEAST / 2..=PAUSE_LEAST;
        assert!(
            pauses.iter().all(|pause| range.contains(pause)),
            "{pauses:?}"
        );
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        assert!((PAUSE_MOST / 2..=PAUSE_MOST).contains(&jittered(1000, long)));
        assert!(jittered(1000, PAUSE_LEAST) <= PAUSE_LEAST);
    }

    #[test]
    fn what_the_watch_has_missed_is_seen() {
        let mut roster = Roster::default();
        let mut take = |change: fn(&mut WatchResponse)| {
            let mut message = WatchResponse::new();
            change(&mut message);
            take(&mut roster, Ok(Ok(message)))
        };
        assert_eq!(take(|_| {}), Ok(true));
        // As etcd says it where it has compacted what it has not told yet.
        assert_eq!(
            take(|message| {
                message.canceled = true;
                message.compact_revision = 7;
            }),
            Ok(false)
        );
        let refused = take(|message| {
            message.canceled = true;
            message.cancel_reason = "permission denied".to_owned();
        });
        assert!(refused.unwrap_err().contains("permission denied"));
        assert_eq!(super::take(&mut roster, Err(RecvError)), Ok(false));
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = EtcdConfig {
            endpoints: vec!["a:1".to_owned()],
            prefix: "/m/".to_owned(),
            ttl: Duration::from_secs(10),
            tls: None,
            login: Some(("user".to_owned(), "secret".to_owned())),
        };
        assert!(!format!("{config:?}").contains("secret"));
    }
}
