//! Launches of `cuda/dispatch.cu`.

use super::buffer::narrow;
use super::{
    ABSENT, Argument, Exact, Gpu, Index, Launch, Launcher, Stored, blocks, expect_below, expect_eights, expect_len, threads_of_eights,
};
use crate::KernelError;
use crate::operations::{DispatchShape, Done};

const KERNEL: &str = "route";

impl<L: Launcher> Gpu<L> {
    pub(super) fn permute(&self, shape: DispatchShape, sources: &Index<L>, input: &Stored<L>, output: &Stored<L>) -> Done {
        let [top_k, hidden] = check::<L>(shape, "sources", sources, input.len, output.len)?;
        let arguments = [self.pointer(output), self.pointer(input), self.indices(sources), top_k, hidden];
        self.launch(geometry("permute_forward", shape, shape.rows * shape.top_k, 0)?, &arguments)
    }

    /// With `weights` the sum is weighted.
    pub(super) fn combine(
        &self,
        shape: DispatchShape,
        slots: &Index<L>,
        weights: Option<&Exact<L>>,
        input: &Stored<L>,
        output: &Stored<L>,
    ) -> Done {
        let [top_k, hidden] = check::<L>(shape, "slots", slots, output.len, input.len)?;
        expect_len(KERNEL, &[("weights", weights.map_or(slots.buffer.len, |weights| weights.len), slots.buffer.len)])?;
        let weights = weights.map_or(ABSENT, |weights| self.pointer(weights));
        let arguments = [self.pointer(output), self.pointer(input), self.indices(slots), weights, top_k, hidden];
        self.launch(geometry("combine_forward", shape, shape.rows, 0)?, &arguments)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn combine_slopes(
        &self,
        shape: DispatchShape,
        slots: &Index<L>,
        weights: &Exact<L>,
        input: &Stored<L>,
        output_grad: &Stored<L>,
        input_grad: &Stored<L>,
        weights_grad: &Exact<L>,
    ) -> Done {
        let [top_k, hidden] = check::<L>(shape, "slots", slots, output_grad.len, input.len)?;
        let choices = slots.buffer.len;
        expect_len(KERNEL, &[("weights", weights.len, choices), ("weights_grad", weights_grad.len, choices)])?;
        expect_len(KERNEL, &[("input_grad", input_grad.len, input.len)])?;
        let arguments = [
            self.pointer(input_grad),
            self.pointer(weights_grad),
            self.pointer(input),
            self.pointer(output_grad),
            self.indices(slots),
            self.pointer(weights),
            top_k,
            hidden,
        ];
        self.launch(geometry("combine_backward", shape, shape.rows, 2 * shape.hidden)?, &arguments)
    }
}

/// A block per row or slot, of as many threads as there are columns for.
fn geometry(kernel: &'static str, shape: DispatchShape, count: usize, shared_bytes: usize) -> Result<Launch, KernelError> {
    let threads = threads_of_eights(narrow(KERNEL, "hidden", shape.hidden)?);
    Ok(Launch { kernel, grid: [blocks(KERNEL, count, 1)?, 1, 1], threads, shared_bytes: narrow(KERNEL, "hidden", shared_bytes)? })
}

/// Compares the two sides of a move, one with a row per token and one with a row per choice; gives choices and columns as arguments.
fn check<L: Launcher>(
    shape: DispatchShape,
    name: &'static str,
    moves: &Index<L>,
    token_side: usize,
    slot_side: usize,
) -> Result<[Argument; 2], KernelError> {
    let DispatchShape { rows, top_k, hidden } = shape;
    expect_eights(KERNEL, "hidden", hidden)?;
    if hidden > 48 * 1024 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "hidden", wanted: "at most 49152 on a GPU" });
    }
    let choices = rows * top_k;
    expect_len(KERNEL, &[(name, moves.buffer.len, choices)])?;
    expect_len(KERNEL, &[("tokens", token_side, rows * hidden), ("slots", slot_side, choices * hidden)])?;
    expect_below::<L>(KERNEL, name, moves, choices, "below the number of choices")?;
    Ok([Argument::U32(narrow(KERNEL, "top_k", top_k)?), Argument::U32(narrow(KERNEL, "hidden", hidden)?)])
}
