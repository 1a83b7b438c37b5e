//! The thread that writes. What waits for it shares one transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use redis_adapter::Bus;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::oneshot;

use super::database;
use super::health::DatabaseHealth;
use super::holder_lock::HolderLock;
use super::lobby;
use super::messages::{self, Tail};
use super::presence::{self, Live};
use super::process_file::{self, ProcessFile};
use super::roster;
use super::thread;
use super::{SqliteStoreConfig, millis, wall_clock};
use crate::chat::lobby::NewLine;
use crate::chat::message::NewMessage;
use crate::chat::recent_users::{CHANNEL, Change};
use crate::store::{Announce, PresenceChange, Session, StoreError, Stored};

/// Between the end of a commit and the next one's beginning: under load, what arrives meanwhile
/// shares it. A commit of one message costs 44 µs of CPU, one of four 77 µs (4 processes on 2 cores,
/// 6,000 messages a second). One that comes after a pause is written at once.
const PACE: Duration = Duration::from_millis(2);

/// Most operations of one transaction, so that other processes get their turn.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Operations and their bytes that may wait.
const MAX_WAITING: usize = 8192;
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;

/// What an operation costs beside the content of a message.
const OVERHEAD: usize = 256;

pub(super) const NOTE_LIFE: &str = "UPDATE state SET value = ?2 WHERE name = ?1 AND value <> ?2";

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// An operation, and whom to tell.
pub(super) enum Write {
    Append {
        message: NewMessage,
        announce: Announce,
        /// Nobody waits for it any more.
        deadline: Instant,
        reply: Reply<Stored>,
    },
    Say {
        line: NewLine,
        deadline: Instant,
        reply: Reply<Stored>,
    },
    /// A session, without a socket yet.
    Begin { session: Session, reply: Reply<()> },
    /// A session ends; whether there was one.
    End { session: String, reply: Reply<bool> },
    Connect {
        session: Session,
        socket: String,
        reply: Reply<Option<Change>>,
    },
    /// Whether a user is connected, for all to hear.
    Announce {
        user: String,
        name: String,
        news: bool,
        reply: Reply<Change>,
    },
    Disconnect {
        user: String,
        name: String,
        session: String,
        socket: String,
        reply: Reply<bool>,
    },
    /// Presence as this process knows it.
    PutRight { reply: Reply<()> },
    /// A part of what a dead process left; whether there is more.
    Repair { dead: String, reply: Reply<bool> },
    /// This process is about to end.
    Leave { reply: Reply<()> },
    /// Only to find out whether it works.
    Probe,
}

impl Write {
    fn size(&self) -> usize {
        match self {
            Write::Append { message, .. } => message.content.len() + OVERHEAD,
            Write::Say { line, .. } => line.msg.len() + OVERHEAD,
            _ => OVERHEAD,
        }
    }

    /// When nobody waits for it any more.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Write::Append { deadline, .. } | Write::Say { deadline, .. } => Some(*deadline),
            _ => None,
        }
    }
}

/// What became of an operation, to be told once it is committed.
enum Outcome {
    Stored(Stored),
    Began(Option<Change>),
    Ended(bool),
    Connected(Option<Change>),
    Announced(Change),
    Disconnected(bool),
    PutRight(Vec<PresenceChange>),
    Repaired(Vec<PresenceChange>, bool),
    Nothing,
}

/// The way to the writer.
pub(super) struct WriteQueue {
    operations: mpsc::SyncSender<Write>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl WriteQueue {
    /// Queues an operation; never waits.
    pub(super) fn push(&self, write: Write) -> Result<(), StoreError> {
        let size = write.size();
        let before = self.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let queued = if before + size > MAX_WAITING_BYTES {
            Err("too much waits to be written".to_owned())
        } else {
            self.operations
                .try_send(write)
                .map_err(|_| "too many operations wait to be written".to_owned())
        };
        queued.map_err(|why| {
            self.waiting_bytes.fetch_sub(size, Ordering::Relaxed);
            StoreError::Unavailable(why)
        })
    }
}

pub(super) struct Writer {
    pub(super) config: SqliteStoreConfig,
    pub(super) process: Arc<ProcessFile>,
    pub(super) live: Arc<Live>,
    pub(super) health: Arc<DatabaseHealth>,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) lock_path: PathBuf,
    pub(super) progress: Arc<Progress>,
}

