//! One socket's work, one thing after the other: handlers of a socket run concurrently in
//! socketioxide, and a conversation needs its order. An idle lane has no task.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis_adapter::Adapter;
use socketioxide::extract::{AckSender, TryData};
use socketioxide::handler::{FromMessageParts, Value};
use socketioxide::socket::Socket;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Sockets;
use super::{history, leave, login, private_message};
use crate::chat::reply::Refusal;
use crate::store::Session;

/// Events that wait in a lane at most: half a second's worth of what one worker can do at all.
const MAX_EVENTS: usize = 4096;

/// Bytes of events that wait in a lane at most: eight of the largest packets.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What a waiting event costs beside its text.
const EVENT_OVERHEAD: usize = 128;

/// The events that clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    PrivateMessage,
    Messages,
}

pub(super) struct Event {
    pub(super) socket: Arc<Socket<Adapter>>,
    pub(super) kind: Kind,
    pub(super) value: Value,
    pub(super) ack: Option<i64>,
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

    pub(super) fn ack_sender(&mut self) -> AckSender<Adapter> {
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
    Login(Arc<Socket<Adapter>>),
    Event(Event),
    Leave,
}

pub(super) struct Lane {
    pub(super) sockets: Arc<Sockets>,
    pub(super) session: Session,
    /// The store's id of this socket.
    pub(super) socket_id: String,
    queue: Mutex<Queue>,
}

struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
    running: bool,
    /// Until the socket's end is dealt with.
    alive: Option<TaskTrackerToken>,
}

impl Lane {
    pub(super) fn new(sockets: Arc<Sockets>, session: Session) -> Arc<Self> {
        Arc::new(Self {
            socket_id: sockets.new_socket_id(),
            queue: Mutex::new(Queue {
                jobs: VecDeque::new(),
                bytes: 0,
                running: false,
                alive: Some(sockets.tasks.token()),
            }),
            sockets,
            session,
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first job of a lane.
    pub(super) fn login(self: &Arc<Self>, socket: Arc<Socket<Adapter>>) {
        self.enqueue(self.queue(), Job::Login(socket));
    }

    /// Takes an event, or refuses it at once when too much waits already.
    pub(super) fn event(self: &Arc<Self>, mut event: Event) {
        let mut queue = self.queue();
        let size = event.size();
        if queue.jobs.len() >= MAX_EVENTS || queue.bytes + size > MAX_BYTES {
            drop(queue);
            if event.ack.is_some() {
                let ack = event.ack_sender();
                // An acknowledgement that does not fit is lost with the client's whole queue.
                let _ = ack.send(&Refusal::rate_limited().ack());
            }
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
        while let Some(job) = self.next() {
            match job {
                Job::Login(socket) => login::run(&self, socket).await,
                Job::Event(event) => match event.kind {
                    Kind::PrivateMessage => private_message::run(&self, event).await,
                    Kind::Messages => history::run(&self, event).await,
                },
                Job::Leave => {
                    leave::run(&self).await;
                    self.queue().alive = None;
                }
            }
        }
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
