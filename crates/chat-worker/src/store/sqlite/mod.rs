//! The embedded store: one SQLite database in the data directory, opened by every worker process
//! of the machine.
//!
//! | file | content |
//! |---|---|
//! | `chat.db`, `chat.db-wal`, `chat.db-shm` | the database, its write-ahead log, the log's index |
//! | `writer.lock` | held by the process that writes; tells which one |
//! | `upkeep.lock` | held by the process that tidies up |
//! | `processes/<instance>` | locked by a process for its life; holds its heartbeat |
//!
//! **What survives.** An operation that was answered is in the log file, handed to the kernel: the
//! crash of any process, of all of them, loses nothing. A power cut, or a crash of the kernel, loses
//! with [`Durability::Normal`] at most what was answered in about the last second (a thread writes
//! the log to the disk each second), with [`Durability::Full`] nothing. The database itself stays
//! whole in each case. The directory has to be on a local file system.
//!
//! **Threads.** Each process has four: one writes, one reads, one tidies up, one beats its heart and
//! looks whether a process froze that holds a lock. Nothing here blocks the event loop.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis_adapter::Bus;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use self::health::DatabaseHealth;
use self::holder_lock::HolderLock;
use self::presence::Live;
use self::process_file::ProcessFile;
use self::reader::ReadQueue;
use self::threads::{Shared, Threads, WRITERS_LOCK};
use self::watchdog::Watchdog;
use self::writer::{Progress, Write, WriteQueue, Writer};
use super::{
    Announce, Connected, Health, Position, PresenceChange, Replay, Session, Store, StoreError,
    StoreFuture, Stored,
};
use crate::chat::history::PageRequest;
use crate::chat::identity::{NoRandomness, is_id, random_id};
use crate::chat::lobby::{NewLine, Said};
use crate::chat::message::{Message, NewMessage};
use crate::chat::recent_users::{Change, Recent};
use crate::chat::roster::User;
use crate::chat::user_index::UsersPage;

mod database;
mod export;
mod health;
mod holder_lock;
mod kernel_locks;
mod lobby;
mod messages;
mod presence;
mod process_file;
#[cfg(test)]
mod query_plans;
mod reader;
mod roster;
mod sweep;
mod thread;
mod threads;
mod trim;
mod upkeep;
mod watchdog;
mod writer;

pub use database::DatabaseError;
pub use export::{Expiring, Export, Known, Log, Mark};

/// How long [`check`] waits for a process that writes.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// What survives a power cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// All but about the last second.
    #[default]
    Normal,
    /// All that was answered.
    Full,
}

/// How a [`SqliteStore`] behaves.
#[derive(Debug, Clone)]
pub struct SqliteStoreConfig {
    /// Where the database is; the directory must exist.
    pub data_dir: PathBuf,
    /// What survives a power cut.
    pub durability: Durability,
    /// How long a session lives without a socket.
    pub session_ttl: Duration,
    /// How long a user's messages live after the last one; up to a sixteenth longer.
    pub message_ttl: Duration,
    /// About the most messages that are kept of a user: up to an eighth more, but for those that were
    /// stored just now.
    pub history_max: usize,
    /// How long one operation may take.
    pub operation_timeout: Duration,
    /// How long the users of a process that has left or died count as connected.
    pub grace: Duration,
    /// How often a process looks for dead ones.
    pub tend_interval: Duration,
}