/// Since when the writer has been at one transaction, for those who look whether it is stuck.
#[derive(Default)]
pub(super) struct Progress(std::sync::Mutex<Option<Instant>>);

impl Progress {
    fn set(&self, since: Option<Instant>) {
        *self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = since;
    }

    pub(super) fn busy_for(&self) -> Option<Duration> {
        let since = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        since.map(|since| since.elapsed())
    }
}

/// What stays between transactions, and is made anew when it broke.
#[derive(Default)]
struct Tools {
    lock: Option<HolderLock>,
    connection: Option<Connection>,
}

impl Writer {
    /// Starts the thread; it ends with the queue.
    pub(super) fn start(self) -> std::io::Result<WriteQueue> {
        let (operations, queue) = mpsc::sync_channel(MAX_WAITING);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = waiting_bytes.clone();
        thread::spawn("store-writer", move || self.run(&queue, &waiting))?;
        Ok(WriteQueue {
            operations,
            waiting_bytes,
        })
    }

    fn run(self, queue: &mpsc::Receiver<Write>, waiting_bytes: &AtomicUsize) {
        let mut tools = Tools::default();
        let mut last_end: Option<Instant> = None;
        while let Ok(first) = queue.recv() {
            if let Some(pause) = last_end.and_then(|end| PACE.checked_sub(end.elapsed())) {
                std::thread::sleep(pause);
            }
            let mut bytes = first.size();
            let mut batch = vec![first];
            while batch.len() < MAX_BATCH
                && bytes < MAX_BATCH_BYTES
                && let Ok(next) = queue.try_recv()
            {
                bytes += next.size();
                batch.push(next);
            }
            waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.progress.set(Some(Instant::now()));
            // A defect in here must not leave a store that takes operations and never answers.
            let done = catch_unwind(AssertUnwindSafe(|| self.write(&mut tools, batch)));
            if done.is_err() {
                tracing::error!("writing to the database panicked; opening it again");
                tools = Tools::default();
            }
            self.progress.set(None);
            last_end = Some(Instant::now());
        }
    }

    fn write(&self, tools: &mut Tools, mut batch: Vec<Write>) {
        match self.commit(tools, &mut batch) {
            Ok(outcomes) => self.done(batch, outcomes),
            // It may be one of them that cannot be done, where something is damaged.
            Err(why) if batch.len() > 1 && why != database::DISK_FULL => {
                let mut worked = false;
                for write in batch {
                    worked |= self.write_alone(tools, write);
                }
                if !worked {
                    self.health.down(&why);
                }
            }
            Err(why) => {
                self.health.down(&why);
                for write in batch {
                    self.refuse(write, &why);
                }
            }
        }
    }

    /// Whether it worked.
    fn write_alone(&self, tools: &mut Tools, write: Write) -> bool {
        let mut alone = vec![write];
        match self.commit(tools, &mut alone) {
            Ok(outcomes) => {
                self.done(alone, outcomes);
                true
            }
            Err(why) => {
                for write in alone {
                    self.refuse(write, &why);
                }
                false
            }
        }
    }

    /// Nothing, if nobody waited any more.
    fn done(&self, batch: Vec<Write>, outcomes: Vec<Outcome>) {
        if batch.is_empty() {
            return;
        }
        self.health.up();
        for (write, outcome) in batch.into_iter().zip(outcomes) {
            self.tell(write, outcome);
        }
    }

