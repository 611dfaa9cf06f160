//! Bandings: how a signature is cut into bands, and with what probability a pair then shares one.
//!
//! A signature may carry several bandings, spent in order over its slots: `[{15, 400}, {150, 20}]` takes slots 0 to 5,999 as 15 bands of
//! 400 rows and slots 6,000 to 8,999 as 150 bands of 20 rows.

use arrow::datatypes::ToByteSlice;
use osler_schemas::manifest::CurvePoint;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// `bands` bands of `rows` slots each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Banding {
    pub bands: usize,
    pub rows: usize,
}

/// Slots that `bandings` use; saturates.
pub fn num_slots(bandings: &[Banding]) -> usize {
    bandings.iter().fold(0, |sum, banding| sum.saturating_add(banding.bands.saturating_mul(banding.rows)))
}

/// Band keys per document; saturates.
pub fn num_bands(bandings: &[Banding]) -> usize {
    bandings.iter().fold(0, |sum, banding| sum.saturating_add(banding.bands))
}

/// Probability that a pair of Jaccard similarity `jaccard` shares at least one band: 1 − ∏ (1 − Jʳ)ᵇ over the bandings (Broder 1997;
/// Indyk and Motwani 1998).
pub fn candidate_probability(bandings: &[Banding], jaccard: f64) -> f64 {
    let jaccard = jaccard.clamp(0.0, 1.0);
    // In logarithms: 15 bands of 400 rows give 10⁻²⁷ at 0.85, which 1 − (1 − Jʳ)ᵇ would round to nought.
    let log_missed: f64 = bandings.iter().map(|banding| banding.bands as f64 * (-jaccard.powf(banding.rows as f64)).ln_1p()).sum();
    -log_missed.exp_m1()
}

/// Appends one 64-bit key per band of `slots`: a hash of the banding's number, the band's number and the band's rows. Bands that `slots`
/// is too short for are left out.
pub fn band_keys(slots: &[u32], bandings: &[Banding], out: &mut Vec<u64>) {
    let mut rest = slots;
    for (index, banding) in (0..).zip(bandings) {
        let width = banding.bands.saturating_mul(banding.rows).min(rest.len());
        let (own, after) = rest.split_at(width);
        keys_of(index, own, banding.rows, out);
        rest = after;
    }
}

/// As [`band_keys`] for the signature of a short document, whose keys never meet those of a full one.
pub fn short_band_keys(slots: &[u32], banding: Banding, out: &mut Vec<u64>) {
    keys_of(u64::from(u32::MAX), slots, banding.rows, out);
}

fn keys_of(index: u64, slots: &[u32], rows: usize, out: &mut Vec<u64>) {
    out.extend((0..).zip(slots.chunks_exact(rows.max(1))).map(|(band, rows): (u64, _)| {
        let seed = super::mix((index << 32 | band).wrapping_add(1));
        xxh3_64_with_seed(rows.to_byte_slice(), seed)
    }));
}

/// Bands of a short document at most, and the recall at the threshold that they reach.
const SHORT_BANDS: usize = 24;
const SHORT_RECALL: f64 = 0.9999;

/// Rows that a band of a short document has at least and at most. With fewer, documents that have little in common would meet; with more
/// it would cost more and tell no more.
const SHORT_ROWS: std::ops::RangeInclusive<usize> = 3..=64;

/// The banding of a short document: that of the most rows which proposes a pair at `threshold` with probability 0.9999 or more in 24 bands
/// or fewer (24 × 7 at 0.85). None where `threshold` is so low that such bands would tell nothing apart.
pub fn short(threshold: f64) -> Option<Banding> {
    SHORT_ROWS.rev().find_map(|rows| {
        let bands = bands_for(threshold, SHORT_RECALL, rows);
        (bands <= SHORT_BANDS as f64).then_some(Banding { bands: bands as usize, rows })
    })
}

/// Fewest bands of `rows` rows that propose a pair at `threshold` with probability `recall` or more.
fn bands_for(threshold: f64, recall: f64, rows: usize) -> f64 {
    let hit = threshold.powf(rows as f64);
    if hit >= 1.0 { 1.0 } else { ((-recall).ln_1p() / (-hit).ln_1p()).ceil().max(1.0) }
}

/// Width of a bin of [`curve_points`].
pub const BIN_WIDTH: f64 = 0.01;

/// Pairs by the hundredth of their similarity.
#[derive(Debug, Clone)]
pub struct JaccardBins([u64; 101]);

impl Default for JaccardBins {
    fn default() -> Self {
        Self([0; 101])
    }
}

impl JaccardBins {
    /// Counts a pair; what lies outside 0 to 1 is no similarity and is passed over.
    pub fn add(&mut self, jaccard: f64) {
        // 0.29 / 0.01 lies below 29 in binary; a nudge keeps each hundredth in its own bin.
        let bin = (jaccard * 100.0 + 1e-9).floor();
        if (0.0..=100.0).contains(&bin) {
            self.0[bin as usize] += 1;
        }
    }
}

