//! What the master and its workers must agree on, and nothing else: the tag in
//! a session id, the packets of the handoff channel, the worker's scoreboard
//! page, the runtime directory, who is trusted to name a client, how nodes greet
//! each other, by which clock they tell moments, how durations are counted, how
//! fast something may come, and the keys of TLS tickets. Knows no chat, and runs
//! no loops.

pub mod cookies;
pub mod exhaustion;
pub mod forwarded;
pub mod handoff;
pub mod handoff_channel;
pub mod histogram;
pub mod monotonic;
pub mod pace;
pub mod relay_hello;
pub mod runtime_dir;
pub mod scoreboard;
pub mod sid_tag;
pub mod sys;
pub mod tally_line;
pub mod ticket_keys;
pub mod worker_env;
pub mod worker_id;
