//! The users who were active last, up to the roster's limit, as a process knows them: what a login is
//! told of others without asking the store. Each change has a number, so that it is known what is
//! missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::audience::{Audience, Moment};
use super::roster::User;

/// The channel on which changes are published, as JSON.
pub const CHANNEL: &str = "cc:activity";

/// A user came, went or did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The number of this change; each is one more than the one before.
    pub version: u64,
    /// How many users there are, connected or not.
    pub total: u64,
    /// Who.
    #[serde(flatten)]
    pub user: User,
    /// Whether others are to be told, unless they know.
    pub news: bool,
}

/// What a store knows of the users who were active last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recent {
    /// The number of the last change that is in it for sure.
    pub version: u64,
    /// How many users there are.
    pub total: u64,
    /// The users with the number of the last change of each, newest first.
    pub users: Vec<(u64, User)>,
}

#[derive(Debug)]
struct Known {
    user: Arc<User>,
    /// The number of the last change.
    version: u64,
    listed: Moment,
}

/// The list, and the clients of this process who were told of those in it.
#[derive(Debug)]
pub struct RecentUsers {
    limit: usize,
    /// All changes up to that number are known.
    complete_to: u64,
    /// Those known beyond that.
    ahead: BTreeSet<u64>,
    /// The largest number known, and how many users there were then.
    newest: u64,
    total: u64,
    users: HashMap<Arc<str>, Known>,
    by_version: BTreeMap<(u64, Arc<str>), Arc<User>>,
    /// Who is told of whom.
    pub audience: Audience,
}

impl RecentUsers {
    /// An empty list, of at most `limit` users.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            complete_to: 0,
            ahead: BTreeSet::new(),
            newest: 0,
            total: 0,
            users: HashMap::new(),
            by_version: BTreeMap::new(),
            audience: Audience::default(),
        }
    }

    /// All changes up to that number are known.
    pub fn complete_to(&self) -> u64 {
        self.complete_to
    }

    /// Whether a roster has everybody, so that everybody is told of everybody.
    pub fn has_everybody(&self) -> bool {
        is_everybody(self.total, self.limit)
    }

    /// Whether the list has as many users as there must be: users go without a word when their
    /// sessions expire.
    pub fn has_all(&self) -> bool {
        let expected = usize::try_from(self.total).unwrap_or(usize::MAX);
        self.users.len() == expected.min(self.limit)
    }

    /// The user, if in the list.
    pub fn get(&self, user: &str) -> Option<&Arc<User>> {
        self.users.get(user).map(|known| &known.user)
    }

    /// Those in the list, the most recent first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_version.values().rev()
    }

    /// The largest number of a change that is known.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether it makes a difference that the user did something: there are more users than a roster
    /// has, and half as many as it has may have come before this one since.
    pub fn is_sinking(&self, user: &str) -> bool {
        let changes = self.limit as u64 / 2;
        self.limit > 0
            && !self.has_everybody()
            && (self.users.get(user)).is_none_or(|known| self.newest - known.version > changes)
    }

    /// Takes a change. Whether it is news, to be [told](Self::told): it changes what was known, as
    /// far as the user was.
    pub fn apply(&mut self, change: &Change) -> bool {
        let Change {
            version,
            total,
            user,
            news,
        } = change;
        let known = *version <= self.complete_to || !self.ahead.insert(*version);
        if known {
            return false;
        }
        while self.ahead.remove(&(self.complete_to + 1)) {
            self.complete_to += 1;
        }
        if *version > self.newest {
            (self.newest, self.total) = (*version, *total);
        }
        let state = self.state_of(&user.id);
        if state.is_some_and(|(_, since)| since > *version) {
            return false;
        }
        self.put(user.clone(), *version);
        *news && state.is_none_or(|(connected, _)| connected != user.connected)
    }

    /// The number of the user's last change, if in the list.
    pub fn version_of(&self, user: &str) -> Option<u64> {
        self.users.get(user).map(|known| known.version)
    }

    /// Whether the user is known to be connected, and by which change.
    fn state_of(&self, user: &str) -> Option<(bool, u64)> {
        let known = self.users.get(user);
        known.map(|known| (known.user.connected, known.version))
    }

    /// Takes what a store knows. Returns those of whom more is known now, and others may have to be
    /// told.
    pub fn merge(&mut self, recent: Recent) -> Vec<User> {
        self.complete_to = self.complete_to.max(recent.version);
        if self.newest <= recent.version {
            (self.newest, self.total) = (recent.version, recent.total);
        }
        let complete_to = self.complete_to;
        self.ahead.retain(|version| *version > complete_to);
        let mut changed = Vec::new();
        for (version, user) in recent.users.into_iter().rev() {
            let state = self.state_of(&user.id);
            if state.is_some_and(|(_, since)| since >= version) {
                continue;
            }
            if state.is_none_or(|(connected, _)| connected != user.connected) {
                changed.push(user.clone());
            }
            self.put(user, version);
        }
        changed
    }

    /// Takes all that a store knows in place of what was known: some have gone without a word, or the
    /// store has lost its data and counts anew.
    pub fn replace(&mut self, recent: Recent) -> Vec<User> {
        let kept: HashMap<&str, u64> = recent
            .users
            .iter()
            .map(|(version, user)| (&*user.id, *version))
            .collect();
        let gone: Vec<Arc<str>> = self
            .users
            .keys()
            .filter(|user| !kept.contains_key(&***user))
            .cloned()
            .collect();
        // Numbers of a store that counts anew say nothing beside its old ones.
        self.by_version.clear();
        for (user, known) in &mut self.users {
            known.version = 0;
            self.by_version
                .insert((0, user.clone()), known.user.clone());
        }
        for user in gone {
            self.drop_user(&user);
        }
        self.complete_to = 0;
        self.newest = 0;
        self.ahead.clear();
        self.merge(recent)
    }

    /// Takes what another program says of one of its users, which the store has not numbered yet.
    pub fn hint(&mut self, user: User) {
        let version = self.state_of(&user.id).map(|(_, version)| version);
        self.put(user, version.unwrap_or(self.complete_to));
    }

    fn put(&mut self, user: User, version: u64) {
        if let Some((id, known)) = self.users.remove_entry(&*user.id) {
            self.by_version.remove(&(known.version, id.clone()));
            let user = Arc::new(user);
            self.by_version.insert((version, id.clone()), user.clone());
            let known = Known {
                user,
                version,
                ..known
            };
            self.users.insert(id, known);
            return;
        }
        // While a roster has everybody, whoever is here was told of each newcomer.
        let listed = match self.has_everybody() {
            true => 0,
            false => self.audience.tick(),
        };
        let id: Arc<str> = user.id.as_str().into();
        let user = Arc::new(user);
        self.by_version.insert((version, id.clone()), user.clone());
        self.users.insert(
            id,
            Known {
                user,
                version,
                listed,
            },
        );
        while self.users.len() > self.limit
            && let Some(((_, oldest), _)) = self.by_version.first_key_value()
        {
            self.drop_user(&oldest.clone());
        }
    }

    fn drop_user(&mut self, user: &Arc<str>) {
        if let Some(known) = self.users.remove(user) {
            self.by_version.remove(&(known.version, user.clone()));
            self.audience.dropped(user, known.listed);
        }
    }

    /// Who is to be told of the user.
    pub fn told(&self, user: &str) -> Vec<u64> {
        let listed = self.users.get(user).map(|known| known.listed);
        self.audience.of(user, listed)
    }
}