/// The candidate curve in bins of 0.01 from 0.50 to 1.00: what the bandings predict at each bin's middle, and how many of the candidate
/// pairs' Jaccards fall into it. The last bin is that of exactly 1; pairs below 0.50 are not shown.
pub fn curve_points(bandings: &[Banding], pairs: &JaccardBins) -> Vec<CurvePoint> {
    const FIRST: usize = 50;
    (FIRST..=100)
        .map(|bin| {
            let jaccard = bin as f64 / 100.0;
            let middle = if bin == 100 { 1.0 } else { jaccard + BIN_WIDTH / 2.0 };
            CurvePoint { jaccard, predicted: candidate_probability(bandings, middle), num_pairs: pairs.0[bin] }
        })
        .collect()
}

/// Bandings by name or by list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bandings {
    /// A banding of [`PRESETS`].
    Preset(&'static str),
    /// The cheapest single banding that reaches the recall asked for; see [`auto`].
    Auto,
    /// As given.
    List(Vec<Banding>),
}

/// The named bandings.
///
/// `m42`: the paper's 15 buckets of 400 and, in the slots that remain of its 9,000 hashes, 150 bands of 20, which alone find pairs at its
/// threshold. `m42-literal`: the 15 × 400 alone. `m42-transposed`: 400 bands of 15. `lee2021`: 450 bands of 20 (Lee et al. 2021).
pub const PRESETS: [(&str, &[Banding]); 4] = [
    ("m42", &[Banding { bands: 15, rows: 400 }, Banding { bands: 150, rows: 20 }]),
    ("m42-literal", &[Banding { bands: 15, rows: 400 }]),
    ("m42-transposed", &[Banding { bands: 400, rows: 15 }]),
    ("lee2021", &[Banding { bands: 450, rows: 20 }]),
];

const NAMES: [&str; 5] = ["m42", "m42-literal", "m42-transposed", "lee2021", "auto"];

impl Default for Bandings {
    fn default() -> Self {
        Self::Preset(PRESETS[0].0)
    }
}

impl Bandings {
    /// The preset called `name`, or `auto`.
    pub fn named(name: &str) -> Option<Self> {
        if name == "auto" {
            return Some(Self::Auto);
        }
        PRESETS.iter().find(|(preset, _)| *preset == name).map(|(preset, _)| Self::Preset(preset))
    }

    /// The bandings in force at `threshold`.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn resolve(&self, threshold: f64, recall: f64) -> Result<Vec<Banding>, String> {
        let list = match self {
            Self::Preset(name) => {
                PRESETS.iter().find(|(preset, _)| preset == name).map_or_else(Vec::new, |(_, bandings)| bandings.to_vec())
            }
            Self::Auto => return auto(threshold, recall).map(|banding| vec![banding]),
            Self::List(list) => list.clone(),
        };
        if list.is_empty() || list.iter().any(|banding| banding.bands == 0 || banding.rows == 0) {
            return Err("must be one or more of {bands, rows}, each at least 1".to_string());
        }
        Ok(list)
    }
}

/// How far below the threshold [`auto`] wants pairs to be left out, and with what probability.
const AUTO_MARGIN: f64 = 0.15;
const AUTO_LEAK: f64 = 0.12;

/// The single banding with the fewest slots that proposes a pair at `threshold` with probability `recall` or more, and a pair 0.15 below
/// it with probability 0.12 or less (without the second bound, three bands of one row would be the cheapest, and propose everything).
///
/// # Errors
/// In words, when a signature of [`super::MAX_SLOTS`] slots is too short for both.
pub fn auto(threshold: f64, recall: f64) -> Result<Banding, String> {
    let below = (threshold - AUTO_MARGIN).max(0.0);
    let mut best: Option<Banding> = None;
    for rows in 1..=512_usize {
        let bands = bands_for(threshold, recall, rows);
        if bands * rows as f64 > super::MAX_SLOTS as f64 {
            break;
        }
        let banding = Banding { bands: bands as usize, rows };
        let cheaper = best.is_none_or(|best| banding.bands * banding.rows < best.bands * best.rows);
        if cheaper && candidate_probability(&[banding], below) <= AUTO_LEAK {
            best = Some(banding);
        }
    }
    best.ok_or_else(|| {
        format!("= \"auto\" finds no banding with recall {recall} at the threshold {threshold}; lower `recall` or raise `threshold`")
    })
}