/// Why a [`SqliteStore`] cannot start. That the database cannot be opened is no reason: it is tried
/// until it can.
#[derive(Debug, thiserror::Error)]
pub enum SqliteStartError {
    /// The system has no randomness to give.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// This process cannot show in the data directory that it lives.
    #[error("cannot use the data directory {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A store in SQLite. Dropping it is like the end of the process; see [`Store::leave`] for an
/// orderly one.
pub struct SqliteStore {
    config: SqliteStoreConfig,
    process: Arc<ProcessFile>,
    health: Arc<DatabaseHealth>,
    live: Arc<Live>,
    writes: Arc<WriteQueue>,
    reads: ReadQueue,
    /// Dead processes whose users are expected back, and since when.
    noticed_dead: Mutex<HashMap<String, Instant>>,
    _threads: Threads,
}

impl SqliteStore {
    /// Starts the threads and returns at once. What `append` announces is published on `bus`.
    ///
    /// # Errors
    /// [`SqliteStartError`]
    pub fn start(
        config: SqliteStoreConfig,
        bus: Arc<dyn Bus>,
    ) -> Result<Arc<Self>, SqliteStartError> {
        let instance = random_id()?;
        let failed = |source| SqliteStartError::Io {
            path: config.data_dir.clone(),
            source,
        };
        let process = Arc::new(ProcessFile::create(&config.data_dir, &instance).map_err(failed)?);
        let health = Arc::new(DatabaseHealth::new(database::file(&config.data_dir)));
        let live = Arc::new(Live::default());
        let progress = Arc::new(Progress::default());
        let writer = Writer {
            config: config.clone(),
            process: process.clone(),
            live: live.clone(),
            health: health.clone(),
            bus,
            lock_path: config.data_dir.join(WRITERS_LOCK),
            progress: progress.clone(),
        };
        let writes = Arc::new(writer.start().map_err(failed)?);
        let reads = ReadQueue::start(config.data_dir.clone(), process.clone()).map_err(failed)?;
        let threads = Threads::start(Shared {
            config: config.clone(),
            process: process.clone(),
            health: health.clone(),
            writes: writes.clone(),
            progress,
        });
        Ok(Arc::new(Self {
            _threads: threads.map_err(failed)?,
            config,
            process,
            health,
            live,
            writes,
            reads,
            noticed_dead: Mutex::default(),
        }))
    }

    async fn write<T>(
        &self,
        operation: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.writes.push(operation(reply))?;
        self.bounded(answer).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.bounded(self.reads.push(read)).await
    }

    async fn bounded<T>(
        &self,
        mut answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match timeout(self.config.operation_timeout, &mut answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::Unavailable("the operation was dropped".into())),
            Err(_) => {
                // Either it has been answered by now, or whoever does finds out that it is too late.
                answer.close();
                let late = StoreError::Unavailable("no answer in time".into());
                answer.try_recv().unwrap_or(Err(late))
            }
        }
    }

    async fn add_socket(&self, session: &Session, socket: &str) -> Result<Connected, StoreError> {
        self.live
            .sockets()
            .insert(socket.to_owned(), session.clone());
        let written = self
            .write(|reply| Write::Connect {
                session: session.clone(),
                socket: socket.to_owned(),
                reply,
            })
            .await;
        let error = match written {
            Ok(Some(change)) => return Ok(Connected::Here(change)),
            Ok(None) => {
                self.live.sockets().remove(socket);
                return Ok(Connected::Ended);
            }
            Err(error) => error,
        };
        self.live.set_differs();
        // Who has a session may come in while nothing can be written: it is put right later.
        match self.find_session(&session.id).await {
            Ok(Some(_)) => Ok(Connected::Unwritten),
            Ok(None) | Err(_) => {
                self.live.sockets().remove(socket);
                Err(error)
            }
        }
    }

    async fn remove_socket(&self, session: &Session, socket: &str) -> Result<bool, StoreError> {
        self.live.sockets().remove(socket);
        let written = self
            .write(|reply| Write::Disconnect {
                user: session.user.clone(),
                name: session.name.clone(),
                session: session.id.clone(),
                socket: socket.to_owned(),
                reply,
            })
            .await;
        if written.is_err() {
            self.live.set_differs();
        }
        written
    }

    async fn tend_all(&self) -> Result<Vec<PresenceChange>, StoreError> {
        if self.live.differs() {
            let done = self.write(|reply| Write::PutRight { reply }).await;
            done.inspect_err(|_| self.live.set_differs())?;
        }
        let mut dead = self.dead_instances().await?;
        dead.retain(|instance| instance != self.process.instance());
        for dead in self.dead_for_long(dead) {
            self.repair(dead).await?;
        }
        Ok(self.live.take_found())
    }

    /// Those whose death was noticed longer ago than the grace period: the clients of the others are
    /// on their way to other processes.
    fn dead_for_long(&self, dead: Vec<String>) -> Vec<String> {
        let now = Instant::now();
        let mut noticed = self
            .noticed_dead
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        noticed.retain(|instance, _| dead.contains(instance));
        let long = |instance: &String| {
            let since = noticed.entry(instance.clone()).or_insert(now);
            now.duration_since(*since) >= self.config.grace
        };
        dead.into_iter().filter(long).collect()
    }

