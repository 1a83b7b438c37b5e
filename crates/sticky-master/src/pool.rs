//! All registered workers, and the decision which of them gets a socket.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::net::IpAddr;
use std::time::Duration;

use common::handoff::Speaks;
use common::monotonic;
use common::sid_tag::SidTag;
use common::worker_id::{NodeId, WorkerId};
use tokio::time::Instant;

use crate::address_counts;
use crate::address_rates::AddressRates;
use crate::balance::{self, Balance, Balancer, Candidate, Choice};
use crate::client_socket::ClientSocket;
use crate::member::{Member, Routed};
use crate::metrics::WorkerCounts;
use crate::refuse::Refusal;
use crate::request_head::Claim;

/// New clients that may wait while all workers have as much on their way as
/// they may.
const WAITING_MAX: usize = 1024;
/// How long one waits before it is told to come back later.
const WAITING_TIME: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Waiting {
    socket: ClientSocket,
    claim: Claim,
    until: Instant,
}

/// How many connections of clients there may be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// In all.
    pub connections: Option<u64>,
    /// Of one address.
    pub of_address: Option<u32>,
    /// Of one address in a second, without a session.
    pub new_of_address: Option<u32>,
}

/// Where a socket should go.
enum Decision {
    To { worker: WorkerId, balanced: bool },
    Wait,
    Nobody,
}

/// A connection and the answer that it gets from the master.
pub(crate) type Refused = (ClientSocket, Refusal);

/// The registered workers.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Not known: no worker has registered.
    node: Option<NodeId>,
    limits: Limits,
    members: BTreeMap<WorkerId, Member>,
    /// Most sockets on their way to one worker: half of what the master may
    /// hold, so that a frozen worker cannot stop it from accepting.
    held_max: usize,
    balancer: Balancer,
    newcomers: Option<AddressRates>,
    waiting: VecDeque<Waiting>,
    /// Until then a worker may come for those who find none.
    expected_until: Option<Instant>,
    /// Reused from one decision to the next.
    candidates: Vec<Candidate>,
    /// What those that have left counted here, less what those that are here had counted before.
    uncounted: WorkerCounts,
}

impl Pool {
    /// No workers yet.
    pub(crate) fn new(method: Balance, held_max: usize, limits: Limits) -> Pool {
        Pool {
            node: None,
            limits,
            members: BTreeMap::new(),
            held_max,
            balancer: Balancer::new(method),
            newcomers: limits.new_of_address.map(AddressRates::new),
            waiting: VecDeque::new(),
            expected_until: None,
            candidates: Vec::new(),
            uncounted: WorkerCounts::default(),
        }
    }

    /// Workers are about to come: clients who find none wait for them.
    pub(crate) fn expect_workers(&mut self, now: Instant) {
        self.expected_until = Some(now + WAITING_TIME);
    }

    /// Says which node this is.
    pub(crate) fn set_node(&mut self, node: NodeId) {
        self.node = Some(node);
    }

    /// All registered workers, lowest id first.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One of them.
    pub(crate) fn member(&mut self, worker: WorkerId) -> Option<&mut Member> {
        self.members.get_mut(&worker)
    }

    /// The same, to look at.
    pub(crate) fn registered(&self, worker: WorkerId) -> Option<&Member> {
        self.members.get(&worker)
    }

