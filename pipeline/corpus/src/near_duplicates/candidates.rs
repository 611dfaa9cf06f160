//! The operator from band keys, equal ones together, to candidate pairs, with a bounded number of pairs per document and bucket.

use super::STAGE;
use crate::operator::{Error, Operator, Sink, give};
use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use osler_schemas::expect;
use std::sync::{Arc, LazyLock};

/// Rows of a batch given out, but for the last of an input batch.
const BATCH_ROWS: usize = 64 * 1024;

/// Members of a bucket that are paired with every member before them.
pub const ALL_PAIRS: usize = 16;

/// Members before it with which each later member of a bucket is paired, besides the bucket's first.
pub const WINDOW: usize = 8;

/// Columns of candidate pairs: `left < right`, by ordinal. A pair comes once for each bucket it shares.
pub fn candidate_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        Arc::new(Schema::new(vec![Field::new("left", DataType::UInt64, false), Field::new("right", DataType::UInt64, false)]))
    });
    SCHEMA.clone()
}

/// Turns rows of [`osler_schemas::sketch::band_schema`], sorted by `key`, into candidate pairs.
///
/// A bucket is a run of equal keys; its members are put in order here, which spares the sort below a second column. Each of the first
/// [`ALL_PAIRS`] members is paired with all before it, each later one with the bucket's first member and the [`WINDOW`] members before it:
/// 15 pairs per member at most, whatever the bucket's size. Members of a larger bucket that are alike stay connected through their
/// neighbours, and documents that are alike share many buckets, in each of which their neighbours are others.
#[derive(Debug, Default)]
pub struct Candidates {
    key: u64,
    /// Ordinals of the bucket being read.
    members: Vec<u64>,
    lefts: Vec<u64>,
    rights: Vec<u64>,
}

impl Candidates {
    /// The operator; it has no settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pairs the members of the bucket, which is over.
    fn pair(&mut self) {
        self.members.sort_unstable();
        self.members.dedup();
        for (at, right) in self.members.iter().enumerate().skip(1) {
            let from = if at < ALL_PAIRS { 0 } else { at - WINDOW };
            let first = if from > 0 { &self.members[..1] } else { &[] };
            let lefts = first.iter().chain(&self.members[from..at]);
            self.lefts.extend(lefts.clone());
            self.rights.extend(lefts.map(|_| *right));
        }
        self.members.clear();
    }

    fn flush(&mut self, out: &mut dyn Sink) -> Result<(), Error> {
        if self.lefts.is_empty() {
            return Ok(());
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(std::mem::take(&mut self.lefts))),
            Arc::new(UInt64Array::from(std::mem::take(&mut self.rights))),
        ];
        let batch = RecordBatch::try_new(self.output_schema(), columns).map_err(|source| Error::Arrow { operator: STAGE, source })?;
        give(out, batch)
    }
}

impl Operator for Candidates {
    fn name(&self) -> &'static str {
        "near-duplicates: candidates"
    }

    fn output_schema(&self) -> SchemaRef {
        candidate_schema()
    }

    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let keys = expect::u64(&batch, "key").map_err(schema)?;
        let ordinals = expect::u64(&batch, "ordinal").map_err(schema)?;
        for (&key, &ordinal) in keys.values().iter().zip(ordinals.values()) {
            if key != self.key {
                if key < self.key {
                    let problem = format!("band keys are not sorted at key {key:016x}, ordinal {ordinal}; sort them first");
                    return Err(Error::Data { operator: STAGE, problem });
                }
                self.pair();
                self.key = key;
            }
            self.members.push(ordinal);
            if self.lefts.len() >= BATCH_ROWS {
                self.flush(out)?;
            }
        }
        self.flush(out)
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<(), Error> {
        self.pair();
        self.flush(out)
    }

    fn memory_bytes(&self) -> usize {
        (self.members.capacity() + self.lefts.capacity() + self.rights.capacity()) * size_of::<u64>()
    }
}
