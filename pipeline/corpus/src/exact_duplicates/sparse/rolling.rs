//! A hash that follows a range of fixed length from byte to byte.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Odd: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Polynomial hash (Karp and Rabin 1987) modulo 2^64 over a random word per byte. Collisions cost time, never exactness: whoever uses it
/// compares bytes. The high bits depend on all bytes, the low ones do not.
#[derive(Debug)]
pub struct RollingHash {
    len: usize,
    /// What a byte adds when it enters, and what it takes away when it leaves.
    enter: [u64; 256],
    leave: [u64; 256],
}

impl RollingHash {
    /// A hash of ranges of `len` bytes.
    pub fn new(len: usize) -> Self {
        let enter: [u64; 256] = std::array::from_fn(|byte| xxh3_64_with_seed(&[byte as u8], 0));
        let power = (0..len).fold(1_u64, |power, _| power.wrapping_mul(MULTIPLIER));
        Self { len, enter, leave: enter.map(|word| word.wrapping_mul(power).wrapping_neg()) }
    }

    /// The hash of the first `len` of `bytes`.
    pub fn first(&self, bytes: &[u8]) -> u64 {
        bytes[..self.len].iter().fold(0, |state, byte| state.wrapping_mul(MULTIPLIER).wrapping_add(self.enter[usize::from(*byte)]))
    }

    /// The hash one byte further.
    #[inline(always)]
    pub fn next(&self, state: u64, entering: u8, leaving: u8) -> u64 {
        let change = self.enter[usize::from(entering)].wrapping_add(self.leave[usize::from(leaving)]);
        state.wrapping_mul(MULTIPLIER).wrapping_add(change)
    }

    /// Gives the high half of the hash of every range in `bytes`, as numbers to order by. `bytes` are at least `len`.
    pub fn all(&self, bytes: &[u8], hashes: &mut Vec<i32>) {
        const LANES: usize = 4;
        let count = bytes.len() - self.len + 1;
        hashes.clear();
        hashes.resize(count, 0);
        // Each hash waits for the one before, so four stretches are hashed side by side, and what is left afterwards.
        let lane = (count - 1) / LANES;
        let done = if lane > self.len { LANES * lane } else { 0 };
        let (side_by_side, rest) = hashes.split_at_mut(done);
        let mut parts = side_by_side.chunks_exact_mut(lane.max(1));
        if let (Some(a), Some(b), Some(c), Some(d)) = (parts.next(), parts.next(), parts.next(), parts.next()) {
            let stretch = |index: usize| {
                let bytes = &bytes[index * lane..];
                (self.first(bytes), &bytes[..lane], &bytes[self.len..self.len + lane])
            };
            let [(mut h0, l0, e0), (mut h1, l1, e1), (mut h2, l2, e2), (mut h3, l3, e3)] = std::array::from_fn(stretch);
            let (a, b, c, d) = (&mut a[..lane], &mut b[..lane], &mut c[..lane], &mut d[..lane]);
            for index in 0..lane {
                (a[index], b[index], c[index], d[index]) = (high(h0), high(h1), high(h2), high(h3));
                h0 = self.next(h0, e0[index], l0[index]);
                h1 = self.next(h1, e1[index], l1[index]);
                h2 = self.next(h2, e2[index], l2[index]);
                h3 = self.next(h3, e3[index], l3[index]);
            }
        }
        let bytes = &bytes[done..];
        let mut state = self.first(bytes);
        let changes = bytes[self.len..].iter().zip(bytes).map(Some).chain([None]);
        for (hash, change) in rest.iter_mut().zip(changes) {
            *hash = high(state);
            if let Some((&entering, &leaving)) = change {
                state = self.next(state, entering, leaving);
            }
        }
    }
}

#[inline(always)]
fn high(state: u64) -> i32 {
    (state >> 32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_gives_the_same_hashes() {
        let bytes: Vec<u8> = (0..3000_u32).map(|index| (index.wrapping_mul(index) >> 3) as u8).collect();
        for len in [1, 2, 7, 33, 64] {
            let hash = RollingHash::new(len);
            for num_bytes in [len, len + 1, len + 2, len + 3, 5 * len + 3, 5 * len + 4, 5 * len + 5, 5 * len + 8, 2999, 3000] {
                let mut hashes = Vec::new();
                hash.all(&bytes[..num_bytes], &mut hashes);
                let wanted: Vec<i32> = bytes[..num_bytes].windows(len).map(|range| high(hash.first(range))).collect();
                assert_eq!(hashes, wanted, "{len} {num_bytes}");
            }
        }
    }
}
