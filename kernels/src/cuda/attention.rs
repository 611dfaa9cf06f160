//! Launches of `cuda/attention_*.cu`.

use super::buffer::narrow;
use super::{
    ABSENT, Argument, Bf16, Buffer, Command, Element, Exact, Gpu, Launch, Launcher, MatrixBox, Pieces, Stored, blocks, expect_len,
};
use crate::KernelError;
use crate::operations::{AttentionInput, AttentionShape, Done};

const KERNEL: &str = "attention";

/// Rows that a block has to itself, in all three kernels.
const BLOCK_ROWS: usize = 64;
/// Rows of the two tiles that the backward kernels stream.
const MOVING_ROWS: usize = 32;
/// Heads whose delta a block of 256 threads takes.
const DELTAS: usize = 16;

/// The kernels that are compiled for one head dimension.
#[derive(Debug, Clone, Copy)]
struct Kernels {
    head_dim: usize,
    forward: &'static str,
    /// For keys and values, and for queries. On Hopper the first sums what the second makes gradients of.
    backward: [&'static str; 2],
}

macro_rules! kernels {
    ($($head_dim:literal),*) => {
        [$(Kernels {
            head_dim: $head_dim,
            forward: concat!("attention_forward_", $head_dim),
            backward: [concat!("attention_backward_keys_", $head_dim), concat!("attention_backward_queries_", $head_dim)],
        }),*]
    };
}

const HEAD_DIMS: [Kernels; 6] = kernels![32, 64, 80, 96, 128, 256];

macro_rules! hopper_kernels {
    ($($head_dim:literal),*) => {
        [$(Kernels {
            head_dim: $head_dim,
            forward: concat!("attention_forward_hopper_", $head_dim),
            backward: [concat!("attention_backward_hopper_", $head_dim), concat!("attention_query_slopes_hopper_", $head_dim)],
        }),*]
    };
}

/// Head dimensions that Hopper has kernels of its own for.
const HOPPER: [Kernels; 5] = hopper_kernels![64, 80, 96, 128, 256];
/// Rows that a block of their forward kernels has to itself.
const HOPPER_ROWS: usize = 128;
/// Rows of the tiles that their backward kernels stream.
const HOPPER_MOVING_ROWS: usize = 64;
/// Warpgroups that consume.
const CONSUMERS: usize = 2;
/// Those and a producing one.
const HOPPER_THREADS: u32 = 384;

/// What the backward pass reads besides the input.
#[derive(Debug)]
pub(super) struct Saved<'a, L: Launcher> {
    pub output: &'a Stored<L>,
    pub log_sum_exp: &'a Exact<L>,
    pub output_grad: &'a Stored<L>,
}

impl Kernels {
    fn of(head_dim: usize) -> Result<Self, KernelError> {
        let found = HEAD_DIMS.into_iter().find(|kernels| kernels.head_dim == head_dim);
        found.ok_or(KernelError::Value { kernel: KERNEL, argument: "head_dim", wanted: "32, 64, 80, 96, 128 or 256 on a GPU" })
    }

    /// Bytes of so many rows in shared memory; the kernels' `Layout` leaves 16 between rows that are not whole groups of eight chunks.
    fn row_bytes(self, rows: usize) -> u32 {
        let padding = if self.head_dim.is_multiple_of(64) { 0 } else { 8 };
        (rows * (self.head_dim + padding) * 2) as u32
    }

    /// The same of Hopper's kernels, which have whole boxes of 64 columns.
    fn box_bytes(self, rows: usize) -> u32 {
        (rows * self.head_dim.next_multiple_of(64) * 2) as u32
    }

    /// Dynamic shared memory of the forward kernel: the queries, and two stages of keys and of values.
    fn forward_bytes(self) -> u32 {
        self.row_bytes(BLOCK_ROWS + 4 * self.key_rows())
    }

    /// The same of both backward kernels: two tiles that stay, two that are streamed.
    fn backward_bytes(self) -> u32 {
        self.row_bytes(2 * BLOCK_ROWS + self.backward_stages() * 2 * MOVING_ROWS)
    }

    /// Rows of keys in a tile of the forward kernel.
    fn key_rows(self) -> usize {
        if self.head_dim > 128 { 32 } else { 64 }
    }

    /// As [`forward_bytes`](Self::forward_bytes), of Hopper's kernel.
    fn hopper_forward_bytes(self) -> u32 {
        self.box_bytes(HOPPER_ROWS + 4 * self.hopper_key_rows())
    }

    /// Rows of keys in a tile of Hopper's forward kernel, and in a block of its backward kernel.
    fn hopper_key_rows(self) -> usize {
        if self.head_dim > 128 { 64 } else { 128 }
    }

