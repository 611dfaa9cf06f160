//! Launches of `cuda/rmsnorm.cu`.

use super::buffer::narrow;
use super::sums::ROWS_PER_BLOCK;
use super::{ABSENT, Argument, Exact, Gpu, Launch, Launcher, Stored, blocks, expect_eights, expect_len, threads_of_eights};
use crate::KernelError;
use crate::operations::Done;

const KERNEL: &str = "rmsnorm";

impl<L: Launcher> Gpu<L> {
    /// With `residual` = (addend, sum), the sum is stored and normalised.
    pub(super) fn rmsnorm(
        &self,
        epsilon: f64,
        input: &Stored<L>,
        residual: Option<(&Stored<L>, &Stored<L>)>,
        weight: &Stored<L>,
        output: &Stored<L>,
        scale: &Exact<L>,
    ) -> Done {
        let rows = check(epsilon, input, weight, scale)?;
        expect_len(KERNEL, &[("output", output.len, input.len)])?;
        let (addend, sum) = match residual {
            Some((addend, sum)) => {
                expect_len(KERNEL, &[("addend", addend.len, input.len), ("sum", sum.len, input.len)])?;
                (self.pointer(addend), self.pointer(sum))
            }
            None => (ABSENT, ABSENT),
        };
        let hidden = narrow(KERNEL, "weight", weight.len)?;
        let arguments = [
            self.pointer(output),
            self.pointer(scale),
            sum,
            self.pointer(input),
            addend,
            self.pointer(weight),
            Argument::U32(hidden),
            Argument::F32(epsilon as f32),
        ];
        let launch = Launch {
            kernel: "rmsnorm_forward",
            grid: [blocks(KERNEL, rows, 1)?, 1, 1],
            threads: threads_of_eights(hidden),
            shared_bytes: hidden * 2,
        };
        self.launch(launch, &arguments)
    }

    pub(super) fn rmsnorm_slopes(
        &self,
        input: &Stored<L>,
        weight: &Stored<L>,
        scale: &Exact<L>,
        output_grad: &Stored<L>,
        input_grad: &Stored<L>,
        weight_grad: &Exact<L>,
    ) -> Done {
        let rows = check(0.0, input, weight, scale)?;
        let sizes = [
            ("output_grad", output_grad.len, input.len),
            ("input_grad", input_grad.len, input.len),
            ("weight_grad", weight_grad.len, weight.len),
        ];
        expect_len(KERNEL, &sizes)?;
        let hidden = narrow(KERNEL, "weight", weight.len)?;
        let parts = blocks(KERNEL, rows, ROWS_PER_BLOCK)?;
        self.add_partials(parts as usize, weight.len, self.address(weight_grad, 0), |partials| {
            let arguments = [
                self.pointer(input_grad),
                Argument::Pointer(partials),
                self.pointer(input),
                self.pointer(weight),
                self.pointer(scale),
                self.pointer(output_grad),
                Argument::U64(rows as u64),
                Argument::U32(hidden),
                Argument::U32(ROWS_PER_BLOCK as u32),
            ];
            // The part of the gradient in f32, and two rows of bf16.
            let launch = Launch {
                kernel: "rmsnorm_backward",
                grid: [parts, 1, 1],
                threads: threads_of_eights(hidden),
                shared_bytes: hidden * (4 + 2 + 2),
            };
            self.launch(launch, &arguments)
        })
    }
}

/// Gives the rows.
fn check<M>(
    epsilon: f64,
    input: &super::Buffer<M, super::Bf16>,
    weight: &super::Buffer<M, super::Bf16>,
    scale: &super::Buffer<M, f32>,
) -> Result<usize, KernelError> {
    if epsilon.is_nan() || epsilon < 0.0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "epsilon", wanted: "zero or more" });
    }
    expect_eights(KERNEL, "weight", weight.len)?;
    // What a block of Ada may have; the backward pass asks for 8 bytes per column.
    if weight.len > 12 * 1024 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "weight", wanted: "at most 12288 elements on a GPU" });
    }
    let whole = input.len.next_multiple_of(weight.len);
    expect_len(KERNEL, &[("input", input.len, whole), ("scale", scale.len, whole / weight.len)])?;
    Ok(whole / weight.len)
}
