#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod accept;
mod balance;
mod client_socket;
mod cluster;
mod config;
mod error;
mod listener;
mod master;
mod member;
mod pool;
mod refuse;
mod registration;
mod rendezvous;
mod request_head;
mod restart_policy;
mod supervise;

pub use balance::Balance;
pub use common::worker_id::{NodeId, WorkerId};
pub use config::{MasterConfig, WORKERS_MAX};
pub use error::MasterError;
pub use listener::{BindError, ListenAddress};
pub use master::{Master, MasterHandle};
