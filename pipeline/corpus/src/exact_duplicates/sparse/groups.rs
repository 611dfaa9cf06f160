//! Equal windows among those whose anchors have one key. Grams decide nothing here: windows are equal if their bytes are.

use super::super::resources::{Resources, scratch_map};
use super::anchors::Anchor;
use super::rolling::RollingHash;
use memmap2::MmapMut;

/// Windows that each equal an earlier one: the window at `first + i` has the bytes of the one at `leader + i`, for `i` below `len`, and
/// no window with those bytes begins before `leader + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EqualRun {
    pub first: u64,
    pub leader: u64,
    pub len: u32,
}

/// Anchors that a group is compared with one by one; more of them, and its windows are hashed.
const LEADERS_MAX: usize = 8;

/// Numbers of a matrix of hashes, which is to stay in cache.
const MATRIX_LEN: usize = 1 << 15;

/// Members of a hashed group from which on the windows of all are brought together first: they are looked at offset by offset, and in the
/// text each look would be at another page.
const GATHERED_MEMBERS: usize = 4096;

/// Takes groups of anchors, and gives runs of equal windows.
#[derive(Debug)]
pub struct Grouper<'a> {
    text: &'a [u8],
    window_bytes: usize,
    hash: RollingHash,
    leaders: Vec<Anchor>,
    leaders_max: usize,
    open: Vec<(usize, usize)>,
    still_open: Vec<(usize, usize)>,
    members: Vec<Member>,
    matrix: Vec<u64>,
    table: Vec<Entry>,
    gathered_members: usize,
    resources: Resources,
}

/// The bytes that a hashed group looks at: the text, or rows of it that lie one behind the other.
struct Windows<'a> {
    bytes: &'a [u8],
    /// Bytes of a row; `None` in the text itself.
    stride: Option<usize>,
}

impl Windows<'_> {
    /// Where the window at `offset` of the anchor at `index` begins.
    fn start(&self, index: usize, anchor: &Anchor, offset: usize) -> usize {
        match self.stride {
            Some(stride) => index * stride + anchor.offset as usize - offset,
            None => anchor.position() - offset,
        }
    }
}

/// Rows in memory, or in a file where they are more than the index may take.
enum Rows {
    Memory(Vec<u8>),
    Mapped(MmapMut),
}

/// A member of a hashed group.
#[derive(Debug, Clone, Copy)]
struct Member {
    /// Hash of the next window.
    state: u64,
    /// The member whose windows the last ones equal, and the offset at which that began.
    leader: u32,
    since: u32,
}

/// First window with a hash at the current offset.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    member: u32,
    /// The offset that the entry is of, plus one.
    stamp: u32,
}

const NO_MEMBER: u32 = u32::MAX;

impl<'a> Grouper<'a> {
    /// A grouper over windows of `window_bytes` in `text`.
    pub fn new(text: &'a [u8], window_bytes: usize) -> Self {
        Self::with_leaders_max(text, window_bytes, LEADERS_MAX)
    }

    pub(super) fn with_leaders_max(text: &'a [u8], window_bytes: usize, leaders_max: usize) -> Self {
        let hash = RollingHash::new(window_bytes);
        let (leaders, open, still_open) = (Vec::new(), Vec::new(), Vec::new());
        let (members, matrix, table) = (Vec::new(), Vec::new(), Vec::new());
        let (gathered_members, resources) = (GATHERED_MEMBERS, Resources::default());
        Self { text, window_bytes, hash, leaders, leaders_max, open, still_open, members, matrix, table, gathered_members, resources }
    }

    /// Sets from how many members on windows are gathered, and what may be used for it.
    pub(super) fn gathering(self, gathered_members: Option<usize>, resources: &Resources) -> Self {
        Self { gathered_members: gathered_members.unwrap_or(GATHERED_MEMBERS), resources: resources.clone(), ..self }
    }

    /// Adds the runs of a group, anchors of one key in text order, none of them periodic.
    pub fn group(&mut self, anchors: &[Anchor], runs: &mut Vec<EqualRun>) {
        let before = runs.len();
        if !self.compare(anchors, runs) {
            runs.truncate(before);
            self.hash(anchors, runs);
        }
    }

