//! Where windows are anchored: a sparse set of positions that depends on the windows' bytes alone.
//!
//! A *gram* is `k` consecutive bytes. Every window takes the gram in it that has the least hash, the rightmost of several. Let that gram
//! begin at `x`.
//!
//! - If its smallest period is more than `k / 2`, the window's anchor is `x` ([`Kind::Gram`]).
//! - Otherwise it lies in a run: the longest range `[s, e)` around it in the window's document that has this period. If the run ends inside
//!   the window, the anchor is the gram that ends with the byte behind the run ([`Kind::RunEnd`]). If not, but it begins inside the window, the
//!   anchor is the gram that begins with the byte before the run ([`Kind::RunStart`]). If neither, the window has this period as a whole and
//!   needs no anchor ([`Kind::Periodic`]).
//!
//! All of this is read from the window itself, so equal windows have anchors of the same kind at the same offset, and equal grams there.
//!
//! Anchors are sparse. Minima of a random hash are about `2 / (L - k + 2)` per byte. The same hash at two places within `k / 2` bytes is a
//! gram of a period that short, and two runs of such periods share fewer than `k` bytes (Fine and Wilf): each gives two anchors at most,
//! whatever its length. And the windows of one anchor follow each other, since the least gram of the next window is never further left.

use super::periods::{least_rotation, run_around, smallest_period};
use super::rolling::RollingHash;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Windows taken at a time: what one piece works on stays in cache, and threads share pieces evenly.
pub const PIECE_WINDOWS: usize = 1 << 16;

/// Why a position is an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Gram,
    RunEnd,
    RunStart,
    Periodic,
}

/// An anchor and the windows that have it: those that begin at `first_window + i`, for `i` below `num_windows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Hash of kind and gram; of kind and root for periodic windows.
    pub key: u64,
    pub first_window: u64,
    /// From the first window to the anchor; for periodic windows, to the first place at or behind it where the root begins.
    pub offset: u32,
    num_windows: u32,
}

impl Anchor {
    const PERIODIC: u32 = 1 << 31;

    /// Number of windows that have this anchor, at most [`PIECE_WINDOWS`].
    pub fn num_windows(&self) -> usize {
        (self.num_windows & !Self::PERIODIC) as usize
    }

    /// Whether these are periodic windows.
    pub fn is_periodic(&self) -> bool {
        self.num_windows & Self::PERIODIC != 0
    }

    /// All of it in three numbers.
    pub(super) fn to_words(self) -> [u64; 3] {
        [self.key, self.first_window, u64::from(self.offset) << 32 | u64::from(self.num_windows)]
    }

    pub(super) fn from_words([key, first_window, rest]: [u64; 3]) -> Self {
        Self { key, first_window, offset: (rest >> 32) as u32, num_windows: rest as u32 }
    }

    /// Where the anchor is.
    pub fn position(&self) -> usize {
        self.first_window as usize + self.offset as usize
    }
}

/// Finds anchors for windows of one length.
#[derive(Debug)]
pub struct Sampler {
    window_bytes: usize,
    gram_bytes: usize,
    hash: RollingHash,
    hashes: Vec<i32>,
}

impl Sampler {
    /// A sampler for windows of `window_bytes`. `gram_bytes` is from 1 to `window_bytes`; [`gram_bytes`] knows a good length.
    pub fn new(window_bytes: usize, gram_bytes: usize) -> Self {
        Self { window_bytes, gram_bytes, hash: RollingHash::new(gram_bytes), hashes: Vec::new() }
    }

    /// Gives the anchors of all windows in `bytes`, a piece of one document that begins at `base`. Cutting a document into pieces that share
    /// `window_bytes - 1` bytes gives the same windows the same anchors.
    pub fn anchors(&mut self, bytes: &[u8], base: usize, mut give: impl FnMut(Anchor)) {
        if bytes.len() < self.window_bytes {
            return;
        }
        let mut hashes = std::mem::take(&mut self.hashes);
        self.hash.all(bytes, &mut hashes);
        let mut run: Option<Run> = None;
        rightmost_minima(&hashes, self.window_bytes - self.gram_bytes + 1, |gram, first, last| {
            if let Some(run) = run.as_mut().filter(|run| run.start <= gram && gram + self.gram_bytes <= run.end) {
                run.last = last;
                return;
            }
            if let Some(run) = run.take() {
                self.give_run(bytes, base, &run, &mut give);
            }
            match smallest_period(&bytes[gram..gram + self.gram_bytes]) {
                Some(period) => {
                    let (start, end) = run_around(bytes, gram, gram + self.gram_bytes, period);
                    run = Some(Run { start, end, period, first, last });
                }
                None => give(self.anchor(bytes, base, Kind::Gram, gram, (first, last))),
            }
        });
        if let Some(run) = run.take() {
            self.give_run(bytes, base, &run, &mut give);
        }
        self.hashes = hashes;
    }

