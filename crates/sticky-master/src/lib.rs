#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod accept;
mod address_counts;
mod address_rates;
mod balance;
mod client_socket;
mod cluster;
mod command;
mod config;
mod entrance;
mod error;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod handover;
mod listener;
mod master;
mod member;
mod metrics;
mod pool;
mod process;
mod proxy_header;
mod rebalance;
mod refuse;
mod registration;
mod rendezvous;
mod request_head;
mod restart_policy;
mod seat;
mod seats;
mod status;
mod stuck;
mod supervise;
mod tally;
mod ticket_rotation;
mod watched;

pub use balance::Balance;
pub use command::{CommandError, Reloaded, Scaled};
pub use common::forwarded::{TrustedProxies, TrustedProxy};
pub use common::histogram::{BOUNDS_US, Distribution};
pub use common::worker_id::{NodeId, WorkerId};
pub use config::{MasterConfig, WORKERS_MAX};
pub use error::MasterError;
pub use listener::{BindError, ListenAddress, Listener};
pub use master::{Master, MasterHandle, Outcome};
pub use metrics::{Metrics, WorkerCounts, WorkerMetrics};
pub use status::{WorkerState, WorkerStatus};