    /// All of `batch` in one transaction, or nothing. Without those that nobody waits for any more
    /// when it is this process's turn.
    fn commit(&self, tools: &mut Tools, batch: &mut Vec<Write>) -> Result<Vec<Outcome>, String> {
        let lock = match &mut tools.lock {
            Some(lock) => lock,
            none => {
                let opened = HolderLock::open(&self.lock_path);
                none.insert(opened.map_err(|error| error.to_string())?)
            }
        };
        let _held = lock
            .lock(&self.process)
            .map_err(|error| error.to_string())?;
        let now = Instant::now();
        batch.retain(|write| write.deadline().is_none_or(|deadline| deadline > now));
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let connection = match &mut tools.connection {
            Some(connection) => connection,
            none => {
                let opened = database::open(&self.config.data_dir, self.config.durability);
                let opened = opened.map_err(|error| error.why)?;
                let noted = note_lives(&opened, &self.config);
                noted.map_err(|error| database::reason(&error))?;
                none.insert(opened)
            }
        };
        let outcomes = self.transaction(connection, batch);
        outcomes.map_err(|error| {
            if database::needs_reopening(&error) {
                tools.connection = None;
            }
            database::reason(&error)
        })
    }

    fn transaction(
        &self,
        connection: &mut Connection,
        batch: &[Write],
    ) -> rusqlite::Result<Vec<Outcome>> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let now = wall_clock();
        let mut tail = None;
        let outcomes = batch
            .iter()
            .map(|write| self.apply(&transaction, &mut tail, now, write))
            .collect::<rusqlite::Result<_>>()?;
        transaction.commit()?;
        Ok(outcomes)
    }

    fn apply(
        &self,
        connection: &Connection,
        tail: &mut Option<Tail>,
        now: i64,
        write: &Write,
    ) -> rusqlite::Result<Outcome> {
        let instance = self.process.instance();
        let expires = now.saturating_add(millis(self.config.session_ttl));
        Ok(match write {
            Write::Append { message, .. } => {
                let tail = match tail {
                    Some(tail) => tail,
                    none => none.insert(Tail::read(connection)?),
                };
                Outcome::Stored(messages::append(connection, tail, now, message)?)
            }
            Write::Say { line, .. } => Outcome::Stored(lobby::say(connection, now, line)?),
            Write::Begin { session, .. } => {
                let Session { user, name, .. } = session;
                Outcome::Began(
                    match presence::write_session(connection, session, expires)? {
                        true => Some(roster::change(connection, &self.live, user, name, false)?),
                        false => None,
                    },
                )
            }
            Write::End { session, .. } => {
                Outcome::Ended(presence::end_session(connection, session, expires)?)
            }
            Write::Connect {
                session, socket, ..
            } => {
                let Session { user, name, .. } = session;
                let is_first = !roster::has_sockets(connection, user)?;
                let added = presence::add(connection, instance, socket, session, expires)?;
                Outcome::Connected(match added {
                    true => Some(roster::change(
                        connection, &self.live, user, name, is_first,
                    )?),
                    false => None,
                })
            }
            Write::Announce {
                user, name, news, ..
            } => Outcome::Announced(roster::change(connection, &self.live, user, name, *news)?),
            Write::Disconnect {
                user,
                session,
                socket,
                ..
            } => {
                let removed =
                    presence::remove(connection, instance, socket, user, session, expires)?;
                // One that could not be written when it came was its user's last, too.
                let known = removed.was_there || self.live.differs();
                Outcome::Disconnected(known && removed.none_left)
            }
            Write::PutRight { .. } => {
                let mut changes = Vec::new();
                presence::put_right(connection, instance, &self.live, expires, &mut changes)?;
                Outcome::PutRight(changes)
            }
            Write::Repair { dead, .. } => {
                let mut changes = Vec::new();
                // Looked at a moment before its file was locked, a new process seems dead.
                if process_file::is_alive(&self.config.data_dir, dead).unwrap_or(true) {
                    return Ok(Outcome::Repaired(changes, false));
                }
                let more = presence::repair(connection, dead, expires, &mut changes)?;
                Outcome::Repaired(changes, more)
            }
            Write::Leave { .. } => {
                presence::forget_unless_left(connection, instance)?;
                Outcome::Nothing
            }
            Write::Probe => {
                database::write_a_little(connection)?;
                Outcome::Nothing
            }
        })
    }

    /// Committed: says so. A message is announced before it is acknowledged. Should this process die
    /// before, the others notice that its stream on the bus ended, and read the store.
    fn tell(&self, write: Write, outcome: Outcome) {
        // Whoever asked may have stopped waiting.
        match (write, outcome) {
            (
                Write::Append {
                    announce, reply, ..
                },
                Outcome::Stored(stored),
            ) => {
                if stored.fresh {
                    self.publish(announce, stored.at);
                }
                let _ = reply.send(Ok(stored));
            }
            (Write::Say { line, reply, .. }, Outcome::Stored(stored)) => {
                if stored.fresh {
                    self.publish(
                        Box::new(move |at| vec![line.stored(at).publication()]),
                        stored.at,
                    );
                }
                let _ = reply.send(Ok(stored));
            }
            (Write::Begin { reply, .. }, Outcome::Began(change)) => {
                change.iter().for_each(|change| self.publish_change(change));
                let _ = reply.send(Ok(()));
            }
            (Write::Leave { reply }, _) => {
                let _ = reply.send(Ok(()));
            }
            (Write::End { reply, .. }, Outcome::Ended(yes)) => {
                let _ = reply.send(Ok(yes));
            }
            (Write::Connect { reply, .. }, Outcome::Connected(change)) => {
                change.iter().for_each(|change| self.publish_change(change));
                let _ = reply.send(Ok(change));
            }
            (Write::Announce { reply, .. }, Outcome::Announced(change)) => {
                self.publish_change(&change);
                let _ = reply.send(Ok(change));
            }
            (
                Write::Disconnect {
                    user, name, reply, ..
                },
                Outcome::Disconnected(last),
            ) => {
                let told = reply.send(Ok(last)).is_ok();
                if last && !told {
                    self.live.found([PresenceChange::Gone { user, name }]);
                }
            }
            (Write::PutRight { reply }, Outcome::PutRight(changes)) => {
                self.live.found(changes);
                let _ = reply.send(Ok(()));
            }
            (Write::Repair { reply, .. }, Outcome::Repaired(changes, more)) => {
                self.live.found(changes);
                let _ = reply.send(Ok(more));
            }
            _ => {}
        }
    }

    fn publish(&self, announce: Announce, at: u64) {
        // A defect in one message's must not cost the rest of the batch theirs.
        let published = catch_unwind(AssertUnwindSafe(|| {
            for publication in announce(at) {
                // Takes effect at the call.
                drop(self.bus.publish(publication.channel, publication.payload));
            }
        }));
        if published.is_err() {
            tracing::error!("announcing a message panicked");
        }
    }

    /// One that nobody hears is read from the store at the next login, or within seconds.
    fn publish_change(&self, change: &Change) {
        // Texts and numbers are always JSON.
        if let Ok(payload) = serde_json::to_vec(change) {
            drop(self.bus.publish(CHANNEL.to_owned(), payload.into()));
        }
    }

    fn refuse(&self, write: Write, why: &str) {
        let error = StoreError::Unavailable(why.to_owned());
        match write {
            Write::Append { reply, .. } | Write::Say { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Write::Begin { reply, .. } | Write::Leave { reply } | Write::PutRight { reply } => {
                drop(reply.send(Err(error)));
            }
            Write::Connect { reply, .. } => drop(reply.send(Err(error))),
            Write::Announce { reply, .. } => drop(reply.send(Err(error))),
            Write::Disconnect { reply, .. }
            | Write::Repair { reply, .. }
            | Write::End { reply, .. } => drop(reply.send(Err(error))),
            Write::Probe => {}
        }
    }
}

/// Tells who reads the database later how long things are kept. Writes only what is new.
fn note_lives(connection: &Connection, config: &SqliteStoreConfig) -> rusqlite::Result<()> {
    for (name, life) in [
        ("session_ttl", config.session_ttl),
        ("message_ttl", config.message_ttl),
    ] {
        let mut note = connection.prepare_cached(NOTE_LIFE)?;
        note.execute(params![name, millis(life)])?;
    }
    Ok(())
}
