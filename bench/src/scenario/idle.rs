//! Clients that log in and then do nothing but answer pings. All are one user's, so that a server
//! need not tell anybody of anybody, and what is left is what a connection costs. One that tells
//! everybody of each connection, as the original example does, shows that here.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{EARLY_LOG_INS, Spec, come_and_go};
use crate::client::chat::{Auth, Transport, follow, log_in};
use crate::clock;
use crate::generator::Link;
use crate::tally::Tally;

/// Log-ins of all processes that are under way at a time.
const AT_ONCE: u32 = 64;

pub(super) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    let target = spec.target();
    let mut session = String::new();
    let mut first = None;
    if spec.process == 0 {
        let auth = Auth::Username(spec.username("idler", 0));
        let user = log_in(&target, &auth, Transport::Websocket, |_| {}).await?;
        session.clone_from(&user.session.session_id);
        first = Some(user);
    }
    let session = link.exchange(&session).await?.swap_remove(0);

    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut clients = JoinSet::new();
    if let Some(mut user) = first {
        clients.spawn_local(async move {
            // It holds the user's presence; that it ends shows in what the others meet.
            let _ = follow(&mut user.socket, |_| {}).await;
        });
    }
    let early = spec.share(EARLY_LOG_INS);
    come_and_go(&target, early.map(|_| Auth::Session(session.clone()))).await?;
    link.ready(&spec).await?;
    let at_once = Arc::new(Semaphore::new(spec.share(AT_ONCE).len().max(1)));
    let (done, mut all_done) = tokio::sync::mpsc::unbounded_channel();
    for _ in spec.own_clients() {
        let permit = at_once.clone().acquire_owned().await?;
        let (spec, target, counted) = (spec.clone(), target.clone(), tally.clone());
        let auth = Auth::Session(session.clone());
        let done = done.clone();
        clients.spawn_local(async move {
            let begun = clock::now();
            let user = log_in(&target, &auth, spec.transport, |_| {}).await;
            drop(permit);
            let stayed = match user {
                Err(error) => Err(error),
                Ok(mut user) => {
                    {
                        let mut tally = counted.borrow_mut();
                        tally.units += 1;
                        tally.count("log-in repeated", user.repeated.into());
                        tally.record("log-in", clock::now() - begun);
                    }
                    drop(done);
                    follow(&mut user.socket, |_| {}).await
                }
            };
            if let Err(error) = stayed {
                counted.borrow_mut().problem(&error);
            }
        });
        link.progress(tally.borrow().units)?;
    }
    drop(done);
    // Ends when no client is on its way any more.
    let _: Option<()> = all_done.recv().await;
    link.finished().await?;
    Ok(tally.take())
}
