//! Copies an embedded store into a Redis: sessions and messages, with what is left of their time.
//!
//! Safe to be run again: a session that is there stays as it is, and a message that is there is not
//! added a second time, so what an interrupted run left is completed. A lobby in which something was
//! said already stays as it is.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{RedisError, RedisResult, Script};

use crate::chat::lobby::Line;
use crate::chat::message::Message;
use crate::chat::roster::User;
use crate::data_dir::{DataDir, DataDirError};
use crate::redis_connection::RedisConnection;
use crate::redis_url::RedisUrl;
use crate::store::redis::{
    DEDUPE_WINDOW, ENROL, LOBBY_LOG, ask_whether_listed, enrolment, write_absent,
};
use crate::store::sqlite::{DatabaseError, Expiring, Export, Known, Log, Mark};

/// Messages of one command.
const CHUNK: usize = 200;

/// How long Redis may take for one command.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a list that is not in its place yet is kept.
const HALF_BUILT: Duration = Duration::from_secs(60 * 60);

/// Says in a Redis that what is in it was copied from one data directory.
const ORIGIN_KEY: &str = "cc:migrated-from";

/// Takes the place of the list unless that has changed.
///
/// KEYS: list, the new one. ARGV: length that the list had, TTL ms.
const REPLACE: &str = "
if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
local left = redis.call('PTTL', KEYS[1])
redis.call('RENAME', KEYS[2], KEYS[1])
redis.call('PEXPIRE', KEYS[1], math.max(left, tonumber(ARGV[2])))
return 1";

/// KEYS: session. ARGV: user, name, TTL ms, the user's field.
const ADD_SESSION: &str = "
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[4], ARGV[1], 'username', ARGV[2], 'connected', 'false')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

/// KEYS: list. ARGV: TTL ms, entries. Returns how many were added.
const ADD_LOBBY: &str = "
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 2, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return #ARGV - 1";

/// What to copy, and where to.
#[derive(Debug, Clone)]
pub struct Migration {
    /// The data directory. No cluster may use it.
    pub from: PathBuf,
    /// The Redis.
    pub to: RedisUrl,
    /// Add to a Redis that has keys already.
    pub merge: bool,
}

/// What was done, or has been done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sessions looked at.
    pub sessions: Part,
    /// Users whose messages were looked at.
    pub users: Part,
    /// Sessions copied.
    pub sessions_added: u64,
    /// Entries added to lists: two for a private message, one for each side; one for a message of
    /// the lobby.
    pub entries_added: u64,
    /// Sessions and entries that were there already.
    pub present: u64,
    /// Sessions whose time was over.
    pub expired: u64,
}

/// How much of something is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    /// So much.
    pub done: u64,
    /// Of so much.
    pub of: u64,
}

/// Why a migration ended early. It can be run again.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The data directory cannot be used, or a cluster uses it.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database cannot be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Redis did not do what it was asked.
    #[error("Redis at {url}: {source}")]
    Redis {
        /// Without its password.
        url: String,
        /// What went wrong.
        source: RedisError,
    },
    /// There are keys in the Redis that do not come from this data directory.
    #[error("the Redis at {0} is not empty; --merge adds to what it has")]
    NotEmpty(String),
    /// Somebody uses the Redis at the same time.
    #[error(
        "the messages of user {0} change in the Redis while they are merged; stop its clusters"
    )]
    Changing(String),
}

/// Copies, and tells now and then how far it is.
///
/// # Errors
/// [`MigrateError`], one line.
pub async fn migrate(
    migration: &Migration,
    mut tell: impl FnMut(&Progress),
) -> Result<Progress, MigrateError> {
    let dir = DataDir::existing(&migration.from)?;
    let _alone = dir.claim_alone()?;
    let export = Export::open(dir.path())?;
    let url = migration.to.to_string();
    let failed = |source| MigrateError::Redis {
        url: url.clone(),
        source,
    };
    let mut target = Target::connect(&migration.to).await.map_err(failed)?;
    let origin = export.origin()?;
    if !migration.merge && !target.is_ours_to_fill(&origin).await.map_err(failed)? {
        return Err(MigrateError::NotEmpty(url));
    }
    target.mark(&origin).await.map_err(failed)?;

    let mut progress = Progress::default();
    progress.sessions.of = export.session_count()?;
    let logs = export.logs()?;
    progress.users.of = logs.len() as u64;
    tell(&progress);
    let mut after = String::new();
    loop {
        let sessions = export.sessions(&after)?;
        let Some(last) = sessions.last() else { break };
        after.clone_from(&last.value.session.id);
        progress.sessions.done += sessions.len() as u64;
        target
            .add_sessions(&sessions, &mut progress)
            .await
            .map_err(failed)?;
        tell(&progress);
    }
    let lobby = export.lobby()?;
    target
        .add_lobby(&lobby, &mut progress)
        .await
        .map_err(failed)?;
    for log in &logs {
        target
            .add_messages(&export, log, &mut progress)
            .await
            .map_err(|error| match error {
                AddError::Redis(source) => failed(source),
                AddError::Other(error) => error,
            })?;
        progress.users.done += 1;
        tell(&progress);
    }
    Ok(progress)
}

