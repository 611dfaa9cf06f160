//! Decides candidate pairs: by the Jaccard similarity of the shingle sets, or by the signatures' estimate of it.
//!
//! [`Reader`] turns texts into [`Part`]s, on as many threads as one likes; [`Evidence`] holds the parts and compares.

use super::shingle::Shingler;
use super::signature::EMPTY;
use super::sketch::Sketcher;
use super::{Decide, NearDuplicatesConfig, Punctuation, STAGE, Unit};
use crate::operator::Error;
use arrow::array::{Array, RecordBatch};
use osler_schemas::expect;
use std::collections::HashSet;
use std::sync::Arc;

/// Jaccard similarity of two sets, sorted and without repeats: shared members over all members. Nought when both are empty.
pub fn jaccard(left: &[u64], right: &[u64]) -> f64 {
    let common = num_common(left, right);
    let union = left.len() + right.len() - common;
    if union == 0 { 0.0 } else { common as f64 / union as f64 }
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

/// What documents are compared by, one after the other: sorted shingle sets, or signatures with two slots in each item.
#[derive(Debug, Default)]
pub struct Part {
    ordinals: Vec<u64>,
    /// End in `items` of the document at the same place in `ordinals`.
    ends: Vec<usize>,
    items: Vec<u64>,
}

/// Reads the documents that occur in pairs.
#[derive(Debug, Clone)]
pub struct Reader {
    config: Arc<NearDuplicatesConfig>,
    /// Ordinals of the documents, ascending.
    wanted: Arc<Vec<u64>>,
}

impl Reader {
    /// Reads from a batch with the columns `ordinal` (u64) and `text` (Utf8) what pairs are decided by.
    ///
    /// # Errors
    /// [`Error::Schema`] for a batch of another shape, [`Error::Config`] for settings that cannot work.
    pub fn read(&self, batch: &RecordBatch) -> Result<Part, Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let ordinals = expect::u64(batch, "ordinal").map_err(schema)?;
        let texts = expect::utf8(batch, "text").map_err(schema)?;
        let mut shingler = Shingler::of(&self.config);
        let mut sketcher = match self.config.decide {
            Decide::Exact => None,
            Decide::Estimate => Some(Sketcher::new(&self.config)?),
        };
        let (mut part, mut set) = (Part::default(), Vec::new());
        for (row, ordinal) in ordinals.values().iter().enumerate() {
            if self.wanted.binary_search(ordinal).is_err() {
                continue;
            }
            let text = if texts.is_null(row) { "" } else { texts.value(row) };
            match &mut sketcher {
                None => {
                    shingler.set(text, &mut set);
                    part.push(*ordinal, set.iter().copied());
                }
                Some(sketcher) => part.push(*ordinal, packed(sketcher.signature(text))),
            }
        }
        part.items.shrink_to_fit();
        Ok(part)
    }
}

impl Part {
    /// Adds a document: its shingle set, sorted and without repeats, or the items of its signature.
    pub fn push(&mut self, ordinal: u64, items: impl Iterator<Item = u64>) {
        self.items.extend(items);
        self.ordinals.push(ordinal);
        self.ends.push(self.items.len());
    }

    fn memory_bytes(&self) -> usize {
        (self.ordinals.capacity() + self.ends.capacity() + self.items.capacity()) * size_of::<u64>()
    }
}

/// Two slots in each item; none for the signature of a text without shingles.
fn packed(slots: &[u32]) -> impl Iterator<Item = u64> {
    let slots = if slots.first() == Some(&EMPTY) { &[] } else { slots };
    slots.chunks(2).map(|pair| u64::from(pair[0]) | pair.get(1).map_or(0, |high| u64::from(*high) << 32))
}

/// What candidate pairs are decided by.
#[derive(Debug)]
pub struct Evidence {
    reader: Reader,
    num_slots: usize,
    /// Part, start and end of the document at the same place in [`Reader::wanted`]; [`ABSENT`] until it is given.
    spans: Vec<(usize, usize, usize)>,
    parts: Vec<Part>,
}

const ABSENT: (usize, usize, usize) = (usize::MAX, 0, 0);

