//! Reads a whole database, for who moves it elsewhere.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::database::{self, DatabaseError};
use super::messages::message;
use super::process_file::ProcessFile;
use super::{lobby, upkeep, wall_clock};
use crate::chat::identity::random_id;
use crate::chat::lobby::Line;
use crate::chat::message::Message;
use crate::store::Session;

pub(super) const NOTED: &str = "SELECT value FROM state WHERE name = ?1";
pub(super) const SESSION_COUNT: &str = "SELECT count(*) FROM sessions";
pub(super) const SESSIONS: &str = "
SELECT id, user, name, expires, EXISTS (SELECT 1 FROM sockets WHERE session = sessions.id), ended
FROM sessions WHERE id > ?1 ORDER BY id LIMIT ?2";
pub(super) const LOGS: &str = "SELECT number, user, expires FROM logs WHERE expires > ?1";
pub(super) const MESSAGES: &str = "
SELECT sender, recipient, id, at, content, seq FROM messages WHERE sender_log = ?1 AND seq > ?2
UNION ALL
SELECT sender, recipient, id, at, content, seq FROM messages
WHERE recipient_log = ?1 AND seq > ?2 AND sender_log <> ?1
ORDER BY seq LIMIT ?3";

/// Sessions that are read at once.
const SESSIONS_AT_ONCE: i64 = 500;

/// A database that nobody else uses.
pub struct Export {
    connection: Connection,
    session_ttl: Duration,
}

/// Something with what is left of its life.
#[derive(Debug, Clone)]
pub struct Expiring<T> {
    /// What.
    pub value: T,
    /// How long it is to be kept.
    pub left: Duration,
}

/// A session that the database knows.
#[derive(Debug, Clone)]
pub struct Known {
    /// The session.
    pub session: Session,
    /// Nobody comes in with it any more; its user is still listed.
    pub ended: bool,
}

/// One user's messages.
#[derive(Debug, Clone)]
pub struct Log {
    /// Whose.
    pub user: String,
    number: i64,
}

/// Where a read of a log goes on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark(i64);

impl Export {
    /// Opens the database of a data directory, whose [`DataDir`](crate::data_dir::DataDir) has to
    /// be claimed alone.
    ///
    /// # Errors
    /// [`DatabaseError`], one line.
    pub fn open(data_dir: &Path) -> Result<Self, DatabaseError> {
        let failed = |why: String| DatabaseError {
            path: database::file(data_dir),
            why,
        };
        let instance = random_id().map_err(|error| failed(error.to_string()))?;
        let process = ProcessFile::create(data_dir, &instance);
        let process = process.map_err(|error| failed(error.to_string()))?;
        let opened = database::open_beside(data_dir, &process);
        process.end();
        let mut connection = opened?;
        let lives = (|| {
            let message_ttl = noted(&connection, "message_ttl")?;
            upkeep::move_all(&mut connection, message_ttl)?;
            noted(&connection, "session_ttl")
        })();
        let session_ttl = lives.map_err(|error| failed(database::reason(&error)))?;
        Ok(Self {
            connection,
            session_ttl: Duration::from_millis(session_ttl.max(0) as u64),
        })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        read(&self.connection).map_err(|error| DatabaseError {
            path: self.connection.path().unwrap_or_default().into(),
            why: database::reason(&error),
        })
    }

    /// A name of this database that no other one has.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn origin(&self) -> Result<String, DatabaseError> {
        let origin = self.read(|connection| noted(connection, "origin"))?;
        Ok(format!("{origin:016x}"))
    }

    /// How many sessions there are, expired ones included.
    ///
    /// # Errors
    /// When they cannot be counted.
    pub fn session_count(&self) -> Result<u64, DatabaseError> {
        let row = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let count = self.read(|connection| connection.query_row(SESSION_COUNT, [], row))?;
        Ok(count as u64)
    }

    /// The sessions behind the one with the id `after`, some at a time; none at the end.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn sessions(&self, after: &str) -> Result<Vec<Expiring<Known>>, DatabaseError> {
        let now = wall_clock();
        self.read(|connection| {
            let mut statement = connection.prepare_cached(SESSIONS)?;
            let session = |row: &rusqlite::Row<'_>| {
                let value = Known {
                    session: Session {
                        id: row.get(0)?,
                        user: row.get(1)?,
                        name: row.get(2)?,
                    },
                    ended: row.get(5)?,
                };
                // While a socket of it lives its time does not run.
                let left = if row.get(4)? {
                    self.session_ttl
                } else {
                    since(now, row.get(3)?)
                };
                Ok(Expiring { value, left })
            };
            let read = statement.query_map(params![after, SESSIONS_AT_ONCE], session)?;
            read.collect()
        })
    }

    /// The lobby's last messages, oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn lobby(&self) -> Result<Expiring<Vec<Line>>, DatabaseError> {
        let now = wall_clock();
        self.read(|connection| {
            let ttl = noted(connection, "message_ttl")?;
            let value = lobby::said(connection, now, ttl)?;
            let last = value.last().map_or(0, |line| line.at as i64);
            let left = since(now, last.saturating_add(ttl));
            Ok(Expiring { value, left })
        })
    }

    /// Every user that has messages.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn logs(&self) -> Result<Vec<Expiring<Log>>, DatabaseError> {
        let now = wall_clock();
        self.read(|connection| {
            let mut statement = connection.prepare_cached(LOGS)?;
            let log = |row: &rusqlite::Row<'_>| {
                Ok(Expiring {
                    value: Log {
                        number: row.get(0)?,
                        user: row.get(1)?,
                    },
                    left: since(now, row.get(2)?),
                })
            };
            statement.query_map([now], log)?.collect()
        })
    }

    /// At most `limit` messages of a user behind `from`, oldest first, and where they end.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn messages(
        &self,
        log: &Log,
        from: Mark,
        limit: usize,
    ) -> Result<(Vec<Message>, Mark), DatabaseError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(MESSAGES)?;
            let mut rows = statement.query(params![log.number, from.0, limit as i64])?;
            let (mut messages, mut mark) = (Vec::new(), from);
            while let Some(row) = rows.next()? {
                messages.push(message(row)?);
                mark = Mark(row.get(5)?);
            }
            Ok((messages, mark))
        })
    }
}

/// A number that the database keeps under a name.
fn noted(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row(NOTED, [name], |row| row.get(0))
}

fn since(now: i64, expires: i64) -> Duration {
    Duration::from_millis((expires - now).max(0) as u64)
}
