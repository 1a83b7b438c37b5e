//! Who there is: an index of all users by name and by their last change, in one slot, and for each
//! user a record of name and presence, in the slot of their presence.

use std::collections::HashMap;

use redis::{Pipeline, RedisResult, Script, ScriptInvocation};
use serde_json::json;

use super::RedisStore;
use super::presence::presence_key;
use crate::chat::recent_users::{CHANNEL, Change, Recent};
use crate::chat::roster::User;
use crate::chat::user_index::{UsersPage, keys};

/// The number of the last change.
const VERSION: &str = "cc:{users}:version";

/// Sorted set of all users, each as id, space and name, by the number of their last change.
pub(super) const BY_CHANGE: &str = "cc:{users}:by-change";

/// Sorted set of all users by [name](crate::chat::user_index), each key with a zero byte and the id
/// behind it. All scores are 0, so the order is that of the bytes.
const BY_NAME: &str = "cc:{users}:by-name";

/// Entries of the index by name per round trip, where a user stands in it several times.
const CHUNK: usize = 256;

/// Numbers a change, takes a new user into the index, and publishes it.
///
/// KEYS: version, index by change, index by name. ARGV: user and name, the change as JSON behind its
/// numbers, channel, then the keys of the name. Returns version and number of users.
pub(crate) const ENROL: &str = "
local version = redis.call('INCR', KEYS[1])
if redis.call('ZADD', KEYS[2], version, ARGV[1]) == 1 then
  for i = 4, #ARGV do redis.call('ZADD', KEYS[3], 0, ARGV[i]) end
end
local total = redis.call('ZCARD', KEYS[2])
local numbers = string.format('{\"version\":%.0f,\"total\":%.0f,', version, total)
redis.call('PUBLISH', ARGV[3], numbers .. ARGV[2])
return {version, total}";

/// What the first byte of a record says: sockets of ours; of another program, as it says; none.
pub(super) const HERE: char = '1';
pub(super) const ELSEWHERE: char = 'n';
pub(super) const GONE: char = '0';

/// A string: a byte of presence, then the name. Lives as long as the user's sessions.
pub(super) fn record_key(user: &str) -> String {
    format!("cc:user:{{{user}}}")
}

/// What a record says of the user.
pub(super) fn read_record(user: &str, record: &str) -> User {
    let (presence, name) = record.split_at_checked(1).unwrap_or_default();
    User {
        id: user.to_owned(),
        name: name.to_owned(),
        connected: presence.chars().all(|presence| presence != GONE),
    }
}

fn member(user: &str, name: &str) -> String {
    format!("{user} {name}")
}

/// User and name.
pub(super) fn split_member(member: &str) -> Option<(&str, &str)> {
    member.split_once(' ')
}

fn name_entry(key: &str, user: &str) -> String {
    format!("{key}\0{user}")
}

fn split_name_entry(entry: &str) -> Option<(&str, &str)> {
    entry.rsplit_once('\0')
}

/// [`ENROL`], as `script`, for this user.
pub(crate) fn enrolment<'a>(script: &'a Script, user: &User, news: bool) -> ScriptInvocation<'a> {
    let User {
        id,
        name,
        connected,
    } = user;
    let fields = json!({"userID": id, "username": name, "connected": connected, "news": news});
    // Behind the brace that the script writes with the numbers.
    let fields = fields.to_string().split_off(1);
    let mut call = script.key(VERSION);
    call.key(BY_CHANGE)
        .key(BY_NAME)
        .arg(member(id, name))
        .arg(fields)
        .arg(CHANNEL);
    for key in keys(name) {
        call.arg(name_entry(&key, id));
    }
    call
}

/// Writes down that the user is there and not connected, unless something is known of them.
pub(crate) fn write_absent(pipe: &mut Pipeline, user: &str, name: &str, life_ms: u64) {
    pipe.cmd("SET")
        .arg(record_key(user))
        .arg(format!("{GONE}{name}"));
    pipe.arg("NX").arg("PX").arg(life_ms).ignore();
}

/// Asks for the number of the user's last change: none for one who is not in the index.
pub(crate) fn ask_whether_listed(pipe: &mut Pipeline, user: &User) {
    pipe.cmd("ZSCORE")
        .arg(BY_CHANGE)
        .arg(member(&user.id, &user.name));
}

