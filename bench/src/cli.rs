//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::client::chat::Transport;
use crate::drive::{self, drive};
use crate::much_stored::MuchStored;
use crate::outage::Outage;
use crate::peers::alone::Fault;
use crate::proc::{Role, Scope};
use crate::profile;
use crate::progress::Progress;
use crate::relay::RelayCost;
use crate::rooms::RoomCost;
use crate::scale::{Growth, Recipients, Reconnects, Workers};
use crate::scenario::{CONNECTIONS, CONTENT, Scenario, Spec, WINDOW};
use crate::server::{Kind, Programs, Server, ServerSpec};
use crate::side_by_side;
use crate::stalled_reader::StalledReader;

/// Load on Socket.IO servers that speak chat-cluster's private messaging.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One scenario on a server that runs
    Load(LoadOptions),
    /// Start one of the servers that are compared, until Ctrl-C
    Start(StartOptions),
    /// All servers side by side, round by round
    Compare(SideBySideOptions),
    /// Write the page of figures from measurements that were kept
    Report {
        /// The measurements
        results: PathBuf,
        /// The page
        #[arg(default_value = "docs/benchmarks.md")]
        page: PathBuf,
    },
    /// Do the ratios of two runs agree? Exit code 1 when one does not
    Agree {
        first: PathBuf,
        second: PathBuf,
        /// Difference that is allowed, in percent
        #[arg(long, default_value_t = 15.0)]
        within: f64,
    },
    /// Where the CPU time of one part of a server goes, by perf
    Profile(ProfileOptions),
    /// The embedded store with few and with many messages: start and log-in
    MuchStored(MuchStoredOptions),
    /// What a request costs that is relayed from one worker to another
    Relay(RelayOptions),
    /// What a message to one of very many rooms costs Redis, by the number of workers
    Rooms(RoomsOptions),
    /// Redis stands still for a while: what clients are told, and how soon all is well again
    Outage(OutageOptions),
    /// One user does not read what is sent to it: what that costs its worker and the others
    StalledReader(StalledReaderOptions),
    /// Whether a log-in costs more the more users there are
    Growth(Growth),
    /// One message to very many sockets: what each of them costs
    Recipients(Recipients),
    /// What a private message costs Redis, by the number of workers
    Workers(Workers),
    /// Clients come and go for an hour: whether memory grows, and what is left when they are gone
    Reconnects(Reconnects),
    /// One process of the load; told what to do on standard input
    #[command(hide = true)]
    Generate,
    /// socketioxide in one process, all in memory
    #[command(hide = true)]
    Alone {
        /// Break the word that an ack gives
        #[arg(long, value_enum)]
        fault: Option<Fault>,
        /// One message in so many
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        every: u64,
    },
    /// Accept, peek, pass the socket
    #[command(hide = true)]
    Floor {
        #[arg(long, default_value_t = 4)]
        workers: u16,
    },
    #[command(hide = true)]
    FloorWorker,
}

#[derive(Debug, Args)]
pub(crate) struct LoadOptions {
    #[arg(value_enum)]
    scenario: Scenario,

    /// The server's address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3000")]
    target: SocketAddr,

    /// Clients of the scenario; without a rate, handshakes or sessions that are under way at a time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,

    /// Units a second, whatever the server does; times count from when each was due [default: as
    /// many as the server answers]
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,

    /// Without a rate: messages that each client has under way
    #[arg(long, default_value_t = WINDOW, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: u32,

    /// The same load before, which is not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    warm_up: Duration,

    /// What is measured, of scenarios that end by the clock
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,

    /// How clients connect that stay
    #[arg(long, value_enum, default_value = "websocket")]
    transport: Transport,

    /// Bytes of a message's content
    #[arg(long, value_name = "BYTES", default_value_t = CONTENT)]
    content: u32,

    /// Keep-alive connections that `shared-connections` uses
    #[arg(long, default_value_t = CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,

    /// How long what has not come by the end is waited for
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    patience: Duration,

    /// Processes that make the load [default: two, more for very many clients]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: Option<u32>,

    /// A part of the server: a process with all that it started, Redis=124, or itself or those
    /// alone, master=123:self, workers=123:children; may be given several times
    #[arg(long = "process", value_name = "NAME=PID", value_parser = role)]
    roles: Vec<Role>,

    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.001..=10_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("from 0.001 to 10 million".to_owned())
    }
}

