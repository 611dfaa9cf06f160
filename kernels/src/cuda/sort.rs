//! Launches of `cuda/sort.cu`.

use super::{ABSENT, Argument, Gpu, Launch, Launcher, Pieces, blocks};
use crate::KernelError;
use crate::operations::Done;

const KERNEL: &str = "sort";

/// Keys that a block sorts; as in the kernels.
const KEYS_PER_BLOCK: usize = 2048;

/// Values of the eight bits that one pass sorts by.
pub(super) const DIGITS: usize = 256;

/// What a pass reads and writes; [`ABSENT`] where it is not wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub keys: Argument,
    /// What goes with the keys; their own places where absent.
    pub values: Argument,
    pub shift: u32,
    /// Where each key went.
    pub positions: Argument,
    /// What came to each place.
    pub sources: Argument,
    pub sorted_keys: Argument,
    /// Where the keys of each digit begin, and for how many digits.
    pub segments: (Argument, u32),
}

/// Elements of the counts that a pass over `count` keys needs.
pub(super) fn count_len(count: usize) -> usize {
    count.div_ceil(KEYS_PER_BLOCK) * DIGITS
}

impl<L: Launcher> Gpu<L> {
    /// Sorts `count` keys by eight of their bits, stably. `counts` is the address of [`count_len`] numbers.
    pub(super) fn sort_pass(&self, count: usize, counts: u64, pass: Pass) -> Done {
        let keys = u32::try_from(count).map_err(|_| KernelError::Value { kernel: KERNEL, argument: "keys", wanted: "fewer than 2³²" })?;
        let parts = blocks(KERNEL, count, KEYS_PER_BLOCK)?;
        let counts = Argument::Pointer(counts);
        let launch = |kernel, parts| Launch { kernel, grid: [parts, 1, 1], threads: DIGITS as u32, shared_bytes: 0 };
        self.launch(launch("sort_count", parts), &[counts, pass.keys, Argument::U32(keys), Argument::U32(pass.shift)])?;
        let (segments, digits) = pass.segments;
        self.launch(launch("sort_offsets", 1), &[counts, segments, Argument::U32(parts), Argument::U32(digits)])?;
        let arguments = [
            pass.positions,
            pass.sources,
            pass.sorted_keys,
            pass.keys,
            pass.values,
            counts,
            Argument::U32(keys),
            Argument::U32(pass.shift),
        ];
        self.launch(launch("sort_scatter", parts), &arguments)
    }

    /// Sorts `count` keys that are below `bound`, stably, and runs `work` with the addresses of the sorted keys and of where each was.
    pub(super) fn with_sorted(&self, count: usize, bound: usize, keys: Argument, work: impl FnOnce(u64, u64) -> Done) -> Done {
        let mut pieces = Pieces::default();
        let counts = pieces.next(count_len(count), size_of::<u32>());
        // Keys and sources, twice: each pass reads one pair and writes the other.
        let places: [u64; 4] = std::array::from_fn(|_| pieces.next(count, size_of::<u32>()));
        self.with_scratch(pieces.bytes, |base| {
            let [keys_a, sources_a, keys_b, sources_b] = places.map(|place| base + place);
            let (mut from, mut to) = ((keys_b, sources_b), (keys_a, sources_a));
            let bits = usize::BITS - bound.saturating_sub(1).leading_zeros();
            for pass in 0..bits.div_ceil(8).max(1) {
                let first = pass == 0;
                self.sort_pass(
                    count,
                    base + counts,
                    Pass {
                        keys: if first { keys } else { Argument::Pointer(from.0) },
                        values: if first { ABSENT } else { Argument::Pointer(from.1) },
                        shift: 8 * pass,
                        positions: ABSENT,
                        sources: Argument::Pointer(to.1),
                        sorted_keys: Argument::Pointer(to.0),
                        segments: (ABSENT, 0),
                    },
                )?;
                std::mem::swap(&mut from, &mut to);
            }
            work(from.0, from.1)
        })
    }
}