    /// Adds a worker; false when its id is taken.
    pub(crate) fn insert(&mut self, member: Member) -> bool {
        match self.members.entry(member.worker) {
            Entry::Vacant(place) => {
                // Of an earlier master's time: it is no news of this one.
                self.uncounted.subtract(&member.counts());
                place.insert(member);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// What all of them counted since they came here, and those that have left. `counts`: what each
    /// of them counted since its start.
    pub(crate) fn totals<'a>(
        &self,
        counts: impl Iterator<Item = &'a WorkerCounts>,
    ) -> WorkerCounts {
        let mut totals = self.uncounted;
        counts.for_each(|counts| totals.add(counts));
        totals
    }

    /// How many connections wait for a place.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// The same as [`place`](Self::place), for one that comes in.
    pub(crate) fn enter(
        &mut self,
        socket: ClientSocket,
        claim: Claim,
        now: Instant,
    ) -> Option<Refused> {
        if let Some(newcomers) = &mut self.newcomers
            && matches!(claim, Claim::New | Claim::Affine(_))
            && let Some(client) = socket.client()
            && !newcomers.admits(address_counts::counted(client), now)
        {
            return Some((socket, Refusal::TooFastOfAddress));
        }
        self.place(socket, claim, now)
    }

    /// Finds a place for a connection whose first request says `claim`. What is
    /// placed is sent by the next [`flush`](Self::flush).
    pub(crate) fn place(
        &mut self,
        socket: ClientSocket,
        claim: Claim,
        now: Instant,
    ) -> Option<Refused> {
        if let Some(refusal) = self.is_too_much(&socket) {
            return Some((socket, refusal));
        }
        if matches!(claim, Claim::New | Claim::Affine(_)) && !self.waiting.is_empty() {
            // First come, first served.
            return self.wait(socket, claim, now);
        }
        self.try_place(socket, claim, now)
            .unwrap_or_else(|socket| self.wait(socket, claim, now))
    }

    /// Who has sent no whole request yet is not counted, and so keeps nobody
    /// out. Other nodes' workers come for clients that are counted there.
    fn is_too_much(&mut self, socket: &ClientSocket) -> Option<Refusal> {
        if socket.speaks() == Speaks::Relay {
            return None;
        }
        if let Some(max) = self.limits.connections
            && self.connections() >= max
        {
            return Some(Refusal::TooMany);
        }
        let (max, address) = self.limits.of_address.zip(self.counted(socket))?;
        let count = self.members().map(|member| member.of_address(address));
        (count.sum::<u32>() >= max).then_some(Refusal::TooManyOfAddress)
    }

    /// Connections that the workers have, that are on their way there, or wait.
    fn connections(&mut self) -> u64 {
        let mut count = self.waiting.len() as u64;
        for member in self.members.values_mut() {
            member.release_received();
            count += member.connections() + member.held() as u64;
        }
        count
    }

    /// Whose connection it is, where they are counted.
    fn counted(&self, socket: &ClientSocket) -> Option<IpAddr> {
        self.limits.of_address?;
        let client = socket.client()?;
        (socket.speaks() != Speaks::Relay).then(|| address_counts::counted(client))
    }

    /// The error is a connection that has to wait for its place.
    fn try_place(
        &mut self,
        socket: ClientSocket,
        claim: Claim,
        now: Instant,
    ) -> Result<Option<Refused>, ClientSocket> {
        match self.decide(claim, &socket, now) {
            Decision::To { worker, balanced } => {
                let routed = Routed {
                    counted: self.counted(&socket),
                    socket,
                    claim,
                    balanced,
                };
                Ok(self.stage(worker, routed))
            }
            Decision::Wait => Err(socket),
            Decision::Nobody => Ok(Some((socket, Refusal::NoWorker))),
        }
    }

    fn stage(&mut self, worker: WorkerId, routed: Routed) -> Option<Refused> {
        let left = match self.members.get_mut(&worker) {
            Some(member) if member.held() < self.held_max => member.stage(routed),
            _ => Some(routed),
        };
        left.map(|routed| (routed.socket, Refusal::NoWorker))
    }

    fn wait(&mut self, socket: ClientSocket, claim: Claim, now: Instant) -> Option<Refused> {
        if self.waiting.len() >= WAITING_MAX {
            return Some((socket, Refusal::NoWorker));
        }
        let until = now + WAITING_TIME;
        self.waiting.push_back(Waiting {
            socket,
            claim,
            until,
        });
        None
    }

    fn decide(&mut self, claim: Claim, socket: &ClientSocket, now: Instant) -> Decision {
        if let Claim::Tagged(SidTag { node, worker }) | Claim::Relayed(SidTag { node, worker }) =
            claim
            && self.node == Some(node)
            && let Some(owner) = self.members.get_mut(&worker)
            && owner.owns_sessions()
        {
            owner.release_received();
            // Elsewhere they would be relayed, which takes descriptors too.
            let is_full = owner.has_no_descriptors(now)
                || matches!(claim, Claim::Relayed(_)) && !owner.has_room();
            return match is_full {
                true => Decision::Nobody,
                false => Decision::To {
                    worker,
                    balanced: false,
                },
            };
        }
        self.find_candidates(now);
        let (choice, balanced) = match claim {
            Claim::Affine(tag) if self.can_have(tag) => (Choice::Worker(tag.worker), true),
            Claim::New | Claim::Affine(_) => {
                let client = socket.client();
                (self.balancer.choose(&self.candidates, client), true)
            }
            // Who relays finds out by the end of the connection.
            Claim::Relayed(_) => (Choice::Nobody, false),
            Claim::Foreign(hash) => (balance::by_hash(&self.candidates, hash), false),
            // Any worker can say that it is unknown.
            Claim::Tagged(_) => (balance::least_loaded(&self.candidates), false),
        };
        match choice {
            Choice::Worker(worker) => Decision::To { worker, balanced },
            // Those with a session id do not queue: the client knows how to
            // come again.
            Choice::Wait if !balanced => Decision::Nobody,
            Choice::Wait => Decision::Wait,
            // Workers that have stalled may go on, and others may come.
            Choice::Nobody if balanced && self.members().any(Member::takes_clients) => {
                Decision::Wait
            }
            Choice::Nobody
                if self.expected_until.is_some_and(|until| now < until)
                    && !matches!(claim, Claim::Relayed(_)) =>
            {
                Decision::Wait
            }
            Choice::Nobody => Decision::Nobody,
        }
    }

    /// Whether the worker is a candidate with room.
    fn can_have(&self, tag: SidTag) -> bool {
        let mut candidates = self.candidates.iter();
        self.node == Some(tag.node) && candidates.any(|one| one.worker == tag.worker && !one.full)
    }

    fn find_candidates(&mut self, now: Instant) {
        self.candidates.clear();
        let now_ms = monotonic::now_ms();
        for member in self.members.values_mut() {
            if member.takes_clients() {
                member.release_received();
                let mut candidate = member.candidate(now, now_ms);
                if let Some(candidate) = &mut candidate {
                    candidate.full |= member.held() >= self.held_max;
                }
                self.candidates.extend(candidate);
            }
        }
    }

    /// Places those that wait and have a place now; gives back those that
    /// waited too long, or can only be refused.
    pub(crate) fn place_waiting(&mut self, now: Instant) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut still_waiting = VecDeque::new();
        while let Some(waiting) = self.waiting.pop_front() {
            let Waiting {
                socket,
                claim,
                until,
            } = waiting;
            // Others of its address may have come in meanwhile.
            if let Some(refusal) = self.is_too_much(&socket) {
                refused.push((socket, refusal));
                continue;
            }
            match self.try_place(socket, claim, now) {
                Ok(answer) => refused.extend(answer),
                Err(socket) if until > now => {
                    still_waiting.push_back(Waiting {
                        socket,
                        claim,
                        until,
                    });
                    if !self.balancer.looks_at_the_client() {
                        break;
                    }
                }
                Err(socket) => refused.push((socket, Refusal::NoWorker)),
            }
        }
        still_waiting.append(&mut self.waiting);
        self.waiting = still_waiting;
        refused
    }

    /// From now on only those with a session are placed.
    pub(crate) fn take_no_clients(&mut self) {
        self.expected_until = None;
        for member in self.members.values_mut() {
            member.leaving = true;
        }
    }

    /// Gives up all connections that no worker was sent yet.
    pub(crate) fn take_unsent(&mut self) -> Vec<ClientSocket> {
        let waiting = self.waiting.drain(..).map(|one| one.socket);
        let staged = self.members.values_mut().flat_map(Member::take_backlog);
        waiting.chain(staged.map(|routed| routed.socket)).collect()
    }

    /// Gives back all that wait for a place.
    pub(crate) fn refuse_waiting(&mut self) -> Vec<Refused> {
        let waiting = self.waiting.drain(..);
        waiting.map(|one| (one.socket, Refusal::NoWorker)).collect()
    }

    /// Sends what was staged for any worker.
    pub(crate) fn flush(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            if member.flush(now).is_err() {
                // Its end of file is about to be read.
                member.ready = false;
            }
        }
    }

