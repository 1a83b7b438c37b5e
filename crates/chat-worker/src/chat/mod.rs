//! The rules of the chat: values in, values out. No sockets, no I/O.

pub mod history;
pub mod identity;
pub mod lobby;
pub mod message;
pub mod outside;
pub mod reply;
pub mod roster;
pub mod workspace;
