//! Signals as futures.

use std::fs::File;
use std::future::Future;
use std::io;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To stop; the signal's name.
    Stop(&'static str),
    /// New workers: SIGHUP.
    Reload,
    /// Another program: SIGUSR2.
    Upgrade,
}

/// The signals that a process listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    upgrade: Signal,
    /// None under `nohup`, which has it ignored.
    hang_up: Option<Signal>,
    /// There was a terminal at the start: when it is gone, SIGHUP says so.
    had_terminal: bool,
}

impl Signals {
    /// From here on they do not kill the process; those that came while an
    /// earlier program held them back are heard.
    pub(crate) fn new() -> io::Result<Signals> {
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            upgrade: signal(SignalKind::user_defined2())?,
            hang_up: hang_up_counts()
                .then(|| signal(SignalKind::hangup()))
                .transpose()?,
            had_terminal: has_terminal(),
        };
        listened_to().thread_unblock()?;
        Ok(signals)
    }

    /// What the next one asks.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.upgrade.recv() => Asked::Upgrade,
            Some(_) = hung_up(&mut self.hang_up) => match self.had_terminal && !has_terminal() {
                true => Asked::Stop("SIGHUP, and the terminal is gone"),
                false => Asked::Reload,
            },
        }
    }

    /// The name of the next one that asks to stop; for who has nothing to reload.
    pub(crate) async fn stop(&mut self) -> &'static str {
        loop {
            match self.next().await {
                Asked::Stop(name) => return name,
                Asked::Reload => return "SIGHUP",
                Asked::Upgrade => {}
            }
        }
    }
}

/// Holds them back for the program that this thread executes next; gives them for
/// the case that it does not.
pub(crate) fn hold() -> io::Result<SigSet> {
    let signals = listened_to();
    signals.thread_block()?;
    Ok(signals)
}

fn listened_to() -> SigSet {
    use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
    [SIGHUP, SIGINT, SIGTERM, SIGUSR2].into_iter().collect()
}

async fn hung_up(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether there is a terminal that controls this process: it can be opened.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether SIGHUP is not ignored, as `/proc` tells (`SigIgn`, a mask in
/// hexadecimal; SIGHUP is its first bit).
fn hang_up_counts() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & 1 == 0)
}

/// Runs `program` on an event loop of this thread alone.
pub(crate) fn block_on<T>(program: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(program)
}
