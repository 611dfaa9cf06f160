//! The order in which chunks are given: computed from a seed, never stored, so that any position of any epoch is reached in O(1).

use crate::mix::{MixConfig, MixError, PartUse};
use crate::shards::ShardSet;
use std::num::NonZeroU64;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The order of the chunks of a set.
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    epochs: u32,
    chunks_per_epoch: u64,
    /// Every so many chunks of the set, the last of them is never given.
    held_out: Option<NonZeroU64>,
    /// Empty: one uniform permutation of all chunks.
    parts: Vec<Part>,
    /// Chunks per epoch of all parts before part `i`, and of all parts at the end.
    before: Vec<u64>,
}

/// The chunks of one part of a mix.
#[derive(Debug, Clone)]
struct Part {
    usage: PartUse,
    runs: Vec<Run>,
}

/// Consecutive chunks of a part.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Chunks of the part before it.
    before: u64,
    /// Its first chunk.
    first: u64,
}

impl Order {
    /// The order that the set's sidecars state.
    ///
    /// # Errors
    /// [`MixError`] for a mix that cannot be read or does not fit the set.
    pub fn of(set: &ShardSet) -> Result<Self, MixError> {
        let header = set.header();
        let mix = MixConfig::from_json(header.mix.as_deref())?;
        if mix.is_empty() {
            return Ok(Self::uniform(set.num_chunks(), header.seed, mix.epochs));
        }
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); mix.part.len()];
        let mut available = vec![0u64; mix.part.len()];
        let mut last = None;
        for (chunk, part) in (0..).zip(set.chunk_parts(&mix)) {
            if let Some(part) = part {
                if last != Some(part) {
                    runs[part].push(Run { before: available[part], first: chunk });
                }
                available[part] += 1;
            }
            last = part;
        }
        let parts = mix.resolve(&available, header.context_length)?;
        let parts = parts.into_iter().zip(runs).map(|(usage, runs)| Part { usage, runs });
        Ok(Self::mixed(parts.collect(), header.seed, mix.epochs))
    }

    /// Every chunk once an epoch.
    pub fn uniform(num_chunks: u64, seed: u64, epochs: u32) -> Self {
        Self { seed, epochs, chunks_per_epoch: num_chunks, held_out: None, parts: Vec::new(), before: Vec::new() }
    }

    fn mixed(parts: Vec<Part>, seed: u64, epochs: u32) -> Self {
        let mut before = vec![0];
        before.extend(parts.iter().scan(0, |sum, part| {
            *sum += part.usage.chunks_per_epoch;
            Some(*sum)
        }));
        Self { seed, epochs, chunks_per_epoch: before.last().copied().unwrap_or(0), held_out: None, parts, before }
    }

    /// The same order without every `every`-th chunk of the set, for measuring on text that is not trained on; those are
    /// `every - 1`, `2 every - 1` and so on. `None` for a mix, whose parts have budgets of their own, and where nothing would be left.
    pub fn holding_out(self, every: NonZeroU64) -> Option<Self> {
        let chunks_per_epoch = self.chunks_per_epoch - self.chunks_per_epoch / every;
        let can = self.parts.is_empty() && self.held_out.is_none() && every.get() > 1;
        can.then_some(Self { held_out: Some(every), chunks_per_epoch, ..self })
    }

    /// The same order from another seed.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Epochs that the recipe states.
    pub fn epochs(&self) -> u32 {
        self.epochs
    }

    /// Chunks given in one epoch.
    pub fn chunks_per_epoch(&self) -> u64 {
        self.chunks_per_epoch
    }

    /// The parts of the mix; empty for no mix.
    pub fn parts(&self) -> impl Iterator<Item = &PartUse> {
        self.parts.iter().map(|part| &part.usage)
    }

    /// The chunk at `position` of `epoch`; `None` from [`Self::chunks_per_epoch`] on.
    pub fn at(&self, epoch: u64, position: u64) -> Option<u64> {
        if position >= self.chunks_per_epoch {
            return None;
        }
        if self.parts.is_empty() {
            return self.all_chunks(epoch).at(position).map(|index| self.not_held_out(index));
        }
        let (index, rank) = self.interleave(position);
        let part = self.parts.get(index)?;
        part.chunk(part.ordinal(epoch, rank, self.seed.wrapping_add(mix(index as u64 + 1)))?)
    }

    /// Every `stride`-th chunk from `position` of `epoch` on, epoch after epoch without end.
    pub fn walk(&self, epoch: u64, position: u64, stride: NonZeroU64) -> Walk<'_> {
        Walk { order: self, epoch, position, stride, all_chunks: self.all_chunks(epoch) }
    }

    /// The permutation of an epoch without a mix.
    fn all_chunks(&self, epoch: u64) -> Permutation {
        Permutation::new(self.chunks_per_epoch, self.seed, epoch)
    }

    /// Which chunk of the set is the `index`th of those that are given.
    fn not_held_out(&self, index: u64) -> u64 {
        self.held_out.map_or(index, |every| index + index / (every.get() - 1))
    }

    /// Which part stands at `position`, and how many of that part stand before it.
    ///
    /// Parts are halved again and again; at each halving, position `i` of `n` belongs to the first half, which has `a` of the `n`, where
    /// `(i a + n / 2) / n`, rounded down, goes up at `i`: as evenly as whole numbers can be spread (Bresenham 1965). So in any window a
    /// part's count differs from its share by less than two for each halving.
    fn interleave(&self, position: u64) -> (usize, u64) {
        let (mut low, mut high, mut rank) = (0, self.parts.len(), position);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let first = self.before[middle] - self.before[low];
            let all = self.before[high] - self.before[low];
            let up_to = |rank: u64| ((u128::from(rank) * u128::from(first) + u128::from(all) / 2) / u128::from(all.max(1))) as u64;
            let taken = up_to(rank);
            if up_to(rank + 1) > taken {
                (high, rank) = (middle, taken);
            } else {
                (low, rank) = (middle, rank - taken);
            }
        }
        (low, rank)
    }
}

