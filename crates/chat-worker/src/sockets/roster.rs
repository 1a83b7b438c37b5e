//! Who is told of whom: each process knows the users who were active last, hears of each change, and
//! tells those of its own sockets for whom the user is in the roster or a partner.
//!
//! Up to the limit of the roster everybody is told of everybody, as in the original example, and so are
//! the clients of servers of that example. Sockets that ask for it are told in batches.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use socketioxide::socket::Sid;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{NAMESPACE, Sockets};
use crate::chat::audience::Member;
use crate::chat::recent_users::{CHANNEL, Change, RecentUsers, is_everybody};
use crate::chat::roster::{Conversations, Roster, Told, User};
use crate::store::{Session, StoreError};

/// The room of the sockets that are told in batches: left out of what all others are told.
pub(super) const BATCHED: &str = "presence:batched";

/// From the first change of a batch until it is sent.
const BATCH: Duration = Duration::from_millis(50);

/// How long a change is waited for that another process has published: mostly it is there already.
const OVERTAKEN: Duration = Duration::from_millis(20);

/// Changes a second, in the whole cluster, beyond which it is not told that somebody is active who
/// was connected anyway.
const BUSY: u64 = 50;

/// What this process knows of users, and its sockets of them.
pub(super) struct Roll {
    limit: usize,
    state: Mutex<State>,
    /// Whether a roster has everybody.
    has_everybody: AtomicBool,
    changed: Notify,
}

struct State {
    recent: RecentUsers,
    listeners: HashMap<Member, Listener>,
    /// Those for whom a batch waits, which is about to be sent.
    waiting: Vec<Member>,
    /// Since when changes are counted for [`BUSY`], and the number then.
    second: (Instant, u64),
}

struct Listener {
    sid: Sid,
    batch: Option<Vec<User>>,
}

/// Those of a change's audience that are told at once.
type AtOnce = Vec<Sid>;

impl Roll {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::new(State {
                recent: RecentUsers::new(limit),
                listeners: HashMap::new(),
                waiting: Vec::new(),
                second: (Instant::now(), 0),
            }),
            has_everybody: AtomicBool::new(true),
            changed: Notify::new(),
        }
    }

    /// Never held while something is delivered.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a roster has everybody.
    fn has_everybody(&self) -> bool {
        self.has_everybody.load(Ordering::Relaxed)
    }

    fn changed(&self, state: &State) {
        let everybody = state.recent.has_everybody();
        self.has_everybody.store(everybody, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// The socket is told of a partner from now on. Whether that is new.
    pub(super) fn meets(&self, member: Member, partner: &str) -> bool {
        // Who is told of everybody stays so, and is told of newcomers as long as that lasts.
        !self.has_everybody() && self.lock().recent.audience.meets(member, partner)
    }

    pub(super) fn leave(&self, member: Member) {
        let mut state = self.lock();
        state.recent.audience.leave(member);
        state.listeners.remove(&member);
    }

    /// What is known here of some users, and of whom nothing is; each once.
    pub(super) fn known<'a>(
        &self,
        users: impl Iterator<Item = &'a str>,
    ) -> (Vec<User>, Vec<String>) {
        let users: HashSet<&str> = users.collect();
        let state = self.lock();
        let (mut known, mut strangers) = (Vec::new(), Vec::new());
        for user in users {
            match state.recent.get(user) {
                Some(user) => known.push(User::clone(user)),
                None => strangers.push(user.to_owned()),
            }
        }
        (known, strangers)
    }

    /// Whether it is worth telling that the user did something.
    fn is_sinking(&self, user: &str) -> bool {
        if self.has_everybody() {
            return false;
        }
        let mut state = self.lock();
        let newest = state.recent.newest();
        let (since, first) = state.second;
        if since.elapsed() >= Duration::from_secs(1) {
            state.second = (Instant::now(), newest);
        } else if newest.saturating_sub(first) >= BUSY {
            return false;
        }
        state.recent.is_sinking(user)
    }
}

impl State {
    /// Puts the user into the batches of those who want that. The others of the audience, and whether
    /// these batches are the first that wait: somebody has to send them.
    fn told(&mut self, user: &User) -> (AtOnce, bool) {
        let mut at_once = Vec::new();
        let nothing_waited = self.waiting.is_empty();
        for member in self.recent.told(&user.id) {
            let Some(listener) = self.listeners.get_mut(&member) else {
                continue;
            };
            match &mut listener.batch {
                None => at_once.push(listener.sid),
                Some(batch) => {
                    if batch.is_empty() {
                        self.waiting.push(member);
                    }
                    batch.retain(|other| other.id != user.id);
                    batch.push(user.clone());
                }
            }
        }
        (at_once, nothing_waited && !self.waiting.is_empty())
    }
}

/// Who is entered into the roll.
pub(super) struct Newcomer<'a> {
    pub(super) member: Member,
    pub(super) sid: Sid,
    pub(super) session: &'a Session,
    pub(super) wants_batches: bool,
}

