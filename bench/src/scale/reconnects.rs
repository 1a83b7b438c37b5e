//! Whether memory grows while clients come and go, and what of it is left when they are gone.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::cli::ProgramOptions;
use crate::client::chat::{Auth, Transport, follow, log_in};
use crate::client::target::Target;
use crate::clock;
use crate::open_files;
use crate::pace::Pace;
use crate::proc;
use crate::progress::Progress;
use crate::server::{Kind, Server, ServerSpec};

/// Log-ins that are under way at a time at first.
const AT_ONCE: usize = 64;
/// After the last has gone, until the last look.
const AFTERWARDS: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Reconnects {
    /// Clients, each a user of its own
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// How many of them close their connection and come back, a second
    #[arg(long, default_value_t = 20.0)]
    rate: f64,

    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,

    #[arg(long, value_enum, default_value = "redis")]
    kind: Kind,

    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=128))]
    workers: u16,

    #[arg(long, value_enum, default_value = "websocket")]
    transport: Transport,

    #[command(flatten)]
    programs: ProgramOptions,
}

impl Reconnects {
    /// Measures and prints a row a minute. Inside a [`tokio::task::LocalSet`].
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        open_files::raise_limit();
        let spec = ServerSpec {
            kind: self.kind,
            workers: self.workers,
        };
        let server = Server::start(spec, &self.programs.programs()?, None).await?;
        let cluster: Vec<_> = server
            .roles
            .iter()
            .filter(|role| role.name != "Redis")
            .cloned()
            .collect();
        let pss = || proc::pss_kib(&cluster);
        let target = Rc::new(Target::new(server.address, 0));
        println!(
            "{spec}; {} clients, each a user of its own; {} a second come back.\n",
            self.clients, self.rate
        );
        println!(
            "| minute | clients | reconnects so far | memory of master and workers, MiB | KiB a client |\n|---|---|---|---|---|"
        );
        let before = pss();
        let row = |minute: &str, clients: u32, reconnects: u64| {
            let now = pss();
            let each = match clients {
                0 => "–".to_owned(),
                clients => format!("{:.1}", (now - before) / f64::from(clients)),
            };
            println!(
                "| {minute} | {clients} | {reconnects} | {:.1} | {each} |",
                now / 1024.0
            );
        };
        row("before", 0, 0);

        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        let (tell, mut back) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        let mut turns = Vec::new();
        for number in 0..self.clients {
            let turn = Rc::new(Notify::new());
            turns.push(turn.clone());
            clients.spawn_local(come_and_go(Client {
                number,
                target: target.clone(),
                transport: self.transport,
                turn,
                at_once: at_once.clone(),
                back: tell.clone(),
            }));
        }
        let progress = Progress::new(self.minutes);
        let mut came = async |count: u64| -> anyhow::Result<()> {
            for _ in 0..count {
                tokio::select! {
                    one = back.recv() => one.context("no clients")?,
                    Some(ended) = clients.join_next() => {
                        let ended: anyhow::Result<()> = ended?;
                        return Err(ended.err().context("a client ended")?);
                    }
                }
            }
            Ok(())
        };
        came(self.clients.into()).await?;
        let mut all = turns.iter().cycle();
        let mut reconnects = 0;
        row("0", self.clients, 0);
        for minute in 1..=self.minutes {
            let mut pace = Pace::new(self.rate, clock::now(), Duration::from_secs(60))?;
            let mut due_now = 0;
            while let Some((_, due)) = pace.due().await? {
                all.by_ref()
                    .take(due as usize)
                    .for_each(|turn| turn.notify_one());
                due_now += due;
            }
            came(due_now).await?;
            reconnects += due_now;
            row(&minute.to_string(), self.clients, reconnects);
            progress.step_done();
        }
        clients.shutdown().await;
        tokio::time::sleep(AFTERWARDS).await;
        row("all gone for a minute", 0, reconnects);
        drop(progress);
        server.stop().await
    }
}

struct Client {
    number: u32,
    target: Rc<Target>,
    transport: Transport,
    /// Told when it is to come back.
    turn: Rc<Notify>,
    at_once: Arc<Semaphore>,
    /// Told each time that it is there.
    back: mpsc::UnboundedSender<()>,
}

/// Connects, and again whenever it is its turn.
async fn come_and_go(client: Client) -> anyhow::Result<()> {
    let mut auth = Auth::Username(format!("client {}", client.number));
    loop {
        let permit = client.at_once.acquire().await?;
        let mut user = log_in(&client.target, &auth, client.transport, |_| {}).await?;
        drop(permit);
        auth = Auth::Session(user.session.session_id);
        client.back.send(())?;
        tokio::select! {
            ended = follow(&mut user.socket, |_| {}) => ended?,
            () = client.turn.notified() => {}
        }
    }
}
