//! Who a socket is: the session that it names, or that its browser is logged in with.

use std::fmt::Display;
use std::time::Duration;

use redis_adapter::Adapter;
use serde_json::Value as Json;
use socketioxide::socket::Socket;
use tokio::time::Instant;

use super::Sockets;
use super::client::ask_to_return;
use crate::chat::identity::{random_id, username};
use crate::login_session;
use crate::store::Session;

/// How long a client waits for a store that is away before it is asked to come back.
const STORE_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks at a store that answers with errors.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// How long after it was asked to come back a client may still be there.
const RETURN_GRACE: Duration = Duration::from_secs(5);

/// What the client reads in `connect_error`.
pub(super) type ConnectError = Box<dyn Display + Send>;

/// For private messages: the session that the client names, a new one under the name that it gives,
/// or, if it gives neither, the one that its browser is logged in with.
pub(super) async fn by_credentials(
    sockets: &Sockets,
    socket: &Socket<Adapter>,
    auth: Credentials,
) -> Result<Session, ConnectError> {
    let login = match &auth {
        Credentials {
            session: None,
            username: None,
            ..
        } => login_session::session_id(&socket.req_parts().headers),
        _ => None,
    };
    if let Some(id) = auth.session.or(login)
        && let Some(session) = find_session(sockets, socket, &id).await?
    {
        return Ok(session);
    }
    let name = auth.username.as_deref().and_then(username);
    let name = name.ok_or_else(|| Box::new("invalid username") as ConnectError)?;
    let new_id = || random_id().map_err(|error| Box::new(error) as ConnectError);
    Ok(Session {
        id: new_id()?,
        user: new_id()?,
        name: name.to_owned(),
    })
}

/// For the lobby: the session that the client's browser is logged in with, and no other.
pub(super) async fn by_login(
    sockets: &Sockets,
    socket: &Socket<Adapter>,
) -> Result<Session, ConnectError> {
    let session = match login_session::session_id(&socket.req_parts().headers) {
        Some(id) => find_session(sockets, socket, &id).await?,
        None => None,
    };
    session.ok_or_else(|| Box::new("not logged in") as ConnectError)
}

/// An error when the store could not be asked in time. The client was sent away then.
async fn find_session(
    sockets: &Sockets,
    socket: &Socket<Adapter>,
    id: &str,
) -> Result<Option<Session>, ConnectError> {
    let deadline = Instant::now() + STORE_PATIENCE;
    loop {
        match sockets.store.find_session(id).await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() + RETRY_DELAY >= deadline => {
                tracing::debug!(%error, "no session could be looked up; asking a client to come back");
                break;
            }
            Err(_) => tokio::time::sleep(RETRY_DELAY).await,
        }
    }
    ask_to_return(socket);
    // A `connect_error` would make the client give up for good; by the time this one is sent its
    // transport is gone.
    tokio::time::sleep(RETURN_GRACE).await;
    Err(Box::new("unavailable"))
}

/// What a client says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    session: Option<String>,
    username: Option<String>,
    /// To be told of others with `presence`, in batches.
    pub(super) wants_batches: bool,
}

impl Credentials {
    /// Fields of a wrong type count as missing.
    pub(super) fn read(auth: &Json) -> Self {
        let text = |field| auth.get(field).and_then(Json::as_str).map(str::to_owned);
        Self {
            session: text("sessionID"),
            username: text("username"),
            wants_batches: auth.get("presence").is_some_and(is_yes),
        }
    }
}

/// What JavaScript takes for true.
fn is_yes(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(yes) => *yes,
        Json::Number(number) => number.as_f64() != Some(0.0),
        Json::String(text) => !text.is_empty(),
        Json::Array(_) | Json::Object(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_no_string_is_missing() {
        let table = [
            (
                json!({"sessionID": "s", "username": "u"}),
                Some("s"),
                Some("u"),
            ),
            (json!({"username": "u"}), None, Some("u")),
            (json!({"sessionID": 5, "username": ["u"]}), None, None),
            (json!("u"), None, None),
            (json!(null), None, None),
        ];
        for (auth, session, username) in table {
            let read = Credentials::read(&auth);
            assert_eq!(read.session.as_deref(), session, "{auth}");
            assert_eq!(read.username.as_deref(), username, "{auth}");
        }
    }

    #[test]
    fn batches_are_asked_for_with_anything_that_is_true() {
        let asks = |value| Credentials::read(&json!({ "presence": value })).wants_batches;
        assert!(asks(json!(true)) && asks(json!("batched")) && asks(json!({})));
        assert!(!asks(json!(false)) && !asks(json!(null)) && !asks(json!(0)));
        assert!(!Credentials::read(&json!({})).wants_batches);
    }
}
