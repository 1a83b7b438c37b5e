//! Who is told of whom: those for whom a user is in the roster that they were sent, or a partner.
//!
//! A roster is what the list of the users who were active last had in it at one moment. So it is not
//! kept for each client, but for each user the spans of time in which they were in that list; a
//! client has a moment. That is exact, and costs a client some 100 bytes instead of a list of its own.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;

/// A client that is told of others. Never used a second time.
pub type Member = u64;

/// A moment. Moves on with every change, so that each has one of its own.
pub type Moment = u64;

/// Spans that are kept before those are looked for that nobody needs any more.
const SWEEP_AT_LEAST: usize = 1024;

/// The clients of one process, and whom they know.
#[derive(Debug, Default)]
pub struct Audience {
    now: Moment,
    members: HashMap<Member, Known>,
    by_moment: BTreeSet<(Moment, Member)>,
    /// By partner.
    partners: HashMap<Arc<str>, Vec<Member>>,
    /// When somebody was in the list: a hash of the user, from which moment on, up to before which.
    spans: BTreeSet<(u64, Moment, Moment)>,
    hasher: RandomState,
    sweep_at: usize,
}

#[derive(Debug)]
struct Known {
    since: Moment,
    /// In the list at that moment, but not in the roster.
    left_out: HashSet<Arc<str>>,
    partners: Vec<Arc<str>>,
}

impl Audience {
    /// The present moment, which is over with that.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A client that is sent the list of this moment, but for who is `left_out` of it, and knows its
    /// partners besides.
    pub fn join(&mut self, member: Member, left_out: HashSet<Arc<str>>, partners: Vec<Arc<str>>) {
        self.leave(member);
        let since = self.tick();
        for partner in &partners {
            let members = self.partners.entry(partner.clone()).or_default();
            members.push(member);
        }
        self.by_moment.insert((since, member));
        let known = Known {
            since,
            left_out,
            partners,
        };
        self.members.insert(member, known);
    }

    /// The client has gone.
    pub fn leave(&mut self, member: Member) {
        let Some(known) = self.members.remove(&member) else {
            return;
        };
        self.by_moment.remove(&(known.since, member));
        for partner in known.partners {
            if let Some(members) = self.partners.get_mut(&partner) {
                members.retain(|other| *other != member);
                if members.is_empty() {
                    self.partners.remove(&partner);
                }
            }
        }
    }

    /// The client has exchanged a message with `partner`. Whether that is new.
    pub fn meets(&mut self, member: Member, partner: &str) -> bool {
        let Some(known) = self.members.get_mut(&member) else {
            return false;
        };
        if known.partners.iter().any(|other| **other == *partner) {
            return false;
        }
        let partner: Arc<str> = partner.into();
        known.partners.push(partner.clone());
        self.partners.entry(partner).or_default().push(member);
        true
    }

    /// The user is not in the list any more, and was since then.
    pub fn dropped(&mut self, user: &str, since: Moment) {
        let now = self.tick();
        if self.members_in(since, now).next().is_none() {
            return;
        }
        self.spans.insert((self.hasher.hash_one(user), since, now));
        if self.spans.len() >= self.sweep_at.max(SWEEP_AT_LEAST) {
            self.sweep();
        }
    }

    /// Forgets the spans in which no client that is left was sent the list.
    fn sweep(&mut self) {
        let by_moment = &self.by_moment;
        self.spans
            .retain(|(_, from, to)| by_moment.range((*from, 0)..(*to, 0)).next().is_some());
        self.sweep_at = self.spans.len() * 2;
    }

    fn members_in(&self, from: Moment, to: Moment) -> impl Iterator<Item = Member> {
        let in_span = self.by_moment.range((from, 0)..(to, 0));
        in_span.map(|(_, member)| *member)
    }

