//! Launches of `cuda/grouped.cu` and `cuda/grouped_hopper.cu`: linear maps of all experts, each in one launch.

use super::buffer::{Bf16, narrow};
use super::{Argument, Command, Element, Gpu, Index, Launch, Launcher, MatrixBox, OutputKind, Stored};
use crate::KernelError;
use crate::operations::{Done, Gradient, LinearShape};

const KERNEL: &str = "linear";

/// The kernels count the tiles of every expert with a thread.
const EXPERTS_MAX: usize = 256;

/// How a kernel cuts products into tiles, and what its blocks take of a multiprocessor.
#[derive(Debug, PartialEq, Eq)]
struct Tiling {
    rows: usize,
    columns: usize,
    blocks_each: usize,
    threads: u32,
    shared_bytes: u32,
}

/// `cuda/grouped.cu`: three stages of two operands of 128 x 64 bf16 numbers.
const PLAIN: Tiling = Tiling { rows: 128, columns: 128, blocks_each: 2, threads: 256, shared_bytes: 3 * 2 * 128 * 64 * 2 };
/// `cuda/grouped_hopper.cu`: four stages of 128 x 64 and 256 x 64.
const HOPPER: Tiling = Tiling { rows: 128, columns: 256, blocks_each: 1, threads: 384, shared_bytes: 4 * (128 + 256) * 64 * 2 };
/// Inner numbers of a stage; Hopper's kernels take whole ones.
const INNER: usize = 64;
/// Experts up to which, without kernels for Hopper, a product for each is made: few are large, and the library is near a device's peak on
/// large products.
const FEW_EXPERTS: usize = 16;

/// A shape that one launch serves, with the numbers that every kernel takes behind its buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grouped {
    shape: LinearShape,
    experts: usize,
    arguments: [Argument; 4],
    tiling: &'static Tiling,
}

/// The kernels for older devices and those for Hopper: forward, to the input, and to the weights, in f32 and stored.
const KERNELS: [[&str; 2]; 4] = [
    ["grouped_forward", "grouped_forward_hopper"],
    ["grouped_backward_input", "grouped_backward_input_hopper"],
    ["grouped_backward_weight", "grouped_backward_weight_hopper"],
    ["grouped_backward_weight_stored", "grouped_backward_weight_stored_hopper"],
];

/// Dynamic shared memory of each kernel, in bytes.
pub(super) fn shared_bytes() -> impl Iterator<Item = (&'static str, u32)> {
    KERNELS.into_iter().flat_map(|[plain, hopper]| [(plain, PLAIN.shared_bytes), (hopper, HOPPER.shared_bytes)])
}

/// A bf16 matrix of a product, and the rows of the boxes that Hopper's kernels bring it in.
#[derive(Debug)]
struct Matrix<'a, L: Launcher> {
    buffer: &'a Stored<L>,
    columns: usize,
    box_rows: usize,
}

impl Grouped {
    /// `None` for shapes that a product for each expert serves.
    ///
    /// # Errors
    /// [`KernelError::Value`] for sizes from 2³² on.
    pub fn of(shape: LinearShape, experts: usize, has_wgmma: bool) -> Result<Option<Self>, KernelError> {
        let LinearShape { rows, inputs, outputs } = shape;
        let all_multiples_of = |of: usize| inputs.is_multiple_of(of) && outputs.is_multiple_of(of);
        let tiling = match experts {
            1..=EXPERTS_MAX if has_wgmma && all_multiples_of(INNER) => &HOPPER,
            ..=FEW_EXPERTS => return Ok(None),
            ..=EXPERTS_MAX if all_multiples_of(8) => &PLAIN,
            _ => return Ok(None),
        };
        let number = |name, value| narrow(KERNEL, name, value).map(Argument::U32);
        let arguments = [number("experts", experts)?, number("rows", rows)?, number("inputs", inputs)?, number("outputs", outputs)?];
        Ok(Some(Self { shape, experts, arguments, tiling }))
    }

    fn is_for_hopper(&self) -> bool {
        *self.tiling == HOPPER
    }

