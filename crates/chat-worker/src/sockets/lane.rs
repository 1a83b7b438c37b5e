//! One socket's work, one thing after the other: handlers of a socket run concurrently in
//! socketioxide, and a conversation needs its order. An idle lane has no task.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::pace::Pace;
use redis_adapter::Adapter;
use serde::Serialize;
use socketioxide::extract::{AckSender, TryData};
use socketioxide::handler::{FromMessageParts, Value};
use socketioxide::socket::Socket;
use socketioxide::{SendError, SocketError};
use sticky_worker::{Busy, ClientHandle};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Sockets;
use super::client::{ACK_BYTES, Answer, argument, cut, queued, waiting};
use super::heard::Heard;
use super::login::{Hold, Outcome};
use super::session_sockets::end;
use super::{history, leave, lobby, login, private_message, users_page, workspaces};
use crate::chat::reply::{Code, Refusal, StoredAck};
use crate::store::{Position, Session, StoreError, StoreFuture};

/// Events that wait in a lane at most: half a second's worth of what one worker can do at all.
const MAX_EVENTS: usize = 4096;

/// Bytes of events that wait in a lane at most: eight of the largest packets.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What a waiting event costs beside its text.
const EVENT_OVERHEAD: usize = 128;

/// How long an event may take from its arrival, once the store has failed one before it: without
/// this a queue would be refused one bound of the store after the other.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long an acknowledgement waits for room in the client's queue. A burst can fill it within
/// the time that a polling client needs to ask for more; one that is full for longer is stuck.
const ACK_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks: socketioxide does not tell when there is room.
const ACK_RETRY: Duration = Duration::from_millis(20);

/// The events that clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    PrivateMessage,
    Messages,
    LobbyJoin,
    LobbyChat,
    UsersPage,
    Application,
}

pub(super) struct Event {
    pub(super) socket: Arc<Socket<Adapter>>,
    pub(super) kind: Kind,
    pub(super) value: Value,
    pub(super) ack: Option<i64>,
    pub(super) arrived: Instant,
    /// When it is refused at the latest; none while the store answers.
    pub(super) deadline: Option<Instant>,
    /// A client that is to go elsewhere is let have the answer first.
    pub(super) _busy: Option<Busy>,
}

impl Event {
    fn size(&self) -> usize {
        let bytes = match &self.value {
            Value::Str(text, attachments) => {
                let attachments = attachments.iter().flatten();
                text.len() + attachments.map(|a| a.len()).sum::<usize>()
            }
            Value::Bytes(bytes) => bytes.len(),
        };
        bytes + EVENT_OVERHEAD
    }

    /// What the store says within the time that is left for this event.
    pub(super) async fn ask<T>(&self, operation: StoreFuture<'_, T>) -> Result<T, Refusal> {
        let late = || StoreError::Unavailable("no answer in time".into());
        let answer = match self.deadline {
            None => operation.await,
            Some(deadline) if deadline <= Instant::now() => Err(late()),
            Some(deadline) => timeout_at(deadline, operation)
                .await
                .unwrap_or_else(|_| Err(late())),
        };
        answer.map_err(|error| {
            tracing::debug!(sid = %self.socket.id, kind = ?self.kind, %error, "the store did not answer");
            Refusal::unavailable()
        })
    }

    /// Acknowledges the event. A client whose queue stays full is sent away, for it
    /// would wait for ever; its library tells it that the acknowledgement is lost.
    /// `bytes`: how long the answer is, about.
    pub(super) async fn acknowledge(&mut self, answer: &impl Serialize, bytes: usize) {
        if self.ack.is_none() {
            return;
        }
        let argument = argument(&self.socket, answer, bytes);
        let deadline = Instant::now() + ACK_PATIENCE;
        while let Err(SendError::Socket(SocketError::InternalChannelFull)) =
            self.ack_sender().send(&argument)
        {
            if Instant::now() >= deadline {
                cut(&self.socket);
                return;
            }
            tokio::time::sleep(ACK_RETRY).await;
        }
        queued(&self.socket, bytes);
    }

