//! Sending: a message goes into the lists of both its users, and is announced, in as few steps as
//! the keys allow.

use std::time::Duration;

use redis::{Cmd, RedisResult};
use redis_adapter::Publication;
use serde_json::json;

use super::messages::{CHUNK, list_key};
use super::sessions::millis;
use super::{RedisStore, is_unknown_script};
use crate::chat::message::{Message, NewMessage};
use crate::store::{Announce, Stored};

/// How long a message's id is remembered: a client that sends again does so within minutes.
pub(crate) const DEDUPE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// A time that no message has, for an announcement that is made before its message is stored: some
/// 278,000 years from now.
const PLACE: u64 = 0x001F_EDCB_A987_6543;

/// Appends to the lists of both users and announces it, unless the sender's id is known: the whole
/// of sending, for a Redis that has all keys. The time is Redis's, and takes its place in what is
/// announced, eight bytes with the highest first. Ids that are too old are forgotten now and then.
///
/// KEYS: ids of the sender, list of the sender, and of the recipient unless that is the same. ARGV:
/// member, JSON up to the time, list TTL ms, window ms, entries that a list keeps, then of each
/// announcement the channel, the bytes before the time, and either 1 and those behind it, or 0 and
/// nothing where there is no time. Returns the time, negative for an id that is known.
pub(super) const SEND: &str = "
local clock = redis.call('TIME')
local at = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('ZADD', KEYS[1], 'NX', at, ARGV[1]) == 0 then
  return '-' .. redis.call('ZSCORE', KEYS[1], ARGV[1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local text = string.format('%.0f', at)
if clock[2] % 8 == 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', at - ARGV[4]))
end
local entry = ARGV[2] .. text .. '}'
for i = 2, #KEYS do
  local length = redis.call('RPUSH', KEYS[i], entry)
  if length > tonumber(ARGV[5]) then redis.call('LTRIM', KEYS[i], -ARGV[5], -1) end
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
local bytes = struct.pack('>I8', at)
for i = 6, #ARGV, 4 do
  local time = ARGV[i + 2] == '1' and bytes or ''
  redis.call('PUBLISH', ARGV[i], ARGV[i + 1] .. time .. ARGV[i + 3])
end
return text";

/// Appends to one user's list, unless the id is known. The time is Redis's, so that all workers
/// agree on it, or the one given (the recipient's entry has the sender's time).
///
/// KEYS: list, ids. ARGV: member, JSON up to the time, time or '', list TTL ms, window ms, entries
/// that the list keeps, then channels and messages to publish. Returns `{1 if stored now, time}`.
pub(super) const APPEND: &str = "
local seen = redis.call('ZSCORE', KEYS[2], ARGV[1])
if seen then return {0, string.format('%.0f', seen)} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local at = tonumber(ARGV[3]) or now
redis.call('ZADD', KEYS[2], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', now - ARGV[5]))
redis.call('PEXPIRE', KEYS[2], ARGV[5])
local length = redis.call('RPUSH', KEYS[1], ARGV[2] .. string.format('%.0f', at) .. '}')
if length > tonumber(ARGV[6]) then redis.call('LTRIM', KEYS[1], -ARGV[6], -1) end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
for i = 7, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return {1, string.format('%.0f', at)}";

pub(super) fn ids_key(user: &str) -> String {
    format!("cc:ids:{{messages:{user}}}")
}

/// What a message is known by among the ids.
pub(super) fn member(message: &NewMessage) -> String {
    format!("{} {}", message.from, message.id)
}

impl RedisStore {
    pub(super) async fn append_to_lists(
        &self,
        message: NewMessage,
        announce: Announce,
    ) -> RedisResult<Stored> {
        let entry = open_entry(&message);
        let stored = match self.is_cluster {
            false => self.append_to_both(&message, &entry, &announce).await?,
            true => self.append_to_each(&message, &entry, &announce).await?,
        };
        if let Some(replicas) = &self.replicas {
            // Both copies come in one step where all keys are on one server, and only the sender's
            // has its id then.
            let copies = if self.is_cluster { 2 } else { 1 };
            replicas
                .have(&message, message.users().take(copies))
                .await?;
        }
        Ok(stored)
    }

    /// Stores and announces in one step.
    async fn append_to_both(
        &self,
        message: &NewMessage,
        entry: &str,
        announce: &Announce,
    ) -> RedisResult<Stored> {
        let answer = self
            .ask_together(self.send_command(message, entry, announce))
            .await;
        let answer = match answer {
            Err(error) if is_unknown_script(&error) => {
                let mut connection = self.link.connection().await;
                self.send.load_async(&mut connection).await?;
                self.ask_together(self.send_command(message, entry, announce))
                    .await?
            }
            answer => answer?,
        };
        let at: i64 = redis::from_redis_value(answer)?;
        Ok(Stored {
            at: at.unsigned_abs(),
            fresh: at > 0,
        })
    }

    fn send_command(&self, message: &NewMessage, entry: &str, announce: &Announce) -> Cmd {
        let lists: Vec<String> = message.users().map(list_key).collect();
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(self.send.get_hash())
            .arg(1 + lists.len())
            .arg(ids_key(&message.from))
            .arg(lists)
            .arg(member(message))
            .arg(entry)
            .arg(millis(self.config.message_ttl))
            .arg(millis(DEDUPE_WINDOW))
            .arg(self.config.history_max);
        for announcement in announce(PLACE) {
            let (before, behind) = around_the_time(&announcement);
            command.arg(&announcement.channel).arg(before);
            command
                .arg(behind.is_some())
                .arg(behind.unwrap_or_default());
        }
        command
    }

    /// Stores for one user after the other.
    async fn append_to_each(
        &self,
        message: &NewMessage,
        entry: &str,
        announce: &Announce,
    ) -> RedisResult<Stored> {
        // The sender's list decides the time. The order also makes a try that failed half-way
        // complete when it is made again: known to the sender, fresh to the recipient.
        let mut stored = self
            .append_to(&message.from, message, entry, None, &[])
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
                .append_to(&message.to, message, entry, at, &announcements)
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
        call.key(ids_key(user))
            .arg(member(message))
            .arg(entry)
            .arg(at.map(|at| at.to_string()).unwrap_or_default())
            .arg(millis(self.config.message_ttl))
            .arg(millis(DEDUPE_WINDOW))
            .arg(self.config.history_max);
        for Publication { channel, payload } in announcements {
            call.arg(channel).arg(&payload[..]);
        }
        let (fresh, at): (bool, u64) = call.invoke_async(&mut connection).await?;
        Ok(Stored { at, fresh })
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

/// The bytes before and behind [`PLACE`]; all, and none, when it is not there exactly once.
fn around_the_time(announcement: &Publication) -> (&[u8], Option<&[u8]>) {
    let payload = &announcement.payload;
    let place = PLACE.to_be_bytes();
    let mut places = payload.windows(place.len()).enumerate();
    let mut next = || Some(places.find(|(_, bytes)| *bytes == place)?.0);
    match (next(), next()) {
        (Some(at), None) => (&payload[..at], Some(&payload[at + place.len()..])),
        _ => (payload, None),
    }
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

    #[test]
    fn the_place_of_the_time_is_found_when_there_is_one() {
        let around = |payload: Vec<u8>| {
            let channel = "c".to_owned();
            let payload = payload.into();
            let announcement = Publication { channel, payload };
            let (before, behind) = around_the_time(&announcement);
            (before.to_vec(), behind.map(<[u8]>::to_vec))
        };
        let place = PLACE.to_be_bytes();
        let once = [b"ab", &place[..], b"c"].concat();
        assert_eq!(around(once), (b"ab".to_vec(), Some(b"c".to_vec())));
        assert_eq!(around(b"abc".to_vec()), (b"abc".to_vec(), None));
        let twice = [place, place].concat();
        assert_eq!(around(twice.clone()), (twice, None));
    }
}
