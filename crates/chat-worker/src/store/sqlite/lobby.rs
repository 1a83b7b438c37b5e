//! The lobby: its last messages, and those whose ids are still remembered.

use rusqlite::{Connection, OptionalExtension, params};

use super::wall_clock;
use crate::chat::lobby::{Action, KEPT, Line, NewLine, look_back};
use crate::store::Stored;
use crate::store::redis::DEDUPE_WINDOW;

pub(super) const KNOWN_LINE: &str = "SELECT at FROM lobby WHERE sender = ?1 AND id = ?2";
pub(super) const ADD_LINE: &str = "
INSERT INTO lobby (sender, user, id, msg, at)
VALUES (?1, ?2, ?3, ?4, max(?5, coalesce(
  (SELECT at FROM lobby WHERE seq = (SELECT max(seq) FROM lobby)), 0)))
RETURNING at";
// They are removed from the oldest on: the numbers have no gaps.
pub(super) const LINES: &str = "
SELECT user, msg, id, at FROM lobby WHERE seq > (SELECT max(seq) FROM lobby) - ?1
ORDER BY seq DESC";
pub(super) const NEWEST_LINE: &str = "
SELECT seq, at FROM lobby WHERE seq = (SELECT max(seq) FROM lobby)";
pub(super) const OLD_LINES: &str = "
SELECT seq FROM lobby WHERE seq <= ?1 AND at <= ?2 ORDER BY seq LIMIT ?3";
pub(super) const REMOVE_LINES: &str = "DELETE FROM lobby WHERE seq <= ?1";

/// Stores a message in the transaction that is open. Times never go back.
pub(super) fn say(connection: &Connection, now: i64, line: &NewLine) -> rusqlite::Result<Stored> {
    let known: Option<i64> = connection
        .prepare_cached(KNOWN_LINE)?
        .query_row(params![line.from, line.id], |row| row.get(0))
        .optional()?;
    if let Some(at) = known {
        return Ok(Stored {
            at: at as u64,
            fresh: false,
        });
    }
    let at: i64 = connection.prepare_cached(ADD_LINE)?.query_row(
        params![line.from, line.user, line.id, line.msg, now],
        |row| row.get(0),
    )?;
    Ok(Stored {
        at: at as u64,
        fresh: true,
    })
}

/// What has not expired: each message gives those before it another life.
pub(super) fn said(connection: &Connection, now: i64, ttl: i64) -> rusqlite::Result<Vec<Line>> {
    let mut statement = connection.prepare_cached(LINES)?;
    let mut rows = statement.query([KEPT as i64])?;
    let mut newest_first = Vec::new();
    let mut reached = now;
    while let Some(row) = rows.next()? {
        let at: i64 = row.get(3)?;
        if at.saturating_add(ttl) <= reached {
            break;
        }
        reached = at.min(reached);
        newest_first.push(Line {
            action: Action::Message,
            user: row.get(0)?,
            msg: row.get(1)?,
            id: row.get(2)?,
            at: at as u64,
        });
    }
    Ok(look_back(newest_first))
}

/// Some of the messages that need not be kept: up to which one they go. Expired ones, and those
/// that others have followed, once their ids need not be remembered.
pub(super) fn old_lines(
    connection: &Connection,
    ttl: i64,
    limit: i64,
) -> rusqlite::Result<Option<i64>> {
    let now = wall_clock();
    let newest: Option<(i64, i64)> = connection
        .prepare_cached(NEWEST_LINE)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((newest, at)) = newest else {
        return Ok(None);
    };
    let expired = at.saturating_add(ttl) <= now;
    let last = if expired {
        newest
    } else {
        newest - KEPT as i64
    };
    let window = i64::try_from(DEDUPE_WINDOW.as_millis()).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(OLD_LINES)?;
    let old = statement.query_map([last, now - window, limit], |row| row.get(0))?;
    old.last().transpose()
}

/// Removes some of them.
pub(super) fn sweep_lines(connection: &Connection, ttl: i64, limit: i64) -> rusqlite::Result<bool> {
    let Some(last) = old_lines(connection, ttl, limit)? else {
        return Ok(false);
    };
    connection.prepare_cached(REMOVE_LINES)?.execute([last])?;
    Ok(true)
}