    /// Acknowledges it with what was asked for, which is about so long, or with why not. Returns whether
    /// the store answered, as far as it was asked.
    pub(super) async fn answer<T: Serialize>(
        mut self,
        answer: Result<T, Refusal>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> bool {
        match &answer {
            Ok(answer) => self.acknowledge(answer, bytes(answer)).await,
            Err(refusal) => self.acknowledge(&refusal.ack(), ACK_BYTES).await,
        }
        !answer.is_err_and(|refusal| refusal.code == Code::Unavailable)
    }

    /// The same for something that is stored: its id, and when it was.
    pub(super) async fn answer_stored(self, stored: Result<(String, u64), Refusal>) -> bool {
        let stored = stored.as_ref();
        let ack = stored.map(|(id, at)| StoredAck::new(id, *at));
        self.answer(ack.map_err(Clone::clone), |_| ACK_BYTES).await
    }

    fn ack_sender(&mut self) -> AckSender<Adapter> {
        let Ok(sender) = AckSender::from_message_parts(&self.socket, &mut self.value, &self.ack);
        sender
    }

    /// The event's first argument; null when there is none, or it cannot be read.
    pub(super) fn payload(&mut self) -> serde_json::Value {
        let Ok(data) = TryData::from_message_parts(&self.socket, &mut self.value, &self.ack);
        data.0.unwrap_or_default()
    }
}

enum Job {
    Login(Arc<Socket<Adapter>>, Option<Hold>),
    Event(Event),
    Leave,
}

pub(super) struct Lane {
    pub(super) sockets: Arc<Sockets>,
    pub(super) session: Session,
    /// The number of this socket's stay, and the store's id of it.
    pub(super) stay: u64,
    pub(super) socket_id: String,
    /// Whether the client wants to be told of others in batches.
    pub(super) wants_batches: bool,
    /// The messages that the socket has.
    pub(super) heard: Arc<Heard>,
    client: Option<ClientHandle>,
    queue: Mutex<Queue>,
}

struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    pace: Pace,
    running: bool,
    /// Whether the socket counts among its user's that are caught up after a gap.
    online: bool,
    /// Whether the others in the lobby were told of the socket.
    announced: bool,
    /// Rooms that the socket asked for.
    rooms: HashSet<String>,
    /// Whether the session had ended when the socket came: what it sends is not dealt with.
    ended: bool,
    /// Until the socket's end is dealt with.
    alive: Option<TaskTrackerToken>,
}

