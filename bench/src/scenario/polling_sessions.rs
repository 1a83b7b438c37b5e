//! Whole polling sessions of known users, on two new connections each: handshake, log-in,
//! the list of users, a message with its ack, and the close.

use std::rc::Rc;

use super::{Spec, repeat::Repeat};
use crate::client::chat::{Auth, Event, Session, Transport, log_in};
use crate::client::packet::Packet;
use crate::client::polling::PollingSession;
use crate::generator::Link;
use crate::tally::Tally;

pub(super) async fn run(spec: Rc<Spec>, link: &mut Link) -> anyhow::Result<Tally> {
    let target = spec.target();
    let mut users: Vec<Session> = Vec::new();
    for number in spec.own_clients() {
        let auth = Auth::Username(spec.username("poller", number));
        users.push(
            log_in(&target, &auth, Transport::Websocket, |_| {})
                .await?
                .session,
        );
    }
    let ids: Vec<String> = users.iter().map(|user| user.user_id.clone()).collect();
    let slots = users.into_iter().enumerate().map(|(n, user)| {
        let to = ids[(n + 1) % ids.len()].clone();
        Rc::new((user, to))
    });
    let slots = slots.collect();
    let content = "x".repeat(spec.content as usize);
    let sessions = Repeat::new(&spec, slots, async move |slot: Rc<(Session, String)>| {
        let (user, to) = &*slot;
        let mut session = PollingSession::open(&target).await?;
        session
            .send(&Auth::Session(user.session_id.clone()).packet())
            .await?;
        let is_users = |packet: &Packet<'_>| matches!(packet, Packet::Event(json) if matches!(Event::read(json), Ok(Event::Users(_))));
        session.until(is_users).await?;
        let message = serde_json::json!(["private message", { "content": content, "to": to }]);
        session.send(&format!("420{message}")).await?;
        session
            .until(|packet| matches!(packet, Packet::Ack(0, _)))
            .await?;
        session.send("1").await
    });
    sessions.run(spec.warming_up()).await?;
    let measured = link.ready(&spec).await?;
    let tally = sessions.run(measured).await?;
    link.finished().await?;
    Ok(tally)
}
