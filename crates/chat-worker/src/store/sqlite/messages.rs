//! Messages: stored in `recent`, read from there and from `messages`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::chat::history::PageRequest;
use crate::chat::message::{Message, NewMessage};
use crate::store::{Position, Replay, Stored};

/// Most bytes of messages that one replay returns: a user with a huge history must not fill the
/// worker's memory with one login, nor all that may wait for a client. What is left out is read page
/// by page.
const REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// What a message costs beside its content.
const MESSAGE_OVERHEAD: usize = 128;

pub(super) const TAIL_OF_RECENT: &str = "SELECT seq, at FROM recent ORDER BY seq DESC LIMIT 1";
pub(super) const TAIL_OF_MOVED: &str = "SELECT
  (SELECT value FROM state WHERE name = 'moved_seq'),
  (SELECT value FROM state WHERE name = 'moved_at')";
pub(super) const KNOWN_RECENT: &str = "SELECT at FROM recent WHERE sender = ?1 AND id = ?2";
pub(super) const KNOWN_MOVED: &str = "SELECT at FROM messages WHERE sender = ?1 AND id = ?2";
pub(super) const INSERT: &str = "
INSERT INTO recent (seq, sender, recipient, id, at, content) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

pub(super) const TIMES_OF_RECENT: &str = "
SELECT at FROM recent WHERE sender = ?1 OR recipient = ?1 ORDER BY seq DESC";
pub(super) const LOG_OF: &str = "SELECT number FROM logs WHERE user = ?1 AND expires > ?2";
pub(super) const REPLAY_RECENT: &str = "
SELECT sender, recipient, id, at, content FROM recent
WHERE (sender = ?1 OR recipient = ?1) AND seq > ?2 AND at >= ?3 ORDER BY seq DESC";
pub(super) const REPLAY_MOVED: &str = "
SELECT sender, recipient, id, at, content, seq FROM messages WHERE sender_log = ?1 AND seq > ?2
UNION ALL
SELECT sender, recipient, id, at, content, seq FROM messages
WHERE recipient_log = ?1 AND seq > ?2 AND sender_log <> ?1
ORDER BY seq DESC";

pub(super) const BEFORE_RECENT: &str = "
SELECT max(seq) FROM recent WHERE id = ?3
  AND ((sender = ?1 AND recipient = ?2) OR (sender = ?2 AND recipient = ?1))";
pub(super) const BEFORE_MOVED: &str = "
SELECT max(seq) FROM (
  SELECT seq FROM messages WHERE sender = ?1 AND id = ?3 AND recipient = ?2 AND sender_log = ?4
  UNION ALL
  SELECT seq FROM messages WHERE sender = ?2 AND id = ?3 AND recipient = ?1 AND recipient_log = ?4)";
pub(super) const PAGE_RECENT: &str = "
SELECT sender, recipient, id, at, content FROM recent
WHERE ((sender = ?1 AND recipient = ?2) OR (sender = ?2 AND recipient = ?1))
  AND seq < ?3 AND at >= ?4 ORDER BY seq DESC LIMIT ?5";
pub(super) const PAGE_MOVED: &str = "
SELECT sender, recipient, id, at, content, seq, sender_log = ?4 AS mine FROM messages
WHERE sender = ?1 AND recipient = ?2 AND seq < ?3
UNION ALL
SELECT sender, recipient, id, at, content, seq, recipient_log = ?4 AS mine FROM messages
WHERE sender = ?2 AND recipient = ?1 AND seq < ?3 AND ?1 <> ?2
ORDER BY seq DESC";

pub(super) const FIRST_RECENT: &str = "SELECT seq, at FROM recent ORDER BY seq LIMIT 1";
pub(super) const OLD_RECENT: &str = "SELECT max(seq) FROM recent WHERE at < ?1";
pub(super) const MOVED_FROM: &str =
    "SELECT seq, at FROM messages WHERE seq >= ?1 ORDER BY seq LIMIT 1";

/// The newest number and time given so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub(super) seq: i64,
    pub(super) at: i64,
}

impl Tail {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let tail = |row: &Row<'_>| {
            Ok(Self {
                seq: row.get(0)?,
                at: row.get(1)?,
            })
        };
        let recent = connection
            .prepare_cached(TAIL_OF_RECENT)?
            .query_row([], tail)
            .optional()?;
        match recent {
            Some(tail) => Ok(tail),
            None => connection
                .prepare_cached(TAIL_OF_MOVED)?
                .query_row([], tail),
        }
    }
}

/// Stores a message in the transaction that is open. Times never go back, so that the order by time
/// is the order by number.
pub(super) fn append(
    connection: &Connection,
    tail: &mut Tail,
    now: i64,
    message: &NewMessage,
) -> rusqlite::Result<Stored> {
    for known in [KNOWN_RECENT, KNOWN_MOVED] {
        let at: Option<i64> = connection
            .prepare_cached(known)?
            .query_row(params![message.from, message.id], |row| row.get(0))
            .optional()?;
        if let Some(at) = at {
            return Ok(Stored {
                at: at as u64,
                fresh: false,
            });
        }
    }
    tail.seq += 1;
    tail.at = tail.at.max(now);
    connection.prepare_cached(INSERT)?.execute(params![
        tail.seq,
        message.from,
        message.to,
        message.id,
        tail.at,
        message.content
    ])?;
    Ok(Stored {
        at: tail.at as u64,
        fresh: true,
    })
}

