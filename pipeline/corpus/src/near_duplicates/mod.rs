//! Near-duplicate detection: sketches propose pairs of documents, the Jaccard similarity of their shingle sets decides them.
//!
//! The stage runs in this order; each step is a free function or a thin operator over one:
//!
//! 1. [`cluster::representatives`] leaves one document of each group of exact copies to be sketched.
//! 2. [`sketch::Sketch`] turns texts into band keys ([`shingle`], [`signature`], [`banding`]). A signature is dropped as soon as its
//!    band keys are out, so a document costs 16 bytes per band and nothing else. A short document has a short signature ([`Short`]).
//! 3. The engine sorts the band keys; [`candidates::Candidates`] turns runs of equal keys into candidate pairs.
//! 4. [`verify::Evidence`] gives each distinct pair its exact Jaccard (or the signatures' estimate of it), block by block of pairs.
//! 5. [`cluster::clusters`] joins documents over the pairs that reach the threshold, and says who stands for whom.
//!
//! Nothing here depends on the order of documents, batches or pairs: equal inputs give equal outputs.

pub mod banding;
pub mod candidates;
pub mod cluster;
pub mod shingle;
pub mod signature;
pub mod sketch;
pub mod verify;

use crate::operator::Error;
use banding::{Banding, Bandings};
use serde::{Deserialize, Serialize};
use shingle::{Normalisation, Punctuation, Unit};
use signature::Family;

/// Name of the stage in errors, plans and the manifest.
pub const STAGE: &str = "near-duplicates";

/// Largest number of slots of a signature.
pub const MAX_SLOTS: usize = 1 << 16;

/// Largest n of an n-gram.
pub const MAX_N: usize = 256;

/// Settings of near-duplicate detection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NearDuplicatesConfig {
    /// Whether the stage runs.
    pub enabled: bool,
    /// What a shingle is made of.
    pub unit: Unit,
    /// Units per shingle.
    pub n: usize,
    /// What is folded before shingles are made. Digits, signs and decimal points never are.
    pub normalisation: Normalisation,
    /// How a set of shingles becomes a signature.
    pub family: Family,
    /// Bands and rows: a preset's name, or a list of `{bands, rows}` spent in order over the signature.
    pub bandings: Bandings,
    /// Documents with at most this many distinct shingles are proposed by a signature of their own, some fifty times shorter and of higher
    /// recall (see [`Short`]), where `bandings` is `m42` or `auto`; the other presets and lists are taken to the letter. 0: none are.
    pub short_shingles: usize,
    /// Smallest Jaccard similarity at which two documents are near-duplicates.
    pub threshold: f64,
    /// Recall at the threshold that `bandings = "auto"` must reach.
    pub recall: f64,
    /// Whether the shingle sets or the signatures decide a candidate pair.
    pub decide: Decide,
    /// How decided pairs become clusters.
    pub cluster: Clustering,
    /// Which member stands for its cluster: the first rule on which two members differ decides. The smallest id is always the last rule.
    pub keeper: Vec<KeeperRule>,
    /// Seed of the signatures.
    pub seed: u64,
}

impl Default for NearDuplicatesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            unit: Unit::Word,
            n: 5,
            normalisation: Normalisation::default(),
            family: Family::FastSimilaritySketch,
            bandings: Bandings::default(),
            short_shingles: 2_000,
            threshold: 0.85,
            recall: 0.995,
            decide: Decide::Exact,
            cluster: Clustering::Connected,
            keeper: vec![KeeperRule::LongestText, KeeperRule::SourceOrder, KeeperRule::SmallestId],
            seed: 0,
        }
    }
}

/// How short documents become candidates. A full signature costs a short document more than everything else together, and its many bands
/// are there to tell apart what the exact comparison tells apart anyway.
///
/// Two sets whose Jaccard similarity reaches the threshold t differ in size by a factor of t at most. So, if documents of up to N distinct
/// shingles have the keys of the short signature and those of t × N or more have the keys of the full one, each such pair has one kind of
/// keys in common: the short one if both have up to N shingles, the full one if not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Short {
    /// Bands of the short signature, and with them its slots.
    pub banding: Banding,
    /// Distinct shingles of a document with a short signature, at most (N).
    pub max_shingles: usize,
    /// Distinct shingles of a document with a full signature, at least (t × N).
    pub min_long: usize,
}

/// What decides whether a candidate pair is a pair of near-duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decide {
    /// The Jaccard similarity of the shingle sets.
    Exact,
    /// The fraction of equal slots of the signatures.
    Estimate,
}

/// How decided pairs become clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clustering {
    /// Connected components: a member may be far from its keeper when others lie between.
    Connected,
    /// Every member is within the threshold of its keeper.
    Star,
}

