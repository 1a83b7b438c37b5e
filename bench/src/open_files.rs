//! The limit of open files: each connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit to the hard one; what that is not enough for fails later, in words.
pub(crate) fn raise_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Connections that one process may have: the limit less what it needs itself.
pub(crate) fn connections() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1_000, |(_, hard)| hard.saturating_sub(64))
}
