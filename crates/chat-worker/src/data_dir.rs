//! The directory that an embedded chat keeps its state in, and whose it is.
//!
//! All processes of a cluster hold a shared lock on `cluster.lock` in it, which names their
//! runtime directory: workers that could not hear of each other must not share a database.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// How often two who come at the same moment may get in each other's way.
const CLAIM_TRIES: u32 = 1000;

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// Nothing says where it is.
    #[error("there is no home directory to keep data in; say where with --data-dir")]
    NoDefault,
    /// Something in it cannot be made, opened, written or locked.
    #[error("data directory {path}: {source}")]
    Io {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is something else in its place.
    #[error("data directory {0}: not a directory")]
    NotADirectory(PathBuf),
    /// It is not there, where it has to be.
    #[error("data directory {0}: there is no chat.db in it")]
    Empty(PathBuf),
    /// Another cluster uses it.
    #[error(
        "data directory {path} is in use by the cluster whose runtime directory is {runtime_dir}"
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
        /// What that cluster wrote.
        runtime_dir: PathBuf,
    },
}

/// Where the state is kept when nobody says otherwise: `$STATE_DIRECTORY` as systemd sets it (the
/// first, if there are several), else `$XDG_STATE_HOME/chat-cluster`, else
/// `$HOME/.local/state/chat-cluster`.
///
/// # Errors
/// [`DataDirError::NoDefault`], when none of them is set to an absolute path.
pub fn default_path() -> Result<PathBuf, DataDirError> {
    default_path_from(|name| std::env::var_os(name))
}

fn default_path_from(get: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, DataDirError> {
    let absolute = |name| get(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(given) = get("STATE_DIRECTORY") {
        let first = given.as_bytes().split(|byte| *byte == b':').next();
        let first = PathBuf::from(OsString::from_vec(first.unwrap_or_default().to_vec()));
        if first.is_absolute() {
            return Ok(first);
        }
    }
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return Ok(state.join("chat-cluster"));
    }
    let home = absolute("HOME").ok_or(DataDirError::NoDefault)?;
    Ok(home.join(".local/state/chat-cluster"))
}

/// An existing data directory.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
}

/// The right to use a data directory, until this is dropped or the process ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDir {
    /// Makes the directory (mode 0700) when it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or is none.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let path = std::path::absolute(path).map_err(|source| io_error(path, source))?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => return Err(DataDirError::NotADirectory(path)),
            _ => made.map_err(|source| io_error(&path, source))?,
        }
        Ok(Self { path })
    }

    /// A directory that has a database in it.
    ///
    /// # Errors
    /// [`DataDirError::Empty`]
    pub fn existing(path: &Path) -> Result<Self, DataDirError> {
        let path = std::path::absolute(path).map_err(|source| io_error(path, source))?;
        if !path.join("chat.db").is_file() {
            return Err(DataDirError::Empty(path));
        }
        Ok(Self { path })
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Uses it for the cluster with this runtime directory, which must exist, together with the
    /// other processes of that cluster.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] by another cluster, or the lock file cannot be written.
    pub fn claim(&self, runtime_dir: &Path) -> Result<DataDirLock, DataDirError> {
        let runtime_dir = runtime_dir
            .canonicalize()
            .map_err(|source| io_error(runtime_dir, source))?;
        let mut tries = 0;
        loop {
            let mut file = self.open_lock()?;
            // With nobody there the name is ours to write; then shared, which lets others in for a
            // moment. So what counts is what it says once the shared lock is held: nobody
            // changes it then.
            let alone = try_lock(|| file.try_lock());
            if alone.map_err(|source| self.lock_error(source))? {
                let written = write_name(&mut file, &runtime_dir);
                written.map_err(|source| self.lock_error(source))?;
            }
            let shared = try_lock(|| file.try_lock_shared());
            let shared = shared.map_err(|source| self.lock_error(source))?;
            let name = read_name(&mut file).map_err(|source| self.lock_error(source))?;
            if shared && name == runtime_dir {
                return Ok(DataDirLock { _file: file });
            }
            tries += 1;
            // Not shared: somebody holds it alone, for the moment of writing, or to migrate.
            if shared || tries == CLAIM_TRIES {
                return Err(DataDirError::InUse {
                    path: self.path.clone(),
                    runtime_dir: name,
                });
            }
            drop(file);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Uses it alone: while no cluster runs on it, and none can start.
    ///
    /// # Errors
    /// [`DataDirError::InUse`] by a cluster, or the lock file cannot be opened.
    pub fn claim_alone(&self) -> Result<DataDirLock, DataDirError> {
        let mut file = self.open_lock()?;
        if try_lock(|| file.try_lock()).map_err(|source| self.lock_error(source))? {
            return Ok(DataDirLock { _file: file });
        }
        let runtime_dir = read_name(&mut file).map_err(|source| self.lock_error(source))?;
        Err(DataDirError::InUse {
            path: self.path.clone(),
            runtime_dir,
        })
    }

    fn lock_path(&self) -> PathBuf {
        self.path.join("cluster.lock")
    }

    fn open_lock(&self) -> Result<File, DataDirError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.lock_path())
            .map_err(|source| self.lock_error(source))
    }

    fn lock_error(&self, source: io::Error) -> DataDirError {
        io_error(&self.lock_path(), source)
    }
}

