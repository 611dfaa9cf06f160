//! Mixes: how many tokens of which sources a run is given, and how often.
//!
//! A part of a mix is one or more sources with a budget of tokens per epoch. Chunks are packed part by part, so that a budget is exact to
//! half a chunk; what chunks are given in what order is computed in [`crate::order`], never stored.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// Passes over the same data after which a run says so: beyond four, repeated tokens are worth markedly less than new ones (Muennighoff
/// et al. 2023).
pub const EPOCHS_BEFORE_WARNING: u32 = 4;

/// A mix; without parts, every chunk is given once an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixConfig {
    /// Passes over the mix.
    pub epochs: u32,
    /// Whether a part that holds fewer tokens than its budget is given more than once an epoch; an error otherwise.
    pub repeat: bool,
    /// What the mix is made of; sources that no part names are left out.
    pub part: Vec<MixPart>,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self { epochs: 1, repeat: false, part: Vec::new() }
    }
}

/// One part of a mix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixPart {
    pub name: String,
    /// The sources it draws on; the one that is called as the part where none is given.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Tokens of it in one epoch.
    #[serde(deserialize_with = "count")]
    pub tokens: u64,
}

impl MixPart {
    /// Names of its sources.
    pub fn sources(&self) -> &[String] {
        if self.sources.is_empty() { std::slice::from_ref(&self.name) } else { &self.sources }
    }
}

/// A mix that cannot be had.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MixError {
    #[error("mix: `epochs` must be at least 1")]
    Epochs,
    #[error("mix: part `{part}`: `tokens` must be at least 1")]
    Tokens { part: String },
    #[error("mix: two parts are called `{part}`")]
    Part { part: String },
    #[error("mix: source `{source_name}` is in two parts, `{first}` and `{second}`")]
    Source { source_name: String, first: String, second: String },
    #[error(
        "mix: part `{part}` wants {wanted} tokens an epoch ({wanted_chunks} chunks) and has {available_chunks} chunks of {context_length}; \
         lower `tokens`, add sources, or set `mix.repeat = true`"
    )]
    Short { part: String, wanted: u64, wanted_chunks: u64, available_chunks: u64, context_length: u32 },
    #[error("mix: part `{part}` has no chunk of {context_length} tokens at all; is a source of it in the corpus?")]
    Empty { part: String, context_length: u32 },
    #[error("mix: part `{part}`: {wanted} tokens are less than half a chunk of {context_length}")]
    Small { part: String, wanted: u64, context_length: u32 },
    #[error("mix: the one stored with the shards cannot be read ({problem}); pack again")]
    Stored { problem: String },
}

/// One part as it will be given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartUse {
    pub name: String,
    /// Chunks it has.
    pub available_chunks: u64,
    /// Chunks given in one epoch.
    pub chunks_per_epoch: u64,
    /// Times that a chunk is given on average over the run, among those that are given.
    pub passes: f64,
}

impl MixConfig {
    /// Whether nothing is mixed.
    pub fn is_empty(&self) -> bool {
        self.part.is_empty()
    }

    /// Checks what can be checked without data.
    ///
    /// # Errors
    /// [`MixError`] names the part.
    pub fn check(&self) -> Result<(), MixError> {
        if self.epochs == 0 {
            return Err(MixError::Epochs);
        }
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for (index, part) in self.part.iter().enumerate() {
            if part.tokens == 0 {
                return Err(MixError::Tokens { part: part.name.clone() });
            }
            if self.part[..index].iter().any(|other| other.name == part.name) {
                return Err(MixError::Part { part: part.name.clone() });
            }
            for source in part.sources() {
                if let Some(first) = owners.insert(source, &part.name) {
                    let (source_name, first) = (source.clone(), first.to_string());
                    return Err(MixError::Source { source_name, first, second: part.name.clone() });
                }
            }
        }
        Ok(())
    }

