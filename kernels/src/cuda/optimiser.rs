//! Launches of `cuda/optimiser.cu`.

use super::buffer::narrow;
use super::lists::{Constant, NUM_ADAMW_FACTORS};
use super::norm::Norm;
use super::{ABSENT, Argument, Exact, Gpu, Launch, Launcher, OutputKind, Stored, blocks, expect_len};
use crate::blockwise;
use crate::operations::{AdamState, AdamW, AdamWFactors, Done, Gradient, Moments};

const KERNEL: &str = "adamw";

/// Blocks of a step on blockwise moments that a multiprocessor holds at a time: no more are begun, since each makes the tables of codes, and
/// then its eight warps take one block of numbers after another.
const BLOCKWISE_BLOCKS_EACH: usize = 4;

impl<L: Launcher> Gpu<L> {
    pub(super) fn add(&self, addend: &Exact<L>, sum: &Exact<L>) -> Done {
        expect_len("add", &[("addend", addend.len, sum.len)])?;
        let arguments = [self.pointer(sum), self.pointer(addend), Argument::U64(sum.len as u64)];
        self.launch(Launch { kernel: "add", grid: [blocks("add", sum.len, 256)?, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
    }

    pub(super) fn adamw_step(
        &self,
        settings: &AdamW,
        norm: &Norm<L::Memory>,
        grad: &Gradient<Self>,
        state: &AdamState<Self>,
        weight: &Stored<L>,
    ) -> Done {
        let (wanted, grad) = (weight.len, self.numbers(grad));
        expect_len(KERNEL, &[("grad", grad.len, wanted), ("rest", state.rest.as_ref().map_or(wanted, |rest| rest.len), wanted)])?;
        let AdamWFactors { first, second, keep, rate, second_correction, epsilon } = settings.factors(KERNEL)?;
        let factors: [f64; NUM_ADAMW_FACTORS] = [first[0], first[1], second[0], second[1], keep, rate, second_correction, epsilon];
        let which = Constant::AdamW { decays: settings.weight_decay != 0.0 };
        let factors = self.constant(which, factors.map(|factor| factor as f32))?;
        let mut arguments = vec![self.pointer(weight), state.rest.as_ref().map_or(ABSENT, |rest| self.pointer(rest))];
        let all = blocks(KERNEL, wanted, blockwise::BLOCK)?;
        let ([of_exact, of_stored], grid) = match &state.moments {
            Moments::Exact { first, second } => {
                expect_len(KERNEL, &[("first", first.len, wanted), ("second", second.len, wanted)])?;
                arguments.extend([self.pointer(first), self.pointer(second)]);
                (["adamw", "adamw_stored"], all)
            }
            Moments::Blockwise { first, second } => {
                for (name, moment) in [("first", first), ("second", second)] {
                    expect_len(KERNEL, &[(name, moment.codes.len, wanted), (name, moment.scales.len, all as usize)])?;
                    arguments.extend([self.pointer(&moment.codes), self.pointer(&moment.scales)]);
                }
                let most = BLOCKWISE_BLOCKS_EACH * self.launcher.multiprocessors();
                (["adamw_blockwise", "adamw_blockwise_stored"], all.div_ceil(8).min(narrow(KERNEL, "blocks", most)?))
            }
        };
        arguments.extend([Argument::Pointer(grad.address), Argument::U64(wanted as u64), factors, self.factor(norm)]);
        let kernel = match grad.kind {
            OutputKind::Exact => of_exact,
            OutputKind::Stored => of_stored,
        };
        self.launch(Launch { kernel, grid: [grid, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
    }
}
