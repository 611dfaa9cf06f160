//! `cuda/rmsnorm.cu`.

use crate::{EXACT, STORED, Tolerance, Visitor, Work, close, equal, exact, numbers, read_exact, read_stored, spoil, stored};
use osler_kernels::Operations;

/// The cases that an emulator can run.
pub fn visit(visitor: &mut impl Visitor) {
    // One thread's columns, a part of a warp, columns over several passes of a block; one row, none, and rows over several blocks, and over
    // more than the warps that add their parts.
    for (rows, hidden) in [(1, 8), (3, 40), (5, 256), (33, 64), (67, 72), (2, 2056), (300, 8), (0, 8)] {
        visitor.visit(&Case { rows, hidden, is_spoilt: false });
    }
    visitor.visit(&Case { rows: 40, hidden: 24, is_spoilt: true });
}

/// Cases of sizes that models have.
pub fn visit_large(visitor: &mut impl Visitor) {
    visitor.visit(&Case { rows: 4096, hidden: 4096, is_spoilt: false });
}

struct Case {
    rows: usize,
    hidden: usize,
    /// Whether a row has a number that is infinite, and another one that is none.
    is_spoilt: bool,
}

impl Work for Case {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let Self { rows, hidden, is_spoilt } = *self;
        let len = rows * hidden;
        let mut input = numbers(len, 1);
        if is_spoilt {
            spoil(&mut input, 5 * hidden + 3, 35 * hidden);
        }
        let (input, addend) = (stored(device, &input), stored(device, &numbers(len, 2)));
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

    fn name(&self) -> String {
        format!("rmsnorm, {} x {}, spoilt {}", self.rows, self.hidden, self.is_spoilt)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        let tolerances = [STORED, EXACT, STORED, STORED, EXACT, STORED, EXACT];
        // A gradient of about one and a half is the sum of two that may each be as large.
        let input_grad = Tolerance { relative: 1.0 / 128.0, absolute: 1.0 / 256.0 };
        for (at, name) in ["output", "scale", "sum", "sum's output", "sum's scale", "input_grad", "weight_grad"].into_iter().enumerate() {
            let tolerance = match name {
                "input_grad" => input_grad,
                "weight_grad" => Tolerance::of_sums(EXACT, self.rows, 70),
                _ => tolerances[at],
            };
            close(name, &got[at], &wanted[at], tolerance)?;
        }
        equal("a sum is rounded once", &got[2], &wanted[2])
    }
}
