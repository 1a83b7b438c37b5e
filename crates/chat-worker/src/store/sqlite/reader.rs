//! The thread that reads, on a connection of its own: it goes on whatever happens to writing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::database::{self, DatabaseError};
use super::process_file::ProcessFile;
use super::thread;
use crate::store::StoreError;

/// Reads that may wait: more than the sockets that log in at once.
const MAX_WAITING: usize = 8192;

/// Between two lines in the log about what cannot be read.
const COMPLAINTS: Duration = Duration::from_secs(60);

type Job = Box<dyn FnOnce(Result<&Connection, &str>) -> Result<(), rusqlite::Error> + Send>;

/// The way to the reader.
pub(super) struct ReadQueue(mpsc::SyncSender<Job>);

impl ReadQueue {
    /// Starts the thread; it ends with the queue.
    pub(super) fn start(data_dir: PathBuf, process: Arc<ProcessFile>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(MAX_WAITING);
        thread::spawn("store-reader", move || {
            let mut reader = Reader {
                data_dir,
                process,
                connection: None,
                complained: None,
            };
            // Not only when it is needed: opening waits for who is writing.
            let _ = reader.open();
            while let Ok(job) = queue.recv() {
                let done = catch_unwind(AssertUnwindSafe(|| reader.run(job)));
                if done.is_err() {
                    tracing::error!("reading the database panicked; opening it again");
                    reader.connection = None;
                }
            }
        })?;
        Ok(Self(jobs))
    }

    /// Runs `read` in a transaction: all that it reads is of one moment.
    pub(super) fn push<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, StoreError>> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            if reply.is_closed() {
                return Ok(());
            }
            let unavailable = |why: &str| Err(StoreError::Unavailable(why.to_owned()));
            let (answer, error) = match connection {
                Err(why) => (unavailable(why), None),
                Ok(connection) => match in_transaction(connection, read) {
                    Ok(value) => (Ok(value), None),
                    Err(error) => (unavailable(&database::reason(&error)), Some(error)),
                },
            };
            let _ = reply.send(answer);
            error.map_or(Ok(()), Err)
        });
        if let Err(mpsc::TrySendError::Full(job) | mpsc::TrySendError::Disconnected(job)) =
            self.0.try_send(job)
        {
            let _ = job(Err("too many reads wait"));
        }
        answer
    }
}

fn in_transaction<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let transaction = connection.unchecked_transaction()?;
    read(&transaction)
}

fn read_only(connection: Connection) -> Result<Connection, DatabaseError> {
    match connection.pragma_update(None, "query_only", true) {
        Ok(()) => Ok(connection),
        Err(error) => Err(DatabaseError {
            path: PathBuf::new(),
            why: database::reason(&error),
        }),
    }
}

struct Reader {
    data_dir: PathBuf,
    process: Arc<ProcessFile>,
    connection: Option<Connection>,
    complained: Option<Instant>,
}

impl Reader {
    fn open(&mut self) -> Result<&Connection, DatabaseError> {
        match &mut self.connection {
            Some(open) => Ok(open),
            none => {
                let opened = database::open_beside(&self.data_dir, &self.process);
                Ok(none.insert(opened.and_then(read_only)?))
            }
        }
    }

    fn run(&mut self, job: Job) {
        let open = match self.open() {
            Ok(open) => open,
            Err(error) => {
                let _ = job(Err(&error.why));
                self.complain(&error.why);
                return;
            }
        };
        if let Err(error) = job(Ok(open))
            && database::needs_reopening(&error)
        {
            self.complain(&database::reason(&error));
            self.connection = None;
        }
    }

    /// Writing may go on meanwhile, and some reading: only here anybody sees that something is wrong.
    fn complain(&mut self, why: &str) {
        let now = Instant::now();
        if self.complained.is_none_or(|last| now - last >= COMPLAINTS) {
            self.complained = Some(now);
            let database = database::file(&self.data_dir);
            let database = database.display();
            tracing::error!(%database, why, "the database cannot be read, or not all of it");
        }
    }
}
