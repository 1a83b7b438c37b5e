//! A file for each process that uses the database: locked for as long as the process lives, so that
//! its death is known from the kernel at once, without clocks; and with a heartbeat in it, so that
//! a frozen process can be told from a busy one.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::monotonic;

use crate::chat::identity::is_id;

/// The folder of these files in the data directory.
const FOLDER: &str = "processes";

/// What a process file and a lock's record hold: fixed width, so that writing one never needs room
/// on the disk.
const RECORD_LEN: usize = 64;

/// Longest name of an instance: in a record there is a number of 20 digits beside it.
const INSTANCE_MAX: usize = 40;

/// This process's file. The lock goes with it.
pub(super) struct ProcessFile {
    instance: String,
    path: PathBuf,
    file: File,
}

/// What a process says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) pid: u32,
    /// `CLOCK_MONOTONIC` in milliseconds.
    pub(super) at_ms: u64,
}

impl ProcessFile {
    /// Makes and locks the file of `instance`: an id that no process ever had.
    pub(super) fn create(data_dir: &Path, instance: &str) -> io::Result<Self> {
        let path = path(data_dir, instance)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir.join(FOLDER))?;
        let file = loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            retried(|| file.lock())?;
            // Until it was locked it looked like a dead process's, and may have been removed.
            if file.metadata()?.nlink() > 0 {
                break file;
            }
        };
        let this = Self {
            instance: instance.to_owned(),
            path,
            file,
        };
        if let Err(error) = this.beat() {
            // On a full disk. It is tried again and again; until then nobody can tell a frozen
            // process, and the living are known by the lock.
            tracing::debug!(%error, "the heartbeat cannot be written");
        }
        Ok(this)
    }

    pub(super) fn instance(&self) -> &str {
        &self.instance
    }

    /// Says that this process runs.
    pub(super) fn beat(&self) -> io::Result<()> {
        let text = format!("{} {}", std::process::id(), monotonic::now_ms());
        write_record(&self.file, &text)
    }

    /// The orderly end: from now on this process counts as dead.
    pub(super) fn end(&self) {
        // One that stays is removed by whoever finds that its process is dead.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

/// Whether the process with this file lives.
pub(super) fn is_alive(data_dir: &Path, instance: &str) -> io::Result<bool> {
    Ok(match File::open(path(data_dir, instance)?) {
        Ok(file) => is_locked(&file)?,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    })
}

/// What the process last said; `None` when it is dead, or the file cannot be read.
pub(super) fn beat_of_living(data_dir: &Path, instance: &str) -> Option<Beat> {
    let file = File::open(path(data_dir, instance).ok()?).ok()?;
    let text = read_record(&file)?;
    let (pid, at_ms) = text.split_once(' ')?;
    let beat = Beat {
        pid: pid.parse().ok()?,
        at_ms: at_ms.parse().ok()?,
    };
    is_locked(&file).ok()?.then_some(beat)
}

/// The instances with a file, dead or alive.
pub(super) fn all(data_dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(data_dir.join(FOLDER))? {
        let entry = entry?;
        // What else there may be is not ours.
        if let Ok(instance) = entry.file_name().into_string()
            && path(data_dir, &instance).is_ok()
            && entry.file_type()?.is_file()
        {
            found.push(instance);
        }
    }
    Ok(found)
}

/// The instances whose processes are dead.
pub(super) fn dead(data_dir: &Path) -> io::Result<Vec<String>> {
    let mut dead = Vec::new();
    for instance in all(data_dir)? {
        if !is_alive(data_dir, &instance)? {
            dead.push(instance);
        }
    }
    Ok(dead)
}

/// Whether none lives of those with a file.
pub(super) fn all_are_dead(data_dir: &Path) -> io::Result<bool> {
    for instance in all(data_dir)? {
        if is_alive(data_dir, &instance)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a dead process's file; one that cannot be removed stays among the dead.
pub(super) fn remove_dead(data_dir: &Path, instance: &str) {
    let removed = path(data_dir, instance).and_then(|path| {
        let file = File::open(&path)?;
        // Held meanwhile: a process that is just about to lock it finds that it is gone.
        match file.try_lock_shared() {
            Ok(()) => fs::remove_file(&path),
            Err(TryLockError::WouldBlock) => Ok(()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    });
    if let Err(error) = removed
        && error.kind() != ErrorKind::NotFound
    {
        tracing::debug!(instance, %error, "a dead process's file cannot be removed");
    }
}

/// Whether another descriptor than this one has the exclusive lock.
fn is_locked(file: &File) -> io::Result<bool> {
    // Shared, so that two who look at the same time do not take each other for the owner.
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Again when a signal came.
pub(super) fn retried(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Writes `text`, of at most 63 bytes, over the last record.
pub(super) fn write_record(file: &File, text: &str) -> io::Result<()> {
    let mut record = [b' '; RECORD_LEN];
    let Some(room) = record[..RECORD_LEN - 1].get_mut(..text.len()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(text.as_bytes());
    record[RECORD_LEN - 1] = b'\n';
    file.write_all_at(&record, 0)
}

pub(super) fn read_record(file: &File) -> Option<String> {
    let mut bytes = [0; RECORD_LEN];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(std::str::from_utf8(&bytes).ok()?.trim().to_owned())
}

/// Names come from the database and from lock files too: none may lead out of the folder.
fn path(data_dir: &Path, instance: &str) -> io::Result<PathBuf> {
    if !is_id(instance) || instance.len() > INSTANCE_MAX {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "not the name of a process's file",
        ));
    }
    Ok(data_dir.join(FOLDER).join(instance))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_process_lives_as_long_as_its_file_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let file = ProcessFile::create(dir.path(), "a").unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path().join(FOLDER)), 0o700);
        assert_eq!(mode(dir.path().join(FOLDER).join("a")), 0o600);
        assert!(is_alive(dir.path(), "a").unwrap());
        assert!(!is_alive(dir.path(), "b").unwrap());
        assert!(dead(dir.path()).unwrap().is_empty());
        // Removed by no mistake.
        remove_dead(dir.path(), "a");
        assert!(is_alive(dir.path(), "a").unwrap());
        drop(file);
        assert!(!is_alive(dir.path(), "a").unwrap());
        assert_eq!(beat_of_living(dir.path(), "a"), None);
        assert_eq!(dead(dir.path()).unwrap(), ["a"]);
        remove_dead(dir.path(), "a");
        assert!(all(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn who_ends_in_order_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = ProcessFile::create(dir.path(), "a").unwrap();
        file.end();
        assert!(!is_alive(dir.path(), "a").unwrap());
        assert!(all(dir.path()).unwrap().is_empty());
        // The heart may beat once more.
        file.beat().unwrap();
        assert!(all(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_beat_is_written_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let before = monotonic::now_ms();
        let file = ProcessFile::create(dir.path(), "a").unwrap();
        let first = beat_of_living(dir.path(), "a").unwrap();
        assert_eq!(first.pid, std::process::id());
        assert!((before..=monotonic::now_ms()).contains(&first.at_ms));
        while monotonic::now_ms() == first.at_ms {}
        file.beat().unwrap();
        let second = beat_of_living(dir.path(), "a").unwrap();
        assert!(second.at_ms > first.at_ms);
        assert_eq!(file.file.metadata().unwrap().len(), RECORD_LEN as u64);
    }

    #[test]
    fn names_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("outside"), "7 7").unwrap();
        let long = "x".repeat(INSTANCE_MAX + 1);
        for bad in ["", ".", "..", "../outside", "a b", "ä", &long] {
            assert!(ProcessFile::create(dir.path(), bad).is_err(), "{bad:?}");
            assert!(is_alive(dir.path(), bad).is_err(), "{bad:?}");
            remove_dead(dir.path(), bad);
        }
        assert!(dir.path().join("outside").exists());
        let longest = "x".repeat(INSTANCE_MAX);
        ProcessFile::create(dir.path(), &longest).unwrap().end();
        // Neither is a process.
        fs::write(dir.path().join(FOLDER).join("a.tmp"), "").unwrap();
        fs::create_dir(dir.path().join(FOLDER).join("folder")).unwrap();
        assert!(all(dir.path()).unwrap().is_empty());
        assert!(dead(dir.path()).unwrap().is_empty());
    }

    // Between its making and its locking a file looked like a dead process's; removed at that
    // moment, it left a living process without one.
    #[test]
    fn who_comes_while_others_clear_up_stays_alive() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        for instance in dead(dir.path()).unwrap_or_default() {
                            remove_dead(dir.path(), &instance);
                        }
                    }
                });
            }
            let stays: Vec<bool> = (0..2_000)
                .map(|n| {
                    let file = ProcessFile::create(dir.path(), &format!("p{n}")).unwrap();
                    let alive = is_alive(dir.path(), file.instance()).unwrap();
                    file.end();
                    alive
                })
                .collect();
            done.store(true, Ordering::Relaxed);
            assert!(stays.iter().all(|alive| *alive));
        });
    }
}
