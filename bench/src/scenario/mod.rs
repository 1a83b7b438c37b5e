//! What clients do to a server, one file each.

mod broadcast;
mod handshakes;
mod idle;
mod log_ins;
mod messages;
mod polling_sessions;
mod repeat;
mod shared_connections;

use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::client::chat::{Auth, Transport, log_in};
use crate::client::target::Target;
use crate::clock;
use crate::generator::Link;
use crate::tally::Tally;

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Polling handshakes, each on a new connection
    Handshakes,
    /// Whole polling sessions on new connections: log in, send a message, close
    PollingSessions,
    /// New users log in, and everyone is told of everyone
    LogIns,
    /// Private messages with ids and acks; loss, doubling and order are checked
    Messages,
    /// Users come and go, and all the other clients are told
    Broadcast,
    /// Clients that do nothing: what they take of memory
    Idle,
    /// Polling sessions whose requests share a few keep-alive connections, as a proxy's do
    SharedConnections,
}

impl Scenario {
    /// What is counted.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Scenario::Handshakes => "handshake",
            Scenario::PollingSessions => "session",
            Scenario::LogIns => "log-in",
            Scenario::Messages => "message",
            Scenario::Broadcast => "event",
            Scenario::Idle => "client",
            Scenario::SharedConnections => "request",
        }
    }

    /// Fewer clients have nobody to talk to.
    pub(crate) fn clients_least(self) -> u32 {
        match self {
            Scenario::Messages | Scenario::LogIns => 2,
            _ => 1,
        }
    }

    /// Whether it ends when its clients have done their work, not by the clock. They
    /// stay, so the server's memory then tells what one takes.
    pub(crate) fn is_batch(self) -> bool {
        matches!(self, Scenario::LogIns | Scenario::Idle)
    }
}

/// Messages that each client has under way where there is no rate.
pub(crate) const WINDOW: u32 = 8;
/// Bytes of a message's content.
pub(crate) const CONTENT: u32 = 100;
/// Keep-alive connections that sessions share.
pub(crate) const CONNECTIONS: u32 = 4;

/// One scenario with its numbers, for one of the processes that share it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) scenario: Scenario,
    pub(crate) target: SocketAddr,
    /// This process' number.
    pub(crate) process: u32,
    pub(crate) processes: u32,
    /// Tells the run from earlier ones on the same server.
    pub(crate) run: u32,
    /// Clients of all processes.
    pub(crate) clients: u32,
    /// Units a second of all processes; `None`: as many as there come, with a
    /// fixed number under way.
    pub(crate) rate: Option<f64>,
    /// Without a rate: messages that each client has under way.
    pub(crate) window: u32,
    /// The same load before, which is not measured.
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    pub(crate) transport: Transport,
    /// Bytes of a message's content.
    pub(crate) content: u32,
    /// Connections of all processes, where clients share them.
    pub(crate) connections: u32,
    /// How long what has not come by the end is waited for.
    pub(crate) patience: Duration,
}

/// A time in which there is work, on the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Window {
    fn new(from: u64, length: Duration) -> Window {
        let until = from + length.as_nanos() as u64;
        Window { from, until }
    }

    pub(crate) fn contains(&self, instant: u64) -> bool {
        (self.from..self.until).contains(&instant)
    }

    pub(crate) fn length(&self) -> Duration {
        Duration::from_nanos(self.until - self.from)
    }
}

impl Spec {
    /// The measured time, when it starts then.
    pub(crate) fn measured(&self, start: u64) -> Window {
        Window::new(start, self.duration)
    }

    /// What comes before, from now on.
    fn warming_up(&self) -> Window {
        Window::new(clock::now(), self.warm_up)
    }

    /// Whether its units come at the rate, if there is one and the server keeps up.
    pub(crate) fn units_due(&self) -> Option<f64> {
        let paced = matches!(
            self.scenario,
            Scenario::Handshakes | Scenario::PollingSessions | Scenario::Messages
        );
        let rate = self.rate.filter(|_| paced)?;
        Some(rate * self.duration.as_secs_f64())
    }

    fn share(&self, of: u32) -> Range<u32> {
        let at =
            |process: u32| (u64::from(of) * u64::from(process) / u64::from(self.processes)) as u32;
        at(self.process)..at(self.process + 1)
    }

    /// The numbers of this process' clients.
    fn own_clients(&self) -> Range<u32> {
        self.share(self.clients)
    }

    fn own_rate(&self) -> Option<f64> {
        self.rate.map(|rate| rate / f64::from(self.processes))
    }

    fn target(&self) -> Rc<Target> {
        Rc::new(Target::new(self.target, self.process))
    }

    /// A name that no user of an earlier run has.
    fn username(&self, kind: &str, number: u32) -> String {
        format!("{kind} {number}{}", self.username_end())
    }

    /// How all those names end.
    fn username_end(&self) -> String {
        format!(" of {:x}", self.run)
    }
}

/// Log-ins of all processes that go again before a batch is measured: the server's code and its
/// heap are warm then.
const EARLY_LOG_INS: u32 = 200;

/// Logs in and leaves, with each of these.
async fn come_and_go(target: &Rc<Target>, auths: impl Iterator<Item = Auth>) -> anyhow::Result<()> {
    for auth in auths {
        log_in(target, &auth, Transport::Websocket, |_| {}).await?;
    }
    Ok(())
}

/// Runs this process' part.
pub(crate) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    match spec.scenario {
        Scenario::Handshakes => handshakes::run(spec, link).await,
        Scenario::PollingSessions => polling_sessions::run(spec, link).await,
        Scenario::LogIns => log_ins::run(spec, link).await,
        Scenario::Messages => messages::run(spec, link).await,
        Scenario::Broadcast => broadcast::run(spec, link).await,
        Scenario::Idle => idle::run(spec, link).await,
        Scenario::SharedConnections => shared_connections::run(spec, link).await,
    }
}
