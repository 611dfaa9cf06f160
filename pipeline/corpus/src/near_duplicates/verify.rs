//! Decides candidate pairs: by the Jaccard similarity of the shingle sets, or by the signatures' estimate of it.

use super::shingle::Shingler;
use super::signature;
use super::sketch::Sketcher;
use super::{Decide, NearDuplicatesConfig, STAGE};
use crate::operator::{Error, Operator, Sink, give};
use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use osler_schemas::{expect, sketch};
use std::cmp::Ordering;
use std::sync::Arc;

/// Jaccard similarity of two sets, sorted and without repeats: shared members over all members. Nought when both are empty.
pub fn jaccard(left: &[u64], right: &[u64]) -> f64 {
    let common = num_common(left, right);
    let union = left.len() + right.len() - common;
    if union == 0 { 0.0 } else { common as f64 / union as f64 }
}

/// The Jaccard similarity of two sets, sorted and without repeats, if it is `threshold` or more; sets whose sizes differ by too much are
/// not looked at.
pub fn jaccard_at_least(left: &[u64], right: &[u64], threshold: f64) -> Option<f64> {
    let (smaller, larger) = (left.len().min(right.len()), left.len().max(right.len()));
    if (smaller as f64) < threshold * larger as f64 {
        return None;
    }
    let found = jaccard(left, right);
    (found >= threshold).then_some(found)
}

/// Members two sorted sets share.
fn num_common(left: &[u64], right: &[u64]) -> usize {
    let (mut i, mut j, mut common) = (0, 0, 0);
    // Which side advances is a coin toss to the branch predictor, so no branch depends on it.
    while i < left.len() && j < right.len() {
        let (a, b) = (left[i], right[j]);
        common += usize::from(a == b);
        i += usize::from(a <= b);
        j += usize::from(b <= a);
    }
    common
}

/// Items of documents in one arena, by ordinal.
#[derive(Debug, Clone)]
pub struct Arena<T> {
    /// Ordinals that may be given, ascending.
    ordinals: Vec<u64>,
    /// Start and end in `items` of the document at the same place in `ordinals`; [`ABSENT`] until it is given.
    spans: Vec<(usize, usize)>,
    items: Vec<T>,
}

const ABSENT: (usize, usize) = (usize::MAX, usize::MAX);

impl<T: Copy> Arena<T> {
    /// An arena for the documents in `ordinals`, in any order and with repeats.
    pub fn new(mut ordinals: Vec<u64>) -> Self {
        ordinals.sort_unstable();
        ordinals.dedup();
        let spans = vec![ABSENT; ordinals.len()];
        Self { ordinals, spans, items: Vec::new() }
    }

    /// Whether the document's items are wanted.
    pub fn wants(&self, ordinal: u64) -> bool {
        self.ordinals.binary_search(&ordinal).is_ok()
    }

    /// Takes a document's items; what is not wanted, or was given before, is dropped.
    pub fn insert(&mut self, ordinal: u64, items: &[T]) {
        if let Ok(place) = self.ordinals.binary_search(&ordinal)
            && self.spans[place] == ABSENT
        {
            let start = self.items.len();
            self.items.extend_from_slice(items);
            self.spans[place] = (start, self.items.len());
        }
    }

    /// A document's items, if they were given.
    pub fn get(&self, ordinal: u64) -> Option<&[T]> {
        let place = self.ordinals.binary_search(&ordinal).ok()?;
        let (start, end) = self.spans[place];
        self.items.get(start..end)
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        self.ordinals.capacity() * size_of::<u64>()
            + self.spans.capacity() * size_of::<(usize, usize)>()
            + self.items.capacity() * size_of::<T>()
    }
}

/// Shingle sets by ordinal, each sorted and without repeats.
pub type ShingleSets = Arena<u64>;

/// Signatures by ordinal.
pub type Signatures = Arena<u32>;

/// What candidate pairs are decided by.
pub struct Evidence(Kind);

enum Kind {
    Exact { sets: ShingleSets, shingler: Shingler, set: Vec<u64> },
    Estimate { signatures: Signatures, sketcher: Sketcher },
}

impl Evidence {
    /// Evidence about the documents in `ordinals`: those that occur in pairs.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work.
    pub fn new(config: &NearDuplicatesConfig, ordinals: Vec<u64>) -> Result<Self, Error> {
        config.resolve()?;
        Ok(Self(match config.decide {
            Decide::Exact => Kind::Exact { sets: Arena::new(ordinals), shingler: Shingler::of(config), set: Vec::new() },
            Decide::Estimate => Kind::Estimate { signatures: Arena::new(ordinals), sketcher: Sketcher::new(config)? },
        }))
    }