impl RedisStore {
    /// The script that makes a change.
    pub(super) fn enrolment(&self, user: &User, news: bool) -> ScriptInvocation<'_> {
        enrolment(&self.enrol, user, news)
    }

    pub(super) async fn enrol(&self, user: User, news: bool) -> RedisResult<Change> {
        let mut connection = self.link.connection().await;
        let call = self.enrolment(&user, news);
        let (version, total) = call.invoke_async(&mut connection).await?;
        Ok(Change {
            version,
            total,
            user,
            news,
        })
    }

    /// A change of what is so just now. Whether somebody is here is known in another slot: it is
    /// looked at again afterwards, so whoever writes last writes the truth.
    pub(super) async fn enrol_as_is(
        &self,
        user: &str,
        name: &str,
        news: bool,
    ) -> RedisResult<Change> {
        let mut connected = self.is_here(user).await?;
        loop {
            let user = User {
                id: user.to_owned(),
                name: name.to_owned(),
                connected,
            };
            let change = self.enrol(user, news).await?;
            connected = self.is_here(&change.user.id).await?;
            if connected == change.user.connected {
                return Ok(change);
            }
        }
    }

    async fn is_here(&self, user: &str) -> RedisResult<bool> {
        let mut connection = self.link.connection().await;
        let (sockets, record): (u64, Option<String>) = redis::pipe()
            .cmd("HLEN")
            .arg(presence_key(user))
            .cmd("GET")
            .arg(record_key(user))
            .query_async(&mut connection)
            .await?;
        Ok(sockets > 0 || record.is_some_and(|record| record.starts_with(ELSEWHERE)))
    }

    pub(super) async fn read_recent(&self, since: u64, limit: usize) -> RedisResult<Recent> {
        let mut connection = self.link.connection().await;
        // The number first: of what changes meanwhile more is known then than it says, not less.
        let (version, total, members): (Option<u64>, u64, Vec<(String, u64)>) = redis::pipe()
            .cmd("GET")
            .arg(VERSION)
            .cmd("ZCARD")
            .arg(BY_CHANGE)
            .cmd("ZREVRANGEBYSCORE")
            .arg(BY_CHANGE)
            .arg("+inf")
            .arg(format!("({since}"))
            .arg("WITHSCORES")
            .arg("LIMIT")
            .arg(0)
            .arg(limit)
            .query_async(&mut connection)
            .await?;
        let ids: Vec<String> = members
            .iter()
            .filter_map(|(member, _)| split_member(member))
            .map(|(user, _)| user.to_owned())
            .collect();
        let known = self.read_users(&ids).await?;
        let mut known: HashMap<String, User> = known
            .into_iter()
            .map(|user| (user.id.clone(), user))
            .collect();
        let users = members.iter().filter_map(|(member, version)| {
            let (user, _) = split_member(member)?;
            Some((*version, known.remove(user)?))
        });
        Ok(Recent {
            version: version.unwrap_or(0),
            total,
            users: users.collect(),
        })
    }

    pub(super) async fn read_users(&self, users: &[String]) -> RedisResult<Vec<User>> {
        let records = self.read_records(users.iter().map(String::as_str)).await?;
        let users = users.iter().zip(records);
        Ok(users
            .filter_map(|(user, record)| Some(read_record(user, &record?)))
            .collect())
    }

    /// The record of each of them, in their order.
    pub(super) async fn read_records<'a>(
        &self,
        users: impl Iterator<Item = &'a str>,
    ) -> RedisResult<Vec<Option<String>>> {
        let keys: Vec<String> = users.map(record_key).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.link.connection().await;
        redis::cmd("MGET")
            .arg(keys)
            .query_async(&mut connection)
            .await
    }

    pub(super) async fn read_users_page(&self, page: &UsersPage) -> RedisResult<Option<Vec<User>>> {
        let range = page.range();
        let end = format!("({}", range.end);
        let mut from = format!("[{}", range.start);
        if let Some(after) = &page.after {
            let found = self.read_users(std::slice::from_ref(after)).await?;
            let key = found.first().and_then(|user| page.key_of(&user.name));
            let Some(key) = key else {
                return Ok(None);
            };
            from = format!("({}", name_entry(&key, after));
        }
        let mut users = Vec::new();
        while users.len() < page.limit {
            let mut connection = self.link.connection().await;
            let entries: Vec<String> = redis::cmd("ZRANGEBYLEX")
                .arg(BY_NAME)
                .arg(&from)
                .arg(&end)
                .arg("LIMIT")
                .arg(0)
                .arg(CHUNK)
                .query_async(&mut connection)
                .await?;
            let Some(last) = entries.last() else { break };
            from = format!("({last}");
            let found = entries.iter().filter_map(|entry| split_name_entry(entry));
            let found: Vec<(&str, String)> =
                found.map(|(key, user)| (key, user.to_owned())).collect();
            let ids: Vec<String> = found.iter().map(|(_, user)| user.clone()).collect();
            let mut known = self.read_users(&ids).await?.into_iter().peekable();
            for (key, id) in found {
                // One that has expired meanwhile is not among them.
                if let Some(user) = known.next_if(|user| user.id == id)
                    // Of several words that fit, the first is where the user stands.
                    && page.key_of(&user.name).as_deref() == Some(key)
                {
                    users.push(user);
                }
            }
            if entries.len() < CHUNK {
                break;
            }
        }
        users.truncate(page.limit);
        Ok(Some(users))
    }

    /// Takes a user out of the index.
    pub(super) fn strike_out(&self, pipe: &mut Pipeline, user: &str, name: &str) {
        pipe.cmd("ZREM")
            .arg(BY_CHANGE)
            .arg(member(user, name))
            .ignore();
        let entries = keys(name).into_iter().map(|key| name_entry(&key, user));
        pipe.cmd("ZREM")
            .arg(BY_NAME)
            .arg(entries.collect::<Vec<_>>())
            .ignore();
    }
}