struct Target {
    connection: RedisConnection,
    replace: Script,
    add_session: Script,
    enrol: Script,
    add_lobby: Script,
}

enum AddError {
    Redis(RedisError),
    Other(MigrateError),
}

impl From<RedisError> for AddError {
    fn from(error: RedisError) -> Self {
        AddError::Redis(error)
    }
}

impl From<DatabaseError> for AddError {
    fn from(error: DatabaseError) -> Self {
        AddError::Other(error.into())
    }
}

impl Target {
    async fn connect(url: &RedisUrl) -> RedisResult<Self> {
        Ok(Self {
            connection: RedisConnection::open(url, PATIENCE).await?,
            replace: Script::new(REPLACE),
            add_session: Script::new(ADD_SESSION),
            enrol: Script::new(ENROL),
            add_lobby: Script::new(ADD_LOBBY),
        })
    }

    /// Empty, or filled from the same data directory before.
    async fn is_ours_to_fill(&mut self, origin: &str) -> RedisResult<bool> {
        let keys: u64 = redis::cmd("DBSIZE")
            .query_async(&mut self.connection)
            .await?;
        let known: Option<String> = redis::cmd("GET")
            .arg(ORIGIN_KEY)
            .query_async(&mut self.connection)
            .await?;
        Ok(keys == 0 || known.as_deref() == Some(origin))
    }

    async fn mark(&mut self, origin: &str) -> RedisResult<()> {
        redis::cmd("SET")
            .arg(ORIGIN_KEY)
            .arg(origin)
            .exec_async(&mut self.connection)
            .await
    }

    async fn add_sessions(
        &mut self,
        sessions: &[Expiring<Known>],
        progress: &mut Progress,
    ) -> RedisResult<()> {
        // All at once: a round trip for each would take its time where Redis is far away.
        let script = self.add_session.load_async(&mut self.connection).await?;
        let mut commands = redis::pipe();
        for Expiring { value, left } in sessions {
            let left = left.as_millis() as u64;
            if left == 0 {
                progress.expired += 1;
                continue;
            }
            let command = commands.cmd("EVALSHA").arg(&script).arg(1);
            let Known { session, ended } = value;
            let field = if *ended { "ended" } else { "userID" };
            let command = command.arg(format!("session:{}", session.id));
            let command = command.arg(&session.user).arg(&session.name);
            command.arg(left).arg(field);
        }
        if commands.is_empty() {
            return Ok(());
        }
        let added: Vec<bool> = commands.query_async(&mut self.connection).await?;
        self.add_users(sessions).await?;
        let new = added.iter().filter(|added| **added).count();
        progress.sessions_added += new as u64;
        progress.present += (added.len() - new) as u64;
        Ok(())
    }

    /// Has their users listed, as if each had come and gone; not those who are.
    async fn add_users(&mut self, sessions: &[Expiring<Known>]) -> RedisResult<()> {
        let living = sessions.iter().filter(|session| !session.left.is_zero());
        let living: Vec<(User, u64)> = living
            .map(|Expiring { value, left }| {
                let user = User {
                    id: value.session.user.clone(),
                    name: value.session.name.clone(),
                    connected: false,
                };
                (user, (left.as_millis() as u64).max(1))
            })
            .collect();
        if living.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        for (user, left_ms) in &living {
            write_absent(&mut commands, &user.id, &user.name, *left_ms);
            ask_whether_listed(&mut commands, user);
        }
        let listed: Vec<Option<f64>> = commands.query_async(&mut self.connection).await?;
        let missing = living.iter().zip(listed).filter(|(_, at)| at.is_none());
        let mut commands = redis::pipe();
        for ((user, _), _) in missing {
            commands.invoke_script(&enrolment(&self.enrol, user, false));
        }
        if commands.is_empty() {
            return Ok(());
        }
        self.enrol.load_async(&mut self.connection).await?;
        let _: Vec<(u64, u64)> = commands.query_async(&mut self.connection).await?;
        Ok(())
    }

