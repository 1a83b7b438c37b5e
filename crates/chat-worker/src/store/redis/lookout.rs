//! Looking around: users whom servers of the original example made are found by their sessions, and
//! users whose sessions have expired are struck off the index. One process does it at a time, slowly:
//! a page of each at a step, so that it costs Redis a hundredth of its time at most.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::RedisResult;
use tokio::sync::Mutex;

use super::RedisStore;
use super::roster::{BY_CHANGE, ELSEWHERE, GONE, HERE, read_record, record_key, split_member};
use super::sessions::{FIELDS, Fields, millis, record};
use crate::chat::roster::User;
use crate::redis_connection::Primary;
use crate::store::{Session, StoreError};

/// Who does it.
const ELECTED: &str = "cc:{users}:lookout";

/// For so long, unless renewed.
const TERM: Duration = Duration::from_secs(15);

/// Keys that a step looks at.
const PAGE: usize = 500;

/// Between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(100);

/// Between two rounds at least, and at most; else ten times as long as a round took.
const ROUND_PAUSE_MIN: Duration = Duration::from_millis(500);
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How often others look whether it is their turn.
const OTHERS_PAUSE: Duration = Duration::from_secs(5);

/// Writes what another program says of a user, unless a socket of ours has come meanwhile.
///
/// KEYS: record. ARGV: what the record of one who is here begins with, new record, TTL ms. Returns
/// whether it was written.
pub(super) const NOTE: &str = "
local record = redis.call('GET', KEYS[1])
if record and string.sub(record, 1, 1) == ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

#[derive(Default)]
pub(super) struct Lookout {
    findings: Mutex<Findings>,
    is_elected: AtomicBool,
}

/// What the process that is elected has found so far.
#[derive(Default)]
struct Findings {
    round: Option<Round>,
    /// Of whom the last round found a session that is connected, and nothing else. A worker that lets
    /// go of a user writes the session last, so for a moment each of ours looks like this.
    newcomers: HashSet<String>,
    /// Who seemed to have expired in the last round: a login writes the index and the record at the
    /// same time, and for a moment one of them may be missing.
    suspects: HashSet<String>,
}

/// One look at everything.
struct Round {
    began: Instant,
    /// Servers that are still to be looked through, the last one first, and how far it is.
    to_scan: Vec<Primary>,
    cursor: u64,
    /// Users of other programs that are connected, and some of whom a session says that they are not.
    connected: HashSet<String>,
    maybe_gone: HashMap<String, String>,
    /// Those who are connected as a session says, and of whom nothing else is known.
    maybe_here: HashMap<String, String>,
    /// How far the index is looked through; none when it is.
    index_cursor: Option<u64>,
    expired: HashSet<String>,
}

impl RedisStore {
    pub(super) async fn look_around_once(&self) -> Result<Duration, StoreError> {
        let elected = self.bounded(self.is_elected()).await?;
        self.lookout.is_elected.store(elected, Ordering::Relaxed);
        let mut findings = self.lookout.findings.lock().await;
        if !elected {
            *findings = Findings::default();
            return Ok(OTHERS_PAUSE);
        }
        let Findings {
            round: current,
            newcomers,
            suspects,
        } = &mut *findings;
        // A step that fails is made again.
        let round = match &mut *current {
            Some(round) => round,
            none => none.insert(self.bounded(self.begin_round()).await?),
        };
        if let Some(primary) = round.to_scan.last().cloned() {
            self.bounded(self.find_sessions(&primary, round)).await?;
        }
        if let Some(cursor) = round.index_cursor {
            self.bounded(self.find_expired(cursor, round)).await?;
        }
        if !round.to_scan.is_empty() || round.index_cursor.is_some() {
            return Ok(STEP_PAUSE);
        }
        for (user, name) in std::mem::take(&mut round.maybe_gone) {
            if !round.connected.contains(&user) {
                self.bounded(self.note_elsewhere(&user, &name, false, true))
                    .await?;
            }
        }
        let maybe_here = std::mem::take(&mut round.maybe_here);
        let found = maybe_here.keys().cloned().collect();
        let found_before = std::mem::replace(newcomers, found);
        for (user, name) in maybe_here {
            if found_before.contains(&user) {
                self.bounded(self.note_elsewhere(&user, &name, true, true))
                    .await?;
            }
        }
        let expired = std::mem::take(&mut round.expired);
        let suspected = std::mem::replace(suspects, expired.clone());
        self.bounded(self.strike_off(expired.intersection(&suspected)))
            .await?;
        let took = round.began.elapsed();
        *current = None;
        Ok((took * 10).clamp(ROUND_PAUSE_MIN, ROUND_PAUSE_MAX))
    }

