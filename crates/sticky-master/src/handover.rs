//! What one process image of a master leaves to the next one by `execve`: the
//! lock, the listeners, the connections that it had not passed on yet. The
//! channels to the workers are not among it: each worker says Hello to the next
//! image as it does to any master, and says everything that has to be known.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use common::handoff::Speaks;
use common::sys::inherited;
use common::worker_id::NodeId;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::client_socket::{Arrival, ClientSocket};
use crate::entrance::Entrance;
use crate::listener::{Inherited, ListenAddress, SocketFile};

/// The environment variable that names the descriptor with the rest.
pub const VARIABLE: &str = "STICKY_HANDOVER";

/// The version of what is handed over. An image that reads another refuses it, so
/// it is to be asked before ([`Handover::VERSION`]).
const VERSION: u32 = 1;

/// What a master leaves to its successor in the same process.
#[derive(Debug)]
pub struct Handover {
    pub(crate) lock: OwnedFd,
    /// Where workers connect.
    pub(crate) registration: OwnedFd,
    pub(crate) listeners: Vec<Inherited>,
    pub(crate) connections: Vec<(OwnedFd, Arrival)>,
    pub(crate) workers: usize,
    pub(crate) rebalance: u32,
    pub(crate) node: Option<NodeId>,
    /// What the application has to say to itself.
    pub note: String,
    /// Descriptors of the application's own.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a handover cannot be taken.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// Something is wrong with a descriptor.
    #[error("what the master before handed over cannot be used")]
    Io(#[from] io::Error),
    /// It cannot be read.
    #[error("what the master before handed over cannot be read")]
    Text(#[from] serde_json::Error),
    /// Another version.
    #[error("the master before handed over version {0}, which is not known here")]
    Version(u32),
}

/// Descriptors that the next image gets, until this is dropped.
#[derive(Debug)]
pub struct Passed {
    /// The value of [`VARIABLE`] in its environment.
    pub variable: String,
    _open: Vec<OwnedFd>,
}

#[derive(Deserialize, Serialize)]
struct Text {
    version: u32,
    lock: RawFd,
    registration: RawFd,
    listeners: Vec<ListenerText>,
    connections: Vec<ConnectionText>,
    workers: usize,
    rebalance: u32,
    node: Option<u16>,
    note: String,
    descriptors: Vec<RawFd>,
}

#[derive(Deserialize, Serialize)]
struct ListenerText {
    descriptor: RawFd,
    tcp: Option<SocketAddr>,
    unix: Option<PathBuf>,
    /// Whether a Unix socket's file is to be removed at the end.
    bound_here: bool,
    entrance: EntranceText,
}

#[derive(Deserialize, Serialize)]
struct ConnectionText {
    descriptor: RawFd,
    peer: Option<SocketAddr>,
    client: Option<IpAddr>,
    header_due: bool,
    entrance: EntranceText,
}

#[derive(Deserialize, Serialize)]
struct EntranceText {
    http: bool,
    tls: bool,
    proxy_protocol: bool,
    relay: bool,
}

impl From<Entrance> for EntranceText {
    fn from(entrance: Entrance) -> EntranceText {
        EntranceText {
            http: entrance.clients == Some(Speaks::Http),
            tls: entrance.clients == Some(Speaks::Tls),
            proxy_protocol: entrance.proxy_protocol,
            relay: entrance.relay,
        }
    }
}

impl From<EntranceText> for Entrance {
    fn from(text: EntranceText) -> Entrance {
        Entrance {
            clients: match (text.tls, text.http) {
                (true, _) => Some(Speaks::Tls),
                (false, true) => Some(Speaks::Http),
                (false, false) => None,
            },
            proxy_protocol: text.proxy_protocol,
            relay: text.relay,
        }
    }
}

impl Handover {
    /// The version that this image leaves and takes.
    pub const VERSION: u32 = VERSION;

    /// What [`VARIABLE`] names, in an image that follows another. To be called
    /// once, before the process opens anything.
    pub fn from_environment() -> Option<Result<Handover, HandoverError>> {
        let descriptor = std::env::var(VARIABLE).ok()?;
        Some(Handover::read(&descriptor))
    }

    fn read(descriptor: &str) -> Result<Handover, HandoverError> {
        let number = descriptor.parse().map_err(io::Error::other)?;
        let mut text = String::new();
        File::from(inherited::take(number)?).read_to_string(&mut text)?;
        let text: Text = serde_json::from_str(&text)?;
        if text.version != VERSION {
            return Err(HandoverError::Version(text.version));
        }
        let listener = |one: ListenerText| {
            let address = match (one.tcp, one.unix) {
                (Some(address), _) => ListenAddress::Tcp(address),
                (None, path) => ListenAddress::Unix(path.unwrap_or_default()),
            };
            Ok(Inherited {
                socket: inherited::take(one.descriptor)?,
                file: SocketFile::of(&address).filter(|_| one.bound_here),
                address,
                entrance: one.entrance.into(),
            })
        };
        let connection = |one: ConnectionText| {
            let arrival = Arrival::again(one.entrance.into(), one.peer, one.client, one.header_due);
            Ok((inherited::take(one.descriptor)?, arrival))
        };
        Ok(Handover {
            lock: inherited::take(text.lock)?,
            registration: inherited::take(text.registration)?,
            listeners: all(text.listeners.into_iter().map(listener))?,
            connections: all(text.connections.into_iter().map(connection))?,
            workers: text.workers,
            rebalance: text.rebalance,
            node: text.node.map(NodeId),
            note: text.note,
            descriptors: all(text.descriptors.into_iter().map(inherited::take))?,
        })
    }

    /// Makes everything ready to outlive an `execve` in the environment of which
    /// [`VARIABLE`] is what the result says. Without an `execve` everything is as
    /// before once the result is dropped.
    ///
    /// # Errors
    /// No descriptors are left: each is needed twice for a moment.
    pub fn pass(&self) -> io::Result<Passed> {
        let mut open = Vec::new();
        // A duplicate is not closed by `execve`.
        let mut again = |fd: &OwnedFd| -> io::Result<RawFd> {
            let again = rustix::io::dup(fd)?;
            let number = again.as_raw_fd();
            open.push(again);
            Ok(number)
        };
        let text = Text {
            version: VERSION,
            lock: again(&self.lock)?,
            registration: again(&self.registration)?,
            listeners: all(self.listeners.iter().map(|one| {
                let (tcp, unix) = match &one.address {
                    ListenAddress::Tcp(address) => (Some(*address), None),
                    ListenAddress::Unix(path) => (None, Some(path.clone())),
                };
                Ok(ListenerText {
                    descriptor: again(&one.socket)?,
                    tcp,
                    unix,
                    bound_here: one.file.is_some(),
                    entrance: one.entrance.into(),
                })
            }))?,
            connections: all(self.connections.iter().map(|(socket, arrival)| {
                Ok(ConnectionText {
                    descriptor: again(socket)?,
                    peer: arrival.peer,
                    client: arrival.client,
                    header_due: arrival.header_due,
                    entrance: arrival.entrance.into(),
                })
            }))?,
            workers: self.workers,
            rebalance: self.rebalance,
            node: self.node.map(|node| node.0),
            note: self.note.clone(),
            descriptors: all(self.descriptors.iter().map(&mut again))?,
        };
        // Not in the environment itself: there may be thousands of connections.
        let memory = rustix::fs::memfd_create("handover", MemfdFlags::empty())?;
        let mut file = File::from(memory);
        file.write_all(&serde_json::to_vec(&text)?)?;
        file.rewind()?;
        let variable = file.as_fd().as_raw_fd().to_string();
        open.push(file.into());
        Ok(Passed {
            variable,
            _open: open,
        })
    }

    pub(crate) fn take_connections(&mut self, permits: &Arc<Semaphore>) -> Vec<ClientSocket> {
        let connections = std::mem::take(&mut self.connections);
        let taken = connections.into_iter().map_while(|(fd, arrival)| {
            let permit = permits.clone().try_acquire_owned().ok()?;
            Some(ClientSocket::again(fd, arrival, permit))
        });
        taken.collect()
    }
}

fn all<T>(parts: impl Iterator<Item = io::Result<T>>) -> io::Result<Vec<T>> {
    parts.collect()
}