impl Evidence {
    /// Evidence about the documents in `ordinals`, in any order and with repeats: those that occur in pairs.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work.
    pub fn new(config: &NearDuplicatesConfig, mut ordinals: Vec<u64>) -> Result<Self, Error> {
        ordinals.sort_unstable();
        ordinals.dedup();
        let num_slots = super::banding::num_slots(&config.resolve()?);
        let spans = vec![ABSENT; ordinals.len()];
        Ok(Self { reader: Reader { config: Arc::new(config.clone()), wanted: Arc::new(ordinals) }, num_slots, spans, parts: Vec::new() })
    }

    /// Reads documents for this evidence; each thread takes a copy.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Whether the document occurs in a pair.
    pub fn wants(&self, ordinal: u64) -> bool {
        self.reader.wanted.binary_search(&ordinal).is_ok()
    }

    /// Takes what a reader gave; a document that was given before is passed over.
    pub fn hold(&mut self, part: Part) {
        let mut start = 0;
        for (ordinal, end) in part.ordinals.iter().zip(&part.ends) {
            if let Ok(place) = self.reader.wanted.binary_search(ordinal)
                && self.spans[place] == ABSENT
            {
                self.spans[place] = (self.parts.len(), start, *end);
            }
            start = *end;
        }
        self.parts.push(part);
    }

    /// The similarity of two documents, if both were given.
    pub fn jaccard(&self, left: u64, right: u64) -> Option<f64> {
        let (left, right) = (self.items(left)?, self.items(right)?);
        Some(match self.reader.config.decide {
            Decide::Exact => jaccard(left, right),
            Decide::Estimate => estimate_packed(left, right, self.num_slots),
        })
    }

    /// Whether both documents were proposed by their short signatures. Without shingle sets nobody knows, and it is taken for no.
    pub fn are_short(&self, left: u64, right: u64) -> bool {
        let Some(short) = self.reader.config.short().filter(|_| self.reader.config.decide == Decide::Exact) else { return false };
        [left, right].iter().all(|ordinal| self.items(*ordinal).is_some_and(|items| items.len() <= short.max_shingles))
    }

    fn items(&self, ordinal: u64) -> Option<&[u64]> {
        let place = self.reader.wanted.binary_search(&ordinal).ok()?;
        let (part, start, end) = *self.spans.get(place)?;
        self.parts.get(part)?.items.get(start..end)
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(Part::memory_bytes).sum();
        parts + self.spans.capacity() * size_of::<(usize, usize, usize)>() + self.reader.wanted.capacity() * size_of::<u64>()
    }
}

/// Bytes that [`Evidence`] holds for a text of `num_bytes`, at most.
pub fn max_evidence_bytes(config: &NearDuplicatesConfig, num_bytes: u64) -> u64 {
    const FIXED: u64 = 64;
    let items = match (config.decide, config.unit, config.normalisation.punctuation) {
        (Decide::Estimate, ..) => config.resolve().map_or(0, |bandings| super::banding::num_slots(&bandings) as u64).div_ceil(2),
        // A word takes a byte, and one between it and the next.
        (Decide::Exact, Unit::Word, Punctuation::Ignore) => num_bytes / 2 + 1,
        (Decide::Exact, ..) => num_bytes + 1,
    };
    items * size_of::<u64>() as u64 + FIXED
}

/// Cuts pairs, sorted, into blocks whose documents take up to a budget. All pairs of a left document are in one block: a block exceeds its
/// budget by what one document is compared with, at most.
#[derive(Debug)]
pub struct Blocks<F> {
    budget_bytes: u64,
    bytes_of: F,
    held: HashSet<u64>,
    bytes: u64,
    left: Option<u64>,
}

impl<F: Fn(u64) -> u64> Blocks<F> {
    /// `bytes_of` a document, by its ordinal.
    pub fn new(budget_bytes: u64, bytes_of: F) -> Self {
        Self { budget_bytes, bytes_of, held: HashSet::new(), bytes: 0, left: None }
    }

    /// Takes the next pair, and says whether it begins a block; the first one does.
    pub fn begins(&mut self, left: u64, right: u64) -> bool {
        let begins = self.left.is_none_or(|before| before != left && self.bytes >= self.budget_bytes);
        if begins {
            self.held.clear();
            self.bytes = 0;
        }
        self.left = Some(left);
        for ordinal in [left, right] {
            if self.held.insert(ordinal) {
                self.bytes = self.bytes.saturating_add((self.bytes_of)(ordinal));
            }
        }
        begins
    }

