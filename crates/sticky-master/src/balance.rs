//! The balancing methods: which worker gets a client that no session id ties to
//! one. Pure, except for the turn and the random state that it keeps.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::str::FromStr;

use common::worker_id::WorkerId;

use crate::rendezvous;

/// How new clients are spread over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// To the worker with the fewest live clients, those on their way included.
    #[default]
    LeastConnection,
    /// To each worker in turn.
    RoundRobin,
    /// To any.
    Random,
    /// Always to the same worker for one client address, by rendezvous hashing;
    /// least-connection for clients without one (Unix sockets).
    ClientHash,
}

impl Balance {
    /// All methods with the names that the command line uses.
    pub const NAMES: [(&'static str, Balance); 4] = [
        ("least-connection", Balance::LeastConnection),
        ("round-robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("client-hash", Balance::ClientHash),
    ];
}

impl Balance {
    /// Whether a client that is asked to move comes back to the same worker.
    pub fn keeps_clients(self, affinity_cookie: Option<&str>) -> bool {
        affinity_cookie.is_some() || self == Balance::ClientHash
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(_, method)| method == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

impl FromStr for Balance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text);
        named
            .map(|(_, method)| *method)
            .ok_or_else(|| format!("unknown balancing method {text}"))
    }
}

/// A worker that takes new clients, as the balancer sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Who.
    pub worker: WorkerId,
    /// Live clients and those on their way.
    pub load: u64,
    /// It has as much on its way as it may: it can have no more right now.
    pub full: bool,
}

/// What the balancer decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This one.
    Worker(WorkerId),
    /// The right one is full; ask again when something has changed.
    Wait,
    /// There are no candidates.
    Nobody,
}

/// Chooses by one method.
#[derive(Debug)]
pub(crate) struct Balancer {
    method: Balance,
    last: WorkerId,
    random: u64,
}

impl Balancer {
    /// A balancer whose random choices are its own.
    pub(crate) fn new(method: Balance) -> Balancer {
        Balancer {
            method,
            last: WorkerId(u8::MAX),
            random: RandomState::new().hash_one(std::process::id()),
        }
    }

    /// Chooses among `candidates`, which are in the order of their ids.
    pub(crate) fn choose(&mut self, candidates: &[Candidate], client: Option<IpAddr>) -> Choice {
        match (self.method, client) {
            (Balance::LeastConnection, _) | (Balance::ClientHash, None) => {
                self.least_connection(candidates)
            }
            (Balance::RoundRobin, _) => self.round_robin(candidates),
            (Balance::Random, _) => self.random(candidates),
            (Balance::ClientHash, Some(client)) => by_hash(candidates, address_key(client)),
        }
    }

    /// Whether the choice differs from client to client: then one that must wait
    /// says nothing of the next.
    pub(crate) fn looks_at_the_client(&self) -> bool {
        self.method == Balance::ClientHash
    }

    /// Ties go round, so that idle workers share what comes one at a time.
    fn least_connection(&mut self, candidates: &[Candidate]) -> Choice {
        let turn =
            |candidate: &&Candidate| candidate.worker.0.wrapping_sub(self.last.0).wrapping_sub(1);
        let free = candidates.iter().filter(|candidate| !candidate.full);
        let chosen = free.min_by_key(|candidate| (candidate.load, turn(candidate)));
        self.take(chosen.copied(), candidates)
    }

    fn round_robin(&mut self, candidates: &[Candidate]) -> Choice {
        let behind = candidates.iter().find(|next| next.worker > self.last);
        let next = behind.or(candidates.first());
        self.take(next.copied().filter(|next| !next.full), candidates)
    }

    fn random(&mut self, candidates: &[Candidate]) -> Choice {
        let free: Vec<_> = candidates
            .iter()
            .filter(|candidate| !candidate.full)
            .collect();
        self.random = rendezvous::mix(self.random);
        // The product's upper half is even over any small range.
        let index = (u128::from(self.random) * free.len() as u128) >> 64;
        self.take(free.get(index as usize).copied().copied(), candidates)
    }

    fn take(&mut self, chosen: Option<Candidate>, candidates: &[Candidate]) -> Choice {
        match chosen {
            Some(candidate) => {
                self.last = candidate.worker;
                Choice::Worker(candidate.worker)
            }
            None => none_free(candidates),
        }
    }
}

fn none_free(candidates: &[Candidate]) -> Choice {
    if candidates.is_empty() {
        Choice::Nobody
    } else {
        Choice::Wait
    }
}

