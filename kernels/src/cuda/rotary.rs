//! Launches of `cuda/rotary.cu`.

use super::buffer::narrow;
use super::{ABSENT, Argument, Exact, Gpu, Index, Launch, Launcher, Stored, blocks, expect_below, expect_len};
use crate::KernelError;
use crate::operations::{Done, RotaryShape};

const KERNEL: &str = "rotary";

/// Heads whose part of the norm weight's gradient one block sums. Fixed, so that the order of sums depends on shapes alone.
const ITEMS_PER_BLOCK: u32 = 1024;

/// Heads that a block of 256 threads has at a time.
const ITEMS_AT_A_TIME: usize = 16;

/// What the backward pass of the head norm needs: its input, weight and scales, and where its weight's gradient is added.
pub(super) type NormGrad<'a, L> = (&'a Stored<L>, &'a Stored<L>, &'a Exact<L>, &'a mut Exact<L>);

impl<L: Launcher> Gpu<L> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn rotary(
        &self,
        shape: RotaryShape,
        table: &Exact<L>,
        positions: &Index<L>,
        input: &Stored<L>,
        norm: Option<(&Stored<L>, f64)>,
        output: &Stored<L>,
        scale: &Exact<L>,
    ) -> Done {
        let items = check::<L>(shape, table, positions)?;
        let (weight, epsilon) = match norm {
            Some((weight, epsilon)) => {
                expect_len(KERNEL, &[("norm", weight.len, shape.head_dim), ("scale", scale.len, items)])?;
                (self.pointer(weight), epsilon)
            }
            None => (ABSENT, 0.0),
        };
        expect_len(KERNEL, &[("input", input.len, items * shape.head_dim), ("output", output.len, items * shape.head_dim)])?;
        let arguments = [
            self.pointer(output),
            self.pointer(scale),
            self.pointer(input),
            weight,
            self.pointer(table),
            self.indices(positions),
            Argument::U64(items as u64),
            Argument::U32(narrow(KERNEL, "heads", shape.heads)?),
            Argument::U32(narrow(KERNEL, "head_dim", shape.head_dim)?),
            Argument::F32(epsilon as f32),
        ];
        let grid = [blocks(KERNEL, items, ITEMS_AT_A_TIME)?, 1, 1];
        self.launch(Launch { kernel: "rotary_forward", grid, threads: 256, shared_bytes: 0 }, &arguments)
    }

    pub(super) fn rotary_slopes(
        &self,
        shape: RotaryShape,
        table: &Exact<L>,
        positions: &Index<L>,
        norm: Option<NormGrad<'_, L>>,
        grad: &Stored<L>,
    ) -> Done {
        let items = check::<L>(shape, table, positions)?;
        expect_len(KERNEL, &[("grad", grad.len, items * shape.head_dim)])?;
        let head_dim = narrow(KERNEL, "head_dim", shape.head_dim)?;
        let heads = narrow(KERNEL, "heads", shape.heads)?;
        let parts = blocks(KERNEL, items, ITEMS_PER_BLOCK as usize)?;
        let launch = |partials: Argument, [input, weight, scale]: [Argument; 3], shared_bytes: u32| {
            let arguments = [
                self.pointer(grad),
                partials,
                input,
                weight,
                scale,
                self.pointer(table),
                self.indices(positions),
                Argument::U64(items as u64),
                Argument::U32(heads),
                Argument::U32(head_dim),
                Argument::U32(ITEMS_PER_BLOCK),
            ];
            self.launch(Launch { kernel: "rotary_backward", grid: [parts, 1, 1], threads: 256, shared_bytes }, &arguments)
        };
        let Some((input, weight, scale, weight_grad)) = norm else {
            return launch(ABSENT, [ABSENT; 3], 0);
        };
        expect_len(KERNEL, &[("input", input.len, grad.len), ("norm", weight.len, shape.head_dim), ("scale", scale.len, items)])?;
        expect_len(KERNEL, &[("norm_grad", weight_grad.len, shape.head_dim)])?;
        self.add_partials(parts as usize, shape.head_dim, self.address(weight_grad, 0), |partials| {
            let saved = [self.pointer(input), self.pointer(weight), self.pointer(scale)];
            launch(Argument::Pointer(partials), saved, ITEMS_AT_A_TIME as u32 * head_dim * 4)
        })
    }
}

/// Gives the number of heads in all rows.
fn check<L: Launcher>(shape: RotaryShape, table: &Exact<L>, positions: &Index<L>) -> Result<usize, KernelError> {
    let RotaryShape { rows, heads, head_dim } = shape;
    if head_dim == 0 || !head_dim.is_multiple_of(4) || head_dim > 256 || heads == 0 || !table.len.is_multiple_of(head_dim) {
        let wanted = "a multiple of 4 up to 256 on a GPU, and rows of the table that long";
        return Err(KernelError::Value { kernel: KERNEL, argument: "head_dim", wanted });
    }
    expect_below::<L>(KERNEL, "positions", positions, table.len / head_dim, "below the rows of the table")?;
    expect_len(KERNEL, &[("positions", positions.buffer.len, rows)])?;
    Ok(rows * heads)
}
