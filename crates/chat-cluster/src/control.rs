//! Commands to a running master: a Unix socket in its runtime directory, which only its user can
//! reach. A request is one line of JSON, and so is the answer.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use common::runtime_dir::RuntimeDir;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::operator::Operator;
use crate::signals::block_on;
use crate::status::Status;

/// A request comes within that time, and is not longer.
const REQUEST_TIME: Duration = Duration::from_secs(5);
const REQUEST_MAX: u64 = 4096;

/// When no connection can be taken (no descriptors), the next try is after that.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What can be asked for.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub(crate) enum Request {
    /// New workers instead of those that run.
    Reload,
    /// So many workers; and so many clients a second that are asked to move.
    Scale {
        workers: usize,
        #[serde(default)]
        rebalance: Option<u32>,
    },
    /// The program on disk instead of this one.
    Upgrade,
    /// How it stands.
    Status,
}

/// What came of it.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    /// For a person.
    pub(crate) message: String,
    /// What was asked for with [`Request::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
}

impl From<Result<String, String>> for Answer {
    fn from(result: Result<String, String>) -> Answer {
        let ok = result.is_ok();
        let (Ok(message) | Err(message)) = result;
        Answer {
            ok,
            message,
            status: None,
        }
    }
}

/// Listens in a directory whose master this process is.
pub(crate) fn listen(runtime_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = RuntimeDir::open(runtime_dir)?.control_socket();
    // Left over: the master's lock says that nobody listens there.
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))
}

/// Carries out what comes in; goes on for ever.
pub(crate) async fn serve(listener: UnixListener, operator: Operator) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let operator = operator.clone();
                tokio::spawn(async move {
                    if let Err(error) = attend(stream, operator).await {
                        tracing::debug!(%error, "control connection");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a control connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn attend(stream: UnixStream, operator: Operator) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut bounded = (&mut reader).take(REQUEST_MAX);
    let read = bounded.read_line(&mut line);
    tokio::time::timeout(REQUEST_TIME, read)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let mut stream = reader.into_inner();
    let answer = match serde_json::from_str(&line) {
        Ok(Request::Reload) => operator.reload().await,
        Ok(Request::Scale { workers, rebalance }) => operator.scale(workers, rebalance).await,
        Ok(Request::Status) => {
            let answer = Answer {
                ok: true,
                message: operator.status(),
                status: Some(operator.whole_status()),
            };
            return write(&mut stream, answer).await;
        }
        // The program that follows answers.
        Ok(Request::Upgrade) => match operator.upgrade(Some(stream)).await {
            Ok(()) | Err((None, _)) => return Ok(()),
            Err((Some(asks), why)) => {
                stream = asks;
                Err(why)
            }
        },
        Err(error) => Err(format!("no such request: {error}")),
    };
    write(&mut stream, answer.into()).await
}

/// Answers who has waited since before an upgrade.
pub(crate) async fn answer(asks: OwnedFd, answer: Result<String, String>) {
    let stream = std::os::unix::net::UnixStream::from(asks);
    let answered = match UnixStream::from_std(stream) {
        Ok(mut stream) => write(&mut stream, answer.into()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = answered {
        tracing::debug!(%error, "who asked for the upgrade did not wait");
    }
}

/// Writes the last line of a connection.
async fn write(stream: &mut UnixStream, answer: Answer) -> io::Result<()> {
    write_line(stream, &answer).await?;
    stream.shutdown().await
}

async fn write_line(stream: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Asks the master of a runtime directory. The error is one line.
pub(crate) async fn answer_of(runtime_dir: &Path, request: &Request) -> anyhow::Result<Answer> {
    let nobody = || format!("no cluster runs in {}", runtime_dir.display());
    // Not made, as the directory of a cluster that is started would be.
    anyhow::ensure!(runtime_dir.is_dir(), nobody());
    let path = RuntimeDir::open(runtime_dir)?.control_socket();
    let mut stream = UnixStream::connect(&path).await.with_context(nobody)?;
    write_line(&mut stream, request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    anyhow::ensure!(!answer.is_empty(), "the master ended before it answered");
    serde_json::from_slice(&answer).context("the master's answer cannot be read")
}

/// The same, and prints the answer.
pub(crate) fn ask(runtime_dir: &Path, request: &Request) -> anyhow::Result<()> {
    let answer = block_on(answer_of(runtime_dir, request))?;
    anyhow::ensure!(answer.ok, answer.message);
    println!("{}", answer.message);
    Ok(())
}