/// Hears of changes, and of what servers of the original example say of their users.
pub(super) fn listen(sockets: &Arc<Sockets>) {
    let weak = Arc::downgrade(sockets);
    sockets.adapter.listen(CHANNEL, move |change| {
        let Some(sockets) = weak.upgrade() else {
            return;
        };
        match serde_json::from_slice(change) {
            Ok(change) => sockets.take_change(&change),
            Err(error) => tracing::debug!(%error, "ignoring a malformed change of a user"),
        }
    });
    let weak = Arc::downgrade(sockets);
    sockets.adapter.overhear(NAMESPACE, move |event| {
        if let (Some(sockets), Some(user)) = (weak.upgrade(), who_came_or_went(event)) {
            sockets.hear_of(user);
        }
    });
}

/// The user of whom an event, `["event", args...]`, says that they came or went.
pub(super) fn who_came_or_went(event: &str) -> Option<User> {
    #[derive(Deserialize)]
    struct Came {
        #[serde(rename = "userID")]
        id: String,
        #[serde(rename = "username")]
        name: String,
    }
    let is = |name| event.starts_with(name);
    if is("[\"user connected\"") {
        let (_, Came { id, name }) = serde_json::from_str::<(String, Came)>(event).ok()?;
        let connected = true;
        return Some(User {
            id,
            name,
            connected,
        });
    }
    if is("[\"user disconnected\"") {
        let (_, id) = serde_json::from_str::<(String, String)>(event).ok()?;
        return Some(User {
            id,
            name: String::new(),
            connected: false,
        });
    }
    None
}

impl Sockets {
    /// Takes a change of a user, and tells those who are to know.
    pub(super) fn take_change(self: &Arc<Self>, change: &Change) {
        let (at_once, batch) = {
            let mut state = self.roll.lock();
            let is_news = state.recent.apply(change);
            self.roll.changed(&state);
            match is_news {
                true => state.told(&change.user),
                false => return,
            }
        };
        match is_everybody(change.total, self.roll.limit) {
            true => self.tell_locally(&change.user, &[], &[BATCHED]),
            false => self.tell_at_once(&change.user, &at_once),
        }
        if batch {
            self.send_batches_soon();
        }
    }

    /// A change that this process made. Others hear of it from the store; servers of the original
    /// example, whose clients know everybody, are told while ours do.
    pub(super) fn made_change(self: &Arc<Self>, change: &Change) {
        self.take_change(change);
        if !change.news || !is_everybody(change.total, self.roll.limit) {
            return;
        }
        let told = Told::of(&change.user);
        let event = told.event();
        match self.adapter.broadcast_elsewhere(NAMESPACE, event, &told) {
            Ok(confirmation) => self.confirm(event, confirmation),
            Err(error) => tracing::debug!(%error, "other servers cannot be told of a user"),
        }
    }

    fn tell_at_once(&self, user: &User, sids: &[Sid]) {
        if !sids.is_empty() {
            let rooms: Vec<&str> = sids.iter().map(Sid::as_str).collect();
            self.tell_locally(user, &rooms, &[]);
        }
    }

    /// Tells sockets of this process whether the user is connected.
    fn tell_locally(&self, user: &User, rooms: &[&str], except: &[&str]) {
        let told = Told::of(user);
        let adapter = &self.adapter;
        if let Err(error) = adapter.deliver_event(NAMESPACE, rooms, except, told.event(), &told) {
            tracing::debug!(%error, "clients cannot be told of a user");
        }
    }