    /// The part that a source belongs to. Without parts everything is one.
    pub fn part_of(&self, source: &str) -> Option<usize> {
        if self.is_empty() {
            return Some(0);
        }
        self.part.iter().position(|part| part.sources().iter().any(|name| name == source))
    }

    /// Tokens of the mix in one epoch.
    pub fn tokens_per_epoch(&self) -> u64 {
        self.part.iter().fold(0, |sum, part| sum.saturating_add(part.tokens))
    }

    /// How every part will be given, from the chunks that each has.
    ///
    /// # Errors
    /// [`MixError`] for a part that is short of its budget where `repeat` is not set.
    pub fn resolve(&self, available_chunks: &[u64], context_length: u32) -> Result<Vec<PartUse>, MixError> {
        self.check()?;
        let available = available_chunks.iter().copied().chain(std::iter::repeat(0));
        self.part.iter().zip(available).map(|(part, available)| self.resolve_part(part, available, context_length)).collect()
    }

    fn resolve_part(&self, part: &MixPart, available_chunks: u64, context_length: u32) -> Result<PartUse, MixError> {
        let context = u64::from(context_length.max(1));
        // Rounded to the nearest chunk.
        let chunks_per_epoch = part.tokens / context + u64::from(part.tokens % context >= context.div_ceil(2));
        let (name, wanted) = (part.name.clone(), part.tokens);
        if chunks_per_epoch == 0 {
            return Err(MixError::Small { part: name, wanted, context_length });
        }
        if available_chunks == 0 {
            return Err(MixError::Empty { part: name, context_length });
        }
        if chunks_per_epoch > available_chunks && !self.repeat {
            return Err(MixError::Short { part: name, wanted, wanted_chunks: chunks_per_epoch, available_chunks, context_length });
        }
        let passes = f64::from(self.epochs) * (chunks_per_epoch as f64 / chunks_per_epoch.min(available_chunks) as f64);
        Ok(PartUse { name, available_chunks, chunks_per_epoch, passes })
    }

    /// The mix as it is stored with the shards; `None` for no mix.
    pub fn to_json(&self) -> Option<String> {
        if *self == Self::default() { None } else { serde_json::to_string(self).ok() }
    }

    /// The mix that is stored with shards.
    ///
    /// # Errors
    /// [`MixError::Stored`] when it is not what [`Self::to_json`] gives.
    pub fn from_json(json: Option<&str>) -> Result<Self, MixError> {
        let Some(json) = json else { return Ok(Self::default()) };
        let mix: Self = serde_json::from_str(json).map_err(|error| MixError::Stored { problem: error.to_string() })?;
        mix.check()?;
        Ok(mix)
    }
}

/// What a user should know about a mix as it will be given.
pub fn warnings(mix: &MixConfig, parts: &[PartUse]) -> Vec<String> {
    let often = |passes: f64| passes > f64::from(EPOCHS_BEFORE_WARNING);
    if mix.is_empty() && often(f64::from(mix.epochs)) {
        return vec![format!("{} epochs of the same data; beyond {EPOCHS_BEFORE_WARNING}, repetition teaches little", mix.epochs)];
    }
    let repeated = parts.iter().filter(|part| often(part.passes));
    repeated
        .map(|part| {
            let PartUse { name, passes, .. } = part;
            format!("part `{name}` of the mix is given {passes:.1} times; beyond {EPOCHS_BEFORE_WARNING}, repetition teaches little")
        })
        .collect()
}

