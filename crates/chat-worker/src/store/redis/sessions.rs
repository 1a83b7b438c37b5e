//! Sessions: the hash `session:<sessionID>`, shared with servers of the original example.

use redis::{Pipeline, RedisResult};

use super::RedisStore;
use crate::chat::identity::is_id;
use crate::chat::roster::{User, merge_sessions};
use crate::store::Session;

/// Keys asked for per SCAN step, and sessions read per round trip.
const SCAN_COUNT: usize = 1000;

/// Sets `connected` of a session that still exists, and gives it its full life: a bare `HSET` would
/// bring an expired one back without a user and without an end.
///
/// KEYS: session. ARGV: connected, TTL ms.
pub(super) const SET_CONNECTED: &str = "
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'connected', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1";

const FIELDS: [&str; 3] = ["userID", "username", "connected"];

type Fields = (Option<String>, Option<String>, Option<String>);

fn session_key(id: &str) -> String {
    format!("session:{id}")
}

impl RedisStore {
    pub(super) async fn read_session(&self, id: &str) -> RedisResult<Option<Session>> {
        if !is_id(id) {
            return Ok(None);
        }
        let mut connection = self.link.connection().await;
        let fields: Fields = redis::cmd("HMGET")
            .arg(session_key(id))
            .arg(&FIELDS)
            .query_async(&mut connection)
            .await?;
        Ok(record(fields).map(|user| Session {
            id: id.to_owned(),
            user: user.id,
            name: user.name,
        }))
    }

    pub(super) async fn read_users(&self) -> RedisResult<Vec<User>> {
        let mut connection = self.link.connection().await;
        let mut records = Vec::new();
        let mut cursor = 0u64;
        loop {
            let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg("session:*")
                .arg("COUNT")
                .arg(SCAN_COUNT)
                .query_async(&mut connection)
                .await?;
            if !keys.is_empty() {
                // A key of that name that is no hash costs its own entry, not the whole list.
                let mut pipe = redis::pipe();
                pipe.ignore_errors();
                for key in keys {
                    pipe.cmd("HMGET").arg(key).arg(&FIELDS);
                }
                let read: Vec<RedisResult<Fields>> = pipe.query_async(&mut connection).await?;
                records.extend(read.into_iter().flatten().filter_map(record));
            }
            if next == 0 {
                // SCAN may name a key twice; merging makes that harmless.
                return Ok(merge_sessions(records));
            }
            cursor = next;
        }
    }

    /// Writes the whole session, as at a login, and gives it its full life.
    pub(super) fn write_session(&self, pipe: &mut Pipeline, session: &Session) {
        let key = session_key(&session.id);
        pipe.cmd("HSET")
            .arg(&key)
            .arg(FIELDS[0])
            .arg(&session.user)
            .arg(FIELDS[1])
            .arg(&session.name)
            .arg(FIELDS[2])
            .arg("true")
            .ignore()
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(millis(self.config.session_ttl))
            .ignore();
    }

    pub(super) async fn write_connected(&self, session: &str, connected: bool) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        self.set_connected
            .key(session_key(session))
            .arg(if connected { "true" } else { "false" })
            .arg(millis(self.config.session_ttl))
            .invoke_async::<()>(&mut connection)
            .await
    }
}

/// Nothing for a hash that is no session: other programs may use such keys too.
fn record((user, name, connected): Fields) -> Option<User> {
    let id = user.filter(|id| is_id(id))?;
    Some(User {
        id,
        name: name?,
        connected: connected.as_deref() == Some("true"),
    })
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}