    async fn is_elected(&self) -> RedisResult<bool> {
        let own = self.own_instance().await;
        let mut connection = self.link.connection().await;
        let taken: Option<String> = redis::cmd("SET")
            .arg(ELECTED)
            .arg(&own)
            .arg("NX")
            .arg("PX")
            .arg(millis(TERM))
            .query_async(&mut connection)
            .await?;
        if taken.is_some() {
            return Ok(true);
        }
        let elected: Option<String> = redis::cmd("GET")
            .arg(ELECTED)
            .query_async(&mut connection)
            .await?;
        if elected != Some(own) {
            return Ok(false);
        }
        redis::cmd("PEXPIRE")
            .arg(ELECTED)
            .arg(millis(TERM))
            .query_async(&mut connection)
            .await
    }

    async fn begin_round(&self) -> RedisResult<Round> {
        let mut connection = self.link.connection().await;
        Ok(Round {
            began: Instant::now(),
            to_scan: connection.primaries().await?,
            cursor: 0,
            connected: HashSet::new(),
            maybe_gone: HashMap::new(),
            maybe_here: HashMap::new(),
            index_cursor: Some(0),
            expired: HashSet::new(),
        })
    }

    /// Looks at a page of sessions of one server.
    async fn find_sessions(&self, primary: &Primary, round: &mut Round) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        let mut scan = redis::cmd("SCAN");
        scan.arg(round.cursor).arg("MATCH").arg("session:*");
        scan.arg("COUNT").arg(PAGE);
        let found = connection.ask(primary, scan).await?;
        let (next, keys): (u64, Vec<Vec<u8>>) = redis::from_redis_value(found)?;
        if !keys.is_empty() {
            // A key of that name that is no hash costs its own entry, not the whole page.
            let mut pipe = redis::pipe();
            pipe.ignore_errors();
            for key in keys {
                pipe.cmd("HMGET").arg(key).arg(&FIELDS);
            }
            let read: Vec<RedisResult<Fields>> = pipe.query_async(&mut connection).await?;
            let mut users: HashMap<String, User> = HashMap::new();
            for user in read.into_iter().flatten().filter_map(record) {
                // A user is connected when one of their sessions is.
                let known = users.entry(user.id.clone()).or_insert_with(|| user.clone());
                known.connected |= user.connected;
            }
            self.note_users(users.into_values().collect(), round)
                .await?;
        }
        round.cursor = next;
        if next == 0 {
            round.to_scan.pop();
        }
        Ok(())
    }

    /// Compares what sessions say with what is known.
    async fn note_users(&self, users: Vec<User>, round: &mut Round) -> RedisResult<()> {
        let records = self
            .read_records(users.iter().map(|user| &*user.id))
            .await?;
        for (user, record) in users.into_iter().zip(records) {
            let known = record.as_deref().and_then(|record| record.chars().next());
            let User {
                id,
                name,
                connected,
            } = user;
            match known {
                Some(HERE) => {}
                Some(ELSEWHERE) if connected => {
                    round.connected.insert(id);
                }
                Some(ELSEWHERE) => {
                    round.maybe_gone.insert(id, name);
                }
                Some(_) if !connected => {}
                None if !connected => self.note_elsewhere(&id, &name, false, true).await?,
                _ => {
                    round.connected.insert(id.clone());
                    round.maybe_here.insert(id, name);
                }
            }
        }
        Ok(())
    }

    /// Takes note of whether a user is connected elsewhere, unless they are here.
    async fn note_elsewhere(
        &self,
        user: &str,
        name: &str,
        connected: bool,
        news: bool,
    ) -> RedisResult<()> {
        let presence = if connected { ELSEWHERE } else { GONE };
        let mut connection = self.link.connection().await;
        let mut note = self.note.key(record_key(user));
        note.arg(HERE.to_string())
            .arg(format!("{presence}{name}"))
            .arg(millis(self.config.session_ttl));
        match note.invoke_async(&mut connection).await? {
            true => self.enrol_as_is(user, name, news).await.map(|_| ()),
            false => Ok(()),
        }
    }

    /// Looks at a page of the index for users who are not known any more.
    async fn find_expired(&self, cursor: u64, round: &mut Round) -> RedisResult<()> {
        let mut connection = self.link.connection().await;
        let (next, found): (u64, Vec<(String, f64)>) = redis::cmd("ZSCAN")
            .arg(BY_CHANGE)
            .arg(cursor)
            .arg("COUNT")
            .arg(PAGE)
            .query_async(&mut connection)
            .await?;
        for page in found.chunks(PAGE) {
            let members = page.iter().map(|(member, _)| member);
            let users = members.clone().map(|member| split_member(member));
            let users = users.map(|split| split.map_or("", |(user, _)| user));
            let records = self.read_records(users).await?;
            let expired = members.zip(records).filter(|(_, record)| record.is_none());
            round
                .expired
                .extend(expired.map(|(member, _)| member.clone()));
        }
        round.index_cursor = Some(next).filter(|next| *next != 0);
        Ok(())
    }

    async fn strike_off(&self, members: impl Iterator<Item = &String>) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        for member in members {
            match split_member(member) {
                Some((user, name)) => self.strike_out(&mut pipe, user, name),
                None => {
                    pipe.cmd("ZREM").arg(BY_CHANGE).arg(member).ignore();
                }
            }
        }
        if pipe.is_empty() {
            return Ok(());
        }
        let mut connection = self.link.connection().await;
        pipe.exec_async(&mut connection).await
    }

    /// What another program says of a user, who may be connected here as well. Everybody was told.
    pub(super) async fn take_note_of(&self, user: &User) -> RedisResult<()> {
        if !self.lookout.is_elected.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut connection = self.link.connection().await;
        let record: Option<String> = redis::cmd("GET")
            .arg(record_key(&user.id))
            .query_async(&mut connection)
            .await?;
        let known = record
            .as_deref()
            .map(|record| read_record(&user.id, record));
        let is_ours = record.is_some_and(|record| record.starts_with(HERE));
        match known {
            Some(_) if is_ours => Ok(()),
            Some(known) if known.connected == user.connected => Ok(()),
            Some(known) => {
                self.note_elsewhere(&user.id, &known.name, user.connected, false)
                    .await
            }
            // Who has gone says no name.
            None if !user.connected => Ok(()),
            None => self.note_elsewhere(&user.id, &user.name, true, false).await,
        }
    }

    /// See [`Store::still_connected`](crate::store::Store::still_connected).
    pub(super) async fn keep_connected(&self, session: &Session) -> RedisResult<()> {
        self.write_connected(&session.id, true).await?;
        let mut connection = self.link.connection().await;
        redis::cmd("SET")
            .arg(record_key(&session.user))
            .arg(format!("{ELSEWHERE}{}", session.name))
            .arg("PX")
            .arg(millis(self.config.session_ttl))
            .exec_async(&mut connection)
            .await
    }
}
