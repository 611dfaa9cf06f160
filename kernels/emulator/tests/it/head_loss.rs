//! `cuda/head_loss.cu` and the products around it against the CPU twin.

use crate::common::Emulated;
use osler_emulator::Emulator;
use osler_kernel_cases::head_loss::visit;
use osler_kernel_cases::{index, read_exact};
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::{IGNORED, LinearShape};
use osler_kernels::{Memory, Operations};

#[test]
fn the_head_loss_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn targets_are_checked() {
    let gpu = Gpu::new(Emulator::default());
    let shape = LinearShape { rows: 2, inputs: 8, outputs: 3 };
    let (hidden, weight, mut losses) = (gpu.new_stored(16).unwrap(), gpu.new_stored(24).unwrap(), gpu.new_exact(2).unwrap());
    let error = gpu.head_loss_forward(shape, &hidden, &weight, &index(&gpu, &[IGNORED, 3]), &mut losses).unwrap_err();
    assert_eq!(error.to_string(), "head_loss: `targets` must be below the size of the vocabulary");
    gpu.head_loss_forward(shape, &hidden, &weight, &index(&gpu, &[IGNORED, 2]), &mut losses).unwrap();
    assert_eq!(read_exact(&gpu, &losses, 2), [0.0, 3.0f32.ln()]);
}