    /// Drops the copies that are not needed any more. True when something is
    /// still on its way or waits, so that another look is due.
    pub(crate) fn release_received(&mut self) -> bool {
        let mut left = !self.waiting.is_empty();
        for member in self.members.values_mut() {
            left |= !member.release_received();
        }
        left
    }

    /// Has every worker report its next change.
    pub(crate) fn ask_wake(&self) {
        self.members.values().for_each(Member::ask_wake);
    }

    /// A worker is gone: places what was on its way to it elsewhere.
    pub(crate) fn remove(&mut self, worker: WorkerId, now: Instant) -> Vec<Refused> {
        let removed = self.members.remove(&worker);
        if let Some(member) = &removed {
            self.uncounted.add(&member.counts());
        }
        let unreceived = removed.map_or(Vec::new(), Member::into_unreceived);
        self.place_again(unreceived, now)
    }

    /// Sockets that did not get through to `worker`: places them elsewhere.
    pub(crate) fn lost(
        &mut self,
        worker: WorkerId,
        first: u64,
        count: u8,
        now: Instant,
    ) -> Vec<Refused> {
        let lost = match self.members.get_mut(&worker) {
            Some(member) => member.take_lost(first, count, now),
            None => Vec::new(),
        };
        self.place_again(lost, now)
    }

