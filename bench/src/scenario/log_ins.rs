//! New users log in, so many at a time, and stay. It is done when every one of them knows
//! every other: from the list, or because they were told.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::{EARLY_LOG_INS, Spec, come_and_go};
use crate::client::chat::{Auth, Event, Person, User, follow, log_in};
use crate::clock;
use crate::generator::Link;
use crate::tally::Tally;

/// Log-ins of all processes that are under way at a time.
const AT_ONCE: u32 = 100;

pub(super) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    let target = spec.target();
    let crowd = Rc::new(Crowd {
        others: spec.clients as usize - 1,
        names_end: spec.username_end(),
        complete: Cell::new(0),
        changed: Notify::new(),
        tally: RefCell::default(),
    });
    let early = spec.share(EARLY_LOG_INS);
    let early = early.map(|number| Auth::Username(spec.username("early", number)));
    come_and_go(&target, early).await?;
    link.ready(&spec).await?;

    let at_once = Arc::new(Semaphore::new(spec.share(AT_ONCE).len().max(1)));
    let own = spec.own_clients();
    let count = own.len();
    let mut members = JoinSet::new();
    let mut log_ins = JoinSet::new();
    for number in own {
        let permit = at_once.clone().acquire_owned().await?;
        let (spec, target) = (spec.clone(), target.clone());
        let mut member = Member::new(crowd.clone());
        log_ins.spawn_local(async move {
            let auth = Auth::Username(spec.username("member", number));
            let begun = clock::now();
            let user = log_in(&target, &auth, spec.transport, |event| member.see(event)).await;
            drop(permit);
            if user.is_ok() {
                let took = clock::now() - begun;
                member.crowd.tally.borrow_mut().record("log-in", took);
            }
            user.map(|user| (user, member))
        });
        while let Some(done) = log_ins.try_join_next() {
            stay(done?, &crowd, &mut members, link)?;
        }
    }
    while let Some(done) = log_ins.join_next().await {
        stay(done?, &crowd, &mut members, link)?;
    }
    let everyone = async {
        while crowd.complete.get() < count {
            crowd.changed.notified().await;
        }
    };
    let _ = tokio::time::timeout(spec.patience, everyone).await;
    let untold = count - crowd.complete.get();
    crowd
        .tally
        .borrow_mut()
        .count("not told of everyone", untold as u64);
    link.finished().await?;
    Ok(crowd.tally.take())
}

/// Who has logged in stays, and listens.
fn stay(
    done: anyhow::Result<(User, Member)>,
    crowd: &Rc<Crowd>,
    members: &mut JoinSet<()>,
    link: &mut Link,
) -> anyhow::Result<()> {
    let mut tally = crowd.tally.borrow_mut();
    let (mut user, mut member) = match done {
        Ok(logged_in) => logged_in,
        Err(error) => {
            tally.problem(&error);
            return Ok(());
        }
    };
    tally.units += 1;
    tally.count("log-in repeated", user.repeated.into());
    link.progress(tally.units)?;
    let crowd = crowd.clone();
    members.spawn_local(async move {
        if let Err(error) = follow(&mut user.socket, |event| member.see(event)).await {
            crowd.tally.borrow_mut().problem(&error);
        }
    });
    Ok(())
}

struct Crowd {
    /// How many each member has to know.
    others: usize,
    /// How the names of members and of nobody else who is connected end.
    names_end: String,
    /// Members that know all.
    complete: Cell<usize>,
    changed: Notify,
    tally: RefCell<Tally>,
}

/// What one client knows.
struct Member {
    crowd: Rc<Crowd>,
    own: String,
    known: HashSet<Box<str>>,
}

impl Member {
    fn new(crowd: Rc<Crowd>) -> Member {
        Member {
            crowd,
            own: String::new(),
            known: HashSet::new(),
        }
    }

    fn see(&mut self, event: &Event<'_>) {
        let before = self.known.len();
        match event {
            Event::Session(session) => self.own.clone_from(&session.user_id),
            Event::Users(list) => match serde_json::from_str::<Vec<Person<'_>>>(list) {
                Ok(people) => people
                    .iter()
                    .filter(|person| person.connected)
                    .for_each(|person| self.know(person)),
                Err(error) => self.crowd.tally.borrow_mut().problem(&error.into()),
            },
            Event::UserConnected(person) => self.know(person),
            _ => {}
        }
        let others = self.crowd.others;
        if before < others && self.known.len() >= others {
            self.crowd.complete.set(self.crowd.complete.get() + 1);
            self.crowd.changed.notify_one();
        }
    }

    fn know(&mut self, person: &Person<'_>) {
        let is_member = person.username.ends_with(&self.crowd.names_end);
        if is_member && person.user_id != self.own && !self.known.contains(&*person.user_id) {
            self.known.insert(person.user_id.as_ref().into());
        }
    }
}