fn role(text: &str) -> Result<Role, String> {
    let (name, process) = text.split_once('=').ok_or("NAME=PID")?;
    let (pid, scope) = match process.split_once(':') {
        None => (process, Scope::Tree),
        Some((pid, "self")) => (pid, Scope::Process),
        Some((pid, "children")) => (pid, Scope::Descendants),
        Some(_) => return Err("behind the pid: nothing, :self or :children".to_owned()),
    };
    let pid = pid.parse().map_err(|_| "the pid is not a number")?;
    Ok(Role::new(name, pid, scope))
}

impl LoadOptions {
    fn spec(&self) -> anyhow::Result<Spec> {
        if self.clients < self.scenario.clients_least() {
            bail!(
                "this scenario needs {} clients or more",
                self.scenario.clients_least()
            );
        }
        Ok(Spec {
            scenario: self.scenario,
            target: self.target,
            process: 0,
            processes: self
                .processes
                .unwrap_or_else(|| drive::processes(self.clients))
                .min(self.clients),
            run: std::process::id(),
            clients: self.clients,
            rate: self.rate,
            window: self.window,
            warm_up: self.warm_up,
            duration: self.duration,
            transport: self.transport,
            content: self.content,
            connections: self.connections,
            patience: self.patience,
        })
    }
}

/// One scenario on a running server: prints what came of it.
pub(crate) async fn load(options: &LoadOptions) -> anyhow::Result<()> {
    let outcome = drive(&options.spec()?, &options.roles, &Progress::new(1)).await?;
    if options.json {
        println!("{}", serde_json::to_string(&outcome)?);
    } else {
        print!("{outcome}");
    }
    Ok(())
}

/// Where the servers' programs are, unless they are beside this one.
#[derive(Debug, Args)]
pub(crate) struct ProgramOptions {
    /// The chat-cluster binary [default: the one beside this program]
    #[arg(long, value_name = "PATH", env = "BINARY")]
    binary: Option<PathBuf>,

    /// The folder with the Node.js peer
    #[arg(long, value_name = "DIR", default_value = "bench/peers/node-cluster")]
    node_cluster: PathBuf,
}

impl ProgramOptions {
    pub(crate) fn programs(&self) -> anyhow::Result<Programs> {
        let beside = std::env::current_exe()?.with_file_name("chat-cluster");
        Ok(Programs {
            chat_cluster: self.binary.clone().unwrap_or(beside),
            node_cluster: self.node_cluster.clone(),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct StartOptions {
    #[arg(value_enum)]
    kind: Kind,

    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=128))]
    workers: u16,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// Starts one server, says how to put load on it, and stops it at Ctrl-C.
pub(crate) async fn start(options: &StartOptions) -> anyhow::Result<()> {
    let spec = ServerSpec {
        kind: options.kind,
        workers: options.workers,
    };
    let programs = options.programs.programs()?;
    let server = tokio::select! {
        server = Server::start(spec, &programs, None) => server?,
        signal = interruption() => return signal,
    };
    let roles = server.roles.iter();
    let processes: String = roles.map(|role| format!(" --process {role}")).collect();
    let address = server.address;
    println!("{spec} is ready at http://{address}");
    println!("put load on it: bench load messages --target {address}{processes}");
    let _ = interruption().await;
    server.stop().await
}

/// Waits for a signal that asks to end; what was started is asked to end when it is dropped then.
async fn interruption() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.context("cannot wait for signals")?,
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    bail!("interrupted")
}

/// Runs to the end, or to such a signal.
async fn until_interrupted(run: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::select! {
        done = run => done,
        signal = interruption() => signal,
    }
}

/// The same with tasks of its own on this thread.
pub(crate) async fn with_tasks(
    run: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    until_interrupted(LocalSet::new().run_until(run)).await
}

#[derive(Debug, Args)]
pub(crate) struct SideBySideOptions {
    /// The most asked about, shorter, in one round
    #[arg(long)]
    quick: bool,

    /// Times that all is measured [default: 5, or 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Only these steps, with commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Where the measurements are kept, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/latest.json")]
    save: PathBuf,

    /// The page whose figures are replaced [default: none]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// Ours and its peers in turns. Ctrl-C stops what was started.
pub(crate) async fn side_by_side(options: SideBySideOptions) -> anyhow::Result<()> {
    let run = side_by_side::Run {
        programs: options.programs.programs()?,
        quick: options.quick,
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 5 }),
        only: options.only,
        save: options.save,
        report: options.report,
    };
    until_interrupted(side_by_side::run(&run)).await
}

#[derive(Debug, Args)]
pub(crate) struct MuchStoredOptions {
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,