/// Any worker with room, best the one with the least to do.
pub(crate) fn least_loaded(candidates: &[Candidate]) -> Choice {
    let free = candidates.iter().filter(|candidate| !candidate.full);
    match free.min_by_key(|candidate| candidate.load) {
        Some(candidate) => Choice::Worker(candidate.worker),
        None => none_free(candidates),
    }
}

/// The worker that `key` ranks highest.
pub(crate) fn by_hash(candidates: &[Candidate], key: u64) -> Choice {
    let highest = candidates
        .iter()
        .max_by_key(|candidate| rendezvous::rank(key, candidate.worker));
    match highest {
        Some(candidate) if !candidate.full => Choice::Worker(candidate.worker),
        _ => none_free(candidates),
    }
}

/// An IPv4 client of a dual-stack listener is the same client as of an IPv4
/// one.
fn address_key(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => rendezvous::hash(&address.octets()),
        IpAddr::V6(address) => rendezvous::hash(&address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(loads: &[u64]) -> Vec<Candidate> {
        let of = |(worker, &load)| Candidate {
            worker: WorkerId(worker as u8),
            load,
            full: false,
        };
        loads.iter().enumerate().map(of).collect()
    }

    fn worker(choice: Choice) -> u8 {
        match choice {
            Choice::Worker(worker) => worker.0,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_and_methods_agree() {
        for (name, method) in Balance::NAMES {
            assert_eq!(name.parse(), Ok(method));
            assert_eq!(method.to_string(), name);
        }
        assert!("fastest".parse::<Balance>().is_err());
    }

    #[test]
    fn least_connection_fills_the_emptiest_and_shares_ties() {
        let mut balancer = Balancer::new(Balance::LeastConnection);
        let mut loads = [3, 0, 1, 0];
        for _ in 0..100 {
            let chosen = worker(balancer.choose(&candidates(&loads), None));
            loads[usize::from(chosen)] += 1;
        }
        assert_eq!(loads, [26; 4]);
        let mut taken = [0; 4];
        for _ in 0..100 {
            taken[usize::from(worker(balancer.choose(&candidates(&[5; 4]), None)))] += 1;
        }
        assert_eq!(taken, [25; 4]);
    }

    #[test]
    fn a_full_worker_is_passed_over_by_some_and_awaited_by_others() {
        let mut some = candidates(&[0, 9]);
        some[0].full = true;
        let client = Some([127, 0, 0, 1].into());
        let mut least = Balancer::new(Balance::LeastConnection);
        assert_eq!(worker(least.choose(&some, client)), 1);
        let mut random = Balancer::new(Balance::Random);
        assert_eq!(worker(random.choose(&some, client)), 1);
        let mut turns = Balancer::new(Balance::RoundRobin);
        assert_eq!(turns.choose(&some, client), Choice::Wait);
        some[1].full = true;
        for (_, method) in Balance::NAMES {
            let mut balancer = Balancer::new(method);
            assert_eq!(balancer.choose(&some, client), Choice::Wait);
            assert_eq!(balancer.choose(&[], client), Choice::Nobody);
        }
    }

    #[test]
    fn round_robin_is_even_also_when_workers_come_and_go() {
        let mut balancer = Balancer::new(Balance::RoundRobin);
        let mut turns = |some: &[Candidate], count| {
            let turn = |_| worker(balancer.choose(some, None));
            (0..count).map(turn).collect::<Vec<_>>()
        };
        let all = candidates(&[0; 3]);
        assert_eq!(turns(&all, 5), [0, 1, 2, 0, 1]);
        assert_eq!(turns(&[all[0], all[2]], 3), [2, 0, 2]);
        assert_eq!(turns(&all, 3), [0, 1, 2]);
    }

    #[test]
    fn random_takes_each_about_as_often() {
        let mut balancer = Balancer::new(Balance::Random);
        let all = candidates(&[0; 4]);
        let mut taken = [0; 4];
        for _ in 0..40_000 {
            taken[usize::from(worker(balancer.choose(&all, None)))] += 1;
        }
        // 10,000 each, standard deviation 87.
        for count in taken {
            assert!((9_500..=10_500).contains(&count), "{taken:?}");
        }
    }

    #[test]
    fn client_hash_is_constant_for_an_address_of_either_form() {
        let mut balancer = Balancer::new(Balance::ClientHash);
        let all = candidates(&[7, 0, 3, 9]);
        for host in 1..50u8 {
            let plain: IpAddr = [127, 0, 0, host].into();
            let mapped: IpAddr = format!("::ffff:127.0.0.{host}").parse().unwrap();
            let first = balancer.choose(&all, Some(plain));
            assert_eq!(first, balancer.choose(&all, Some(plain)));
            assert_eq!(first, balancer.choose(&all, Some(mapped)));
        }
    }
}
