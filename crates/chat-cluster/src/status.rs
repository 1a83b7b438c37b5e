//! `chat-cluster status`: the cluster at a moment, as a table, as JSON, or again and again. The
//! master answers from what the workers show it anyway; what a process takes comes from `/proc`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use common::monotonic;
use humantime::format_duration;
use serde::{Deserialize, Serialize};
use sticky_master::{MasterHandle, WorkerStatus};

use crate::commands::StatusOptions;
use crate::control::{self, Request};
use crate::output::print;
use crate::signals::block_on;
use crate::upgrade::VERSION;

/// Between two looks of `--watch`.
const PERIOD: Duration = Duration::from_secs(1);

/// Clears the screen, and puts the cursor at its top.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What `--json` prints. A contract: names stay, and others may be added.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    version: String,
    pid: u32,
    /// Seconds since the start of the master's process.
    uptime_s: u64,
    /// How many workers there are to be.
    wanted: usize,
    /// How many take clients.
    ready: usize,
    #[serde(flatten)]
    process: Usage,
    workers: Vec<Worker>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Worker {
    #[serde(flatten)]
    status: WorkerStatus,
    uptime_s: u64,
    #[serde(flatten)]
    process: Usage,
}

/// What a process has taken, and takes; 0 of one that has ended.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Seconds of CPU time since its start.
    pub(crate) cpu_s: f64,
    /// Bytes of memory that are resident, shared ones with them.
    pub(crate) memory_bytes: u64,
}

/// What `/proc` says of a process; zeroes of one that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    /// When it began, in seconds since 1970.
    pub(crate) began_s: f64,
    /// Seconds since then.
    uptime_s: u64,
    pub(crate) usage: Usage,
}

impl Process {
    /// This one.
    pub(crate) fn own() -> Process {
        Process::of(Some(std::process::id()))
    }

    pub(crate) fn of(pid: Option<u32>) -> Process {
        let looked = || -> procfs::ProcResult<Process> {
            let Some(pid) = pid else {
                return Ok(Process::default());
            };
            let stat = procfs::process::Process::new(pid as i32)?.stat()?;
            let ticks = procfs::ticks_per_second() as f64;
            // In seconds since the machine's start.
            let began = stat.starttime as f64 / ticks;
            Ok(Process {
                began_s: procfs::boot_time_secs()? as f64 + began,
                uptime_s: (monotonic::since_boot_s() - began) as u64,
                usage: Usage {
                    cpu_s: (stat.utime + stat.stime) as f64 / ticks,
                    memory_bytes: stat.rss * procfs::page_size(),
                },
            })
        };
        looked().unwrap_or_default()
    }
}

impl Status {
    /// As it is now, in the master's process.
    pub(crate) fn now(master: &MasterHandle) -> Status {
        let own = Process::own();
        let workers = master.status().into_iter().map(|status| {
            let process = Process::of(status.pid);
            Worker {
                status,
                uptime_s: process.uptime_s,
                process: process.usage,
            }
        });
        Status {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_s: own.uptime_s,
            wanted: master.workers(),
            ready: master.ready_workers(),
            process: own.usage,
            workers: workers.collect(),
        }
    }

    /// As one line of JSON, with its end.
    pub(crate) fn line(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// `before`: the same cluster some time ago, for rates.
    fn table(&self, before: Option<(&Status, Duration)>) -> String {
        let mut table = format!(
            "chat-cluster {}, pid {}, up {}: {} of {} workers ready; master {} CPU, {}\n\n",
            self.version,
            self.pid,
            up(self.uptime_s),
            self.ready,
            self.wanted,
            share(
                self.process,
                self.uptime_s,
                before.map(|(status, time)| (status.process, time))
            ),
            mebibytes(self.process.memory_bytes),
        );
        let messages = if before.is_some() {
            "MSG/S"
        } else {
            "MESSAGES"
        };
        let mut rows = vec![
            [
                "WORKER", "PID", "GEN", "STATE", "UP", "CLIENTS", "CONNS", "HANDOFFS", "RELAYED",
                messages, "LAG", "CPU", "MEMORY",
            ]
            .map(str::to_owned),
        ];
        for worker in &self.workers {
            let earlier = before.and_then(|(status, time)| {
                let same = |one: &&Worker| one.status.pid == worker.status.pid;
                Some((status.workers.iter().find(same)?, time))
            });
            rows.push(worker.row(earlier));
        }
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max();
        for row in &rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = width(column).unwrap_or(0);
                // Words to the left, numbers to the right.
                let _ = match column {
                    STATE => write!(line, "{cell:<width$}  "),
                    _ => write!(line, "{cell:>width$}  "),
                };
            }
            table.push_str(line.trim_end());
            table.push('\n');
        }
        table
    }
}