/// A whole number, also where it is written as `50e9`.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(u64),
        Float(f64),
    }
    match Number::deserialize(deserializer)? {
        Number::Whole(number) => Ok(number),
        // Every whole number up to 2^53 has a float of its own.
        Number::Float(number) if number >= 0.0 && number.fract() == 0.0 && number <= 2f64.powi(53) => Ok(number as u64),
        Number::Float(number) => Err(serde::de::Error::custom(format!("{number} is not a whole number of tokens"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(epochs: u32, repeat: bool, parts: &[(&str, &[&str], u64)]) -> MixConfig {
        let part = parts.iter().map(|(name, sources, tokens)| MixPart {
            name: name.to_string(),
            sources: sources.iter().map(|name| name.to_string()).collect(),
            tokens: *tokens,
        });
        MixConfig { epochs, repeat, part: part.collect() }
    }

    /// The paper's 50 B clinical and 15 B general tokens, four epochs, at a millionth.
    #[test]
    fn paper_mix_is_exact_to_a_chunk() {
        let mix = mix(4, false, &[("clinical", &["pmc", "notes"], 50_000), ("general", &[], 15_000)]);
        let parts = mix.resolve(&[800, 300], 64).unwrap();
        let chunks: Vec<u64> = parts.iter().map(|part| part.chunks_per_epoch).collect();
        assert_eq!(chunks, [781, 234]);
        for (part, wanted) in parts.iter().zip([50_000f64, 15_000.0]) {
            assert!((part.chunks_per_epoch as f64 * 64.0 - wanted).abs() <= 32.0);
            assert!((part.passes - 4.0).abs() < 1e-12);
        }
        let share = chunks[0] as f64 / (chunks[0] + chunks[1]) as f64;
        assert!((share - 0.7692).abs() < 0.001, "{share}");
        assert!(warnings(&mix, &parts).is_empty());
        assert_eq!((mix.part_of("notes"), mix.part_of("general"), mix.part_of("books")), (Some(0), Some(1), None));
    }

    #[test]
    fn a_short_part_is_refused_or_repeated() {
        let error = mix(1, false, &[("a", &[], 640)]).resolve(&[9], 64).unwrap_err();
        assert!(matches!(error, MixError::Short { wanted_chunks: 10, available_chunks: 9, .. }));
        assert!(error.to_string().contains("mix.repeat = true"));
        let repeated = mix(2, true, &[("a", &[], 1280), ("b", &[], 64)]);
        let parts = repeated.resolve(&[8, 1], 64).unwrap();
        assert!((parts[0].passes - 5.0).abs() < 1e-12);
        let warned = warnings(&repeated, &parts);
        assert!(warned.len() == 1 && warned[0].contains("`a`"), "{warned:?}");
        assert_eq!(warnings(&MixConfig { epochs: 5, ..MixConfig::default() }, &[]).len(), 1);
        assert_eq!(warnings(&MixConfig { epochs: 4, ..MixConfig::default() }, &[]).len(), 0);
    }

    #[test]
    fn settings_are_checked() {
        let error = |mix: MixConfig| mix.resolve(&[9, 9], 64).unwrap_err().to_string();
        assert!(error(mix(0, false, &[])).contains("epochs"));
        assert!(error(mix(1, false, &[("a", &[], 0)])).contains("at least 1"));
        assert!(error(mix(1, false, &[("a", &[], 64), ("a", &["b"], 64)])).contains("two parts"));
        assert!(error(mix(1, false, &[("a", &["s"], 64), ("b", &["s"], 64)])).contains("`s` is in two parts"));
        assert!(error(mix(1, false, &[("a", &[], 31)])).contains("half a chunk"));
        assert!(matches!(mix(1, true, &[("a", &[], 64)]).resolve(&[], 64), Err(MixError::Empty { .. })));
    }

    #[test]
    fn stored_mix_comes_back() {
        let wanted = mix(3, true, &[("a", &["x"], 7)]);
        assert_eq!(MixConfig::from_json(wanted.to_json().as_deref()), Ok(wanted));
        assert_eq!(MixConfig::default().to_json(), None);
        assert_eq!(MixConfig::from_json(None), Ok(MixConfig::default()));
        assert!(MixConfig::from_json(Some("{\"epoch\":1}")).is_err());
        let float: MixPart = serde_json::from_str("{\"name\":\"a\",\"tokens\":50e9}").unwrap();
        assert_eq!(float.tokens, 50_000_000_000);
        assert!(serde_json::from_str::<MixPart>("{\"name\":\"a\",\"tokens\":1.5}").is_err());
    }
}
