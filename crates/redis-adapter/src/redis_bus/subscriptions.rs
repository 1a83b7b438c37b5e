//! Which channels are wanted, which are confirmed, and who waits for it. Pure:
//! says what to send next and is told what was answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Confirm;
use crate::bus::BusError;

/// Channels in one SUBSCRIBE: bounds the command, and how long messages that
/// came before its last confirmation can be behind.
const BATCH_CHANNELS: usize = 1000;

#[derive(Default)]
pub(super) struct Subscriptions {
    channels: HashMap<Arc<str>, Channel>,
    /// Channels that may be wanted but not confirmed, or the other way round.
    dirty: HashSet<Arc<str>>,
    waiters: Vec<Waiter>,
    /// The number of waiters at which those who gave up are looked for.
    prune_at: usize,
    /// A waiter may wait for a channel that is not wanted any more.
    disappointed: bool,
}

#[derive(Default, Clone, Copy)]
struct Channel {
    wanted: bool,
    /// Confirmed on the present connection.
    confirmed: bool,
}

struct Waiter {
    missing: Vec<Arc<str>>,
    confirm: Confirm,
}

/// One step towards what is wanted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) subscribe: Vec<Arc<str>>,
    pub(super) unsubscribe: Vec<Arc<str>>,
}

impl Subscriptions {
    pub(super) fn subscribe(&mut self, channels: Vec<String>, confirm: Confirm) {
        let mut missing = Vec::new();
        for name in channels {
            let name: Arc<str> = name.into();
            let channel = self.channels.entry(name.clone()).or_default();
            channel.wanted = true;
            if !channel.confirmed {
                self.dirty.insert(name.clone());
                missing.push(name);
            }
        }
        if missing.is_empty() {
            let _ = confirm.send(Ok(()));
            return;
        }
        // So that they do not add up while Redis is away, at a cost that is
        // constant for each subscription.
        if self.waiters.len() >= self.prune_at {
            self.waiters.retain(|waiter| !waiter.confirm.is_closed());
            self.prune_at = 2 * self.waiters.len().max(32);
        }
        self.waiters.push(Waiter { missing, confirm });
    }

    pub(super) fn unsubscribe(&mut self, channels: Vec<String>) {
        for name in channels {
            if let Some((name, _)) = self.channels.get_key_value(&*name) {
                self.dirty.insert(name.clone());
            }
            if let Some(channel) = self.channels.get_mut(&*name) {
                channel.wanted = false;
            }
        }
        self.disappointed = true;
    }

