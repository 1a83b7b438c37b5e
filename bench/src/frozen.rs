//! A process that stands still for a while.

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Stands still until this is dropped: a stopped process would not even end when it is asked to.
#[derive(Debug)]
pub(crate) struct Frozen(Pid);

impl Frozen {
    /// Stops a process that this one has started.
    pub(crate) fn freeze(pid: u32) -> anyhow::Result<Frozen> {
        let pid = Pid::from_raw(i32::try_from(pid)?);
        kill(pid, Signal::SIGSTOP).context("cannot stop a process")?;
        Ok(Frozen(pid))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may be gone.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn state(pid: u32) -> String {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.unwrap().trim().to_owned()
    }

    #[test]
    fn a_process_stands_still_and_goes_on() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = cat.id();
        let frozen = Frozen::freeze(pid).unwrap();
        while !state(pid).starts_with('T') {
            std::thread::yield_now();
        }
        drop(frozen);
        drop(cat.stdin.take());
        assert!(cat.wait().unwrap().success());
    }
}
