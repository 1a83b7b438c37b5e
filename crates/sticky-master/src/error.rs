//! Why a master cannot start or go on.

use std::io;

use common::runtime_dir::RuntimeDirError;
use thiserror::Error;

use crate::listener::BindError;

/// An error that ends the master.
#[derive(Debug, Error)]
pub enum MasterError {
    /// The runtime directory cannot be used, or another master lives there.
    #[error(transparent)]
    RuntimeDir(#[from] RuntimeDirError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Workers could not connect.
    #[error("cannot listen for workers")]
    Registration(#[source] io::Error),
    /// The process's descriptor limit is too low to hold clients.
    #[error("the limit of open files is {limit}; at least {needed} are needed")]
    FewDescriptors {
        /// The soft limit.
        limit: u64,
        /// What is needed.
        needed: u64,
    },
}
