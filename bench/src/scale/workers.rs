//! What a private message costs Redis, by the number of workers.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use redis::aio::MultiplexedConnection;

use crate::cli::ProgramOptions;
use crate::client::chat::Transport;
use crate::clock;
use crate::drive::{self, drive};
use crate::proc;
use crate::progress::Progress;
use crate::scenario::{CONNECTIONS, CONTENT, Scenario, Spec, WINDOW};
use crate::server::{Kind, Server, ServerSpec, redis_client};
use crate::side_by_side::{Spread, order};

/// For how long is measured what goes on without messages.
const IDLE: Duration = Duration::from_secs(8);

#[derive(Debug, Args)]
pub(crate) struct Workers {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Numbers of workers; ratios are to the first
    #[arg(long, value_delimiter = ',', default_value = "2,4,8,16", value_parser = clap::value_parser!(u16).range(1..=128))]
    workers: Vec<u16>,

    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..))]
    clients: u32,

    /// Messages a second
    #[arg(long, default_value_t = 500.0)]
    rate: f64,

    /// Seconds that the longer of two loads is longer: the difference is what counts, since
    /// log-ins and warm-up are in both
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,

    #[command(flatten)]
    programs: ProgramOptions,
}

/// What Redis has counted, and used.
#[derive(Clone, Copy, Default)]
struct Reading {
    seconds: f64,
    messages: f64,
    commands: f64,
    bytes_in: f64,
    bytes_out: f64,
    cpu: f64,
}

impl Reading {
    fn zip(self, other: Reading, with: fn(f64, f64) -> f64) -> Reading {
        Reading {
            seconds: with(self.seconds, other.seconds),
            messages: with(self.messages, other.messages),
            commands: with(self.commands, other.commands),
            bytes_in: with(self.bytes_in, other.bytes_in),
            bytes_out: with(self.bytes_out, other.bytes_out),
            cpu: with(self.cpu, other.cpu),
        }
    }

    fn times(self, factor: f64) -> Reading {
        let all = Reading {
            seconds: factor,
            messages: factor,
            commands: factor,
            bytes_in: factor,
            bytes_out: factor,
            cpu: factor,
        };
        self.zip(all, |value, factor| value * factor)
    }

    fn less(self, other: Reading) -> Reading {
        self.zip(other, |value, other| value - other)
    }
}

impl Workers {
    /// Measures in turns and prints a table.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let progress = Progress::new(u64::from(self.rounds) * self.workers.len() as u64);
        let mut records = Vec::new();
        for round in 0..self.rounds {
            for workers in order(&self.workers, round) {
                progress.step(format!("round {}, {workers} workers", round + 1));
                records.push((round, workers, self.one(workers, &progress).await?));
                progress.step_done();
            }
        }
        drop(progress);
        let first = self.workers.first().copied().unwrap_or_default();
        println!(
            "{} private messages a second among {} users; a message's part of what Redis counts, median (least–most) of {} rounds.\n",
            self.rate, self.clients, self.rounds
        );
        println!(
            "| workers | commands, those in scripts too | to {first} | bytes into Redis | to {first} | bytes out | to {first} | CPU of Redis, µs | commands a second without messages |\n|---|---|---|---|---|---|---|---|---|"
        );
        for workers in &self.workers {
            let of = |round: u32, workers: u16| {
                let mut found = records.iter();
                found
                    .find(|(r, w, _)| (*r, *w) == (round, workers))
                    .map(|(_, _, took)| *took)
            };
            let cell = |of_message: fn(&Reading) -> f64, decimals| {
                let values =
                    (0..self.rounds).filter_map(|round| Some(of_message(&of(round, *workers)?.0)));
                Spread::cell_of(values, decimals)
            };
            let ratio = |of_message: fn(&Reading) -> f64| {
                let values = (0..self.rounds).filter_map(|round| {
                    Some(of_message(&of(round, *workers)?.0) / of_message(&of(round, first)?.0))
                });
                Spread::cell_of(values, 2)
            };
            let idle = (0..self.rounds).filter_map(|round| Some(of(round, *workers)?.1));
            println!(
                "| {workers} | {} | {} | {} | {} | {} | {} | {} | {} |",
                cell(|took| took.commands, 1),
                ratio(|took| took.commands),
                cell(|took| took.bytes_in, 0),
                ratio(|took| took.bytes_in),
                cell(|took| took.bytes_out, 0),
                ratio(|took| took.bytes_out),
                cell(|took| took.cpu, 0),
                Spread::cell_of(idle, 0)
            );
        }
        Ok(())
    }

    /// What one message took, and the commands a second that there are anyway.
    async fn one(&self, workers: u16, progress: &Progress) -> anyhow::Result<(Reading, f64)> {
        let kind = Kind::Redis;
        let server = Server::start(
            ServerSpec { kind, workers },
            &self.programs.programs()?,
            None,
        )
        .await?;
        let socket = server.redis.as_deref().context("no Redis")?;
        let mut connection = redis_client(socket)?
            .get_multiplexed_async_connection()
            .await?;
        let mut loads = Vec::new();
        // The first only warms up.
        for (run, seconds) in [(0, 1), (1, 2), (2, 2 + self.seconds)] {
            let before = reading(&mut connection, &server).await?;
            let spec = self.spec(&server, run, Duration::from_secs(seconds));
            let outcome = drive(&spec, &server.roles, progress).await?;
            let mut took = reading(&mut connection, &server).await?.less(before);
            took.messages = outcome.units as f64;
            loads.push(took);
        }
        let before = reading(&mut connection, &server).await?;
        tokio::time::sleep(IDLE).await;
        let idle = reading(&mut connection, &server).await?.less(before);
        server.stop().await?;
        let took = loads[2].less(loads[1]);
        let took = took.less(Reading {
            seconds: 0.0,
            messages: 0.0,
            ..idle.times(took.seconds / idle.seconds)
        });
        Ok((
            took.times(1.0 / took.messages),
            idle.commands / idle.seconds,
        ))
    }

    fn spec(&self, server: &Server, run: u32, duration: Duration) -> Spec {
        Spec {
            scenario: Scenario::Messages,
            target: server.address,
            process: 0,
            processes: drive::processes(self.clients),
            run,
            clients: self.clients,
            rate: Some(self.rate),
            window: WINDOW,
            warm_up: Duration::from_secs(1),
            duration,
            transport: Transport::Websocket,
            content: CONTENT,
            connections: CONNECTIONS,
            patience: Duration::from_secs(30),
        }
    }
}

async fn reading(
    connection: &mut MultiplexedConnection,
    server: &Server,
) -> anyhow::Result<Reading> {
    let info: String = redis::cmd("INFO")
        .arg("stats")
        .query_async(connection)
        .await?;
    let usage = proc::usage(&server.roles);
    let field = |name| proc::field(&info, name).with_context(|| format!("INFO has no {name}"));
    Ok(Reading {
        seconds: clock::now() as f64 / 1e9,
        messages: 0.0,
        commands: field("total_commands_processed:")?,
        bytes_in: field("total_net_input_bytes:")?,
        bytes_out: field("total_net_output_bytes:")?,
        cpu: usage.get("Redis").map_or(0.0, |usage| usage.cpu_micros),
    })
}