    /// Compares each anchor with those before it that have windows of their own, the *leaders*. `false` if there are too many.
    ///
    /// Leaders come in text order, so the first that has a window equal to the anchor's has the first such window of all: an anchor that is
    /// no leader has none that a leader has not.
    fn compare(&mut self, anchors: &[Anchor], runs: &mut Vec<EqualRun>) -> bool {
        self.leaders.clear();
        for anchor in anchors {
            // Offsets of windows that equal none of the leaders seen.
            self.open.clear();
            self.open.push((lowest(anchor), anchor.offset as usize));
            for leader in &self.leaders {
                let Some((low, high)) = self.equal_offsets(leader, anchor) else { continue };
                self.still_open.clear();
                for &(first, last) in &self.open {
                    let (from, to) = (first.max(low), last.min(high));
                    if from > to {
                        self.still_open.push((first, last));
                        continue;
                    }
                    runs.push(equal_run(anchor, leader, to, from));
                    if first < from {
                        self.still_open.push((first, from - 1));
                    }
                    if to < last {
                        self.still_open.push((to + 1, last));
                    }
                }
                std::mem::swap(&mut self.open, &mut self.still_open);
                if self.open.is_empty() {
                    break;
                }
            }
            if !self.open.is_empty() {
                if self.leaders.len() == self.leaders_max {
                    return false;
                }
                self.leaders.push(*anchor);
            }
        }
        true
    }

    /// The offsets, from and to, at which the windows of two anchors are equal.
    fn equal_offsets(&self, left: &Anchor, right: &Anchor) -> Option<(usize, usize)> {
        let behind = |anchor: &Anchor| self.window_bytes - lowest(anchor);
        let (a, b) = (left.position(), right.position());
        let limit = behind(left).min(behind(right));
        let agreeing_behind = common_prefix(&self.text[a..a + limit], &self.text[b..b + limit]);
        let low = (self.window_bytes - agreeing_behind).max(lowest(left)).max(lowest(right));
        let limit = left.offset.min(right.offset) as usize;
        if low > limit {
            return None;
        }
        let high = common_suffix(&self.text[a - limit..a], &self.text[b - limit..b]);
        (low <= high).then_some((low, high))
    }

    /// Looks each window up among those at the same offset before it, by hash and then by bytes.
    fn hash(&mut self, anchors: &[Anchor], runs: &mut Vec<EqualRun>) {
        let stride = anchors.iter().map(Anchor::num_windows).max().unwrap_or(0) + self.window_bytes - 1;
        let rows = if anchors.len() >= self.gathered_members { self.gather(anchors, stride) } else { None };
        let windows = match &rows {
            Some(Rows::Memory(bytes)) => Windows { bytes, stride: Some(stride) },
            Some(Rows::Mapped(bytes)) => Windows { bytes, stride: Some(stride) },
            None => Windows { bytes: self.text, stride: None },
        };
        self.hash_in(&windows, anchors, runs);
    }

    /// The bytes of all windows of each anchor, in rows. `None` where there is no room: the text has them, too.
    fn gather(&self, anchors: &[Anchor], stride: usize) -> Option<Rows> {
        let len = anchors.len().checked_mul(stride)?;
        let mut rows = match &self.resources.scratch {
            Some(folder) if len as u64 > self.resources.index_bytes() => Rows::Mapped(scratch_map(folder, len as u64).ok()?),
            _ => {
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(len).ok()?;
                bytes.resize(len, 0);
                Rows::Memory(bytes)
            }
        };
        let bytes: &mut [u8] = match &mut rows {
            Rows::Memory(bytes) => bytes,
            Rows::Mapped(bytes) => bytes,
        };
        // Anchors come in text order, so every page of the text is read once.
        for (anchor, row) in anchors.iter().zip(bytes.chunks_exact_mut(stride)) {
            let start = anchor.position() - anchor.offset as usize;
            let own = anchor.num_windows() + self.window_bytes - 1;
            row[..own].copy_from_slice(&self.text[start..start + own]);
        }
        Some(rows)
    }

