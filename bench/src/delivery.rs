//! Was each message delivered, once, in its sender's order?

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What names a message on its way: it is the message's id.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stamp {
    /// The run: clients of another one may still be around.
    pub(crate) run: u32,
    /// The sender's number among all clients.
    pub(crate) from: u32,
    /// The recipient's.
    pub(crate) to: u32,
    /// Counts this sender's messages to this recipient, from 0.
    pub(crate) sequence: u32,
    /// When it was due, on the clock.
    pub(crate) due: u64,
}

impl Stamp {
    pub(crate) fn encode(&self) -> String {
        let Stamp {
            run,
            from,
            to,
            sequence,
            due,
        } = self;
        format!("{run:x}-{from:x}-{to:x}-{sequence:x}-{due:x}")
    }

    /// `None` for what no generator made.
    pub(crate) fn decode(id: &str) -> Option<Stamp> {
        let mut parts = id.split('-');
        let mut part = || u64::from_str_radix(parts.next()?, 16).ok();
        let (run, from, to, sequence, due) = (part()?, part()?, part()?, part()?, part()?);
        Some(Stamp {
            run: run.try_into().ok()?,
            from: from.try_into().ok()?,
            to: to.try_into().ok()?,
            sequence: sequence.try_into().ok()?,
            due,
        })
    }
}

/// What one recipient got from one sender.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// One more than the highest number.
    next: u32,
    /// Numbers below that have not come.
    missing: BTreeSet<u32>,
    faults: Faults,
}

/// What went wrong on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Faults {
    /// Acknowledged, and never delivered.
    pub(crate) lost: u64,
    /// Delivered once more.
    pub(crate) doubled: u64,
    /// Delivered after a later one of the same sender.
    pub(crate) out_of_order: u64,
}

impl Received {
    pub(crate) fn see(&mut self, sequence: u32) {
        if sequence >= self.next {
            self.missing.extend(self.next..sequence);
            self.next = sequence + 1;
        } else if self.missing.remove(&sequence) {
            self.faults.out_of_order += 1;
        } else {
            self.faults.doubled += 1;
        }
    }

    /// Whether all of what was sent has come, but for what is known to be refused.
    pub(crate) fn complete(&self, sent: &Sent) -> bool {
        self.lost(sent) == 0
    }

    pub(crate) fn faults(&self, sent: &Sent) -> Faults {
        Faults {
            lost: self.lost(sent),
            ..self.faults
        }
    }

    fn lost(&self, sent: &Sent) -> u64 {
        let missing = self.missing.iter().copied().chain(self.next..sent.count);
        missing
            .filter(|sequence| !sent.unacknowledged.contains(sequence))
            .count() as u64
    }
}

/// What one sender sent to one recipient.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) count: u32,
    /// Numbers that were refused or not answered: they may come or not.
    pub(crate) unacknowledged: BTreeSet<u32>,
}

/// All that was sent, by sender and recipient, both as numbers among all clients.
pub(crate) type SentByPair = BTreeMap<u32, BTreeMap<u32, Sent>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(received: &[u32], sent: u32, unacknowledged: &[u32]) -> (u64, u64, u64) {
        let mut pair = Received::default();
        received.iter().for_each(|sequence| pair.see(*sequence));
        let sent = Sent {
            count: sent,
            unacknowledged: unacknowledged.iter().copied().collect(),
        };
        let faults = pair.faults(&sent);
        assert_eq!(pair.complete(&sent), faults.lost == 0);
        (faults.lost, faults.doubled, faults.out_of_order)
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(faults(&[0, 1, 2, 3], 4, &[]), (0, 0, 0));
        assert_eq!(faults(&[0, 2, 3], 4, &[]), (1, 0, 0));
        assert_eq!(faults(&[0, 1], 4, &[]), (2, 0, 0));
        assert_eq!(faults(&[0, 1, 1, 2, 3], 4, &[]), (0, 1, 0));
        assert_eq!(faults(&[0, 2, 1, 3], 4, &[]), (0, 0, 1));
        assert_eq!(faults(&[2, 1, 0, 2], 4, &[3]), (0, 1, 2));
        assert_eq!(faults(&[], 2, &[0, 1]), (0, 0, 0));
    }

    #[test]
    fn a_stamp_is_a_message_id() {
        let stamp = Stamp {
            run: u32::MAX,
            from: 12,
            to: u32::MAX,
            sequence: 34,
            due: u64::MAX,
        };
        let id = stamp.encode();
        assert!(id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        assert_eq!(Stamp::decode(&id), Some(stamp));
        assert_eq!(Stamp::decode("m1"), None);
    }
}
