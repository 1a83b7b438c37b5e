//! One message to very many sockets, beside what the system call alone takes that sends it.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::cli::ProgramOptions;
use crate::client::room;
use crate::client::target::Target;
use crate::clock;
use crate::open_files;
use crate::pace::Pace;
use crate::proc;
use crate::progress::Progress;
use crate::server::{Kind, Server, ServerSpec, redis_client};
use crate::side_by_side::Spread;

const ROOM: &str = "everybody";
/// Bytes of a message.
const CONTENT: usize = 100;
/// How long what was published may be on its way in the end.
const LATE: Duration = Duration::from_secs(30);
/// For how long is measured what goes on without messages.
const IDLE: Duration = Duration::from_secs(5);
/// Connections of the system call alone; each has both ends in this process.
const PAIRS: usize = 5_000;
/// Times that all of them are written to.
const TIMES: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Recipients {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Sockets in the room
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    sockets: u32,

    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=128))]
    workers: u16,

    /// Messages a second
    #[arg(long, default_value_t = 2.0)]
    rate: f64,

    /// Seconds of each measurement
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// CPU in µs for each recipient of each message.
#[derive(Default)]
struct Figures {
    workers: Vec<f64>,
    rest: Vec<f64>,
    send: Vec<f64>,
    /// Milliseconds until the last recipient has it, median of a round.
    last: Vec<f64>,
}

impl Recipients {
    /// Measures and prints a table. Inside a [`tokio::task::LocalSet`].
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        open_files::raise_limit();
        let progress = Progress::new(self.rounds.into());
        let mut figures = Figures::default();
        for round in 1..=self.rounds {
            progress.step(format!("round {round}"));
            figures.send.push(sends_alone()?);
            self.one(&mut figures).await?;
            progress.step_done();
        }
        drop(progress);
        println!(
            "{} messages a second to a room with {} sockets, {} workers, Redis; median (least–most) of {} rounds of {} s.\n",
            self.rate, self.sockets, self.workers, self.rounds, self.seconds
        );
        println!("| CPU a recipient | µs |\n|---|---|");
        let cell = |values: &[f64]| Spread::cell_of(values.iter().copied(), 2);
        println!("| workers | {} |", cell(&figures.workers));
        println!("| master and Redis | {} |", cell(&figures.rest));
        println!(
            "| `write` of as many bytes to a loopback connection, alone | {} |",
            cell(&figures.send)
        );
        println!(
            "| (ms until the last recipient has it) | {} |",
            cell(&figures.last)
        );
        Ok(())
    }

    async fn one(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let spec = ServerSpec {
            kind: Kind::Redis,
            workers: self.workers,
        };
        let server = Server::start(spec, &self.programs.programs()?, None).await?;
        let redis = server.redis.as_deref().context("no Redis")?;
        let mut connection = redis_client(redis)?
            .get_multiplexed_async_connection()
            .await?;
        let target = Target::new(server.address, 0);
        let heard = Rc::new(Heard::default());
        let mut members = JoinSet::new();
        for _ in 0..self.sockets {
            let mut socket = room::enter(&target, std::iter::once(ROOM.to_owned())).await?;
            let heard = heard.clone();
            members.spawn_local(async move {
                let mut own = 0;
                loop {
                    if !socket.next().await?.starts_with(room::EVENT) {
                        bail!("not a message of the room");
                    }
                    own += 1;
                    heard.one(own);
                }
            });
        }
        let rate = |seconds| Pace::new(self.rate, clock::now(), Duration::from_secs(seconds));
        let mut last = Vec::new();
        let measured = async {
            let mut publish = async |mut pace: Pace, last: &mut Vec<f64>| {
                while let Some((_, due)) = pace.due().await? {
                    for _ in 0..due {
                        let begun = clock::now();
                        let packet = room::packet(ROOM, &"x".repeat(CONTENT));
                        let _: u64 = redis::cmd("PUBLISH")
                            .arg(room::channel(ROOM))
                            .arg(packet)
                            .query_async(&mut connection)
                            .await?;
                        heard.expect(u64::from(self.sockets)).await?;
                        last.push((clock::now() - begun) as f64 / 1e6);
                    }
                }
                anyhow::Ok(())
            };
            publish(rate(2)?, &mut Vec::new()).await?;
            let usage = || {
                let usage = proc::usage(&server.roles);
                let workers = usage.get("workers").map_or(0.0, |usage| usage.cpu_micros);
                let all: f64 = usage.values().map(|usage| usage.cpu_micros).sum();
                (clock::now(), workers, all)
            };
            let before = usage();
            tokio::time::sleep(IDLE).await;
            let start = usage();
            let earlier = heard.messages.get();
            publish(rate(self.seconds)?, &mut last).await?;
            let end = usage();
            let events = (heard.messages.get() - earlier) as f64 * f64::from(self.sockets);
            // Less what goes on without messages: pings and signs of life.
            let idle = (end.0 - start.0) as f64 / (start.0 - before.0) as f64;
            let workers = (end.1 - start.1) - (start.1 - before.1) * idle;
            let all = (end.2 - start.2) - (start.2 - before.2) * idle;
            anyhow::Ok((workers / events, (all - workers) / events))
        };
        let (workers, rest) = tokio::select! {
            measured = measured => measured?,
            Some(ended) = members.join_next() => {
                let ended: anyhow::Result<()> = ended?;
                return Err(ended.err().context("a member ended")?);
            }
        };
        figures.workers.push(workers);
        figures.rest.push(rest);
        figures
            .last
            .extend(Spread::of(last).map(|spread| spread.median));
        members.shutdown().await;
        server.stop().await
    }
}

/// Counts what has arrived: each message with all before the next is published.
#[derive(Default)]
struct Heard {
    messages: Cell<u64>,
    arrived: Cell<u64>,
    /// A member has more than were published, or fewer.
    wrong: Cell<bool>,
    more: Notify,
}

impl Heard {
    /// A member has its message of that number, from 1.
    fn one(&self, number: u64) {
        self.wrong
            .set(self.wrong.get() || number != self.messages.get() + 1);
        self.arrived.set(self.arrived.get() + 1);
        self.more.notify_one();
    }

    /// Waits until so many members have the message that was published.
    async fn expect(&self, members: u64) -> anyhow::Result<()> {
        let all = async {
            while self.arrived.get() < members {
                self.more.notified().await;
            }
        };
        let late = tokio::time::timeout(LATE, all).await.is_err();
        if late || self.wrong.get() {
            bail!(
                "a message is lost or doubled: {} of {members}",
                self.arrived.get()
            );
        }
        self.arrived.set(0);
        self.messages.set(self.messages.get() + 1);
        Ok(())
    }
}

/// What a `write` of such a message costs on a connection that nobody waits at, in µs.
fn sends_alone() -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut pairs = Vec::with_capacity(PAIRS);
    for _ in 0..PAIRS {
        let near = TcpStream::connect(listener.local_addr()?)?;
        near.set_nodelay(true)?;
        pairs.push((near, listener.accept()?.0));
    }
    let message = vec![b'x'; room::EVENT.len() + CONTENT + 4];
    let mut buffer = vec![0; message.len()];
    let mut took = Duration::ZERO;
    for _ in 0..TIMES {
        let begun = thread_time();
        for (near, _) in &mut pairs {
            near.write_all(&message)?;
        }
        took += thread_time().saturating_sub(begun);
        for (_, far) in &mut pairs {
            far.read_exact(&mut buffer)?;
        }
    }
    Ok(took.as_secs_f64() * 1e6 / (PAIRS * TIMES) as f64)
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