    /// The anchor `kind` at the gram that begins at `gram`.
    fn anchor(&self, bytes: &[u8], base: usize, kind: Kind, gram: usize, (first, last): (usize, usize)) -> Anchor {
        Anchor {
            key: xxh3_64_with_seed(&bytes[gram..gram + self.gram_bytes], kind as u64),
            first_window: (base + first) as u64,
            offset: (gram - first) as u32,
            num_windows: (last - first + 1) as u32,
        }
    }

    /// Gives the windows of a run: first those that begin before it and do not end behind it, then those inside, then those that see its end.
    fn give_run(&self, bytes: &[u8], base: usize, run: &Run, give: &mut impl FnMut(Anchor)) {
        // The first window that ends behind the run, and the first that does not begin before it.
        let sees_end = (run.end + 1).saturating_sub(self.window_bytes).max(run.first);
        let inside = run.start.clamp(run.first, sees_end);
        if run.first < inside.min(run.last + 1) {
            let last = run.last.min(inside - 1);
            give(self.anchor(bytes, base, Kind::RunStart, run.start - 1, (run.first, last)));
        }
        if inside < sees_end.min(run.last + 1) {
            let last = run.last.min(sees_end - 1);
            // A window holds the root's period twice, and so each of its rotations.
            let rotation = least_rotation(&bytes[inside..inside + run.period]);
            let root = &bytes[inside + rotation..inside + rotation + run.period];
            let key = xxh3_64_with_seed(root, Kind::Periodic as u64);
            give(Anchor {
                key,
                first_window: (base + inside) as u64,
                offset: rotation as u32,
                num_windows: (last - inside + 1) as u32 | Anchor::PERIODIC,
            });
        }
        if sees_end <= run.last {
            give(self.anchor(bytes, base, Kind::RunEnd, run.end + 1 - self.gram_bytes, (sees_end, run.last)));
        }
    }
}

/// Bytes of a gram for windows of `window_bytes`: the longer, the fewer anchors share one by chance, and the shorter, the fewer anchors.
pub fn gram_bytes(window_bytes: usize) -> usize {
    (window_bytes / 3).clamp(1, 64)
}

/// A run of a short period, and the windows whose least gram is in it.
#[derive(Debug)]
struct Run {
    start: usize,
    end: usize,
    period: usize,
    first: usize,
    last: usize,
}

/// Gives the rightmost least of every `width` neighbours: where it is, and the first and last window (by its first neighbour) that has it.
fn rightmost_minima(values: &[i32], width: usize, mut give: impl FnMut(usize, usize, usize)) {
    let (mut first, mut seen) = (0, width);
    let mut best = rightmost_minimum(&values[..width]);
    loop {
        // What comes in while the best is not yet out.
        let end = (best + width).min(values.len());
        if let Some(step) = first_at_most(&values[seen..end], values[best]) {
            let next = seen + step;
            give(best, first, next - width);
            (best, first, seen) = (next, next + 1 - width, next + 1);
        } else if end == values.len() {
            return give(best, first, values.len() - width);
        } else {
            give(best, first, best);
            first = best + 1;
            seen = first + width;
            best = first + rightmost_minimum(&values[first..seen]);
        }
    }
}

/// Compared this many at a time, in a loop without branches.
const BLOCK: usize = 32;

fn rightmost_minimum(values: &[i32]) -> usize {
    let least = values.iter().copied().fold(i32::MAX, i32::min);
    values.iter().rposition(|value| *value == least).unwrap_or(0)
}

fn first_at_most(values: &[i32], limit: i32) -> Option<usize> {
    let mut blocks = values.chunks_exact(BLOCK);
    let mut start = 0;
    for block in blocks.by_ref() {
        if block.iter().fold(false, |any, value| any | (*value <= limit)) {
            return block.iter().position(|value| *value <= limit).map(|index| start + index);
        }
        start += BLOCK;
    }
    blocks.remainder().iter().position(|value| *value <= limit).map(|index| start + index)
}
