//! The client table: which secret stands for which of the application's
//! engine sessions, which clients live, and when an entry ends. Sees no HTTP.
//!
//! An entry ends with its WebSocket, or some time after its last request, or
//! when the application says that the session is gone. A waiting poll counts as
//! a request that goes on.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::active_request::ActiveRequest;
use crate::board::Board;
use crate::client_handle::Client;
use crate::secret::Secret;
use crate::session_table::SessionTable;
use crate::stream_state::StreamState;
use crate::until::until;

/// A client that is asked to return may wait that long for the answers to what it
/// sent before.
const BUSY_MAX: Duration = Duration::from_secs(2);

/// How many handshakes may stand alone, and how long an entry lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) unfinished: usize,
    pub(crate) lifetime: Duration,
}

/// Ends one of the application's engine sessions.
pub(crate) trait CloseEngineSession: Send + Sync {
    /// Resolves when the application has answered.
    fn close(&self, engine_sid: &str) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Everybody this worker serves.
pub(crate) struct Sessions {
    limits: Limits,
    table: Mutex<SessionTable>,
    /// WebSockets that started a session of their own, by the id of their stream.
    fresh: Mutex<HashMap<u64, Arc<Client>>>,
    board: Arc<Board>,
    closer: Box<dyn CloseEngineSession>,
    runtime: Handle,
    /// Something rests where nothing rested.
    rested: Notify,
    emptied: Notify,
}

impl Sessions {
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn new(
        limits: Limits,
        board: Arc<Board>,
        closer: Box<dyn CloseEngineSession>,
    ) -> Arc<Self> {
        Arc::new(Sessions {
            limits,
            table: Mutex::default(),
            fresh: Mutex::default(),
            board,
            closer,
            runtime: Handle::current(),
            rested: Notify::new(),
            emptied: Notify::new(),
        })
    }

    /// The application opened the polling session `engine_sid` for `client`,
    /// which is counted from here on. Beyond the bound on handshakes that stand
    /// alone the oldest of them ends.
    pub(crate) fn opened(self: &Arc<Self>, client: &Arc<Client>, engine_sid: &str) {
        let Some(secret) = client.secret else { return };
        client.set_engine_sid(engine_sid);
        self.board.client_came();
        let mut table = self.lock();
        table.insert(secret, client.clone());
        let evicted = table.surplus(self.limits.unfinished);
        drop(table);
        self.rested.notify_one();
        if let Some(secret) = evicted {
            self.board.unfinished_ended();
            tracing::debug!("too many unfinished handshakes: the oldest ends");
            self.end(secret);
        }
        if client.was_asked() {
            self.close(client.clone());
        }
    }

    /// A request that names `secret`; `None` when nobody has that.
    pub(crate) fn request(self: &Arc<Self>, secret: Secret) -> Option<ActiveRequest> {
        let client = self.lock().begin_request(&secret)?;
        Some(ActiveRequest::new(self.clone(), secret, client))
    }

    /// An [`ActiveRequest`] is over; `rests`: its session has no WebSocket.
    pub(crate) fn request_ended(&self, secret: Secret, rests: bool) {
        let mut table = self.lock();
        table.end_request(&secret);
        if rests {
            table.rest(secret);
            drop(table);
            self.rested.notify_one();
        }
    }

    /// The application accepted a WebSocket that starts a session of its own:
    /// a client for as long as the stream lives.
    pub(crate) fn websocket_opened(
        self: &Arc<Self>,
        client: &Arc<Client>,
        stream: &Arc<StreamState>,
    ) {
        self.board.client_came();
        self.lock_fresh().insert(stream.id, client.clone());
        let (sessions, id) = (Arc::downgrade(self), stream.id);
        let board = self.board.clone();
        stream.became_websocket(move || {
            board.client_left();
            if let Some(sessions) = sessions.upgrade() {
                sessions.lock_fresh().remove(&id);
            }
        });
    }

    /// See [`crate::ClientHandle::ask_to_return`].
    pub(crate) fn ask_to_return(self: &Arc<Self>, client: &Arc<Client>) {
        if !client.ask() {
            return;
        }
        if !client.is_busy() {
            return self.send_away(client);
        }
        // The end of its last event does it, unless there is always another.
        let (sessions, client) = (Arc::downgrade(self), Arc::downgrade(client));
        self.runtime.spawn(async move {
            tokio::time::sleep(BUSY_MAX).await;
            if let (Some(sessions), Some(client)) = (sessions.upgrade(), client.upgrade()) {
                sessions.send_away(&client);
            }
        });
    }

    /// Asks a client to go to another worker.
    pub(crate) fn move_elsewhere(self: &Arc<Self>, client: &Arc<Client>) {
        client.expect_elsewhere();
        self.ask_to_return(client);
    }

    /// Passes the wish on, once: nothing that the client waits for is left.
    pub(crate) fn send_away(self: &Arc<Self>, client: &Arc<Client>) {
        if !client.send_away() {
            return;
        }
        match client.websocket() {
            Some(stream) => stream.ask_to_return(),
            None => self.close(client.clone()),
        }
    }

