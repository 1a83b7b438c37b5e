//! The environment variables by which a master tells a worker process that it
//! starts who it is.

/// The runtime directory, an absolute path.
pub const RUNTIME_DIR: &str = "STICKY_RUNTIME_DIR";
/// The worker id, 0 to 255.
pub const WORKER_ID: &str = "STICKY_WORKER_ID";
/// The generation, a decimal number.
pub const GENERATION: &str = "STICKY_GENERATION";
/// The node id, 0 to 65535.
pub const NODE_ID: &str = "STICKY_NODE_ID";
