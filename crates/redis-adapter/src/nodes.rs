//! The processes with this adapter that are known to live, because they say so. JavaScript's do
//! not: of those only the number is known, from their subscriptions.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::channel;
use crate::msgpack::DecodeError;
use crate::state::Shared;

/// How often a process says that it lives.
const BEAT: Duration = Duration::from_secs(2);

/// Who was not heard for so long is not waited for: frozen, or out of reach.
const STALE: Duration = Duration::from_secs(5);

/// Who was not heard for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// More than any cluster has: bounds what a stranger can make this process remember.
const MAX_NODES: usize = 4096;

/// The longest name that is taken.
const MAX_NAME: usize = 256;

#[derive(Serialize, Deserialize)]
struct Beat {
    uid: String,
    name: String,
}

/// Another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) uid: String,
    pub(crate) name: String,
    /// It was not heard for a while.
    pub(crate) stale: bool,
}

struct Heard {
    name: String,
    at: Instant,
}

#[derive(Default)]
pub(crate) struct Nodes(Mutex<HashMap<String, Heard>>);

impl Nodes {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a process says, unless that is the one called `own`.
    pub(crate) fn hear(&self, message: &Bytes, own: &str, now: Instant) -> Result<(), DecodeError> {
        let beat: Beat = serde_json::from_slice(message)
            .map_err(|_| DecodeError::Unexpected("a sign of life"))?;
        if beat.uid.len() > MAX_NAME || beat.name.len() > MAX_NAME {
            return Err(DecodeError::TooMany("bytes in a name"));
        }
        if beat.uid == own {
            return Ok(());
        }
        let mut nodes = self.lock();
        nodes.retain(|_, heard| now.duration_since(heard.at) < FORGOTTEN);
        if nodes.len() >= MAX_NODES && !nodes.contains_key(&beat.uid) {
            return Err(DecodeError::TooMany("nodes"));
        }
        let heard = Heard {
            name: beat.name,
            at: now,
        };
        nodes.insert(beat.uid, heard);
        Ok(())
    }

    /// Whether the process called `uid` has this adapter, and not JavaScript's.
    pub(crate) fn knows(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    pub(crate) fn all(&self, now: Instant) -> Vec<Node> {
        let nodes = self.lock();
        let nodes = nodes.iter().map(|(uid, heard)| Node {
            uid: uid.clone(),
            name: heard.name.clone(),
            stale: now.duration_since(heard.at) > STALE,
        });
        nodes.collect()
    }
}

/// Says that this process lives, as long as it does.
pub(crate) async fn live(shared: Weak<Shared>) {
    // Said before, not all others would hear it, and would take it for a gap.
    let up = shared.upgrade().map(|shared| shared.bus.watch_up());
    if let Some(mut up) = up
        && up.wait_for(|up| *up).await.is_err()
    {
        return;
    }
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let beat = Beat {
            uid: shared.uid.clone(),
            name: shared.name.clone(),
        };
        // Two texts are always JSON.
        if let Ok(beat) = serde_json::to_vec(&beat) {
            let channel = channel::node_channel(&shared.prefix);
            // One that is lost is made good by the next.
            drop(shared.bus.publish(channel, beat.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(uid: &str) -> Bytes {
        format!(r#"{{"uid":"{uid}","name":"the {uid}"}}"#).into()
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_stale_and_then_forgotten() {
        let nodes = Nodes::default();
        let start = Instant::now();
        nodes.hear(&beat("me"), "me", start).unwrap();
        assert!(!nodes.knows("me"));
        nodes.hear(&beat("a"), "me", start).unwrap();
        let expected = |stale| Node {
            uid: "a".to_owned(),
            name: "the a".to_owned(),
            stale,
        };
        assert_eq!(nodes.all(start + BEAT), [expected(false)]);
        assert_eq!(nodes.all(start + 3 * BEAT), [expected(true)]);
        nodes.hear(&beat("b"), "me", start + FORGOTTEN).unwrap();
        assert!(nodes.knows("b") && !nodes.knows("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_fill_the_memory() {
        let nodes = Nodes::default();
        let now = Instant::now();
        for n in 0..MAX_NODES {
            nodes.hear(&beat(&n.to_string()), "me", now).unwrap();
        }
        assert!(nodes.hear(&beat("one more"), "me", now).is_err());
        assert!(nodes.hear(&beat("1"), "me", now).is_ok());
        let long = beat(&"x".repeat(MAX_NAME + 1));
        assert!(nodes.hear(&long, "me", now + 2 * FORGOTTEN).is_err());
        assert!(nodes.hear(&Bytes::from_static(b"[]"), "me", now).is_err());
    }
}
