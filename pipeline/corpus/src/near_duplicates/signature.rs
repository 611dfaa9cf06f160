//! Signatures: a set of shingles as a fixed number of 32-bit slots, of which two sets share a fraction that estimates their Jaccard
//! similarity without bias, each slot alone being equal with probability J.
//!
//! Both families give a slot to the shingle with the smallest value in it. `minhash` values every shingle in every slot; the fast
//! similarity sketch throws shingles into slots and so fills them all in O(n + k log k) instead of O(n k).

use super::mix;
use serde::{Deserialize, Serialize};

/// How a set becomes a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Dahlgaard, Knudsen and Thorup (2017), "Fast similarity sketching".
    FastSimilaritySketch,
    /// One permutation per slot (Broder 1997).
    Minhash,
}

/// Value of a slot that no shingle has: only the signature of the empty set has any.
pub const EMPTY: u32 = u32::MAX;

/// Makes signatures, with buffers that are used again.
#[derive(Debug, Clone)]
pub struct Signer {
    family: Family,
    seed: u64,
    /// The permutation of each slot.
    permutations: Permutations,
    /// The shingles' halves: one picks slots, the other gives values.
    high: Vec<u32>,
    low: Vec<u32>,
    empty: Vec<u32>,
}

impl Signer {
    /// A signer of `family`; equal seeds give equal signatures.
    pub fn new(family: Family, seed: u64) -> Self {
        let seed = mix(seed.wrapping_add(0x7369_676e));
        Self { family, seed, permutations: Permutations::default(), high: Vec::new(), low: Vec::new(), empty: Vec::new() }
    }

    /// Writes the signature of the set `shingles` to `slots`. Order and repeats do not matter; the shingles are hashes and taken to be
    /// evenly spread. The empty set gives [`EMPTY`] everywhere.
    pub fn sign(&mut self, shingles: &[u64], slots: &mut [u32]) {
        slots.fill(EMPTY);
        if shingles.is_empty() || slots.is_empty() {
            return;
        }
        self.permutations.extend(self.seed, slots.len());
        self.high.resize(shingles.len(), 0);
        self.low.resize(shingles.len(), 0);
        for ((high, low), shingle) in self.high.iter_mut().zip(&mut self.low).zip(shingles) {
            let random = mix(shingle ^ self.seed);
            *high = (random >> 32) as u32;
            *low = random as u32;
        }
        match self.family {
            Family::FastSimilaritySketch => {
                let num_empty = throw(&self.high, &self.low, self.seed, slots);
                // Past some share of empty slots it is cheaper to pass over the others than to look the empty ones up.
                if num_empty > slots.len() / 4 * 3 {
                    self.fill_in_order(slots);
                } else if num_empty > 0 {
                    self.fill(slots);
                }
            }
            Family::Minhash => self.fill_in_order(slots),
        }
    }

    /// Bytes of memory the buffers hold.
    pub fn memory_bytes(&self) -> usize {
        let lists: usize = [&self.high, &self.low, &self.empty].iter().map(|list| list.capacity() * size_of::<u32>()).sum();
        lists + self.permutations.0.capacity() * size_of::<u64>()
    }

    /// Gives each empty slot its smallest value over all shingles, for slots most of which are empty.
    fn fill_in_order(&self, slots: &mut [u32]) {
        for (lanes, permutations) in slots.chunks_mut(LANES).zip(self.permutations.0.chunks(LANES)) {
            let minima = smallest(&self.high, &Lanes::of(permutations.iter().copied()));
            for (slot, minimum) in lanes.iter_mut().zip(minima) {
                *slot = if *slot == EMPTY { minimum } else { *slot };
            }
        }
    }

    /// Gives each empty slot its smallest value over all shingles.
    fn fill(&mut self, slots: &mut [u32]) {
        self.empty.clear();
        self.empty.extend((0_u32..).zip(slots.iter()).filter(|(_, value)| **value == EMPTY).map(|(slot, _)| slot));
        for lanes in self.empty.chunks(LANES) {
            let permutations = Lanes::of(lanes.iter().map(|slot| self.permutations.0[*slot as usize]));
            for (slot, minimum) in lanes.iter().zip(smallest(&self.high, &permutations)) {
                slots[*slot as usize] = minimum;
            }
        }
    }
}

