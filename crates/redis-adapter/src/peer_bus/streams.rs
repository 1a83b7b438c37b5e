//! The tasks behind a bus: one that accepts, one for each stream.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout, timeout_at};

use super::clock;
use super::frame::{Frame, FrameError};
use super::outbox::{Outbox, Taken};
use super::socket_path;
use super::table::Table;

/// Who connects says hello within that time.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// Streams that are accepted at once: twice the processes that a cluster can have.
const STREAMS_MAX: usize = 512;

/// Between two signs of life: when a process dies, what it told nobody is looked for from the last
/// one on.
const ALIVE: Duration = Duration::from_secs(1);

/// After a failed accept: no descriptor is left.
const PAUSE: Duration = Duration::from_millis(100);

/// Before the next try to connect to a peer that was there just now; doubled with each.
const RETRY: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The room to read into; more is taken for a frame that is longer.
const READ_BUFFER: usize = 16 * 1024;

/// What each task needs.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) table: Arc<Table>,
    pub(super) directory: PathBuf,
    pub(super) name: String,
    pub(super) closed: watch::Receiver<bool>,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("no hello within {HELLO_TIME:?}")]
    Silent,
    #[error("no hello")]
    Rude,
}

impl Streams {
    /// Runs a task until the bus is closed.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut closed = self.closed.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = closed.wait_for(|closed| *closed) => {}
                () = task => {}
            }
        });
    }

    /// Reads what others write, until the bus is closed.
    pub(super) fn accept(&self, listener: UnixListener) {
        let this = self.clone();
        let room = Arc::new(tokio::sync::Semaphore::new(STREAMS_MAX));
        self.spawn(async move {
            loop {
                let Ok(permit) = room.clone().acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let reading = this.clone();
                        this.spawn(async move {
                            reading.read(stream).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a stream of the bus");
                        sleep(PAUSE).await;
                    }
                }
            }
        });
    }

    /// Says that the bus is up when all of `found` have told what they want, or do not answer.
    pub(super) async fn joined(self, found: Vec<String>, limit: Duration, up: watch::Sender<bool>) {
        let _ = timeout(limit, self.table.known(&found)).await;
        up.send_replace(true);
    }

    async fn read(&self, mut stream: UnixStream) {
        let user = stream.peer_cred().map(|peer| peer.uid());
        if user.ok() != Some(nix::unistd::getuid().as_raw()) {
            tracing::warn!("a stream of another user on the bus");
            return;
        }
        let mut buffer = BytesMut::with_capacity(READ_BUFFER);
        let deadline = Instant::now() + HELLO_TIME;
        let hello = timeout_at(deadline, next_frame(&mut stream, &mut buffer)).await;
        let (name, since) = match hello.unwrap_or(Err(ReadError::Silent)) {
            Ok(Some(Frame::Hello { name, since_ns })) if name != self.name => {
                (name, clock::moment(since_ns))
            }
            Ok(None) => return,
            Ok(Some(_)) => return tracing::warn!(error = %ReadError::Rude, "a stream of the bus"),
            Err(error) => return tracing::warn!(%error, "a stream of the bus"),
        };
        let arrival = self.table.arrived(name.clone(), since);
        if let Some(outbox) = arrival.new_peer {
            self.write_to(name.clone(), outbox);
        }
        // Also when this task is ended: the bus is closed then, and nobody hears of it.
        let mut farewell = false;
        loop {
            match next_frame(&mut stream, &mut buffer).await {
                Ok(Some(Frame::Bye)) => farewell = true,
                Ok(Some(frame)) => self.table.heard(arrival.listener, frame),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(peer = name, %error, "a stream of the bus broke");
                    break;
                }
            }
            tokio::task::consume_budget().await;
        }
        self.table.left(arrival.listener, farewell);
    }

    /// Writes what is for the peer, for as long as somebody has that name.
    pub(super) fn write_to(&self, name: String, outbox: Arc<Outbox>) {
        let this = self.clone();
        self.spawn(async move {
            let mut again = false;
            let mut pause = RETRY;
            loop {
                match UnixStream::connect(socket_path(&this.directory, &name)).await {
                    Ok(stream) => {
                        this.table.connected(&name, &this.name, again);
                        again = true;
                        let began = Instant::now();
                        if let Err(error) = write(stream, &outbox).await {
                            tracing::debug!(peer = name, %error, "a stream of the bus broke");
                        }
                        // One that is ended at once is not what it says.
                        if began.elapsed() >= RETRY_MAX {
                            pause = RETRY;
                            continue;
                        }
                    }
                    Err(error) if is_nobody(&error) => {
                        if this.table.gone(&name) {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(peer = name, %error, "cannot connect on the bus; trying on");
                    }
                }
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        });
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// The next frame; none at the end of the stream.
async fn next_frame(
    stream: &mut UnixStream,
    buffer: &mut BytesMut,
) -> Result<Option<Frame>, ReadError> {
    loop {
        if let Some(frame) = Frame::decode(buffer)? {
            return Ok(Some(frame));
        }
        buffer.reserve(READ_BUFFER);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

/// Writes until the peer is gone, or has to begin anew.
async fn write(mut stream: UnixStream, outbox: &Outbox) -> io::Result<()> {
    let (mut reading, mut writing) = stream.split();
    let mut nothing = [0; 1];
    let writes = async {
        let mut alive = interval_at(Instant::now() + ALIVE, ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Told is the time of the tick before: what was done by then has been published by now, even
        // if this process stood still in between.
        let mut tick = Instant::now();
        loop {
            tokio::select! {
                taken = outbox.take() => match taken {
                    Taken::Bytes(bytes) => writing.write_all(&bytes).await?,
                    Taken::Overrun => return Err(io::Error::other("the peer does not read")),
                },
                _ = alive.tick() => outbox.alive(std::mem::replace(&mut tick, Instant::now())),
            }
        }
    };
    tokio::select! {
        // Nothing is ever sent this way: it ends when the peer does.
        _ = reading.read(&mut nothing) => Ok(()),
        failed = writes => failed,
    }
}
