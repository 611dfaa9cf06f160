//! Batches of chunks for training: one thread fills the caller's buffers ahead of the caller.
//!
//! All ranks walk one sequence of chunks, [`Order`] epoch after epoch; a step takes the next `ranks × chunks per batch` of it, and chunk
//! `i` of the step goes to rank `i mod ranks`. So ranks neither overlap nor leave gaps, every rank gives as many batches as any other, and
//! a run goes on under another number of ranks from the same [`State`]: how much of the sequence is done is all there is to know.

use crate::order::{Order, Walk};
use crate::shards::{Chunk, ShardSet};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Where a run stands: enough to go on from there, in a checkpoint of a few bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub seed: u64,
    pub epoch: u64,
    /// Chunks of the epoch that all ranks together were given.
    pub position: u64,
}

/// Which share of every step a loader gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub rank: u32,
    /// Number of ranks.
    pub world: u32,
    pub chunks_per_batch: u32,
    /// Epochs after which there are no more batches.
    pub epochs: u64,
}

/// A loader that cannot be started.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoaderError {
    #[error("loader: rank {rank} of {world} does not exist")]
    Rank { rank: u32, world: u32 },
    #[error("loader: `chunks_per_batch` must be at least 1, and a batch hold fewer than 2^32 tokens")]
    Batch,
    #[error("loader: wanted at least one buffer of {wanted} bytes or more, got {got}")]
    Buffer { wanted: usize, got: usize },
    #[error("loader: position {position} of an epoch of {chunks_per_epoch} chunks; is the state of another set of shards?")]
    Position { position: u64, chunks_per_epoch: u64 },
    #[error("loader: the set has no chunk")]
    Empty,
    #[error("loader: its thread cannot be started: {0}")]
    Thread(String),
}

/// One rank's share of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch<B> {
    /// Token ids, `chunks_per_batch × context_length`, little-endian and of the shards' type.
    pub buffer: B,
    /// The chunks by their number in the set; fewer than `chunks_per_batch` only in the very last step, where the rest is padding.
    pub chunks: Vec<u64>,
    /// Cumulative lengths of the attention segments of the whole batch, from 0 to its end; padding is a segment of its own.
    pub cu_seqlens: Vec<u32>,
    /// Source of every segment, a position in [`ShardSet::source_names`]; [`PADDING_SOURCE`] for padding.
    pub sources: Vec<u32>,
    /// Ranges of the batch's positions whose tokens count in the loss, sorted and disjoint.
    pub loss: Vec<Range<u32>>,
    /// Where the run stands when every rank has had its batch of this step.
    pub after: State,
}

/// What stands for the source of padding.
pub const PADDING_SOURCE: u32 = u32::MAX;

