//! The database file: its schema, how it is opened, and what is wrong with it.

use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Durability;
use super::holder_lock::HolderLock;
use super::kernel_locks::{self, Wanted};
use super::presence::Live;
use super::process_file::ProcessFile;
use super::roster;
use super::threads::WRITERS_LOCK;

/// The database's file in the data directory; SQLite puts `-wal` and `-shm` beside it.
const FILE: &str = "chat.db";

/// Says in the file's header that it is ours: "ccdb".
const APPLICATION_ID: i32 = 0x6363_6462;

/// Of the schema. A later program knows from it what to change.
const VERSION: i32 = 3;

/// Bytes of `-shm` that SQLite's readers lock.
const READ_LOCKS: Range<u64> = 123..128;

/// How long SQLite waits for a lock of its own. All writing is done under a lock of ours, so
/// only a recovery or the reset of the write-ahead log can be in the way.
const BUSY: Duration = Duration::from_millis(500);

/// Memory for pages, in KiB, of each connection. Other processes' commits empty it anyway.
const CACHE_KIB: i32 = 4096;

/// `recent` is all that sending a message writes to; rows move from there to `messages`, oldest
/// first, so each number in `recent` is above each in `messages`. Times are milliseconds since the
/// epoch.
const SCHEMA: &str = "
CREATE TABLE sessions (
  id TEXT NOT NULL PRIMARY KEY, user TEXT NOT NULL, name TEXT NOT NULL,
  expires INTEGER NOT NULL,      -- counts only while no socket of it lives
  ended INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_expiry ON sessions (expires);

CREATE TABLE instances (id TEXT NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE sockets (
  instance TEXT NOT NULL, socket TEXT NOT NULL, user TEXT NOT NULL, session TEXT NOT NULL,
  PRIMARY KEY (instance, socket)
) STRICT, WITHOUT ROWID;
CREATE INDEX sockets_by_user ON sockets (user);
CREATE INDEX sockets_by_session ON sockets (session);

CREATE TABLE recent (
  seq INTEGER PRIMARY KEY, sender TEXT NOT NULL, recipient TEXT NOT NULL, id TEXT NOT NULL,
  at INTEGER NOT NULL, content TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX recent_by_id ON recent (sender, id);

CREATE TABLE logs (              -- a user's messages; they expire together, and begin anew
  number INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL UNIQUE, expires INTEGER NOT NULL
) STRICT;
CREATE INDEX logs_by_expiry ON logs (expires);
CREATE TABLE messages (
  seq INTEGER PRIMARY KEY, sender TEXT NOT NULL, recipient TEXT NOT NULL, id TEXT NOT NULL,
  at INTEGER NOT NULL, content TEXT NOT NULL,
  sender_log INTEGER NOT NULL, recipient_log INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_by_id ON messages (sender, id);
CREATE INDEX messages_by_conversation ON messages (sender, recipient);
CREATE INDEX messages_by_sender_log ON messages (sender_log);
CREATE INDEX messages_by_recipient_log ON messages (recipient_log);
CREATE TABLE sweeps (            -- expired logs, and up to where their messages were looked at
  log INTEGER PRIMARY KEY, sent INTEGER NOT NULL, received INTEGER NOT NULL
) STRICT;

CREATE TABLE lobby (
  seq INTEGER PRIMARY KEY, sender TEXT NOT NULL, user TEXT NOT NULL, id TEXT NOT NULL,
  at INTEGER NOT NULL, msg TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX lobby_by_id ON lobby (sender, id);

CREATE TABLE state (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO state (name, value)
VALUES ('moved_seq', 0), ('moved_at', 0), ('probe', 0), ('origin', abs(random() / 2)),
       ('session_ttl', 0), ('message_ttl', 0);
";

/// What makes the first version the second one. Processes of that version that have it open go on.
const FROM_VERSION_1: &str = "
ALTER TABLE sessions ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
CREATE TABLE lobby (
  seq INTEGER PRIMARY KEY, sender TEXT NOT NULL, user TEXT NOT NULL, id TEXT NOT NULL,
  at INTEGER NOT NULL, msg TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX lobby_by_id ON lobby (sender, id);
";

/// What the second version has not: an index of users, into which those with a session are then
/// [taken](index_users). `version` is the number of a user's last change.
const USERS: &str = "
CREATE INDEX sessions_by_user ON sessions (user);
CREATE TABLE users (
  id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX users_by_version ON users (version);
CREATE TABLE names (             -- several for each user
  key TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (key, user)
) STRICT, WITHOUT ROWID;
INSERT INTO state (name, value) VALUES ('version', 0), ('users', 0);
";

pub(super) const USERS_OF_SESSIONS: &str = "SELECT user, max(name) FROM sessions GROUP BY user";

/// Why the database cannot be used; one line.
#[derive(Debug, thiserror::Error)]
#[error("database {path}: {why}")]
pub struct DatabaseError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

pub(super) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

pub(super) fn wal_file(data_dir: &Path) -> PathBuf {
    data_dir.join(format!("{FILE}-wal"))
}

/// The processes that are reading the database just now, by their locks on the log's index (SQLite's
/// "WAL-mode File Format", 2.3.1). Empty when it cannot be told.
pub(super) fn reader_pids(data_dir: &Path) -> Vec<u32> {
    // Only looked at, never opened: see `make_file`.
    match fs::metadata(data_dir.join(format!("{FILE}-shm"))) {
        Ok(index) => kernel_locks::holder_pids(&index, &Wanted::PosixShared(READ_LOCKS)),
        Err(_) => Vec::new(),
    }
}

/// Opens the database, and makes it when it is missing. To be called under the writers' lock.
pub(super) fn open(data_dir: &Path, durability: Durability) -> Result<Connection, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let path = file(data_dir);
    let failed = |error| describe(&path, error);
    let other = |why: String| DatabaseError {
        path: path.clone(),
        why,
    };
    make_file(&path).map_err(|error| other(error.to_string()))?;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    // First of all: what is not ours is not touched.
    let state = recognise(&path, &connection)?;
    prepare(&connection, durability).map_err(failed)?;
    let steps: &[&str] = match state {
        State::Ready => &[],
        State::New => &[SCHEMA, USERS],
        State::Version1 => &[FROM_VERSION_1, USERS],
        State::Version2 => &[USERS],
    };
    if !steps.is_empty() {
        make_version(&mut connection, steps).map_err(failed)?;
        // The names of the new files, too, must survive a power cut.
        let synced = File::open(data_dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| other(error.to_string()))?;
    }
    Ok(connection)
}

/// What is in a database file.
enum State {
    /// Nothing yet.
    New,
    /// Our tables, as they were at first.
    Version1,
    /// Our tables, before there was an index of users.
    Version2,
    /// Our tables.
    Ready,
}

/// # Errors
/// It is of another version, or not ours.
fn recognise(path: &Path, connection: &Connection) -> Result<State, DatabaseError> {
    let failed = |error| describe(path, error);
    let number = |pragma| {
        let read = connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
        read.map_err(failed)
    };
    let empty = || {
        let tables = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        });
        tables.map(|tables| tables == 0).map_err(failed)
    };
    let why = match (number("application_id")?, number("user_version")?) {
        (APPLICATION_ID, VERSION) => return Ok(State::Ready),
        (APPLICATION_ID, 1) => return Ok(State::Version1),
        (APPLICATION_ID, 2) => return Ok(State::Version2),
        (0, 0) if empty()? => return Ok(State::New),
        (APPLICATION_ID, other) => format!(
            "made by another version of chat-cluster (schema {other}, this one knows {VERSION})"
        ),
        _ => "not a database of chat-cluster".to_owned(),
    };
    Err(DatabaseError {
        path: path.to_owned(),
        why,
    })
}

/// Makes the file when it is missing; SQLite gives its companions the same mode. Neither it nor
/// `-shm` may be opened beside SQLite once it is there, not for a moment, not to read: closing it
/// would end all locks that this process's connections have on it (fcntl(2)). The next process to
/// come would take the database for unused and cut `-shm` short under those that have it mapped.
fn make_file(path: &Path) -> std::io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A connection for who does not take part in the group commit. Under the writers' lock, too: who
/// opens the database first keeps SQLite's own locks while it looks at the log, and must be known if
/// it freezes at that.
pub(super) fn open_beside(
    data_dir: &Path,
    process: &ProcessFile,
) -> Result<Connection, DatabaseError> {
    let io = |error: std::io::Error| DatabaseError {
        path: file(data_dir),
        why: error.to_string(),
    };
    let mut lock = HolderLock::open(&data_dir.join(WRITERS_LOCK)).map_err(io)?;
    let _held = lock.lock(process).map_err(io)?;
    open(data_dir, Durability::Normal)
}

fn prepare(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "wal")?;
    let synchronous = match durability {
        Durability::Normal => "normal",
        Durability::Full => "full",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Takes these steps, after which the database is of this version.
fn make_version(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for sql in steps {
        transaction.execute_batch(sql)?;
    }
    index_users(&transaction)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Takes everybody into the index who has a session.
fn index_users(connection: &Connection) -> rusqlite::Result<()> {
    let mut users = connection.prepare(USERS_OF_SESSIONS)?;
    let mut rows = users.query([])?;
    while let Some(row) = rows.next()? {
        let (user, name): (String, String) = (row.get(0)?, row.get(1)?);
        roster::change(connection, &Live::default(), &user, &name, false)?;
    }
    Ok(())
}

/// Reads and writes a little of everything: finds what would make each worker fail.
pub(super) fn try_out(data_dir: &Path, connection: &mut Connection) -> Result<(), DatabaseError> {
    let path = file(data_dir);
    let tried = (|| {
        let transaction = connection.transaction()?;
        for table in [
            "sessions",
            "users",
            "names",
            "instances",
            "sockets",
            "recent",
            "logs",
            "messages",
            "sweeps",
            "lobby",
        ] {
            transaction
                .prepare(&format!("SELECT * FROM {table} LIMIT 1"))?
                .exists([])?;
        }
        transaction.query_row("SELECT max(number) FROM logs", [], |_| Ok(()))?;
        transaction.query_row("SELECT max(seq) FROM messages", [], |_| Ok(()))?;
        write_a_little(&transaction)?;
        transaction.commit()
    })();
    tried.map_err(|error| describe(&path, error))
}

/// The smallest real write.
pub(super) fn write_a_little(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE state SET value = value + 1 WHERE name = 'probe'")?
        .execute([])
        .map(|_| ())
}

fn describe(path: &Path, error: rusqlite::Error) -> DatabaseError {
    DatabaseError {
        path: path.to_owned(),
        why: reason(&error),
    }
}

/// What [`reason`] says of a full disk.
pub(super) const DISK_FULL: &str = "the disk is full";

/// An error of SQLite in the words of an operator.
pub(super) fn reason(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => DISK_FULL.to_owned(),
        Some(ErrorCode::NotADatabase) => {
            "not a database of chat-cluster, or its header is damaged".to_owned()
        }
        Some(ErrorCode::DatabaseCorrupt) => "the file is damaged".to_owned(),
        Some(ErrorCode::ReadOnly) => "cannot be written: read-only".to_owned(),
        Some(ErrorCode::DatabaseBusy) => "locked by another process".to_owned(),
        _ => error.to_string().replace('\n', " "),
    }
}

/// Whether a new connection might mend it.
pub(super) fn needs_reopening(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
        )
    )
}
