//! Kills a process that froze while it held a lock that the others wait for: stopped inside a
//! write transaction it would stop everyone's writing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::monotonic;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::database;
use super::holder_lock::{HolderLock, Taken};
use super::process_file::{self, Beat, beat_of_living};

/// A holder whose heartbeat stands still for that long is frozen.
const FROZEN: Duration = Duration::from_secs(2);

/// When our own looks are further apart than this, it was we who were asleep: a machine that was
/// suspended or starved must not make its processes kill each other.
const OWN_PAUSE: Duration = Duration::from_secs(1);

/// Watches the holders of some locks. To be asked to [`look`](Self::look) several times a second.
pub(super) struct Watchdog {
    data_dir: PathBuf,
    locks: Vec<Watched>,
    last_look: Option<Instant>,
}

struct Watched {
    name: &'static str,
    lock: HolderLock,
    stuck: Option<Stuck>,
}

/// Held at each look since then, and taken by nobody else.
struct Stuck {
    taken: Taken,
    since: Instant,
    /// The same moment, as heartbeats tell theirs.
    since_ms: u64,
}

impl Watchdog {
    /// Each lock is watched on a descriptor of its own.
    pub(super) fn new(data_dir: &Path, names: &[&'static str]) -> std::io::Result<Self> {
        let watched = |name: &&'static str| {
            Ok(Watched {
                name,
                lock: HolderLock::open(&data_dir.join(name))?,
                stuck: None,
            })
        };
        Ok(Self {
            data_dir: data_dir.to_owned(),
            locks: names.iter().map(watched).collect::<std::io::Result<_>>()?,
            last_look: None,
        })
    }

    pub(super) fn look(&mut self) {
        let now = Instant::now();
        let last = self.last_look.replace(now);
        if last.is_none_or(|last| now - last > OWN_PAUSE) {
            for watched in &mut self.locks {
                watched.stuck = None;
            }
        }
        for watched in &mut self.locks {
            watched.look(&self.data_dir, now);
        }
    }
}

impl Watched {
    fn look(&mut self, data_dir: &Path, now: Instant) {
        let Some(taken) = self.lock.taken() else {
            self.stuck = None;
            return;
        };
        match &self.stuck {
            Some(stuck) if stuck.taken == taken => {
                if now - stuck.since >= FROZEN {
                    for holder in self.frozen_holders(data_dir, stuck) {
                        self.kill(data_dir, stuck, holder);
                    }
                }
            }
            _ => {
                self.stuck = Some(Stuck {
                    taken,
                    since: now,
                    since_ms: monotonic::now_ms(),
                });
            }
        }
    }

    /// Other processes that hold the lock and have not beaten since it is stuck. Which one holds it
    /// the kernel knows. Where it does not let us ask, there is only the record, which is of an
    /// earlier holder when the present one froze before writing its own.
    fn frozen_holders(&self, data_dir: &Path, stuck: &Stuck) -> Vec<Beat> {
        let pids = self.lock.holder_pids();
        let suspects = if pids.is_empty() {
            vec![stuck.taken.instance().to_owned()]
        } else {
            process_file::all(data_dir).unwrap_or_default()
        };
        let beats = suspects
            .iter()
            .filter_map(|instance| beat_of_living(data_dir, instance));
        beats
            .filter(|beat| beat.at_ms <= stuck.since_ms && beat.pid != std::process::id())
            .filter(|beat| pids.is_empty() || pids.contains(&beat.pid))
            .collect()
    }

    fn kill(&self, data_dir: &Path, stuck: &Stuck, holder: Beat) {
        kill_if(holder, self.name, || {
            self.lock.taken().as_ref() == Some(&stuck.taken)
                && self.frozen_holders(data_dir, stuck).contains(&holder)
        });
    }
}

/// Finds processes that froze while they read the database: what they read must stay in the
/// write-ahead log, which grows until they go on. To be asked to [`look`](Self::look) over and over
/// while the log does not get shorter, and forgotten when it does.
#[derive(Default)]
pub(super) struct FrozenReaders {
    /// The last beats of those that read at the first look.
    suspects: Vec<Beat>,
    since: Option<Instant>,
}

impl FrozenReaders {
    /// Kills those that have read and not beaten since the first look, if that is long ago.
    pub(super) fn look(&mut self, data_dir: &Path) {
        let Some(since) = self.since else {
            self.suspects = readers(data_dir);
            self.since = Some(Instant::now());
            return;
        };
        if since.elapsed() < FROZEN {
            return;
        }
        for beat in self.suspects.drain(..) {
            kill_if(beat, "read lock", || readers(data_dir).contains(&beat));
        }
        self.since = None;
    }
}

/// Other processes that are reading the database just now.
fn readers(data_dir: &Path) -> Vec<Beat> {
    let pids = database::reader_pids(data_dir);
    let instances = process_file::all(data_dir).unwrap_or_default();
    let beats = instances
        .iter()
        .filter_map(|instance| beat_of_living(data_dir, instance));
    beats
        .filter(|beat| pids.contains(&beat.pid) && beat.pid != std::process::id())
        .collect()
}

/// Kills a process if `still` it is to be.
fn kill_if(who: Beat, lock: &str, still: impl FnOnce() -> bool) {
    let pid = who.pid;
    let Some(process) = Pid::from_raw(pid as i32) else {
        return;
    };
    let Ok(process) = pidfd_open(process, PidfdFlags::empty()) else {
        return;
    };
    // The pid is its process's as long as its file is locked: looked at again after the process was
    // pinned, so it cannot have been given to another.
    if !still() {
        return;
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) => tracing::error!(
            pid,
            lock,
            "killed a process that froze while it held a lock of the database"
        ),
        Err(error) => tracing::error!(
            pid, lock, %error,
            "a process froze while it holds a lock of the database, and cannot be killed"
        ),
    }
}
