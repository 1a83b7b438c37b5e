#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod adapter;
mod answers;
mod backlog;
pub mod broadcast;
pub mod bus;
mod call;
pub mod channel;
mod cluster;
mod event_queue;
mod gate;
mod gate_table;
mod handshake;
mod js_date;
mod membership;
mod msgpack;
mod namespace;
mod nodes;
mod outlet;
mod payload;
pub mod peer_bus;
pub mod redis_bus;
pub mod redis_cluster;
pub mod request;
pub mod response;
mod roll;
mod screen;
mod state;
mod wire;

pub use adapter::Adapter;
pub use backlog::{Missed, MissedMore};
pub use bus::{Bus, BusError, BusEvent, Publication};
pub use cluster::{RequestError, ServerSideEvent};
pub use event_queue::{EventReceiver, EventSender, event_queue};
pub use gate::{Gate, HoldError, Overflow};
pub use handshake::{Description, Handshake};
pub use msgpack::DecodeError;
pub use outlet::{Outlet, WholeEvent};
pub use peer_bus::{PeerBus, PeerBusOptions};
pub use redis_bus::{RedisBus, RedisBusOptions};
pub use response::{Ack, RemoteSocket};
pub use roll::Missing;
pub use state::{AdapterCounters, AdapterOptions, AdapterState, EmitError};
