//! A socket has gone: its user too, when it was their last in the whole cluster.

use std::sync::Arc;

use super::lane::Lane;

pub(super) async fn run(lane: &Arc<Lane>) {
    let user = &lane.session.user;
    match lane
        .sockets
        .store
        .disconnect(&lane.session, &lane.socket_id)
        .await
    {
        Ok(true) => lane.sockets.tell_gone(user).await,
        Ok(false) => {}
        // The store makes it good when it is back, and reports the user as gone then.
        Err(error) => tracing::debug!(user, %error, "a socket's end could not be stored yet"),
    }
}
