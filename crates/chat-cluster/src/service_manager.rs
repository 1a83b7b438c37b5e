//! systemd, or what speaks as it does: what it is told of this process, and the sockets that it
//! passes. Without one nothing happens.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use common::sys::inherited;
use sd_notify::NotifyState;

/// The first descriptor that is passed: `sd_listen_fds(3)`.
const FIRST_DESCRIPTOR: RawFd = 3;

/// What says to a process which descriptors are its own; nothing for its children.
pub(crate) const SOCKET_VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What lets a process speak to the service manager; for the master alone.
pub(crate) const NOTIFY_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The sockets that were passed to this process, bound and listening. To be called once, before
/// anything is opened.
///
/// # Errors
/// What was said to be passed is not there.
pub(crate) fn passed_sockets() -> io::Result<Vec<OwnedFd>> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    let end = FIRST_DESCRIPTOR.saturating_add_unsigned(count);
    (FIRST_DESCRIPTOR..end).map(inherited::take).collect()
}

/// All that was asked for runs.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line for `systemctl status`.
pub(crate) fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub(crate) fn reloading() {
    let status = NotifyState::Status("replacing the workers");
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now, status]),
        Err(_) => notify(&[NotifyState::Reloading, status]),
    }
}

/// The end begins.
pub(crate) fn stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("the workers send their clients away"),
    ]);
}

/// Says that the event loop runs, as often as the service manager wants to hear it; goes on for
/// ever.
pub(crate) async fn keep_watchdog_quiet() {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut beats = tokio::time::interval(within / 2);
    loop {
        beats.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
