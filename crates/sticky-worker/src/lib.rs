//! The worker's side of a sticky cluster, for any tower service: it registers
//! with the master, receives connected sockets, serves HTTP/1.1 with upgrades on
//! them, puts tags on Engine.IO session ids and takes them off, relays what is
//! another worker's, and leaves without losing clients.
//!
//! It knows the Engine.IO handshake and nothing of what runs above it. The
//! README has an example and the bounds.

#![forbid(unsafe_code)]

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod active_request;
mod application;
mod arriving_body;
mod board;
mod client_handle;
mod client_info;
mod client_stream;
mod cluster_secret;
mod config;
mod departure;
mod drain;
mod engine_request;
mod forwarded;
mod nodes;
mod open_files;
mod receive;
mod refusal;
mod register;
mod relay;
mod relay_line;
mod relay_listener;
mod relay_preface;
mod remote_relay;
mod request_body;
mod response_body;
mod secret;
mod sent_packets;
mod serve;
mod session_table;
mod sessions;
mod sid_layer;
mod socket;
mod stand_in;
mod stream_registry;
mod stream_state;
mod text_frame;
mod tls;
mod until;
mod wire;
mod worker;

pub use application::Application;
pub use arriving_body::{ArrivingBody, BODY_PAUSE, BodyError};
pub use client_handle::{Busy, ClientHandle};
pub use client_info::{ClientAddress, ClientScheme};
pub use cluster_secret::ClusterSecret;
pub use common::forwarded::{TrustedProxies, TrustedProxy};
pub use common::worker_id::NodeId;
pub use config::{ConfigError, WorkerConfig};
pub use nodes::NodeAddresses;
pub use register::RegisterError;
pub use request_body::RequestBody;
pub use text_frame::text_frame;
pub use tls::{TlsError, TlsFiles};
pub use worker::{Exit, IdGuard, RunError, Worker, WorkerHandle};
