//! The metrics as Prometheus reads them (text format 0.0.4). Their names are a contract, described in
//! `docs/metrics.md`.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use sticky_master::{
    BOUNDS_US, Distribution, MasterHandle, Metrics, WorkerCounts, WorkerMetrics, WorkerState,
};

use crate::status::Process;
use crate::upgrade::VERSION;

/// Of the answer.
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

const PREFIX: &str = "chat_cluster";

/// What workers count: the name, without `_total`; what it means; where it is.
type Counter = (&'static str, &'static str, fn(&WorkerCounts) -> u64);

/// Each stands there for the cluster, and with `worker_` before it for each worker.
const COUNTERS: [Counter; 9] = [
    (
        "handoffs",
        "Sockets that workers got from the master",
        |counts| counts.handoffs,
    ),
    (
        "handoffs_lost",
        "Sockets that came to nothing on their way, because a worker had no descriptor left; most went to another worker then",
        |counts| counts.handoffs_lost,
    ),
    (
        "relayed_requests",
        "Requests that a worker passed on to the worker whose session they name",
        |counts| counts.relayed,
    ),
    (
        "messages",
        "Messages of clients that were stored: private ones, and those in the lobby",
        |counts| counts.messages,
    ),
    (
        "clients_stalled",
        "Clients that were cut because they did not read",
        |counts| counts.stalled,
    ),
    (
        "tls_handshakes_failed",
        "TLS handshakes that failed or took too long",
        |counts| counts.tls_failed,
    ),
    (
        "handshakes_unfinished",
        "Sessions that ended because too many had no second request",
        |counts| counts.unfinished_ended,
    ),
    (
        "connections_used_up",
        "Connections that were closed after as many requests as one may carry",
        |counts| counts.requests_exceeded,
    ),
    (
        "relay_strangers",
        "Connections of other nodes that could not prove that they know the secret",
        |counts| counts.strangers,
    ),
];

/// What workers measure: the name, without `_seconds`; what it means; where it is.
type Timer = (
    &'static str,
    &'static str,
    fn(&WorkerCounts) -> &Distribution,
);

/// Each stands there for the cluster, and with `worker_` before it for each worker.
const HISTOGRAMS: [Timer; 5] = [
    (
        "handoff",
        "From the moment the master knew whose a socket is until its worker had it",
        |counts| &counts.handoff_time,
    ),
    (
        "handshake",
        "From a request that opens a Socket.IO session to its answer",
        |counts| &counts.handshake_time,
    ),
    (
        "message_store",
        "What the store took for a message",
        |counts| &counts.store_time,
    ),
    (
        "message_delivery",
        "From the time a private message was taken until a client was sent it, for each client",
        |counts| &counts.delivery_time,
    ),
    (
        "event_loop_lag",
        "By how much the timer of a worker's event loop was late, twice a second",
        |counts| &counts.event_loop_lag,
    ),
];

/// All of it, now.
pub(super) fn text(master: &MasterHandle) -> Result<String, fmt::Error> {
    let snapshot = Snapshot {
        metrics: master.metrics(),
        wanted: master.workers() as u64,
    };
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    metrics: Metrics,
    wanted: u64,
}

