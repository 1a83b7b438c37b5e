//! What a process writes into its lease, so that the others on its machine know of its death at
//! once, and not only when the lease runs out.

use std::fs;
use std::sync::LazyLock;

/// A process of some machine: `<machine> <pid> <start>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessMark {
    /// The machine since it was started, and in which of its containers.
    machine: String,
    pid: u32,
    /// In ticks since the machine's start: the number may be another process's by now.
    started: u64,
}

impl ProcessMark {
    /// The mark of this process; just its number where the system does not tell the rest.
    pub(super) fn own_text() -> String {
        let pid = std::process::id();
        match (machine(), started(pid)) {
            (Some(machine), Some(started)) => format!("{machine} {pid} {started}"),
            _ => pid.to_string(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let mut fields = text.split(' ');
        let mark = Self {
            machine: fields.next()?.to_owned(),
            pid: fields.next()?.parse().ok()?,
            started: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(mark)
    }
}

/// Whether the process with this mark was on this machine and has died. One of another machine is
/// never known to be dead.
pub(super) fn is_dead(mark: &str) -> bool {
    ProcessMark::read(mark).is_some_and(|mark| {
        // A process of another container cannot be looked up, and must not be missed.
        machine().is_some_and(|here| here == mark.machine)
            && started(mark.pid) != Some(mark.started)
    })
}

/// This machine; it stays the same for the life of a process.
fn machine() -> Option<&'static str> {
    static MACHINE: LazyLock<Option<String>> = LazyLock::new(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let pids = fs::read_link("/proc/self/ns/pid").ok()?;
        let machine = format!("{}/{}", boot.trim(), pids.display());
        (!machine.contains(' ')).then_some(machine)
    });
    MACHINE.as_deref()
}

/// When a process was started; `None` when there is none, or one that has ended and was not
/// waited for yet.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may have anything in it: proc_pid_stat(5). The state is the first
    // field behind it, the start the twentieth.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_lives_is_not_dead_and_one_that_died_is() {
        assert!(!is_dead(&ProcessMark::own_text()));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let (machine, started) = (machine().unwrap(), started(pid).unwrap());
        let mark = format!("{machine} {pid} {started}");
        assert!(!is_dead(&mark));
        // The number was given to another process.
        assert!(is_dead(&format!("{machine} {pid} {}", started + 1)));
        assert!(!is_dead(&format!("elsewhere {pid} {started}")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(&mark));
        assert!(!is_dead(&format!("elsewhere {pid} {started}")));
    }

    #[test]
    fn one_that_nobody_has_waited_for_is_dead_too() {
        let mut child = Command::new("true").spawn().unwrap();
        let mark = format!("{} {} 0", machine().unwrap(), child.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while started(child.id()).is_some() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(is_dead(&mark));
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_mark_says_nothing() {
        for text in ["", "1234", "a b c", "a 1 2 3", "leaving"] {
            assert!(!is_dead(text), "{text}");
        }
    }
}