/// The column of the state.
const STATE: usize = 3;

impl Worker {
    fn row(&self, before: Option<(&Worker, Duration)>) -> [String; 13] {
        let known = |number: Option<u64>| number.map_or("-".to_owned(), |known| known.to_string());
        let status = &self.status;
        let messages = match before {
            Some((before, time)) => {
                let more = status.messages.saturating_sub(before.status.messages);
                format!("{:.0}", more as f64 / time.as_secs_f64())
            }
            None => status.messages.to_string(),
        };
        [
            status.id.to_string(),
            known(status.pid.map(u64::from)),
            known(status.generation),
            status.state.to_string(),
            up(self.uptime_s),
            status.clients.to_string(),
            status.connections.to_string(),
            status.handoffs.to_string(),
            status.relayed.to_string(),
            messages,
            format!("{:.1}ms", status.event_loop_lag_us as f64 / 1e3),
            share(
                self.process,
                self.uptime_s,
                before.map(|(before, time)| (before.process, time)),
            ),
            mebibytes(self.process.memory_bytes),
        ]
    }
}

/// In per cent of a core: since before, or on average since its start.
fn share(now: Usage, uptime_s: u64, before: Option<(Usage, Duration)>) -> String {
    let (cpu, time) = match before {
        Some((before, time)) => (now.cpu_s - before.cpu_s, time.as_secs_f64()),
        None => (now.cpu_s, uptime_s.max(1) as f64),
    };
    format!("{:.1}%", cpu.max(0.0) / time * 100.0)
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1}M", bytes as f64 / f64::from(1 << 20))
}

/// The two largest units.
fn up(seconds: u64) -> String {
    let text = format_duration(Duration::from_secs(seconds)).to_string();
    let units: Vec<_> = text.split(' ').take(2).collect();
    units.join("")
}

/// Asks the master of a runtime directory, and prints. The error is one line.
pub(crate) fn run(runtime_dir: &Path, options: &StatusOptions) -> anyhow::Result<()> {
    block_on(async {
        if !options.watch {
            let status = ask(runtime_dir).await?;
            let shown = match options.json {
                true => status.line()?,
                false => status.table(None),
            };
            return print(shown.as_bytes());
        }
        watch(runtime_dir, options.json).await
    })
}

/// Goes on until it is interrupted. Between two masters there is none for a moment.
async fn watch(runtime_dir: &Path, json: bool) -> anyhow::Result<()> {
    let clear = if std::io::stdout().is_terminal() {
        CLEAR
    } else {
        ""
    };
    let mut before: Option<(Status, tokio::time::Instant)> = None;
    let mut looks = tokio::time::interval(PERIOD);
    // After the machine has slept, too, rates are of a whole period.
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let now = tokio::time::Instant::now();
        let status = match ask(runtime_dir).await {
            Ok(status) => status,
            // It never was there.
            Err(error) if before.is_none() => return Err(error),
            Err(error) => {
                if !json {
                    print(format!("{clear}{error:#}\n").as_bytes())?;
                }
                continue;
            }
        };
        let shown = match json {
            true => status.line()?,
            false => {
                let earlier = before.as_ref().map(|(status, at)| (status, now - *at));
                format!("{clear}{}", status.table(earlier))
            }
        };
        print(shown.as_bytes())?;
        before = Some((status, now));
    }
}

async fn ask(runtime_dir: &Path) -> anyhow::Result<Status> {
    let answer = control::answer_of(runtime_dir, &Request::Status).await?;
    anyhow::ensure!(answer.ok, answer.message);
    answer.status.context("the master's answer has no status")
}
