//! The node's figures: as the reply to `Stats`, and for Prometheus.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::connections::Connections;
use super::express::ExpressFigures;
use super::loaders::LaneStats;
use super::pb::cache::{Counters, GroupStats, StatsReply};
use super::service::Service;
use super::waiting::GroupWaiting;
use crate::cluster::membership::{Doubt, Membership};
use crate::engine::Stats;
use crate::group::Group;

/// The reply to `Stats`.
pub(super) fn reply(service: &Service) -> StatsReply {
    let mut reply = StatsReply::new();
    reply.version = env!("CARGO_PKG_VERSION").to_owned();
    reply.uptime_seconds = service.started.elapsed().as_secs();
    let mut total = Counters::new();
    for group in service.groups.iter() {
        let stats = group.stats();
        reply.shards = group.shards() as u32;
        reply.budget_bytes = stats.budget_bytes;
        reply.used_bytes = stats.used_bytes;
        reply.garbage_bytes = stats.garbage_bytes;
        let mut counters = counters(group, &stats);
        let lane = service.loaders.stats(group);
        counters.shed = lane.shed;
        counters.given_up = lane.given_up;
        add(&mut total, &counters);
        reply.queue_depth += lane.queued as u64;
        let mut shown = GroupStats::new();
        shown.name = group.name().to_owned();
        shown.origin = group.origin().to_owned();
        shown.guaranteed_bytes = group.share().guaranteed_bytes as u64;
        shown.largest_bytes = group.share().largest_bytes as u64;
        shown.counters = Some(counters).into();
        reply.groups.push(shown);
    }
    reply.groups.sort_by(|a, b| a.name.cmp(&b.name));
    reply.total = Some(total).into();
    reply
}

fn counters(group: &Group, stats: &Stats) -> Counters {
    let mut counters = Counters::new();
    counters.entries = stats.entries;
    counters.bytes = stats.entry_bytes;
    counters.hits = stats.hits;
    counters.misses = stats.misses;
    counters.joined = stats.joined;
    counters.loads = stats.loads;
    counters.not_found = group.not_found();
    counters.load_failures = stats.load_failures.saturating_sub(counters.not_found);
    counters.load_ns = stats.load_time.as_nanos() as u64;
    counters.evictions = stats.evicted;
    counters.refused = stats.refused;
    counters
}

fn add(total: &mut Counters, counters: &Counters) {
    total.entries += counters.entries;
    total.bytes += counters.bytes;
    total.hits += counters.hits;
    total.misses += counters.misses;
    total.joined += counters.joined;
    total.loads += counters.loads;
    total.not_found += counters.not_found;
    total.load_failures += counters.load_failures;
    total.load_ns += counters.load_ns;
    total.evictions += counters.evictions;
    total.refused += counters.refused;
    total.shed += counters.shed;
    total.given_up += counters.given_up;
}

