//! Log lines: on standard error, as text or JSON, each with the process that
//! wrote it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The least important level that is logged.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// Somebody must act
    Error,
    /// Something failed and was mended
    Warn,
    /// Start, stop, workers that come and go
    Info,
    /// Single clients and connections
    Debug,
    /// Everything
    Trace,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Level {
        match level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        }
    }
}

/// The crates whose messages are for operators; of libraries only warnings are.
const OURS: [&str; 6] = [
    "chat_cluster",
    "chat_worker",
    "common",
    "redis_adapter",
    "sticky_master",
    "sticky_worker",
];

/// Starts logging; for once in a process.
pub(crate) fn start(format: LogFormat, level: LogLevel) {
    let level = Level::from(level);
    // WARN is below ERROR in importance: at ERROR libraries are quiet, too.
    let libraries = level.min(Level::WARN);
    let ours = OURS.map(|name| (name, level));
    let filter = Targets::new().with_default(libraries).with_targets(ours);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry
                .with(lines.with_target(false).with_ansi(ansi))
                .init();
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}