    /// Parts in which Hopper's backward kernel hands the sums of a tile of queries on.
    fn parts(self) -> usize {
        if self.head_dim > 128 { 2 * CONSUMERS } else { CONSUMERS }
    }

    /// Numbers of one: columns are halved, or, where heads end within a box of 64 columns, boxes are counted.
    fn part_len(self) -> usize {
        HOPPER_MOVING_ROWS * self.head_dim.next_multiple_of(64) / self.parts()
    }

    /// What Hopper's backward kernel has in shared memory.
    fn hopper_backward_bytes(self) -> u32 {
        // Two tiles that stay; of those that are streamed two stages, but one of wide heads' gradients.
        let streamed = if self.head_dim > 128 { 3 } else { 4 };
        let tiles = self.box_bytes(2 * self.hopper_key_rows() + streamed * HOPPER_MOVING_ROWS);
        // Two tiles of slopes, or one and its probabilities, and a part for each consuming warpgroup.
        let weights = 2 * self.hopper_key_rows() * HOPPER_MOVING_ROWS * Bf16::BYTES;
        tiles + (weights + CONSUMERS * self.part_len() * size_of::<f32>()) as u32
    }

    /// Copies of the streamed tiles that the backward kernels have.
    fn backward_stages(self) -> usize {
        if self.head_dim > 128 { 1 } else { 2 }
    }
}

impl<L: Launcher> Gpu<L> {
    /// Rows that follow `before` others; without `log_sum_exp` it is not saved.
    pub(super) fn attend(
        &self,
        shape: AttentionShape,
        before: usize,
        input: AttentionInput<'_, Self>,
        output: &Stored<L>,
        log_sum_exp: Option<&Exact<L>>,
    ) -> Done {
        let kernels = check::<L>(shape, before, &input, &[("output", output)])?;
        expect_len(
            KERNEL,
            &[("log_sum_exp", log_sum_exp.map_or(shape.rows * shape.query_heads, |sums| sums.len), shape.rows * shape.query_heads)],
        )?;
        let heads = narrow(KERNEL, "query_heads", shape.query_heads)?;
        let scalars = [
            self.indices(input.lo),
            Argument::U32(narrow(KERNEL, "rows", shape.rows)?),
            Argument::U32(narrow(KERNEL, "before", before)?),
            Argument::U32(heads),
            Argument::U32(narrow(KERNEL, "key_heads", shape.key_heads)?),
            Argument::F32(score_scale(shape)),
        ];
        let mut arguments = vec![self.pointer(output), log_sum_exp.map_or(ABSENT, |sums| self.pointer(sums))];
        let launch = match self.hopper(shape) {
            Some(hopper) => {
                let keys = before + shape.rows;
                arguments.push(self.map(shape, input.query, shape.rows, shape.query_heads, HOPPER_ROWS)?);
                let key_rows = hopper.hopper_key_rows();
                arguments.push(self.map(shape, input.key, keys, shape.key_heads, key_rows)?);
                arguments.push(self.map(shape, input.value, keys, shape.key_heads, key_rows)?);
                let grid = [blocks(KERNEL, shape.rows, HOPPER_ROWS)?, heads, 1];
                Launch { kernel: hopper.forward, grid, threads: HOPPER_THREADS, shared_bytes: hopper.hopper_forward_bytes() }
            }
            None => {
                arguments.extend([input.query, input.key, input.value].map(|buffer| self.pointer(buffer)));
                let grid = [blocks(KERNEL, shape.rows, BLOCK_ROWS)?, heads, 1];
                Launch { kernel: kernels.forward, grid, threads: 128, shared_bytes: kernels.forward_bytes() }
            }
        };
        arguments.extend(scalars);
        self.launch(launch, &arguments)
    }

    /// The kernels of Hopper, where the device is one and has them for these heads.
    fn hopper(&self, shape: AttentionShape) -> Option<Kernels> {
        HOPPER.into_iter().find(|kernels| self.launcher.has_wgmma() && kernels.head_dim == shape.head_dim && shape.rows > 0)
    }

    /// The map of a tensor `[rows, heads, head_dim]` by boxes of `box_rows` rows. What is past the last row becomes zero.
    fn map(&self, shape: AttentionShape, buffer: &Stored<L>, rows: usize, heads: usize, box_rows: usize) -> Result<Argument, KernelError> {
        let columns = heads * shape.head_dim;
        let matrix = MatrixBox { address: self.address(buffer, 0), rows, columns, row_bytes: columns * Bf16::BYTES, box_rows };
        self.launcher.tensor_map(&matrix).map(Argument::TensorMap)
    }