    /// Where `pairs` are cut.
    pub fn of(mut self, pairs: &[(u64, u64)]) -> Vec<std::ops::Range<usize>> {
        let starts: Vec<usize> = (0..pairs.len()).filter(|at| self.begins(pairs[*at].0, pairs[*at].1)).collect();
        starts.iter().enumerate().map(|(index, start)| *start..starts.get(index + 1).copied().unwrap_or(pairs.len())).collect()
    }
}

/// Fraction of equal slots, of `num_slots`, two in each item.
fn estimate_packed(left: &[u64], right: &[u64], num_slots: usize) -> f64 {
    if left.is_empty() || right.is_empty() || num_slots == 0 {
        return 0.0;
    }
    let equal = left.iter().zip(right).map(|(a, b)| usize::from(*a as u32 == *b as u32) + usize::from(a >> 32 == b >> 32)).sum::<usize>();
    // The last item of an odd number of slots is half empty, in both.
    (equal - num_slots % 2) as f64 / num_slots as f64
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
        ) {
            let union = a.union(&b).count();
            let wanted = if union == 0 { 0.0 } else { a.intersection(&b).count() as f64 / union as f64 };
            let sorted = |set: &BTreeSet<u64>| set.iter().copied().collect::<Vec<_>>();
            let (a, b) = (sorted(&a), sorted(&b));
            prop_assert_eq!(jaccard(&a, &b), wanted);
        }
    }

    proptest! {
        #[test]
        fn blocks_cover_all_pairs_and_keep_to_the_budget(
            pairs in prop::collection::btree_set((0_u64..12, 0_u64..12), 0..40),
            budget in 0_u64..40,
        ) {
            let pairs: Vec<(u64, u64)> = pairs.into_iter().collect();
            let bytes_of = |ordinal: u64| ordinal + 1;
            let blocks = Blocks::new(budget, bytes_of).of(&pairs);
            prop_assert_eq!(blocks.iter().cloned().flatten().collect::<Vec<_>>(), (0..pairs.len()).collect::<Vec<_>>());
            let bytes = |pairs: &[(u64, u64)]| {
                let documents: BTreeSet<u64> = pairs.iter().flat_map(|pair| [pair.0, pair.1]).collect();
                documents.into_iter().map(bytes_of).sum::<u64>()
            };
            for (index, block) in blocks.iter().enumerate() {
                // Without its last left document, a block has room.
                let block = &pairs[block.clone()];
                let lefts = block.partition_point(|pair| pair.0 < block[block.len() - 1].0);
                prop_assert!(lefts == 0 || bytes(&block[..lefts]) < budget);
                prop_assert!(index + 1 == blocks.len() || bytes(block) >= budget);
            }
            prop_assert!(blocks.windows(2).all(|two| pairs[two[0].end - 1].0 < pairs[two[1].start].0));
        }

        #[test]
        fn no_text_takes_more_than_is_said(text in "[a-c .,é血-]{0,60}", keep: bool, character: bool, n in 1_usize..4) {
            let punctuation = if keep { Punctuation::Keep } else { Punctuation::Ignore };
            let mut config = NearDuplicatesConfig { n, ..NearDuplicatesConfig::default() };
            config.normalisation.punctuation = punctuation;
            config.unit = if character { Unit::Character } else { Unit::Word };
            let mut set = Vec::new();
            Shingler::of(&config).set(&text, &mut set);
            prop_assert!(set.len() as u64 * 8 <= max_evidence_bytes(&config, text.len() as u64));
        }
    }

    #[test]
    fn packed_signatures_give_the_same_estimate() {
        for num_slots in [1, 2, 7, 8] {
            let (a, mut b): (Vec<u32>, Vec<u32>) = ((1..=num_slots).collect(), (1..=num_slots).collect());
            let estimates = |b: &[u32]| {
                let (x, y): (Vec<u64>, Vec<u64>) = (packed(&a).collect(), packed(b).collect());
                (estimate_packed(&x, &y, a.len()), crate::near_duplicates::signature::estimate(&a, b))
            };
            assert_eq!(estimates(&b), (1.0, 1.0));
            b[num_slots as usize - 1] = 0;
            let (packed, wanted) = estimates(&b);
            assert_eq!(packed, wanted);
            assert_eq!(estimates(&vec![EMPTY; a.len()]), (0.0, 0.0));
        }
    }
}
