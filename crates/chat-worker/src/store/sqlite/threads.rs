//! The two threads that keep the store going: one that must never wait, with the heartbeat and
//! the watch over others; one for the upkeep, which may.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::health::DatabaseHealth;
use super::process_file::ProcessFile;
use super::thread;
use super::upkeep::{self, Upkeep};
use super::watchdog::Watchdog;
use super::writer::{Progress, Write, WriteQueue};
use super::{Durability, SqliteStoreConfig};

/// Between two beats. A process counts as frozen after 2 s without one.
const BEAT: Duration = Duration::from_millis(250);

/// A write that takes longer is in trouble: another process holds the lock, or the disk stands.
const STUCK: Duration = Duration::from_secs(1);

/// Between two tries of a write while none works.
const PROBE: Duration = Duration::from_millis(500);

/// Between two looks at what is to be tidied up.
const UPKEEP: Duration = Duration::from_millis(200);

/// Between two writes to the disk, in `normal` mode: what a power cut may take.
const SYNC: Duration = Duration::from_secs(1);

pub(super) const WRITERS_LOCK: &str = "writer.lock";
pub(super) const UPKEEP_LOCK: &str = "upkeep.lock";

/// Ends the threads when it is dropped.
pub(super) struct Threads {
    _stop: [mpsc::Sender<()>; 2],
}

/// What the threads work with.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) config: SqliteStoreConfig,
    pub(super) process: Arc<ProcessFile>,
    pub(super) health: Arc<DatabaseHealth>,
    pub(super) writes: Arc<WriteQueue>,
    pub(super) progress: Arc<Progress>,
}

impl Threads {
    pub(super) fn start(shared: Shared) -> std::io::Result<Self> {
        let (heart, hearts_stop) = mpsc::channel();
        let (upkeep, upkeeps_stop) = mpsc::channel();
        let watchdog = Watchdog::new(&shared.config.data_dir, &[WRITERS_LOCK, UPKEEP_LOCK])?;
        let beating = shared.clone();
        thread::spawn("store-heart", move || {
            beat(&beating, watchdog, &hearts_stop);
        })?;
        thread::spawn("store-upkeep", move || keep_up(&shared, &upkeeps_stop))?;
        Ok(Self {
            _stop: [heart, upkeep],
        })
    }
}

/// Waits; false when it is time to end.
fn pause(stop: &mpsc::Receiver<()>, time: Duration) -> bool {
    matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

/// Beats until `end` is closed.
pub(super) fn keep_beating(process: &ProcessFile, end: mpsc::Receiver<()>) {
    while pause(&end, BEAT) {
        let _ = process.beat();
    }
}

fn beat(shared: &Shared, mut watchdog: Watchdog, stop: &mpsc::Receiver<()>) {
    // The first write opens the database, and says whether that works.
    let mut probed: Option<Instant> = None;
    loop {
        if let Err(error) = shared.process.beat() {
            tracing::debug!(%error, "the heartbeat cannot be written");
        }
        watchdog.look();
        if shared.progress.busy_for().is_some_and(|time| time >= STUCK) {
            shared.health.down("a write does not come to an end");
        } else if !shared.health.is_up() && probed.is_none_or(|at| at.elapsed() >= PROBE) {
            probed = Some(Instant::now());
            let _ = shared.writes.push(Write::Probe);
        }
        if !pause(stop, BEAT) {
            return;
        }
    }
}

fn keep_up(shared: &Shared, stop: &mpsc::Receiver<()>) {
    let mut tools: Option<Upkeep> = None;
    let mut synced = Instant::now();
    let mut said = None;
    let mut more = false;
    while pause(stop, if more { Duration::ZERO } else { UPKEEP }) {
        more = false;
        // Whatever becomes of the rest: what was acknowledged has to get to the disk.
        if shared.config.durability == Durability::Normal && synced.elapsed() >= SYNC {
            synced = Instant::now();
            if let Err(error) = upkeep::sync(&shared.config.data_dir, tools.as_mut()) {
                tracing::warn!(%error, "the write-ahead log cannot be written to the disk; trying on");
            }
        }
        if !shared.health.is_up() {
            tools = None;
            continue;
        }
        let round = catch_unwind(AssertUnwindSafe(|| {
            let open = match &mut tools {
                Some(open) => open,
                none => none.insert(Upkeep::new(&shared.config, &shared.process)?),
            };
            open.run(&shared.process)
        }));
        let why = match round {
            Ok(Ok(due)) => {
                more = due;
                None
            }
            Ok(Err(why)) => Some(why),
            Err(_) => Some("it panicked".to_owned()),
        };
        if let Some(why) = &why {
            tools = None;
            if said.as_ref() != Some(why) {
                tracing::warn!(why, "the database cannot be tidied up; trying on");
            }
        }
        said = why;
    }
}
