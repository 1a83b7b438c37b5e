//! The directory in which a master and its workers meet: where their sockets
//! and locks live and who may open them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::getuid;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use thiserror::Error;

use crate::worker_id::{Generation, WorkerId};

/// `sun_path` of a Unix socket address has room for that many bytes.
const SOCKET_PATH_MAX: usize = 107;

/// Why a runtime directory cannot be used.
#[derive(Debug, Error)]
pub enum RuntimeDirError {
    /// It could not be made, read or locked.
    #[error("cannot use the runtime directory: {path}")]
    Io {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others could put their own sockets there.
    #[error("runtime directory {path} belongs to user {owner}, not to {user}")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Ours.
        user: u32,
    },
    /// Something else is at that path.
    #[error("runtime directory {0} is not a directory")]
    NotADirectory(PathBuf),
    /// The sockets in it would have names longer than the kernel takes.
    #[error("runtime directory {0}: the path is too long for Unix sockets")]
    TooLong(PathBuf),
    /// A master lives there already.
    #[error("runtime directory {path} is in use by a living master (pid {pid})")]
    MasterLives {
        /// The directory.
        path: PathBuf,
        /// As the master wrote it; 0 when it did not yet.
        pid: u32,
    },
    /// Another process holds that worker id.
    #[error("worker id {worker} is in use by pid {pid}")]
    WorkerLives {
        /// The id.
        worker: WorkerId,
        /// As the holder wrote it; 0 when it did not yet.
        pid: u32,
    },
}

/// A lock file that is held until this is dropped or the process ends, however
/// it ends.
#[derive(Debug)]
pub struct HeldLock {
    /// Closing it ends the lock.
    file: OwnedFd,
}

impl HeldLock {
    /// The lock that this descriptor holds: of a process image before this one.
    pub fn inherit(file: OwnedFd) -> HeldLock {
        HeldLock { file }
    }
}

impl From<HeldLock> for OwnedFd {
    fn from(lock: HeldLock) -> OwnedFd {
        lock.file
    }
}

/// An existing directory of ours, mode 0700.
#[derive(Clone, Debug)]
pub struct RuntimeDir {
    path: PathBuf,
}

