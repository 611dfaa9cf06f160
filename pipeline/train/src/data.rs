//! The batches of a run, from token shards. Which chunks a pass gets follows from the step and the pass alone, so a resumed run reads what
//! a straight one would, and no position is stored.

use crate::model::Batch;
use crate::trainer::{Source, TrainError};
use osler_kernels::operations::IGNORED;
use osler_tokens::loader::{self, PADDING_SOURCE, Share, State};
use osler_tokens::{Order, ShardSet};
use std::ops::Range;
use std::sync::Arc;

/// What a run reads of its shards.
#[derive(Debug, Clone)]
pub struct Data {
    set: Arc<ShardSet>,
    order: Order,
    epochs: u64,
    sequences_per_pass: u32,
    passes: u32,
    isolate_documents: bool,
}

impl Data {
    /// Steps of `passes` passes of `sequences_per_pass` chunks each, in the order given, epoch after epoch.
    pub fn new(set: Arc<ShardSet>, order: Order, epochs: u64, (sequences_per_pass, passes): (u32, u32), isolate_documents: bool) -> Self {
        Self { set, order, epochs, sequences_per_pass, passes, isolate_documents }
    }

    /// One chunk by its number in the set, as a batch of its own; empty where there is no such chunk.
    pub fn chunk(&self, index: u64) -> Batch {
        self.rows(&loader::gather(&self.set, std::iter::once(index), 1, State::default(), self.buffer(1)))
    }

    /// The chunks that a step reads, by their number in the set.
    pub fn chunks_of(&self, step: u64) -> impl Iterator<Item = u64> {
        let (per_step, per_epoch) = (u64::from(self.passes * self.sequences_per_pass), self.order.chunks_per_epoch().max(1));
        let numbers = step * per_step..(step + 1) * per_step;
        numbers
            .take_while(move |number| number / per_epoch < self.epochs)
            .filter_map(move |at| self.order.at(at / per_epoch, at % per_epoch))
    }

    fn buffer(&self, sequences: u32) -> Vec<u8> {
        let header = self.set.header();
        vec![0; (u64::from(sequences) * u64::from(header.context_length) * header.dtype.num_bytes()) as usize]
    }

    fn rows(&self, filled: &loader::Batch<Vec<u8>>) -> Batch {
        let header = self.set.header();
        let id = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |id, &byte| id << 8 | u32::from(byte));
        let tokens: Vec<u32> = filled.buffer.chunks_exact(header.dtype.num_bytes() as usize).map(id).collect();
        rows(&tokens, filled, header.context_length, self.isolate_documents)
    }
}

impl Source for Data {
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
        let before = (step * u64::from(self.passes) + u64::from(pass)) * u64::from(self.sequences_per_pass);
        let chunks = self.order.chunks_per_epoch().max(1);
        let state = State { seed: self.order.seed(), epoch: before / chunks, position: before % chunks };
        if state.epoch >= self.epochs {
            return Ok(Batch::default());
        }
        let share = Share { rank: 0, world: 1, chunks_per_batch: self.sequences_per_pass, epochs: self.epochs };
        Ok(self.rows(&loader::fill(&self.set, &self.order, share, state, self.buffer(self.sequences_per_pass))))
    }
}

