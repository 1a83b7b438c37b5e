//! Users come and go, so many a second, and every listener is told of both. An event is the
//! unit: one listener, told once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{Spec, Window};
use crate::client::chat::{Auth, Event, Session, Transport, follow, log_in};
use crate::client::target::Target;
use crate::clock;
use crate::generator::Link;
use crate::pace::Pace;
use crate::tally::Tally;

/// Visits a second without `--rate`.
const VISITS_PER_SECOND: f64 = 20.0;
/// A visitor comes again after this many seconds: it has long been told as gone.
const SECONDS_BETWEEN_VISITS: f64 = 3.0;
/// An event that comes once more does so within this time after all have come.
const LATE_DOUBLES: Duration = Duration::from_millis(200);

pub(super) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    let target = spec.target();
    let hall = Rc::new(Hall::default());
    let mut listeners = JoinSet::new();
    for number in spec.own_clients() {
        let auth = Auth::Username(spec.username("listener", number));
        let mut user = log_in(&target, &auth, spec.transport, |_| {}).await?;
        let hall = hall.clone();
        listeners.spawn_local(async move {
            if let Err(error) = follow(&mut user.socket, |event| hall.hear(number, event)).await {
                hall.state
                    .borrow_mut()
                    .tally
                    .problem(&error.context("a listener"));
            }
        });
    }
    // All listen before the first visitor comes.
    link.exchange(&()).await?;
    let visitors = Visitors::introduce(&spec, &target, &hall).await?;
    hall.all_told(&spec, link).await?;

    visitors.come(spec.warming_up()).await?;
    hall.all_told(&spec, link).await?;
    hall.state.borrow_mut().tally.forget_measurements();
    let measured = link.ready(&spec).await?;
    hall.state.borrow_mut().measured = Some(measured);
    visitors.come(measured).await?;

    let expected = hall.all_told(&spec, link).await?;
    tokio::time::sleep(LATE_DOUBLES).await;
    hall.state.borrow_mut().judge(&expected, spec.own_clients());
    link.finished().await?;
    Ok(std::mem::take(&mut hall.state.borrow_mut().tally))
}

/// Those who come and go: they log in and leave at once, each in its turn.
struct Visitors {
    rate: f64,
    sessions: Vec<Session>,
    target: Rc<Target>,
    hall: Rc<Hall>,
}

impl Visitors {
    /// The first visit of each, one after the other.
    async fn introduce(
        spec: &Spec,
        target: &Rc<Target>,
        hall: &Rc<Hall>,
    ) -> anyhow::Result<Visitors> {
        let all = VISITS_PER_SECOND / f64::from(spec.processes);
        let rate = spec.own_rate().unwrap_or(all);
        let mut sessions = Vec::new();
        for number in 0..(rate * SECONDS_BETWEEN_VISITS).ceil() as u32 {
            let name = format!("visitor {} {number}{}", spec.process, spec.username_end());
            let user = log_in(target, &Auth::Username(name), Transport::Websocket, |_| {}).await?;
            hall.state.borrow_mut().visited(&user.session);
            sessions.push(user.session);
        }
        Ok(Visitors {
            rate,
            sessions,
            target: target.clone(),
            hall: hall.clone(),
        })
    }

    /// Visits as they are due in the window; returns when the last has left.
    async fn come(&self, window: Window) -> anyhow::Result<()> {
        let mut visits = JoinSet::new();
        let mut turn = self.sessions.iter().cycle();
        let mut pace = Pace::new(self.rate, window.from, window.length())?;
        while let Some((due, units)) = pace.due().await? {
            for session in turn.by_ref().take(units as usize) {
                let visit = visit(self.hall.clone(), self.target.clone(), session.clone(), due);
                visits.spawn_local(visit);
            }
        }
        while let Some(ended) = visits.join_next().await {
            ended?;
        }
        Ok(())
    }
}