/// The node's figures, read when Prometheus asks for them.
pub(super) struct Metrics {
    pub service: Arc<Service>,
    pub connections: Connections,
    pub express: Option<Arc<ExpressFigures>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// A figure of a group: its name, what it says, and where it is read.
type Figure<T> = (&'static str, &'static str, fn(&Counters) -> T);

const COUNTERS: [Figure<u64>; 10] = [
    ("group_hits", "Keys that were answered from memory", |c| {
        c.hits
    }),
    (
        "group_misses",
        "Keys that were asked for and not in memory",
        |c| c.misses,
    ),
    (
        "group_joined",
        "Misses that joined a load which was under way",
        |c| c.joined,
    ),
    (
        "group_loads",
        "Loads that have ended, however they did",
        |c| c.loads,
    ),
    (
        "group_not_found",
        "Loads that the origin answered with: no such key",
        |c| c.not_found,
    ),
    ("group_load_failures", "Loads that failed otherwise", |c| {
        c.load_failures
    }),
    (
        "group_evictions",
        "Entries that had to go to make room",
        |c| c.evictions,
    ),
    (
        "group_refused",
        "Values that were not kept because they can not fit",
        |c| c.refused,
    ),
    (
        "group_loads_shed",
        "Loads that were refused before they began: too many waited, or this one too long",
        |c| c.shed,
    ),
    (
        "group_loads_given_up",
        "Loads that nobody waited for any more when a loader was free",
        |c| c.given_up,
    ),
];

const GAUGES: [Figure<u64>; 2] = [
    ("group_entries", "Entries in memory", |c| c.entries),
    (
        "group_entry_bytes",
        "What these entries use, in bytes",
        |c| c.bytes,
    ),
];

/// A figure of what the loaders are doing for a group.
type LaneFigure = (&'static str, &'static str, fn(LaneStats) -> f64);

const LANES: [LaneFigure; 4] = [
    (
        "group_loads_queued",
        "Loads that wait for a loader",
        |lane| lane.queued as f64,
    ),
    (
        "group_loads_roomless",
        "Those among them that wait for room for a large value",
        |lane| lane.roomless as f64,
    ),
    ("group_loads_running", "Loads that are running", |lane| {
        lane.running as f64
    }),
    (
        "group_queue_standing_seconds",
        "For how long some load has been waiting for a loader all the time",
        |lane| lane.standing.as_secs_f64(),
    ),
];

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let reply = reply(&self.service);
        let node = [
            (
                "budget_bytes",
                "The most memory that the cache may use",
                reply.budget_bytes,
            ),
            ("used_bytes", "The memory that it uses", reply.used_bytes),
            (
                "garbage_bytes",
                "What has left the cache but is still read",
                reply.garbage_bytes,
            ),
            (
                "calls_waiting",
                "Calls that wait for keys that are being loaded",
                self.service.waiting.len() as u64,
            ),
            (
                "connections",
                "Connections that are open",
                self.connections.open() as u64,
            ),
            (
                "reads_open",
                "Values that are being read by Read",
                self.service.reads.open() as u64,
            ),
            (
                "outgoing_bytes",
                "Bytes of replies to GetMany and Fetch that are being put together, or are not yet read",
                self.service.outgoing.bytes() as u64,
            ),
            (
                "loading_bytes",
                "Bytes of large values that are being loaded, or are held although they could not be kept",
                self.service.groups.loading_bytes() as u64,
            ),
            (
                "uptime_seconds",
                "Time since the node started",
                reply.uptime_seconds,
            ),
            ("shards", "Shards of the cache", u64::from(reply.shards)),
        ];
        for (name, help, value) in node {
            gauge(&mut encoder, name, help, value)?;
        }
        let refused = ConstCounter::new(self.connections.refused());
        let help = "Connections that were closed because too many were open";
        let kind = MetricType::Counter;
        refused.encode(encoder.encode_descriptor("connections_refused", help, None, kind)?)?;
        let cut = ConstCounter::new(self.connections.cut());
        let help = "Connections that were cut because the process had grown too large";
        cut.encode(encoder.encode_descriptor("connections_cut", help, None, kind)?)?;
        let stalled = ConstCounter::new(self.service.outgoing.stalled());
        let help = "Calls at the front door, of other nodes too, that were ended because their callers left a reply untaken";
        stalled.encode(encoder.encode_descriptor("calls_stalled", help, None, kind)?)?;
        if let Some(express) = &self.express {
            self.express(&mut encoder, express)?;
        }
        for (name, help, read) in COUNTERS {
            let of = |group: &GroupStats| ConstCounter::new(read(&group.counters));
            self.by_group(&mut encoder, &reply, name, help, MetricType::Counter, of)?;
        }
        let seconds = |group: &GroupStats| ConstCounter::new(group.counters.load_ns as f64 / 1e9);
        let help = "Time spent in loads, added up, in seconds";
        self.by_group(
            &mut encoder,
            &reply,
            "group_load_seconds",
            help,
            MetricType::Counter,
            seconds,
        )?;
        for (name, help, read) in GAUGES {
            let of = |group: &GroupStats| ConstGauge::new(read(&group.counters) as i64);
            self.by_group(&mut encoder, &reply, name, help, MetricType::Gauge, of)?;
        }
        let help = "Calls that wait for keys of the group";
        let of = |group: &GroupStats| ConstGauge::new(self.waiting(&group.name).waiting as i64);
        let name = "group_calls_waiting";
        self.by_group(&mut encoder, &reply, name, help, MetricType::Gauge, of)?;
        let help =
            "Calls, or groups of a stream, that were refused because too many of the group waited";
        let of = |group: &GroupStats| ConstCounter::new(self.waiting(&group.name).refused);
        let (name, kind) = ("group_calls_refused", MetricType::Counter);
        self.by_group(&mut encoder, &reply, name, help, kind, of)?;
        for (name, help, read) in LANES {
            let of = |group: &GroupStats| ConstGauge::new(read(self.lane(&group.name)));
            self.by_group(&mut encoder, &reply, name, help, MetricType::Gauge, of)?;
        }
        Ok(())
    }
}

