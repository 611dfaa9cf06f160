//! The engine `sparse-suffix-array`: looks only at anchors, a few positions in a hundred, and compares what lies around them.
//!
//! # What it does
//! 1. Every window of `L` bytes gets an anchor ([`anchors`]): a position in it, found from its bytes alone. Windows that follow each other
//!    mostly share theirs.
//! 2. Anchors are put in groups by a 64-bit hash of the gram that lies there. A group of one is dropped.
//! 3. Within a group, anchors are compared byte for byte, left and right, as far as their windows reach ([`groups`]); in groups with many
//!    different surroundings, windows are looked up by a rolling hash and compared byte for byte. Windows of a short period are compared by
//!    their roots ([`periodic`]).
//! 4. What comes out are runs: windows in a row that equal earlier windows in a row. They become classes with numbers in a row.
//!
//! # Why this finds every pair of equal windows, and no other
//! *Every pair.* Let the windows at `p` and `q` be equal. The choice of an anchor reads nothing outside the window and no position, so
//! their anchors are of one kind and at one offset: `a = p + o` and `b = q + o` (or both windows are periodic, with one root and one phase). The
//! grams there lie in the windows, and are equal; so are their hashes, and both anchors are in one group. That group compares `a` and `b`, or
//! `b` with an anchor whose window at offset `o` is known to equal that of `a`: see [`groups`].
//!
//! *No other.* Two windows get one class only after all their bytes were compared, in one go or, where the windows before them were equal
//! already, the one byte that is new; or, if they are periodic, after their roots were, of which all their bytes are repetitions.
//! So a collision of hashes, in choosing anchors, in grouping them or in looking windows up, costs time and changes nothing.
//!
//! # What it costs
//! Time is linear. Hashing and choosing take a constant per byte. A group of `m` anchors takes at most a fixed number of comparisons of `2 L` bytes
//! or hashes of `L` windows per anchor; there are about `3 / L` anchors per byte on text of any kind, since periodic text, where every position
//! could be one, gives two per run. Memory is 24 bytes per anchor, 24 and then 40 per run of equal windows, and for the scan some
//! 40 per range of kept classes, of which there are at most twice as many as runs.

pub mod anchors;
pub mod groups;
mod partitions;
mod periodic;
mod periods;
mod rolling;

use super::resources::{Queue, Resources, SpillFile};
use super::text::{Access, TextArena};
use super::windows::{ClassRun, WindowClasses};
use crate::operator::Error;
use anchors::{Anchor, PIECE_WINDOWS, Sampler, gram_bytes};
pub(super) use groups::common_prefix;
use groups::{EqualRun, Grouper};
use partitions::Partitions;
use periodic::PeriodicRun;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Partitions of anchors by the first byte of their keys: each is sorted by itself, in cache where it can.
const ANCHOR_PARTITIONS: usize = 256;

/// Partitions of runs by their place in the text.
const TEXT_PARTITIONS: usize = 64;

/// Pieces that a thread takes at a time: documents may be short.
const PIECES: usize = 64;

/// Bytes of memory that [`SparseClasses::find`] and the scan after it take for a text of `num_bytes`, beside the text, at two passes of
/// usual lengths and a usual share of repeats.
pub fn memory_bytes(num_bytes: u64) -> u64 {
    num_bytes.saturating_mul(2)
}

/// The classes of equal windows, as runs.
#[derive(Debug, Default)]
pub struct SparseClasses {
    /// From left to right, disjoint.
    runs: Vec<Run>,
}

/// Windows in a row: the one at `first + i` is of class `class + i`, or, with a period, of `class + (phase + i) % period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    len: u64,
    class: u64,
    /// 0: none.
    period: u32,
    phase: u32,
}

impl WindowClasses for SparseClasses {
    fn runs(&self) -> impl Iterator<Item = ClassRun> {
        self.runs.iter().flat_map(|run| {
            let (mut first, mut left, mut phase) = (run.first as usize, run.len as usize, run.phase as usize);
            std::iter::from_fn(move || {
                let period = if run.period == 0 { usize::MAX } else { run.period as usize };
                let len = left.min(period - phase);
                let part = ClassRun { first, len, class: run.class as usize + phase };
                (first, left, phase) = (first + len, left - len, 0);
                (len > 0).then_some(part)
            })
        })
    }
}

impl SparseClasses {
    /// Finds the classes of windows of `length` bytes.
    ///
    /// # Errors
    /// [`Error::Io`] when the scratch folder cannot be used, and [`Error::Closed`] when the run should stop.
    pub fn find(arena: &TextArena, length: usize, resources: &Resources) -> Result<Self, Error> {
        Self::find_with_gram(arena, length, gram_bytes(length), resources)
    }

    fn find_with_gram(arena: &TextArena, length: usize, gram_bytes: usize, resources: &Resources) -> Result<Self, Error> {
        let spill = resources.scratch.as_deref().map(SpillFile::new).transpose()?;
        let anchors = Partitions::new(ANCHOR_PARTITIONS, spill.as_ref(), resources.index_bytes() / 2);
        select(arena, length, gram_bytes, resources, &anchors)?;
        let equal = Partitions::new(TEXT_PARTITIONS, spill.as_ref(), resources.index_bytes() / 4);
        arena.advise(Access::Anywhere);
        let periodic = compare(arena.bytes(), length, gram_bytes, resources, &anchors, &equal);
        arena.advise(Access::InOrder);
        let periodic = periodic?;
        drop(anchors);
        let mut copies = Vec::new();
        for index in 0..equal.len() {
            resources.go_on()?;
            join(&mut copies, equal.take(index)?, length);
        }
        Ok(Self::number(copies, periodic, length))
    }

