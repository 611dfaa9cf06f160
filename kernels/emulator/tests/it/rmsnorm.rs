//! `cuda/rmsnorm.cu` against the CPU twin.

use crate::common::Emulated;
use osler_emulator::Emulator;
use osler_kernel_cases::rmsnorm::visit;
use osler_kernels::cuda::Gpu;
use osler_kernels::{Memory, Operations};

#[test]
fn rmsnorm_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn shapes_are_checked() {
    let gpu = Gpu::new(Emulator::default());
    let buffer = |len| gpu.new_stored(len).unwrap();
    let mut scale = gpu.new_exact(2).unwrap();
    let error = gpu.rmsnorm_forward(0.0, &buffer(17), &buffer(8), &mut buffer(17), &mut scale).unwrap_err();
    assert_eq!(error.to_string(), "rmsnorm: `input` has 17 elements, wanted 24");
    let error = gpu.rmsnorm_forward(0.0, &buffer(14), &buffer(7), &mut buffer(14), &mut scale).unwrap_err();
    assert_eq!(error.to_string(), "rmsnorm: `weight` must be a multiple of 8 on a GPU");
    assert!(gpu.rmsnorm_forward(f64::NAN, &buffer(16), &buffer(8), &mut buffer(16), &mut scale).is_err());
    let mut none = gpu.new_exact(0).unwrap();
    gpu.rmsnorm_forward(0.0, &buffer(0), &buffer(8), &mut buffer(0), &mut none).unwrap();
}
