//! Who there is: every user with a session, by name and by their last change.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::presence::Live;
use crate::chat::recent_users::{Change, Recent};
use crate::chat::roster::User;
use crate::chat::user_index::{UsersPage, keys};

/// Entries of the index by name that are read at a time.
const CHUNK: i64 = 256;

pub(super) const NEXT_VERSION: &str = "
UPDATE state SET value = value + 1 WHERE name = 'version' RETURNING value";
pub(super) const COUNT_USERS: &str = "
UPDATE state SET value = value + ?1 WHERE name = 'users' RETURNING value";
pub(super) const STATE: &str = "
SELECT (SELECT value FROM state WHERE name = 'version'),
       (SELECT value FROM state WHERE name = 'users')";
pub(super) const TOUCH_USER: &str = "UPDATE users SET version = ?2 WHERE id = ?1";
pub(super) const ADD_USER: &str = "INSERT INTO users (id, name, version) VALUES (?1, ?2, ?3)";
pub(super) const ADD_NAME: &str = "INSERT OR IGNORE INTO names (key, user) VALUES (?1, ?2)";
pub(super) const REMOVE_USER: &str = "
DELETE FROM users WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM sessions WHERE user = ?1)
RETURNING name";
pub(super) const REMOVE_NAME: &str = "DELETE FROM names WHERE key = ?1 AND user = ?2";
pub(super) const USER_NAME: &str = "SELECT name FROM users WHERE id = ?1";
pub(super) const HAS_SOCKETS: &str = "SELECT 1 FROM sockets WHERE user = ?1 LIMIT 1";

// Of one whose sessions have expired nobody knows any more, also before they are swept away.
pub(super) const LOOK_UP: &str = "
SELECT id, name, EXISTS (SELECT 1 FROM sockets WHERE user = users.id), version FROM users
WHERE id = ?1 AND (EXISTS (SELECT 1 FROM sockets WHERE user = users.id)
  OR EXISTS (SELECT 1 FROM sessions WHERE user = users.id AND expires > ?2))";
pub(super) const RECENT: &str = "
SELECT id, name, EXISTS (SELECT 1 FROM sockets WHERE user = users.id), version FROM users
WHERE version > ?1 AND (EXISTS (SELECT 1 FROM sockets WHERE user = users.id)
  OR EXISTS (SELECT 1 FROM sessions WHERE user = users.id AND expires > ?2))
ORDER BY version DESC LIMIT ?3";
pub(super) const NAMES: &str = "
SELECT key, user FROM names WHERE (key, user) > (?1, ?2) AND key < ?3 ORDER BY key, user LIMIT ?4";

/// Whether a socket of the user is in the table.
pub(super) fn has_sockets(connection: &Connection, user: &str) -> rusqlite::Result<bool> {
    connection.prepare_cached(HAS_SOCKETS)?.exists([user])
}

/// Numbers a change of a user, whom it takes into the index.
pub(super) fn change(
    connection: &Connection,
    live: &Live,
    user: &str,
    name: &str,
    news: bool,
) -> rusqlite::Result<Change> {
    let number = |row: &Row<'_>| row.get::<_, i64>(0);
    let version = connection
        .prepare_cached(NEXT_VERSION)?
        .query_row([], number)?;
    let touched = connection
        .prepare_cached(TOUCH_USER)?
        .execute(params![user, version])?;
    if touched == 0 {
        connection
            .prepare_cached(ADD_USER)?
            .execute(params![user, name, version])?;
        let mut add_name = connection.prepare_cached(ADD_NAME)?;
        for key in keys(name) {
            add_name.execute([&key, user])?;
        }
    }
    let added = i64::from(touched == 0);
    let total = connection
        .prepare_cached(COUNT_USERS)?
        .query_row([added], number)?;
    let connected = has_sockets(connection, user)? || (live.differs() && live.has(user));
    Ok(Change {
        version: version as u64,
        total: total as u64,
        user: User {
            id: user.to_owned(),
            name: name.to_owned(),
            connected,
        },
        news,
    })
}

