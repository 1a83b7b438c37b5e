//! The lobby: the list of its last messages, and the ids said lately. The keys are in one slot.

use redis::RedisResult;
use serde_json::json;

use super::RedisStore;
use super::send::DEDUPE_WINDOW;
use super::sessions::millis;
use crate::chat::lobby::{CHANNEL, KEPT, Line, NewLine, Said, look_back};
use crate::store::Stored;

/// The list.
pub(crate) const LOG: &str = "cc:{lobby}:log";

const IDS: &str = "cc:{lobby}:ids";

/// Appends to the list and publishes, unless the id is known. The time is Redis's, and the order of
/// the channel that of the list.
///
/// KEYS: list, ids. ARGV: member, JSON up to the time, list TTL ms, window ms, messages to keep,
/// channel. Returns `{1 if stored now, time}`.
pub(super) const SAY: &str = "
local seen = redis.call('ZSCORE', KEYS[2], ARGV[1])
if seen then return {0, string.format('%.0f', seen)} end
local clock = redis.call('TIME')
local at = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('ZADD', KEYS[2], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. string.format('%.0f', at - ARGV[4]))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
local entry = ARGV[2] .. at .. '}'
redis.call('RPUSH', KEYS[1], entry)
redis.call('LTRIM', KEYS[1], -ARGV[5], -1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[6], entry)
return {1, at}";

impl RedisStore {
    pub(super) async fn append_to_lobby(&self, line: NewLine) -> RedisResult<Stored> {
        let mut connection = self.link.connection().await;
        let (fresh, at): (bool, u64) = self
            .say
            .key(LOG)
            .key(IDS)
            .arg(format!("{} {}", line.from, line.id))
            .arg(open_entry(&line))
            .arg(millis(self.config.message_ttl))
            .arg(millis(DEDUPE_WINDOW))
            .arg(KEPT)
            .arg(CHANNEL)
            .invoke_async(&mut connection)
            .await?;
        Ok(Stored { at, fresh })
    }

    pub(super) async fn read_lobby(&self) -> RedisResult<Said> {
        let mut connection = self.link.connection().await;
        let ((seconds, micros), entries): ((u64, u64), Vec<Vec<u8>>) = redis::pipe()
            .cmd("TIME")
            .cmd("LRANGE")
            .arg(LOG)
            .arg(-(KEPT as i64))
            .arg(-1)
            .query_async(&mut connection)
            .await?;
        let newest_first = entries.iter().rev();
        Ok(Said {
            lines: look_back(newest_first.filter_map(|entry| Line::from_entry(entry))),
            as_of: seconds * 1000 + micros / 1000,
        })
    }
}

/// The entry's JSON up to the time, which the script puts in.
fn open_entry(line: &NewLine) -> String {
    let NewLine {
        from: _,
        user,
        msg,
        id,
    } = line;
    format!(
        r#"{{"action":"message","user":{},"msg":{},"id":{},"at":"#,
        json!(user),
        json!(msg),
        json!(id)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_closed_with_its_time_is_the_line() {
        let new = NewLine {
            from: "u1".into(),
            user: "\"ada\" \u{1F600}".into(),
            msg: "a\nb\\".into(),
            id: "m1".into(),
        };
        assert_eq!(
            (open_entry(&new) + "5}").into_bytes(),
            new.stored(5).to_json()
        );
    }
}