    pub(super) fn attention_slopes(
        &self,
        shape: AttentionShape,
        input: AttentionInput<'_, Self>,
        saved: Saved<'_, L>,
        query_grad: &Stored<L>,
        key_grad: &Stored<L>,
        value_grad: &Stored<L>,
    ) -> Done {
        let outputs = [("output", saved.output), ("output_grad", saved.output_grad), ("query_grad", query_grad)];
        let kernels = check::<L>(shape, 0, &input, &outputs)?;
        let AttentionShape { rows, query_heads, key_heads, head_dim } = shape;
        let keys = rows * key_heads * head_dim;
        expect_len(KERNEL, &[("key_grad", key_grad.len, keys), ("value_grad", value_grad.len, keys)])?;
        expect_len(KERNEL, &[("log_sum_exp", saved.log_sum_exp.len, rows * query_heads)])?;
        let mut pieces = Pieces::default();
        pieces.next(rows * query_heads, size_of::<f32>());
        let Some(hopper) = self.hopper(shape) else {
            return self.with_scratch(pieces.bytes, |delta| {
                self.deltas(shape, delta, &saved)?;
                self.slopes_in_two_passes(shape, kernels, &input, &saved, delta, [query_grad, key_grad, value_grad])
            });
        };
        let parts = rows.div_ceil(HOPPER_MOVING_ROWS) * query_heads * hopper.parts();
        let sums = pieces.next(parts * hopper.part_len(), size_of::<f32>());
        // A ticket, and turns.
        let turns_bytes = (1 + parts) * size_of::<u32>();
        let turns = pieces.next(1 + parts, size_of::<u32>());
        self.with_scratch(pieces.bytes, |delta| {
            self.deltas(shape, delta, &saved)?;
            let [sums, turns] = [delta + sums, delta + turns];
            self.run(Command::Clear { address: turns, bytes: turns_bytes })?;
            let key_rows = hopper.hopper_key_rows();
            let tiles = blocks(KERNEL, rows, key_rows)?;
            let grid = [narrow(KERNEL, "key_heads", tiles as usize * key_heads)?, 1, 1];
            let mut arguments = vec![Argument::Pointer(sums), Argument::Pointer(turns), self.pointer(key_grad), self.pointer(value_grad)];
            arguments.extend([
                self.map(shape, input.query, rows, query_heads, HOPPER_MOVING_ROWS)?,
                self.map(shape, input.key, rows, key_heads, key_rows)?,
                self.map(shape, input.value, rows, key_heads, key_rows)?,
                self.map(shape, saved.output_grad, rows, query_heads, HOPPER_MOVING_ROWS)?,
            ]);
            arguments.extend(self.backward_scalars(shape, &input, &saved, delta)?);
            let [backward, query_slopes] = hopper.backward;
            let launch = Launch { kernel: backward, grid, threads: HOPPER_THREADS, shared_bytes: hopper.hopper_backward_bytes() };
            self.launch(launch, &arguments)?;
            self.query_slopes(shape, query_slopes, sums, query_grad)
        })
    }

    /// The gradients of the queries, from their sums at the address `sums`.
    fn query_slopes(&self, shape: AttentionShape, kernel: &'static str, sums: u64, query_grad: &Stored<L>) -> Done {
        let heads = narrow(KERNEL, "query_heads", shape.query_heads)?;
        let arguments = [
            self.pointer(query_grad),
            Argument::Pointer(sums),
            Argument::U32(narrow(KERNEL, "rows", shape.rows)?),
            Argument::U32(heads),
            Argument::F32(score_scale(shape)),
        ];
        let grid = [blocks(KERNEL, shape.rows, HOPPER_MOVING_ROWS)?, heads, 1];
        self.launch(Launch { kernel, grid, threads: 128, shared_bytes: 0 }, &arguments)
    }

    /// The gradients of keys and values, then those of queries, `delta` at its address.
    fn slopes_in_two_passes(
        &self,
        shape: AttentionShape,
        kernels: Kernels,
        input: &AttentionInput<'_, Self>,
        saved: &Saved<'_, L>,
        delta: u64,
        [query_grad, key_grad, value_grad]: [&Stored<L>; 3],
    ) -> Done {
        let tiles = blocks(KERNEL, shape.rows, BLOCK_ROWS)?;
        let shared_bytes = kernels.backward_bytes();
        let keys_threads = if shape.head_dim > 128 { 256 } else { 128 };
        let scalars = self.backward_scalars(shape, input, saved, delta)?;
        let tensors = || [input.query, input.key, input.value, saved.output_grad].map(|buffer| self.pointer(buffer));
        let of_keys = [self.pointer(key_grad), self.pointer(value_grad)].into_iter().chain(tensors()).chain(scalars);
        let of_queries = [self.pointer(query_grad)].into_iter().chain(tensors()).chain(scalars);
        let [keys, queries] = kernels.backward;
        let grid = [tiles, narrow(KERNEL, "key_heads", shape.key_heads)?, 1];
        self.launch(Launch { kernel: keys, grid, threads: keys_threads, shared_bytes }, &of_keys.collect::<Vec<_>>())?;
        let grid = [tiles, narrow(KERNEL, "query_heads", shape.query_heads)?, 1];
        self.launch(Launch { kernel: queries, grid, threads: 128, shared_bytes }, &of_queries.collect::<Vec<_>>())
    }

