//! Sessions and presence: which sockets of a user live, on this machine.
//!
//! Sockets belong to an *instance*, a random name that each process has. Whether it lives is known
//! from the lock on its [process file](super::process_file), so there are no leases to renew. A user is
//! connected when a socket of theirs is in the table.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};

use super::roster::{has_sockets, name_of};
use crate::store::{PresenceChange, Session};

/// Sockets of a dead process that one transaction removes.
const BATCH: i64 = 500;

pub(super) const SESSION: &str = "
SELECT user, name FROM sessions WHERE id = ?1 AND ended = 0
  AND (expires > ?2 OR EXISTS (SELECT 1 FROM sockets WHERE session = ?1))";
pub(super) const CONNECTED_NAME: &str = "
SELECT sessions.name FROM sockets JOIN sessions ON sessions.id = sockets.session
WHERE sockets.user = ?1 AND sessions.ended = 0 LIMIT 1";
pub(super) const INSTANCES: &str = "SELECT id FROM instances";
pub(super) const ADD_INSTANCE: &str = "INSERT OR IGNORE INTO instances (id) VALUES (?1)";
pub(super) const REMOVE_INSTANCE: &str = "DELETE FROM instances WHERE id = ?1";
pub(super) const ADD_SOCKET: &str = "
INSERT OR REPLACE INTO sockets (instance, socket, user, session) VALUES (?1, ?2, ?3, ?4)";
pub(super) const REMOVE_SOCKET: &str = "DELETE FROM sockets WHERE instance = ?1 AND socket = ?2";
pub(super) const SOCKETS_OF_INSTANCE: &str = "
SELECT socket, user, session FROM sockets WHERE instance = ?1 LIMIT ?2";
pub(super) const WRITE_SESSION: &str = "
INSERT INTO sessions (id, user, name, expires) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (id) DO UPDATE SET user = ?2, name = ?3, expires = ?4 WHERE ended = 0";
pub(super) const END_SESSION: &str = "
UPDATE sessions SET ended = 1, expires = CASE ended WHEN 0 THEN ?2 ELSE expires END
WHERE id = ?1";
pub(super) const ENDED: &str = "SELECT 1 FROM sessions WHERE id = ?1 AND ended <> 0";
pub(super) const RENEW_SESSION: &str = "UPDATE sessions SET expires = ?2 WHERE id = ?1";

/// What this process has connected, whatever the database says.
#[derive(Default)]
pub(super) struct Live {
    sockets: Mutex<HashMap<String, Session>>,
    /// The table may differ from this map.
    differs: AtomicBool,
    /// Committed, and not reported yet: whoever asked for it may not be there any more.
    found: Mutex<Vec<PresenceChange>>,
}

