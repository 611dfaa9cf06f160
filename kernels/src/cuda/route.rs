//! Launches of `cuda/route.cu`.

use super::buffer::narrow;
use super::lists::Constant;
use super::sort::{DIGITS, Pass, count_len};
use super::{ABSENT, Argument, Exact, Gpu, Index, Launch, Launcher, Pieces, Stored, blocks, expect_below, expect_len};
use crate::KernelError;
use crate::operations::{Done, RouteShape};

const KERNEL: &str = "route";

/// Rows that a block of 256 threads has: one per warp.
const ROWS_PER_BLOCK: usize = 8;
/// Rows whose statistics one block sums. Fixed, so that the order of sums depends on shapes alone.
const STATISTIC_ROWS: usize = 256;
/// A warp has eight experts per lane, and a sorting pass this many digits.
const MAX_EXPERTS: usize = DIGITS;

impl<L: Launcher> Gpu<L> {
    pub(super) fn route(
        &self,
        shape: RouteShape,
        logits: &Stored<L>,
        probabilities: &Exact<L>,
        chosen: &mut Index<L>,
        weights: &Exact<L>,
    ) -> Done {
        let wide = [("logits", logits.len), ("probabilities", probabilities.len)];
        let sizes = check(shape, &wide, &[("weights", weights.len), ("chosen", chosen.buffer.len)])?;
        let [rows, experts, top_k] = sizes;
        let arguments =
            [self.pointer(probabilities), self.indices(chosen), self.pointer(weights), self.pointer(logits), rows, experts, top_k];
        self.launch(geometry("route_forward", shape)?, &arguments)?;
        chosen.facts = None;
        Ok(())
    }

    pub(super) fn route_slopes(
        &self,
        shape: RouteShape,
        probabilities: &Exact<L>,
        chosen: &Index<L>,
        weights_grad: &Exact<L>,
        balance_grad: &Exact<L>,
        logits_grad: &Stored<L>,
    ) -> Done {
        let wide = [("probabilities", probabilities.len), ("logits_grad", logits_grad.len)];
        let sizes = check(shape, &wide, &[("weights_grad", weights_grad.len), ("chosen", chosen.buffer.len)])?;
        expect_len(KERNEL, &[("balance_grad", balance_grad.len, shape.experts)])?;
        expect_chosen::<L>(shape, chosen)?;
        let [rows, experts, top_k] = sizes;
        let arguments = [
            self.pointer(logits_grad),
            self.pointer(probabilities),
            self.indices(chosen),
            self.pointer(weights_grad),
            self.pointer(balance_grad),
            rows,
            experts,
            top_k,
        ];
        self.launch(geometry("route_backward", shape)?, &arguments)
    }

    pub(super) fn add_balance(&self, shape: RouteShape, probabilities: &Exact<L>, chosen: &Index<L>, statistics: &Exact<L>) -> Done {
        let [rows, experts, top_k] = check(shape, &[("probabilities", probabilities.len)], &[("chosen", chosen.buffer.len)])?;
        expect_len(KERNEL, &[("statistics", statistics.len, 2 * shape.experts)])?;
        expect_chosen::<L>(shape, chosen)?;
        let parts = blocks(KERNEL, shape.rows, STATISTIC_ROWS)?;
        self.add_partials(parts as usize, 2 * shape.experts, self.address(statistics, 0), |partials| {
            let arguments = [
                Argument::Pointer(partials),
                self.pointer(probabilities),
                self.indices(chosen),
                rows,
                experts,
                top_k,
                Argument::U32(STATISTIC_ROWS as u32),
            ];
            self.launch(Launch { kernel: "balance_partials", grid: [parts, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
        })
    }

    pub(super) fn take_balance(
        &self,
        shape: RouteShape,
        layers: usize,
        coefficient: f64,
        statistics: &Exact<L>,
        loss: &Exact<L>,
        balance_grad: &Exact<L>,
    ) -> Done {
        let [_, experts, _] = check(shape, &[], &[])?;
        let sizes =
            [("statistics", statistics.len, 2 * shape.experts), ("balance_grad", balance_grad.len, shape.experts), ("loss", loss.len, 1)];
        expect_len(KERNEL, &sizes)?;
        let total = (layers * shape.rows).max(1) as f64;
        let factor = self.constant(Constant::BalanceFactor, [(coefficient * shape.experts as f64 / (total * total)) as f32])?;
        let arguments = [self.pointer(loss), self.pointer(balance_grad), self.pointer(statistics), experts, factor];
        self.launch(Launch { kernel: "balance_loss", grid: [1, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
    }

    /// One pass of the stable counting sort of `cuda/sort.cu`.
    pub(super) fn sort_choices(
        &self,
        shape: RouteShape,
        chosen: &Index<L>,
        slots: &mut Index<L>,
        sources: &mut Index<L>,
        segments: &mut Index<L>,
    ) -> Done {
        let narrow_sizes = [("chosen", chosen.buffer.len), ("slots", slots.buffer.len), ("sources", sources.buffer.len)];
        check(shape, &[], &narrow_sizes)?;
        expect_len(KERNEL, &[("segments", segments.buffer.len, shape.experts + 1)])?;
        expect_chosen::<L>(shape, chosen)?;
        let choices = shape.rows * shape.top_k;
        let mut pieces = Pieces::default();
        pieces.next(count_len(choices), size_of::<u32>());
        let pass = Pass {
            keys: self.indices(chosen),
            values: ABSENT,
            shift: 0,
            positions: self.indices(slots),
            sources: self.indices(sources),
            sorted_keys: ABSENT,
            segments: (self.indices(segments), narrow(KERNEL, "experts", shape.experts)?),
        };
        self.with_scratch(pieces.bytes, |counts| self.sort_pass(choices, counts, pass))?;
        [slots, sources, segments].into_iter().for_each(|index| index.facts = None);
        Ok(())
    }
}

/// A row per warp.
fn geometry(kernel: &'static str, shape: RouteShape) -> Result<Launch, KernelError> {
    Ok(Launch { kernel, grid: [blocks(KERNEL, shape.rows, ROWS_PER_BLOCK)?, 1, 1], threads: 256, shared_bytes: 0 })
}

/// Choices that the host wrote must be experts.
fn expect_chosen<L: Launcher>(shape: RouteShape, chosen: &Index<L>) -> Done {
    expect_below::<L>(KERNEL, "chosen", chosen, shape.experts, "below the number of experts")
}

/// Compares what has a number per expert and what has one per choice; gives rows, experts and choices as arguments.
fn check(shape: RouteShape, wide: &[(&'static str, usize)], narrow_sizes: &[(&'static str, usize)]) -> Result<[Argument; 3], KernelError> {
    let RouteShape { rows, experts, top_k } = shape;
    if top_k == 0 || top_k > experts {
        return Err(KernelError::Value { kernel: KERNEL, argument: "top_k", wanted: "from 1 to the number of experts" });
    }
    if experts > MAX_EXPERTS {
        return Err(KernelError::Value { kernel: KERNEL, argument: "experts", wanted: "at most 256 on a GPU" });
    }
    for &(argument, len) in wide {
        expect_len(KERNEL, &[(argument, len, rows * experts)])?;
    }
    for &(argument, len) in narrow_sizes {
        expect_len(KERNEL, &[(argument, len, rows * top_k)])?;
    }
    Ok([Argument::U64(rows as u64), Argument::U32(experts as u32), Argument::U32(top_k as u32)])
}
