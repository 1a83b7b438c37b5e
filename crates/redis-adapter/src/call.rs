//! A request of this process on its way through the cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::broadcast::EncodeError;
use crate::bus::BusError;
use crate::channel;
use crate::namespace::Namespace;
use crate::request::{self, Ask};
use crate::response::{Answer, Response};
use crate::roll::{Census, Roll};
use crate::state::{Shared, random_uid};

/// Answers to one request, in bytes: one more than that is not taken, and its sender counts as
/// missing. Some 300,000 sockets with what is known of them.
const MAX_ANSWERS: usize = 256 * 1024 * 1024;

/// When it is first looked whether those who have not answered are still there. No event tells.
const FIRST_RECOUNT: Duration = Duration::from_millis(200);

/// The longest pause between two looks.
const MAX_PAUSE: Duration = Duration::from_secs(1);

type Arrived = (Response, usize);

/// The requests of this process that wait for answers, by their ids.
#[derive(Default)]
pub(crate) struct Calls(Mutex<HashMap<String, mpsc::UnboundedSender<Arrived>>>);

impl Calls {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, mpsc::UnboundedSender<Arrived>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody waits: an answer need not even be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Hands an answer of so many bytes to who waits for it, if anybody does.
    pub(crate) fn answer(&self, response: Response, bytes: usize) {
        if let Some(call) = self.lock().get(&response.id) {
            // Who has just stopped waiting does not want it.
            let _ = call.send((response, bytes));
        }
    }
}

/// One request. Dropping it ends the waiting.
pub(crate) struct Call {
    namespace: Arc<Namespace>,
    id: String,
    answers: mpsc::UnboundedReceiver<Arrived>,
    pub(crate) roll: Roll,
    bytes: usize,
    deadline: Instant,
    recount: Instant,
    pause: Duration,
}

/// Why nobody was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl Call {
    /// Asks all other servers of the namespace; None when there are none.
    pub(crate) async fn start(
        namespace: &Arc<Namespace>,
        ask: &Ask,
        timeout: Duration,
    ) -> Result<Option<Self>, CallError> {
        let shared = &namespace.shared;
        let deadline = Instant::now() + timeout;
        let roll = Roll::new(census(shared, namespace.path()).await?);
        if roll.is_empty() {
            return Ok(None);
        }
        let id = random_uid();
        let message = request::encode(&shared.uid, Some(&id), ask)?;
        let (sender, answers) = mpsc::unbounded_channel();
        shared.calls.lock().insert(id.clone(), sender);
        let call = Self {
            namespace: namespace.clone(),
            id,
            answers,
            roll,
            bytes: 0,
            deadline,
            recount: Instant::now() + FIRST_RECOUNT,
            pause: FIRST_RECOUNT,
        };
        let channel = channel::request_channel(&shared.prefix, namespace.path());
        shared.bus.publish(channel, message).await?;
        Ok(Some(call))
    }

    /// The next answer with who gave it; None when `enough` says so, or it is too late. The roll
    /// knows already what an answer means to it. Cancel safe.
    pub(crate) async fn next(
        &mut self,
        enough: impl Fn(&Roll) -> bool,
    ) -> Option<(Option<String>, Answer)> {
        loop {
            // What has come counts, also when it is late.
            if let Ok(arrived) = self.answers.try_recv() {
                return self.take(arrived);
            }
            if enough(&self.roll) || self.bytes > MAX_ANSWERS {
                return None;
            }
            tokio::select! {
                biased;
                Some(arrived) = self.answers.recv() => return self.take(arrived),
                () = sleep_until(self.deadline) => return None,
                () = sleep_until(self.recount) => {
                    let shared = &self.namespace.shared;
                    let limit = sleep_until(self.deadline);
                    tokio::select! {
                        census = census(shared, self.namespace.path()) => {
                            // Without an answer nothing is known that was not known before.
                            if let Ok(census) = census {
                                self.roll.recount(&census);
                            }
                        }
                        () = limit => return None,
                    }
                    self.pause = (self.pause * 2).min(MAX_PAUSE);
                    self.recount = Instant::now() + self.pause;
                }
            }
        }
    }

    fn take(&mut self, (response, bytes): Arrived) -> Option<(Option<String>, Answer)> {
        self.bytes += bytes;
        if self.bytes > MAX_ANSWERS {
            return None;
        }
        // Acknowledgements come behind the number of them, which is the answer.
        if !matches!(response.answer, Answer::Acked(_)) {
            self.roll.answered(response.uid.as_deref());
        }
        Some((response.uid, response.answer))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.namespace.shared.calls.lock().remove(&self.id);
    }
}

/// Counts who is there beside this process. Who says its name is counted by its own response
/// channel, so that of each it is known whether it is there.
pub(crate) async fn census(shared: &Shared, namespace: &str) -> Result<Census, BusError> {
    let requests = channel::request_channel(&shared.prefix, namespace);
    // Else this process would not be among those that are counted.
    shared.bus.subscribe(vec![requests.clone()]).await?;
    let nodes = shared.nodes.all(Instant::now());
    let own_channel =
        |uid: &str| channel::specific_response_channel(&shared.prefix, namespace, uid);
    let mut channels = vec![requests];
    channels.extend(nodes.iter().map(|node| own_channel(&node.uid)));
    let counts = shared.bus.subscribers(channels).await?;
    let mut counts = counts.into_iter();
    let total = counts.next().unwrap_or_default().saturating_sub(1);
    let named = nodes.into_iter().zip(counts);
    let named = named.filter(|(_, count)| *count > 0);
    Ok(Census {
        total: usize::try_from(total).unwrap_or(usize::MAX),
        named: named.map(|(node, _)| node).collect(),
    })
}