    /// Those who are told of the user, who is in the list since `listed`, or not now. Each once.
    pub fn of(&self, user: &str, listed: Option<Moment>) -> Vec<Member> {
        let hash = self.hasher.hash_one(user);
        let past = self
            .spans
            .range((hash, 0, 0)..=(hash, Moment::MAX, Moment::MAX));
        let past = past.map(|(_, from, to)| (*from, *to));
        let present = listed.map(|since| (since, Moment::MAX));
        let mut members: Vec<Member> = past
            .chain(present)
            .flat_map(|(from, to)| self.members_in(from, to))
            .filter(|member| {
                let known = self.members.get(member);
                known.is_some_and(|known| !known.left_out.contains(user))
            })
            .chain(self.partners.get(user).into_iter().flatten().copied())
            .collect();
        members.sort_unstable();
        members.dedup();
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(audience: &mut Audience, member: Member) {
        audience.join(member, HashSet::new(), Vec::new());
    }

    #[test]
    fn those_are_told_whose_list_had_the_user() {
        let mut audience = Audience::default();
        join(&mut audience, 1);
        let listed = audience.tick();
        join(&mut audience, 2);
        assert_eq!(audience.of("ada", Some(listed)), [2]);
        assert!(audience.of("ada", None).is_empty());
        audience.dropped("ada", listed);
        join(&mut audience, 3);
        assert_eq!(audience.of("ada", None), [2]);
        let again = audience.tick();
        join(&mut audience, 4);
        assert_eq!(audience.of("ada", Some(again)), [2, 4]);
        audience.leave(2);
        assert_eq!(audience.of("ada", Some(again)), [4]);
        // From the beginning of time: everybody is told.
        assert_eq!(audience.of("bob", Some(0)), [1, 3, 4]);
    }

    #[test]
    fn partners_are_told_whatever_the_list_and_each_once() {
        let mut audience = Audience::default();
        audience.join(1, HashSet::new(), vec!["ada".into()]);
        join(&mut audience, 2);
        assert_eq!(audience.of("ada", None), [1]);
        assert_eq!(audience.of("ada", Some(0)), [1, 2]);
        assert!(audience.meets(2, "ada"));
        assert!(!audience.meets(2, "ada"));
        assert!(!audience.meets(9, "ada"), "of a client that has gone");
        assert_eq!(audience.of("ada", None), [1, 2]);
        audience.leave(1);
        audience.leave(2);
        assert!(audience.of("ada", None).is_empty());
        assert!(audience.partners.is_empty());
    }

    #[test]
    fn who_was_left_out_of_a_roster_is_not_told_of() {
        let mut audience = Audience::default();
        let listed = audience.tick();
        audience.join(1, HashSet::from(["ada".into()]), vec!["bob".into()]);
        join(&mut audience, 2);
        assert_eq!(audience.of("ada", Some(listed)), [2]);
        assert!(audience.meets(1, "ada"));
        assert_eq!(audience.of("ada", Some(listed)), [1, 2], "a partner now");
    }

    #[test]
    fn a_client_that_is_sent_another_list_has_only_that() {
        let mut audience = Audience::default();
        audience.join(1, HashSet::new(), vec!["ada".into()]);
        let listed = audience.tick();
        join(&mut audience, 1);
        assert_eq!(audience.of("bob", Some(listed)), [1]);
        assert!(audience.of("ada", None).is_empty());
        assert_eq!(audience.members.len(), 1);
    }

    #[test]
    fn spans_that_nobody_needs_are_forgotten() {
        let mut audience = Audience::default();
        // Nobody came in the meantime.
        let listed = audience.tick();
        audience.dropped("ada", listed);
        assert!(audience.spans.is_empty());
        for number in 0..10 * SWEEP_AT_LEAST as u64 {
            let listed = audience.tick();
            join(&mut audience, number);
            audience.dropped(&number.to_string(), listed);
            audience.leave(number);
        }
        assert!(audience.spans.len() <= SWEEP_AT_LEAST);
        assert!(audience.members.is_empty());
    }
}
