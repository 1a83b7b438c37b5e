//! Numbers that name a node and a worker process.

use std::fmt;

/// A machine (strictly: one master) in a cluster of several; 0 when there is
/// only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// Names a worker *process* of one node. It is given to a process at its start
/// and to no other while that process lives; a draining worker and its
/// successor have different ids. A master with N workers starts with 0 to N−1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// Every id there is, lowest first.
    pub fn all() -> impl Iterator<Item = WorkerId> {
        (0..=u8::MAX).map(WorkerId)
    }
}

/// Counts the worker processes that the masters of one runtime directory have
/// started: a higher generation was started later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

macro_rules! display_number {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(NodeId, WorkerId, Generation);
