//! One request of a known session, from its head to its answer.

use std::sync::Arc;

use bytes::Bytes;

use crate::client_handle::Client;
use crate::secret::Secret;
use crate::sessions::Sessions;
use crate::stream_state::StreamState;

/// A request of a known session; the entry does not end by time while it lives.
pub(crate) struct ActiveRequest {
    sessions: Arc<Sessions>,
    secret: Secret,
    client: Arc<Client>,
}

impl ActiveRequest {
    pub(crate) fn new(sessions: Arc<Sessions>, secret: Secret, client: Arc<Client>) -> Self {
        ActiveRequest {
            sessions,
            secret,
            client,
        }
    }

    /// The application's own id of the session.
    pub(crate) fn engine_sid(&self) -> &str {
        self.client.engine_sid().unwrap_or_default()
    }

    /// The answer to a poll is on its way; `None`: it is not all there yet.
    pub(crate) fn count_polled(&self, body: Option<&[u8]>) {
        match body {
            Some(body) => self.client.count_polled(body),
            None => self.client.lose_count(),
        }
    }

    /// The answer to a poll with all in it that something stands for.
    pub(crate) fn fill_in(&self, body: Bytes) -> Bytes {
        self.client.stand_ins.fill_in(body)
    }

    /// The application said, or was told, that the session is over.
    pub(crate) fn session_gone(&self) {
        self.sessions.forget(&self.secret);
    }

    /// The application accepted a WebSocket for this session.
    pub(crate) fn websocket_accepted(&self, stream: &Arc<StreamState>) {
        if !self.client.set_websocket(stream) {
            // A second one beside the first: the application ends it.
            stream.became_websocket(|| ());
            return;
        }
        let (client, secret) = (self.client.clone(), self.secret);
        let sessions = Arc::downgrade(&self.sessions);
        stream.became_websocket(move || {
            if let Some(sessions) = sessions.upgrade() {
                sessions.websocket_ended(&client, secret);
            }
        });
        if self.client.was_asked() {
            stream.ask_to_return();
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let rests = self.client.websocket().is_none();
        self.sessions.request_ended(self.secret, rests);
    }
}
