//! Readiness of a descriptor of any kind on the tokio event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the current runtime. Readiness is edge-triggered: after
/// a call that would block, clear it.
///
/// # Panics
/// Outside a tokio runtime with its I/O driver enabled.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, owned by the `AsyncFd` from here until that
    // is dropped or gives it back, and always returns the same number.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(registered?)
}
