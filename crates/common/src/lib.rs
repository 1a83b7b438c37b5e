//! What the master and its workers must agree on, and nothing else: the tag in
//! a session id, the packets of the handoff channel, the worker's scoreboard
//! page and the runtime directory. Knows no HTTP, no chat, and runs no loops.

pub mod handoff;
pub mod handoff_channel;
pub mod runtime_dir;
pub mod scoreboard;
pub mod sid_tag;
pub mod sys;
pub mod worker_env;
pub mod worker_id;
