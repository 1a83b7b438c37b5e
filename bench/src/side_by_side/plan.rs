//! What is measured, on which servers, and which figures are set against each other.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::chat::Transport;
use crate::drive::Outcome;
use crate::scenario::{CONNECTIONS, CONTENT, Scenario, Spec, WINDOW};
use crate::server::{Kind, ServerSpec};

/// One kind of load with the servers that get it, in turn.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Names it in the results.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    /// The scenario, without a target.
    pub(crate) load: Load,
    pub(crate) servers: Vec<ServerSpec>,
}

/// The numbers of a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) scenario: Scenario,
    pub(crate) clients: u32,
    pub(crate) rate: Option<f64>,
    pub(crate) transport: Transport,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// Users who are told of each other. With those who log in before, and are not counted, they are fewer than
/// 500, up to which ours tells everyone of everyone, too.
const ACQUAINTED: u32 = 280;

/// What has not come after this long is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// A just-in-time compiler takes its time: Node.js warms up so many times longer than the others.
const NODE_WARM_UP: u32 = 3;

impl Load {
    /// For a server of this kind at this address.
    pub(crate) fn spec(&self, kind: Kind, target: SocketAddr, run: u32) -> Spec {
        let longer = if kind == Kind::Node { NODE_WARM_UP } else { 1 };
        Spec {
            scenario: self.scenario,
            target,
            process: 0,
            processes: crate::drive::processes(self.clients),
            run,
            clients: self.clients,
            rate: self.rate,
            window: WINDOW,
            warm_up: self.warm_up * longer,
            duration: self.duration,
            transport: self.transport,
            content: CONTENT,
            connections: CONNECTIONS,
            patience: PATIENCE,
        }
    }

    /// The same load by hand.
    pub(crate) fn command(&self) -> String {
        use clap::ValueEnum as _;
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or(String::new(), |v| v.get_name().to_owned())
        };
        let mut command = format!(
            "bench load {} --clients {}",
            name(self.scenario.to_possible_value()),
            self.clients
        );
        if let Some(rate) = self.rate {
            command += &format!(" --rate {rate}");
        }
        if self.transport != Transport::Websocket {
            command += &format!(" --transport {}", name(self.transport.to_possible_value()));
        }
        if !self.scenario.is_batch() {
            command += &format!(
                " --warm-up {}ms --duration {}ms",
                self.warm_up.as_millis(),
                self.duration.as_millis()
            );
        }
        command
    }
}

const fn server(kind: Kind, workers: u16) -> ServerSpec {
    ServerSpec { kind, workers }
}

pub(crate) const REDIS: ServerSpec = server(Kind::Redis, 4);
pub(crate) const EMBEDDED: ServerSpec = server(Kind::Embedded, 4);
pub(crate) const FULL: ServerSpec = server(Kind::EmbeddedFull, 4);
pub(crate) const NODE: ServerSpec = server(Kind::Node, 4);
pub(crate) const HAPROXY: ServerSpec = server(Kind::Haproxy, 4);
pub(crate) const NGINX: ServerSpec = server(Kind::Nginx, 4);
pub(crate) const ALONE: ServerSpec = server(Kind::Alone, 1);
pub(crate) const FLOOR: ServerSpec = server(Kind::Floor, 4);
const FEWER: [ServerSpec; 4] = [
    server(Kind::Redis, 1),
    server(Kind::Redis, 2),
    server(Kind::Embedded, 1),
    server(Kind::Embedded, 2),
];

