//! The operator from texts to band keys.

use super::banding::{self, Banding};
use super::shingle::Shingler;
use super::signature::Signer;
use super::{NearDuplicatesConfig, STAGE, Short};
use crate::operator::{Error, Operator, Sink, give};
use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use osler_schemas::{expect, sketch};
use std::sync::Arc;

/// Rows of a batch given out, but for the last of an input batch.
const BATCH_ROWS: usize = 64 * 1024;

/// Turns batches with the columns `ordinal` (u64) and `text` (Utf8) into rows of [`sketch::band_schema`], one per band and document. A
/// text without any word, a null text and a document that another stands for have none.
pub struct Sketch {
    sketcher: Sketcher,
    /// Ordinals of the documents to pass over, ascending.
    copies: Vec<u64>,
    keys: Vec<u64>,
    ordinals: Vec<u64>,
}

/// The path from a text to its signature and band keys, with buffers that are used again.
#[derive(Debug, Clone)]
pub struct Sketcher {
    bandings: Vec<Banding>,
    short: Option<Short>,
    shingler: Shingler,
    signer: Signer,
    shingles: Vec<u64>,
    slots: Vec<u32>,
    short_slots: Vec<u32>,
    distinct: Distinct,
}

impl Sketcher {
    /// A sketcher of a stage's settings.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work.
    pub fn new(config: &NearDuplicatesConfig) -> Result<Self, Error> {
        let bandings = config.resolve()?;
        let short = config.short();
        let slots = vec![0; banding::num_slots(&bandings)];
        let short_slots = vec![0; short.map_or(0, |short| banding::num_slots(&[short.banding]))];
        let signer = Signer::new(config.family, config.seed);
        let (shingles, distinct) = (Vec::new(), Distinct::default());
        Ok(Self { bandings, short, shingler: Shingler::of(config), signer, shingles, slots, short_slots, distinct })
    }

    /// The full signature of `text`.
    pub fn signature(&mut self, text: &str) -> &[u32] {
        self.shingler.shingles(text, &mut self.shingles);
        self.signer.sign(&self.shingles, &mut self.slots);
        &self.slots
    }

    /// Appends the band keys of `text`: those of the short signature, of the full one, or of both; none for a text without shingles.
    pub fn band_keys(&mut self, text: &str, out: &mut Vec<u64>) {
        self.shingler.shingles(text, &mut self.shingles);
        if self.shingles.is_empty() {
            return;
        }
        let mut full = true;
        if let Some(short) = self.short {
            // Repeats only make a document look longer, so most short ones need no count.
            let num_distinct = if self.shingles.len() < short.min_long {
                Some(self.shingles.len())
            } else {
                self.distinct.count(&self.shingles, short.max_shingles)
            };
            full = num_distinct.is_none_or(|count| count >= short.min_long);
            if num_distinct.is_some() {
                self.signer.sign(&self.shingles, &mut self.short_slots);
                banding::short_band_keys(&self.short_slots, short.banding, out);
            }
        }
        if full {
            self.signer.sign(&self.shingles, &mut self.slots);
            banding::band_keys(&self.slots, &self.bandings, out);
        }
    }

    /// Bytes of memory the buffers hold.
    pub fn memory_bytes(&self) -> usize {
        let slots = self.slots.capacity() + self.short_slots.capacity();
        let buffers = (self.shingles.capacity() + self.distinct.table.capacity()) * size_of::<u64>() + slots * size_of::<u32>();
        buffers + self.shingler.memory_bytes() + self.signer.memory_bytes()
    }
}

/// Counts distinct hashes, up to a limit.
#[derive(Debug, Clone, Default)]
struct Distinct {
    /// Open addressing; 0 is a free place.
    table: Vec<u64>,
}

impl Distinct {
    /// How many of `hashes` are distinct, if `limit` or fewer are.
    fn count(&mut self, hashes: &[u64], limit: usize) -> Option<usize> {
        // At most half full, however many hashes come: the count ends at `limit`.
        let mask = (2 * limit.min(hashes.len()) + 2).next_power_of_two() - 1;
        self.table.clear();
        self.table.resize(mask + 1, 0);
        let (mut count, mut zero) = (0, false);
        for hash in hashes {
            if *hash == 0 {
                count += usize::from(!std::mem::replace(&mut zero, true));
            } else {
                let mut place = *hash as usize & mask;
                while self.table[place] != 0 && self.table[place] != *hash {
                    place = (place + 1) & mask;
                }
                count += usize::from(self.table[place] == 0);
                self.table[place] = *hash;
            }
            if count > limit {
                return None;
            }
        }
        Some(count)
    }
}

