//! Presence: which sockets of a user live, in the whole cluster.
//!
//! Sockets are members, not a count, so that every step can be made again after an unknown
//! outcome. They belong to an *instance*: a random id that this process has until it finds that
//! its lease ran out. Then others have repaired it, or do so now, and it puts its sockets back
//! under a new id; so a repair never meets an owner who is alive.
//!
//! The `connected` flag of a session lies in another hash slot than the members. Who changes the
//! members writes the flag *after* the change, and who writes "false" looks at the members *after*
//! the write and puts it right: whoever writes last leaves the truth.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redis::{Pipeline, RedisResult, ScriptInvocation};
use tokio::sync::RwLock;

use super::RedisStore;
use super::process_mark::ProcessMark;
use super::roster::{GONE, HERE, record_key};
use super::sessions::millis;
use crate::chat::identity::{NoRandomness, random_id};
use crate::chat::recent_users::Change;
use crate::chat::roster::User;
use crate::store::{Connected, PresenceChange, Session, StoreError};

/// Sockets per round trip when many are put back.
const BATCH: usize = 200;

/// How often the flag is put right before it is left to the next change; each turn needs another
/// process to come or go at the same moment.
const SETTLE_TURNS: usize = 8;

pub(super) const INSTANCES: &str = "cc:instances";

/// The lease of a process that has left, for the grace period.
pub(super) const LEAVING: &str = "leaving";

/// The lease of a process that has died, for the grace period.
pub(super) const DEAD: &str = "dead";

/// A socket of a user is here.
///
/// KEYS: sockets of the user, their record. ARGV: member, session, record, TTL ms of the sockets and
/// of the record. Returns how many sockets there were before.
pub(super) const ARRIVE: &str = "
local before = redis.call('HLEN', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[5])
return before";

/// A socket of a user is gone. With the last one the record says so.
///
/// KEYS: sockets of the user, their record. ARGV: member, what the record begins with when nobody is
/// left, TTL ms. Returns whether it was there, the sessions of those that are left, and the name.
pub(super) const DEPART: &str = "
local removed = redis.call('HDEL', KEYS[1], ARGV[1])
local left = redis.call('HVALS', KEYS[1])
local record = redis.call('GET', KEYS[2])
local name = record and string.sub(record, 2) or ''
if record and #left == 0 then redis.call('SET', KEYS[2], ARGV[2] .. name, 'PX', ARGV[3]) end
return {removed, left, name}";

/// What is left of a user after the end of a socket.
pub(super) struct Departed {
    pub(super) was_there: bool,
    /// By socket.
    pub(super) sessions_left: Vec<String>,
    pub(super) name: String,
}

pub(super) struct Presence {
    /// Read while a socket is added or removed, written while the id changes.
    instance: RwLock<Instance>,
    live: Mutex<HashMap<String, Session>>,
    /// Found but not told yet: kept when a later step of the same round fails.
    changes: Mutex<Vec<PresenceChange>>,
    /// A socket may still be there under the present id though it is gone.
    leftovers: AtomicBool,
    /// Sockets were left behind for the time after this process.
    departed: AtomicBool,
}

pub(super) struct Instance {
    pub(super) id: String,
    /// Whether the lease was taken.
    joined: AtomicBool,
    /// Earlier ids, to be repaired by anyone once the sockets are back under the present one.
    stale: Vec<String>,
    /// When the sockets were last written as a whole.
    renewed: Option<Instant>,
}

