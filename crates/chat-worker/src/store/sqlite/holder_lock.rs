//! A lock between processes that is waited for by event, and tells who holds it: SQLite's own
//! lock is waited for by polling, and nobody can say who has it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use common::monotonic;

use super::kernel_locks::{self, Wanted};
use super::process_file::{ProcessFile, read_record, retried, write_record};

/// A lock file. Each value excludes every other one, of this process too.
pub(super) struct HolderLock {
    file: File,
}

/// The lock, held until this is dropped.
pub(super) struct Held<'a>(&'a File);

/// What the lock file says of who took it last, and when: the same text means that nobody has
/// taken it since, but for one who has not come to writing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken(String);

impl Taken {
    pub(super) fn instance(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }
}

impl HolderLock {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Self { file })
    }

    /// Waits for the lock.
    pub(super) fn lock(&mut self, me: &ProcessFile) -> io::Result<Held<'_>> {
        retried(|| self.file.lock())?;
        self.taken_by(me)
    }

    /// Takes the lock if it is free.
    pub(super) fn try_lock(&mut self, me: &ProcessFile) -> io::Result<Option<Held<'_>>> {
        match self.file.try_lock() {
            Ok(()) => self.taken_by(me).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn taken_by(&mut self, me: &ProcessFile) -> io::Result<Held<'_>> {
        let held = Held(&self.file);
        // Unlocked again by the guard when this fails.
        write_record(
            &self.file,
            &format!("{} {}", me.instance(), monotonic::now_ms()),
        )?;
        Ok(held)
    }

    /// `None` when the lock is free. What it says may be of an earlier holder: between taking the
    /// lock and writing that down lies a moment.
    pub(super) fn taken(&self) -> Option<Taken> {
        let taken = Taken(read_record(&self.file).unwrap_or_default());
        // Alone, not shared: should this process freeze right here, it is a holder like any other,
        // and the others can tell.
        match self.file.try_lock() {
            Ok(()) => {
                let _ = self.file.unlock();
                None
            }
            Err(TryLockError::WouldBlock) => Some(taken),
            Err(TryLockError::Error(_)) => None,
        }
    }

    /// The processes that may hold the lock: see [`kernel_locks`].
    pub(super) fn holder_pids(&self) -> Vec<u32> {
        let file = self.file.metadata();
        file.map_or_else(
            |_| Vec::new(),
            |file| kernel_locks::holder_pids(&file, &Wanted::Flock),
        )
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_holds_it_and_is_known_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let a = ProcessFile::create(dir.path(), "a").unwrap();
        let b = ProcessFile::create(dir.path(), "b").unwrap();
        let mut first = HolderLock::open(&path).unwrap();
        let mut second = HolderLock::open(&path).unwrap();
        let looking = HolderLock::open(&path).unwrap();
        assert_eq!(looking.taken(), None);
        let held = first.lock(&a).unwrap();
        assert_eq!(looking.taken().unwrap().instance(), "a");
        assert_eq!(looking.holder_pids(), [std::process::id()]);
        assert!(second.try_lock(&b).unwrap().is_none());
        drop(held);
        assert_eq!(looking.taken(), None);
        assert!(looking.holder_pids().is_empty());
        let held = second.try_lock(&b).unwrap();
        assert_eq!(looking.taken().unwrap().instance(), "b");
        drop(held);
    }

    #[test]
    fn who_waits_gets_it_when_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let me = ProcessFile::create(dir.path(), "a").unwrap();
        let mut first = HolderLock::open(&path).unwrap();
        let held = first.lock(&me).unwrap();
        let (got, has) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut second = HolderLock::open(&path).unwrap();
                let _held = second.lock(&me).unwrap();
                got.send(()).unwrap();
            });
            assert!(has.recv_timeout(Duration::from_millis(50)).is_err());
            drop(held);
            has.recv_timeout(Duration::from_secs(30)).unwrap();
        });
    }

    #[test]
    fn each_taking_is_told_from_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let me = ProcessFile::create(dir.path(), "a").unwrap();
        let mut lock = HolderLock::open(&dir.path().join("lock")).unwrap();
        let looking = HolderLock::open(&dir.path().join("lock")).unwrap();
        let held = lock.lock(&me).unwrap();
        let first = looking.taken().unwrap();
        assert_eq!(looking.taken().as_ref(), Some(&first));
        drop(held);
        let then = monotonic::now_ms();
        while monotonic::now_ms() == then {}
        let _held = lock.lock(&me).unwrap();
        assert_ne!(looking.taken().unwrap(), first);
    }
}
