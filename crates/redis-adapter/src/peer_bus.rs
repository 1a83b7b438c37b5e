//! A [`Bus`] between the processes of one machine: a Unix stream from each to each other one, and
//! nothing that has to run beside them.
//!
//! **Meeting.** A process binds `<directory>/<name>.bus`, and *then* looks who else is there and
//! connects to them. So of any two at least one sees the other; who is connected to connects back.
//!
//! **Streams.** Each process writes on the streams that it made, and reads on those that it
//! accepted: what it wants to hear, and what the other wanted. A message costs only the
//! processes that subscribed to its channel.
//!
//! **What may be missed is told.** A peer that does not keep up loses messages, and finds a
//! [`BusEvent::Gap`](crate::BusEvent::Gap) in their place; as does one that came while something was
//! published whose wishes were not known yet. A stream that ends without a farewell is a gap for who
//! reads it: the writer died, and what it did last it may not have told.

mod clock;
mod frame;
mod outbox;
mod streams;
mod table;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::bus::{Bus, BusError};
use crate::event_queue::{EventReceiver, event_queue};
use frame::FRAME_MAX;
use streams::Streams;
use table::Table;

/// The extension of the sockets' names.
const EXTENSION: &str = "bus";

/// Time limits and bounds of a [`PeerBus`].
#[derive(Debug, Clone)]
pub struct PeerBusOptions {
    /// Where the processes meet. Must belong to this user alone.
    pub directory: PathBuf,
    /// This process's name, which no other *living* one may have: 1 to 64
    /// letters, digits, `-` and `_`.
    pub name: String,
    /// How long a peer may take to confirm a subscription, and to say at the
    /// start what it wants; a frozen one is not waited for any longer.
    /// Default 1 s.
    pub answer_timeout: Duration,
    /// How long [`Bus::close`] takes at most. Default 1 s.
    pub close_timeout: Duration,
    /// Messages that may wait for the consumer. More become a gap. Default 16,384.
    pub max_waiting_events: usize,
    /// Their bytes. Default 32 MiB.
    pub max_waiting_event_bytes: usize,
    /// Messages that may wait for one peer. More become a gap there. Default 16,384.
    pub max_waiting_publishes: usize,
    /// Their bytes. Default 32 MiB.
    pub max_waiting_publish_bytes: usize,
}

impl PeerBusOptions {
    /// The defaults for one process.
    pub fn new(directory: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        Self {
            directory: directory.into(),
            name: name.into(),
            answer_timeout: Duration::from_secs(1),
            close_timeout: Duration::from_secs(1),
            max_waiting_events: 16_384,
            max_waiting_event_bytes: 32 * 1024 * 1024,
            max_waiting_publishes: 16_384,
            max_waiting_publish_bytes: 32 * 1024 * 1024,
        }
    }
}

/// One process's end of the bus. When it is dropped its streams end as if the process had died; see
/// [`Bus::close`].
pub struct PeerBus {
    table: Arc<Table>,
    up: watch::Sender<bool>,
    /// Ends all tasks.
    closed: watch::Sender<bool>,
    options: PeerBusOptions,
}

impl PeerBus {
    /// Binds this process's socket, and looks for the others.
    ///
    /// # Errors
    /// When the name is none, or the socket cannot be bound.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(options: PeerBusOptions) -> io::Result<(Self, EventReceiver)> {
        if !frame::is_name(&options.name) {
            let why = format!("{:?} cannot be a name on the bus", options.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let (events, receiver) =
            event_queue(options.max_waiting_events, options.max_waiting_event_bytes);
        let table = Arc::new(Table::new(
            events,
            options.max_waiting_publishes,
            options.max_waiting_publish_bytes,
        ));
        let closed = watch::Sender::new(false);
        let listener = bind(&socket_path(&options.directory, &options.name))?;
        let streams = Streams {
            table: table.clone(),
            directory: options.directory.clone(),
            name: options.name.clone(),
            closed: closed.subscribe(),
        };
        streams.accept(listener);
        let mut found = Vec::new();
        for name in names_in(&options.directory)? {
            if name != options.name
                && let Some(outbox) = table.found(&name)
            {
                streams.write_to(name.clone(), outbox);
                found.push(name);
            }
        }
        let up = watch::Sender::new(false);
        tokio::spawn(streams.joined(found, options.answer_timeout, up.clone()));
        let bus = Self {
            table,
            up,
            closed,
            options,
        };
        Ok((bus, receiver))
    }
}

impl Drop for PeerBus {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}

impl Bus for PeerBus {
    fn publish(&self, channel: String, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        let result = if *self.closed.borrow() {
            Err(BusError::Closed)
        } else if channel.len() > usize::from(u16::MAX)
            || channel.len() + payload.len() + 3 > FRAME_MAX
        {
            Err(BusError::Refused("the message is too large".to_owned()))
        } else {
            self.table.publish(channel, payload);
            Ok(())
        };
        Box::pin(std::future::ready(result))
    }

    fn subscribe(&self, channels: Vec<String>) -> BoxFuture<'static, Result<(), BusError>> {
        if channels.iter().any(|c| c.len() > usize::from(u16::MAX)) {
            let refused = BusError::Refused("the channel's name is too long".to_owned());
            return Box::pin(std::future::ready(Err(refused)));
        }
        let Some((mark, confirmed)) = self.table.subscribe(channels) else {
            return Box::pin(std::future::ready(Ok(())));
        };
        let (table, limit) = (self.table.clone(), self.options.answer_timeout);
        let asked = Instant::now();
        Box::pin(async move {
            let mut confirmed = confirmed;
            match timeout(limit, &mut confirmed).await {
                Ok(result) => result.unwrap_or(Err(BusError::Closed)),
                Err(_) => {
                    table.give_up(mark, asked);
                    // Now all have answered or were given up, or the channel was unsubscribed.
                    confirmed.await.unwrap_or(Err(BusError::Closed))
                }
            }
        })
    }

    fn unsubscribe(&self, channels: Vec<String>) {
        self.table.unsubscribe(channels);
    }

    fn subscribers(&self, channels: Vec<String>) -> BoxFuture<'static, Result<Vec<u64>, BusError>> {
        Box::pin(std::future::ready(Ok(self.table.subscribers(&channels))))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let (table, closed) = (self.table.clone(), self.closed.clone());
        let path = socket_path(&self.options.directory, &self.options.name);
        let limit = self.options.close_timeout;
        Box::pin(async move {
            let outboxes = table.outboxes();
            for outbox in &outboxes {
                outbox.control(&frame::Frame::Bye);
            }
            let written = async {
                for outbox in &outboxes {
                    outbox.written().await;
                }
            };
            let _ = timeout(limit, written).await;
            let _ = fs::remove_file(path);
            closed.send_replace(true);
        })
    }

    fn watch_up(&self) -> watch::Receiver<bool> {
        self.up.subscribe()
    }
}

fn socket_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.{EXTENSION}"))
}

/// The name is ours, so a socket that is there is a dead process's.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// The names of all that have a socket there, living or dead.
fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == EXTENSION)
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            && frame::is_name(name)
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