    fn send_batches_soon(self: &Arc<Self>) {
        let this = self.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(BATCH).await;
            this.send_batches();
        });
    }

    fn send_batches(&self) {
        let batches: Vec<(Sid, Vec<User>)> = {
            let mut state = self.roll.lock();
            let waiting = mem::take(&mut state.waiting).into_iter();
            let batches = waiting.filter_map(|member| {
                let listener = state.listeners.get_mut(&member)?;
                let batch = mem::take(listener.batch.as_mut()?);
                (!batch.is_empty()).then_some((listener.sid, batch))
            });
            batches.collect()
        };
        for (sid, batch) in batches {
            let told =
                self.adapter
                    .deliver_event(NAMESPACE, &[sid.as_str()], &[], "presence", &batch);
            if let Err(error) = told {
                tracing::debug!(%error, "a client cannot be told of users");
            }
        }
    }

    /// Waits until all changes up to that number are known here, or reads the store.
    pub(super) async fn know_changes_to(self: &Arc<Self>, version: u64) -> Result<(), StoreError> {
        let deadline = Instant::now() + OVERTAKEN;
        loop {
            // Registered before the look, so that no wake-up falls between.
            let changed = self.roll.changed.notified();
            if self.roll.lock().recent.complete_to() >= version {
                return Ok(());
            }
            if timeout_at(deadline, changed).await.is_err() {
                return self.read_roll().await;
            }
        }
    }

    /// Whether a change that the store has just numbered cannot be: it has lost its data since, and
    /// counts anew.
    pub(super) fn counts_anew(&self, change: &Change) -> bool {
        let state = self.roll.lock();
        let known = state.recent.version_of(&change.user.id);
        change.version <= state.recent.complete_to() && known.is_none_or(|v| v < change.version)
    }

    /// Reads what has changed in the store; all of it, where that says more.
    pub(super) async fn read_roll(self: &Arc<Self>) -> Result<(), StoreError> {
        let limit = self.roll.limit;
        let since = self.roll.lock().recent.complete_to();
        let recent = self.store.recent(since, limit).await?;
        let lost = recent.version < since;
        let changed = {
            let mut state = self.roll.lock();
            let changed = match lost {
                true => Vec::new(),
                false => state.recent.merge(recent),
            };
            self.roll.changed(&state);
            changed
        };
        self.tell_of_all(&changed);
        match lost || !self.roll.lock().recent.has_all() {
            true => self.read_whole_roll().await,
            false => Ok(()),
        }
    }

    /// Reads the store as if nothing were known.
    pub(super) async fn read_whole_roll(self: &Arc<Self>) -> Result<(), StoreError> {
        let recent = self.store.recent(0, self.roll.limit).await?;
        let changed = {
            let mut state = self.roll.lock();
            let changed = state.recent.replace(recent);
            self.roll.changed(&state);
            changed
        };
        self.tell_of_all(&changed);
        Ok(())
    }

    /// Tells of changes that were not heard of when they were made.
    fn tell_of_all(self: &Arc<Self>, users: &[User]) {
        for user in users {
            let (at_once, batch) = self.roll.lock().told(user);
            self.tell_at_once(user, &at_once);
            if batch {
                self.send_batches_soon();
            }
        }
    }

    /// The roster for a socket, which is told of those in it from now on.
    pub(super) fn enrol(
        &self,
        newcomer: Newcomer<'_>,
        conversations: &Conversations,
        partners: Vec<User>,
    ) -> Roster {
        let Newcomer {
            member,
            sid,
            session,
            wants_batches,
        } = newcomer;
        let me = User {
            id: session.user.clone(),
            name: session.name.clone(),
            connected: true,
        };
        let mut acquainted: HashMap<String, User> = partners
            .into_iter()
            .map(|user| (user.id.clone(), user))
            .collect();
        let mut state = self.roll.lock();
        let partners = conversations.partners().iter().filter_map(|id| {
            let recent = state.recent.get(id).cloned();
            recent.or_else(|| acquainted.remove(id).map(Arc::new))
        });
        let partners: Vec<Arc<User>> = partners.collect();
        let limit = self.roll.limit;
        let roster = Roster::new(Arc::new(me), partners, state.recent.newest_first(), limit);
        let met = conversations.partners().iter();
        let met = met.filter(|id| **id != session.user);
        let met = met.map(|id| id.as_str().into()).collect();
        let left_out = roster.left_out.clone();
        let audience = &mut state.recent.audience;
        audience.join(member, left_out, met);
        let batch = wants_batches.then(Vec::new);
        state.listeners.insert(member, Listener { sid, batch });
        roster
    }

    /// What a server of the original example says of one of its users. It has told everybody.
    fn hear_of(self: &Arc<Self>, user: User) {
        if user.connected {
            let mut state = self.roll.lock();
            state.recent.hint(user.clone());
            self.roll.changed(&state);
        }
        let this = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = this.store.heard_of(&user).await {
                // It is found by its session, a little later.
                tracing::debug!(%error, "another server's user is not stored yet");
            }
        });
    }

    /// The user did something: others find them among those who were active last.
    pub(super) fn is_active(self: &Arc<Self>, session: &Session) {
        if !self.roll.is_sinking(&session.user) {
            return;
        }
        let (this, Session { user, name, .. }) = (self.clone(), session.clone());
        self.tasks.spawn(async move {
            match this.store.announce(&user, &name, false).await {
                Ok(change) => this.take_change(&change),
                Err(error) => tracing::debug!(%error, "an active user is not known as one"),
            }
        });
    }

    /// Whether a roster has everybody, so that nobody has to be introduced.
    pub(super) fn knows_everybody(&self) -> bool {
        self.roll.has_everybody()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_users_is_understood() {
        let user = |id: &str, name: &str, connected| {
            let (id, name) = (id.to_owned(), name.to_owned());
            Some(User {
                id,
                name,
                connected,
            })
        };
        let table = [
            (
                r#"["user connected",{"userID":"u","username":"n","connected":true,"messages":[]}]"#,
                user("u", "n", true),
            ),
            (r#"["user disconnected","u"]"#, user("u", "", false)),
            (r#"["user connected",{"username":"n"}]"#, None),
            (r#"["user connected"]"#, None),
            (r#"["user disconnected",{"userID":"u"}]"#, None),
            (r#"["private message",{"userID":"u"}]"#, None),
        ];
        for (event, expected) in table {
            assert_eq!(who_came_or_went(event), expected, "{event}");
        }
    }
}