/// Chunks in order: [`Order::walk`].
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    order: &'a Order,
    epoch: u64,
    position: u64,
    stride: NonZeroU64,
    /// Of the epoch, where there is no mix.
    all_chunks: Permutation,
}

impl Iterator for Walk<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let Order { chunks_per_epoch, parts, .. } = self.order;
        if *chunks_per_epoch == 0 {
            return None;
        }
        while self.position >= *chunks_per_epoch {
            self.position -= chunks_per_epoch;
            self.epoch = self.epoch.checked_add(1)?;
            self.all_chunks = self.order.all_chunks(self.epoch);
        }
        let chunk = if parts.is_empty() {
            self.all_chunks.at(self.position).map(|index| self.order.not_held_out(index))
        } else {
            self.order.at(self.epoch, self.position)
        };
        self.position = self.position.checked_add(self.stride.get())?;
        chunk
    }
}

impl Part {
    /// Which of the part's chunks is given as its `rank`th in `epoch`.
    ///
    /// Where the budget is within what there is, the same chunks are given every epoch, chosen and ordered by the seed. Where it is more,
    /// passes follow each other without a break, each in an order of its own.
    fn ordinal(&self, epoch: u64, rank: u64, seed: u64) -> Option<u64> {
        let PartUse { available_chunks, chunks_per_epoch, .. } = self.usage;
        if chunks_per_epoch <= available_chunks {
            let chosen = Permutation::new(chunks_per_epoch, seed, epoch).at(rank)?;
            return Permutation::new(available_chunks, !seed, 0).at(chosen);
        }
        let given = epoch.checked_mul(chunks_per_epoch)?.checked_add(rank)?;
        Permutation::new(available_chunks, seed, given / available_chunks).at(given % available_chunks)
    }