/// Takes a user out of the index, unless a session of theirs is left.
pub(super) fn forget_user(connection: &Connection, user: &str) -> rusqlite::Result<()> {
    let removed: Option<String> = connection
        .prepare_cached(REMOVE_USER)?
        .query_row([user], |row| row.get(0))
        .optional()?;
    if let Some(name) = removed {
        let mut remove_name = connection.prepare_cached(REMOVE_NAME)?;
        for key in keys(&name) {
            remove_name.execute([&key, user])?;
        }
        connection
            .prepare_cached(COUNT_USERS)?
            .query_row([-1], |_| Ok(()))?;
    }
    Ok(())
}

fn find_name(connection: &Connection, user: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached(USER_NAME)?
        .query_row([user], |row| row.get(0))
        .optional()
}

/// The user's name, as far as it is known still.
pub(super) fn name_of(connection: &Connection, user: &str) -> rusqlite::Result<String> {
    find_name(connection, user).map(Option::unwrap_or_default)
}

pub(super) fn look_up(
    connection: &Connection,
    live: &Live,
    users: &[String],
    now: i64,
) -> rusqlite::Result<Vec<User>> {
    let mut statement = connection.prepare_cached(LOOK_UP)?;
    let mut found = Vec::new();
    for user in users {
        found.extend(
            statement
                .query_row(params![user, now], self::user)
                .optional()?,
        );
    }
    Ok(with_live(found, live))
}

pub(super) fn recent(
    connection: &Connection,
    live: &Live,
    since: u64,
    limit: usize,
    now: i64,
) -> rusqlite::Result<Recent> {
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    let state = |row: &Row<'_>| Ok((number(row.get(0)?), number(row.get(1)?)));
    let (version, total) = connection.prepare_cached(STATE)?.query_row([], state)?;
    let bound = |bound| i64::try_from(bound).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(RECENT)?;
    let rows = statement.query_map(params![bound(since as usize), now, bound(limit)], |row| {
        Ok((number(row.get(3)?), user(row)?))
    })?;
    let (versions, users): (Vec<u64>, Vec<User>) = rows
        .collect::<rusqlite::Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    Ok(Recent {
        version,
        total,
        users: versions.into_iter().zip(with_live(users, live)).collect(),
    })
}

/// None when the user after whom it is to begin is not known, or not wanted.
pub(super) fn page(
    connection: &Connection,
    live: &Live,
    page: &UsersPage,
    now: i64,
) -> rusqlite::Result<Option<Vec<User>>> {
    let range = page.range();
    let mut from = (range.start, String::new());
    if let Some(after) = &page.after {
        let name = find_name(connection, after)?;
        let Some(key) = name.and_then(|name| page.key_of(&name)) else {
            return Ok(None);
        };
        from = (key, after.clone());
    }
    let mut names = connection.prepare_cached(NAMES)?;
    let mut known = connection.prepare_cached(LOOK_UP)?;
    let mut users = Vec::new();
    loop {
        let rows = names.query_map(params![from.0, from.1, range.end, CHUNK], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let entries = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let is_last = (entries.len() as i64) < CHUNK;
        for (key, id) in entries {
            // Of several words that fit, the first is where the user stands.
            if let Some(user) = known.query_row(params![id, now], user).optional()?
                && page.key_of(&user.name).as_ref() == Some(&key)
            {
                users.push(user);
            }
            if users.len() == page.limit {
                return Ok(Some(with_live(users, live)));
            }
            from = (key, id);
        }
        if is_last {
            return Ok(Some(with_live(users, live)));
        }
    }
}

/// The columns id, name, connected.
fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get(0)?,
        name: row.get(1)?,
        connected: row.get(2)?,
    })
}

/// While the table cannot be written, this process knows better who is connected here.
fn with_live(mut users: Vec<User>, live: &Live) -> Vec<User> {
    if live.differs() {
        let sockets = live.sockets();
        let here: HashSet<&str> = sockets.values().map(|session| &*session.user).collect();
        for user in &mut users {
            user.connected |= here.contains(&*user.id);
        }
    }
    users
}
