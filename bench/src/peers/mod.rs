//! Servers that this program contains: what ours is measured against.

pub(crate) mod alone;
pub(crate) mod floor;
