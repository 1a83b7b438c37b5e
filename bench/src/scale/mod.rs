//! What does not depend on how many there are: users, recipients, workers, and the time that a
//! cluster has run. One file each.

mod growth;
mod recipients;
mod reconnects;
mod workers;

pub(crate) use growth::Growth;
pub(crate) use recipients::Recipients;
pub(crate) use reconnects::Reconnects;
pub(crate) use workers::Workers;