fn io_error(path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io {
        path: path.to_owned(),
        source,
    }
}

fn try_lock(take: impl Fn() -> Result<(), TryLockError>) -> io::Result<bool> {
    loop {
        match take() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn write_name(file: &mut File, name: &Path) -> io::Result<()> {
    if read_name(file)? == name {
        // Nothing to write: this works on a full disk.
        return Ok(());
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(name.as_os_str().as_bytes())
}

fn read_name(file: &mut File) -> io::Result<PathBuf> {
    let mut name = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut name)?;
    Ok(PathBuf::from(OsString::from_vec(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_systemds_then_xdgs_then_the_homes() {
        let from = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let found = default_path_from(|name| {
                let value = set.iter().find(|(n, _)| n == name);
                value.map(|(_, value)| value.into())
            });
            found.ok().map(|path| path.display().to_string())
        };
        let (state, xdg, home) = (
            ("STATE_DIRECTORY", "/var/lib/cc:/var/lib/other"),
            ("XDG_STATE_HOME", "/xdg"),
            ("HOME", "/home/ann"),
        );
        assert_eq!(from(&[state, xdg, home]).as_deref(), Some("/var/lib/cc"));
        assert_eq!(from(&[xdg, home]).as_deref(), Some("/xdg/chat-cluster"));
        let relative = ("XDG_STATE_HOME", "state");
        let homes = Some("/home/ann/.local/state/chat-cluster");
        assert_eq!(from(&[relative, home]).as_deref(), homes);
        assert_eq!(from(&[]), None);
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        let refused = DataDir::open(&file).unwrap_err();
        assert!(matches!(refused, DataDirError::NotADirectory(_)));
        let refused = DataDir::open(&file.join("below")).unwrap_err();
        assert!(matches!(refused, DataDirError::Io { .. }));
    }

    #[test]
    fn one_cluster_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&parent.path().join("data")).unwrap();
        let runs = ["a", "b"].map(|name| {
            let path = parent.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        });
        let master = dir.claim(&runs[0]).unwrap();
        let worker = dir.claim(&runs[0]).unwrap();
        drop(master);
        for refused in [dir.claim(&runs[1]), dir.claim_alone()] {
            let Err(DataDirError::InUse { runtime_dir, .. }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(runtime_dir, runs[0].canonicalize().unwrap());
        }
        drop(worker);
        let alone = dir.claim_alone().unwrap();
        assert!(dir.claim(&runs[0]).is_err());
        drop(alone);
        dir.claim(&runs[1]).unwrap();
    }

    #[test]
    fn of_two_who_come_at_the_same_moment_one_gets_it() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        for _ in 0..200 {
            let barrier = std::sync::Barrier::new(2);
            let claim = |name: &str| {
                let run = parent.path().join(name);
                fs::create_dir_all(&run).unwrap();
                barrier.wait();
                dir.claim(&run)
            };
            let (a, b) = std::thread::scope(|scope| {
                let a = scope.spawn(|| claim("a"));
                let b = scope.spawn(|| claim("b"));
                (a.join().unwrap(), b.join().unwrap())
            });
            assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        }
    }
}