impl Live {
    pub(super) fn sockets(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a socket of the user is here.
    pub(super) fn has(&self, user: &str) -> bool {
        self.sockets().values().any(|session| session.user == user)
    }

    /// A write of the table has failed.
    pub(super) fn set_differs(&self) {
        self.differs.store(true, Ordering::SeqCst);
    }

    pub(super) fn differs(&self) -> bool {
        self.differs.load(Ordering::SeqCst)
    }

    fn take_differs(&self) -> bool {
        self.differs.swap(false, Ordering::SeqCst)
    }

    /// Keeps what the others have to be told for the next tend.
    pub(super) fn found(&self, changes: impl IntoIterator<Item = PresenceChange>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.extend(changes);
    }

    pub(super) fn take_found(&self) -> Vec<PresenceChange> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) fn find_session(
    connection: &Connection,
    id: &str,
    now: i64,
) -> rusqlite::Result<Option<Session>> {
    connection
        .prepare_cached(SESSION)?
        .query_row(params![id, now], |row| {
            Ok(Session {
                id: id.to_owned(),
                user: row.get(0)?,
                name: row.get(1)?,
            })
        })
        .optional()
}

pub(super) fn connected_name(
    connection: &Connection,
    live: &Live,
    user: &str,
) -> rusqlite::Result<Option<String>> {
    let stored = connection
        .prepare_cached(CONNECTED_NAME)?
        .query_row([user], |row| row.get(0))
        .optional()?;
    if stored.is_some() || !live.differs() {
        return Ok(stored);
    }
    let sockets = live.sockets();
    let here = sockets.values().find(|session| session.user == user);
    Ok(here.map(|session| session.name.clone()))
}

pub(super) fn instances(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(INSTANCES)?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Creates or renews a session. False when it has ended.
pub(super) fn write_session(
    connection: &Connection,
    session: &Session,
    expires: i64,
) -> rusqlite::Result<bool> {
    let written = connection.prepare_cached(WRITE_SESSION)?.execute(params![
        session.id,
        session.user,
        session.name,
        expires
    ])?;
    Ok(written > 0)
}

/// Whether there is one, be it ended already. `expires` is for what is left of it.
pub(super) fn end_session(
    connection: &Connection,
    id: &str,
    expires: i64,
) -> rusqlite::Result<bool> {
    let ended = connection
        .prepare_cached(END_SESSION)?
        .execute(params![id, expires])?;
    Ok(ended > 0)
}

pub(super) fn has_ended(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached(ENDED)?.exists([id])
}

/// A socket of `instance` is here. `expires` is for the session. False when that has ended.
pub(super) fn add(
    connection: &Connection,
    instance: &str,
    socket: &str,
    session: &Session,
    expires: i64,
) -> rusqlite::Result<bool> {
    if !write_session(connection, session, expires)? {
        return Ok(false);
    }
    connection
        .prepare_cached(ADD_INSTANCE)?
        .execute([instance])?;
    connection.prepare_cached(ADD_SOCKET)?.execute(params![
        instance,
        socket,
        session.user,
        session.id
    ])?;
    Ok(true)
}

/// What [`remove`] found.
pub(super) struct Removed {
    /// The socket was in the table.
    pub(super) was_there: bool,
    /// Its user has no socket left.
    pub(super) none_left: bool,
}

impl Removed {
    fn last(&self) -> bool {
        self.was_there && self.none_left
    }
}

/// A socket is gone.
pub(super) fn remove(
    connection: &Connection,
    instance: &str,
    socket: &str,
    user: &str,
    session: &str,
    expires: i64,
) -> rusqlite::Result<Removed> {
    let removed = connection
        .prepare_cached(REMOVE_SOCKET)?
        .execute([instance, socket])?;
    connection
        .prepare_cached(RENEW_SESSION)?
        .execute(params![session, expires])?;
    Ok(Removed {
        was_there: removed > 0,
        none_left: !has_sockets(connection, user)?,
    })
}

/// Some sockets of an instance: socket, user, session.
fn sockets_of(
    connection: &Connection,
    instance: &str,
    limit: i64,
) -> rusqlite::Result<Vec<(String, String, String)>> {
    let mut statement = connection.prepare_cached(SOCKETS_OF_INSTANCE)?;
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    statement
        .query_map(params![instance, limit], row)?
        .collect()
}

fn gone(connection: &Connection, user: &str) -> rusqlite::Result<PresenceChange> {
    Ok(PresenceChange::Gone {
        user: user.to_owned(),
        name: name_of(connection, user)?,
    })
}

/// Removes a part of what a dead process left. False once nothing is left of it. The transaction
/// that removes a user's last socket is the one that tells.
pub(super) fn repair(
    connection: &Connection,
    dead: &str,
    expires: i64,
    changes: &mut Vec<PresenceChange>,
) -> rusqlite::Result<bool> {
    let sockets = sockets_of(connection, dead, BATCH)?;
    for (socket, user, session) in &sockets {
        if remove(connection, dead, socket, user, session, expires)?.last() {
            changes.push(gone(connection, user)?);
        }
    }
    let more = sockets.len() as i64 == BATCH;
    if !more {
        connection
            .prepare_cached(REMOVE_INSTANCE)?
            .execute([dead])?;
    }
    Ok(more)
}

/// Forgets an instance that has no sockets in the table.
pub(super) fn forget_unless_left(connection: &Connection, instance: &str) -> rusqlite::Result<()> {
    if sockets_of(connection, instance, 1)?.is_empty() {
        connection
            .prepare_cached(REMOVE_INSTANCE)?
            .execute([instance])?;
    }
    Ok(())
}

/// Makes the table say what this process has connected, after writes of it have failed.
pub(super) fn put_right(
    connection: &Connection,
    instance: &str,
    live: &Live,
    expires: i64,
    changes: &mut Vec<PresenceChange>,
) -> rusqlite::Result<()> {
    // Before the map is read: what fails from now on is for the next time.
    if !live.take_differs() {
        return Ok(());
    }
    let here = live.sockets().clone();
    let there = sockets_of(connection, instance, -1)?;
    let known: HashSet<&str> = there.iter().map(|(socket, _, _)| &**socket).collect();
    for (socket, session) in &here {
        if known.contains(&**socket) {
            continue;
        }
        let back = !has_sockets(connection, &session.user)?;
        // Of a session that has ended, the sockets are about to go.
        if add(connection, instance, socket, session, expires)? && back {
            changes.push(PresenceChange::Back {
                user: session.user.clone(),
                name: session.name.clone(),
            });
        }
    }
    for (socket, user, session) in &there {
        if !here.contains_key(socket)
            && remove(connection, instance, socket, user, session, expires)?.last()
        {
            changes.push(gone(connection, user)?);
        }
    }
    Ok(())
}
