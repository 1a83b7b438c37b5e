//! A user's log keeps its newest messages. Which logs may have too many is known from what was moved to
//! them lately: counting would cost each message a write.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

/// Rows that one transaction takes out of a log.
const TRIM: i64 = 200;

/// Instead of the number of a log: the message is nobody's any more on that side.
const NONE: i64 = 0;

/// Logs whose messages are counted in memory; of more, all counts begin anew.
const MAX_COUNTS: usize = 100_000;

pub(super) const OLDEST_KEPT: &str = "
SELECT seq FROM (
  SELECT seq FROM messages WHERE sender_log = ?1
  UNION ALL
  SELECT seq FROM messages WHERE recipient_log = ?1 AND sender_log <> ?1)
ORDER BY seq DESC LIMIT 1 OFFSET ?2";
pub(super) const OLD_SENT: &str = "
SELECT seq, recipient_log <> ?1 AND EXISTS (SELECT 1 FROM logs WHERE number = recipient_log)
FROM messages WHERE sender_log = ?1 AND seq < ?2 ORDER BY seq LIMIT ?3";
pub(super) const OLD_RECEIVED: &str = "
SELECT seq, sender_log <> ?1 AND EXISTS (SELECT 1 FROM logs WHERE number = sender_log)
FROM messages WHERE recipient_log = ?1 AND seq < ?2 ORDER BY seq LIMIT ?3";
pub(super) const NOT_SENT: &str = "UPDATE messages SET sender_log = ?2 WHERE seq = ?1";
pub(super) const NOT_RECEIVED: &str = "UPDATE messages SET recipient_log = ?2 WHERE seq = ?1";
pub(super) const REMOVE: &str = "DELETE FROM messages WHERE seq = ?1";

/// How much was moved to each log since it was last looked at.
pub(super) struct Trims {
    counts: HashMap<i64, usize>,
    due: Vec<i64>,
    /// So much more may be in a log than it is to keep.
    slack: usize,
}

impl Trims {
    pub(super) fn new(max: usize) -> Self {
        Self {
            counts: HashMap::new(),
            due: Vec::new(),
            slack: (max / 8).max(1),
        }
    }

    pub(super) fn note(&mut self, moved: HashMap<i64, usize>) {
        if self.counts.len() > MAX_COUNTS {
            self.counts.clear();
        }
        for (log, added) in moved {
            let count = self.counts.entry(log).or_default();
            *count += added;
            if *count >= self.slack {
                *count = 0;
                self.due.push(log);
            }
        }
    }

    /// A log that is to be looked at.
    pub(super) fn due(&self) -> Option<i64> {
        self.due.last().copied()
    }

    pub(super) fn done(&mut self, log: i64) {
        self.due.retain(|other| *other != log);
    }
}

/// Takes some of the oldest messages out of a log that has more than `max`; whether there may be more.
pub(super) fn trim_some(connection: &Connection, log: i64, max: usize) -> rusqlite::Result<bool> {
    let newer = i64::try_from(max.saturating_sub(1)).unwrap_or(i64::MAX);
    let oldest_kept: Option<i64> = connection
        .prepare_cached(OLDEST_KEPT)?
        .query_row(params![log, newer], |row| row.get(0))
        .optional()?;
    let Some(oldest_kept) = oldest_kept else {
        return Ok(false);
    };
    let sent = take_out(connection, OLD_SENT, NOT_SENT, log, oldest_kept)?;
    let received = take_out(connection, OLD_RECEIVED, NOT_RECEIVED, log, oldest_kept)?;
    Ok(sent || received)
}

/// The other side may keep its copy.
fn take_out(
    connection: &Connection,
    which: &str,
    take_out: &str,
    log: i64,
    before: i64,
) -> rusqlite::Result<bool> {
    let rows: Vec<(i64, bool)> = connection
        .prepare_cached(which)?
        .query_map([log, before, TRIM], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (seq, kept) in &rows {
        match kept {
            true => connection.prepare_cached(take_out)?.execute([*seq, NONE])?,
            false => connection.prepare_cached(REMOVE)?.execute([seq])?,
        };
    }
    Ok(rows.len() as i64 == TRIM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_looked_at_when_an_eighth_was_added() {
        let mut trims = Trims::new(16);
        trims.note(HashMap::from([(1, 1), (2, 5)]));
        assert_eq!(trims.due(), Some(2));
        trims.done(2);
        assert_eq!(trims.due(), None);
        trims.note(HashMap::from([(1, 1)]));
        assert_eq!(trims.due(), Some(1));
        assert_eq!(Trims::new(0).slack, 1);
    }
}
