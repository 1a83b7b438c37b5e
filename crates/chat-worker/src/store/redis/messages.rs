//! Reading messages: the list `messages:<userID>` of each user.

use std::time::Duration;

use redis::RedisResult;

use super::RedisStore;
use crate::chat::history::{PageBuilder, PageRequest};
use crate::chat::message::Message;
use crate::store::{Position, Replay, oldest};

/// Entries per round trip when a list is read.
pub(super) const CHUNK: u64 = 500;

/// Entries of the first round trip when only young ones are wanted: mostly there are few. The next
/// ones are larger, up to [`CHUNK`].
const FIRST_CHUNK: u64 = 32;

/// Most bytes of entries that one replay returns: a user with a huge history must not fill the
/// worker's memory with one login, nor all that may wait for a client. What is left out is read page
/// by page.
const REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// Reads a list from its end back to `start`, and no more than so many bytes: all in one step, which
/// a login waits for.
///
/// KEYS: list. ARGV: start, bytes, entries at a time. Returns the time in ms, the length, the entry
/// before the start, if there is one, and the entries, newest first.
pub(super) const READ: &str = "
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local length = redis.call('LLEN', KEYS[1])
local start, left = tonumber(ARGV[1]), tonumber(ARGV[2])
local before = start > 0 and redis.call('LINDEX', KEYS[1], start - 1)
local entries, stop = {}, length
while stop > start do
  local first = math.max(stop - ARGV[3], start)
  local chunk = redis.call('LRANGE', KEYS[1], first, stop - 1)
  for i = #chunk, 1, -1 do
    left = left - #chunk[i]
    if left < 0 then return {now, length, before, entries} end
    entries[#entries + 1] = chunk[i]
  end
  stop = first
end
return {now, length, before, entries}";

pub(super) fn list_key(user: &str) -> String {
    format!("messages:{user}")
}

impl RedisStore {
    /// What lies behind `from`.
    pub(super) async fn read_messages(&self, user: &str, from: Position) -> RedisResult<Replay> {
        let mut connection = self.link.connection().await;
        let mut start = from.index;
        loop {
            let (as_of, length, before, entries): (u64, u64, Option<Vec<u8>>, Vec<Vec<u8>>) = self
                .read
                .key(list_key(user))
                .arg(start)
                .arg(REPLAY_BYTES)
                .arg(CHUNK)
                .invoke_async(&mut connection)
                .await?;
            // Valid only if the entry before it is still the one it was: the list may have expired,
            // or older entries are not kept any more.
            if start > 0 && before.is_none_or(|entry| mark(&entry) != from.mark) {
                start = 0;
                continue;
            }
            let oldest_first = entries.iter().rev();
            let messages = oldest_first.filter_map(|entry| Message::from_entry(entry));
            return Ok(Replay {
                messages: messages.collect(),
                is_whole: start == 0,
                next: position(
                    from,
                    start,
                    length,
                    entries.first().map(|entry| mark(entry)),
                ),
                as_of,
            });
        }
    }

    /// The same, but only what is not older than `age`.
    pub(super) async fn read_young_messages(
        &self,
        user: &str,
        from: Position,
        age: Duration,
    ) -> RedisResult<Replay> {
        let key = list_key(user);
        let mut connection = self.link.connection().await;
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let as_of = seconds * 1000 + micros / 1000;
        let oldest = oldest(as_of, age);
        let len: u64 = redis::cmd("LLEN")
            .arg(&key)
            .query_async(&mut connection)
            .await?;
        let mut start = from.index;
        if start > 0 {
            let before = self.read_range(&key, start - 1, start - 1).await?;
            if before.first().is_none_or(|entry| mark(entry) != from.mark) {
                start = 0;
            }
        }
        let mut newest_mark = None;
        let mut newest_first = Vec::new();
        let mut bytes = 0;
        let mut end = len;
        let mut chunk = FIRST_CHUNK;
        // Backwards, so that the newest are there when there are too many.
        'read: while end > start {
            let first = end.saturating_sub(chunk).max(start);
            for entry in self.read_range(&key, first, end - 1).await?.iter().rev() {
                newest_mark.get_or_insert_with(|| mark(entry));
                bytes += entry.len();
                if bytes > REPLAY_BYTES {
                    break 'read;
                }
                let Some(message) = Message::from_entry(entry) else {
                    continue;
                };
                match message.at {
                    None => continue,
                    // Lists are in the order of time.
                    Some(at) if at < oldest => break 'read,
                    Some(_) => newest_first.push(message),
                }
            }
            end = first;
            chunk = (chunk * 4).min(CHUNK);
        }
        newest_first.reverse();
        Ok(Replay {
            messages: newest_first,
            is_whole: start == 0,
            next: position(from, start, len, newest_mark),
            as_of,
        })
    }

    pub(super) async fn read_page(
        &self,
        user: &str,
        request: &PageRequest,
    ) -> RedisResult<Vec<Message>> {
        let key = list_key(user);
        let mut connection = self.link.connection().await;
        let mut end: u64 = redis::cmd("LLEN")
            .arg(&key)
            .query_async(&mut connection)
            .await?;
        let mut page = PageBuilder::new(user, request);
        'full: while end > 0 {
            let first = end.saturating_sub(CHUNK);
            for entry in self.read_range(&key, first, end - 1).await?.iter().rev() {
                if let Some(message) = Message::from_entry(entry)
                    && page.push(message)
                {
                    break 'full;
                }
            }
            end = first;
        }
        Ok(page.finish())
    }

    async fn read_range(&self, key: &str, first: u64, last: u64) -> RedisResult<Vec<Vec<u8>>> {
        let mut connection = self.link.connection().await;
        redis::cmd("LRANGE")
            .arg(key)
            .arg(first)
            .arg(last)
            .query_async(&mut connection)
            .await
    }
}

/// The place behind the newest entry, of this mark, of a list of that length, which was read from `start`
/// on; for want of one behind `from`.
fn position(from: Position, start: u64, length: u64, newest_mark: Option<u64>) -> Position {
    match newest_mark {
        Some(mark) => Position {
            index: length,
            mark,
        },
        None if start == 0 => Position::default(),
        None => from,
    }
}

/// FNV-1a of an entry: tells one list from another, no more.
fn mark(entry: &[u8]) -> u64 {
    entry.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