impl Sketch {
    /// The operator of a stage's settings.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work.
    pub fn new(config: &NearDuplicatesConfig) -> Result<Self, Error> {
        Ok(Self { sketcher: Sketcher::new(config)?, copies: Vec::new(), keys: Vec::new(), ordinals: Vec::new() })
    }

    /// Passes over the documents in `copies`, for each of which another stands.
    pub fn without(self, mut copies: Vec<u64>) -> Self {
        copies.sort_unstable();
        Self { copies, ..self }
    }

    fn flush(&mut self, out: &mut dyn Sink) -> Result<(), Error> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(std::mem::take(&mut self.keys))),
            Arc::new(UInt64Array::from(std::mem::take(&mut self.ordinals))),
        ];
        let batch = RecordBatch::try_new(self.output_schema(), columns).map_err(|source| Error::Arrow { operator: STAGE, source })?;
        give(out, batch)
    }
}

impl Operator for Sketch {
    fn name(&self) -> &'static str {
        "near-duplicates: sketch"
    }

    fn output_schema(&self) -> SchemaRef {
        sketch::band_schema()
    }

    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let ordinals = expect::u64(&batch, "ordinal").map_err(schema)?;
        let texts = expect::utf8(&batch, "text").map_err(schema)?;
        for (row, ordinal) in ordinals.values().iter().enumerate() {
            if texts.is_null(row) || self.copies.binary_search(ordinal).is_ok() {
                continue;
            }
            self.sketcher.band_keys(texts.value(row), &mut self.keys);
            self.ordinals.resize(self.keys.len(), *ordinal);
            if self.keys.len() >= BATCH_ROWS {
                self.flush(out)?;
            }
        }
        self.flush(out)
    }

    fn finish(&mut self, _: &mut dyn Sink) -> Result<(), Error> {
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.sketcher.memory_bytes() + (self.copies.capacity() + self.keys.capacity() + self.ordinals.capacity()) * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::near_duplicates::mix;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn distinct_hashes_are_counted(hashes in prop::collection::vec(0_u64..30, 0..60), limit in 0_usize..40, spread: bool) {
            let hashes: Vec<u64> = hashes.into_iter().map(|hash| if spread { mix(hash) } else { hash << 40 }).collect();
            let wanted = hashes.iter().collect::<BTreeSet<_>>().len();
            prop_assert_eq!(Distinct::default().count(&hashes, limit), (wanted <= limit).then_some(wanted));
        }
    }

    #[test]
    fn a_document_has_the_keys_of_its_length() {
        let config = NearDuplicatesConfig { short_shingles: 100, ..NearDuplicatesConfig::default() };
        let mut sketcher = Sketcher::new(&config).unwrap();
        let (short, full) = (24, 165);
        // Words, repeats of the text, keys: n words are n − 4 shingles, and a text that comes again has 4 more where the two meet.
        for (words, times, wanted) in [
            (1, 1, short),
            (88, 1, short),
            (89, 1, short + full),
            (104, 1, short + full),
            (105, 1, full),
            (60, 5, short),
            (84, 5, short),
            (85, 5, short + full),
            (100, 5, short + full),
            (101, 5, full),
        ] {
            let text = vec![(0..words).map(|word| format!("w{word} ")).collect::<String>(); times].concat();
            let mut keys = Vec::new();
            sketcher.band_keys(&text, &mut keys);
            assert_eq!(keys.len(), wanted, "{words} words, {times} times");
        }
        for bandings in ["m42-literal", "lee2021"] {
            let bandings = crate::near_duplicates::banding::Bandings::named(bandings).unwrap();
            assert_eq!(NearDuplicatesConfig { bandings, ..config.clone() }.short(), None, "what another paper says is taken to the letter");
        }
        assert_eq!(NearDuplicatesConfig { short_shingles: 0, ..config }.short(), None);
    }
}
