//! The manifest `run.json`: the recipe as resolved, the inputs with their hashes, and one row per stage.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Format name and version in [`Manifest::format`].
pub const FORMAT: &str = "osler-run/1";

/// The whole of `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// Version of the program that wrote it.
    pub version: String,
    /// Every recipe key with the value in force.
    pub recipe: serde_json::Value,
    /// XXH3 of the resolved recipe without the keys that cannot change output (memory, threads, batch size).
    pub recipe_hash: String,
    /// Every input file, sorted by source and path.
    pub inputs: Vec<Input>,
    /// One row per stage, in order.
    pub stages: Vec<StageRow>,
    /// Predicted and found candidate curve of near-duplicate detection; empty when the stage is off.
    pub s_curve: Vec<CurvePoint>,
    /// Set last, when every check has held.
    pub complete: bool,
}

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub source: String,
    /// Path below the source's root.
    pub path: String,
    pub num_bytes: u64,
    /// XXH3-128 of the file's bytes as stored (before decompression).
    pub hash: String,
}

/// What one stage took in, gave out and dropped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRow {
    pub name: String,
    pub counts: Counts,
    /// The same by source name.
    pub sources: BTreeMap<String, Counts>,
    pub seconds: f64,
    pub peak_memory_bytes: u64,
    /// XXH3-128 over the stage's output files, in name order.
    pub output_hash: String,
    /// What only this stage can tell: clusters, tokens, chunks. An object, or null.
    #[serde(default)]
    pub facts: serde_json::Value,
}

/// Records and text bytes in and out; `records_in == records_out + dropped`, and the bytes likewise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    pub records_in: u64,
    pub records_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Records dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Text bytes removed, by reason: of whole records, and of spans cut from records that stay.
    pub bytes_removed: BTreeMap<String, u64>,
}

impl Counts {
    /// Adds `other` to `self`.
    pub fn add(&mut self, other: &Self) {
        self.records_in += other.records_in;
        self.records_out += other.records_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += count;
        }
        for (reason, count) in &other.bytes_removed {
            *self.bytes_removed.entry(reason.clone()).or_default() += count;
        }
    }

    /// Whether in = out + dropped, in records and in bytes.
    pub fn add_up(&self) -> bool {
        self.records_in == self.records_out + self.dropped.values().sum::<u64>()
            && self.bytes_in == self.bytes_out + self.bytes_removed.values().sum::<u64>()
    }
}

/// One point of the S-curve, for pairs with exact Jaccard in `[jaccard, jaccard + width)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    pub jaccard: f64,
    /// Probability, by the bandings, that such a pair becomes a candidate.
    pub predicted: f64,
    /// Candidate pairs found whose exact Jaccard falls into the bin.
    pub num_pairs: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_by_reason() {
        let mut counts = Counts { records_in: 3, records_out: 2, bytes_in: 10, bytes_out: 6, ..Counts::default() };
        assert!(!counts.add_up());
        counts.dropped.insert("too-short".into(), 1);
        counts.bytes_removed.insert("too-short".into(), 4);
        assert!(counts.add_up());
        let twice = {
            let mut sum = counts.clone();
            sum.add(&counts);
            sum
        };
        assert!(twice.add_up());
        assert_eq!(twice.dropped["too-short"], 2);
    }
}
