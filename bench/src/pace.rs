//! Open loop: when work is due, whatever the server does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::sys::readiness;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::clock;

/// Work is due at the ticks of a timer, a few at a time: a finer one would cost
/// more than it tells. tokio's own has 1 ms.
const TICK: Duration = Duration::from_micros(500);

/// Hands out when each unit of work is due.
pub(crate) struct Pace {
    timer: AsyncFd<OwnedFd>,
    per_tick: f64,
    start: u64,
    ticks: u64,
    last_tick: u64,
    handed_out: u64,
}

impl Pace {
    /// `rate` units a second from `start` on the clock, for `duration`.
    pub(crate) fn new(rate: f64, start: u64, duration: Duration) -> io::Result<Pace> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let first = Timespec {
            tv_sec: (start / 1_000_000_000) as i64,
            tv_nsec: (start % 1_000_000_000) as i64,
        };
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: TICK.as_nanos() as i64,
        };
        timerfd_settime(
            &timer,
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec {
                it_interval: interval,
                it_value: first,
            },
        )?;
        Ok(Pace {
            timer: readiness::watch(timer, Interest::READABLE)?,
            per_tick: rate * TICK.as_secs_f64(),
            start,
            ticks: 0,
            last_tick: duration.as_nanos() as u64 / TICK.as_nanos() as u64,
            handed_out: 0,
        })
    }

    /// Waits for the next tick with work; gives when that was due and how many
    /// units of it, or `None` after the last. A tick that was missed is handed
    /// out late, with the time that it was due: nothing is skipped.
    pub(crate) async fn due(&mut self) -> io::Result<Option<(u64, u64)>> {
        while self.ticks < self.last_tick {
            let at = self.start + self.ticks * TICK.as_nanos() as u64;
            if clock::now() < at {
                self.tick().await?;
                continue;
            }
            self.ticks += 1;
            let by_now = (self.per_tick * self.ticks as f64) as u64;
            if by_now > self.handed_out {
                let units = by_now - self.handed_out;
                self.handed_out = by_now;
                return Ok(Some((at, units)));
            }
        }
        Ok(None)
    }

    async fn tick(&self) -> io::Result<()> {
        let mut count = [0; 8];
        loop {
            let mut ready = self.timer.readable().await?;
            match rustix::io::read(self.timer.get_ref(), &mut count) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_units_are_handed_out_at_the_rate_even_after_a_pause() {
        let start = clock::now();
        let mut pace = Pace::new(10_000.0, start, Duration::from_millis(50)).unwrap();
        let (mut units, mut last) = (0, 0);
        while let Some((at, due)) = pace.due().await.unwrap() {
            assert!(at >= last && at <= clock::now());
            if units == 0 {
                // A generator that is held up owes the work of that time.
                std::thread::sleep(Duration::from_millis(20));
            }
            units += due;
            last = at;
        }
        assert_eq!(units, 500);
        assert_eq!(last, start + 49_500_000);
    }
}
