//! What is done in the background, by one process at a time: rows move from `recent` to
//! `messages`, expired ones go, and the write-ahead log is kept short.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use rustix::fs::statvfs;

use super::database;
use super::holder_lock::HolderLock;
use super::process_file::ProcessFile;
use super::sweep;
use super::threads::{UPKEEP_LOCK, WRITERS_LOCK};
use super::trim::{self, Trims};
use super::watchdog::FrozenReaders;
use super::{SqliteStoreConfig, millis, wall_clock};

/// Rows that one transaction moves: it keeps the writers waiting for some 2 ms.
const MOVE: i64 = 100;

/// The same, where ten times as many wait: writers that are ahead of the moving are held back.
const MOVE_MAX: i64 = 1000;

/// Fewer than that wait this long for more.
const MOVE_ANYWAY: Duration = Duration::from_millis(250);

/// Between two transactions of the upkeep, for the writers.
const BREATH: Duration = Duration::from_millis(2);

/// One kind of work goes on for that long at most, before it is another one's turn.
const ROUND: Duration = Duration::from_millis(500);

/// The write-ahead log begins anew when it has that many pages, 64 MiB: writers wait for it some
/// 10 ms, every few seconds at the rates that it is made for.
const WAL_PAGES: i64 = 16 * 1024;

/// At that length somebody reads it who does not come to an end.
const WAL_PAGES_STUCK: i64 = 4 * WAL_PAGES;

/// The same as [`WAL_PAGES`], where the disk has less room than twice the log takes.
const WAL_PAGES_SCARCE: i64 = 256;

/// SQLite's default.
const PAGE_BYTES: u64 = 4096;

/// While the log is emptied writers wait, so readers that are in the way are not waited for long.
const WAL_PATIENCE: Duration = Duration::from_millis(50);

/// How often something may have expired.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) const SPAN_OF_RECENT: &str = "
SELECT (SELECT min(seq) FROM recent), (SELECT max(seq) FROM recent),
       (SELECT at FROM recent ORDER BY seq LIMIT 1)";
pub(super) const OLDEST: &str = "
SELECT seq, sender, recipient, id, at, content FROM recent ORDER BY seq LIMIT ?1";
pub(super) const MOVE_IN: &str = "
INSERT INTO messages (seq, sender, recipient, id, at, content, sender_log, recipient_log)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
pub(super) const MOVE_OUT: &str = "DELETE FROM recent WHERE seq <= ?1";
pub(super) const MOVED: &str = "
UPDATE state SET value = CASE name WHEN 'moved_seq' THEN ?1 ELSE ?2 END
WHERE name IN ('moved_seq', 'moved_at')";
pub(super) const LOG: &str = "SELECT number, expires FROM logs WHERE user = ?1";
pub(super) const NEW_LOG: &str = "INSERT INTO logs (user, expires) VALUES (?1, ?2)";
pub(super) const EXTEND_LOG: &str = "UPDATE logs SET expires = ?2 WHERE number = ?1";
type Tried<T> = Result<T, String>;

/// The tools of one process's upkeep.
pub(super) struct Upkeep {
    config: SqliteStoreConfig,
    writers: HolderLock,
    turn: HolderLock,
    connection: Connection,
    readers: FrozenReaders,
    swept: Option<Instant>,
    trims: Trims,
    /// What SQLite's `data_version` was before the last sync.
    synced: Option<i64>,
}

impl Upkeep {
    pub(super) fn new(config: &SqliteStoreConfig, process: &ProcessFile) -> Tried<Self> {
        let lock = |name| {
            let opened = HolderLock::open(&config.data_dir.join(name));
            opened.map_err(|error| error.to_string())
        };
        let connection =
            database::open_beside(&config.data_dir, process).map_err(|error| error.why)?;
        Ok(Self {
            config: config.clone(),
            writers: lock(WRITERS_LOCK)?,
            turn: lock(UPKEEP_LOCK)?,
            connection,
            readers: FrozenReaders::default(),
            swept: None,
            trims: Trims::new(config.history_max),
            synced: None,
        })
    }