/// What of a user's messages has not expired: each message gives those before it another life.
struct Unexpired {
    /// Of the recent ones: those of this time and later.
    recent_from: i64,
    /// Of the others: those of this log.
    log: Option<i64>,
}

impl Unexpired {
    fn read(connection: &Connection, user: &str, now: i64, ttl: i64) -> rusqlite::Result<Self> {
        let mut reached = now;
        let mut statement = connection.prepare_cached(TIMES_OF_RECENT)?;
        let mut times = statement.query([user])?;
        while let Some(row) = times.next()? {
            let at: i64 = row.get(0)?;
            if at.saturating_add(ttl) <= reached {
                break;
            }
            reached = at.min(reached);
        }
        let log = connection
            .prepare_cached(LOG_OF)?
            .query_row(params![user, reached], |row| row.get(0))
            .optional()?;
        Ok(Self {
            recent_from: reached,
            log,
        })
    }
}

/// Reads in the transaction that is open. `ttl` is that of messages, in milliseconds.
pub(super) fn replay(
    connection: &Connection,
    user: &str,
    from: Position,
    now: i64,
    ttl: i64,
) -> rusqlite::Result<Replay> {
    let from = i64::try_from(from.index).unwrap_or(i64::MAX);
    let tail = Tail::read(connection)?;
    let Unexpired { recent_from, log } = Unexpired::read(connection, user, now, ttl)?;
    let mut newest_first = Newest::default();
    newest_first.take(
        &mut connection
            .prepare_cached(REPLAY_RECENT)?
            .query(params![user, from, recent_from])?,
    )?;
    if let Some(log) = log {
        newest_first.take(
            &mut connection
                .prepare_cached(REPLAY_MOVED)?
                .query(params![log, from])?,
        )?;
    }
    let mut messages = newest_first.messages;
    messages.reverse();
    Ok(Replay {
        messages,
        is_whole: from == 0,
        next: position(tail.seq),
        as_of: now as u64,
    })
}

#[derive(Default)]
struct Newest {
    messages: Vec<Message>,
    bytes: usize,
}

impl Newest {
    fn take(&mut self, rows: &mut rusqlite::Rows<'_>) -> rusqlite::Result<()> {
        while self.bytes <= REPLAY_BYTES
            && let Some(row) = rows.next()?
        {
            let content = row.get_ref(4)?.as_str()?.len();
            self.bytes += content + MESSAGE_OVERHEAD;
            if self.bytes <= REPLAY_BYTES {
                self.messages.push(message(row)?);
            }
        }
        Ok(())
    }
}

/// A page of a conversation, newest last, read in the transaction that is open.
pub(super) fn page(
    connection: &Connection,
    user: &str,
    request: &PageRequest,
    now: i64,
    ttl: i64,
) -> rusqlite::Result<Vec<Message>> {
    let with = &request.with;
    let Unexpired { recent_from, log } = Unexpired::read(connection, user, now, ttl)?;
    let before = match &request.before {
        None => i64::MAX,
        Some(id) => {
            let recent: Option<i64> = connection
                .prepare_cached(BEFORE_RECENT)?
                .query_row(params![user, with, id], |row| row.get(0))?;
            let moved: Option<i64> = connection
                .prepare_cached(BEFORE_MOVED)?
                .query_row(params![user, with, id, log], |row| row.get(0))?;
            // Two sides may use one id: the newer of the two ends the page, so that nothing is
            // left out.
            match recent.max(moved) {
                Some(seq) => seq,
                None => return Ok(Vec::new()),
            }
        }
    };
    let mut statement = connection.prepare_cached(PAGE_RECENT)?;
    let limit = request.limit as i64;
    let recent = statement.query_map(params![user, with, before, recent_from, limit], message)?;
    let mut newest_first: Vec<Message> = recent.collect::<rusqlite::Result<_>>()?;
    if let Some(log) = log {
        let mut statement = connection.prepare_cached(PAGE_MOVED)?;
        let mut rows = statement.query(params![user, with, before, log])?;
        while newest_first.len() < request.limit
            && let Some(row) = rows.next()?
        {
            // What lies before belongs to a log that has expired.
            if !row.get::<_, bool>(6)? {
                break;
            }
            newest_first.push(message(row)?);
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// A position before all that was stored at `since` or later, read in the transaction that is open.
pub(super) fn position_at(connection: &Connection, since: i64) -> rusqlite::Result<Position> {
    let pair = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let first_recent = connection
        .prepare_cached(FIRST_RECENT)?
        .query_row([], pair)
        .optional()?;
    if let Some((seq, at)) = first_recent
        && at < since
    {
        let old: Option<i64> = connection
            .prepare_cached(OLD_RECENT)?
            .query_row([since], |row| row.get(0))?;
        return Ok(position(old.unwrap_or(seq)));
    }
    // Times grow with the numbers: halve until the first that is young enough is found.
    let (moved, _) = connection
        .prepare_cached(TAIL_OF_MOVED)?
        .query_row([], pair)?;
    let mut moved_from = connection.prepare_cached(MOVED_FROM)?;
    let (mut low, mut high) = (0, moved + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match moved_from.query_row([middle], pair).optional()? {
            Some((seq, at)) if at < since => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok(position(low - 1))
}

fn position(seq: i64) -> Position {
    Position {
        index: seq.max(0) as u64,
        mark: 0,
    }
}

/// The columns sender, recipient, id, at, content.
pub(super) fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        from: row.get(0)?,
        to: row.get(1)?,
        id: Some(row.get(2)?),
        at: Some(row.get::<_, i64>(3)? as u64),
        content: row.get::<_, String>(4)?.into(),
    })
}
