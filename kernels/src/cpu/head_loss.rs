//! Cross entropy fused with the language-model head: logits exist for one block of rows at a time.

use super::matrix::{Size, View, multiply_parallel};
use super::{Cpu, Number, expect_len, number};
use crate::KernelError;
use crate::operations::{Done, IGNORED, LinearShape};
use rayon::prelude::*;

const KERNEL: &str = "head_loss";

/// Numbers in a block of logits: 8 Mi, 32 MiB in f32.
const BLOCK: usize = 8 << 20;

/// Rows of a block: as many as [`BLOCK`] holds, but enough that adding to the weight's gradient is not all of the work. Depends on the
/// vocabulary alone, so that the order of sums does.
fn block_rows(vocabulary: usize) -> usize {
    (BLOCK / vocabulary).clamp(16, 1024)
}

/// Where gradients go, and the factor on the sum of losses.
pub(super) struct Gradients<'a, F> {
    pub loss_scale: f64,
    pub hidden: &'a mut [F],
    /// Whether what `weight` holds is added to.
    pub add: bool,
    pub weight: &'a mut [F],
}

impl<F: Number> Cpu<F> {
    /// The losses, and the gradients if asked for.
    pub(super) fn head_loss(
        &self,
        shape: LinearShape,
        hidden: &[F],
        weight: &[F],
        targets: &[u32],
        losses: &mut [F],
        mut gradients: Option<Gradients<'_, F>>,
    ) -> Done {
        let LinearShape { rows, inputs, outputs } = shape;
        check(shape, hidden.len(), weight.len(), targets, losses.len())?;
        if let Some(gradients) = &gradients {
            let sizes = [("hidden_grad", gradients.hidden.len(), hidden.len()), ("weight_grad", gradients.weight.len(), weight.len())];
            expect_len(KERNEL, &sizes)?;
        }
        if let Some(gradients) = gradients.as_mut().filter(|gradients| rows == 0 && !gradients.add) {
            gradients.weight.fill(F::ZERO);
        }
        let block_rows = block_rows(outputs);
        let mut logits = vec![F::ZERO; block_rows.min(rows) * outputs];
        let scale = gradients.as_ref().map(|gradients| F::of(gradients.loss_scale));
        let blocks = hidden.chunks(block_rows * inputs).zip(targets.chunks(block_rows)).zip(losses.chunks_mut(block_rows));
        for (block, ((hidden, targets), losses)) in blocks.enumerate() {
            let rows = targets.len();
            let logits = &mut logits[..rows * outputs];
            self.run(|| {
                let weight = View::rows(weight, inputs).transposed();
                let size = Size { rows, columns: outputs, inner: inputs };
                multiply_parallel(size, View::rows(hidden, inputs), weight, false, logits, |_, _| {});
                let rows = logits.par_chunks_exact_mut(outputs).zip(targets).zip(losses);
                rows.for_each(|((logits, &target), loss)| *loss = self.vectorise(|| self.entropy(logits, target, scale)));
            });
            if let Some(gradients) = &mut gradients {
                let start = block * block_rows * inputs;
                let hidden_grad = &mut gradients.hidden[start..start + rows * inputs];
                let (slopes, add) = (View::rows(logits, outputs), gradients.add || block > 0);
                self.run(|| {
                    let size = Size { rows, columns: inputs, inner: outputs };
                    multiply_parallel(size, slopes, View::rows(weight, inputs), false, hidden_grad, |_, row| self.round(row));
                    let size = Size { rows: outputs, columns: inputs, inner: rows };
                    multiply_parallel(size, slopes.transposed(), View::rows(hidden, inputs), add, gradients.weight, |_, _| {});
                });
            }
        }
        Ok(())
    }

    /// The loss of one row; with `scale`, turns its logits into `scale · (softmax − one-hot)`, or NaN where the loss is not finite.
    #[inline(always)]
    fn entropy(&self, logits: &mut [F], target: u32, scale: Option<F>) -> F {
        if target == IGNORED {
            logits.fill(F::ZERO);
            return F::ZERO;
        }
        let target = target as usize;
        let max = number::max(logits);
        let at_target = logits[target] - max;
        for logit in logits.iter_mut() {
            *logit = (*logit - max).exp();
        }
        let total = number::sum(logits);
        let loss = F::of(total.ln() - at_target.wide());
        if let Some(scale) = scale {
            let scale = scale + F::ZERO * loss;
            let factor = scale / F::of(total);
            logits.iter_mut().for_each(|logit| *logit *= factor);
            logits[target] += -scale;
            self.round(logits);
        }
        loss
    }
}