/// The signature of one set; [`Signer`] saves the buffers of many.
pub fn sign(family: Family, shingles: &[u64], seed: u64, slots: &mut [u32]) {
    Signer::new(family, seed).sign(shingles, slots);
}

/// Fraction of equal slots: the estimate of the Jaccard similarity. Nought where the signatures differ in length or are of empty sets.
pub fn estimate(left: &[u32], right: &[u32]) -> f64 {
    if left.len() != right.len() || left.is_empty() || left.contains(&EMPTY) || right.contains(&EMPTY) {
        return 0.0;
    }
    let equal = left.iter().zip(right).filter(|(a, b)| a == b).count();
    equal as f64 / left.len() as f64
}

/// Rounds in which shingles are thrown into slots before those that are still empty are filled one by one. The paper has k of them; but a
/// throw costs as much as tens of vectorised permutations of one shingle, and with 30 rounds the sum of both is near its least from 100
/// shingles to 2,000 (`examples/near_speed.rs`). A constant, because sets of different sizes must see the same values.
const ROUNDS: u32 = 30;

/// Bits of a slot's value below those of the round. [`ROUNDS`] fit above them, so that an earlier round always wins.
const VALUE_BITS: u32 = 27;

/// Throws that are prepared before they are made.
const BLOCK: usize = 256;

/// Throws every shingle into one slot per round until every slot has one, or for [`ROUNDS`] rounds. Gives the number of empty slots.
fn throw(high: &[u32], low: &[u32], seed: u64, slots: &mut [u32]) -> usize {
    const { assert!(ROUNDS < 1 << (32 - VALUE_BITS)) };
    let mut num_empty = slots.len();
    let mut throws = Throws { slots: [0; BLOCK], values: [0; BLOCK] };
    for round in 0..ROUNDS {
        let (pick, value) = (mix(seed ^ mix(!u64::from(round))), mix(!seed ^ mix(!u64::from(round))));
        let salts = Salts { pick: (pick as u32, (pick >> 32) as u32 | 1), value: (value as u32, (value >> 32) as u32 | 1) };
        for (high, low) in high.chunks(BLOCK).zip(low.chunks(BLOCK)) {
            prepare(high, low, round, &salts, slots.len() as u32, &mut throws);
            for (slot, value) in throws.slots.iter().zip(&throws.values).take(high.len()) {
                // Always there: the slot is below their number.
                if let Some(held) = slots.get_mut(*slot as usize) {
                    num_empty -= usize::from(*held == EMPTY);
                    *held = (*value).min(*held);
                }
            }
        }
        if num_empty == 0 {
            break;
        }
    }
    num_empty
}

/// Slots and values of a block of throws.
struct Throws {
    slots: [u32; BLOCK],
    values: [u32; BLOCK],
}

/// What is added and multiplied in one round.
struct Salts {
    pick: (u32, u32),
    value: (u32, u32),
}

/// Fills `throws` for up to [`BLOCK`] shingles, by the widest instructions this processor has.
fn prepare(high: &[u32], low: &[u32], round: u32, salts: &Salts, num_slots: u32, throws: &mut Throws) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as just detected.
        return unsafe { prepare_avx2(high, low, round, salts, num_slots, throws) };
    }
    prepare_any(high, low, round, salts, num_slots, throws);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn prepare_avx2(high: &[u32], low: &[u32], round: u32, salts: &Salts, num_slots: u32, throws: &mut Throws) {
    prepare_any(high, low, round, salts, num_slots, throws);
}

#[inline(always)]
fn prepare_any(high: &[u32], low: &[u32], round: u32, salts: &Salts, num_slots: u32, throws: &mut Throws) {
    for (high, slot) in high.iter().zip(&mut throws.slots) {
        let random = (high ^ salts.pick.0).wrapping_mul(salts.pick.1);
        *slot = ((u64::from(random) * u64::from(num_slots)) >> 32) as u32;
    }
    for (low, value) in low.iter().zip(&mut throws.values) {
        let random = (low ^ salts.value.0).wrapping_mul(salts.value.1);
        *value = round << VALUE_BITS | random >> (32 - VALUE_BITS);
    }
}