async fn visit(hall: Rc<Hall>, target: Rc<Target>, session: Session, due: u64) {
    hall.state
        .borrow_mut()
        .due
        .insert(session.user_id.clone(), due);
    let auth = Auth::Session(session.session_id.clone());
    let user = log_in(&target, &auth, Transport::Websocket, |_| {}).await;
    let mut state = hall.state.borrow_mut();
    match user {
        Ok(user) => {
            state.visited(&session);
            state.tally.count("log-in repeated", user.repeated.into());
            state.record("log-in", due);
        }
        Err(error) => state.tally.problem(&error.context("a visitor")),
    }
}

/// By user id: how often each visitor of all processes has come so far.
type Visits = HashMap<String, u64>;

#[derive(Default)]
struct Hall {
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    tally: Tally,
    measured: Option<Window>,
    /// When each own visitor's latest visit was due.
    due: HashMap<String, u64>,
    /// Of own visitors.
    visits: Visits,
    /// How often each listener was told of each visitor.
    came: HashMap<(u32, String), u64>,
    went: HashMap<(u32, String), u64>,
}

impl Hall {
    fn hear(&self, listener: u32, event: &Event<'_>) {
        let mut state = self.state.borrow_mut();
        match event {
            Event::UserConnected(person) => {
                let pair = (listener, person.user_id.to_string());
                *state.came.entry(pair).or_default() += 1;
                // Only this process' visitors: the others' times are not known here.
                if let Some(due) = state.due.get(&*person.user_id).copied() {
                    state.record("told", due);
                }
            }
            Event::UserDisconnected(id) => {
                *state.went.entry((listener, id.to_string())).or_default() += 1;
            }
            _ => return,
        }
        let measured = state.measured;
        let counts = measured.is_some_and(|measured| measured.contains(clock::now()));
        state.tally.units += u64::from(counts);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until the listeners were told of all visits of all processes so far, or for as long
    /// as patience lasts.
    async fn all_told(&self, spec: &Spec, link: &mut Link) -> anyhow::Result<Visits> {
        let own = self.state.borrow().visits.clone();
        let all: Visits = link.exchange(&own).await?.into_iter().flatten().collect();
        let told = async {
            while !self.state.borrow().has_heard(&all, spec.own_clients()) {
                self.changed.notified().await;
            }
        };
        // What is missing then is counted as lost.
        let _ = tokio::time::timeout(spec.patience, told).await;
        Ok(all)
    }
}

impl State {
    fn visited(&mut self, visitor: &Session) {
        *self.visits.entry(visitor.user_id.clone()).or_default() += 1;
    }

    fn record(&mut self, what: &str, due: u64) {
        if self.measured.is_some_and(|measured| measured.contains(due)) {
            self.tally.record(what, clock::now() - due);
        }
    }

    /// How often each listener should have been, and was, told of each visitor's coming and going.
    fn told(&self, visits: &Visits, listeners: Range<u32>) -> impl Iterator<Item = (u64, u64)> {
        visits.iter().flat_map(move |(visitor, visits)| {
            listeners.clone().flat_map(move |listener| {
                let pair = (listener, visitor.clone());
                let heard = [&self.came, &self.went].map(|heard| heard.get(&pair).copied());
                heard.map(|heard| (*visits, heard.unwrap_or_default()))
            })
        })
    }

    fn has_heard(&self, visits: &Visits, listeners: Range<u32>) -> bool {
        self.told(visits, listeners)
            .all(|(visits, heard)| heard >= visits)
    }

    fn judge(&mut self, visits: &Visits, listeners: Range<u32>) {
        let told: Vec<_> = self.told(visits, listeners).collect();
        let lost = told
            .iter()
            .map(|(visits, heard)| visits.saturating_sub(*heard))
            .sum();
        let doubled = told
            .iter()
            .map(|(visits, heard)| heard.saturating_sub(*visits))
            .sum();
        self.tally.count("lost", lost);
        self.tally.count("doubled", doubled);
    }
}