    /// `Σ output · output_grad` of every row and head, `[query_heads, rows]` at the address `delta`.
    fn deltas(&self, shape: AttentionShape, delta: u64, saved: &Saved<'_, L>) -> Done {
        let grid = [blocks(KERNEL, shape.rows * shape.query_heads, DELTAS)?, 1, 1];
        let arguments = [
            Argument::Pointer(delta),
            self.pointer(saved.output),
            self.pointer(saved.output_grad),
            Argument::U32(narrow(KERNEL, "rows", shape.rows)?),
            Argument::U32(narrow(KERNEL, "query_heads", shape.query_heads)?),
            Argument::U32(narrow(KERNEL, "head_dim", shape.head_dim)?),
        ];
        self.launch(Launch { kernel: "attention_delta", grid, threads: 256, shared_bytes: 0 }, &arguments)
    }

    /// What both backward kernels read besides tensors.
    fn backward_scalars(
        &self,
        shape: AttentionShape,
        input: &AttentionInput<'_, Self>,
        saved: &Saved<'_, L>,
        delta: u64,
    ) -> Result<[Argument; 7], KernelError> {
        Ok([
            self.pointer(saved.log_sum_exp),
            Argument::Pointer(delta),
            self.indices(input.lo),
            Argument::U32(narrow(KERNEL, "rows", shape.rows)?),
            Argument::U32(narrow(KERNEL, "query_heads", shape.query_heads)?),
            Argument::U32(narrow(KERNEL, "key_heads", shape.key_heads)?),
            Argument::F32(score_scale(shape)),
        ])
    }
}

/// Dynamic shared memory of each kernel that has some, in bytes.
pub(super) fn shared_bytes() -> impl Iterator<Item = (&'static str, u32)> {
    let plain = HEAD_DIMS.into_iter().flat_map(|kernels| {
        let [keys, queries] = kernels.backward;
        [(kernels.forward, kernels.forward_bytes()), (keys, kernels.backward_bytes()), (queries, kernels.backward_bytes())]
    });
    plain.chain(
        HOPPER.into_iter().flat_map(|kernels| {
            [(kernels.forward, kernels.hopper_forward_bytes()), (kernels.backward[0], kernels.hopper_backward_bytes())]
        }),
    )
}

/// Factor on the scores.
fn score_scale(shape: AttentionShape) -> f32 {
    (shape.head_dim as f64).sqrt().recip() as f32
}

/// Gives the kernels of the head dimension. Keys and values have `before` rows more than queries, or still more.
fn check<L: Launcher>(
    shape: AttentionShape,
    before: usize,
    input: &AttentionInput<'_, Gpu<L>>,
    outputs: &[(&'static str, &Stored<L>)],
) -> Result<Kernels, KernelError> {
    let AttentionShape { rows, query_heads, key_heads, head_dim } = shape;
    if key_heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(key_heads) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "query_heads", wanted: "a multiple of the key heads" });
    }
    let kernels = Kernels::of(head_dim)?;
    expect_len(KERNEL, &[("query", input.query.len, rows * query_heads * head_dim), ("lo", input.lo.buffer.len, rows)])?;
    for (argument, buffer) in outputs {
        expect_len(KERNEL, &[(*argument, buffer.len, rows * query_heads * head_dim)])?;
    }
    let needed = before.checked_add(rows).and_then(|rows| rows.checked_mul(key_heads * head_dim)).unwrap_or(usize::MAX);
    // The next tile's first row is calculated in 32 bits.
    if needed / (key_heads * head_dim) > (u32::MAX / 2) as usize {
        return Err(KernelError::Value { kernel: KERNEL, argument: "rows", wanted: "fewer than 2³¹" });
    }
    expect_keys("key", input.key, needed, before > 0)?;
    expect_keys("value", input.value, needed, before > 0)?;
    let facts = input.lo.facts.filter(|_| rows > 0);
    if facts.is_some_and(|facts| !facts.sorted || facts.ignores || facts.above_place as usize > before) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "lo", wanted: "at most its own row, and never falling" });
    }
    Ok(kernels)
}

/// Compares the elements of keys or values; those that are held for generation may be more than needed.
fn expect_keys<M, T>(argument: &'static str, buffer: &Buffer<M, T>, needed: usize, held: bool) -> Done {
    if held && buffer.len >= needed {
        return Ok(());
    }
    expect_len(KERNEL, &[(argument, buffer.len, needed)])
}
