//! What the links are at, for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Counts, Peers};
use crate::cluster::link::{Condition, Figures};

/// The figures of the links and of what went over them.
pub(in super::super) struct PeerMetrics(pub Arc<Peers>);

impl fmt::Debug for PeerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerMetrics")
    }
}

/// A figure of a peer, added up over its links.
type Figure = (&'static str, &'static str, fn(&Figures) -> u64);

const COUNTERS: [Figure; 3] = [
    (
        "peer_breaker_opened",
        "How often a link's breaker has opened",
        |link| link.opened,
    ),
    (
        "peer_answers",
        "Questions that the node has answered",
        |link| link.answered,
    ),
    (
        "peer_garbage",
        "Answers that were refused, as they were not what was asked for",
        |link| link.garbage,
    ),
];

/// A figure of all nodes together.
type Count = (&'static str, &'static str, fn(&Counts) -> &AtomicU64);

const COUNTS: [Count; 11] = [
    (
        "peers_asked",
        "Keys of other nodes that were missed, and asked for there",
        |counts| &counts.asked,
    ),
    (
        "peers_values",
        "Values that came from other nodes",
        |counts| &counts.values,
    ),
    (
        "peers_kept",
        "Values that came from other nodes, were hot, and are kept here for a time",
        |counts| &counts.kept,
    ),
    (
        "peers_passed_over",
        "Times that the next in rank was turned to, as a node could not be reached or was silent",
        |counts| &counts.passed_over,
    ),
    (
        "peers_alone",
        "Keys of other nodes that were loaded here, as none could be reached",
        |counts| &counts.alone,
    ),
    (
        "peers_sent_back",
        "Keys of other nodes that were loaded here, as the other goes by another ring, or does not send large values",
        |counts| &counts.sent_back,
    ),
    (
        "peers_pulled",
        "Large values that came from other nodes in parts",
        |counts| &counts.pulled,
    ),
    (
        "peers_pulls_failed",
        "Times that a large value did not come whole from the node that holds it, so that another way was taken",
        |counts| &counts.pulls_failed,
    ),
    (
        "peers_roomless",
        "Values of other nodes that had no room beside the large ones, and so were loaded and kept here",
        |counts| &counts.roomless,
    ),
    (
        "peers_peeked",
        "Times that another node was asked whether it holds a key that has become this node's",
        |counts| &counts.peeked,
    ),
    (
        "peers_handed_over",
        "Values of keys that have become this node's, and that another node held",
        |counts| &counts.handed_over,
    ),
];

const CONDITIONS: [(Condition, &str); 3] = [
    (Condition::Closed, "closed"),
    (Condition::HalfOpen, "half_open"),
    (Condition::Open, "open"),
];

impl Collector for PeerMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let peers = self.0.all();
        let own = self.0.epoch();
        let peers: Vec<(&str, Vec<Figures>)> = peers
            .iter()
            .map(|peer| (&*peer.address, peer.figures().collect()))
            .collect();
        for (name, help, read) in COUNTS {
            let count = ConstCounter::new(read(&self.0.counts).load(Ordering::Relaxed));
            let kind = MetricType::Counter;
            count.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        let help = "Bytes of hot values of other nodes that are kept here, those counted too that had to go before their time";
        let kept = ConstGauge::new(self.0.kept.bytes() as i64);
        let kind = MetricType::Gauge;
        kept.encode(encoder.encode_descriptor("peers_kept_bytes", help, None, kind)?)?;
        let help =
            "Large values of other nodes that wait for room beside those that are being loaded";
        let waiting = ConstGauge::new(self.0.pulls.waiting() as i64);
        let gauge = MetricType::Gauge;
        waiting.encode(encoder.encode_descriptor("peers_pulls_waiting", help, None, gauge)?)?;
        let help = "Links to the node by what their breakers are at: closed, so that it is asked; half open, while it is \
                    tried; open, after it has failed";
        let mut family = encoder.encode_descriptor("peer_links", help, None, MetricType::Gauge)?;
        for (address, links) in &peers {
            for (condition, name) in CONDITIONS {
                let those = links.iter().filter(|link| link.condition == condition);
                let gauge = ConstGauge::new(those.count() as i64);
                gauge.encode(family.encode_family(&[("peer", *address), ("breaker", name)])?)?;
            }
        }
        let mut by_peer = |name, help, kind, read: &dyn Fn(&[Figures]) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (address, links) in &peers {
                let labels = [("peer", *address)];
                let family = family.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(read(links)).encode(family)?,
                    _ => ConstGauge::new(read(links) as i64).encode(family)?,
                }
            }
            Ok(())
        };
        for (name, help, read) in COUNTERS {
            let sum = |links: &[Figures]| links.iter().map(read).sum();
            by_peer(name, help, MetricType::Counter, &sum)?;
        }
        let help = "Questions that wait for the node's answer";
        let outstanding =
            |links: &[Figures]| links.iter().map(|link| link.outstanding as u64).sum();
        by_peer("peer_outstanding", help, MetricType::Gauge, &outstanding)?;
        let help = "1 if the node can be reached, and has last said that it goes by another ring than this one";
        let differs = |links: &[Figures]| {
            let differs = |link: &Figures| {
                link.condition == Condition::Closed && link.epoch.is_some_and(|epoch| epoch != own)
            };
            u64::from(links.iter().any(differs))
        };
        by_peer("peer_other_ring", help, MetricType::Gauge, &differs)
    }
}
