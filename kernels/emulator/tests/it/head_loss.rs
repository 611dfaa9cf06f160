//! `cuda/head_loss.cu` and the products around it against the CPU twin.

use crate::common::*;
use osler_emulator::Emulator;
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::{IGNORED, LinearShape};
use osler_kernels::{Memory, Operations};

struct Case {
    shape: LinearShape,
    /// Factor on the hidden rows: how sure the model is.
    sharpness: f32,
}

impl Work for Case {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let LinearShape { rows, inputs, outputs } = self.shape;
        let hidden: Vec<f32> = numbers(rows * inputs, 1).iter().map(|x| x * self.sharpness).collect();
        let (hidden, weight) = (stored(device, &hidden), stored(device, &numbers(inputs * outputs, 2)));
        let targets: Vec<u32> = (0..rows).map(|row| if row % 5 == 3 { IGNORED } else { (row * 7 % outputs) as u32 }).collect();
        let targets = index(device, &targets);
        let [mut alone, mut losses] = [(); 2].map(|()| device.new_exact(rows).unwrap());
        let mut hidden_grad = stored(device, &numbers(rows * inputs, 3));
        let mut weight_grad = exact(device, &numbers(inputs * outputs, 4));
        device.head_loss_forward(self.shape, &hidden, &weight, &targets, &mut alone).unwrap();
        let scale = 1.0 / rows as f64;
        device
            .head_loss_forward_backward(self.shape, &hidden, &weight, &targets, scale, &mut losses, &mut hidden_grad, &mut weight_grad)
            .unwrap();
        vec![
            read_exact(device, &alone, rows),
            read_exact(device, &losses, rows),
            read_stored(device, &hidden_grad, rows * inputs),
            read_exact(device, &weight_grad, inputs * outputs),
        ]
    }
}

#[test]
fn the_head_loss_agrees_with_its_twin() {
    // One word; less than a warp of words; more words than a block has threads; a row that is sure of itself; no rows.
    let cases = [(1, 8, 1, 1.0), (11, 16, 20, 1.0), (9, 24, 1300, 1.0), (6, 8, 100, 50.0), (0, 8, 10, 1.0)];
    for (rows, inputs, outputs, sharpness) in cases {
        let shape = LinearShape { rows, inputs, outputs };
        let (got, wanted) = both(&Case { shape, sharpness });
        assert_eq!(got[0], got[1]);
        // Logits of some hundreds in f32.
        close(&format!("{shape:?}: losses"), &got[1], &wanted[1], Tolerance { relative: 2e-6, absolute: 2e-6 * sharpness });
        // A logit's gradient is rounded, 1/256 of it apart at most where the two fall on both sides of a tie.
        let largest = |at: usize| wanted[at].iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let slack = |at: usize| Tolerance { relative: 1.0 / 128.0, absolute: largest(at) / 512.0 };
        close(&format!("{shape:?}: hidden_grad"), &got[2], &wanted[2], slack(2));
        close(&format!("{shape:?}: weight_grad"), &got[3], &wanted[3], slack(3));
    }
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