/// Permutations that are evaluated side by side: 2 vectors of AVX-512, 4 of AVX2, 8 of NEON.
const LANES: usize = 32;

/// The permutations x ↦ (x ⊕ add) × factor modulo 2³², `factor` odd: `add` below, `factor` above.
#[derive(Debug, Clone, Default)]
struct Permutations(Vec<u64>);

impl Permutations {
    /// Makes permutations for `num_slots` slots.
    fn extend(&mut self, seed: u64, num_slots: usize) {
        self.0.extend((self.0.len()..num_slots).map(|slot| mix(seed ^ mix(slot as u64 + 1)) | 1 << 32));
    }
}

/// [`LANES`] permutations, side by side.
struct Lanes {
    add: [u32; LANES],
    factor: [u32; LANES],
}

impl Lanes {
    /// Up to [`LANES`] permutations.
    #[inline(always)]
    fn of(permutations: impl Iterator<Item = u64>) -> Self {
        let mut lanes = Self { add: [0; LANES], factor: [1; LANES] };
        for ((add, factor), permutation) in lanes.add.iter_mut().zip(&mut lanes.factor).zip(permutations) {
            *add = permutation as u32;
            *factor = (permutation >> 32) as u32;
        }
        lanes
    }
}

/// Smallest value of each permutation over `shingles`, by the widest instructions this processor has.
fn smallest(shingles: &[u32], permutations: &Lanes) -> [u32; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, as just detected.
            return unsafe { smallest_avx512(shingles, permutations) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as just detected.
            return unsafe { smallest_avx2(shingles, permutations) };
        }
    }
    smallest_any(shingles, permutations)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn smallest_avx512(shingles: &[u32], permutations: &Lanes) -> [u32; LANES] {
    smallest_any(shingles, permutations)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn smallest_avx2(shingles: &[u32], permutations: &Lanes) -> [u32; LANES] {
    smallest_any(shingles, permutations)
}

#[inline(always)]
fn smallest_any(shingles: &[u32], permutations: &Lanes) -> [u32; LANES] {
    let mut minima = [u32::MAX; LANES];
    for shingle in shingles {
        for ((minimum, add), factor) in minima.iter_mut().zip(&permutations.add).zip(&permutations.factor) {
            *minimum = (shingle ^ add).wrapping_mul(*factor).min(*minimum);
        }
    }
    // The largest value of all means an empty slot.
    minima.map(|minimum| minimum.min(EMPTY - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near_duplicates::banding::{Bandings, band_keys, candidate_probability};

    const FAMILIES: [Family; 2] = [Family::FastSimilaritySketch, Family::Minhash];

    /// Two sets with `common` shared shingles and `own` more each.
    fn pair(seed: u64, common: usize, own: usize) -> (Vec<u64>, Vec<u64>) {
        let random = |group: u64, count: usize| (0..count as u64).map(move |index| mix(mix(seed * 3 + group) ^ index));
        (random(0, common).chain(random(1, own)).collect(), random(0, common).chain(random(2, own)).collect())
    }

    #[test]
    fn order_and_repeats_do_not_matter() {
        for family in FAMILIES {
            for size in [1, 2, 10, 300] {
                let (set, _) = pair(1, size, 0);
                let mut shuffled: Vec<u64> = set.iter().rev().copied().collect();
                shuffled.extend_from_slice(&set[..size / 2]);
                let (mut a, mut b) = ([0; 500], [0; 500]);
                sign(family, &set, 7, &mut a);
                sign(family, &shuffled, 7, &mut b);
                assert_eq!(a, b, "{family:?} {size}");
                assert!(!a.contains(&EMPTY), "every slot is filled");
                sign(family, &set, 8, &mut b);
                assert!(estimate(&a, &b) == 1.0 || a != b, "the seed takes part");
                assert_ne!(a, b);
            }
            let mut slots = [0; 9];
            sign(family, &[], 7, &mut slots);
            assert_eq!(slots, [EMPTY; 9]);
            assert_eq!(estimate(&slots, &slots), 0.0);
            sign(family, &[1], 7, &mut []);
        }
    }

    #[test]
    fn narrow_and_wide_instructions_agree() {
        let shingles: Vec<u32> = (0..1_000_u64).map(|index| mix(index) as u32).collect();
        let mut permutations = Lanes { add: [0; LANES], factor: [1; LANES] };
        for lane in 0..LANES {
            permutations.add[lane] = mix(lane as u64) as u32;
            permutations.factor[lane] = mix(!(lane as u64)) as u32 | 1;
        }
        assert_eq!(smallest(&shingles, &permutations), smallest_any(&shingles, &permutations));
    }

    /// Mean error and mean square error in units of the variance J (1 − J) / k of independent slots, over `trials` pairs.
    fn errors(family: Family, slots: usize, common: usize, own: usize, trials: u64) -> (f64, f64) {
        let jaccard = common as f64 / (common + 2 * own) as f64;
        let (mut a, mut b) = (vec![0; slots], vec![0; slots]);
        let (mut sum, mut squares) = (0.0, 0.0);
        for trial in 0..trials {
            let (left, right) = pair(trial, common, own);
            let mut signer = Signer::new(family, trial);
            signer.sign(&left, &mut a);
            signer.sign(&right, &mut b);
            let error = estimate(&a, &b) - jaccard;
            sum += error;
            squares += error * error;
        }
        (sum / trials as f64, squares / trials as f64 / (jaccard * (1.0 - jaccard) / slots as f64))
    }

    #[test]
    fn estimates_are_unbiased_and_no_wider_than_theory() {
        // From sets whose slots are nearly all filled one by one to sets that fill them in two rounds.
        for family in FAMILIES {
            for (common, own) in [(3, 1), (40, 10), (160, 14), (800, 71), (2_000, 1_000), (9_000, 500)] {
                let (slots, trials) = (1_000, 200);
                let (bias, spread) = errors(family, slots, common, own, trials);
                let jaccard = common as f64 / (common + 2 * own) as f64;
                let deviation = (jaccard * (1.0 - jaccard) / slots as f64 / trials as f64).sqrt();
                assert!(bias.abs() < 4.0 * deviation, "{family:?} {common}+{own}: bias {bias:.5}, deviation {deviation:.5}");
                // The mean square of 200 normal errors lies below 1.4 times the variance but for one case in 30,000.
                assert!(spread < 1.4, "{family:?} {common}+{own}: spread {spread:.3} of theory");
            }
        }
    }

    #[test]
    fn candidates_come_as_the_curve_predicts() {
        let bandings = Bandings::default().resolve(0.85, 0.995).unwrap();
        let trials = 150;
        for family in FAMILIES {
            // Jaccard 0.70, 0.75, 0.80, 0.85, 0.90 over 200 to 240 shingles.
            for (common, own) in [(140, 30), (150, 25), (160, 20), (170, 15), (180, 10)] {
                let jaccard = common as f64 / (common + 2 * own) as f64;
                let wanted = candidate_probability(&bandings, jaccard);
                let mut found = 0;
                let (mut a, mut b) = (vec![0; 9_000], vec![0; 9_000]);
                for trial in 0..trials {
                    let (left, right) = pair(trial + 1_000, common, own);
                    let mut signer = Signer::new(family, trial);
                    signer.sign(&left, &mut a);
                    signer.sign(&right, &mut b);
                    let (mut x, mut y) = (Vec::new(), Vec::new());
                    band_keys(&a, &bandings, &mut x);
                    band_keys(&b, &bandings, &mut y);
                    found += usize::from(x.iter().zip(&y).any(|(x, y)| x == y));
                }
                let rate = found as f64 / trials as f64;
                let deviation = (wanted * (1.0 - wanted) / trials as f64).sqrt();
                assert!((rate - wanted).abs() < 4.0 * deviation + 0.01, "{family:?} J {jaccard}: found {rate:.3}, predicted {wanted:.3}");
            }
        }
    }
}
