//! A socket has gone: its user too, when it was their last in the whole cluster.

use std::sync::Arc;

use tokio::time::timeout;

use super::lane::Lane;

pub(super) async fn run(lane: &Arc<Lane>) {
    let user = &lane.session.user;
    let store = &lane.sockets.store;
    if lane.is_expected_elsewhere() {
        // It is expected at another worker. Before the time for that is over this
        // process may end, and leave the rest to others.
        let until_end = timeout(lane.sockets.presence_grace, lane.sockets.leaving());
        if until_end.await.is_ok() {
            store.leave_behind(&lane.socket_id);
            return;
        }
    }
    match store.disconnect(&lane.session, &lane.socket_id).await {
        Ok(true) if lane.sockets.is_elsewhere(user).await => {
            if let Err(error) = store.still_connected(&lane.session).await {
                tracing::debug!(user, %error, "a user who is elsewhere is listed as gone");
            }
        }
        Ok(true) => lane.sockets.tell_gone(user, &lane.session.name).await,
        Ok(false) => {}
        // The store makes it good when it is back, and reports the user as gone then.
        Err(error) => tracing::debug!(user, %error, "a socket's end could not be stored yet"),
    }
}