impl Metrics {
    fn express(
        &self,
        encoder: &mut DescriptorEncoder,
        express: &ExpressFigures,
    ) -> Result<(), fmt::Error> {
        let open = self.connections.express() as u64;
        let help = "Connections that are open at the express door";
        gauge(encoder, "express_connections", help, open)?;
        let kind = MetricType::Counter;
        let calls = ConstCounter::new(express.calls());
        let help = "Calls that have come in by the express door";
        calls.encode(encoder.encode_descriptor("express_calls", help, None, kind)?)?;
        let refused = ConstCounter::new(express.refused_by_address());
        let help =
            "Connections that the express door closed because their address had too many of them";
        let name = "express_connections_refused";
        refused.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        let cut = ConstCounter::new(express.cut());
        let help =
            "Connections of the express door that were cut because they kept too much memory";
        cut.encode(encoder.encode_descriptor("express_connections_cut", help, None, kind)?)?;
        let help = "How often the express door has met what no client should do, by its kind";
        let mut family = encoder.encode_descriptor("express_abuses", help, None, kind)?;
        for (name, count) in express.abuses() {
            let count = ConstCounter::new(count);
            count.encode(family.encode_family(&[("kind", name)])?)?;
        }
        Ok(())
    }

    fn lane(&self, group: &str) -> LaneStats {
        let group = self.service.groups.get(group);
        group.map_or_else(LaneStats::default, |group| {
            self.service.loaders.stats(group)
        })
    }

    fn waiting(&self, group: &str) -> GroupWaiting {
        let group = self.service.groups.get(group);
        group.map_or_else(GroupWaiting::default, |group| {
            self.service.waiting.of(group)
        })
    }

    fn by_group<M: EncodeMetric>(
        &self,
        encoder: &mut DescriptorEncoder,
        reply: &StatsReply,
        name: &str,
        help: &str,
        kind: MetricType,
        metric: impl Fn(&GroupStats) -> M,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for group in &reply.groups {
            metric(group).encode(family.encode_family(&[("group", group.name.as_str())])?)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    value: u64,
) -> Result<(), fmt::Error> {
    let gauge = ConstGauge::new(value as i64);
    let unit: Option<&Unit> = None;
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}

/// Who is in the cluster, and how well that is known.
#[derive(Clone)]
pub(super) struct MemberMetrics(pub Arc<Membership>);

impl fmt::Debug for MemberMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemberMetrics")
    }
}

impl Collector for MemberMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let standing = self.0.standing();
        let help = "Nodes in the cluster, as this one knows it";
        gauge(&mut encoder, "members", help, standing.members as u64)?;
        let kind = MetricType::Gauge;
        let help = "Time since the source of members said, or confirmed, who is in";
        let age = ConstGauge::new(standing.age.as_secs_f64());
        age.encode(encoder.encode_descriptor("members_age_seconds", help, None, kind)?)?;
        let help = "1 while the source of members is heard, 0 while the last view is kept";
        let up = ConstGauge::new(i64::from(standing.down.is_none()));
        let mut family = encoder.encode_descriptor("members_source_up", help, None, kind)?;
        up.encode(family.encode_family(&[("source", standing.source)])?)?;
        let help = "1 if something speaks against the address by which the others know this node";
        let mut family =
            encoder.encode_descriptor("members_own_address_doubt", help, None, kind)?;
        for doubt in Doubt::ALL {
            let is_so = standing.doubts.iter().any(|(known, _)| *known == doubt);
            let is_so = ConstGauge::new(i64::from(is_so));
            is_so.encode(family.encode_family(&[("reason", doubt.name())])?)?;
        }
        let help = "How often the members have changed";
        let changes = ConstCounter::new(standing.changes);
        let kind = MetricType::Counter;
        changes.encode(encoder.encode_descriptor("members_changes", help, None, kind)?)
    }
}