    /// Does what is due, unless another process is at it. Whether there is more to do at once.
    pub(super) fn run(&mut self, process: &ProcessFile) -> Tried<bool> {
        let Upkeep {
            config,
            writers,
            turn,
            connection,
            readers,
            swept,
            trims,
            ..
        } = self;
        let Some(_turn) = turn.try_lock(process).map_err(|error| error.to_string())? else {
            return Ok(false);
        };
        let mut round = Round {
            process,
            config,
            writers,
            connection,
            readers,
        };
        let ttl = millis(config.message_ttl);
        let began = Instant::now();
        let mut more = true;
        while more && began.elapsed() < ROUND {
            let count = round.rows_to_move()?;
            more = count > 0;
            if more {
                let moved = round.write(|connection| move_some(connection, count, ttl))?;
                trims.note(moved);
                std::thread::sleep(BREATH);
            }
        }
        if swept.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL) {
            *swept = Some(Instant::now());
            let began = Instant::now();
            while began.elapsed() < ROUND
                && round.read(|connection| sweep::something_expired(connection, ttl))?
                && round.write(|connection| sweep::sweep_some(connection, ttl))?
            {
                std::thread::sleep(BREATH);
            }
        }
        let began = Instant::now();
        while began.elapsed() < ROUND
            && let Some(log) = trims.due()
        {
            let max = config.history_max;
            if !round.write(|connection| trim::trim_some(connection, log, max))? {
                trims.done(log);
            }
            std::thread::sleep(BREATH);
        }
        round.shorten_wal()?;
        Ok(more)
    }
}

struct Round<'a> {
    process: &'a ProcessFile,
    config: &'a SqliteStoreConfig,
    writers: &'a mut HolderLock,
    connection: &'a mut Connection,
    readers: &'a mut FrozenReaders,
}

impl Round<'_> {
    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Tried<T> {
        read(self.connection).map_err(|error| database::reason(&error))
    }

    fn write<T>(&mut self, write: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Tried<T> {
        let held = self.writers.lock(self.process);
        let _held = held.map_err(|error| error.to_string())?;
        let done = (|| {
            let behavior = TransactionBehavior::Immediate;
            let transaction = self.connection.transaction_with_behavior(behavior)?;
            let value = write(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })();
        done.map_err(|error: rusqlite::Error| database::reason(&error))
    }

    /// Rows that the next transaction is to move: when there are enough, or some for long enough.
    fn rows_to_move(&self) -> Tried<i64> {
        let (first, last, oldest) = self.read(|connection| {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            connection
                .prepare_cached(SPAN_OF_RECENT)?
                .query_row([], row)
        })?;
        let (Some(first), Some(last)): (Option<i64>, Option<i64>) = (first, last) else {
            return Ok(0);
        };
        let age = wall_clock() - Option::<i64>::unwrap_or_default(oldest);
        // A clock that was set back must not keep them waiting.
        let old = age < 0 || age >= millis(MOVE_ANYWAY);
        let waiting = last - first + 1;
        let due = waiting >= MOVE || old;
        // The more wait, the more of them lie on the same pages.
        let count = (waiting / 10).clamp(MOVE, MOVE_MAX);
        Ok(if due { count } else { 0 })
    }

    /// The log may have that many pages; it has `pages`. On a disk that is nearly full it is copied
    /// while there is still room for the copy: a log that has filled the disk could not be.
    fn wal_limit(&self, pages: i64) -> i64 {
        let free =
            statvfs(&self.config.data_dir).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        let needed = pages as u64 * PAGE_BYTES * 2;
        if free.is_ok_and(|free| free < needed) {
            WAL_PAGES_SCARCE
        } else {
            WAL_PAGES
        }
    }

    /// Copies the log into the database file, and starts it anew when it has grown. The copying is
    /// done beside the writers; only what they add meanwhile is copied while they wait.
    fn shorten_wal(&mut self) -> Tried<()> {
        let wal = checkpoint(self.connection, "noop")?;
        if wal.copied == wal.pages || wal.pages < self.wal_limit(wal.pages) {
            return Ok(());
        }
        // What is added during the first round is copied in the second, without keeping anybody.
        checkpoint(self.connection, "passive")?;
        checkpoint(self.connection, "passive")?;
        let held = self.writers.lock(self.process);
        let _held = held.map_err(|error| error.to_string())?;
        let patience = self.connection.busy_timeout(WAL_PATIENCE);
        patience.map_err(|error| database::reason(&error))?;
        // Readers that stay longer than that are the next round's problem.
        let wal = checkpoint(self.connection, "restart")?;
        if wal.copied < wal.pages && wal.pages >= WAL_PAGES_STUCK {
            self.readers.look(&self.config.data_dir);
        } else {
            *self.readers = FrozenReaders::default();
        }
        Ok(())
    }
}

/// The write-ahead log after a checkpoint. Its file stays as long as it ever was.
struct Wal {
    pages: i64,
    /// Of those, in the database file as well. When that is all, the next write begins the log anew
    /// unless somebody is reading it.
    copied: i64,
}

/// `how` is `noop`, to do nothing, or one of the other words that SQLite has for it.
fn checkpoint(connection: &Connection, how: &str) -> Tried<Wal> {
    let wal = |row: &rusqlite::Row<'_>| {
        Ok(Wal {
            pages: row.get(1)?,
            copied: row.get(2)?,
        })
    };
    connection
        .query_row(&format!("PRAGMA wal_checkpoint({how})"), [], wal)
        .map_err(|error| database::reason(&error))
}