/// Gives batches that its thread has filled ahead.
pub struct Loader<B: Send + 'static> {
    full: Option<Receiver<Batch<B>>>,
    empty: Option<Sender<B>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: AsMut<[u8]> + Send + 'static> Loader<B> {
    /// Starts at `state`. As many batches are filled ahead as there are `buffers`, which may be pinned memory.
    ///
    /// # Errors
    /// [`LoaderError`] for a share, state or buffer that cannot be.
    pub fn start(set: Arc<ShardSet>, order: Order, share: Share, state: State, mut buffers: Vec<B>) -> Result<Self, LoaderError> {
        let Share { rank, world, chunks_per_batch, .. } = share;
        if rank >= world {
            return Err(LoaderError::Rank { rank, world });
        }
        if chunks_per_batch == 0 || chunks_per_batch.checked_mul(set.header().context_length).is_none() {
            return Err(LoaderError::Batch);
        }
        let chunks_per_epoch = order.chunks_per_epoch();
        let chunk_bytes = set.chunk(0).map(|chunk| chunk.num_bytes()).filter(|_| chunks_per_epoch > 0).ok_or(LoaderError::Empty)?;
        if state.position >= chunks_per_epoch {
            return Err(LoaderError::Position { position: state.position, chunks_per_epoch });
        }
        let wanted = chunk_bytes * chunks_per_batch as usize;
        let got = buffers.iter_mut().map(|buffer| buffer.as_mut().len()).min().unwrap_or(0);
        if got < wanted {
            return Err(LoaderError::Buffer { wanted, got });
        }
        let order = order.with_seed(state.seed);
        let (empty, empty_receiver) = bounded(buffers.len());
        let (full_sender, full) = bounded(buffers.len());
        // Every buffer has its place in the channel, so that none of these waits.
        buffers.into_iter().for_each(|buffer| drop(empty.send(buffer)));
        let work = move || {
            let mut filler = Filler::new(&set, &order, share, state);
            while filler.state().epoch < share.epochs {
                let Ok(buffer) = empty_receiver.recv() else { return };
                if full_sender.send(filler.fill(buffer)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("shard prefetch".into()).spawn(work);
        let thread = thread.map_err(|error| LoaderError::Thread(error.to_string()))?;
        Ok(Self { full: Some(full), empty: Some(empty), thread: Some(thread) })
    }

    /// The next batch; `None` after the last epoch.
    pub fn next_batch(&mut self) -> Option<Batch<B>> {
        self.full.as_ref()?.recv().ok()
    }

    /// Gives a buffer back, to be filled again.
    pub fn recycle(&self, buffer: B) {
        if let Some(empty) = &self.empty {
            // Nobody takes it after the last batch.
            let _ = empty.send(buffer);
        }
    }
}

impl<B: Send + 'static> Drop for Loader<B> {
    fn drop(&mut self) {
        // Without its channels the thread ends at its next step.
        self.full = None;
        self.empty = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Fills buffers with one rank's share of step after step.
///
/// While it copies a batch, what it will read of the next is on its way: rows of the sidecar, in pages of their own, when the copy begins,
/// what they point at between its chunks, and the tokens when that copy begins. So no cache miss or page walk is waited for but those of
/// the copy itself.
#[derive(Debug)]
pub struct Filler<'a> {
    set: &'a ShardSet,
    share: Share,
    chunks_per_epoch: u64,
    walk: Walk<'a>,
    /// Before the next step.
    state: State,
    /// Chunks of the next step, and where they are.
    numbers: Vec<u64>,
    chunks: Vec<Chunk<'a>>,
}

impl<'a> Filler<'a> {
    /// Begins with the step at `state`.
    pub fn new(set: &'a ShardSet, order: &'a Order, share: Share, state: State) -> Self {
        let walk = walk(order, share, state);
        let chunks_per_epoch = order.chunks_per_epoch();
        let mut filler = Self { set, share, chunks_per_epoch, walk, state, numbers: Vec::new(), chunks: Vec::new() };
        filler.numbers = filler.walk_step();
        filler.chunks = look_up(set, &filler.numbers);
        filler
    }

    /// Where the run stands before the next step.
    pub fn state(&self) -> State {
        self.state
    }

    /// The next step's batch.
    pub fn fill<B: AsMut<[u8]>>(&mut self, buffer: B) -> Batch<B> {
        let (numbers, chunks) = (std::mem::take(&mut self.numbers), std::mem::take(&mut self.chunks));
        self.state = step(self.share, self.state, self.chunks_per_epoch).1;
        self.numbers = self.walk_step();
        self.numbers.iter().for_each(|&number| self.set.prefetch_rows(number));
        let (set, next) = (self.set, &mut self.numbers.iter());
        let mut found = Vec::with_capacity(next.len());
        let mut look_up_one = || {
            let chunk = next.next().and_then(|&number| set.chunk(number));
            chunk.iter().for_each(Chunk::prefetch_pieces);
            found.extend(chunk);
            chunk.is_some()
        };
        let mut between = || {
            look_up_one();
        };
        let batch = assemble(set, numbers, &chunks, self.share.chunks_per_batch, self.state, buffer, &mut between);
        // A buffer may have had less room than there were chunks.
        while look_up_one() {}
        self.chunks = found;
        batch
    }

    /// This rank's chunks of the step at `state`.
    fn walk_step(&mut self) -> Vec<u64> {
        let (count, _) = step(self.share, self.state, self.chunks_per_epoch);
        let num_chunks = self.set.num_chunks();
        self.walk.by_ref().take(count).take_while(|&number| number < num_chunks).collect()
    }
}

/// A rank's chunks from `state` on, without end: of all chunks, every `world`-th from `rank` on.
fn walk(order: &Order, share: Share, state: State) -> Walk<'_> {
    let stride = NonZeroU64::new(u64::from(share.world)).unwrap_or(NonZeroU64::MIN);
    order.walk(state.epoch, state.position + u64::from(share.rank), stride)
}

/// How many chunks a rank is given in the step at `state`, and where the run stands after it.
fn step(share: Share, state: State, chunks_per_epoch: u64) -> (usize, State) {
    let Share { rank, world, chunks_per_batch, epochs } = share;
    let total = epochs.saturating_mul(chunks_per_epoch);
    let given = state.epoch.saturating_mul(chunks_per_epoch).saturating_add(state.position);
    let end = given.saturating_add(u64::from(world) * u64::from(chunks_per_batch)).min(total);
    let after = State { seed: state.seed, epoch: end / chunks_per_epoch.max(1), position: end % chunks_per_epoch.max(1) };
    // Of the step's chunks, every `world`-th from `rank` on.
    let count = end.saturating_sub(given).saturating_sub(u64::from(rank)).div_ceil(u64::from(world).max(1));
    (count as usize, after)
}

/// Fills `buffer` with one rank's share of the step that begins at `state`; [`Filler`] is faster for one step after another.
pub fn fill<B: AsMut<[u8]>>(set: &ShardSet, order: &Order, share: Share, state: State, buffer: B) -> Batch<B> {
    let (count, after) = step(share, state, order.chunks_per_epoch());
    gather(set, walk(order, share, state).take(count), share.chunks_per_batch, after, buffer)
}

/// Fills `buffer`, which has room for `chunks_per_batch` chunks, with these; the rest is padding.
pub fn gather<B: AsMut<[u8]>>(
    set: &ShardSet,
    indices: impl Iterator<Item = u64>,
    chunks_per_batch: u32,
    after: State,
    buffer: B,
) -> Batch<B> {
    let numbers: Vec<u64> = indices.take(chunks_per_batch as usize).take_while(|&index| index < set.num_chunks()).collect();
    let chunks = look_up(set, &numbers);
    assemble(set, numbers, &chunks, chunks_per_batch, after, buffer, &mut || ())
}

/// The chunks. What is read of them at first comes in two rounds, so that misses of a round overlap.
fn look_up<'a>(set: &'a ShardSet, numbers: &[u64]) -> Vec<Chunk<'a>> {
    numbers.iter().for_each(|&number| set.prefetch_rows(number));
    let found: Vec<Chunk<'a>> = numbers.iter().filter_map(|&number| set.chunk(number)).collect();
    found.iter().for_each(Chunk::prefetch_pieces);
    found
}

