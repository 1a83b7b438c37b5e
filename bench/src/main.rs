//! Load on Socket.IO servers, and what they do with it: one server, or several side by side.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod clock;
mod correspondence;
mod delivery;
mod drive;
mod frozen;
mod generator;
mod kept;
mod memory;
mod much_stored;
mod open_files;
mod outage;
mod pace;
mod peers;
mod proc;
mod profile;
mod progress;
mod relay;
mod rooms;
mod scale;
mod scenario;
mod server;
mod server_end;
mod side_by_side;
mod stalled_reader;
mod tally;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    match Cli::parse().command {
        Command::Load(options) => runtime()?.block_on(cli::load(&options)),
        Command::Start(options) => runtime()?.block_on(cli::start(&options)),
        Command::Compare(options) => runtime()?.block_on(cli::side_by_side(options)),
        Command::Report { results, page } => side_by_side::report(&results, &page),
        Command::Agree {
            first,
            second,
            within,
        } => {
            if !side_by_side::compare(&first, &second, within / 100.0)? {
                anyhow::bail!("a ratio differs by more than {within} %");
            }
            Ok(())
        }
        Command::Profile(options) => runtime()?.block_on(cli::profile(options)),
        Command::Relay(options) => runtime()?.block_on(cli::relay(options)),
        Command::Rooms(options) => runtime()?.block_on(cli::rooms(&options)),
        Command::Outage(options) => runtime()?.block_on(cli::outage(&options)),
        Command::StalledReader(options) => runtime()?.block_on(cli::stalled_reader(&options)),
        Command::MuchStored(options) => runtime()?.block_on(cli::much_stored(options)),
        Command::Growth(growth) => runtime()?.block_on(cli::with_tasks(growth.run())),
        Command::Recipients(recipients) => runtime()?.block_on(cli::with_tasks(recipients.run())),
        Command::Workers(workers) => runtime()?.block_on(cli::with_tasks(workers.run())),
        Command::Reconnects(reconnects) => runtime()?.block_on(cli::with_tasks(reconnects.run())),
        Command::Generate => generator::run(),
        Command::Alone { fault, every } => peers::alone::run(fault.map(|fault| (fault, every))),
        Command::Floor { workers } => peers::floor::run(workers.into()),
        Command::FloorWorker => peers::floor::run_worker(),
    }
}
