//! Launches of `cuda/optimiser.cu`.

use super::{ABSENT, Argument, Exact, Gpu, Launch, Launcher, Stored, blocks, expect_len};
use crate::KernelError;
use crate::blockwise;
use crate::operations::{AdamState, AdamW, AdamWFactors, Done, Moments};

const KERNEL: &str = "adamw";

/// Partial sums of a norm at most: enough to fill a GPU, and fixed, so that the order of the sum depends on the length alone.
const PARTS: usize = 1024;

/// Blocks of a step on blockwise moments at most, about as many as a GPU holds at a time: each makes the tables of codes once, and then takes
/// one block of numbers after another.
const BLOCKWISE_BLOCKS: u32 = 1024;

impl<L: Launcher> Gpu<L> {
    pub(super) fn squares(&self, values: &[&Exact<L>]) -> Result<Vec<f64>, KernelError> {
        // The totals, then the parts of one after another.
        let size = size_of::<f64>();
        let memory = self.allocate(size * (values.len() + PARTS))?;
        let total = |at: usize| Argument::Pointer(self.launcher.address(&memory) + (at * size) as u64);
        let partials = total(values.len());
        for (at, values) in values.iter().enumerate() {
            // Of no numbers the sum is the zero that is there.
            let parts = blocks(KERNEL, values.len, 256)?.min(PARTS as u32);
            let launch = Launch { kernel: "square_partials", grid: [parts, 1, 1], threads: 256, shared_bytes: 0 };
            self.launch(launch, &[partials, self.pointer(values), Argument::U64(values.len as u64)])?;
            let launch = Launch { kernel: "sum_doubles", grid: [parts.min(1), 1, 1], threads: 256, shared_bytes: 0 };
            self.launch(launch, &[total(at), partials, Argument::U32(parts)])?;
        }
        let mut bytes = vec![0; size * values.len()];
        self.start_listed()?;
        self.launcher.read(&memory, 0, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn add(&self, addend: &Exact<L>, sum: &Exact<L>) -> Done {
        expect_len("add", &[("addend", addend.len, sum.len)])?;
        let arguments = [self.pointer(sum), self.pointer(addend), Argument::U64(sum.len as u64)];
        self.launch(Launch { kernel: "add", grid: [blocks("add", sum.len, 256)?, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
    }

    pub(super) fn adamw_step(&self, settings: &AdamW, grad: &Exact<L>, state: &AdamState<Self>, weight: &Stored<L>) -> Done {
        let wanted = weight.len;
        expect_len(KERNEL, &[("grad", grad.len, wanted), ("rest", state.rest.as_ref().map_or(wanted, |rest| rest.len), wanted)])?;
        let AdamWFactors { gradient_scale, first, second, keep, rate, second_correction, epsilon } = settings.factors(KERNEL)?;
        let factors = [gradient_scale, first[0], first[1], second[0], second[1], keep, rate, second_correction, epsilon];
        let mut arguments = vec![self.pointer(weight), state.rest.as_ref().map_or(ABSENT, |rest| self.pointer(rest))];
        let all = blocks(KERNEL, wanted, blockwise::BLOCK)?;
        let (kernel, grid) = match &state.moments {
            Moments::Exact { first, second } => {
                expect_len(KERNEL, &[("first", first.len, wanted), ("second", second.len, wanted)])?;
                arguments.extend([self.pointer(first), self.pointer(second)]);
                ("adamw", all)
            }
            Moments::Blockwise { first, second } => {
                for (name, moment) in [("first", first), ("second", second)] {
                    expect_len(KERNEL, &[(name, moment.codes.len, wanted), (name, moment.scales.len, all as usize)])?;
                    arguments.extend([self.pointer(&moment.codes), self.pointer(&moment.scales)]);
                }
                ("adamw_blockwise", all.min(BLOCKWISE_BLOCKS))
            }
        };
        arguments.extend([self.pointer(grad), Argument::U64(wanted as u64)]);
        arguments.extend(factors.map(|factor| Argument::F32(factor as f32)));
        self.launch(Launch { kernel, grid: [grid, 1, 1], threads: 256, shared_bytes: 0 }, &arguments)
    }
}