/// Packed rows of what a loader filled: padding is left out, and each row is asked for the token after it, where that counts.
fn rows<B>(tokens: &[u32], filled: &loader::Batch<B>, context_length: u32, isolate: bool) -> Batch {
    let mut batch = Batch::default();
    let mut counted = filled.loss.iter().cloned().peekable();
    let mut counts = move |at: u32| {
        while counted.next_if(|range: &Range<u32>| range.end <= at).is_some() {}
        counted.peek().is_some_and(|range| range.start <= at)
    };
    let (mut start, mut scope) = (0, None);
    for (ends, &source) in filled.cu_seqlens.windows(2).zip(&filled.sources) {
        if source == PADDING_SOURCE {
            continue;
        }
        // What attention and targets do not cross: the chunk, or each of its documents.
        let this = (ends[0] / context_length, isolate.then_some(ends[0]));
        let continues = scope == Some(this);
        if !continues {
            (start, scope) = (batch.tokens.len() as u32, Some(this));
        }
        for at in ends[0]..ends[1] {
            let (row, token) = (batch.tokens.len(), tokens[at as usize]);
            let wanted = counts(at);
            if row as u32 > start && wanted {
                batch.targets[row - 1] = token;
            }
            batch.tokens.push(token);
            batch.targets.push(IGNORED);
            batch.positions.push(row as u32 - start);
            batch.starts.push(start);
            batch.sources.push(source);
        }
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use osler_schemas::shard::TokenizerIdentity;
    use osler_tokens::pack::{Method, PackConfig, Tail};
    use osler_tokens::{Document, Expectations, ShardWriter};
    use std::num::NonZeroU64;

    const CONTEXT: u32 = 8;

    /// Documents of 1 to 11 tokens from two sources; the last chunk is padded.
    fn set(spans: bool) -> (tempfile::TempDir, Arc<ShardSet>) {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size: 5000, eos_id: 0, bos_id: None, pad_id: 9 };
        let pack = PackConfig { context_length: CONTEXT, method: Method::Concat, tail: Tail::Pad, seed: 3 };
        let mut writer = ShardWriter::create(folder.path(), tokenizer, pack, 200).unwrap();
        for number in 0..40u32 {
            let ids: Vec<u32> = (0..number % 11 + 1).map(|at| number * 100 + at + 1).collect();
            let source = if number % 3 == 0 { "notes" } else { "papers" };
            let loss = [0..1];
            writer.push(Document { doc_id: &number.to_string(), source, ids: &ids, loss: spans.then_some(&loss[..]) }).unwrap();
        }
        writer.finish().unwrap();
        let set = Arc::new(ShardSet::open(folder.path(), &Expectations::default()).unwrap());
        (folder, set)
    }

    fn data(set: &Arc<ShardSet>, isolate: bool, passes: (u32, u32)) -> Data {
        Data::new(set.clone(), Order::of(set).unwrap(), 2, passes, isolate)
    }

    /// Every token of the set is given once an epoch, and asked for once unless it begins its document or its chunk.
    #[test]
    fn every_token_is_given_and_asked_for_once_an_epoch() {
        let (_folder, set) = set(false);
        for isolate in [true, false] {
            let data = data(&set, isolate, (2, 1));
            let steps = (2 * set.num_chunks()).div_ceil(2);
            let (mut tokens, mut targets) = (Vec::new(), 0);
            for step in 0..steps {
                let batch = data.batch(step, 0).unwrap();
                assert!(batch.starts.iter().zip(0..).all(|(&start, row)| start <= row));
                for (row, &target) in batch.targets.iter().enumerate() {
                    let next = batch.tokens.get(row + 1).filter(|_| batch.starts.get(row + 1) == Some(&batch.starts[row]));
                    assert_eq!(next.copied().unwrap_or(IGNORED), target, "row {row}");
                }
                tokens.extend(batch.tokens.iter().copied());
                targets += batch.num_targets();
            }
            let summary = set.summary();
            assert_eq!(tokens.len() as u64, 2 * summary.num_tokens);
            assert_eq!(tokens.iter().filter(|&&token| token == 101).count(), 2);
            let pieces = (0..set.num_chunks()).map(|at| set.chunk(at).unwrap().num_pieces() as u64);
            let scopes = if isolate { pieces.sum() } else { set.num_chunks() };
            assert_eq!(targets as u64, 2 * (summary.num_tokens - scopes));
        }
    }

    #[test]
    fn passes_cut_a_step_and_change_nothing() {
        let (_folder, set) = set(false);
        let (whole, parts) = (data(&set, true, (4, 1)), data(&set, true, (2, 2)));
        for step in 0..set.num_chunks() / 2 + 1 {
            let mut once = whole.batch(step, 0).unwrap().tokens;
            for pass in 0..2 {
                let part = parts.batch(step, pass).unwrap().tokens;
                assert_eq!(part, once.drain(..part.len()).collect::<Vec<_>>());
            }
            assert!(once.is_empty());
        }
    }

    #[test]
    fn only_loss_spans_are_asked_for() {
        let (_folder, set) = set(true);
        let data = data(&set, false, (1, 1));
        for step in 0..set.num_chunks() {
            let batch = data.batch(step, 0).unwrap();
            // The first token of each document counts: those whose number ends in 01.
            assert!(batch.targets.iter().all(|&target| target == IGNORED || target % 100 == 1), "{:?}", batch.targets);
        }
    }

    #[test]
    fn a_chunk_by_its_number() {
        let (_folder, set) = set(false);
        let data = data(&set, true, (1, 1));
        for index in 0..set.num_chunks() {
            let chunk = set.chunk(index).unwrap();
            let tokens: Vec<u32> =
                (0..chunk.num_pieces()).flat_map(|piece| chunk.piece(piece).unwrap().iter().collect::<Vec<_>>()).collect();
            assert_eq!(data.chunk(index).tokens, tokens);
        }
        assert!(Order::of(&set).unwrap().holding_out(NonZeroU64::new(5).unwrap()).is_some());
    }
}
