//! Messages: the list `messages:<userID>` of each user, and the ids stored lately.

use std::time::Duration;

use redis::RedisResult;
use redis_adapter::Publication;
use serde_json::json;

use super::RedisStore;
use super::sessions::millis;
use crate::chat::history::{PageBuilder, PageRequest};
use crate::chat::message::{Message, NewMessage};
use crate::store::{Announce, Position, Replay, Stored, oldest};

/// How long a message's id is remembered: a client that sends again does so within minutes.
pub(crate) const DEDUPE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// Entries per round trip when a list is read.
const CHUNK: u64 = 500;

/// Entries of the first round trip when only young ones are wanted: mostly there are few. The next
/// ones are larger, up to [`CHUNK`].
const FIRST_CHUNK: u64 = 32;

/// Most bytes of entries that one replay returns: a user with a huge history must not fill the
/// worker's memory with one login. What is left out is read page by page.
const REPLAY_BYTES: usize = 8 * 1024 * 1024;

/// Appends to one user's list, unless the id is known. The time is Redis's, so that all workers
/// agree on it, or the one given (the recipient's entry has the sender's time).
///
/// KEYS: list, ids. ARGV: member, JSON up to the time, time or '', list TTL ms, window ms, then
/// channels and messages to publish. Returns `{1 if stored now, time}`.
pub(super) const APPEND: &str = "
local seen = redis.call('ZSCORE', KEYS[2], ARGV[1])
if seen then return {0, string.format('%.0f', seen)} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local at = tonumber(ARGV[3]) or now
redis.call('ZADD', KEYS[2], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', now - ARGV[5]))
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('RPUSH', KEYS[1], ARGV[2] .. string.format('%.0f', at) .. '}')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
for i = 6, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return {1, string.format('%.0f', at)}";

fn list_key(user: &str) -> String {
    format!("messages:{user}")
}

impl RedisStore {
    pub(super) async fn append_to_lists(
        &self,
        message: NewMessage,
        announce: Announce,
    ) -> RedisResult<Stored> {
        let message = &message;
        let entry = open_entry(message);
        // The sender's list decides the time. The order also makes a try that failed half-way
        // complete when it is made again: known to the sender, fresh to the recipient.
        let mut stored = self
            .append_to(&message.from, message, &entry, None, &[])
            .await?;
        if !stored.fresh && self.was_for_another(message).await? {
            return Ok(stored);
        }
        if message.to != message.from {
            let at = Some(stored.at);
            let mut announcements = announce(stored.at);
            // A script may publish on a shard only what is in the slot of its keys.
            let afterwards = match self.config.sharded_pubsub {
                true => std::mem::take(&mut announcements),
                false => Vec::new(),
            };
            let there = self
                .append_to(&message.to, message, &entry, at, &announcements)
                .await?;
            stored.fresh |= there.fresh;
            // Also when it was stored before: who did it may have died before announcing it. A
            // socket that has heard of it is not told again.
            if let Err(error) = self.publish(afterwards).await {
                // It is stored. Who listens on a shard that is away finds a gap there.
                tracing::debug!(%error, "a message could not be announced");
            }
        } else if stored.fresh {
            self.publish(announce(stored.at)).await?;
        }
        Ok(stored)
    }

    /// Whether the sender's id was used for another recipient: then it is no second try of this
    /// message, and the id stands for the first one.
    async fn was_for_another(&self, message: &NewMessage) -> RedisResult<bool> {
        let mut connection = self.link.connection().await;
        let entries: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(list_key(&message.from))
            .arg(-(CHUNK as i64))
            .arg(-1)
            .query_async(&mut connection)
            .await?;
        let mut newest_first = entries.iter().rev().filter_map(|e| Message::from_entry(e));
        let first = newest_first
            .find(|m| m.from == message.from && m.id.as_deref() == Some(message.id.as_str()));
        Ok(first.is_some_and(|first| first.to != message.to))
    }

    /// For a message to oneself, whose one script decides the time: it is stored already, so
    /// only one's other sockets may miss it. And for shards, where no script may do it.
    async fn publish(&self, publications: Vec<Publication>) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        let command = match self.config.sharded_pubsub {
            true => "SPUBLISH",
            false => "PUBLISH",
        };
        for Publication { channel, payload } in &publications {
            redis::cmd(command)
                .arg(channel)
                .arg(&payload[..])
                .exec_async(&mut connection)
                .await?;
        }
        Ok(())
    }

    async fn append_to(
        &self,
        user: &str,
        message: &NewMessage,
        entry: &str,
        at: Option<u64>,
        announcements: &[Publication],
    ) -> RedisResult<Stored> {
        let mut connection = self.link.connection().await;
        let mut call = self.append.key(list_key(user));
        call.key(format!("cc:ids:{{messages:{user}}}"))
            .arg(format!("{} {}", message.from, message.id))
            .arg(entry)
            .arg(at.map(|at| at.to_string()).unwrap_or_default())
            .arg(millis(self.config.message_ttl))
            .arg(millis(DEDUPE_WINDOW));
        for Publication { channel, payload } in announcements {
            call.arg(channel).arg(&payload[..]);
        }
        let (fresh, at): (bool, u64) = call.invoke_async(&mut connection).await?;
        Ok(Stored { at, fresh })
    }

    /// What lies behind `from`; with an age, of that only what is not older.
    pub(super) async fn read_messages(
        &self,
        user: &str,
        from: Position,
        age: Option<Duration>,
    ) -> RedisResult<Replay> {
        let key = list_key(user);
        let mut connection = self.link.connection().await;
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let as_of = seconds * 1000 + micros / 1000;
        let oldest = age.map(|age| oldest(as_of, age));
        let len: u64 = redis::cmd("LLEN")
            .arg(&key)
            .query_async(&mut connection)
            .await?;
        // Valid only if the entry before it is still the one it was: the list may have expired.
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
        let mut chunk = if oldest.is_some() { FIRST_CHUNK } else { CHUNK };
        // Backwards, so that the newest are there when there are too many.
        'read: while end > start {
            let first = end.saturating_sub(chunk).max(start);
            for entry in self.read_range(&key, first, end - 1).await?.iter().rev() {
                newest_mark.get_or_insert_with(|| mark(entry));
                bytes += entry.len();
                if bytes > REPLAY_BYTES {
                    break 'read;
                }
                let message = Message::from_entry(entry);
                match (message, oldest) {
                    (Some(message), None) => newest_first.push(message),
                    // Lists are in the order of time.
                    (Some(Message { at: Some(at), .. }), Some(oldest)) if at < oldest => {
                        break 'read;
                    }
                    (Some(message), Some(_)) if message.at.is_some() => newest_first.push(message),
                    _ => {}
                }
            }
            end = first;
            chunk = (chunk * 4).min(CHUNK);
        }
        let next = match newest_mark {
            Some(mark) => Position { index: len, mark },
            None if start == 0 => Position::default(),
            None => from,
        };
        newest_first.reverse();
        Ok(Replay {
            messages: newest_first,
            next,
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

/// The entry's JSON up to the time, which the script puts in.
fn open_entry(message: &NewMessage) -> String {
    let NewMessage {
        id,
        content,
        from,
        to,
    } = message;
    format!(
        r#"{{"id":{},"content":{},"from":{},"to":{},"at":"#,
        json!(id),
        json!(content),
        json!(from),
        json!(to)
    )
}

/// FNV-1a of an entry: tells one list from another, no more.
fn mark(entry: &[u8]) -> u64 {
    entry.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_closed_with_its_time_is_the_message() {
        let new = NewMessage {
            id: "m1".into(),
            content: "\"quoted\" \u{1F600} \n".into(),
            from: "a".into(),
            to: "b".into(),
        };
        let entry = open_entry(&new) + "5}";
        assert_eq!(Message::from_entry(entry.as_bytes()), Some(new.stored(5)));
    }
}