    /// Removes what a dead process left.
    async fn repair(&self, dead: String) -> Result<(), StoreError> {
        loop {
            let repaired = self.write(|reply| Write::Repair {
                dead: dead.clone(),
                reply,
            });
            if !repaired.await? {
                break;
            }
        }
        process_file::remove_dead(&self.config.data_dir, &dead);
        Ok(())
    }

    /// Processes that ended without clearing up after themselves.
    async fn dead_instances(&self) -> Result<Vec<String>, StoreError> {
        let data_dir = self.config.data_dir.clone();
        let unreadable = |error: std::io::Error| StoreError::Unavailable(error.to_string());
        let found = self.read(move |connection| {
            let known = presence::instances(connection)?;
            Ok((|| {
                let mut dead = process_file::dead(&data_dir)?;
                for instance in known {
                    if !dead.contains(&instance) && !process_file::is_alive(&data_dir, &instance)? {
                        dead.push(instance);
                    }
                }
                Ok(dead)
            })())
        });
        found.await?.map_err(unreadable)
    }

    async fn end(&self) -> Result<(), StoreError> {
        self.write(|reply| Write::Leave { reply }).await?;
        // Before the look: of several that end at the same time the last sees that it is.
        self.process.end();
        let nobody_lives = process_file::all_are_dead(&self.config.data_dir);
        if nobody_lives.is_ok_and(|nobody| nobody) {
            for dead in self.dead_instances().await? {
                self.repair(dead).await?;
            }
        }
        Ok(())
    }
}

impl Store for SqliteStore {
    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn find_session<'a>(&'a self, id: &'a str) -> StoreFuture<'a, Option<Session>> {
        if !is_id(id) {
            return Box::pin(std::future::ready(Ok(None)));
        }
        let id = id.to_owned();
        Box::pin(self.read(move |connection| presence::find_session(connection, &id, wall_clock())))
    }

