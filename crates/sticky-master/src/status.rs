//! The workers at a moment, for people and monitoring: what the master knows of them and
//! what their scoreboards say. No worker is asked, so one that hangs is shown as well.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::seat::Seat;

/// How a worker process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// It does not take clients yet, or not now: it has no store.
    Starting,
    /// It takes clients.
    Ready,
    /// Its event loop has not run for 3 s; it gets no clients until it does.
    Stuck,
    /// It sends its clients to others, and will end.
    Draining,
    /// It has ended, or is about to, and has no channel to the master any more.
    Ending,
}

impl WorkerState {
    /// All there are.
    pub const ALL: [WorkerState; 5] = [
        WorkerState::Starting,
        WorkerState::Ready,
        WorkerState::Stuck,
        WorkerState::Draining,
        WorkerState::Ending,
    ];
}

/// The name that it is serialised by.
impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// One worker process. The counts begin with the process; they go on when the master is
/// another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The worker id, which session ids carry.
    pub id: u8,
    /// The process. Not known of one that has not registered with this master.
    pub pid: Option<u32>,
    /// The number of the process among those that were started in this runtime
    /// directory. Not known of one that was found and has not registered.
    pub generation: Option<u64>,
    /// How it stands.
    pub state: WorkerState,
    /// Socket.IO sessions that live there.
    pub clients: u64,
    /// Connections that are open: of clients, and of other workers that relay.
    pub connections: u64,
    /// Sockets that it got from a master.
    pub handoffs: u64,
    /// Requests that it passed on to the worker whose session they name.
    pub relayed: u64,
    /// What clients sent there, was stored, and acknowledged, if the application counts it.
    pub messages: u64,
    /// By how much its event loop's last timer was late, in microseconds. Half a second
    /// old at most, unless the worker is [stuck](WorkerState::Stuck).
    pub event_loop_lag_us: u64,
}

impl WorkerStatus {
    /// A process that has no channel: it has not registered, or it ends.
    pub(crate) fn without_channel(id: u8, seat: &Seat) -> WorkerStatus {
        let ended = *seat.registered.borrow();
        WorkerStatus {
            id,
            pid: seat.pid.get().copied(),
            generation: seat.generation.get().map(|generation| generation.0),
            state: if ended {
                WorkerState::Ending
            } else {
                WorkerState::Starting
            },
            clients: 0,
            connections: 0,
            handoffs: 0,
            relayed: 0,
            messages: 0,
            event_loop_lag_us: 0,
        }
    }
}
