//! `cuda/rmsnorm.cu` against the CPU twin.

use crate::common::*;
use osler_emulator::Emulator;
use osler_kernels::cuda::Gpu;
use osler_kernels::{Memory, Operations};

struct Case {
    rows: usize,
    hidden: usize,
}

impl Work for Case {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let Self { rows, hidden } = *self;
        let len = rows * hidden;
        let (input, addend) = (stored(device, &numbers(len, 1)), stored(device, &numbers(len, 2)));
        let (weight, grad) = (stored(device, &numbers(hidden, 3)), stored(device, &numbers(len, 4)));
        let (mut sum, mut output) = (device.new_stored(len).unwrap(), device.new_stored(len).unwrap());
        let mut scale = device.new_exact(rows).unwrap();
        device.rmsnorm_forward(1e-5, &input, &weight, &mut output, &mut scale).unwrap();
        let plain = [read_stored(device, &output, len), read_exact(device, &scale, rows)];
        device.add_rmsnorm_forward(1e-5, &input, &addend, &weight, &mut sum, &mut output, &mut scale).unwrap();
        let added = [read_stored(device, &sum, len), read_stored(device, &output, len), read_exact(device, &scale, rows)];
        // Both gradients are added to what is there.
        let mut input_grad = stored(device, &numbers(len, 5));
        let mut weight_grad = exact(device, &numbers(hidden, 6));
        device.rmsnorm_backward(&sum, &weight, &scale, &grad, &mut input_grad, &mut weight_grad).unwrap();
        let gradients = [read_stored(device, &input_grad, len), read_exact(device, &weight_grad, hidden)];
        plain.into_iter().chain(added).chain(gradients).collect()
    }
}

#[test]
fn rmsnorm_agrees_with_its_twin() {
    // One thread's columns, a part of a warp, columns over several passes of a block; one row, and rows over several blocks.
    for (rows, hidden) in [(1, 8), (3, 40), (5, 256), (33, 64), (67, 72), (2, 2056)] {
        let (got, wanted) = both(&Case { rows, hidden });
        let tolerances = [STORED, EXACT, STORED, STORED, EXACT, STORED, EXACT];
        // A gradient of about one and a half is the sum of two that may each be as large.
        let input_grad = Tolerance { relative: 1.0 / 128.0, absolute: 1.0 / 256.0 };
        for (at, name) in ["output", "scale", "sum", "sum's output", "sum's scale", "input_grad", "weight_grad"].into_iter().enumerate() {
            let tolerance = if name == "input_grad" { input_grad } else { tolerances[at] };
            close(&format!("{rows} x {hidden}: {name}"), &got[at], &wanted[at], tolerance);
        }
        assert_eq!(got[2], wanted[2], "a sum is rounded once");
    }
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
