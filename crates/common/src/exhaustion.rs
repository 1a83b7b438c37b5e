//! Errors that are this process's own, or the system's: not of one connection.

use std::io;

use rustix::io::Errno;

/// Whether a descriptor could not be made for want of descriptors or memory: so
/// it passes, and going on at once would only spin.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}
