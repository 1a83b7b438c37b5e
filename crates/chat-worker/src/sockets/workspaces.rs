//! Workspace rooms: namespace `/workspaces`, for browsers that are logged in.

use std::sync::Arc;

use socketioxide::extract::SocketRef;

use super::client::{ACK_BYTES, answered};
use super::lane::{Event, Lane};
use super::rooms::unheard;
use crate::chat::reply::Refusal;
use crate::chat::workspace::{Subscription, WorkspaceAnswer, WorkspacePolicy, WorkspaceRequest};

/// The namespace of workspace rooms.
pub(super) const NAMESPACE: &str = "/workspaces";

/// Rooms of one socket: each costs a subscription.
const MAX_ROOMS: usize = 1_000;

/// `application`: subscribes to a workspace's room or ends that, and says so with
/// `application_response`. Returns whether the store answered, as far as it was asked.
pub(super) async fn application(lane: &Arc<Lane>, mut event: Event) -> bool {
    let request = event.payload();
    let done = act(lane, &event, &request).await;
    let (done, store_answers) = match done {
        Ok(()) => (Ok(()), true),
        Err(Failure::Refused(why)) => (Err(why), true),
        Err(Failure::Unavailable(why)) => (Err(why), false),
    };
    let answer = WorkspaceAnswer::new(&request, &done);
    let sent = event.socket.emit("application_response", &answer);
    answered(&event.socket, ACK_BYTES, sent);
    store_answers
}

enum Failure {
    Refused(String),
    Unavailable(String),
}

async fn act(lane: &Arc<Lane>, event: &Event, request: &serde_json::Value) -> Result<(), Failure> {
    let request = WorkspaceRequest::from_payload(request).map_err(Failure::Refused)?;
    let sockets = &lane.sockets;
    let socket = SocketRef::from(event.socket.clone());
    let room = request.room();
    if request.subscription == Subscription::Unsubscribe {
        sockets.adapter.leave(&socket, &[&room]);
        lane.left_room(&room);
        return Ok(());
    }
    if sockets.workspace_policy == WorkspacePolicy::RedisSet {
        let user = &lane.session.user;
        let asked = sockets.store.is_in_workspace(user, &request.workspace);
        let unavailable = |refusal: Refusal| Failure::Unavailable(refusal.message);
        if !event.ask(asked).await.map_err(unavailable)? {
            return Err(Failure::Refused(
                "not a member of this workspace".to_owned(),
            ));
        }
    }
    if !lane.enters_room(&room, MAX_ROOMS) {
        let why = format!("more than {MAX_ROOMS} rooms");
        return Err(Failure::Refused(why));
    }
    let joined = sockets.adapter.join(&socket, &[&room]).await;
    joined.map_err(|error| {
        tracing::debug!(%error, "a workspace's room could not be joined");
        lane.left_room(&room);
        Failure::Refused(unheard().message)
    })
}
