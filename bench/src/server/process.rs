//! One process of a server under test.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// A machine under load starts a Node.js cluster in seconds.
const START_TIME: Duration = Duration::from_secs(60);
/// chat-cluster drains for up to 10 s.
const STOP_TIME: Duration = Duration::from_secs(20);
/// Lines of output that are kept for an error message.
const LAST_LINES: usize = 20;

/// Asked to end when it is dropped; [`Process::stop`] also waits until it has.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Starts it; what it prints is read, and kept for errors.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Process> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("cannot start {name}: {:?}", command.as_std().get_program())
            })?;
        let (send, lines) = mpsc::unbounded_channel();
        let last_lines = Arc::default();
        if let Some(output) = child.stdout.take() {
            tokio::spawn(read(output, send.clone(), Arc::clone(&last_lines)));
        }
        if let Some(output) = child.stderr.take() {
            tokio::spawn(read(output, send, Arc::clone(&last_lines)));
        }
        Ok(Process {
            name,
            child,
            lines,
            last_lines,
        })
    }

    /// 0 once it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits for a line of its output that `found` takes.
    pub(crate) async fn until<T>(
        &mut self,
        found: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let search = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(found) = found(&line) {
                    return Some(found);
                }
            }
            None
        };
        match tokio::time::timeout(START_TIME, search).await {
            Ok(Some(found)) => {
                self.lines.close();
                Ok(found)
            }
            Ok(None) => bail!("{} ended: {}", self.name, self.output()),
            Err(_) => bail!(
                "{} is not ready after {START_TIME:?}: {}",
                self.name,
                self.output()
            ),
        }
    }

    /// Waits until it listens on `port` of the loopback.
    pub(crate) async fn until_listening(&mut self, port: u16) -> anyhow::Result<()> {
        let begun = tokio::time::Instant::now();
        // Nothing tells when a process of another kind listens: it is asked.
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            if self.child.try_wait()?.is_some() {
                bail!("{} ended: {}", self.name, self.output());
            }
            if begun.elapsed() > START_TIME {
                bail!("{} does not listen: {}", self.name, self.output());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn output(&self) -> String {
        let lines = self
            .last_lines
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        lines.iter().map(|line| format!("\n  {line}")).collect()
    }

    /// Asks it to end, and makes it when it does not. An error when it has ended by itself.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} has ended by itself, {status}: {}",
                self.name,
                self.output()
            );
        }
        self.ask_to_end();
        if tokio::time::timeout(STOP_TIME, self.child.wait())
            .await
            .is_err()
        {
            self.child.kill().await?;
        }
        Ok(())
    }

    fn ask_to_end(&self) {
        // The pid is there as long as nobody has waited for the process: it is still its own.
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
    }
}

impl Drop for Process {
    /// Not killed: it would leave behind what it has started itself.
    fn drop(&mut self) {
        self.ask_to_end();
    }
}

async fn read(
    output: impl AsyncRead + Unpin,
    lines: mpsc::UnboundedSender<String>,
    last_lines: Arc<Mutex<VecDeque<String>>>,
) {
    let mut output = BufReader::new(output).lines();
    while let Ok(Some(line)) = output.next_line().await {
        {
            let mut last = last_lines
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line.clone());
        }
        // Nobody waits for lines once it is ready.
        let _ = lines.send(line);
    }
}
