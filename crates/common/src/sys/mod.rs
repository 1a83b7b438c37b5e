//! The system calls that std and tokio have no safe form of.

pub mod readiness;
pub mod seqpacket;
pub mod shared_page;