    /// All clients that live now, in an order of chance.
    pub(crate) fn everybody(&self) -> Vec<Arc<Client>> {
        let mut clients = self.lock().clients();
        clients.extend(self.lock_fresh().values().cloned());
        let chance = RandomState::new();
        clients.sort_by_cached_key(|client| chance.hash_one(Arc::as_ptr(client)));
        clients
    }

    /// Whether no client lives.
    pub(crate) fn are_none(&self) -> bool {
        self.lock().is_empty() && self.lock_fresh().is_empty()
    }

    /// Resolves when the table has no entry.
    pub(crate) async fn empty(&self) {
        until(&self.emptied, || self.lock().is_empty()).await;
    }

    /// Ends entries whose time is over, for ever. One task for all of them.
    pub(crate) async fn expire(self: Arc<Self>) {
        loop {
            let oldest = self.lock().oldest();
            match oldest {
                // What comes to rest later ends later: nothing can overtake.
                Some((since, secret)) => {
                    let end = since + self.limits.lifetime;
                    if end <= Instant::now() {
                        self.end(secret);
                    } else {
                        sleep_until(end).await;
                    }
                }
                None => self.rested.notified().await,
            }
        }
    }

    /// Forgets an entry and has the application forget it too.
    fn end(self: &Arc<Self>, secret: Secret) {
        if let Some(client) = self.forget(&secret) {
            self.close(client);
        }
    }

    /// Ends an entry; the application knows already, or is told elsewhere.
    pub(crate) fn forget(&self, secret: &Secret) -> Option<Arc<Client>> {
        let mut table = self.lock();
        let client = table.remove(secret)?;
        let last = table.is_empty();
        drop(table);
        self.board.client_left();
        if last {
            self.emptied.notify_waiters();
        }
        Some(client)
    }

    /// Closes a polling session from within. Before its handshake is answered
    /// there is nothing to close yet: `opened` comes back here.
    fn close(self: &Arc<Self>, client: Arc<Client>) {
        let Some(engine_sid) = client.engine_sid() else {
            return;
        };
        let closed = self.closer.close(engine_sid);
        let sessions = self.clone();
        self.runtime.spawn(async move {
            closed.await;
            match client.websocket() {
                // It changed its transport meanwhile.
                Some(stream) => stream.ask_to_return(),
                None => {
                    client.secret.and_then(|secret| sessions.forget(&secret));
                }
            }
        });
    }

    /// The stream that a session had moved to is closed.
    pub(crate) fn websocket_ended(self: &Arc<Self>, client: &Arc<Client>, secret: Secret) {
        let upgraded = client
            .take_websocket()
            .is_none_or(|stream| stream.upgrade_done());
        if upgraded {
            self.forget(&secret);
            return;
        }
        // A failed attempt: the session may go on polling.
        self.lock().rest(secret);
        self.rested.notify_one();
        if client.was_asked() {
            self.close(client.clone());
        }
    }

    fn lock_fresh(&self) -> MutexGuard<'_, HashMap<u64, Arc<Client>>> {
        self.fresh.lock().expect("never poisoned")
    }

    fn lock(&self) -> MutexGuard<'_, SessionTable> {
        self.table.lock().expect("never poisoned")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::client_handle::ClientHandle;
    use crate::stream_state::Origin;

    const LIFETIME: Duration = Duration::from_secs(45);
    const MOMENT: Duration = Duration::from_millis(1);

    #[derive(Clone, Default)]
    struct Closed(Arc<Mutex<Vec<String>>>);

