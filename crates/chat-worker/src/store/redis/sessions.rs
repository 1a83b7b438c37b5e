//! Sessions: the hash `session:<sessionID>`, shared with servers of the original example. One that
//! has ended has its user in `ended` instead of `userID`: those servers, too, let nobody in with it.

use redis::{RedisResult, ScriptInvocation};

use super::RedisStore;
use super::roster::{record_key, write_absent};
use crate::chat::identity::is_id;
use crate::chat::roster::User;
use crate::store::Session;

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

/// Creates the session, or gives it its full life, unless it has ended.
///
/// KEYS: session. ARGV: user, name, connected, TTL ms. Returns 0 if it has ended.
pub(super) const WRITE: &str = "
if redis.call('HEXISTS', KEYS[1], 'ended') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'userID', ARGV[1], 'username', ARGV[2], 'connected', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1";

/// KEYS: session. ARGV: TTL ms. Returns whether there is one, be it ended already.
pub(super) const END: &str = "
local user = redis.call('HGET', KEYS[1], 'userID')
if not user then return redis.call('HEXISTS', KEYS[1], 'ended') end
redis.call('HDEL', KEYS[1], 'userID')
redis.call('HSET', KEYS[1], 'ended', user, 'connected', 'false')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1";

pub(super) const FIELDS: [&str; 4] = ["userID", "username", "connected", "ended"];

pub(super) type Fields = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

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
        let ended = fields.3.is_some();
        Ok(record(fields).filter(|_| !ended).map(|user| Session {
            id: id.to_owned(),
            user: user.id,
            name: user.name,
        }))
    }

    /// Makes a session that has no socket yet. Its user is listed from then on.
    pub(super) async fn begin(&self, session: &Session) -> RedisResult<()> {
        if !self.write_session(session, false).await? {
            return Ok(());
        }
        let mut connection = self.link.connection().await;
        let Session { user, name, .. } = session;
        let life = millis(self.config.session_ttl);
        let mut pipe = redis::pipe();
        write_absent(&mut pipe, user, name, life);
        pipe.cmd("PEXPIRE").arg(record_key(user)).arg(life).ignore();
        pipe.exec_async(&mut connection).await?;
        self.enrol_as_is(user, name, false).await.map(|_| ())
    }

    /// Writes the whole session, as at a login, and gives it its full life. False when it has
    /// ended.
    pub(super) async fn write_session(
        &self,
        session: &Session,
        connected: bool,
    ) -> RedisResult<bool> {
        let mut connection = self.link.connection().await;
        self.write(session, connected)
            .invoke_async(&mut connection)
            .await
    }

    /// The same for many at once, which have sockets.
    pub(super) async fn write_sessions(
        &self,
        sessions: impl Iterator<Item = &Session>,
    ) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        for session in sessions {
            pipe.invoke_script(&self.write(session, true));
        }
        // One that has ended meanwhile is dealt with where its end is heard.
        self.with_scripts::<Vec<bool>>(&pipe).await.map(|_| ())
    }

    pub(super) fn write(&self, session: &Session, connected: bool) -> ScriptInvocation<'_> {
        let mut call = self.write_session.key(session_key(&session.id));
        call.arg(&session.user)
            .arg(&session.name)
            .arg(flag(connected))
            .arg(millis(self.config.session_ttl));
        call
    }

    pub(super) async fn write_end(&self, id: &str) -> RedisResult<bool> {
        if !is_id(id) {
            return Ok(false);
        }
        let mut connection = self.link.connection().await;
        self.end_session
            .key(session_key(id))
            .arg(millis(self.config.session_ttl))
            .invoke_async(&mut connection)
            .await
    }

    pub(super) async fn read_ended(&self, id: &str) -> RedisResult<bool> {
        let mut connection = self.link.connection().await;
        redis::cmd("HEXISTS")
            .arg(session_key(id))
            .arg("ended")
            .query_async(&mut connection)
            .await
    }

    pub(super) async fn write_connected(&self, session: &str, connected: bool) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        self.set_connected
            .key(session_key(session))
            .arg(flag(connected))
            .arg(millis(self.config.session_ttl))
            .invoke_async::<()>(&mut connection)
            .await
    }
}

impl RedisStore {
    pub(super) async fn read_workspace_member(
        &self,
        user: &str,
        workspace: &str,
    ) -> RedisResult<bool> {
        let mut connection = self.link.connection().await;
        redis::cmd("SISMEMBER")
            .arg(format!("cc:workspace:{workspace}"))
            .arg(user)
            .query_async(&mut connection)
            .await
    }
}

fn flag(connected: bool) -> &'static str {
    if connected { "true" } else { "false" }
}

/// The user of a session, also of one that has ended. Nothing for a hash that is no session: other
/// programs may use such keys too.
pub(super) fn record((user, name, connected, ended): Fields) -> Option<User> {
    let id = user.or(ended).filter(|id| is_id(id))?;
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