impl Presence {
    pub(super) fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            instance: RwLock::new(Instance {
                id: random_id()?,
                joined: AtomicBool::new(false),
                stale: Vec::new(),
                renewed: Some(Instant::now()),
            }),
            live: Mutex::default(),
            changes: Mutex::default(),
            leftovers: AtomicBool::new(false),
            departed: AtomicBool::new(false),
        })
    }

    /// The end of `socket` is not known to be stored. All that live are put under a new id then,
    /// and what is left under the old one is repaired: one flag instead of a list of retries that
    /// grows as long as Redis is away.
    pub(super) fn lost_track_of(&self, socket: &str) {
        self.live().remove(socket);
        self.leftovers.store(true, Ordering::Relaxed);
    }

    /// See [`Store::leave_behind`](crate::store::Store::leave_behind).
    pub(super) fn leave_behind(&self, socket: &str) {
        self.live().remove(socket);
        self.departed.store(true, Ordering::Relaxed);
    }

    fn live(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn found(&self, change: PresenceChange) {
        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(change);
    }

    fn take_changes(&self) -> Vec<PresenceChange> {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) fn lease_key(instance: &str) -> String {
    format!("cc:instance:{instance}")
}

pub(super) fn sockets_key(instance: &str) -> String {
    format!("cc:sockets:{instance}")
}

pub(super) fn presence_key(user: &str) -> String {
    format!("cc:presence:{{{user}}}")
}

pub(super) fn member(instance: &str, socket: &str) -> String {
    format!("{instance} {socket}")
}

impl RedisStore {
    pub(super) async fn add_socket(
        &self,
        session: &Session,
        socket: &str,
    ) -> RedisResult<Connected> {
        let instance = self.presence.instance.read().await;
        self.presence
            .live()
            .insert(socket.to_owned(), session.clone());
        if !instance.joined.load(Ordering::Relaxed) {
            self.take_lease(&instance).await?;
        }
        let mut connection = self.link.connection().await;
        // The index first: what it names may be missing, but nothing may be missing in it. One
        // server keeps the order of a pipeline.
        let mut pipe = redis::pipe();
        self.write_index(&mut pipe, &instance.id, socket, session);
        if self.is_cluster {
            pipe.exec_async(&mut connection).await?;
            pipe.clear();
        }
        let user = User {
            id: session.user.clone(),
            name: session.name.clone(),
            connected: true,
        };
        pipe.invoke_script(&self.arrival(&instance.id, socket, session))
            .invoke_script(&self.enrolment(&user, true))
            .invoke_script(&self.write(session, true));
        let (before, (version, total), may_stay): (u64, (u64, u64), bool) =
            self.with_scripts(&pipe).await?;
        if !may_stay {
            return Ok(Connected::Ended);
        }
        Ok(Connected::Here(Change {
            version,
            total,
            user,
            news: before == 0,
        }))
    }

    pub(super) async fn remove_socket(&self, session: &Session, socket: &str) -> RedisResult<bool> {
        let instance = self.presence.instance.read().await;
        self.presence.live().remove(socket);
        let departed = self
            .remove_member(&instance.id, socket, &session.user)
            .await?;
        let left = &departed.sessions_left;
        if !left.contains(&session.id) {
            self.settle_gone(&session.user, &session.id).await?;
        }
        self.remove_from_index(&instance.id, socket).await?;
        Ok(departed.was_there && left.is_empty())
    }

    pub(super) async fn remove_member(
        &self,
        instance: &str,
        socket: &str,
        user: &str,
    ) -> RedisResult<Departed> {
        let mut connection = self.link.connection().await;
        let (was_there, sessions_left, name) = self
            .depart
            .key(presence_key(user))
            .key(record_key(user))
            .arg(member(instance, socket))
            .arg(GONE.to_string())
            .arg(millis(self.config.session_ttl))
            .invoke_async(&mut connection)
            .await?;
        Ok(Departed {
            was_there,
            sessions_left,
            name,
        })
    }

    pub(super) async fn remove_from_index(&self, instance: &str, socket: &str) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        redis::cmd("HDEL")
            .arg(sockets_key(instance))
            .arg(socket)
            .exec_async(&mut connection)
            .await
    }

    pub(super) async fn read_connected_name(&self, user: &str) -> RedisResult<Option<String>> {
        let mut connection = self.link.connection().await;
        let mut sessions: Vec<String> = redis::cmd("HVALS")
            .arg(presence_key(user))
            .query_async(&mut connection)
            .await?;
        sessions.sort_unstable();
        sessions.dedup();
        // Of one that has ended the sockets are about to go.
        for id in sessions {
            if let Some(session) = self.read_session(&id).await? {
                return Ok(Some(session.name));
            }
        }
        Ok(None)
    }

    /// Writes that the session has no socket, and puts it right if it has one again.
    pub(super) async fn settle_gone(&self, user: &str, session: &str) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        let mut connected = false;
        for _ in 0..SETTLE_TURNS {
            self.write_connected(session, connected).await?;
            let left: Vec<String> = redis::cmd("HVALS")
                .arg(presence_key(user))
                .query_async(&mut connection)
                .await?;
            let truth = left.iter().any(|s| s == session);
            if truth == connected {
                break;
            }
            connected = truth;
        }
        Ok(())
    }

    pub(super) async fn tend_all(&self) -> Result<Vec<PresenceChange>, StoreError> {
        let own = self.bounded(self.beat()).await?;
        self.rejoin_or_renew(own).await?;
        self.repair_others().await?;
        Ok(self.presence.take_changes())
    }

    /// Renews the lease. False when it had run out.
    async fn beat(&self) -> RedisResult<bool> {
        let instance = self.presence.instance.read().await;
        if !instance.joined.load(Ordering::Relaxed) {
            self.take_lease(&instance).await?;
            return Ok(true);
        }
        let mut connection = self.link.connection().await;
        redis::cmd("PEXPIRE")
            .arg(lease_key(&instance.id))
            .arg(millis(self.config.lease))
            .query_async(&mut connection)
            .await
    }

    async fn take_lease(&self, instance: &Instance) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        // The lease before the list: in the list without a lease is dead.
        redis::cmd("SET")
            .arg(lease_key(&instance.id))
            .arg(ProcessMark::own_text())
            .arg("PX")
            .arg(millis(self.config.lease))
            .exec_async(&mut connection)
            .await?;
        redis::cmd("SADD")
            .arg(INSTANCES)
            .arg(&instance.id)
            .exec_async(&mut connection)
            .await?;
        instance.joined.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Puts all sockets back under a new id when the lease was lost; writes them anew when their
    /// keys have lived a third of their time.
    async fn rejoin_or_renew(&self, lease_held: bool) -> Result<(), StoreError> {
        let due = |renewed: Option<Instant>| {
            renewed.is_none_or(|at| at.elapsed() >= self.config.session_ttl / 3)
        };
        let leftovers = self.presence.leftovers.load(Ordering::Relaxed);
        if lease_held && !leftovers && !due(self.presence.instance.read().await.renewed) {
            return Ok(());
        }
        let mut instance = self.presence.instance.write().await;
        if !lease_held || leftovers {
            if !lease_held {
                tracing::warn!(
                    instance = instance.id,
                    "the presence lease ran out; putting the sockets back under a new id"
                );
            }
            // Before the id changes: what is left behind from now on is left under the new one.
            self.presence.leftovers.store(false, Ordering::Relaxed);
            let id = random_id().map_err(|e| StoreError::Unavailable(e.to_string()))?;
            let stale = std::mem::replace(&mut instance.id, id);
            instance.stale.push(stale);
            instance.joined = AtomicBool::new(false);
            // Not renewed until all are written: a failure is made good in the next round.
            instance.renewed = None;
        }
        if !instance.joined.load(Ordering::Relaxed) {
            self.bounded(self.take_lease(&instance)).await?;
        }
        let live: Vec<(String, Session)> = self
            .presence
            .live()
            .iter()
            .map(|(socket, session)| (socket.clone(), session.clone()))
            .collect();
        for batch in live.chunks(BATCH) {
            self.bounded(self.put_back(&instance.id, batch)).await?;
        }
        instance.renewed = Some(Instant::now());
        while let Some(stale) = instance.stale.last() {
            // Now anybody may clear up what is still under the old id.
            self.bounded(self.give_up(stale)).await?;
            instance.stale.pop();
        }
        Ok(())
    }

    async fn put_back(&self, instance: &str, batch: &[(String, Session)]) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        let mut index = redis::pipe();
        let mut arrivals = redis::pipe();
        for (socket, session) in batch {
            self.write_index(&mut index, instance, socket, session);
            arrivals.invoke_script(&self.arrival(instance, socket, session));
        }
        index.exec_async(&mut connection).await?;
        let before: Vec<u64> = self.with_scripts(&arrivals).await?;
        for ((_, session), before) in batch.iter().zip(before) {
            if before == 0 {
                self.presence.found(PresenceChange::Back {
                    user: session.user.clone(),
                    name: session.name.clone(),
                });
            }
        }
        self.write_sessions(batch.iter().map(|(_, session)| session))
            .await
    }

    async fn give_up(&self, instance: &str) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        redis::cmd("DEL")
            .arg(lease_key(instance))
            .exec_async(&mut connection)
            .await?;
        redis::cmd("SADD")
            .arg(INSTANCES)
            .arg(instance)
            .exec_async(&mut connection)
            .await
    }

    /// Ends the lease. Whether anything of this process is left for others to remove.
    pub(super) async fn end_lease(&self) -> RedisResult<bool> {
        let instance = self.presence.instance.read().await;
        let has_left = self.presence.leftovers.load(Ordering::Relaxed)
            || self.presence.departed.load(Ordering::Relaxed)
            || !instance.stale.is_empty()
            || !self.presence.live().is_empty();
        if has_left {
            self.end_after_grace(&instance.id, LEAVING).await?;
            return Ok(true);
        }
        let mut connection = self.link.connection().await;
        redis::cmd("DEL")
            .arg(lease_key(&instance.id))
            .exec_async(&mut connection)
            .await?;
        redis::cmd("SREM")
            .arg(INSTANCES)
            .arg(&instance.id)
            .exec_async(&mut connection)
            .await?;
        Ok(false)
    }

    /// Lets a lease that is still there end after the grace period; `why` it does is its value
    /// from now on.
    pub(super) async fn end_after_grace(&self, instance: &str, why: &str) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        redis::cmd("SET")
            .arg(lease_key(instance))
            .arg(why)
            .arg("PX")
            .arg(millis(self.config.grace).max(1))
            .arg("XX")
            .exec_async(&mut connection)
            .await
    }

    pub(super) async fn own_instance(&self) -> String {
        self.presence.instance.read().await.id.clone()
    }

    fn write_index(&self, pipe: &mut Pipeline, instance: &str, socket: &str, session: &Session) {
        let key = sockets_key(instance);
        pipe.cmd("HSET")
            .arg(&key)
            .arg(socket)
            .arg(format!("{} {}", session.user, session.id))
            .ignore();
        self.expire(pipe, &key);
    }

    fn arrival(&self, instance: &str, socket: &str, session: &Session) -> ScriptInvocation<'_> {
        let Session { id, user, name } = session;
        let mut call = self.arrive.key(presence_key(user));
        call.key(record_key(user))
            .arg(member(instance, socket))
            .arg(id)
            .arg(format!("{HERE}{name}"))
            .arg(self.life())
            .arg(millis(self.config.session_ttl));
        call
    }

    /// Of a key that goes, when nobody renews it, with the session that it is about; in milliseconds.
    fn life(&self) -> u64 {
        millis(self.config.session_ttl.max(self.config.lease * 4))
    }

    fn expire(&self, pipe: &mut Pipeline, key: &str) {
        pipe.cmd("PEXPIRE").arg(key).arg(self.life()).ignore();
    }
}