/// Moves the oldest rows, at most `count`, to the logs of their users; how many each log got. `ttl` is
/// that of messages, in milliseconds.
fn move_some(
    connection: &Connection,
    count: i64,
    ttl: i64,
) -> rusqlite::Result<HashMap<i64, usize>> {
    let mut logs = HashMap::new();
    let mut moved = HashMap::new();
    let mut oldest = connection.prepare_cached(OLDEST)?;
    let mut move_in = connection.prepare_cached(MOVE_IN)?;
    let mut rows = oldest.query([count])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        let (seq, at): (i64, i64) = (row.get(0)?, row.get(4)?);
        let users: [String; 2] = [row.get(1)?, row.get(2)?];
        let mut of = [0; 2];
        for (user, log) in users.iter().zip(&mut of) {
            *log = match logs.get(user) {
                Some(known) => *known,
                None => {
                    let log = log_at(connection, user, at, ttl)?;
                    logs.insert(user.clone(), log);
                    log
                }
            };
        }
        let [sender, recipient] = &users;
        let (id, content) = (row.get_ref(3)?.as_str()?, row.get_ref(5)?.as_str()?);
        move_in.execute(params![
            seq, sender, recipient, id, at, content, of[0], of[1]
        ])?;
        *moved.entry(of[0]).or_default() += 1;
        if of[1] != of[0] {
            *moved.entry(of[1]).or_default() += 1;
        }
        last = Some((seq, at));
    }
    drop(rows);
    if let Some((seq, at)) = last {
        connection.prepare_cached(MOVE_OUT)?.execute([seq])?;
        connection.prepare_cached(MOVED)?.execute([seq, at])?;
    }
    Ok(moved)
}

/// Moves all there is, for who has the database alone.
pub(super) fn move_all(connection: &mut Connection, ttl: i64) -> rusqlite::Result<()> {
    loop {
        let transaction = connection.transaction()?;
        if !transaction.prepare_cached(OLDEST)?.exists([1])? {
            return Ok(());
        }
        move_some(&transaction, MOVE_MAX, ttl)?;
        transaction.commit()?;
    }
}

/// The log that a message of the user at that time belongs to. It is extended by a sixteenth more
/// than asked for, so that most messages write nothing here.
fn log_at(connection: &Connection, user: &str, at: i64, ttl: i64) -> rusqlite::Result<i64> {
    let end = at.saturating_add(ttl);
    let extended = end.saturating_add(ttl / 16);
    let known: Option<(i64, i64)> = connection
        .prepare_cached(LOG)?
        .query_row([user], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match known {
        Some((log, expires)) if expires > at => {
            if expires < end {
                connection
                    .prepare_cached(EXTEND_LOG)?
                    .execute([log, extended])?;
            }
            Ok(log)
        }
        known => {
            if let Some((expired, _)) = known {
                sweep::end_log(connection, expired)?;
            }
            connection
                .prepare_cached(NEW_LOG)?
                .execute(params![user, extended])?;
            Ok(connection.last_insert_rowid())
        }
    }
}

/// Writes to the disk what any process has committed: in `normal` mode nobody else does, until the
/// log is copied. Each process does, since the one that committed may be dead. Nothing is written
/// when nothing was committed since the last time, as far as `tools` can tell.
pub(super) fn sync(data_dir: &Path, tools: Option<&mut Upkeep>) -> std::io::Result<()> {
    let version = |tools: &Upkeep| {
        let version = tools
            .connection
            .pragma_query_value(None, "data_version", |row| row.get(0));
        version.ok()
    };
    // Before the sync: what is committed during it is for the next one.
    let committed: Option<i64> = tools.as_deref().and_then(version);
    if let Some(tools) = &tools
        && committed.is_some()
        && committed == tools.synced
    {
        return Ok(());
    }
    // No lock of SQLite's is on this file, so it may be opened and closed.
    match File::open(database::wal_file(data_dir)) {
        Ok(wal) => wal.sync_data()?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(tools) = tools {
        tools.synced = committed;
    }
    Ok(())
}
