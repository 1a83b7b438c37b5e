//! Who was asked something, who has answered, and who will not any more. Pure.

use std::collections::HashMap;
use std::fmt;

use crate::bus::BusError;
use crate::nodes::Node;

/// Who is there to be asked, this process left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// All that are subscribed to the request channel.
    pub(crate) total: usize,
    /// Those among them that are known by name.
    pub(crate) named: Vec<Node>,
}

/// Who did not answer. What the others said is complete but for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// The names of processes with this adapter; see [`AdapterOptions::name`](crate::AdapterOptions::name).
    pub nodes: Vec<String>,
    /// How many others, which do not say their names, as JavaScript's.
    pub unnamed: usize,
    /// Clients whose acknowledgement did not come, of the processes that did answer.
    pub clients: u64,
    /// Nobody else was asked, because the bus failed.
    pub bus: Option<BusError>,
}

impl Missing {
    pub(crate) fn is_nobody(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.bus {
            return write!(formatter, "no other server could be asked: {error}");
        }
        let mut who = self.nodes.clone();
        let counted = |count, one: &str, many: &str| match count {
            0 => None,
            1 => Some(one.to_owned()),
            _ => Some(format!("{count} {many}")),
        };
        let unnamed = u64::try_from(self.unnamed).unwrap_or(u64::MAX);
        who.extend(counted(
            unnamed,
            "a server without a name",
            "servers without a name",
        ));
        who.extend(counted(self.clients, "a client", "clients"));
        write!(formatter, "no answer from {}", who.join(", "))
    }
}

struct Asked {
    name: String,
    answered: bool,
    /// Frozen or gone: it is not waited for.
    lost: bool,
}

/// The list of who was asked.
pub(crate) struct Roll {
    total: usize,
    named: HashMap<String, Asked>,
    unnamed_answers: usize,
    unnamed_lost: usize,
}

impl Roll {
    pub(crate) fn new(census: Census) -> Self {
        let asked = |node: Node| {
            let asked = Asked {
                name: node.name,
                answered: false,
                lost: node.stale,
            };
            (node.uid, asked)
        };
        Self {
            total: census.total.max(census.named.len()),
            named: census.named.into_iter().map(asked).collect(),
            unnamed_answers: 0,
            unnamed_lost: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    fn unnamed(&self) -> usize {
        self.total - self.named.len()
    }

    /// Someone has answered.
    pub(crate) fn answered(&mut self, uid: Option<&str>) {
        match uid.and_then(|uid| self.named.get_mut(uid)) {
            Some(asked) => asked.answered = true,
            None => self.unnamed_answers += 1,
        }
    }

    /// Looks who of those who were asked is still there.
    pub(crate) fn recount(&mut self, now: &Census) {
        let mut gone = 0;
        for (uid, asked) in &mut self.named {
            match now.named.iter().find(|node| node.uid == *uid) {
                Some(node) => asked.lost |= node.stale,
                None => {
                    asked.lost = true;
                    gone += 1;
                }
            }
        }
        // Who came meanwhile was not asked, and hides someone who left: that one is waited for
        // until the end. Which of them left is not known; one that has answered, maybe.
        let fewer = self.total.saturating_sub(now.total);
        self.unnamed_lost = self.unnamed_lost.max(fewer.saturating_sub(gone));
    }

    /// Whether `uid` was there when it was asked, and is not any more.
    pub(crate) fn is_lost(&self, uid: Option<&str>) -> bool {
        let asked = uid.and_then(|uid| self.named.get(uid));
        asked.is_some_and(|asked| asked.lost)
    }

    /// Whether there is nobody left to wait for.
    pub(crate) fn is_complete(&self) -> bool {
        let named = self
            .named
            .values()
            .all(|asked| asked.answered || asked.lost);
        named && self.unnamed_answers + self.unnamed_lost >= self.unnamed()
    }

    pub(crate) fn missing(&self) -> Missing {
        let silent = self.named.values().filter(|asked| !asked.answered);
        let mut nodes: Vec<String> = silent.map(|asked| asked.name.clone()).collect();
        nodes.sort();
        Missing {
            nodes,
            unnamed: self.unnamed().saturating_sub(self.unnamed_answers),
            ..Missing::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, stale: bool) -> Node {
        Node {
            uid: uid.to_owned(),
            name: format!("the {uid}"),
            stale,
        }
    }

    fn census(total: usize, named: &[&str]) -> Census {
        let named = named.iter().map(|uid| node(uid, false)).collect();
        Census { total, named }
    }

    #[test]
    fn it_is_complete_when_all_have_answered() {
        let mut roll = Roll::new(census(3, &["a", "b"]));
        roll.answered(Some("a"));
        // Only JavaScript does not say who it is.
        roll.answered(None);
        assert!(!roll.is_complete());
        let missing = roll.missing();
        assert_eq!(missing.to_string(), "no answer from the b");
        roll.answered(Some("b"));
        assert!(roll.is_complete() && roll.missing().is_nobody());
        assert!(Roll::new(Census::default()).is_complete());
    }

    #[test]
    fn who_is_gone_or_frozen_is_not_waited_for_but_named() {
        let mut census_now = census(4, &["a", "b"]);
        census_now.named.push(node("c", true));
        let mut roll = Roll::new(census_now);
        roll.answered(Some("a"));
        roll.answered(None);
        assert!(!roll.is_complete());
        // `b` has gone.
        let mut census_now = census(3, &["a"]);
        census_now.named.push(node("c", true));
        roll.recount(&census_now);
        assert!(roll.is_complete() && roll.is_lost(Some("b")));
        assert_eq!(roll.missing().to_string(), "no answer from the b, the c");
        // It is late, but it has come.
        roll.answered(Some("c"));
        assert_eq!(roll.missing().to_string(), "no answer from the b");
    }

    #[test]
    fn servers_without_a_name_are_told_by_their_number() {
        let mut roll = Roll::new(census(3, &["a"]));
        roll.answered(Some("a"));
        roll.recount(&census(2, &["a"]));
        assert!(!roll.is_complete());
        roll.answered(None);
        assert!(roll.is_complete());
        let missing = roll.missing();
        assert_eq!(
            missing.to_string(),
            "no answer from a server without a name"
        );
        let mut roll = Roll::new(census(2, &[]));
        roll.recount(&census(0, &[]));
        let missing = roll.missing();
        assert_eq!(
            missing.to_string(),
            "no answer from 2 servers without a name"
        );
    }

    #[test]
    fn one_that_has_just_come_answers_for_one_without_a_name() {
        let mut roll = Roll::new(census(1, &[]));
        roll.answered(Some("new"));
        assert!(roll.is_complete() && roll.missing().is_nobody());
    }
}
