//! What processes take, as /proc tells it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::memory::Memory;

/// What a group of processes has taken so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) pids: Vec<u32>,
    /// CPU time of all living threads, in microseconds: what an ended one took is gone, but no
    /// server here ends threads while it works.
    pub(crate) cpu_micros: f64,
    /// Bytes handed to the disk.
    pub(crate) written: u64,
}

/// Which processes count as one part of a server.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scope {
    /// This process alone.
    Process,
    /// All that it started, and they.
    Descendants,
    /// Both.
    Tree,
}

impl Role {
    pub(crate) fn new(name: &str, pid: u32, scope: Scope) -> Role {
        Role {
            name: name.to_owned(),
            pid,
            scope,
        }
    }

    /// Its processes as they are now.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut pids = Vec::new();
        if self.scope != Scope::Descendants {
            pids.push(self.pid);
        }
        if self.scope != Scope::Process {
            add_descendants(self.pid, &mut pids);
        }
        pids
    }
}

/// As the command line takes it.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            Scope::Process => ":self",
            Scope::Descendants => ":children",
            Scope::Tree => "",
        };
        write!(f, "{}={}{scope}", self.name, self.pid)
    }
}

/// What each part has taken so far. A process that is gone counts as nothing.
pub(crate) fn usage(roles: &[Role]) -> BTreeMap<String, Usage> {
    let mut all: BTreeMap<String, Usage> = BTreeMap::new();
    for role in roles {
        let usage = all.entry(role.name.clone()).or_default();
        for pid in role.pids() {
            usage.pids.push(pid);
            usage.cpu_micros += cpu_micros(pid);
            usage.written += written(pid);
        }
    }
    all
}

/// CPU time that all of them have taken so far, in microseconds.
pub(crate) fn cpu_of_all(roles: &[Role]) -> f64 {
    usage(roles).values().map(|usage| usage.cpu_micros).sum()
}

/// Memory of all these processes in KiB: pages that several share count in parts.
pub(crate) fn pss_kib(roles: &[Role]) -> f64 {
    let pids = roles.iter().flat_map(Role::pids);
    pids.map(|pid| Memory::of(pid).pss).sum()
}

/// The first number of the line that starts with `name`.
pub(crate) fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn tasks(pid: u32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).ok();
    entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

/// Exact, from the scheduler; `stat` counts in steps of 10 ms.
fn cpu_micros(pid: u32) -> f64 {
    let nanos = |task: PathBuf| -> Option<f64> {
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    tasks(pid).filter_map(nanos).sum::<f64>() / 1_000.0
}

fn written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io"));
    io.ok()
        .and_then(|text| field(&text, "write_bytes:"))
        .unwrap_or_default() as u64
}

fn add_descendants(pid: u32, pids: &mut Vec<u32>) {
    for task in tasks(pid) {
        let children = fs::read_to_string(task.join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
        {
            pids.push(child);
            add_descendants(child, pids);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_role_is_a_process_its_descendants_or_both() {
        // The shell waits for its child: there are two processes until standard input ends.
        let mut shell = Command::new("sh")
            .args(["-c", "cat; true"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = shell.id();
        let pids = |scope| Role::new("shell", pid, scope).pids();
        while pids(Scope::Descendants).is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(pids(Scope::Process), [pid]);
        assert_eq!(pids(Scope::Descendants).len(), 1);
        assert_eq!(pids(Scope::Tree).len(), 2);
        let roles = [Role::new("shell", pid, Scope::Tree)];
        assert!(pss_kib(&roles) > 0.0);
        assert!(usage(&roles)["shell"].cpu_micros > 0.0);
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!(usage(&roles)["shell"].cpu_micros, 0.0);
    }

    #[test]
    fn own_work_is_counted() {
        let roles = [Role::new("self", std::process::id(), Scope::Process)];
        let before = usage(&roles)["self"].cpu_micros;
        let begun = std::time::Instant::now();
        while begun.elapsed().as_millis() < 20 {
            std::hint::black_box(begun);
        }
        assert!(usage(&roles)["self"].cpu_micros > before);
    }
}