    fn recent(&self, since: u64, limit: usize) -> StoreFuture<'_, Recent> {
        let live = self.live.clone();
        Box::pin(
            self.read(move |connection| {
                roster::recent(connection, &live, since, limit, wall_clock())
            }),
        )
    }

    fn look_up<'a>(&'a self, users: &'a [String]) -> StoreFuture<'a, Vec<User>> {
        if users.is_empty() {
            return Box::pin(std::future::ready(Ok(Vec::new())));
        }
        let (live, users) = (self.live.clone(), users.to_vec());
        Box::pin(
            self.read(move |connection| roster::look_up(connection, &live, &users, wall_clock())),
        )
    }

    fn users_page<'a>(&'a self, page: &'a UsersPage) -> StoreFuture<'a, Option<Vec<User>>> {
        let (live, page) = (self.live.clone(), page.clone());
        Box::pin(self.read(move |connection| roster::page(connection, &live, &page, wall_clock())))
    }

    fn announce<'a>(&'a self, user: &'a str, name: &'a str, news: bool) -> StoreFuture<'a, Change> {
        let (user, name) = (user.to_owned(), name.to_owned());
        Box::pin(self.write(move |reply| Write::Announce {
            user,
            name,
            news,
            reply,
        }))
    }

    fn append(&self, message: NewMessage, announce: Announce) -> StoreFuture<'_, Stored> {
        let deadline = Instant::now() + self.config.operation_timeout;
        Box::pin(self.write(move |reply| Write::Append {
            message,
            announce,
            deadline,
            reply,
        }))
    }

    fn replay<'a>(&'a self, user: &'a str, from: Position) -> StoreFuture<'a, Replay> {
        let (user, ttl) = (user.to_owned(), millis(self.config.message_ttl));
        Box::pin(
            self.read(move |connection| {
                messages::replay(connection, &user, from, wall_clock(), ttl)
            }),
        )
    }

    fn position(&self, age: Duration) -> StoreFuture<'_, Option<Position>> {
        let since = wall_clock() - millis(age);
        Box::pin(self.read(move |connection| messages::position_at(connection, since).map(Some)))
    }

    fn page<'a>(
        &'a self,
        user: &'a str,
        request: &'a PageRequest,
    ) -> StoreFuture<'a, Vec<Message>> {
        let (user, request) = (user.to_owned(), request.clone());
        let ttl = millis(self.config.message_ttl);
        Box::pin(
            self.read(move |connection| {
                messages::page(connection, &user, &request, wall_clock(), ttl)
            }),
        )
    }

    fn say(&self, line: NewLine) -> StoreFuture<'_, Stored> {
        let deadline = Instant::now() + self.config.operation_timeout;
        Box::pin(self.write(move |reply| Write::Say {
            line,
            deadline,
            reply,
        }))
    }

    fn said(&self) -> StoreFuture<'_, Said> {
        let ttl = millis(self.config.message_ttl);
        Box::pin(self.read(move |connection| {
            let now = wall_clock();
            Ok(Said {
                lines: lobby::said(connection, now, ttl)?,
                as_of: now as u64,
            })
        }))
    }

    fn begin_session<'a>(&'a self, session: &'a Session) -> StoreFuture<'a, ()> {
        let session = session.clone();
        Box::pin(self.write(move |reply| Write::Begin { session, reply }))
    }

    fn end_session<'a>(&'a self, id: &'a str) -> StoreFuture<'a, bool> {
        let session = id.to_owned();
        Box::pin(self.write(move |reply| Write::End { session, reply }))
    }

    fn has_ended<'a>(&'a self, id: &'a str) -> StoreFuture<'a, bool> {
        let id = id.to_owned();
        Box::pin(self.read(move |connection| presence::has_ended(connection, &id)))
    }

    fn connect<'a>(&'a self, session: &'a Session, socket: &'a str) -> StoreFuture<'a, Connected> {
        Box::pin(self.add_socket(session, socket))
    }

    fn disconnect<'a>(&'a self, session: &'a Session, socket: &'a str) -> StoreFuture<'a, bool> {
        Box::pin(self.remove_socket(session, socket))
    }

    fn connected_name<'a>(&'a self, user: &'a str) -> StoreFuture<'a, Option<String>> {
        let (user, live) = (user.to_owned(), self.live.clone());
        Box::pin(self.read(move |connection| presence::connected_name(connection, &live, &user)))
    }

    fn tend(&self) -> StoreFuture<'_, Vec<PresenceChange>> {
        Box::pin(self.tend_all())
    }

    fn tend_interval(&self) -> Duration {
        self.config.tend_interval
    }

    fn leave_behind(&self, socket: &str) {
        self.live.sockets().remove(socket);
    }

    fn leave(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.end())
    }
}

/// Makes the database when it is missing, and finds what would keep each worker from using it.
/// Blocks.
///
/// # Errors
/// [`DatabaseError`], one line.
pub fn check(data_dir: &Path) -> Result<(), DatabaseError> {
    let failed = |why: String| DatabaseError {
        path: database::file(data_dir),
        why,
    };
    let instance = random_id().map_err(|error| failed(error.to_string()))?;
    let io = |error: std::io::Error| failed(error.to_string());
    let process = ProcessFile::create(data_dir, &instance).map_err(io)?;
    let checked = std::thread::scope(|scope| {
        // On a slow disk it takes its time, and who does not beat is killed.
        let (done, end) = mpsc::channel::<()>();
        scope.spawn(|| threads::keep_beating(&process, end));
        let checked = check_as(&process, data_dir, failed);
        drop(done);
        checked
    });
    process.end();
    checked
}

fn check_as(
    process: &ProcessFile,
    data_dir: &Path,
    failed: impl Fn(String) -> DatabaseError,
) -> Result<(), DatabaseError> {
    let io = |error: std::io::Error| failed(error.to_string());
    let mut lock = HolderLock::open(&data_dir.join(WRITERS_LOCK)).map_err(io)?;
    // A worker of an earlier master may have frozen with it.
    let mut watchdog = Watchdog::new(data_dir, &[WRITERS_LOCK]).map_err(io)?;
    let deadline = Instant::now() + CHECK_PATIENCE;
    loop {
        if let Some(_held) = lock.try_lock(process).map_err(io)? {
            let mut connection = database::open(data_dir, Durability::Full)?;
            return database::try_out(data_dir, &mut connection);
        }
        if Instant::now() >= deadline {
            return Err(failed("another process does not stop writing to it".into()));
        }
        watchdog.look();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Milliseconds since the epoch.
fn wall_clock() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, millis)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