/// The batch of these chunks. `between` is called before each is copied.
fn assemble<B: AsMut<[u8]>>(
    set: &ShardSet,
    numbers: Vec<u64>,
    found: &[Chunk<'_>],
    chunks_per_batch: u32,
    after: State,
    mut buffer: B,
    between: &mut impl FnMut(),
) -> Batch<B> {
    found.iter().for_each(Chunk::prefetch_tokens);
    let header = set.header();
    let (context, chunk_bytes) = (header.context_length, (u64::from(header.context_length) * header.dtype.num_bytes()) as usize);
    let pieces = found.iter().map(Chunk::num_pieces).sum::<usize>();
    let (mut cu_seqlens, mut sources) = (Vec::with_capacity(pieces + found.len() + 2), Vec::with_capacity(pieces + found.len() + 1));
    let mut loss = Vec::<Range<u32>>::new();
    cu_seqlens.push(0);
    for (at, chunk) in (0u32..).zip(found) {
        describe(chunk, at * context, context, &mut cu_seqlens, &mut sources);
        chunk.extend_loss(at * context, &mut loss);
    }
    let mut places = buffer.as_mut().chunks_exact_mut(chunk_bytes).take(chunks_per_batch as usize);
    for (chunk, place) in found.iter().zip(&mut places) {
        between();
        chunk.copy_bytes_into(place);
    }
    for place in places {
        pad(place, header.tokenizer.pad_id, header.dtype.num_bytes() as usize);
    }
    let room = chunks_per_batch * context;
    if cu_seqlens.last() != Some(&room) {
        cu_seqlens.push(room);
        sources.push(PADDING_SOURCE);
    }
    Batch { buffer, chunks: numbers, cu_seqlens, sources, loss, after }
}

fn describe(chunk: &Chunk<'_>, base: u32, context_length: u32, cu_seqlens: &mut Vec<u32>, sources: &mut Vec<u32>) {
    cu_seqlens.extend(chunk.cu_seqlens.iter().skip(1).map(|end| base + end));
    sources.extend_from_slice(chunk.sources);
    if chunk.num_padding > 0 {
        cu_seqlens.push(base + context_length);
        sources.push(PADDING_SOURCE);
    }
}

fn pad(place: &mut [u8], pad_id: u32, width: usize) {
    let id = pad_id.to_le_bytes();
    place.chunks_exact_mut(width).for_each(|place| place.copy_from_slice(&id[..width]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Method, PackConfig, Tail};
    use crate::shards::Expectations;
    use crate::writer::{Document, ShardWriter};
    use osler_schemas::shard::TokenizerIdentity;
    use tempfile::TempDir;

    const CONTEXT: u32 = 8;

    fn set(method: Method, with_loss: bool) -> (TempDir, Arc<ShardSet>) {
        let directory = tempfile::tempdir().unwrap();
        let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size: 5000, eos_id: 0, bos_id: None, pad_id: 9 };
        let pack = PackConfig { context_length: CONTEXT, method, tail: Tail::Pad, seed: 3 };
        let mut writer = ShardWriter::create(directory.path(), tokenizer, pack, 200).unwrap();
        for number in 0..40u32 {
            let ids: Vec<u32> = (0..number % 11 + 1).map(|at| number * 100 + at).collect();
            let spans = [0..1];
            let loss = with_loss.then_some(spans.as_slice());
            writer.push(Document { doc_id: "d", source: ["a", "b"][number as usize % 2], ids: &ids, loss }).unwrap();
        }
        writer.finish().unwrap();
        let set = ShardSet::open(directory.path(), &Expectations::default()).unwrap();
        (directory, Arc::new(set))
    }

    fn share(rank: u32, world: u32, chunks_per_batch: u32) -> Share {
        Share { rank, world, chunks_per_batch, epochs: 2 }
    }

    fn buffers(count: usize, chunks_per_batch: u32) -> Vec<Vec<u8>> {
        vec![vec![0xee; (chunks_per_batch * CONTEXT * 2) as usize]; count]
    }

    /// Every rank's batches from `state` on.
    fn batches(set: &Arc<ShardSet>, world: u32, chunks_per_batch: u32, state: State, most: usize) -> Vec<Vec<Batch<Vec<u8>>>> {
        let order = Order::of(set).unwrap();
        let run = |rank| {
            let share = share(rank, world, chunks_per_batch);
            let mut loader = Loader::start(set.clone(), order.clone(), share, state, buffers(2, chunks_per_batch)).unwrap();
            let (mut all, mut state) = (Vec::new(), state);
            while all.len() < most {
                let Some(batch) = loader.next_batch() else { break };
                let own = buffers(1, chunks_per_batch).remove(0);
                let order = order.clone().with_seed(state.seed);
                assert_eq!(batch, fill(set, &order, share, state, own), "one step by itself");
                state = batch.after;
                all.push(batch.clone());
                loader.recycle(batch.buffer);
            }
            all
        };
        (0..world).map(run).collect()
    }

    /// The chunks in the order in which all ranks together give them.
    fn sequence(ranks: &[Vec<Batch<Vec<u8>>>]) -> Vec<u64> {
        let mut all = Vec::new();
        for step in 0..ranks[0].len() {
            let most = ranks.iter().map(|batches| batches[step].chunks.len()).max().unwrap_or(0);
            for index in 0..most {
                all.extend(ranks.iter().filter_map(|batches| batches[step].chunks.get(index)));
            }
        }
        all
    }

    #[test]
    fn ranks_share_the_order_without_overlap_or_gap_and_go_on_under_any_other_number() {
        let (_directory, set) = set(Method::Concat, false);
        let order = Order::of(&set).unwrap();
        let len = order.chunks_per_epoch();
        let wanted: Vec<u64> =
            (0..2).flat_map(|epoch| (0..len).map(move |at| (epoch, at))).filter_map(|(epoch, at)| order.at(epoch, at)).collect();
        let start = State { seed: 3, ..State::default() };
        for (world, batch) in [(1, 1), (1, 7), (2, 3), (3, 2), (5, 4), (64, 3)] {
            let ranks = batches(&set, world, batch, start, usize::MAX);
            assert!(ranks.iter().all(|batches| batches.len() == ranks[0].len()), "as many batches on every rank");
            assert_eq!(sequence(&ranks), wanted, "{world} {batch}");
            assert_eq!(ranks[0].last().unwrap().after, State { seed: 3, epoch: 2, position: 0 });
            for (again, steps) in [(1, 1), (2, 2), (7, 3)] {
                let first = batches(&set, world, batch, start, steps);
                let state = first[0].last().unwrap().after;
                if state.epoch < 2 {
                    let rest = batches(&set, again, 2, state, usize::MAX);
                    assert_eq!([sequence(&first), sequence(&rest)].concat(), wanted, "{world} then {again}");
                }
            }
        }
    }

    #[test]
    fn batches_hold_tokens_boundaries_sources_and_loss() {
        for (method, with_loss) in [(Method::Concat, false), (Method::BestFit, true)] {
            let (_directory, set) = set(method, with_loss);
            for batch in batches(&set, 2, 3, State::default(), usize::MAX).concat() {
                let ids: Vec<u16> = batch.buffer.chunks(2).map(|id| u16::from_le_bytes([id[0], id[1]])).collect();
                assert_eq!((ids.len() as u32, batch.cu_seqlens.first(), batch.cu_seqlens.last()), (24, Some(&0), Some(&24)));
                assert_eq!(batch.sources.len() + 1, batch.cu_seqlens.len());
                for (ends, &source) in batch.cu_seqlens.windows(2).zip(&batch.sources) {
                    let segment = &ids[ends[0] as usize..ends[1] as usize];
                    if source == PADDING_SOURCE {
                        assert!(segment.iter().all(|&id| id == 9));
                        continue;
                    }
                    assert!(segment.windows(2).all(|pair| pair[1] == pair[0] + 1), "one document");
                    assert_eq!(u32::from(segment[0]) / 100 % 2, source);
                }
                let counted: Vec<u32> = batch.loss.iter().flat_map(Clone::clone).collect();
                let padding = |at: u32| {
                    let segment = batch.cu_seqlens.partition_point(|&end| end <= at) - 1;
                    batch.sources[segment] == PADDING_SOURCE
                };
                let wanted: Vec<u32> = (0..24).filter(|&at| !padding(at) && (!with_loss || ids[at as usize].is_multiple_of(100))).collect();
                assert_eq!(counted, wanted);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_a_loader_may_be_left() {
        let (_directory, set) = set(Method::Concat, false);
        let order = Order::of(&set).unwrap();
        let start =
            |share, state, buffers: Vec<Vec<u8>>| Loader::start(set.clone(), order.clone(), share, state, buffers).map(|_| ()).unwrap_err();
        let state = State::default();
        assert_eq!(start(share(2, 2, 1), state, buffers(1, 1)), LoaderError::Rank { rank: 2, world: 2 });
        assert_eq!(start(share(0, 1, 0), state, buffers(1, 1)), LoaderError::Batch);
        assert_eq!(start(share(0, 1, 2), state, buffers(1, 1)), LoaderError::Buffer { wanted: 32, got: 16 });
        assert!(matches!(start(share(0, 1, 1), state, Vec::new()), LoaderError::Buffer { .. }));
        let beyond = State { position: order.chunks_per_epoch(), ..state };
        assert!(matches!(start(share(0, 1, 1), beyond, buffers(1, 1)), LoaderError::Position { .. }));
        // Left with a full channel, and with an empty one.
        let mut loader = Loader::start(set.clone(), order.clone(), share(0, 1, 1), state, buffers(2, 1)).unwrap();
        drop(loader.next_batch());
        drop(loader);
    }
}