    /// What to send next, if anything. Nothing else may be sent until it was
    /// [confirmed](Self::confirmed) or the connection is new.
    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        if std::mem::take(&mut self.disappointed) {
            self.answer_waiters();
        }
        let names: Vec<_> = self.dirty.iter().take(BATCH_CHANNELS).cloned().collect();
        let mut batch = Batch::default();
        for name in names {
            self.dirty.remove(&name);
            match self.channels.get_mut(&name) {
                Some(channel) if channel.wanted && !channel.confirmed => batch.subscribe.push(name),
                Some(channel) if !channel.wanted && channel.confirmed => {
                    // From now on, not only once it is answered: whoever wants it again has to wait.
                    channel.confirmed = false;
                    batch.unsubscribe.push(name);
                }
                Some(channel) if !channel.wanted => drop(self.channels.remove(&name)),
                _ => {}
            }
        }
        match batch == Batch::default() {
            true if self.dirty.is_empty() => None,
            true => self.next_batch(),
            false => Some(batch),
        }
    }

    pub(super) fn confirmed(&mut self, batch: Batch) {
        for name in batch.subscribe {
            self.set_confirmed(name, true);
        }
        for name in batch.unsubscribe {
            self.set_confirmed(name, false);
        }
        self.answer_waiters();
    }

    fn set_confirmed(&mut self, name: Arc<str>, confirmed: bool) {
        let channel = self.channels.entry(name.clone()).or_default();
        channel.confirmed = confirmed;
        // It may have changed again while the command was under way.
        if channel.wanted != confirmed || !channel.wanted {
            self.dirty.insert(name);
        }
    }

    /// Whether `channel` is wanted, and heard as far as this knows.
    pub(super) fn is_confirmed(&self, channel: &str) -> bool {
        let channel = self.channels.get(channel);
        channel.is_some_and(|channel| channel.wanted && channel.confirmed)
    }

    /// A new connection: nothing is confirmed.
    pub(super) fn start_anew(&mut self) {
        self.channels.retain(|_, channel| channel.wanted);
        for (name, channel) in &mut self.channels {
            channel.confirmed = false;
            self.dirty.insert(name.clone());
        }
    }

    fn answer_waiters(&mut self) {
        let channels = &self.channels;
        let state = |name: &Arc<str>| channels.get(name).copied().unwrap_or_default();
        let mut kept = Vec::new();
        for mut waiter in self.waiters.drain(..) {
            if waiter.missing.iter().any(|name| !state(name).wanted) {
                let _ = waiter.confirm.send(Err(BusError::Unsubscribed));
                continue;
            }
            waiter.missing.retain(|name| !state(name).confirmed);
            if waiter.missing.is_empty() {
                let _ = waiter.confirm.send(Ok(()));
            } else {
                kept.push(waiter);
            }
        }
        self.waiters = kept;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{self, Receiver};

    use super::*;

    type Answer = Receiver<Result<(), BusError>>;

    fn subscribe(subscriptions: &mut Subscriptions, channels: &[&str]) -> Answer {
        let (confirm, confirmed) = oneshot::channel();
        let channels = channels.iter().map(|name| (*name).to_owned()).collect();
        subscriptions.subscribe(channels, confirm);
        confirmed
    }

    fn unsubscribe(subscriptions: &mut Subscriptions, channel: &str) {
        subscriptions.unsubscribe(vec![channel.to_owned()]);
    }

    fn names(batch: &[Arc<str>]) -> Vec<&str> {
        let mut names: Vec<&str> = batch.iter().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn concurrent_subscriptions_are_one_command_and_each_waits_for_all_its_channels() {
        let mut subscriptions = Subscriptions::default();
        let mut a = subscribe(&mut subscriptions, &["x", "y"]);
        let mut b = subscribe(&mut subscriptions, &["y", "z"]);
        let batch = subscriptions.next_batch().unwrap();
        assert_eq!(names(&batch.subscribe), ["x", "y", "z"]);
        let mut late = subscribe(&mut subscriptions, &["x", "w"]);
        assert!(a.try_recv().is_err());
        subscriptions.confirmed(batch);
        assert_eq!(a.try_recv(), Ok(Ok(())));
        assert_eq!(b.try_recv(), Ok(Ok(())));
        assert!(late.try_recv().is_err(), "w is not confirmed yet");
        let batch = subscriptions.next_batch().unwrap();
        assert_eq!(names(&batch.subscribe), ["w"]);
        subscriptions.confirmed(batch);
        assert_eq!(late.try_recv(), Ok(Ok(())));
        assert_eq!(subscribe(&mut subscriptions, &["w"]).try_recv(), Ok(Ok(())));
        assert_eq!(subscriptions.next_batch(), None);
    }

    #[test]
    fn a_subscription_that_follows_an_unsubscription_wins() {
        let mut subscriptions = Subscriptions::default();
        let _first = subscribe(&mut subscriptions, &["x"]);
        let batch = subscriptions.next_batch().unwrap();
        subscriptions.confirmed(batch);
        unsubscribe(&mut subscriptions, "x");
        let batch = subscriptions.next_batch().unwrap();
        assert_eq!(names(&batch.unsubscribe), ["x"]);
        // The UNSUBSCRIBE is under way.
        let mut again = subscribe(&mut subscriptions, &["x"]);
        subscriptions.confirmed(batch);
        let mut confirmed_too_early = again.try_recv().is_ok();
        let batch = subscriptions.next_batch().unwrap();
        confirmed_too_early |= again.try_recv().is_ok();
        assert_eq!(names(&batch.subscribe), ["x"]);
        subscriptions.confirmed(batch);
        assert!(!confirmed_too_early);
        assert_eq!(again.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn an_unsubscription_that_follows_a_subscription_wins() {
        let mut subscriptions = Subscriptions::default();
        let mut waiter = subscribe(&mut subscriptions, &["x"]);
        let batch = subscriptions.next_batch().unwrap();
        unsubscribe(&mut subscriptions, "x");
        subscriptions.confirmed(batch);
        assert_eq!(waiter.try_recv(), Ok(Err(BusError::Unsubscribed)));
        let batch = subscriptions.next_batch().unwrap();
        assert_eq!(names(&batch.unsubscribe), ["x"]);
        subscriptions.confirmed(batch);
        assert_eq!(subscriptions.next_batch(), None);
        assert!(subscriptions.channels.is_empty(), "nothing is left of it");
        // The same before anything was sent.
        let mut waiter = subscribe(&mut subscriptions, &["x"]);
        unsubscribe(&mut subscriptions, "x");
        assert_eq!(subscriptions.next_batch(), None);
        assert_eq!(waiter.try_recv(), Ok(Err(BusError::Unsubscribed)));
    }

    #[test]
    fn those_who_gave_up_do_not_add_up() {
        let mut subscriptions = Subscriptions::default();
        let waiting = subscribe(&mut subscriptions, &["x"]);
        for _ in 0..1000 {
            drop(subscribe(&mut subscriptions, &["x"]));
        }
        assert!(subscriptions.waiters.len() <= 64);
        let batch = subscriptions.next_batch().unwrap();
        subscriptions.confirmed(batch);
        assert_eq!(waiting.blocking_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_new_connection_is_told_everything_wanted_and_nothing_else() {
        let mut subscriptions = Subscriptions::default();
        let _waiter = subscribe(&mut subscriptions, &["x", "y"]);
        let batch = subscriptions.next_batch().unwrap();
        subscriptions.confirmed(batch);
        unsubscribe(&mut subscriptions, "y");
        let _lost_with_the_connection = subscriptions.next_batch();
        let mut waiter = subscribe(&mut subscriptions, &["z"]);
        subscriptions.start_anew();
        let mut not_yet = subscribe(&mut subscriptions, &["x"]);
        assert!(not_yet.try_recv().is_err(), "x is not confirmed any more");
        let batch = subscriptions.next_batch().unwrap();
        assert_eq!(names(&batch.subscribe), ["x", "z"]);
        assert!(batch.unsubscribe.is_empty());
        subscriptions.confirmed(batch);
        assert_eq!(waiter.try_recv(), Ok(Ok(())));
        assert_eq!(not_yet.try_recv(), Ok(Ok(())));
    }

    #[test]
    fn many_channels_are_several_commands() {
        let mut subscriptions = Subscriptions::default();
        let channels: Vec<String> = (0..2500).map(|number| number.to_string()).collect();
        let (confirm, mut confirmed) = oneshot::channel();
        subscriptions.subscribe(channels, confirm);
        for size in [1000, 1000, 500] {
            assert!(confirmed.try_recv().is_err());
            let batch = subscriptions.next_batch().unwrap();
            assert_eq!(batch.subscribe.len(), size);
            subscriptions.confirmed(batch);
        }
        assert_eq!(confirmed.try_recv(), Ok(Ok(())));
    }
}