    fn hash_in(&mut self, windows: &Windows<'_>, anchors: &[Anchor], runs: &mut Vec<EqualRun>) {
        let (text, length) = (windows.bytes, self.window_bytes);
        let capacity = (anchors.len() * 2).next_power_of_two();
        self.table.clear();
        self.table.resize(capacity, Entry { hash: 0, member: NO_MEMBER, stamp: 0 });
        self.members.clear();
        self.members.resize(anchors.len(), Member { state: 0, leader: NO_MEMBER, since: 0 });
        let width = (MATRIX_LEN / anchors.len()).clamp(1, 64);
        let mut top = anchors.iter().map(|anchor| anchor.offset as usize + 1).max().unwrap_or(0);
        while top > 0 {
            let bottom = top.saturating_sub(width);
            self.fill_matrix(windows, anchors, (bottom, top), width);
            for offset in (bottom..top).rev() {
                let stamp = offset as u32 + 1;
                for (index, anchor) in anchors.iter().enumerate() {
                    if offset > anchor.offset as usize || offset < lowest(anchor) {
                        continue;
                    }
                    let hash = self.matrix[index * width + (top - 1 - offset)];
                    let position = windows.start(index, anchor, offset);
                    let mut slot = (hash >> 32) as usize & (capacity - 1);
                    let leader = loop {
                        let entry = self.table[slot];
                        if entry.stamp != stamp {
                            self.table[slot] = Entry { hash, member: index as u32, stamp };
                            break NO_MEMBER;
                        }
                        if entry.hash == hash {
                            let other = windows.start(entry.member as usize, &anchors[entry.member as usize], offset);
                            // What was equal one byte earlier needs one more byte.
                            let equal = if self.members[index].leader == entry.member {
                                text[position + length - 1] == text[other + length - 1]
                            } else {
                                text[position..position + length] == text[other..other + length]
                            };
                            if equal {
                                break entry.member;
                            }
                        }
                        slot = (slot + 1) & (capacity - 1);
                    };
                    let member = &mut self.members[index];
                    if member.leader != leader {
                        if member.leader != NO_MEMBER {
                            runs.push(equal_run(anchor, &anchors[member.leader as usize], member.since as usize, offset + 1));
                        }
                        (member.leader, member.since) = (leader, offset as u32);
                    }
                }
            }
            top = bottom;
        }
        for (anchor, member) in anchors.iter().zip(&self.members) {
            if member.leader != NO_MEMBER {
                runs.push(equal_run(anchor, &anchors[member.leader as usize], member.since as usize, lowest(anchor)));
            }
        }
    }

    /// Hashes windows at offsets below `top` and not below `bottom`, a row of `width` per anchor, from the top.
    fn fill_matrix(&mut self, windows: &Windows<'_>, anchors: &[Anchor], (bottom, top): (usize, usize), width: usize) {
        self.matrix.resize(anchors.len() * width, 0);
        let rows = anchors.iter().zip(&mut self.members).zip(self.matrix.chunks_exact_mut(width)).enumerate();
        for (index, ((anchor, member), row)) in rows {
            let (highest, lowest) = (anchor.offset as usize, lowest(anchor));
            for offset in (bottom.max(lowest)..top.min(highest + 1)).rev() {
                let position = windows.start(index, anchor, offset);
                member.state = if offset == highest {
                    self.hash.first(&windows.bytes[position..])
                } else {
                    self.hash.next(member.state, windows.bytes[position + self.window_bytes - 1], windows.bytes[position - 1])
                };
                row[top - 1 - offset] = member.state;
            }
        }
    }
}

/// The offset of an anchor in its last window; `offset` is that in its first.
fn lowest(anchor: &Anchor) -> usize {
    anchor.offset as usize + 1 - anchor.num_windows()
}

/// The run of windows of `anchor` at offsets from `from` down to `to`, which equal those of `leader`.
fn equal_run(anchor: &Anchor, leader: &Anchor, from: usize, to: usize) -> EqualRun {
    EqualRun { first: (anchor.position() - from) as u64, leader: (leader.position() - from) as u64, len: (from - to + 1) as u32 }
}

/// Bytes that both begin with.
pub(in super::super) fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let blocks = left.chunks_exact(BLOCK).zip(right.chunks_exact(BLOCK)).take_while(|(left, right)| left == right).count();
    let start = blocks * BLOCK;
    start + left[start..].iter().zip(&right[start..]).take_while(|(left, right)| left == right).count()
}

/// Bytes that both end with. They are equally long.
fn common_suffix(left: &[u8], right: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let blocks = left.rchunks_exact(BLOCK).zip(right.rchunks_exact(BLOCK)).take_while(|(left, right)| left == right).count();
    let end = left.len() - blocks * BLOCK;
    blocks * BLOCK + left[..end].iter().rev().zip(right[..end].iter().rev()).take_while(|(left, right)| left == right).count()
}