    /// One for each tile of all experts or, where there are more, as many as run at once: if an expert's product has `columns` and its rows or,
    /// given `high`, that many.
    fn blocks(&self, high: Option<usize>, columns: usize, multiprocessors: usize) -> u32 {
        let Tiling { rows: tile_rows, columns: tile_columns, blocks_each, .. } = *self.tiling;
        let below_each_other = match high {
            Some(rows) => self.experts * rows.div_ceil(tile_rows),
            None => self.shape.rows / tile_rows + self.experts,
        };
        (below_each_other * columns.div_ceil(tile_columns)).min(blocks_each * multiprocessors) as u32
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
        let LinearShape { inputs, outputs, .. } = grouped.shape;
        let left = Matrix { buffer: input, columns: inputs, box_rows: HOPPER.rows };
        let right = Matrix { buffer: weight, columns: inputs, box_rows: HOPPER.columns };
        self.grouped(KERNELS[0], grouped, (None, outputs), segments, self.address(output, 0), [left, right], &[])
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
        let LinearShape { inputs, outputs, .. } = grouped.shape;
        let left = Matrix { buffer: output_grad, columns: outputs, box_rows: HOPPER.rows };
        let right = Matrix { buffer: weight, columns: inputs, box_rows: INNER };
        let add = Argument::U32(u32::from(add));
        self.grouped(KERNELS[1], grouped, (None, inputs), segments, self.address(input_grad, 0), [left, right], &[add])
    }

    pub(super) fn grouped_backward_weight(
        &self,
        grouped: &Grouped,
        segments: &Index<L>,
        output_grad: &Stored<L>,
        input: &Stored<L>,
        add: bool,
        weight_grad: &Gradient<Self>,
    ) -> Done {
        let LinearShape { rows, inputs, outputs } = grouped.shape;
        let numbers = self.numbers(weight_grad);
        if rows == 0 && !add {
            return self.run(Command::Clear { address: numbers.address, bytes: numbers.len * numbers.kind.bytes() });
        }
        let left = Matrix { buffer: output_grad, columns: outputs, box_rows: INNER };
        let right = Matrix { buffer: input, columns: inputs, box_rows: INNER };
        let names = match numbers.kind {
            OutputKind::Exact => KERNELS[2],
            OutputKind::Stored => KERNELS[3],
        };
        let add = Argument::U32(u32::from(add));
        self.grouped(names, grouped, (Some(outputs), inputs), segments, numbers.address, [left, right], &[add])
    }

    /// Launches the kernel of two names that is the device's. `size` is the height and width of an expert's product, as for
    /// [`Grouped::blocks`].
    #[allow(clippy::too_many_arguments)]
    fn grouped(
        &self,
        [plain, hopper]: [&'static str; 2],
        grouped: &Grouped,
        size: (Option<usize>, usize),
        segments: &Index<L>,
        product: u64,
        operands: [Matrix<'_, L>; 2],
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
        let mut arguments = vec![Argument::Pointer(product)];
        for operand in &operands {
            arguments.push(if grouped.is_for_hopper() { self.operand_map(operand)? } else { self.pointer(operand.buffer) });
        }
        arguments.push(self.indices(segments));
        arguments.extend(grouped.arguments);
        arguments.extend(more);
        let Tiling { threads, shared_bytes, .. } = *grouped.tiling;
        let grid = [grouped.blocks(size.0, size.1, self.launcher.multiprocessors()), 1, 1];
        self.launch(Launch { kernel: if grouped.is_for_hopper() { hopper } else { plain }, grid, threads, shared_bytes }, &arguments)
    }

    fn operand_map(&self, operand: &Matrix<'_, L>) -> Result<Argument, KernelError> {
        let Matrix { buffer, columns, box_rows } = *operand;
        let (address, rows) = (self.address(buffer, 0), buffer.len / columns);
        self.launcher.tensor_map(&MatrixBox { address, rows, columns, row_bytes: columns * Bf16::BYTES, box_rows }).map(Argument::TensorMap)
    }
}
