//! How many connections the process's limit of open files leaves room for.

use std::{fs, io};

use rustix::process::{Resource, getrlimit};

/// Descriptors that are kept free for relays, the store and files: this part
/// of the limit, and this many at least.
const RESERVED_PART: u64 = 8;
const RESERVED_LEAST: u64 = 32;

/// Without a limit: more connections than one process could ever serve.
const UNLIMITED: u64 = 1 << 20;

/// Counts what is open now; call it before there are connections.
pub(crate) fn room_for_connections() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED);
    let open = fs::read_dir("/proc/self/fd")?.count() as u64;
    Ok(room(limit, open))
}

fn room(limit: u64, open: u64) -> u64 {
    let reserved = (limit / RESERVED_PART).max(RESERVED_LEAST);
    limit.saturating_sub(open + reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_and_a_reserve_are_taken_off_the_limit() {
        assert_eq!(room(1024, 24), 1024 - 24 - 128);
        assert_eq!(room(64, 10), 64 - 10 - 32);
        assert_eq!(room(16, 10), 0);
        assert!(room_for_connections().unwrap() > 0);
    }
}
