//! Who holds locks on a file, as the kernel lists it in `/proc/locks`.

use std::fs::{self, Metadata};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

/// Kinds of locks that are looked for.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// An exclusive `flock`.
    Flock,
    /// A shared lock of `fcntl` that begins in this range of bytes.
    PosixShared(Range<u64>),
}

/// The processes that may hold such a lock on the file: that one, and in theory one with a file of
/// the same number on another device. Empty when it cannot be told, as where `/proc/locks` is
/// hidden.
pub(super) fn holder_pids(file: &Metadata, wanted: &Wanted) -> Vec<u32> {
    match fs::read_to_string("/proc/locks") {
        Ok(locks) => pids_of(&locks, file.ino(), wanted),
        Err(_) => Vec::new(),
    }
}

/// From lines like `4: FLOCK  ADVISORY  WRITE 977 fe:00:16252941 0 EOF`. Those that wait have a
/// `->` before the kind. The device is not compared: some file systems show programs another one.
fn pids_of(locks: &str, inode: u64, wanted: &Wanted) -> Vec<u32> {
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, kind, _, mode, pid, file, from, ..] = words.as_slice() else {
            return None;
        };
        let is_wanted = match wanted {
            Wanted::Flock => (kind, mode) == ("FLOCK", "WRITE"),
            Wanted::PosixShared(bytes) => {
                (kind, mode) == ("POSIX", "READ") && bytes.contains(&from.parse().ok()?)
            }
        };
        let number: u64 = file.rsplit(':').next()?.parse().ok()?;
        let pid: u32 = pid.parse().ok()?;
        (is_wanted && pid > 0 && number == inode).then_some(pid)
    };
    locks.lines().filter_map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        let locks = "\
1: FLOCK  ADVISORY  WRITE 977 fe:00:4711 0 EOF
1: -> FLOCK  ADVISORY  WRITE 978 fe:00:4711 0 EOF
2: FLOCK  ADVISORY  READ  979 fe:00:4711 0 EOF
3: POSIX  ADVISORY  WRITE 980 fe:00:4711 0 EOF
4: FLOCK  ADVISORY  WRITE 0 fe:00:4711 0 EOF
5: FLOCK  ADVISORY  WRITE 981 fe:00:47 0 EOF
6: FLOCK
7: FLOCK  ADVISORY  WRITE 982 00:2a:4711 0 EOF
8: POSIX  ADVISORY  READ 983 fe:00:4711 124 124
9: POSIX  ADVISORY  READ 984 fe:00:4711 127 128
10: POSIX  ADVISORY  READ 985 fe:00:4711 128 128
11: POSIX  ADVISORY  READ 986 fe:00:47 124 124
";
        assert_eq!(pids_of(locks, 4711, &Wanted::Flock), [977, 982]);
        let shared = Wanted::PosixShared(123..128);
        assert_eq!(pids_of(locks, 4711, &shared), [983, 984]);
        assert!(pids_of(locks, 1, &Wanted::Flock).is_empty());
        assert!(pids_of("", 4711, &shared).is_empty());
    }
}