impl Serialize for Bandings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Preset(name) => serializer.serialize_str(name),
            Self::Auto => serializer.serialize_str("auto"),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bandings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrList;
        impl<'de> Visitor<'de> for NameOrList {
            type Value = Bandings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "one of {}, or a list of {{bands, rows}}", NAMES.join(", "))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Bandings, E> {
                Bandings::named(name).ok_or_else(|| E::unknown_variant(name, &NAMES))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bandings, A::Error> {
                let mut bandings = Vec::new();
                while let Some(banding) = list.next_element()? {
                    bandings.push(banding);
                }
                Ok(Bandings::List(bandings))
            }
        }
        deserializer.deserialize_any(NameOrList)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preset(name: &str) -> Vec<Banding> {
        Bandings::named(name).unwrap().resolve(0.85, 0.995).unwrap()
    }

    #[test]
    fn the_curve_of_every_preset_is_the_published_one() {
        // Preset, Jaccard, probability, tolerance.
        for (name, jaccard, wanted, tolerance) in [
            ("m42", 0.85, 0.9972, 5e-4),
            ("m42", 0.70, 0.1127, 5e-4),
            ("m42", 1.0, 1.0, 0.0),
            ("m42", 0.0, 0.0, 0.0),
            ("m42-literal", 0.99, 0.2379, 5e-4),
            ("m42-transposed", 0.70, 0.8505, 5e-4),
            ("lee2021", 0.80, 0.9945, 5e-4),
            ("lee2021", 0.70, 0.3016, 5e-4),
        ] {
            let found = candidate_probability(&preset(name), jaccard);
            assert!((found - wanted).abs() <= tolerance, "{name} at {jaccard}: {found}");
        }
        let literal = candidate_probability(&preset("m42-literal"), 0.85);
        assert!((literal / 8.783e-28 - 1.0).abs() < 0.01, "{literal:e}");
        assert_eq!(num_slots(&preset("m42")), 9_000);
        assert_eq!(num_bands(&preset("m42")), 165);
    }

    #[test]
    fn auto_reaches_the_recall_with_fewer_slots() {
        for (threshold, recall) in [(0.85, 0.995), (0.8, 0.99), (0.7, 0.9), (0.95, 0.999), (1.0, 0.9)] {
            let banding = auto(threshold, recall).unwrap();
            assert!(candidate_probability(&[banding], threshold) >= recall - 1e-12, "{threshold} {recall} {banding:?}");
            assert!(candidate_probability(&[banding], threshold - AUTO_MARGIN) <= AUTO_LEAK);
            assert!(banding.bands * banding.rows <= 9_000, "{threshold} {recall} {banding:?}");
        }
        assert!(auto(0.6, 0.99999).is_err());
    }

    #[test]
    fn a_short_documents_banding_finds_more_with_less() {
        assert_eq!(short(0.85), Some(Banding { bands: 24, rows: 7 }));
        for hundredths in 70..=100 {
            let threshold = f64::from(hundredths) / 100.0;
            let banding = short(threshold).unwrap();
            assert!(candidate_probability(&[banding], threshold) >= SHORT_RECALL - 1e-12, "{threshold} {banding:?}");
            assert!(banding.bands <= SHORT_BANDS && SHORT_ROWS.contains(&banding.rows));
        }
        assert_eq!(short(0.6), None);
        let (slots, banding) = ([7; 6], Banding { bands: 2, rows: 3 });
        let (mut short, mut full) = (Vec::new(), Vec::new());
        short_band_keys(&slots, banding, &mut short);
        band_keys(&slots, &[banding], &mut full);
        assert_eq!((short.len(), full.len()), (2, 2));
        assert!(short.iter().all(|key| !full.contains(key)), "a short document must not meet a long one by chance");
    }

    #[test]
    fn keys_depend_on_banding_band_and_rows() {
        let bandings = [Banding { bands: 2, rows: 3 }, Banding { bands: 2, rows: 3 }];
        let mut keys = Vec::new();
        band_keys(&[7; 12], &bandings, &mut keys);
        assert_eq!(keys.len(), 4);
        let mut distinct = keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "equal rows in other bands must not meet");

        let mut slots = [7; 12];
        slots[4] = 8;
        let mut other = Vec::new();
        band_keys(&slots, &bandings, &mut other);
        let equal: Vec<bool> = keys.iter().zip(&other).map(|(a, b)| a == b).collect();
        assert_eq!(equal, [true, false, true, true]);

        other.clear();
        band_keys(&slots[..5], &bandings, &mut other);
        assert_eq!(other.len(), 1, "only whole bands");
    }

    #[test]
    fn the_curve_counts_each_pair_once() {
        let mut bins = JaccardBins::default();
        [0.5, 0.29, 0.57, 0.5799, 0.58, 0.85, 0.999, 1.0, f64::NAN].into_iter().for_each(|jaccard| bins.add(jaccard));
        let points = curve_points(&preset("m42"), &bins);
        assert_eq!(points.len(), 51);
        let count = |bin: usize| points[bin - 50].num_pairs;
        assert_eq!((count(50), count(57), count(58), count(85), count(99), count(100)), (1, 2, 1, 1, 1, 1));
        assert_eq!(points.iter().map(|point| point.num_pairs).sum::<u64>(), 7);
        assert!(points.windows(2).all(|pair| pair[0].predicted <= pair[1].predicted));
        assert_eq!(points[50].predicted, 1.0);
    }
}
