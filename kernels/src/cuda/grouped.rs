//! Launches of `cuda/grouped.cu`: linear maps of many experts, each in one launch.

use super::buffer::narrow;
use super::{Argument, Exact, Gpu, Index, Launch, Launcher, Stored};
use crate::KernelError;
use crate::operations::{Done, LinearShape};

const KERNEL: &str = "linear";

/// Experts up to which a product for each is made: few are large, and the library is near a device's peak on large products.
const FEW_EXPERTS: usize = 16;
/// The kernel counts the tiles of every expert with a thread.
const EXPERTS_MAX: usize = 256;
/// Rows and columns of a tile.
const TILE: usize = 128;
/// Two blocks on each multiprocessor of an H100; those without a tile end at once.
const BLOCKS: usize = 264;
/// Three stages of two operands of 128 x 64 bf16 numbers.
const SHARED_BYTES: u32 = 3 * 2 * 128 * 64 * 2;

/// A shape that one launch serves, with the numbers that every kernel takes behind its buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grouped {
    shape: LinearShape,
    experts: usize,
    arguments: [Argument; 4],
}

impl Grouped {
    /// `None` for shapes that a product for each expert serves.
    ///
    /// # Errors
    /// [`KernelError::Value`] for sizes from 2³² on.
    pub fn of(shape: LinearShape, experts: usize) -> Result<Option<Self>, KernelError> {
        let LinearShape { rows, inputs, outputs } = shape;
        if experts <= FEW_EXPERTS || experts > EXPERTS_MAX || !inputs.is_multiple_of(8) || !outputs.is_multiple_of(8) {
            return Ok(None);
        }
        let number = |name, value| narrow(KERNEL, name, value).map(Argument::U32);
        let arguments = [number("experts", experts)?, number("rows", rows)?, number("inputs", inputs)?, number("outputs", outputs)?];
        Ok(Some(Self { shape, experts, arguments }))
    }

    /// Tiles of all experts at most, if an expert's product has `columns` and its rows or, given `high`, that many.
    fn blocks(&self, high: Option<usize>, columns: usize) -> u32 {
        let below_each_other = match high {
            Some(rows) => self.experts * rows.div_ceil(TILE),
            None => self.shape.rows / TILE + self.experts,
        };
        (below_each_other * columns.div_ceil(TILE)).min(BLOCKS) as u32
    }
}

impl<L: Launcher> Gpu<L> {
    pub(super) fn grouped_forward(
        &self,
        grouped: &Grouped,
        segments: &Index<L>,
        input: &Stored<L>,
        weight: &Stored<L>,
        output: &Stored<L>,
    ) -> Done {
        let buffers = [self.pointer(output), self.pointer(input), self.pointer(weight)];
        self.grouped("grouped_forward", grouped, grouped.blocks(None, grouped.shape.outputs), segments, buffers, &[])
    }

    pub(super) fn grouped_backward_input(
        &self,
        grouped: &Grouped,
        segments: &Index<L>,
        output_grad: &Stored<L>,
        weight: &Stored<L>,
        add: bool,
        input_grad: &Stored<L>,
    ) -> Done {
        let buffers = [self.pointer(input_grad), self.pointer(output_grad), self.pointer(weight)];
        let blocks = grouped.blocks(None, grouped.shape.inputs);
        self.grouped("grouped_backward_input", grouped, blocks, segments, buffers, &[Argument::U32(u32::from(add))])
    }

    pub(super) fn grouped_backward_weight(
        &self,
        grouped: &Grouped,
        segments: &Index<L>,
        output_grad: &Stored<L>,
        input: &Stored<L>,
        weight_grad: &Exact<L>,
    ) -> Done {
        let buffers = [self.pointer(weight_grad), self.pointer(output_grad), self.pointer(input)];
        let blocks = grouped.blocks(Some(grouped.shape.outputs), grouped.shape.inputs);
        self.grouped("grouped_backward_weight", grouped, blocks, segments, buffers, &[])
    }

    fn grouped(
        &self,
        kernel: &'static str,
        grouped: &Grouped,
        blocks: u32,
        segments: &Index<L>,
        buffers: [Argument; 3],
        more: &[Argument],
    ) -> Done {
        // What a kernel wrote is right by construction.
        let whole = segments.facts.is_none_or(|facts| facts.bounds(grouped.shape.rows));
        if !whole {
            return Err(KernelError::Value { kernel: KERNEL, argument: "segments", wanted: "from 0 to the number of rows, never falling" });
        }
        if grouped.shape.rows == 0 {
            return Ok(());
        }
        let arguments: Vec<Argument> =
            buffers.into_iter().chain([self.indices(segments)]).chain(grouped.arguments).chain(more.iter().copied()).collect();
        self.launch(Launch { kernel, grid: [blocks, 1, 1], threads: 256, shared_bytes: SHARED_BYTES }, &arguments)
    }
}
