//! The memory of single processes, and its peaks while something goes on.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::proc::field;

/// Between two looks. A look costs the process about a millisecond, in which it maps no memory.
const EVERY: Duration = Duration::from_millis(100);

/// What a process has, in KiB. What the kernel holds for its sockets is in neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Memory {
    /// All of its pages; those that several processes share count in parts.
    pub(crate) pss: f64,
    /// Pages that are of no file: heap and stacks.
    pub(crate) anonymous: f64,
}

impl Memory {
    /// Nothing of a process that is gone.
    pub(crate) fn of(pid: u32) -> Memory {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        Memory::read(&text.unwrap_or_default())
    }

    fn read(rollup: &str) -> Memory {
        let field = |name| field(rollup, name).unwrap_or_default();
        Memory {
            pss: field("Pss:"),
            anonymous: field("Anonymous:"),
        }
    }

    /// Each of both the larger one.
    fn max(self, other: Memory) -> Memory {
        Memory {
            pss: self.pss.max(other.pss),
            anonymous: self.anonymous.max(other.anonymous),
        }
    }
}

impl Sub for Memory {
    type Output = Memory;

    fn sub(self, before: Memory) -> Memory {
        Memory {
            pss: self.pss - before.pss,
            anonymous: self.anonymous - before.anonymous,
        }
    }
}

/// What each of these processes has at most while `work` goes on.
pub(crate) async fn peaks<T>(pids: &[u32], work: impl Future<Output = T>) -> (T, Vec<Memory>) {
    let mut peaks = vec![Memory::default(); pids.len()];
    let mut looks = interval(EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return (done, peaks),
            _ = looks.tick() => {
                for (peak, pid) in peaks.iter_mut().zip(pids) {
                    *peak = peak.max(Memory::of(*pid));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read() {
        let text = "5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss:   9000 kB\nPss:   1234 kB\nPss_Dirty:  99 kB\nAnonymous:   567 kB\n";
        let memory = Memory::read(text);
        let expected = Memory {
            pss: 1234.0,
            anonymous: 567.0,
        };
        assert_eq!(memory, expected);
        assert_eq!(Memory::read(""), Memory::default());
    }

    #[tokio::test]
    async fn the_peak_is_of_the_time_of_the_work() {
        let pid = std::process::id();
        let before = Memory::of(pid);
        let size = 32 << 20;
        let (len, peak) = peaks(&[pid], async {
            let block = vec![1_u8; size];
            tokio::time::sleep(3 * EVERY).await;
            std::hint::black_box(block).len()
        })
        .await;
        let risen = peak[0] - before;
        assert!(risen.anonymous >= 0.9 * len as f64 / 1024.0, "{risen:?}");
    }
}