    fn chunk(&self, ordinal: u64) -> Option<u64> {
        let run = self.runs.partition_point(|run| run.before <= ordinal).checked_sub(1)?;
        let run = self.runs.get(run)?;
        Some(run.first + (ordinal - run.before))
    }
}

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
        let key = |round: usize| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&epoch.to_le_bytes());
            bytes[8..].copy_from_slice(&(round as u64).to_le_bytes());
            xxh3_64_with_seed(&bytes, seed)
        };
        Self { len, half_bits: bits.div_ceil(2).max(1), keys: std::array::from_fn(key) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_out_is_never_given_and_all_else_once() {
        for (chunks, every) in [(1, 2), (2, 2), (17, 5), (20, 5), (101, 100), (99, 100)] {
            let Some(order) = Order::uniform(chunks, 7, 1).holding_out(NonZeroU64::new(every).unwrap()) else { panic!("no order") };
            for epoch in 0..3 {
                let mut given: Vec<u64> = (0..order.chunks_per_epoch()).filter_map(|at| order.at(epoch, at)).collect();
                given.sort_unstable();
                let wanted: Vec<u64> = (0..chunks).filter(|chunk| chunk % every != every - 1).collect();
                assert_eq!(given, wanted, "{chunks} {every}");
            }
        }
        assert!(Order::uniform(9, 7, 1).holding_out(NonZeroU64::MIN).is_none());
    }

    #[test]
    fn a_walk_gives_what_stands_at_each_position() {
        let mut orders = vec![Order::uniform(17, 7, 1), Order::uniform(1, 7, 1)];
        orders.extend(Order::uniform(17, 7, 1).holding_out(NonZeroU64::new(5).unwrap()));
        for order in orders {
            let len = order.chunks_per_epoch();
            for (epoch, position, stride) in [(0, 0, 1), (3, len - 1, 1), (1, 0, 5), (0, len - 1, 40)] {
                let numbers = (0..50).map(|step| epoch * len + position + step * stride);
                let wanted: Vec<u64> = numbers.filter_map(|number| order.at(number / len, number % len)).collect();
                let walk = order.walk(epoch, position, NonZeroU64::new(stride).unwrap());
                assert_eq!(walk.take(50).collect::<Vec<_>>(), wanted, "{epoch} {position} {stride}");
            }
        }
        assert_eq!(Order::uniform(0, 7, 1).walk(0, 0, NonZeroU64::MIN).next(), None);
    }

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

    fn part(name: &str, available_chunks: u64, chunks_per_epoch: u64, first: u64) -> Part {
        let usage = PartUse { name: name.into(), available_chunks, chunks_per_epoch, passes: 1.0 };
        // Two runs, with a gap that belongs to another part.
        let half = available_chunks / 2;
        Part { usage, runs: vec![Run { before: 0, first }, Run { before: half, first: first + half + 100_000 }] }
    }

    fn part_of(chunk: u64) -> usize {
        (chunk % 100_000 / 10_000) as usize
    }

    #[test]
    fn budgets_are_exact_and_proportions_hold_in_every_window() {
        let budgets = [[5000u64, 1500, 0, 0, 0], [1, 4999, 700, 13, 2050], [1000, 1000, 1000, 1000, 1000]];
        for budgets in budgets {
            let parts = budgets.iter().zip(0u64..).filter(|(budget, _)| **budget > 0);
            let parts: Vec<Part> = parts.map(|(&budget, index)| part("p", budget + 37, budget, index * 10_000)).collect();
            let halvings = usize::BITS - (parts.len() - 1).leading_zeros();
            let order = Order::mixed(parts, 9, 2);
            let total: u64 = budgets.iter().sum();
            assert_eq!(order.chunks_per_epoch(), total);
            let epochs: Vec<Vec<u64>> = (0..2).map(|epoch| (0..total).filter_map(|at| order.at(epoch, at)).collect()).collect();
            assert_ne!(epochs[0], epochs[1]);
            let sorted = |epoch: usize| {
                let mut chunks = epochs[epoch].clone();
                chunks.sort_unstable();
                chunks
            };
            assert_eq!(sorted(0), sorted(1), "every epoch gives the same chunks");
            assert!(sorted(0).windows(2).all(|pair| pair[0] < pair[1]), "none twice");
            let given: Vec<usize> = epochs.concat().into_iter().map(part_of).collect();
            let mut counts = [0u64; 5];
            for (at, &part) in given.iter().enumerate() {
                counts[part] += 1;
                if at >= 1000 {
                    counts[given[at - 1000]] -= 1;
                }
                if at >= 999 {
                    for (part, &budget) in budgets.iter().enumerate() {
                        let share = 1000.0 * budget as f64 / total as f64;
                        let off = (counts[part] as f64 - share).abs();
                        // Twice that where a window spans two epochs.
                        assert!(off < 4.0 * f64::from(halvings.max(1)), "part {part} at {at}: {} of {share}", counts[part]);
                    }
                }
            }
        }
    }

    #[test]
    fn repeated_parts_are_given_evenly() {
        let order = Order::mixed(vec![part("a", 30, 100, 0), part("b", 50, 20, 10_000)], 4, 3);
        let mut times = std::collections::BTreeMap::new();
        for epoch in 0..3 {
            for position in 0..order.chunks_per_epoch() {
                *times.entry(order.at(epoch, position).unwrap()).or_insert(0) += 1;
            }
        }
        let of = |wanted: usize| times.iter().filter(move |(chunk, _)| part_of(**chunk) == wanted).map(|(_, &times)| times);
        assert_eq!((of(0).count(), of(0).min(), of(0).max()), (30, Some(10), Some(10)));
        assert_eq!((of(1).count(), of(1).min(), of(1).max()), (20, Some(3), Some(3)));
    }
}
