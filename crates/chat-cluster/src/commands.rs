//! The commands beside the start of a cluster, and what they take.

// Most of what follows are help texts, which the terminal shows as they are.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::PathBuf;

use clap::Subcommand;
use clap_complete::Shell;
use sticky_master::WORKERS_MAX;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One worker process; started by the master.
    #[command(hide = true)]
    Worker,
    /// Show how a running cluster stands: each worker with its clients, connections, messages and
    /// what it takes.
    ///
    /// Costs the workers nothing: the master answers from what they show it anyway. Without
    /// --watch, CPU is the average since the process started.
    Status(StatusOptions),
    /// Replace the workers of a running cluster one by one by new ones; also SIGHUP.
    ///
    /// A new worker starts from the program on disk and takes new clients; then the one before it
    /// asks its clients to go to the others, one after the other within --drain-time. Returns when
    /// the last old worker has gone. If a new worker does not become ready, the rest stays as it is.
    Reload,
    /// Have another number of workers in a running cluster, until its next start.
    Scale(ScaleOptions),
    /// Replace the master of a running cluster by the program on disk; also SIGUSR2.
    ///
    /// The new program is asked first whether it understands this command line. It goes on in the
    /// same process, with the same workers; to have new workers, too, reload afterwards.
    Upgrade,
    /// Look at the configuration: the file, the environment and the flags before this command.
    Config(ConfigOptions),
    /// Print what a shell needs to complete this program's command line.
    ///
    /// bash: chat-cluster completions bash > /etc/bash_completion.d/chat-cluster
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages: one of the program, and one of each command.
    Man {
        /// A directory that exists
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Copy sessions and messages from a data directory into a Redis.
    ///
    /// The cluster that uses the data directory has to be stopped first. Each session and message
    /// keeps what is left of its time. Can be run again: nothing is added twice.
    Migrate(MigrateOptions),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConfigOptions {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong, as a start would find it, and start nothing. Exit code 0: nothing is.
    Check,
    /// Print every option with its value and where that comes from, as a file for --config. Secrets
    /// are hidden.
    Print,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusOptions {
    /// Print one line of JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    /// Go on, once a second, with rates; until it is interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ScaleOptions {
    /// How many workers there are to be, 1 to 128
    #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=WORKERS_MAX as i64))]
    pub(crate) workers: u16,

    /// Clients a second that are asked to go from workers that have more than their share, from
    /// now on; 0: none [default: as it is]
    #[arg(long, value_name = "PER_SECOND")]
    pub(crate) rebalance: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateOptions {
    /// The data directory
    #[arg(long, value_name = "DATA_DIR")]
    pub(crate) from: PathBuf,

    /// The Redis: redis://[USER:PASSWORD@]HOST[:PORT][/DB], redis+unix:///PATH or
    /// redis+cluster://HOST[:PORT],HOST[:PORT]...
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,

    /// Add to a Redis that is not empty, too
    #[arg(long)]
    pub(crate) merge: bool,
}
