//! Rendezvous hashing: each key ranks all workers, and the highest wins. When a
//! worker goes, only its own keys move. Pure and the same in every process.

use common::worker_id::WorkerId;

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each input bit
/// changes each output bit with probability one half.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A hash of some bytes; not a secret one.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |state, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(state ^ u64::from_le_bytes(word))
    })
}

/// How high `key` ranks `worker`.
pub(crate) fn rank(key: u64, worker: WorkerId) -> u64 {
    mix(key ^ mix(u64::from(worker.0) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(key: u64, workers: &[WorkerId]) -> WorkerId {
        let best = workers.iter().max_by_key(|worker| rank(key, **worker));
        *best.unwrap()
    }

    #[test]
    fn only_the_keys_of_a_dead_worker_move_and_they_spread() {
        let all: Vec<_> = (0..4).map(WorkerId).collect();
        let alive = [all[0], all[1], all[3]];
        let mut moved = [0; 4];
        for key in (0..4_000u64).map(|number| hash(&number.to_le_bytes())) {
            let (before, after) = (owner(key, &all), owner(key, &alive));
            if before == WorkerId(2) {
                moved[usize::from(after.0)] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        // A third of about a thousand each; five standard deviations are 75.
        for worker in [0, 1, 3] {
            assert!((258..=408).contains(&moved[worker]), "{moved:?}");
        }
    }

    #[test]
    fn neighbouring_addresses_spread_evenly() {
        let all: Vec<_> = (0..4).map(WorkerId).collect();
        let mut count = [0; 4];
        for host in 0..=255u8 {
            for net in 0..16u8 {
                let key = hash(&[127, 0, net, host]);
                count[usize::from(owner(key, &all).0)] += 1;
            }
        }
        // 4,096 keys over 4 workers: 1,024 each, deviation 28.
        for keys in count {
            assert!((884..=1164).contains(&keys), "{count:?}");
        }
    }

    #[test]
    fn different_bytes_hash_differently() {
        let inputs: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"abcdefgh", b"abcdefgh\0", b"abcdefgi"];
        for (index, one) in inputs.iter().enumerate() {
            for other in &inputs[index + 1..] {
                assert_ne!(hash(one), hash(other));
            }
        }
    }
}
