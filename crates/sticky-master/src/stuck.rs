//! Looks whether the workers' event loops run, by the heartbeats on their scoreboards. One that
//! stands still gets no new clients; one that stands still for too long is killed, which frees its
//! clients for the others.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use common::monotonic;
use tokio::time::MissedTickBehavior;

use crate::cluster::Cluster;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// After a pause that long between two looks this process stood still itself, and the workers
/// perhaps with it: they are given time to say that they live.
const STOOD_STILL: Duration = Duration::from_secs(3);

/// Looks for ever.
pub(crate) async fn watch(cluster: Arc<Cluster>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = monotonic::now_ms();
    loop {
        looks.tick().await;
        let now = monotonic::now_ms();
        let stood_still = now - last > STOOD_STILL.as_millis() as u64;
        last = now;
        if !stood_still {
            kill_stuck(&cluster, now);
        }
    }
}

fn kill_stuck(cluster: &Cluster, now_ms: u64) {
    let limit = cluster.config.stuck_time;
    let stuck: Vec<_> = {
        let pool = cluster.pool();
        let silent = pool
            .members()
            .map(|member| (member.worker, member.pid, member.silence(now_ms)));
        silent.filter(|(_, _, silence)| *silence >= limit).collect()
    };
    for (worker, pid, silence) in stuck {
        let activity = activity(pid);
        tracing::error!(
            %worker,
            pid,
            silent_s = silence.as_secs(),
            activity,
            "a worker is stuck; killing it"
        );
        cluster.kill_worker(worker);
    }
}

/// What the kernel knows of what a process does: its state, and where in the kernel it waits.
fn activity(pid: u32) -> String {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    let (wchan, syscall) = (read("wchan"), read("syscall"));
    // Its number; the arguments are addresses.
    let syscall = syscall.split_ascii_whitespace().next().unwrap_or_default();
    let known = [
        ("state", state.unwrap_or_default().trim()),
        ("waits in", wchan.trim_matches(['0', '\n'])),
        ("system call", syscall),
    ];
    let known = known.into_iter().filter(|(_, what)| !what.is_empty());
    let known: Vec<String> = known.map(|(name, what)| format!("{name} {what}")).collect();
    known.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_does_is_told_as_far_as_it_is_known() {
        let own = activity(std::process::id());
        assert!(own.starts_with("state "), "{own}");
        assert_eq!(activity(0), "");
    }
}