    async fn add_lobby(
        &mut self,
        lobby: &Expiring<Vec<Line>>,
        progress: &mut Progress,
    ) -> RedisResult<()> {
        if lobby.value.is_empty() {
            return Ok(());
        }
        let mut call = self.add_lobby.key(LOBBY_LOG);
        call.arg((lobby.left.as_millis() as u64).max(1));
        for line in &lobby.value {
            call.arg(line.to_json());
        }
        let added: u64 = call.invoke_async(&mut self.connection).await?;
        progress.entries_added += added;
        progress.present += lobby.value.len() as u64 - added;
        Ok(())
    }

    /// Builds the user's list beside the one that is there, and puts it in its place.
    async fn add_messages(
        &mut self,
        export: &Export,
        log: &Expiring<Log>,
        progress: &mut Progress,
    ) -> Result<(), AddError> {
        let user = &log.value.user;
        let list = format!("messages:{user}");
        // In the same slot of a Redis Cluster.
        let building = format!("cc:{{{list}}}:migrating");
        let there: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(&list)
            .arg(0)
            .arg(-1)
            .query_async(&mut self.connection)
            .await?;
        let length = there.len();
        let mut merge = Merge::new(there);
        redis::cmd("DEL")
            .arg(&building)
            .exec_async(&mut self.connection)
            .await?;
        let (mut added, mut mark) = (0, Mark::default());
        loop {
            let (messages, next) = export.messages(&log.value, mark, CHUNK)?;
            let end = messages.is_empty();
            mark = next;
            let mut entries = Vec::new();
            let mut ids = redis::pipe();
            let ids_key = format!("cc:ids:{{{list}}}");
            let mut young = 0;
            for message in messages {
                if merge.knows(&message) {
                    progress.present += 1;
                    continue;
                }
                added += 1;
                if let (Some(at), Some(id)) = (message.at, &message.id)
                    && is_young(at)
                {
                    young += 1;
                    let member = format!("{} {id}", message.from);
                    ids.cmd("ZADD").arg(&ids_key).arg(at).arg(member).ignore();
                }
                entries.extend(merge.before(message.at));
                entries.push(serde_json::to_vec(&message).unwrap_or_default());
            }
            if end {
                entries.extend(merge.rest());
            }
            for chunk in entries.chunks(CHUNK) {
                redis::pipe()
                    .rpush(&building, chunk)
                    .ignore()
                    // Should nobody complete it.
                    .pexpire(&building, HALF_BUILT.as_millis() as i64)
                    .ignore()
                    .exec_async(&mut self.connection)
                    .await?;
            }
            if young > 0 {
                // Sent again within its time, it is still known.
                ids.cmd("PEXPIRE")
                    .arg(&ids_key)
                    .arg(DEDUPE_WINDOW.as_millis() as u64)
                    .ignore();
                ids.exec_async(&mut self.connection).await?;
            }
            if end {
                break;
            }
        }
        if added == 0 {
            redis::cmd("DEL")
                .arg(&building)
                .exec_async(&mut self.connection)
                .await?;
            return Ok(());
        }
        let replaced: bool = self
            .replace
            .key(&list)
            .key(&building)
            .arg(length)
            .arg((log.left.as_millis() as u64).max(1))
            .invoke_async(&mut self.connection)
            .await?;
        if !replaced {
            return Err(AddError::Other(MigrateError::Changing(user.clone())));
        }
        progress.entries_added += added;
        Ok(())
    }
}

/// A list that is there, into which messages are merged by their time.
struct Merge {
    known: HashSet<(String, String)>,
    entries: std::iter::Peekable<std::vec::IntoIter<(u64, Vec<u8>)>>,
}

impl Merge {
    fn new(there: Vec<Vec<u8>>) -> Self {
        let mut known = HashSet::new();
        let mut entries = Vec::with_capacity(there.len());
        let mut time = 0;
        for entry in there {
            if let Some(message) = Message::from_entry(&entry) {
                // One of a Node server has no time: it stays behind the one that it follows.
                time = message.at.unwrap_or(time);
                if let Some(id) = message.id {
                    known.insert((message.from, id));
                }
            }
            entries.push((time, entry));
        }
        Self {
            known,
            entries: entries.into_iter().peekable(),
        }
    }

    fn knows(&self, message: &Message) -> bool {
        let id = message.id.clone().unwrap_or_default();
        self.known.contains(&(message.from.clone(), id))
    }

    /// The entries that come before a message of that time.
    fn before(&mut self, at: Option<u64>) -> Vec<Vec<u8>> {
        let at = at.unwrap_or(u64::MAX);
        std::iter::from_fn(|| self.entries.next_if(|(time, _)| *time <= at))
            .map(|(_, entry)| entry)
            .collect()
    }

    fn rest(&mut self) -> Vec<Vec<u8>> {
        self.before(None)
    }
}

fn is_young(at: u64) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis());
    u128::from(at) + DEDUPE_WINDOW.as_millis() > now
}