/// Whether a roster of that limit has everybody.
pub fn is_everybody(total: u64, limit: usize) -> bool {
    usize::try_from(total).is_ok_and(|total| total <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str, connected: bool) -> User {
        User {
            id: id.into(),
            name: id.to_uppercase(),
            connected,
        }
    }

    fn change(version: u64, total: u64, user: User) -> Change {
        Change {
            version,
            total,
            user,
            news: true,
        }
    }

    fn ids(recent: &RecentUsers) -> Vec<&str> {
        recent.newest_first().map(|user| &*user.id).collect()
    }

    #[test]
    fn the_most_recent_are_listed_newest_first_up_to_the_limit() {
        let mut recent = RecentUsers::new(2);
        assert!(recent.apply(&change(1, 1, user("ada", true))));
        assert!(recent.apply(&change(2, 2, user("bob", true))));
        assert_eq!(ids(&recent), ["bob", "ada"]);
        assert!(recent.has_everybody() && recent.has_all());
        assert!(recent.apply(&change(3, 3, user("cy", true))));
        assert_eq!(ids(&recent), ["cy", "bob"]);
        assert!(!recent.has_everybody() && recent.has_all());
        assert!(recent.apply(&change(4, 3, user("bob", false))));
        assert_eq!(ids(&recent), ["bob", "cy"]);
        assert!(!recent.get("bob").unwrap().connected);
        assert!(recent.get("ada").is_none());
    }

    #[test]
    fn what_is_known_is_no_news() {
        let mut recent = RecentUsers::new(9);
        assert!(recent.apply(&change(1, 1, user("ada", true))));
        assert!(!recent.apply(&change(1, 1, user("ada", true))), "twice");
        assert!(
            !recent.apply(&change(2, 1, user("ada", true))),
            "a second socket"
        );
        assert!(recent.apply(&change(4, 1, user("ada", false))));
        assert!(!recent.apply(&change(3, 1, user("ada", true))), "overtaken");
        assert!(!recent.get("ada").unwrap().connected);
        let touch = Change {
            news: false,
            ..change(5, 1, user("ada", true))
        };
        assert!(!recent.apply(&touch));
    }

    #[test]
    fn it_is_known_up_to_where_all_changes_are() {
        let mut recent = RecentUsers::new(9);
        for (version, complete_to) in [(1, 1), (3, 1), (5, 1), (4, 1), (2, 5)] {
            recent.apply(&change(version, 1, user("ada", true)));
            assert_eq!(recent.complete_to(), complete_to, "after {version}");
        }
        recent.merge(Recent {
            version: 8,
            total: 2,
            users: vec![(7, user("bob", true))],
        });
        assert_eq!((recent.complete_to(), recent.total), (8, 2));
        assert!(!recent.apply(&change(6, 1, user("cy", true))), "is in it");
    }

    #[test]
    fn what_a_store_knows_is_merged_and_what_it_does_not_know_any_more_goes() {
        let mut recent = RecentUsers::new(9);
        recent.apply(&change(1, 2, user("ada", true)));
        recent.apply(&change(2, 2, user("bob", true)));
        let stored = Recent {
            version: 5,
            total: 3,
            users: vec![
                (5, user("cy", true)),
                (4, user("ada", false)),
                (2, user("bob", true)),
            ],
        };
        assert_eq!(recent.merge(stored), [user("ada", false), user("cy", true)]);
        assert_eq!(ids(&recent), ["cy", "ada", "bob"]);
        // Its numbers begin anew, and bob has expired.
        let stored = Recent {
            version: 2,
            total: 2,
            users: vec![(2, user("ada", true)), (1, user("cy", true))],
        };
        assert_eq!(recent.replace(stored), [user("ada", true)]);
        assert_eq!(ids(&recent), ["ada", "cy"]);
        assert_eq!(recent.complete_to(), 2);
        assert!(recent.has_all());
    }

    #[test]
    fn newcomers_are_told_to_all_while_a_roster_has_everybody() {
        let mut recent = RecentUsers::new(2);
        let join = |recent: &mut RecentUsers, member| {
            recent.audience.join(member, Default::default(), Vec::new());
        };
        recent.apply(&change(1, 1, user("ada", true)));
        join(&mut recent, 1);
        recent.apply(&change(2, 2, user("bob", true)));
        assert_eq!(recent.told("bob"), [1]);
        join(&mut recent, 2);
        recent.apply(&change(3, 3, user("cy", true)));
        assert!(recent.told("cy").is_empty());
        join(&mut recent, 3);
        recent.apply(&change(4, 4, user("dan", true)));
        // Whoever was told of ada and bob is still told, though they are not in the list any more.
        assert_eq!(recent.told("ada"), [1, 2]);
        assert_eq!(recent.told("bob"), [1, 2, 3]);
        assert_eq!(recent.told("cy"), [3]);
    }

    #[test]
    fn a_hint_is_taken_until_the_store_knows_better() {
        let mut recent = RecentUsers::new(9);
        recent.apply(&change(1, 1, user("ada", true)));
        recent.hint(user("node", true));
        assert_eq!(recent.users.len(), 2);
        recent.hint(user("node", false));
        assert!(!recent.get("node").unwrap().connected);
        assert_eq!(recent.complete_to(), 1);
        recent.apply(&change(2, 2, user("node", true)));
        assert_eq!(ids(&recent), ["node", "ada"]);
    }

    #[test]
    fn what_somebody_does_matters_once_half_a_list_may_be_before_them() {
        let mut recent = RecentUsers::new(4);
        for (version, id) in ["a", "b", "c", "d"].iter().enumerate() {
            recent.apply(&change(version as u64 + 1, 4, user(id, true)));
        }
        assert!(!recent.is_sinking("a"), "a roster has everybody");
        recent.apply(&change(5, 5, user("e", true)));
        assert!(recent.is_sinking("a") && recent.is_sinking("b"));
        assert!(!recent.is_sinking("c") && !recent.is_sinking("e"));
        let mut none = RecentUsers::new(0);
        none.apply(&change(1, 1, user("a", true)));
        assert!(none.users.is_empty() && !none.is_sinking("a"));
    }

    #[test]
    fn a_change_is_one_object_of_json() {
        let text =
            r#"{"version":1,"total":2,"userID":"u","username":"n","connected":true,"news":true}"#;
        let change: Change = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&change).unwrap(), text);
    }
}