/// All steps; the quick ones with what is most asked about, and shorter.
pub(crate) fn steps(quick: bool) -> Vec<Step> {
    let millis = Duration::from_millis;
    let timed = |scenario, clients, rate| Load {
        scenario,
        clients,
        rate,
        transport: Transport::Websocket,
        warm_up: if quick { millis(500) } else { millis(700) },
        duration: if quick { millis(1_500) } else { millis(2_000) },
    };
    let batch = |scenario, clients, transport| Load {
        transport,
        ..timed(scenario, clients, None)
    };
    // Where a just-in-time compiler is not done after a second or two, and units are few.
    let longer = |load: Load| Load {
        warm_up: millis(1_500),
        duration: millis(4_000),
        ..load
    };
    let step = |key, title, load, servers: &[&[ServerSpec]]| Step {
        key,
        title,
        load,
        servers: servers.concat(),
    };
    let ours: &[ServerSpec] = &[REDIS, EMBEDDED];
    let fewer: &[ServerSpec] = &FEWER;
    let proxies: &[ServerSpec] = &[HAPROXY, NGINX];
    let (node, alone, floor, full): (&[_], &[_], &[_], &[_]) =
        (&[NODE], &[ALONE], &[FLOOR], &[FULL]);

    let mut steps = vec![
        step(
            "handshakes",
            "Polling handshakes on new connections, as many as there come, 32 at a time",
            timed(Scenario::Handshakes, 32, None),
            &[floor, alone, ours, fewer, node, proxies],
        ),
        step(
            "handshakes-1000",
            "Polling handshakes on new connections, 1,000 a second",
            timed(Scenario::Handshakes, 256, Some(1_000.0)),
            &[floor, alone, ours, node, proxies],
        ),
        step(
            "messages-2000",
            "Private messages, 2,000 a second, 100 WebSocket clients",
            timed(Scenario::Messages, 100, Some(2_000.0)),
            &[alone, ours, full, node],
        ),
        step(
            "messages-6000",
            "Private messages, 6,000 a second, 100 WebSocket clients",
            timed(Scenario::Messages, 100, Some(6_000.0)),
            &[alone, ours, fewer, full, node, proxies],
        ),
        step(
            "messages",
            "Private messages, as many as there come, 100 WebSocket clients with 8 under way each",
            timed(Scenario::Messages, 100, None),
            &[alone, ours, fewer, node, proxies],
        ),
        step(
            "log-ins",
            "New users log in over WebSocket, 100 at a time, and everyone is told of everyone",
            batch(Scenario::LogIns, ACQUAINTED, Transport::Websocket),
            &[alone, ours, fewer, node],
        ),
        step(
            "log-ins-upgrade",
            "New users log in over polling and upgrade, 100 at a time, and everyone is told of everyone",
            batch(Scenario::LogIns, ACQUAINTED, Transport::Upgrade),
            &[alone, ours, node],
        ),
        step(
            "idle",
            "Idle WebSocket clients, all of one user",
            batch(Scenario::Idle, 600, Transport::Websocket),
            &[alone, ours, fewer, node],
        ),
        step(
            "idle-upgrade",
            "Idle clients that came by upgrade, all of one user",
            batch(Scenario::Idle, 600, Transport::Upgrade),
            &[alone, ours, node],
        ),
        step(
            "broadcast",
            "20 users a second come and go, 200 WebSocket clients are told",
            longer(timed(Scenario::Broadcast, 200, Some(20.0))),
            &[alone, ours, node],
        ),
        step(
            "polling-sessions",
            "Whole polling sessions, 80 a second, of 32 users",
            longer(timed(Scenario::PollingSessions, 32, Some(80.0))),
            &[alone, ours, node, proxies],
        ),
        step(
            "shared-connections",
            "20 polling sessions over 4 keep-alive connections, as many messages as there come",
            longer(timed(Scenario::SharedConnections, 20, None)),
            &[alone, ours, node, proxies],
        ),
    ];
    if quick {
        let most_asked = ["handshakes", "messages-6000", "messages", "log-ins", "idle"];
        steps.retain(|step| most_asked.contains(&step.key));
        for step in &mut steps {
            step.servers
                .retain(|server| !fewer.contains(server) && *server != FULL);
        }
    }
    steps
}

/// A figure of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// CPU of all of the server, a unit.
    Cpu,
    /// Units a second.
    Rate,
    /// Memory, a client.
    Memory,
}

impl Figure {
    pub(crate) fn of(self, outcome: &Outcome) -> f64 {
        match self {
            Figure::Cpu => outcome.server_cpu(),
            Figure::Rate => outcome.rate(),
            Figure::Memory => outcome.memory_kib,
        }
    }
}

/// Two servers' figures, the first in units of the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) what: &'static str,
    pub(crate) step: &'static str,
    pub(crate) figure: Figure,
    pub(crate) of: ServerSpec,
    pub(crate) to: ServerSpec,
}

/// The ratios that are told first.
pub(crate) fn ratios() -> Vec<Ratio> {
    let ratio = |what, step, figure| {
        move |of, to| Ratio {
            what,
            step,
            figure,
            of,
            to,
        }
    };
    let handshake = ratio("CPU of a polling handshake", "handshakes", Figure::Cpu);
    let message = ratio(
        "CPU of a private message at 6,000/s",
        "messages-6000",
        Figure::Cpu,
    );
    let most = ratio(
        "Private messages a second at most",
        "messages",
        Figure::Rate,
    );
    let log_in = ratio(
        "CPU of a log-in, everyone told of everyone",
        "log-ins",
        Figure::Cpu,
    );
    let polling = ratio(
        "CPU of a whole polling session",
        "polling-sessions",
        Figure::Cpu,
    );
    let shared = ratio(
        "CPU of a request over shared connections",
        "shared-connections",
        Figure::Cpu,
    );
    let event = ratio(
        "CPU of an event to one of 200 clients",
        "broadcast",
        Figure::Cpu,
    );
    let memory = ratio("Memory of an idle WebSocket client", "idle", Figure::Memory);
    vec![
        handshake(REDIS, FLOOR),
        handshake(REDIS, ALONE),
        handshake(REDIS, NODE),
        handshake(HAPROXY, REDIS),
        handshake(NGINX, REDIS),
        message(REDIS, NODE),
        message(EMBEDDED, NODE),
        message(EMBEDDED, REDIS),
        message(REDIS, ALONE),
        message(HAPROXY, REDIS),
        message(NGINX, REDIS),
        most(REDIS, NODE),
        most(EMBEDDED, NODE),
        log_in(REDIS, NODE),
        log_in(EMBEDDED, NODE),
        log_in(REDIS, ALONE),
        polling(REDIS, NODE),
        polling(EMBEDDED, NODE),
        shared(REDIS, NODE),
        event(REDIS, NODE),
        memory(REDIS, NODE),
        memory(REDIS, ALONE),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ratio_is_of_servers_that_its_step_measures() {
        let steps = steps(false);
        for ratio in ratios() {
            let step = steps.iter().find(|step| step.key == ratio.step).unwrap();
            assert!(
                step.servers.contains(&ratio.of) && step.servers.contains(&ratio.to),
                "{ratio:?}"
            );
        }
    }

    #[test]
    fn the_command_of_a_load_is_one_that_is_understood() {
        use clap::Parser as _;
        for step in steps(false) {
            let command = step.load.command();
            crate::cli::Cli::try_parse_from(command.split(' ')).unwrap();
        }
    }
}
