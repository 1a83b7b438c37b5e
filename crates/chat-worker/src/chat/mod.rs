//! The rules of the chat: values in, values out. No sockets, no I/O.

pub mod audience;
pub mod history;
pub mod identity;
pub mod lobby;
pub mod message;
pub mod outside;
pub mod recent_users;
pub mod reply;
pub mod roster;
pub mod user_index;
pub mod workspace;
