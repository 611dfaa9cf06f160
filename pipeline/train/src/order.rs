//! The order in which chunks are given: a seeded permutation that is computed, never stored, so that any position is reached in O(1).

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A permutation of `0..len`.
///
/// A balanced Feistel network (Luby and Rackoff 1988) permutes the smallest even power of two that is not below `len`; values outside the
/// range are sent through again until one falls inside (cycle walking, Black and Rogaway 2002), fewer than four times on average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

const ROUNDS: usize = 6;

impl Permutation {
    /// The permutation of `0..len` for this seed and epoch.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| xxh3_64_with_seed(&[epoch.to_le_bytes(), (round as u64).to_le_bytes()].concat(), seed));
        Self { len, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Number of values.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to permute.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value at `position`; `None` from `len` on.
    pub fn at(&self, position: u64) -> Option<u64> {
        if position >= self.len {
            return None;
        }
        let mut value = self.round_trip(position);
        while value >= self.len {
            value = self.round_trip(value);
        }
        Some(value)
    }

    fn round_trip(&self, value: u64) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.half_bits);
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Positions `first, first + world, …` below `len` for one rank: ranks share out the positions without overlap or gap, for any world size,
/// and a run that goes on with another world size starts at the number of positions all ranks have done.
pub fn positions(done: u64, rank: u32, world: u32, len: u64) -> impl Iterator<Item = u64> {
    let first = done.saturating_add(u64::from(rank));
    (first..len).step_by(world.max(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_comes_once() {
        for len in [0, 1, 2, 3, 5, 64, 65, 1000, 4097] {
            let order = Permutation::new(len, 7, 0);
            let mut values: Vec<u64> = (0..len).filter_map(|position| order.at(position)).collect();
            values.sort_unstable();
            assert_eq!(values, (0..len).collect::<Vec<_>>(), "{len}");
            assert_eq!(order.at(len), None);
        }
        assert!(Permutation::new(u64::MAX, 1, 2).at(u64::MAX - 1).is_some());
    }

    #[test]
    fn seed_and_epoch_change_the_order_and_it_is_spread_evenly() {
        let order = |seed, epoch| -> Vec<u64> { (0..10_000).filter_map(|at| Permutation::new(10_000, seed, epoch).at(at)).collect() };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        // Of any 1,000 consecutive positions about a tenth falls in each tenth of the range: hypergeometric, standard deviation 9.
        for window in order(3, 0).chunks(1000) {
            for tenth in 0..10 {
                let count = window.iter().filter(|&&value| value / 1000 == tenth).count();
                assert!((55..=145).contains(&count), "{count}");
            }
        }
    }

    #[test]
    fn ranks_share_positions_without_overlap_or_gap() {
        for (done, world) in [(0, 1), (0, 3), (5, 4), (99, 7), (200, 2)] {
            let mut all: Vec<u64> = (0..world).flat_map(|rank| positions(done, rank, world, 100)).collect();
            all.sort_unstable();
            assert_eq!(all, (done..100).collect::<Vec<_>>(), "{done} {world}");
        }
    }
}