fn check(shape: LinearShape, hidden: usize, weight: usize, targets: &[u32], losses: usize) -> Done {
    let LinearShape { rows, inputs, outputs } = shape;
    if inputs == 0 || outputs == 0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "weight", wanted: "one element or more" });
    }
    let sizes = [("hidden", hidden, rows * inputs), ("weight", weight, inputs * outputs), ("targets", targets.len(), rows)];
    expect_len(KERNEL, &sizes)?;
    expect_len(KERNEL, &[("losses", losses, rows)])?;
    if targets.iter().any(|&target| target != IGNORED && target as usize >= outputs) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "targets", wanted: "below the size of the vocabulary" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, check_threads, close, numbers};

    fn naive(shape: LinearShape, hidden: &[f64], weight: &[f64], targets: &[u32]) -> Vec<f64> {
        let row = |row: usize| {
            let logit = |token: usize| -> f64 {
                (0..shape.inputs).map(|at| hidden[row * shape.inputs + at] * weight[token * shape.inputs + at]).sum()
            };
            let total: f64 = (0..shape.outputs).map(|token| logit(token).exp()).sum();
            if targets[row] == IGNORED { 0.0 } else { total.ln() - logit(targets[row] as usize) }
        };
        (0..shape.rows).map(row).collect()
    }

    #[test]
    fn losses_and_gradients_match_the_definition() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let shape = LinearShape { rows: 5, inputs: 3, outputs: 7 };
        let (hidden, weight, targets) = (numbers::<f64>(15, 1), numbers::<f64>(21, 2), [6, 0, IGNORED, 3, 3]);
        let run = |hidden: &[f64], weight: &[f64]| {
            let mut losses = vec![9.0; 5];
            cpu.head_loss(shape, hidden, weight, &targets, &mut losses, None).unwrap();
            losses
        };
        close("losses", &run(&hidden, &weight), &naive(shape, &hidden, &weight, &targets), 1e-13);
        let (mut losses, mut hidden_grad, mut weight_grad) = (vec![0.0; 5], vec![9.0; 15], vec![0.0; 21]);
        let gradients = Gradients { loss_scale: 0.25, hidden: &mut hidden_grad, add: true, weight: &mut weight_grad };
        cpu.head_loss(shape, &hidden, &weight, &targets, &mut losses, Some(gradients)).unwrap();
        close("losses with gradients", &losses, &run(&hidden, &weight), 0.0);
        let mut alone = vec![9.0; 21];
        let gradients = Gradients { loss_scale: 0.25, hidden: &mut hidden_grad, add: false, weight: &mut alone };
        cpu.head_loss(shape, &hidden, &weight, &targets, &mut losses, Some(gradients)).unwrap();
        close("weights overwritten", &alone, &weight_grad, 0.0);
        check_slopes("hidden", &hidden, &hidden_grad, &[0.25; 5], |hidden| run(hidden, &weight));
        check_slopes("weight", &weight, &weight_grad, &[0.25; 5], |weight| run(&hidden, weight));
        assert!(cpu.head_loss(shape, &hidden, &weight, &[7; 5], &mut losses, None).is_err());
    }

    #[test]
    fn blocks_meet_without_a_seam() {
        assert_eq!((block_rows(32_000), block_rows(1), block_rows(1 << 30)), (262, 1024, 16));
        let cpu = Cpu::<f64>::new(2).unwrap();
        let shape = LinearShape { rows: 1030, inputs: 2, outputs: 3 };
        let (hidden, weight) = (numbers::<f64>(2060, 1), numbers::<f64>(6, 2));
        let targets: Vec<u32> = (0..1030).map(|row| row % 3).collect();
        let (mut losses, mut hidden_grad, mut weight_grad) = (vec![0.0; 1030], vec![0.0; 2060], vec![0.0; 6]);
        let gradients = Gradients { loss_scale: 1.0, hidden: &mut hidden_grad, add: true, weight: &mut weight_grad };
        cpu.head_loss(shape, &hidden, &weight, &targets, &mut losses, Some(gradients)).unwrap();
        close("losses", &losses, &naive(shape, &hidden, &weight, &targets), 1e-12);
        check_slopes("weight", &weight, &weight_grad, &[1.0; 1030], |weight| naive(shape, &hidden, weight, &targets));
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let shape = LinearShape { rows: 1, inputs: 1, outputs: 2 };
        let mut losses = [0.0f32];
        Cpu::new(1).unwrap().head_loss(shape, &[1e4], &[1.0, -1.0], &[1], &mut losses, None).unwrap();
        assert_eq!(losses, [2e4]);
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let shape = LinearShape { rows: 333, inputs: 33, outputs: 301 };
            let (hidden, weight) = (numbers(333 * 33, 1), numbers(301 * 33, 2));
            let targets: Vec<u32> = (0..333).map(|row| if row % 10 == 0 { IGNORED } else { row % 301 }).collect();
            let (mut losses, mut hidden_grad, mut weight_grad) = (vec![0.0; 333], vec![0.0; hidden.len()], vec![0.0; weight.len()]);
            let gradients = Gradients { loss_scale: 1.0 / 300.0, hidden: &mut hidden_grad, add: true, weight: &mut weight_grad };
            cpu.head_loss(shape, &hidden, &weight, &targets, &mut losses, Some(gradients)).unwrap();
            [losses, hidden_grad, weight_grad].concat()
        });
    }
}
