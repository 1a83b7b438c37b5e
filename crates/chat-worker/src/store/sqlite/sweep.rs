//! What has expired, and its removal: sessions, the messages of logs that have ended, and what the
//! lobby need not keep.

use rusqlite::{Connection, OptionalExtension};

use super::{lobby, roster, wall_clock};

/// Rows that one transaction looks at for what has expired.
const SWEEP: i64 = 200;

/// A log is kept that long after its end, until all that was sent before has been moved to it.
const GRACE_MS: i64 = 60_000;

pub(super) const END_LOG: &str = "DELETE FROM logs WHERE number = ?1";
pub(super) const TO_SWEEP: &str = "INSERT INTO sweeps (log, sent, received) VALUES (?1, 0, 0)";
pub(super) const EXPIRED_LOGS: &str = "SELECT number FROM logs WHERE expires <= ?1 LIMIT ?2";
pub(super) const EXPIRED_SESSIONS: &str = "
SELECT id, user FROM sessions WHERE expires <= ?1
  AND NOT EXISTS (SELECT 1 FROM sockets WHERE sockets.session = sessions.id) LIMIT ?2";
pub(super) const REMOVE_SESSION: &str = "DELETE FROM sessions WHERE id = ?1";
pub(super) const NEXT_SWEEP: &str = "SELECT log, sent, received FROM sweeps ORDER BY log LIMIT 1";
pub(super) const SENT: &str = "
SELECT seq, EXISTS (SELECT 1 FROM logs WHERE number = recipient_log) FROM messages
WHERE sender_log = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
pub(super) const RECEIVED: &str = "
SELECT seq, EXISTS (SELECT 1 FROM logs WHERE number = sender_log) FROM messages
WHERE recipient_log = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
pub(super) const SWEPT_TO: &str = "UPDATE sweeps SET sent = ?2, received = ?3 WHERE log = ?1";
pub(super) const SWEPT: &str = "DELETE FROM sweeps WHERE log = ?1";
pub(super) const REMOVE_MESSAGE: &str = "DELETE FROM messages WHERE seq = ?1";

/// Whether there is something to remove. `ttl` is that of messages, in milliseconds.
pub(super) fn something_expired(connection: &Connection, ttl: i64) -> rusqlite::Result<bool> {
    let now = wall_clock();
    Ok(connection.prepare_cached(NEXT_SWEEP)?.exists([])?
        || connection
            .prepare_cached(EXPIRED_LOGS)?
            .exists([now - GRACE_MS, 1])?
        || connection
            .prepare_cached(EXPIRED_SESSIONS)?
            .exists([now, 1])?
        || lobby::old_lines(connection, ttl, 1)?.is_some())
}

/// A log takes no more messages; those that it has are removed later.
pub(super) fn end_log(connection: &Connection, log: i64) -> rusqlite::Result<()> {
    connection.prepare_cached(END_LOG)?.execute([log])?;
    connection.prepare_cached(TO_SWEEP)?.execute([log])?;
    Ok(())
}

/// Removes some of what has expired; whether there may be more.
pub(super) fn sweep_some(connection: &Connection, ttl: i64) -> rusqlite::Result<bool> {
    let now = wall_clock();
    let lines = lobby::sweep_lines(connection, ttl, SWEEP)?;
    let sessions: Vec<(String, String)> = connection
        .prepare_cached(EXPIRED_SESSIONS)?
        .query_map([now, SWEEP], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (session, user) in &sessions {
        connection
            .prepare_cached(REMOVE_SESSION)?
            .execute([session])?;
        roster::forget_user(connection, user)?;
    }
    let logs: Vec<i64> = connection
        .prepare_cached(EXPIRED_LOGS)?
        .query_map([now - GRACE_MS, SWEEP], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for log in &logs {
        end_log(connection, *log)?;
    }
    let next = connection
        .prepare_cached(NEXT_SWEEP)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((log, sent, received)) = next else {
        return Ok(lines);
    };
    // The other side may keep its copy.
    let sent_to = sweep_messages(connection, SENT, log, sent)?;
    let received_to = sweep_messages(connection, RECEIVED, log, received)?;
    match (sent_to, received_to) {
        (None, None) => connection.prepare_cached(SWEPT)?.execute([log])?,
        (sent_to, received_to) => connection.prepare_cached(SWEPT_TO)?.execute([
            log,
            sent_to.unwrap_or(sent),
            received_to.unwrap_or(received),
        ])?,
    };
    Ok(true)
}

/// Looks at some messages of an ended log behind `from`, and removes those that nobody has any
/// more. Returns up to where it looked; none at the end.
fn sweep_messages(
    connection: &Connection,
    which: &str,
    log: i64,
    from: i64,
) -> rusqlite::Result<Option<i64>> {
    let rows: Vec<(i64, bool)> = connection
        .prepare_cached(which)?
        .query_map([log, from, SWEEP], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (seq, kept) in &rows {
        if !kept {
            connection.prepare_cached(REMOVE_MESSAGE)?.execute([seq])?;
        }
    }
    Ok(rows.last().map(|(seq, _)| *seq))
}