    /// Gives classes numbers.
    fn number(copies: Vec<Copies>, mut periodic: Vec<PeriodicRun>, length: usize) -> Self {
        let leaders = leaders(&copies, length);
        let mut num_classes = leaders.last().map_or(0, |last| last.class + last.len);
        let mut runs = Vec::with_capacity(copies.len() + leaders.len() + periodic.len());
        runs.extend(copies.iter().map(|copy| {
            let leader = &leaders[leaders.partition_point(|leader| leader.first <= copy.leader) - 1];
            Run { first: copy.first, len: copy.len, class: leader.class + (copy.leader - leader.first), period: 0, phase: 0 }
        }));
        drop(copies);
        runs.extend(leaders);
        let mut last_root = None;
        periodic.sort_unstable_by_key(|run| run.root);
        let mut root_class = 0;
        for run in periodic {
            if last_root.replace(run.root) != Some(run.root) {
                root_class = num_classes;
                num_classes += u64::from(run.period);
            }
            runs.push(Run { first: run.first, len: u64::from(run.len), class: root_class, period: run.period, phase: run.phase });
        }
        runs.sort_by_key(|run| run.first);
        Self { runs }
    }
}

/// Windows in a row that equal windows in a row.
struct Copies {
    first: u64,
    leader: u64,
    len: u64,
}

/// Finds the anchors of all windows.
fn select(
    arena: &TextArena,
    length: usize,
    gram_bytes: usize,
    resources: &Resources,
    anchors: &Partitions<'_, Anchor>,
) -> Result<(), Error> {
    let pieces = Queue::new(pieces(arena, length));
    let work = || {
        let (mut sampler, mut feeder) = (Sampler::new(length, gram_bytes), anchors.feeder());
        loop {
            resources.go_on()?;
            let mine = pieces.take(PIECES);
            if mine.is_empty() {
                return feeder.finish();
            }
            for piece in mine {
                let (base, mut fed) = (piece.start, Ok(()));
                sampler.anchors(&arena.bytes()[piece], base, |anchor| {
                    if fed.is_ok() {
                        fed = feeder.push((anchor.key >> 56) as usize, anchor);
                    }
                });
                fed?;
            }
        }
    };
    resources.on_threads(work).map(|_| ())
}

/// Compares windows whose anchors have the same key: gives runs of equal windows to `equal`, by their place in the text, and the periodic
/// ones back.
fn compare(
    text: &[u8],
    length: usize,
    gram_bytes: usize,
    resources: &Resources,
    anchors: &Partitions<'_, Anchor>,
    equal: &Partitions<'_, EqualRun>,
) -> Result<Vec<PeriodicRun>, Error> {
    let next = AtomicUsize::new(0);
    let periodic: Mutex<(u32, Vec<PeriodicRun>)> = Mutex::default();
    let range_bytes = (text.len() / equal.len() + 1) as u64;
    let work = || {
        let (mut grouper, mut runs, mut feeder) = (Grouper::new(text, length).gathering(None, resources), Vec::new(), equal.feeder());
        loop {
            resources.go_on()?;
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= anchors.len() {
                return feeder.finish();
            }
            let mut bucket = anchors.take(index)?;
            bucket.sort_unstable_by_key(|anchor| (anchor.key, anchor.first_window));
            for group in bucket.chunk_by(|left, right| left.key == right.key) {
                if group[0].is_periodic() {
                    let (num_roots, runs) = &mut *periodic.lock().unwrap_or_else(PoisonError::into_inner);
                    periodic::group(text, gram_bytes, group, num_roots, runs);
                } else if group.len() > 1 {
                    grouper.group(group, &mut runs);
                    runs.drain(..).try_for_each(|run| feeder.push((run.first / range_bytes) as usize, run))?;
                }
            }
        }
    };
    resources.on_threads(work)?;
    Ok(periodic.into_inner().unwrap_or_else(PoisonError::into_inner).1)
}

/// Adds runs, which lie behind those before, and joins those that go on.
fn join(joined: &mut Vec<Copies>, mut runs: Vec<EqualRun>, length: usize) {
    runs.sort_unstable_by_key(|run| run.first);
    for run in runs {
        let len = u64::from(run.len);
        match joined.last_mut() {
            // Windows of one byte would go on from document to document.
            Some(last) if length > 1 && last.first + last.len == run.first && last.leader + last.len == run.leader => last.len += len,
            _ => joined.push(Copies { first: run.first, leader: run.leader, len }),
        }
    }
}

/// The first windows of all classes, numbered from left to right.
fn leaders(copies: &[Copies], length: usize) -> Vec<Run> {
    let mut ranges: Vec<(u64, u64)> = copies.iter().map(|copy| (copy.leader, copy.leader + copy.len)).collect();
    ranges.sort_unstable();
    let mut leaders: Vec<Run> = Vec::new();
    for (start, end) in ranges {
        match leaders.last_mut() {
            Some(last) if start < last.first + last.len + u64::from(length > 1) => last.len = last.len.max(end - last.first),
            last => {
                let class = last.map_or(0, |last| last.class + last.len);
                leaders.push(Run { first: start, len: end - start, class, period: 0, phase: 0 });
            }
        }
    }
    leaders
}

/// Ranges of text with at most [`PIECE_WINDOWS`] windows each, in one document, together all windows once.
fn pieces(arena: &TextArena, length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..arena.len()).flat_map(move |index| {
        let range = arena.range(index);
        let windows = (range.len() + 1).saturating_sub(length);
        (0..windows).step_by(PIECE_WINDOWS).map(move |first| {
            let last = (first + PIECE_WINDOWS).min(windows) - 1;
            range.start + first..range.start + last + length
        })
    })
}

#[cfg(test)]
mod tests;
