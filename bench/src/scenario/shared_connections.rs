//! Polling sessions whose requests go over a few keep-alive connections, each request over
//! whichever is free: what a proxy with a pool of connections, or a browser with many tabs, does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{Spec, Window};
use crate::client::chat::{Auth, Event};
use crate::client::http::Connection;
use crate::client::packet::Packet;
use crate::client::polling;
use crate::clock;
use crate::generator::Link;
use crate::tally::Tally;

pub(super) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    let target = spec.target();
    let connections = spec.share(spec.connections).len().max(1);
    let free = (0..connections).map(|_| Connection::new(&target));
    let pool = Rc::new(Pool {
        permits: Semaphore::new(connections),
        free: RefCell::new(free.collect()),
    });
    let tally = Rc::new(RefCell::new(Tally::default()));
    // First all handshakes, in turn over the connections: so they are of several workers, and
    // what follows over the same connections is, too.
    let mut sids = Vec::new();
    for number in spec.own_clients() {
        let sid = pool
            .request(async |connection| polling::handshake(connection).await)
            .await?;
        sids.push((number, sid));
    }
    let mut sessions = Vec::new();
    for (number, sid) in sids {
        match Session::log_in(&pool, &spec, number, &sid).await {
            Ok(session) => sessions.push(session),
            Err(error) => tally
                .borrow_mut()
                .problem(&error.context("a session could not start")),
        }
    }
    let sessions = work(&pool, &spec, spec.warming_up(), sessions, &tally).await?;
    tally.borrow_mut().forget_measurements();
    let measured = link.ready(&spec).await?;
    work(&pool, &spec, measured, sessions, &tally).await?;
    let mut tally = tally.take();
    tally.count("connections", target.connections());
    link.finished().await?;
    Ok(tally)
}

/// Each session sends message after message until the end of the window; one that fails is left.
async fn work(
    pool: &Rc<Pool>,
    spec: &Rc<Spec>,
    window: Window,
    sessions: Vec<Session>,
    tally: &Rc<RefCell<Tally>>,
) -> anyhow::Result<Vec<Session>> {
    let mut tasks = JoinSet::new();
    for mut session in sessions {
        let (pool, spec, tally) = (pool.clone(), spec.clone(), tally.clone());
        tasks.spawn_local(async move {
            while clock::now() < window.until {
                let message = session.message(&pool, window, &tally);
                let done = tokio::time::timeout(spec.patience, message).await;
                if let Err(error) = done.context("no answer").and_then(|done| done) {
                    tally.borrow_mut().problem(&error);
                    return None;
                }
            }
            Some(session)
        });
    }
    let mut left = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        left.extend(ended?);
    }
    Ok(left)
}

/// Keep-alive connections, the longest unused first.
struct Pool {
    permits: Semaphore,
    free: RefCell<VecDeque<Connection>>,
}

impl Pool {
    /// One request on the connection that is free for longest.
    async fn request<T>(
        &self,
        request: impl AsyncFn(&mut Connection) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let _permit = self.permits.acquire().await?;
        let free = self.free.borrow_mut().pop_front();
        let mut connection = free.context("a permit is a connection")?;
        let answer = request(&mut connection).await;
        self.free.borrow_mut().push_back(connection);
        answer
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        self.request(async |connection| connection.get(path).await?.ok())
            .await
            .context("poll")
    }

    async fn post(&self, path: &str, packets: &str) -> anyhow::Result<()> {
        self.request(async |connection| polling::post(connection, path, packets).await)
            .await
            .context("POST")
    }
}

struct Session {
    path: String,
    /// To the user's own other sockets, of which there are none.
    message: String,
    sent: u64,
}

impl Session {
    async fn log_in(pool: &Pool, spec: &Spec, number: u32, sid: &str) -> anyhow::Result<Session> {
        let path = polling::session_path(sid);
        let auth = Auth::Username(spec.username("sharer", number));
        pool.post(&path, &auth.packet()).await?;
        let mut session = Session {
            path,
            message: String::new(),
            sent: 0,
        };
        let (mut own, mut listed) = (String::new(), false);
        while !listed {
            session
                .poll(pool, |packet| {
                    let Packet::Event(json) = packet else { return };
                    match Event::read(json) {
                        Ok(Event::Session(session)) => own = session.user_id,
                        Ok(Event::Users(_)) => listed = true,
                        _ => {}
                    }
                })
                .await?;
        }
        let content = "x".repeat(spec.content as usize);
        let message = serde_json::json!(["private message", { "content": content, "to": own }]);
        session.message = message.to_string();
        Ok(session)
    }

    /// Polls once; answers a ping. Gives how many requests that took.
    async fn poll(&self, pool: &Pool, see: impl FnMut(&Packet<'_>)) -> anyhow::Result<u64> {
        let body = pool.get(&self.path).await?;
        let pinged = polling::see_all(&body, see)?;
        if pinged {
            pool.post(&self.path, "3").await?;
        }
        Ok(1 + u64::from(pinged))
    }

    /// A message and its ack.
    async fn message(
        &mut self,
        pool: &Pool,
        window: Window,
        tally: &RefCell<Tally>,
    ) -> anyhow::Result<()> {
        let begun = clock::now();
        let number = self.sent;
        self.sent += 1;
        pool.post(&self.path, &format!("42{number}{}", self.message))
            .await?;
        let (mut requests, mut acked) = (1, false);
        while !acked {
            let ack =
                |packet: &Packet<'_>| acked |= matches!(packet, Packet::Ack(n, _) if *n == number);
            requests += self.poll(pool, ack).await?;
        }
        let now = clock::now();
        let mut tally = tally.borrow_mut();
        if window.contains(now) {
            tally.units += requests;
            tally.record("message and ack", now - begun);
        }
        Ok(())
    }
}
