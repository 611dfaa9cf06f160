//! The operator from sorted band keys to candidate pairs, with a bounded number of pairs per document and bucket.

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

/// Turns rows of [`osler_schemas::sketch::band_schema`], sorted by `key` and then `ordinal`, into candidate pairs.
///
/// A bucket is a run of equal keys. Each of its first [`ALL_PAIRS`] members is paired with all before it, each later one with the
/// bucket's first member and the [`WINDOW`] members before it: 15 pairs per member at most, whatever the bucket's size, and no bucket is
/// held. Members of a larger bucket that are alike stay connected through their neighbours, and documents that are alike share many
/// buckets, in each of which their neighbours are others.
#[derive(Debug, Default)]
pub struct Candidates {
    bucket: Bucket,
    lefts: Vec<u64>,
    rights: Vec<u64>,
}

/// The bucket being read.
#[derive(Debug, Default)]
struct Bucket {
    key: u64,
    num_members: usize,
    /// The first [`ALL_PAIRS`] members.
    first: [u64; ALL_PAIRS],
    /// The last [`WINDOW`] members, member i at i modulo [`WINDOW`].
    last: [u64; WINDOW],
}

impl Bucket {
    /// Takes the next row, and gives each pair it makes to `pair`. `false` when the row is out of order.
    fn take(&mut self, key: u64, ordinal: u64, mut pair: impl FnMut(u64, u64)) -> bool {
        if self.num_members == 0 || key > self.key {
            (self.key, self.num_members) = (key, 0);
        } else {
            let previous = self.last[(self.num_members - 1) % WINDOW];
            if key < self.key || ordinal < previous {
                return false;
            }
            if ordinal == previous {
                return true;
            }
            if self.num_members < ALL_PAIRS {
                self.first[..self.num_members].iter().for_each(|left| pair(*left, ordinal));
            } else {
                pair(self.first[0], ordinal);
                self.last.iter().for_each(|left| pair(*left, ordinal));
            }
        }
        if let Some(slot) = self.first.get_mut(self.num_members) {
            *slot = ordinal;
        }
        self.last[self.num_members % WINDOW] = ordinal;
        self.num_members += 1;
        true
    }
}

impl Candidates {
    /// The operator; it has no settings.
    pub fn new() -> Self {
        Self::default()
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
        for (key, ordinal) in keys.values().iter().zip(ordinals.values()) {
            let (lefts, rights) = (&mut self.lefts, &mut self.rights);
            let in_order = self.bucket.take(*key, *ordinal, |left, right| {
                lefts.push(left);
                rights.push(right);
            });
            if !in_order {
                return Err(Error::Data {
                    operator: STAGE,
                    problem: format!("band keys are not sorted by key and ordinal at key {key:016x}, ordinal {ordinal}; sort them first"),
                });
            }
            if self.lefts.len() >= BATCH_ROWS {
                self.flush(out)?;
            }
        }
        self.flush(out)
    }

    fn finish(&mut self, _: &mut dyn Sink) -> Result<(), Error> {
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        (self.lefts.capacity() + self.rights.capacity()) * size_of::<u64>()
    }
}
