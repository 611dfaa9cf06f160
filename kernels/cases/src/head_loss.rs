//! `cuda/head_loss.cu` and the products around it.

use crate::{Tolerance, Visitor, Work, close, equal, exact, index, largest, numbers, read_exact, read_stored, spoil, stored};
use osler_kernels::Operations;
use osler_kernels::operations::{IGNORED, LinearShape};

/// The cases that an emulator can run.
pub fn visit(visitor: &mut impl Visitor) {
    // One word; less than a warp of words; more words than a block has threads; a row that is sure of itself; no rows; rows that meet a
    // second block of logits.
    let cases = [(1, 8, 1, 1.0), (11, 16, 20, 1.0), (9, 24, 1300, 1.0), (6, 8, 100, 50.0), (0, 8, 10, 1.0), (4100, 8, 3, 1.0)];
    for (rows, inputs, outputs, sharpness) in cases {
        visitor.visit(&Case { shape: LinearShape { rows, inputs, outputs }, sharpness, special: Special::Nothing });
    }
    for special in [Special::NoTargets, Special::SpoiltRows, Special::WordWithout, Special::InfiniteWord, Special::OutOfReach] {
        visitor.visit(&Case { shape: LinearShape { rows: 7, inputs: 8, outputs: 700 }, sharpness: 1.0, special });
    }
}

/// Cases of sizes that models have.
pub fn visit_large(visitor: &mut impl Visitor) {
    visitor.visit(&Case { shape: LinearShape { rows: 300, inputs: 1024, outputs: 32_000 }, sharpness: 0.1, special: Special::Nothing });
}

struct Case {
    shape: LinearShape,
    /// Factor on the hidden rows: how sure the model is.
    sharpness: f32,
    special: Special,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    Nothing,
    /// All are to be ignored.
    NoTargets,
    /// A row has a number that is infinite, another one that is none.
    SpoiltRows,
    /// A word's weights have one that is no number: so has each row a logit, the first that its thread sees.
    WordWithout,
    /// They have an infinite one, so that logits are infinite, of both signs.
    InfiniteWord,
    /// A row's target, and no other word, has a logit of minus infinity: the sum is too large for one.
    OutOfReach,
}

impl Work for Case {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let LinearShape { rows, inputs, outputs } = self.shape;
        let mut hidden: Vec<f32> = numbers(rows * inputs, 1).iter().map(|x| x * self.sharpness).collect();
        let mut weight = numbers(inputs * outputs, 2);
        match self.special {
            Special::SpoiltRows => spoil(&mut hidden, inputs, 5 * inputs),
            Special::WordWithout => spoil(&mut weight, usize::MAX, 5 * inputs),
            Special::InfiniteWord => spoil(&mut weight, 600 * inputs, usize::MAX),
            Special::OutOfReach => (hidden[2 * inputs], weight[14 * inputs]) = (1e38, -8.0),
            Special::Nothing | Special::NoTargets => {}
        }
        let (hidden, weight) = (stored(device, &hidden), stored(device, &weight));
        let is_ignored = |row: usize| row % 5 == 3 || self.special == Special::NoTargets;
        let targets: Vec<u32> = (0..rows).map(|row| if is_ignored(row) { IGNORED } else { (row * 7 % outputs) as u32 }).collect();
        let targets = index(device, &targets);
        let [mut alone, mut losses] = [(); 2].map(|()| device.new_exact(rows).unwrap());
        let mut hidden_grad = stored(device, &numbers(rows * inputs, 3));
        let mut weight_grad = exact(device, &numbers(inputs * outputs, 4));
        device.head_loss_forward(self.shape, &hidden, &weight, &targets, &mut alone).unwrap();
        let scale = 1.0 / rows as f64;
        device
            .head_loss_forward_backward(
                self.shape,
                &hidden,
                &weight,
                &targets,
                scale,
                &mut losses,
                &mut hidden_grad,
                true,
                &mut weight_grad,
            )
            .unwrap();
        let mut lone_grad = exact(device, &numbers(inputs * outputs, 5));
        device
            .head_loss_forward_backward(self.shape, &hidden, &weight, &targets, scale, &mut losses, &mut hidden_grad, false, &mut lone_grad)
            .unwrap();
        vec![
            read_exact(device, &alone, rows),
            read_exact(device, &losses, rows),
            read_stored(device, &hidden_grad, rows * inputs),
            read_exact(device, &weight_grad, inputs * outputs),
            read_exact(device, &lone_grad, inputs * outputs),
        ]
    }

    fn name(&self) -> String {
        let LinearShape { rows, inputs, outputs } = self.shape;
        format!("head loss, {rows} x {inputs} x {outputs}, {:?}", self.special)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        equal("losses with gradients and without", &got[0], &got[1])?;
        if self.special == Special::OutOfReach && (got[1][2] != f32::INFINITY || got[4].iter().any(|slope| !slope.is_nan())) {
            return Err("a loss that is no number, and gradients that are some".into());
        }
        // Logits of some hundreds in f32.
        close("losses", &got[1], &wanted[1], Tolerance { relative: 2e-6, absolute: 2e-6 * self.sharpness })?;
        // A logit's gradient is rounded, 1/256 of it apart at most where the two fall on both sides of a tie.
        let slack = |at: usize| Tolerance { relative: 1.0 / 128.0, absolute: largest(&wanted[at]) / 512.0 };
        close("hidden_grad", &got[2], &wanted[2], slack(2))?;
        close("weight_grad added", &got[3], &wanted[3], slack(3))?;
        close("weight_grad", &got[4], &wanted[4], slack(4))
    }
}
