//! Accepts TCP connections, looks at the first request without reading it, and
//! hands the socket itself to the worker process that owns the request's
//! Socket.IO session, or to one that a balancing method chooses. After that the
//! master is out of the path. Knows request heads, addresses and worker
//! processes; never Socket.IO packets, chat or a store.
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