/// One rule of the keeper's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeeperRule {
    /// The text with the most bytes.
    LongestText,
    /// The source that stands first in the recipe.
    SourceOrder,
    /// The smallest document id.
    SmallestId,
}

impl NearDuplicatesConfig {
    /// Checks the settings and gives the bandings in force.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn resolve(&self) -> Result<Vec<Banding>, Error> {
        let wrong = |setting: &'static str, problem: String| Err(Error::Config { operator: STAGE, setting, problem });
        if self.n == 0 || self.n > MAX_N {
            return wrong("n", format!("is {}; it must lie between 1 and {MAX_N}", self.n));
        }
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            return wrong("threshold", format!("is {}; it must be above 0 and at most 1", self.threshold));
        }
        if !(self.recall > 0.0 && self.recall < 1.0) {
            return wrong("recall", format!("is {}; it must lie between 0 and 1", self.recall));
        }
        let bandings = match self.bandings.resolve(self.threshold, self.recall) {
            Ok(bandings) => bandings,
            Err(problem) => return wrong("bandings", problem),
        };
        let slots = banding::num_slots(&bandings);
        if slots > MAX_SLOTS {
            return wrong("bandings", format!("need {slots} slots; a signature has at most {MAX_SLOTS}"));
        }
        Ok(bandings)
    }

    /// How short documents are proposed, if otherwise than long ones.
    pub fn short(&self) -> Option<Short> {
        let ours = matches!(self.bandings, Bandings::Auto | Bandings::Preset("m42"));
        let banding = banding::short(self.threshold).filter(|_| ours && self.short_shingles > 0)?;
        let min_long = (self.threshold * self.short_shingles as f64).floor() as usize;
        Some(Short { banding, max_shingles: self.short_shingles, min_long })
    }

    /// What a user should know before the run: a banding that misses most of the pairs it is meant to find.
    ///
    /// # Errors
    /// As for [`NearDuplicatesConfig::resolve`].
    pub fn warnings(&self) -> Result<Vec<String>, Error> {
        let found = banding::candidate_probability(&self.resolve()?, self.threshold);
        let mut warnings = Vec::new();
        if found < 0.9 {
            warnings.push(format!(
                "near_duplicates.bandings: a pair at the threshold {} becomes a candidate with probability {found:.2e}; \
                 use \"m42\" or \"auto\" to find such pairs",
                self.threshold
            ));
        }
        Ok(warnings)
    }
}

/// Mixes 64 bits so that each input bit flips each output bit with probability one half (Stafford 2011, variant 13 of the MurmurHash3
/// finaliser). A bijection.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The two halves of the 128-bit product, folded together.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod config_tests {
    use super::*;

    fn parse(json: &str) -> Result<NearDuplicatesConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn the_default_is_the_published_setting() {
        let config = parse("{}").unwrap();
        assert_eq!(config, NearDuplicatesConfig::default());
        assert_eq!(config.resolve().unwrap(), vec![Banding { bands: 15, rows: 400 }, Banding { bands: 150, rows: 20 }]);
        assert_eq!((config.n, config.threshold), (5, 0.85));
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(parse(&json).unwrap(), config);
        assert!(json.contains("\"fast-similarity-sketch\"") && json.contains("\"m42\"") && json.contains("\"longest-text\""), "{json}");
    }

    #[test]
    fn settings_are_read_or_refused_by_name() {
        let config = parse(r#"{"bandings": [{"bands": 4, "rows": 8}], "cluster": "star", "unit": "character", "n": 24}"#).unwrap();
        assert_eq!(config.resolve().unwrap(), vec![Banding { bands: 4, rows: 8 }]);
        for (json, named) in [
            (r#"{"treshold": 0.8}"#, "treshold"),
            (r#"{"bandings": "m43"}"#, "m42-transposed"),
            (r#"{"bandings": [{"bands": 4, "row": 8}]}"#, "row"),
            (r#"{"normalisation": {"digits": true}}"#, "digits"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        for (json, setting) in [
            (r#"{"n": 0}"#, "n"),
            (r#"{"threshold": 1.5}"#, "threshold"),
            (r#"{"bandings": []}"#, "bandings"),
            (r#"{"bandings": [{"bands": 0, "rows": 8}]}"#, "bandings"),
            (r#"{"bandings": [{"bands": 4294967296, "rows": 4294967296}]}"#, "bandings"),
        ] {
            match parse(json).unwrap().resolve() {
                Err(Error::Config { setting: found, .. }) => assert_eq!(found, setting),
                other => panic!("{json} gave {other:?}"),
            }
        }
    }

    #[test]
    fn a_banding_that_finds_nothing_is_warned_of() {
        assert_eq!(parse("{}").unwrap().warnings().unwrap(), Vec::<String>::new());
        assert_eq!(parse(r#"{"bandings": "m42-literal"}"#).unwrap().warnings().unwrap().len(), 1);
    }
}
