//! The operator from texts to band keys.

use super::banding::{self, Banding};
use super::shingle::Shingler;
use super::signature::Signer;
use super::{NearDuplicatesConfig, STAGE};
use crate::operator::{Error, Operator, Sink, give};
use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use osler_schemas::{expect, sketch};
use std::sync::Arc;

/// Rows of a batch given out, but for the last of an input batch.
const BATCH_ROWS: usize = 64 * 1024;

/// Turns batches with the columns `ordinal` (u64) and `text` (Utf8) into rows of [`sketch::band_schema`], one per band and document. A
/// text without any word, and a null text, have none.
pub struct Sketch {
    sketcher: Sketcher,
    keys: Vec<u64>,
    ordinals: Vec<u64>,
}

/// The path from a text to its signature and band keys, with buffers that are used again.
#[derive(Debug, Clone)]
pub struct Sketcher {
    bandings: Vec<Banding>,
    shingler: Shingler,
    signer: Signer,
    shingles: Vec<u64>,
    slots: Vec<u32>,
}

impl Sketcher {
    /// A sketcher of a stage's settings.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work.
    pub fn new(config: &NearDuplicatesConfig) -> Result<Self, Error> {
        let bandings = config.resolve()?;
        let slots = vec![0; banding::num_slots(&bandings)];
        let signer = Signer::new(config.family, config.seed);
        Ok(Self { bandings, shingler: Shingler::of(config), signer, shingles: Vec::new(), slots })
    }

    /// The signature of `text`.
    pub fn signature(&mut self, text: &str) -> &[u32] {
        self.shingler.shingles(text, &mut self.shingles);
        self.signer.sign(&self.shingles, &mut self.slots);
        &self.slots
    }

    /// Appends the band keys of `text`, none for a text without shingles.
    pub fn band_keys(&mut self, text: &str, out: &mut Vec<u64>) {
        self.signature(text);
        if !self.shingles.is_empty() {
            banding::band_keys(&self.slots, &self.bandings, out);
        }
    }

    /// Bytes of memory the buffers hold.
    pub fn memory_bytes(&self) -> usize {
        let buffers = self.shingles.capacity() * size_of::<u64>() + self.slots.capacity() * size_of::<u32>();
        buffers + self.shingler.memory_bytes() + self.signer.memory_bytes()
    }
}

impl Sketch {
    /// The operator of a stage's settings.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work.
    pub fn new(config: &NearDuplicatesConfig) -> Result<Self, Error> {
        Ok(Self { sketcher: Sketcher::new(config)?, keys: Vec::new(), ordinals: Vec::new() })
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
            if texts.is_null(row) {
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
        self.sketcher.memory_bytes() + (self.keys.capacity() + self.ordinals.capacity()) * size_of::<u64>()
    }
}
