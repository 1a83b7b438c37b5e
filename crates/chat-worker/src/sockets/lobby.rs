//! The lobby, where everyone hears everyone: namespace `/lobby`, for browsers that are logged in.
//!
//! What is said is stored and published on one channel, which every process hears; each emits to its
//! own sockets only.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value as Json;

use super::lane::{Event, Lane};
use super::{Sockets, now_ms};
use crate::chat::identity::random_id;
use crate::chat::lobby::{Action, CHANNEL, Join, Line, LineDraft, NewLine, key};
use crate::chat::reply::Refusal;

/// The namespace of the lobby.
pub(super) const NAMESPACE: &str = "/lobby";

/// What the others are told of who comes.
const JOINED: &str = "joined the lobby";

/// `join`: what was said lately, as the acknowledgement; the others are told of who is new. Returns
/// whether the store answered, as far as it was asked.
pub(super) async fn join(lane: &Arc<Lane>, mut event: Event) -> bool {
    let join = Join::from_payload(&event.payload());
    let said = match event.ack {
        // Nobody would see the answer.
        None => Ok(Vec::new()),
        Some(_) => event.ask(lane.sockets.store.said()).await.map(|s| s.lines),
    };
    let said = said.map(|kept| join.missed(kept));
    if join == Join::New && said.is_ok() && lane.is_new_in_lobby() {
        lane.sockets.say_control(&lane.session.name, JOINED);
    }
    let bytes = |lines: &Vec<Line>| lines.iter().map(Line::about_bytes).sum();
    event.answer(said, bytes).await
}

/// `chat`: stored, in the same breath published to everyone, then acked. Returns whether the store
/// answered, as far as it was asked.
pub(super) async fn chat(lane: &Arc<Lane>, mut event: Event) -> bool {
    let payload = event.payload();
    let sent = say(lane, &event, payload).await;
    event.answer_stored(sent).await
}

async fn say(lane: &Lane, event: &Event, payload: Json) -> Result<(String, u64), Refusal> {
    let sockets = &lane.sockets;
    let draft = LineDraft::from_payload(payload, sockets.message_max)?;
    let id = match draft.id {
        Some(id) => id,
        None => random_id().map_err(|_| Refusal::unavailable())?,
    };
    let line = NewLine {
        from: lane.session.user.clone(),
        user: lane.session.name.clone(),
        msg: draft.msg,
        id: id.clone(),
    };
    let append = sockets.store.say(line);
    let stored = sockets.store_counted(event, append).await?;
    Ok((id, stored.at))
}

/// Hears what is said in the lobby anywhere.
pub(super) fn listen(sockets: &Arc<Sockets>) {
    let weak = Arc::downgrade(sockets);
    sockets.adapter.listen_in_order(CHANNEL, move |text| {
        if let Some(sockets) = weak.upgrade() {
            sockets.hear(text);
        }
    });
}

impl Sockets {
    fn hear(&self, text: &Bytes) {
        let line = match serde_json::from_slice::<Json>(text) {
            Ok(line) if line.is_object() => line,
            // Other programs publish there, too.
            _ => {
                tracing::debug!(bytes = text.len(), "ignoring what is no line of the lobby");
                return;
            }
        };
        if key(&line).is_none_or(|(user, id)| self.heard_in_lobby.note(&user, &id)) {
            self.emit_in_lobby(&line);
        }
    }

    /// After a gap: emits a kept line to the sockets of this process unless they heard it. Returns
    /// whether it did.
    pub(super) fn hear_again(&self, line: &Line) -> bool {
        let news = self.heard_in_lobby.note(&line.user, &line.id);
        if news {
            self.emit_in_lobby(line);
        }
        news
    }

    fn emit_in_lobby<T: Serialize>(&self, line: &T) {
        let emitted = self
            .adapter
            .deliver_event(NAMESPACE, &[], &[], "chat", line);
        if let Err(error) = emitted {
            tracing::debug!(%error, "a line of the lobby cannot be emitted");
        }
    }

    /// Tells everyone in the lobby of something that is not kept.
    fn say_control(self: &Arc<Self>, user: &str, msg: &str) {
        // Without one it is still told; only who hears it twice could tell.
        let id = random_id().unwrap_or_default();
        let line = Line {
            action: Action::Control,
            user: user.to_owned(),
            msg: msg.to_owned(),
            id,
            at: now_ms(),
        };
        self.publish(CHANNEL, line.to_json().into());
    }
}