    impl CloseEngineSession for Closed {
        fn close(&self, engine_sid: &str) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            self.0.lock().unwrap().push(engine_sid.to_owned());
            Box::pin(std::future::ready(()))
        }
    }

    impl Closed {
        fn all(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    struct Fixture {
        sessions: Arc<Sessions>,
        board: Arc<Board>,
        closed: Closed,
    }

    impl Fixture {
        fn new(unfinished: usize) -> Self {
            let board = Arc::new(Board::create().unwrap().0);
            let closed = Closed::default();
            let limits = Limits {
                unfinished,
                lifetime: LIFETIME,
            };
            let sessions = Sessions::new(limits, board.clone(), Box::new(closed.clone()));
            tokio::spawn(sessions.clone().expire());
            Fixture {
                sessions,
                board,
                closed,
            }
        }

        fn open(&self, engine_sid: &str) -> (Secret, Arc<Client>) {
            let secret = Secret::random();
            let client = Arc::new(Client::polling(secret));
            self.sessions.opened(&client, engine_sid);
            (secret, client)
        }

        fn stream(&self) -> Arc<StreamState> {
            let origin = Origin::plain_relay();
            Arc::new(StreamState::new(1, origin, self.board.clone()))
        }

        fn clients(&self) -> u64 {
            self.board.counters().clients.load(SeqCst)
        }

        async fn pass(&self, time: Duration) {
            tokio::time::sleep(time).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_ends_a_lifetime_after_its_last_request() {
        let fixture = Fixture::new(9);
        let (secret, _) = fixture.open("a");
        fixture.open("b");
        fixture.pass(LIFETIME - MOMENT).await;
        assert_eq!(fixture.sessions.request(secret).unwrap().engine_sid(), "a");
        fixture.pass(MOMENT * 2).await;
        assert_eq!(fixture.closed.all(), ["b"]);
        fixture.pass(LIFETIME - MOMENT * 4).await;
        assert_eq!(fixture.clients(), 1);
        fixture.pass(MOMENT * 4).await;
        assert_eq!(fixture.closed.all(), ["b", "a"]);
        assert!(fixture.sessions.request(secret).is_none());
        assert_eq!(fixture.clients(), 0);
        // The task is still there when something comes after nothing.
        fixture.open("c");
        fixture.pass(LIFETIME + MOMENT).await;
        assert_eq!(fixture.closed.all().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_goes_on_keeps_the_entry() {
        let fixture = Fixture::new(9);
        let (secret, _) = fixture.open("a");
        let waiting = fixture.sessions.request(secret).unwrap();
        drop(fixture.sessions.request(secret).unwrap());
        fixture.pass(LIFETIME * 3).await;
        assert_eq!(fixture.clients(), 1);
        drop(waiting);
        fixture.pass(LIFETIME + MOMENT).await;
        assert_eq!(fixture.closed.all(), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgraded_entry_ends_with_its_stream_and_not_by_time() {
        let fixture = Fixture::new(9);
        let (secret, client) = fixture.open("a");
        let stream = fixture.stream();
        let request = fixture.sessions.request(secret).unwrap();
        stream.upgrade_began(Duration::from_secs(10));
        request.websocket_accepted(&stream);
        drop(request);
        fixture.pass(LIFETIME * 3).await;
        assert_eq!(fixture.clients(), 1);
        stream.count_received(19);
        fixture.sessions.ask_to_return(&client);
        stream.ended();
        assert_eq!(fixture.clients(), 0);
        assert!(fixture.closed.all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_asked_during_an_upgrade_that_fails_is_closed_as_a_polling_one() {
        let fixture = Fixture::new(9);
        let (secret, client) = fixture.open("a");
        let stream = fixture.stream();
        let request = fixture.sessions.request(secret).unwrap();
        stream.upgrade_began(Duration::from_secs(10));
        request.websocket_accepted(&stream);
        drop(request);
        fixture.sessions.ask_to_return(&client);
        fixture.pass(MOMENT).await;
        assert!(fixture.closed.all().is_empty());
        stream.ended();
        fixture.pass(MOMENT).await;
        assert_eq!(fixture.closed.all(), ["a"]);
        assert_eq!(fixture.clients(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_websocket_does_not_end_the_first_ones_session() {
        let fixture = Fixture::new(9);
        let (secret, _) = fixture.open("a");
        let streams = [fixture.stream(), fixture.stream()];
        for stream in &streams {
            let request = fixture.sessions.request(secret).unwrap();
            request.websocket_accepted(stream);
        }
        streams[1].ended();
        assert_eq!(fixture.clients(), 1);
        streams[0].ended();
        assert_eq!(fixture.clients(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_before_the_handshake_is_answered_is_kept() {
        let fixture = Fixture::new(9);
        let client = Arc::new(Client::polling(Secret::random()));
        fixture.sessions.ask_to_return(&client);
        assert!(fixture.closed.all().is_empty());
        fixture.sessions.opened(&client, "a");
        fixture.pass(MOMENT).await;
        assert_eq!(fixture.closed.all(), ["a"]);
        assert_eq!(fixture.clients(), 0);
        fixture.sessions.empty().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_has_it_before_the_session_is_closed() {
        let fixture = Fixture::new(9);
        let (_, client) = fixture.open("a");
        let handle = ClientHandle::new(client.clone(), &fixture.sessions);
        let (first, second) = (handle.busy(), handle.busy());
        fixture.sessions.move_elsewhere(&client);
        assert!(handle.is_expected_elsewhere());
        drop(first);
        fixture.pass(MOMENT).await;
        assert!(fixture.closed.all().is_empty());
        drop(second);
        fixture.pass(MOMENT).await;
        assert_eq!(fixture.closed.all(), ["a"]);
        // Always at work for somebody: not for ever.
        let (_, client) = fixture.open("b");
        let handle = ClientHandle::new(client.clone(), &fixture.sessions);
        let _busy = handle.busy();
        fixture.sessions.move_elsewhere(&client);
        fixture.pass(BUSY_MAX - MOMENT).await;
        assert_eq!(fixture.closed.all().len(), 1);
        fixture.pass(MOMENT * 2).await;
        assert_eq!(fixture.closed.all(), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_oldest_unfinished_handshake_is_pushed_out() {
        let fixture = Fixture::new(2);
        let (finished, _) = fixture.open("finished");
        drop(fixture.sessions.request(finished));
        for engine_sid in ["a", "b", "c", "d"] {
            fixture.open(engine_sid);
        }
        assert_eq!(fixture.closed.all(), ["a", "b"]);
        assert_eq!(fixture.clients(), 3);
        assert!(fixture.sessions.request(finished).is_some());
    }
}