/// Labels and value of each line of a metric.
type Lines<T, const N: usize> = Vec<([(&'static str, String); N], T)>;

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Families(&mut encoder);
        self.cluster(&mut out)?;
        self.workers(&mut out)
    }
}

impl Snapshot {
    fn cluster(&self, out: &mut Families<'_, '_>) -> fmt::Result {
        let metrics = &self.metrics;
        let workers = &metrics.workers;
        let sum = |what: fn(&WorkerMetrics) -> u64| workers.iter().map(what).sum::<u64>();
        let version = [("version", VERSION.to_owned())];
        out.gauges("build_info", "1, with the version", vec![(version, 1)])?;
        let in_state = |state: WorkerState| {
            let there = workers.iter().filter(|one| one.status.state == state);
            ([("state", state.to_string())], there.count() as u64)
        };
        let states = WorkerState::ALL.map(in_state).to_vec();
        out.gauges("workers", "Worker processes by state", states)?;
        let one = |value| vec![([], value)];
        out.gauges(
            "workers_wanted",
            "Worker processes that there are to be",
            one(self.wanted),
        )?;
        out.gauges(
            "clients",
            "Socket.IO sessions that live",
            one(sum(|worker| worker.status.clients)),
        )?;
        out.gauges(
            "connections",
            "Connections that workers have open, those between workers with them",
            one(sum(|worker| worker.status.connections)),
        )?;
        out.gauges(
            "connections_waiting",
            "Connections that wait in the master for their first request or for a worker",
            one(metrics.waiting),
        )?;
        let refused = metrics.refused.iter();
        let refused = refused.map(|(reason, count)| ([("reason", (*reason).to_owned())], *count));
        out.counters(
            "connections_refused",
            "Connections that the master refused",
            refused.collect(),
        )?;
        out.counters(
            "connections_made_room",
            "Silent connections that the master ended when it had no descriptor left",
            one(metrics.made_room),
        )?;
        out.counters(
            "worker_starts",
            "Worker processes that this master started",
            one(metrics.started),
        )?;
        out.counters(
            "worker_deaths",
            "Worker processes that ended otherwise than they should",
            one(metrics.died),
        )?;
        for (name, help, count) in COUNTERS {
            out.counters(name, help, one(count(&metrics.totals)))?;
        }
        for (name, help, times) in HISTOGRAMS {
            let name = format!("{name}_seconds");
            out.histograms(&name, help, vec![([], *times(&metrics.totals))])?;
        }
        let process = Process::own();
        out.process("master", "the master", vec![([], process)])
    }

    fn workers(&self, out: &mut Families<'_, '_>) -> fmt::Result {
        let workers = &self.metrics.workers;
        let id = |worker: &WorkerMetrics| ("worker", worker.status.id.to_string());
        let known = |number: Option<u64>| number.map_or(String::new(), |known| known.to_string());
        let info = workers.iter().map(|worker| {
            let status = &worker.status;
            let pid = known(status.pid.map(u64::from));
            let generation = known(status.generation);
            let state = status.state.to_string();
            let labels = [
                id(worker),
                ("pid", pid),
                ("generation", generation),
                ("state", state),
            ];
            (labels, 1)
        });
        out.gauges(
            "worker_info",
            "1, with the process that has a worker id, and how it stands",
            info.collect(),
        )?;
        let each = |what: &dyn Fn(&WorkerMetrics) -> u64| {
            let line = |worker| ([id(worker)], what(worker));
            workers.iter().map(line).collect::<Vec<_>>()
        };
        out.gauges(
            "worker_clients",
            "Socket.IO sessions that live there",
            each(&|worker| worker.status.clients),
        )?;
        out.gauges(
            "worker_connections",
            "Connections that it has open, those to other workers' requests with them",
            each(&|worker| worker.status.connections),
        )?;
        for (name, help, count) in COUNTERS {
            let name = format!("worker_{name}");
            out.counters(&name, help, each(&|worker| count(&worker.counts)))?;
        }
        for (name, help, times) in HISTOGRAMS {
            let line = |worker: &WorkerMetrics| ([id(worker)], *times(&worker.counts));
            let lines = workers.iter().map(line);
            out.histograms(&format!("worker_{name}_seconds"), help, lines.collect())?;
        }
        let process = |worker: &WorkerMetrics| ([id(worker)], Process::of(worker.status.pid));
        out.process("worker", "it", workers.iter().map(process).collect())
    }
}

/// Writes one metric after the other.
struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Families<'_, '_> {
    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        lines: Lines<u64, N>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, &lines, |value, encoder| {
            ConstGauge::new(*value).encode(encoder)
        })
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        lines: Lines<u64, N>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, &lines, |value, encoder| {
            ConstCounter::new(*value).encode(encoder)
        })
    }

    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        lines: Lines<Distribution, N>,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Histogram, &lines, encode_histogram)
    }

    /// What a process takes, by the names that Prometheus' own libraries use.
    fn process<const N: usize>(
        &mut self,
        prefix: &str,
        whose: &str,
        lines: Lines<Process, N>,
    ) -> fmt::Result {
        self.family(
            &format!("{prefix}_cpu_seconds"),
            &format!("CPU time that {whose} has taken"),
            MetricType::Counter,
            &lines,
            |process, encoder| ConstCounter::new(process.usage.cpu_s).encode(encoder),
        )?;
        self.family(
            &format!("{prefix}_memory_bytes"),
            &format!("Resident memory of {whose}, shared pages with it"),
            MetricType::Gauge,
            &lines,
            |process, encoder| ConstGauge::new(process.usage.memory_bytes).encode(encoder),
        )?;
        self.family(
            &format!("{prefix}_start_time_seconds"),
            &format!("When {whose} began, in seconds since 1970"),
            MetricType::Gauge,
            &lines,
            |process, encoder| ConstGauge::new(process.began_s).encode(encoder),
        )
    }

    fn family<T, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        lines: &Lines<T, N>,
        encode: impl Fn(&T, MetricEncoder) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in lines {
            encode(value, family.encode_family(&labels.as_slice())?)?;
        }
        Ok(())
    }
}

fn encode_histogram(times: &Distribution, mut encoder: MetricEncoder) -> fmt::Result {
    let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
    let bounds = BOUNDS_US.into_iter().map(seconds).chain([f64::INFINITY]);
    let buckets: Vec<_> = bounds.zip(times.buckets).collect();
    encoder.encode_histogram::<NoLabelSet>(seconds(times.sum_us), times.count(), &buckets, None)
}
