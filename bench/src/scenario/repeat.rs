//! Independent units of work, over and over: so many a second, or as many as there come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Spec, Window};
use crate::clock;
use crate::pace::Pace;
use crate::tally::Tally;

/// A unit of work that can be done with any of several slots, by one at a time.
pub(super) struct Repeat<Slot, Unit> {
    rate: Option<f64>,
    patience: Duration,
    work: Rc<Work<Slot, Unit>>,
}

struct Work<Slot, Unit> {
    unit: Unit,
    permits: Semaphore,
    free: RefCell<VecDeque<Slot>>,
    tally: RefCell<Tally>,
}

impl<Slot, Unit> Repeat<Slot, Unit>
where
    Slot: Clone + 'static,
    Unit: AsyncFn(Slot) -> anyhow::Result<()> + 'static,
{
    pub(super) fn new(spec: &Spec, slots: Vec<Slot>, unit: Unit) -> Self {
        Repeat {
            rate: spec.own_rate(),
            patience: spec.patience,
            work: Rc::new(Work {
                unit,
                permits: Semaphore::new(slots.len()),
                free: RefCell::new(slots.into()),
                tally: RefCell::default(),
            }),
        }
    }

    /// Works from now until the end of the window, and until all that was begun has ended. With
    /// a rate, what is due while all slots are taken waits, and its time counts from when it was
    /// due.
    pub(super) async fn run(&self, window: Window) -> anyhow::Result<Tally> {
        let patience = self.patience;
        let mut tasks = JoinSet::new();
        if let Some(rate) = self.rate {
            let mut pace = Pace::new(rate, window.from, window.length())?;
            while let Some((due, units)) = pace.due().await? {
                for _ in 0..units {
                    let work = self.work.clone();
                    tasks.spawn_local(async move { work.one(due, window, patience).await });
                }
                while tasks.try_join_next().is_some() {}
            }
        } else {
            for _ in 0..self.work.permits.available_permits() {
                let work = self.work.clone();
                tasks.spawn_local(async move {
                    while clock::now() < window.until {
                        work.one(clock::now(), window, patience).await;
                    }
                });
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(self.work.tally.take())
    }
}

impl<Slot: Clone, Unit: AsyncFn(Slot) -> anyhow::Result<()>> Work<Slot, Unit> {
    async fn one(&self, due: u64, window: Window, patience: Duration) {
        // Never closed; and a permit is one slot.
        let Ok(_permit) = self.permits.acquire().await else {
            return;
        };
        let free = self.free.borrow_mut().pop_front();
        let Some(slot) = free else { return };
        let done = tokio::time::timeout(patience, (self.unit)(slot.clone())).await;
        self.free.borrow_mut().push_back(slot);
        let now = clock::now();
        let mut tally = self.tally.borrow_mut();
        match done.context("no answer").and_then(|done| done) {
            Ok(()) => {
                tally.units += u64::from(window.contains(now));
                tally.record("whole", now - due);
            }
            Err(error) => tally.problem(&error),
        }
    }
}
