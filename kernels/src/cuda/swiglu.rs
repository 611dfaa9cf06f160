//! Launches of `cuda/swiglu.cu`.

use super::{Argument, Gpu, Launch, Launcher, Stored, blocks, expect_len};
use crate::KernelError;
use crate::operations::Done;

const KERNEL: &str = "swiglu";

impl<L: Launcher> Gpu<L> {
    pub(super) fn swiglu(&self, gate: &Stored<L>, up: &Stored<L>, output: &Stored<L>) -> Done {
        expect_len(KERNEL, &[("up", up.len, gate.len), ("output", output.len, gate.len)])?;
        let arguments = [self.pointer(output), self.pointer(gate), self.pointer(up), Argument::U64(gate.len as u64)];
        self.launch(geometry("swiglu_forward", gate.len)?, &arguments)
    }

    pub(super) fn swiglu_slopes(
        &self,
        gate: &Stored<L>,
        up: &Stored<L>,
        output_grad: &Stored<L>,
        gate_grad: &Stored<L>,
        up_grad: &Stored<L>,
    ) -> Done {
        let sizes = [("up", up.len), ("output_grad", output_grad.len), ("gate_grad", gate_grad.len), ("up_grad", up_grad.len)];
        expect_len(KERNEL, &sizes.map(|(name, len)| (name, len, gate.len)))?;
        let buffers = [gate_grad, up_grad, gate, up, output_grad].map(|buffer| self.pointer(buffer));
        let [gate_grad, up_grad, gate_at, up, output_grad] = buffers;
        let arguments = [gate_grad, up_grad, gate_at, up, output_grad, Argument::U64(gate.len as u64)];
        self.launch(geometry("swiglu_backward", gate.len)?, &arguments)
    }
}

/// Eight numbers per thread.
fn geometry(kernel: &'static str, count: usize) -> Result<Launch, KernelError> {
    Ok(Launch { kernel, grid: [blocks(KERNEL, count, 8 * 256)?, 1, 1], threads: 256, shared_bytes: 0 })
}