    /// Takes a batch with the columns `ordinal` (u64) and `text` (Utf8); documents that occur in no pair are passed over.
    ///
    /// # Errors
    /// [`Error::Schema`] for a batch of another shape.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let ordinals = expect::u64(batch, "ordinal").map_err(schema)?;
        let texts = expect::utf8(batch, "text").map_err(schema)?;
        for (row, ordinal) in ordinals.values().iter().enumerate() {
            let text = if texts.is_null(row) { "" } else { texts.value(row) };
            match &mut self.0 {
                Kind::Exact { sets, shingler, set } if sets.wants(*ordinal) => {
                    shingler.set(text, set);
                    sets.insert(*ordinal, set);
                }
                Kind::Estimate { signatures, sketcher } if signatures.wants(*ordinal) => {
                    signatures.insert(*ordinal, sketcher.signature(text));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The similarity of two documents, if both were given.
    pub fn jaccard(&self, left: u64, right: u64) -> Option<f64> {
        Some(match &self.0 {
            Kind::Exact { sets, .. } => jaccard(sets.get(left)?, sets.get(right)?),
            Kind::Estimate { signatures, .. } => signature::estimate(signatures.get(left)?, signatures.get(right)?),
        })
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Kind::Exact { sets, shingler, set } => sets.memory_bytes() + shingler.memory_bytes() + set.capacity() * size_of::<u64>(),
            Kind::Estimate { signatures, sketcher } => signatures.memory_bytes() + sketcher.memory_bytes(),
        }
    }
}

/// Turns candidate pairs (`left` and `right`, u64) into rows of [`sketch::pair_schema`]. Every pair comes out, also those below the
/// threshold: they are the found part of the candidate curve, and the alarm's evidence.
pub struct Verify {
    evidence: Arc<Evidence>,
}

impl Verify {
    /// The operator over `evidence`, which partitions share: whoever built it reserves its memory, once.
    pub fn new(evidence: Arc<Evidence>) -> Self {
        Self { evidence }
    }
}

impl Operator for Verify {
    fn name(&self) -> &'static str {
        "near-duplicates: verify"
    }

    fn output_schema(&self) -> SchemaRef {
        sketch::pair_schema()
    }

    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let schema = |source| Error::Schema { operator: STAGE, source };
        let lefts = expect::u64(&batch, "left").map_err(schema)?;
        let rights = expect::u64(&batch, "right").map_err(schema)?;
        let mut jaccards = Vec::with_capacity(batch.num_rows());
        for (left, right) in lefts.values().iter().zip(rights.values()) {
            if left.cmp(right) != Ordering::Less {
                return Err(Error::Data { operator: STAGE, problem: format!("pair ({left}, {right}) is not in order of ordinals") });
            }
            let Some(jaccard) = self.evidence.jaccard(*left, *right) else {
                let problem = format!("the text of document {left} or {right}, a candidate pair, was not given");
                return Err(Error::Data { operator: STAGE, problem });
            };
            jaccards.push(jaccard);
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(lefts.clone()), Arc::new(rights.clone()), Arc::new(Float64Array::from(jaccards))];
        let batch = RecordBatch::try_new(self.output_schema(), columns).map_err(|source| Error::Arrow { operator: STAGE, source })?;
        give(out, batch)
    }

    fn finish(&mut self, _: &mut dyn Sink) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn jaccard_is_shared_over_all(
            a in prop::collection::btree_set(0_u64..60, 0..40),
            b in prop::collection::btree_set(0_u64..60, 0..40),
            threshold in 0.01_f64..1.0,
        ) {
            let union = a.union(&b).count();
            let wanted = if union == 0 { 0.0 } else { a.intersection(&b).count() as f64 / union as f64 };
            let sorted = |set: &BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
            let (a, b) = (sorted(&a), sorted(&b));
            prop_assert_eq!(jaccard(&a, &b), wanted);
            prop_assert_eq!(jaccard_at_least(&a, &b, threshold), (wanted >= threshold).then_some(wanted));
        }
    }

    #[test]
    fn an_arena_keeps_what_is_wanted_once() {
        let mut arena = Arena::new(vec![u64::MAX, 3, 0, 3]);
        for (ordinal, items) in [(7, &[1_u64][..]), (3, &[1, 2]), (3, &[9]), (u64::MAX, &[])] {
            arena.insert(ordinal, items);
        }
        assert_eq!(arena.get(3), Some(&[1, 2][..]));
        assert_eq!(arena.get(u64::MAX), Some(&[][..]));
        assert_eq!((arena.get(0), arena.get(7)), (None, None));
        assert!(arena.memory_bytes() >= 3 * 24 + 16);
    }
}
