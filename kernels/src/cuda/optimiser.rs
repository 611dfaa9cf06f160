//! Launches of `cuda/optimiser.cu`.

use super::buffer::narrow;
use super::linear::Numbers;
use super::lists::{Constant, NUM_ADAMW_FACTORS};
use super::{ABSENT, Argument, Command, Exact, Gpu, Launch, Launcher, OutputKind, Stored, blocks, expect_len, lock};
use crate::KernelError;
use crate::blockwise;
use crate::operations::{AdamState, AdamW, AdamWFactors, Done, Gradient, Moments};

const KERNEL: &str = "adamw";

/// Partial sums of a norm at most: enough to fill a GPU, and fixed, so that the order of the sum depends on the length alone.
const PARTS: usize = 1024;

/// Blocks of a step on blockwise moments that a multiprocessor holds at a time: no more are begun, since each makes the tables of codes, and
/// then its eight warps take one block of numbers after another.
const BLOCKWISE_BLOCKS_EACH: usize = 4;

impl<L: Launcher> Gpu<L> {
    pub(super) fn squares(&self, values: &[&Gradient<Self>]) -> Result<Vec<f64>, KernelError> {
        // The totals, then the parts of one after another.
        let size = size_of::<f64>();
        let mut totals = lock(&self.totals);
        let memory = totals.at_least(self, size * (values.len() + PARTS))?;
        let address = |at: usize| self.launcher.address(memory) + (at * size) as u64;
        let (total, partials) = (|at: usize| Argument::Pointer(address(at)), Argument::Pointer(address(values.len())));
        self.listed(|| {
            // What has no numbers has no squares.
            self.run(Command::Clear { address: address(0), bytes: size * values.len() })?;
            for (at, values) in values.iter().enumerate() {
                let Numbers { address, len, kind } = self.numbers(values);
                // Each thread has four loads of 16 bytes at a time.
                let parts = blocks(KERNEL, len, 256 * 4 * (16 / kind.bytes()))?.min(PARTS as u32);
                let kernel = match kind {
                    OutputKind::Exact => "square_partials",
                    OutputKind::Stored => "square_partials_stored",
                };
                let launch = Launch { kernel, grid: [parts, 1, 1], threads: 256, shared_bytes: 0 };
                self.launch(launch, &[partials, Argument::Pointer(address), Argument::U64(len as u64)])?;
                let launch = Launch { kernel: "sum_doubles", grid: [parts.min(1), 1, 1], threads: 256, shared_bytes: 0 };
                self.launch(launch, &[total(at), partials, Argument::U32(parts)])?;
            }
            Ok::<_, KernelError>(())
        })?;
        let mut bytes = vec![0; size * values.len()];
        self.start_listed()?;
        self.launcher.read(memory, 0, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn add(&self, addend: &Exact<L>, sum: &Exact<L>) -> Done {
        expect_len("add", &[("addend", addend.len, sum.len)])?;
        let arguments = [self.pointer(sum), self.pointer(addend), Argument::U64(sum.len as u64)];
        self.launch(Launch { kernel: "add", grid: [blocks("add", sum.len, 256)?, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
    }

    pub(super) fn adamw_step(&self, settings: &AdamW, grad: &Gradient<Self>, state: &AdamState<Self>, weight: &Stored<L>) -> Done {
        let (wanted, grad) = (weight.len, self.numbers(grad));
        expect_len(KERNEL, &[("grad", grad.len, wanted), ("rest", state.rest.as_ref().map_or(wanted, |rest| rest.len), wanted)])?;
        let AdamWFactors { gradient_scale, first, second, keep, rate, second_correction, epsilon } = settings.factors(KERNEL)?;
        let factors: [f64; NUM_ADAMW_FACTORS] =
            [gradient_scale, first[0], first[1], second[0], second[1], keep, rate, second_correction, epsilon];
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
        arguments.extend([Argument::Pointer(grad.address), Argument::U64(wanted as u64), factors]);
        let kernel = match grad.kind {
            OutputKind::Exact => of_exact,
            OutputKind::Stored => of_stored,
        };
        self.launch(Launch { kernel, grid: [grid, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
    }
}