    fn place_again(&mut self, sockets: Vec<Routed>, now: Instant) -> Vec<Refused> {
        sockets
            .into_iter()
            .filter_map(|routed| self.place(routed.socket, routed.claim, now))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use common::handoff::Hello;
    use common::handoff_channel::{Channel, Listener};
    use common::scoreboard::Scoreboard;
    use common::worker_id::Generation;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::entrance::Entrance;

    const OWN: SidTag = SidTag {
        node: NodeId(0),
        worker: WorkerId(0),
    };

    fn some_fd() -> OwnedFd {
        std::io::pipe().unwrap().0.into()
    }

    fn socket() -> ClientSocket {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let entrance = Entrance {
            clients: Some(Speaks::Http),
            proxy_protocol: false,
            relay: false,
        };
        ClientSocket::new(some_fd(), None, entrance, permit)
    }

    #[tokio::test]
    async fn a_frozen_worker_holds_a_part_of_the_sockets_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        let _worker = Channel::connect(&path).unwrap();
        let channel = Arc::new(listener.accept().await.unwrap());
        let (board, memory) = Scoreboard::create().unwrap();
        board
            .fd_headroom
            .store(1000, std::sync::atomic::Ordering::SeqCst);
        let hello = Hello {
            worker: OWN.worker,
            node: OWN.node,
            generation: Generation(1),
            pid: 1,
            ready: true,
            leaving: false,
            received: 0,
            balanced_received: 0,
        };
        let board_seen = Scoreboard::open(&memory).unwrap();
        let mut pool = Pool::new(Balance::default(), 10, Limits::default());
        pool.set_node(OWN.node);
        assert!(pool.insert(Member::new(&hello, some_fd(), channel, board_seen)));
        let now = Instant::now();
        for number in 0..12 {
            let refused = pool.place(socket(), Claim::Tagged(OWN), now);
            pool.flush(now);
            assert_eq!(refused.is_some(), number >= 10, "{number}");
        }
        // A new client waits for room.
        assert!(pool.place(socket(), Claim::New, now).is_none());
        assert_eq!(pool.waiting.len(), 1);
        // It thaws.
        board
            .received
            .store(10, std::sync::atomic::Ordering::SeqCst);
        assert!(pool.place(socket(), Claim::Tagged(OWN), now).is_none());
        assert!(pool.place_waiting(now).is_empty());
        assert_eq!(pool.waiting.len(), 0);
    }
}
