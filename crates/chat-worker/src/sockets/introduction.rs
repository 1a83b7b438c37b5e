//! What other servers are told of our sockets when they ask for them.

use redis_adapter::{Adapter, AdapterState, Description};
use serde_json::json;
use socketioxide::extract::SocketRef;
use sticky_worker::{ClientAddress, ClientScheme};

use crate::store::Session;

/// Headers that let who has them pass for the client. JavaScript tells them; anyone on the Redis
/// would hear them.
const SECRETS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// The user of a socket, for others: nothing that is a secret.
#[derive(Debug, Clone)]
pub(super) struct User {
    id: String,
    name: String,
}

impl User {
    pub(super) fn of(session: &Session) -> Self {
        Self {
            id: session.user.clone(),
            name: session.name.clone(),
        }
    }
}

/// Has the adapter tell of each socket its client's address and, where it has one, its user.
pub(crate) fn introduce(adapter: &AdapterState) {
    adapter.describe(describe);
}

fn describe(socket: &SocketRef<Adapter>, description: &mut Description) {
    let handshake = &mut description.handshake;
    for name in SECRETS {
        handshake.headers.remove(name);
    }
    let known = &socket.req_parts().extensions;
    if let Some(ClientAddress(Some(address))) = known.get() {
        handshake.address = address.ip().to_string();
    }
    handshake.secure = known.get() == Some(&ClientScheme::Https);
    if let Some(User { id, name }) = socket.extensions.get() {
        handshake.auth = json!({ "username": name });
        description.data = json!({ "userID": id, "username": name });
    }
}
