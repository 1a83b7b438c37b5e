//! The system calls that std and tokio have no safe form of.

pub mod defer_accept;
pub mod free_memory;
pub mod inherited;
pub mod readiness;
pub mod seqpacket;
pub mod shared_page;