impl Lane {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        session: Session,
        wants_batches: bool,
        client: Option<ClientHandle>,
    ) -> Arc<Self> {
        let stay = sockets.new_stay();
        Arc::new(Self {
            stay,
            socket_id: stay.to_string(),
            wants_batches,
            heard: Arc::default(),
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                bytes: 0,
                pace: Pace::default(),
                running: false,
                online: false,
                announced: false,
                rooms: HashSet::new(),
                ended: false,
                alive: Some(sockets.tasks.token()),
            }),
            sockets,
            session,
            client,
        })
    }

    /// Whether the client was asked to go to another worker.
    pub(super) fn is_expected_elsewhere(&self) -> bool {
        let client = self.client.as_ref();
        client.is_some_and(ClientHandle::is_expected_elsewhere)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first job of a lane of private messages.
    pub(super) fn login(self: &Arc<Self>, socket: Arc<Socket<Adapter>>) {
        // Now, not when the job runs: nothing may come before `session`.
        let hold = login::hold(self, &socket);
        self.enqueue(self.queue(), Job::Login(socket, Some(hold)));
    }

    /// The first job of a lane in the lobby: there is nothing to be told first.
    pub(super) fn enter(self: &Arc<Self>, socket: Arc<Socket<Adapter>>) {
        self.enqueue(self.queue(), Job::Login(socket, None));
    }

    /// Whether the others in the lobby were not told of this socket yet; they are from now on.
    pub(super) fn is_new_in_lobby(&self) -> bool {
        !std::mem::replace(&mut self.queue().announced, true)
    }

    /// From now on the socket is to hear what is caught up after a gap: before the store is read for
    /// it, so that no gap falls between.
    pub(super) fn is_online(&self) {
        if !std::mem::replace(&mut self.queue().online, true) {
            self.sockets.came_online(&self.session.user);
        }
    }

    /// The socket was told its past up to `position`.
    pub(super) fn is_told(&self, position: Position) {
        self.sockets.was_told(&self.session.user, position);
    }

    /// Takes note of a room that the socket is to join; false when it has `max` others.
    pub(super) fn enters_room(&self, room: &str, max: usize) -> bool {
        let rooms = &mut self.queue().rooms;
        rooms.contains(room) || (rooms.len() < max && rooms.insert(room.to_owned()))
    }

    pub(super) fn left_room(&self, room: &str) {
        self.queue().rooms.remove(room);
    }

    /// Takes an event, or refuses it at once when too much waits already.
    pub(super) fn event(self: &Arc<Self>, mut event: Event) {
        let mut queue = self.queue();
        let size = event.size();
        if queue.jobs.len() >= MAX_EVENTS || queue.bytes + size > MAX_BYTES {
            drop(queue);
            let answer = Answer::to(&event.socket, &mut event.value, &event.ack);
            answer.send(&event.socket, &Refusal::rate_limited().ack());
            return;
        }
        queue.bytes += size;
        self.enqueue(queue, Job::Event(event));
    }

    /// The last job of a lane. Events before it are still dealt with: they were sent.
    pub(super) fn leave(self: &Arc<Self>) {
        self.enqueue(self.queue(), Job::Leave);
    }

    fn enqueue(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, job: Job) {
        queue.jobs.push_back(job);
        if !queue.running {
            queue.running = true;
            drop(queue);
            self.sockets.tasks.spawn(self.clone().run());
        }
    }

    async fn run(self: Arc<Self>) {
        let mut store_answers = true;
        while let Some(job) = self.next() {
            match job {
                Job::Login(socket, hold) => {
                    store_answers = self.log_in(socket, hold).await;
                }
                Job::Event(mut event) => {
                    let Some(wait) = self.turn() else {
                        continue;
                    };
                    if !wait.is_zero() {
                        tokio::time::sleep(wait).await;
                    }
                    // However large the answer: what waits before it is what counts.
                    if waiting(&event.socket) > self.sockets.max_buffered {
                        cut(&event.socket);
                        continue;
                    }
                    if !store_answers {
                        event.deadline = Some(event.arrived + PATIENCE);
                    }
                    store_answers = match event.kind {
                        Kind::PrivateMessage => private_message::run(&self, event).await,
                        Kind::Messages => history::run(&self, event).await,
                        Kind::UsersPage => users_page::run(&self, event).await,
                        Kind::LobbyJoin => lobby::join(&self, event).await,
                        Kind::LobbyChat => lobby::chat(&self, event).await,
                        Kind::Application => workspaces::application(&self, event).await,
                    };
                }
                Job::Leave => {
                    if std::mem::take(&mut self.queue().online) {
                        self.sockets.went_offline(&self.session.user);
                    }
                    self.sockets.roll.leave(self.stay);
                    leave::run(&self).await;
                    self.queue().alive = None;
                }
            }
        }
    }

    /// Returns whether the store answered.
    async fn log_in(self: &Arc<Self>, socket: Arc<Socket<Adapter>>, hold: Option<Hold>) -> bool {
        match login::run(self, socket.clone(), hold).await {
            Outcome::In => true,
            Outcome::Failed => false,
            Outcome::Ended => {
                self.queue().ended = true;
                end(socket);
                true
            }
        }
    }

    /// How long the next event has to wait for its turn; none when its session has ended.
    fn turn(&self) -> Option<Duration> {
        let mut queue = self.queue();
        (!queue.ended).then(|| queue.pace.next(self.sockets.events, Instant::now()))
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        let job = queue.jobs.pop_front();
        match &job {
            Some(Job::Event(event)) => queue.bytes -= event.size(),
            Some(_) => {}
            None => {
                queue.running = false;
                // Most lanes are idle most of the time, and there are many.
                queue.jobs = VecDeque::new();
            }
        }
        job
    }
}