    /// Messages of each store
    #[arg(long, value_delimiter = ',', default_value = "1000,1000000")]
    messages: Vec<u64>,

    /// The program that fills a store [default: examples/fill_store beside this one]
    #[arg(long, value_name = "PATH")]
    fill_store: Option<PathBuf>,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// Fills stores and measures.
pub(crate) async fn much_stored(options: MuchStoredOptions) -> anyhow::Result<()> {
    let beside = std::env::current_exe()?.with_file_name("examples");
    let run = MuchStored {
        programs: options.programs.programs()?,
        fill_store: options
            .fill_store
            .unwrap_or_else(|| beside.join("fill_store")),
        rounds: options.rounds,
        users: options.users,
        messages: options.messages,
    };
    until_interrupted(run.run()).await
}

#[derive(Debug, Args)]
pub(crate) struct RoomsOptions {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Numbers of workers; ratios are to the first
    #[arg(long, value_delimiter = ',', default_value = "2,4,8", value_parser = clap::value_parser!(u16).range(1..=128))]
    workers: Vec<u16>,

    /// Rooms, each with one member
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(250..))]
    rooms: u32,

    /// Messages a second
    #[arg(long, default_value = "2000", value_parser = rate)]
    rate: f64,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Where the measurements are kept, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/rooms.json")]
    save: PathBuf,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// Measures with each number of workers in turn.
pub(crate) async fn rooms(options: &RoomsOptions) -> anyhow::Result<()> {
    let run = RoomCost {
        programs: options.programs.programs()?,
        rounds: options.rounds,
        workers: options.workers.clone(),
        rooms: options.rooms,
        rate: options.rate,
        time: Duration::from_secs(options.seconds),
        save: options.save.clone(),
    };
    with_tasks(run.run()).await
}

#[derive(Debug, Args)]
pub(crate) struct OutageOptions {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    users: u32,

    /// Messages a second
    #[arg(long, default_value = "500", value_parser = rate)]
    rate: f64,

    /// Seconds for which Redis stands still
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Where the measurements are kept, as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench/outage.json")]
    save: PathBuf,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// Has outages one after the other.
pub(crate) async fn outage(options: &OutageOptions) -> anyhow::Result<()> {
    let run = Outage {
        programs: options.programs.programs()?,
        rounds: options.rounds,
        users: options.users,
        rate: options.rate,
        time: Duration::from_secs(options.seconds),
        save: options.save.clone(),
    };
    with_tasks(run.run()).await
}

#[derive(Debug, Args)]
pub(crate) struct StalledReaderOptions {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Seconds for which the reader stalls
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    /// Where the measurements are kept, as JSON
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/bench/stalled-reader.json"
    )]
    save: PathBuf,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// Measures with a reader that reads and one that stalls in turns.
pub(crate) async fn stalled_reader(options: &StalledReaderOptions) -> anyhow::Result<()> {
    let run = StalledReader {
        programs: options.programs.programs()?,
        rounds: options.rounds,
        time: Duration::from_secs(options.seconds),
        save: options.save.clone(),
    };
    with_tasks(run.run()).await
}

#[derive(Debug, Args)]
pub(crate) struct RelayOptions {
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Small requests of each kind in a round
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(8..))]
    requests: u32,

    /// Large bodies of each kind in a round
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(2..))]
    bodies: u32,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// Measures direct and relayed requests in turn.
pub(crate) async fn relay(options: RelayOptions) -> anyhow::Result<()> {
    let run = RelayCost {
        programs: options.programs.programs()?,
        rounds: options.rounds,
        requests: options.requests,
        bodies: options.bodies,
    };
    until_interrupted(run.run()).await
}

#[derive(Debug, Args)]
pub(crate) struct ProfileOptions {
    #[arg(value_enum)]
    kind: Kind,

    /// master, workers, Redis or proxy
    #[arg(long, default_value = "workers")]
    part: String,

    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=128))]
    workers: u16,

    /// Keep what perf recorded, for a flame graph
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,

    #[command(flatten)]
    load: LoadOptions,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// One load on a new server, with perf on one of its parts.
pub(crate) async fn profile(options: ProfileOptions) -> anyhow::Result<()> {
    let server = ServerSpec {
        kind: options.kind,
        workers: options.workers,
    };
    let programs = options.programs.programs()?;
    let spec = options.load.spec()?;
    let profile = profile::profile(
        server,
        &programs,
        &spec,
        &options.part,
        options.keep.as_deref(),
    );
    until_interrupted(profile).await
}
