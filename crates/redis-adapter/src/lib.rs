#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod adapter;
pub mod broadcast;
pub mod bus;
pub mod channel;
mod event_queue;
mod gate;
mod gate_table;
mod js_date;
mod membership;
mod msgpack;
mod namespace;
mod payload;
pub mod peer_bus;
pub mod redis_bus;
mod screen;
mod state;

pub use adapter::Adapter;
pub use bus::{Bus, BusError, BusEvent, Publication};
pub use event_queue::{EventReceiver, EventSender, event_queue};
pub use gate::{Gate, HoldError, Overflow};
pub use msgpack::DecodeError;
pub use peer_bus::{PeerBus, PeerBusOptions};
pub use redis_bus::{RedisBus, RedisBusOptions};
pub use state::{AdapterCounters, AdapterOptions, AdapterState, EmitError};