impl RuntimeDir {
    /// Where the runtime directory is when nobody says otherwise: always the
    /// same for a user, so that later commands find it.
    /// `$XDG_RUNTIME_DIR/chat-cluster`, else `/run/chat-cluster` for root, else
    /// `chat-cluster-<uid>` under the temporary directory.
    pub fn default_path() -> PathBuf {
        let user = getuid();
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("chat-cluster"),
            _ if user.is_root() => PathBuf::from("/run/chat-cluster"),
            _ => std::env::temp_dir().join(format!("chat-cluster-{}", user.as_raw())),
        }
    }

    /// Makes the directory when it is missing and checks that it is ours alone:
    /// the owner must be this user; a wider mode than 0700 is narrowed.
    pub fn open(path: &Path) -> Result<RuntimeDir, RuntimeDirError> {
        let failed = |source| RuntimeDirError::Io {
            path: path.to_owned(),
            source,
        };
        let path = &std::path::absolute(path).map_err(failed)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| match fs::symlink_metadata(path) {
            Ok(found) if !found.is_dir() => RuntimeDirError::NotADirectory(path.clone()),
            _ => failed(source),
        })?;
        // Not followed: a link in a shared directory may be somebody's trap.
        let found = fs::symlink_metadata(path).map_err(failed)?;
        if !found.is_dir() {
            return Err(RuntimeDirError::NotADirectory(path.clone()));
        }
        let user = getuid().as_raw();
        if found.uid() != user {
            return Err(RuntimeDirError::Owner {
                path: path.clone(),
                owner: found.uid(),
                user,
            });
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let dir = RuntimeDir { path: path.clone() };
        if dir
            .relay_socket(WorkerId(u8::MAX))
            .as_os_str()
            .as_bytes()
            .len()
            > SOCKET_PATH_MAX
        {
            return Err(RuntimeDirError::TooLong(dir.path));
        }
        Ok(dir)
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where workers connect to the master.
    pub fn master_socket(&self) -> PathBuf {
        self.path.join("master.sock")
    }

    /// Where a running master takes commands.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Where a worker serves plain HTTP/1.1 to the others.
    pub fn relay_socket(&self, worker: WorkerId) -> PathBuf {
        self.path.join(format!("worker-{worker}.http"))
    }

    /// Becomes the one master of this directory until the lock is dropped.
    pub fn lock_master(&self) -> Result<HeldLock, RuntimeDirError> {
        self.lock("master.lock", |pid| RuntimeDirError::MasterLives {
            path: self.path.clone(),
            pid,
        })
    }

    /// Becomes the one holder of a worker id.
    pub fn lock_worker(&self, worker: WorkerId) -> Result<HeldLock, RuntimeDirError> {
        self.lock(&worker_lock_name(worker), |pid| {
            RuntimeDirError::WorkerLives { worker, pid }
        })
    }

    /// The process that holds a worker id, or `None` when nobody does. The pid
    /// is 0 when the holder has not written it yet.
    pub fn worker_holder(&self, worker: WorkerId) -> Result<Option<u32>, RuntimeDirError> {
        if !self.path.join(worker_lock_name(worker)).exists() {
            return Ok(None);
        }
        match self.lock_worker(worker) {
            Ok(_) => Ok(None),
            Err(RuntimeDirError::WorkerLives { pid, .. }) => Ok(Some(pid)),
            Err(error) => Err(error),
        }
    }

    /// The number for the next worker process, counted in the file
    /// `generation`. Only the master may call this, under its lock.
    pub fn next_generation(&self) -> Result<Generation, RuntimeDirError> {
        let path = self.path.join("generation");
        let last: u64 = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(_) => 0,
        };
        let next = last + 1;
        match fs::write(&path, format!("{next}\n")) {
            Ok(()) => Ok(Generation(next)),
            Err(source) => Err(RuntimeDirError::Io { path, source }),
        }
    }

    fn lock(
        &self,
        name: &str,
        held: impl FnOnce(u32) -> RuntimeDirError,
    ) -> Result<HeldLock, RuntimeDirError> {
        let path = self.path.join(name);
        let failed = |source| RuntimeDirError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(held(written_pid(&mut file))),
            Err(errno) => return Err(failed(errno.into())),
        }
        // The pid is for people and for the next master; the lock is the truth.
        let text = format!("{}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(failed)?;
        Ok(HeldLock { file: file.into() })
    }
}

fn worker_lock_name(worker: WorkerId) -> String {
    format!("worker-{worker}.lock")
}

fn written_pid(file: &mut File) -> u32 {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(20).read_to_string(&mut text));
    match read {
        Ok(_) => text.trim().parse().unwrap_or(0),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_ours_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::open(&parent.path().join("a/b")).unwrap();
        let mode = fs::metadata(dir.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_wider_mode_is_narrowed() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        RuntimeDir::open(parent.path()).unwrap();
        let mode = fs::metadata(parent.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn files_links_and_long_paths_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = RuntimeDir::open(&file).unwrap_err();
        assert!(matches!(refused, RuntimeDirError::NotADirectory(_)));
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        let refused = RuntimeDir::open(&link).unwrap_err();
        assert!(matches!(refused, RuntimeDirError::NotADirectory(_)));
        let refused = RuntimeDir::open(&parent.path().join("x".repeat(100))).unwrap_err();
        assert!(matches!(refused, RuntimeDirError::TooLong(_)));
    }

    #[test]
    fn generations_count_up_over_masters() {
        let parent = tempfile::tempdir().unwrap();
        for expected in 1..4 {
            let dir = RuntimeDir::open(parent.path()).unwrap();
            assert_eq!(dir.next_generation().unwrap(), Generation(expected));
        }
    }

    #[test]
    fn one_master_and_one_holder_of_an_id_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let dir = RuntimeDir::open(parent.path()).unwrap();
        let lock = dir.lock_master().unwrap();
        let refused = dir.lock_master().unwrap_err();
        let me = std::process::id();
        assert!(matches!(refused, RuntimeDirError::MasterLives { pid, .. } if pid == me));
        drop(lock);
        dir.lock_master().unwrap();

        assert_eq!(dir.worker_holder(WorkerId(4)).unwrap(), None);
        let lock = dir.lock_worker(WorkerId(4)).unwrap();
        assert_eq!(dir.worker_holder(WorkerId(4)).unwrap(), Some(me));
        drop(lock);
        assert_eq!(dir.worker_holder(WorkerId(4)).unwrap(), None);
    }
}
