//! Root-mean-square normalisation (Zhang and Sennrich 2019): `output = weight · input · scale`, `scale = 1 / sqrt(mean(input²) + epsilon)`,
//! row by row.

use super::{Cpu, Number, expect_len, number};
use crate::KernelError;
use crate::operations::Done;
use rayon::prelude::*;

const KERNEL: &str = "rmsnorm";

/// Rows per task, and per partial sum of the weight's gradient: fixed, so that the order of the sum is.
const BLOCK_ROWS: usize = 64;

impl<F: Number> Cpu<F> {
    pub(super) fn rmsnorm_forward(&self, epsilon: f64, input: &[F], weight: &[F], output: &mut [F], scale: &mut [F]) -> Done {
        check(epsilon, input, weight, &[("output", output.len(), input.len())], scale.len())?;
        let hidden = weight.len();
        let block = BLOCK_ROWS * hidden;
        let blocks = input.par_chunks(block).zip(output.par_chunks_mut(block)).zip(scale.par_chunks_mut(BLOCK_ROWS));
        self.run(|| {
            blocks.for_each(|((input, output), scale)| {
                self.vectorise(|| {
                    for ((input, output), scale) in input.chunks_exact(hidden).zip(output.chunks_exact_mut(hidden)).zip(scale) {
                        *scale = normalise(epsilon, input, weight, output);
                        self.round(output);
                    }
                });
            });
        });
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn add_rmsnorm_forward(
        &self,
        epsilon: f64,
        input: &[F],
        addend: &[F],
        weight: &[F],
        sum: &mut [F],
        output: &mut [F],
        scale: &mut [F],
    ) -> Done {
        expect_len(KERNEL, &[("addend", addend.len(), input.len()), ("sum", sum.len(), input.len())])?;
        let block = BLOCK_ROWS * weight.len().max(1);
        self.run(|| {
            input.par_chunks(block).zip(addend.par_chunks(block)).zip(sum.par_chunks_mut(block)).for_each(|((input, addend), sum)| {
                self.vectorise(|| {
                    for ((&input, &addend), sum) in input.iter().zip(addend).zip(sum.iter_mut()) {
                        *sum = input + addend;
                    }
                    self.round(sum);
                });
            });
        });
        self.rmsnorm_forward(epsilon, sum, weight, output, scale)
    }

    /// With `s` the row's scale and `g = weight · output_grad`: `input_grad += s · (g − input · s² · mean(g · input))`, and
    /// `weight_grad += Σ over rows of output_grad · input · s`.
    pub(super) fn rmsnorm_backward(
        &self,
        input: &[F],
        weight: &[F],
        scale: &[F],
        output_grad: &[F],
        input_grad: &mut [F],
        weight_grad: &mut [F],
    ) -> Done {
        let sizes = [
            ("output_grad", output_grad.len(), input.len()),
            ("input_grad", input_grad.len(), input.len()),
            ("weight_grad", weight_grad.len(), weight.len()),
        ];
        check(0.0, input, weight, &sizes, scale.len())?;
        let hidden = weight.len();
        let block = BLOCK_ROWS * hidden;
        let blocks = input.par_chunks(block).zip(output_grad.par_chunks(block));
        let blocks = blocks.zip(input_grad.par_chunks_mut(block)).zip(scale.par_chunks(BLOCK_ROWS));
        let sums: Vec<Vec<f64>> = self.run(|| {
            blocks
                .map(|(((input, output_grad), input_grad), scale)| {
                    let mut sums = vec![0.0; hidden];
                    self.vectorise(|| {
                        let rows = input.chunks_exact(hidden).zip(output_grad.chunks_exact(hidden)).zip(scale);
                        for (((input, output_grad), &scale), input_grad) in rows.zip(input_grad.chunks_exact_mut(hidden)) {
                            slope(input, weight, scale.wide(), output_grad, input_grad, &mut sums);
                            self.round(input_grad);
                        }
                    });
                    sums
                })
                .collect()
        });
        for (at, grad) in weight_grad.iter_mut().enumerate() {
            *grad = F::of(grad.wide() + sums.iter().map(|sums| sums[at]).sum::<f64>());
        }
        Ok(())
    }
}

/// One row; gives its scale.
#[inline(always)]
pub(super) fn normalise<F: Number>(epsilon: f64, input: &[F], weight: &[F], output: &mut [F]) -> F {
    let mean = number::dot(input, input) / input.len() as f64;
    let scale = F::of((mean + epsilon).sqrt().recip());
    for ((&x, &w), y) in input.iter().zip(weight).zip(output) {
        *y = x * scale * w;
    }
    scale
}

/// One row of the backward pass: adds to `input_grad` and to the sums of the weight's gradient.
#[inline(always)]
pub(super) fn slope<F: Number>(input: &[F], weight: &[F], scale: f64, output_grad: &[F], input_grad: &mut [F], weight_sums: &mut [f64]) {
    let mut dot = 0.0;
    for (((&x, &dy), &w), sum) in input.iter().zip(output_grad).zip(weight).zip(weight_sums) {
        let product = dy.wide() * x.wide();
        dot += product * w.wide();
        *sum += product * scale;
    }
    let pull = F::of(dot / input.len() as f64 * scale * scale);
    let scale = F::of(scale);
    for (((&x, &dy), &w), dx) in input.iter().zip(output_grad).zip(weight).zip(input_grad) {
        *dx += scale * (dy * w - x * pull);
    }
}

fn check<F>(epsilon: f64, input: &[F], weight: &[F], sizes: &[(&'static str, usize, usize)], rows: usize) -> Done {
    if epsilon.is_nan() || epsilon < 0.0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "epsilon", wanted: "zero or more" });
    }
    if weight.is_empty() {
        return Err(KernelError::Value { kernel: KERNEL, argument: "weight", wanted: "one element or more" });
    }
    let whole = input.len().next_multiple_of(weight.len());
    expect_len(KERNEL, sizes)?;
    expect_len(KERNEL, &[("input", input.len(), whole), ("scale", rows, whole / weight.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, check_threads, close, numbers};

    fn naive(epsilon: f64, input: &[f64], weight: &[f64]) -> Vec<f64> {
        let row = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            row.iter().zip(weight).map(|(x, w)| x * w / (mean + epsilon).sqrt()).collect()
        };
        input.chunks(weight.len()).flat_map(row).collect()
    }

    #[test]
    fn gradients_match_slopes() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        for (rows, hidden) in [(1, 1), (1, 7), (3, 8), (5, 33), (130, 2)] {
            let (input, weight, seed) = (numbers(rows * hidden, 1), numbers(hidden, 2), numbers(rows * hidden, 3));
            let run = |input: &[f64], weight: &[f64]| {
                let (mut output, mut scale) = (vec![0.0; input.len()], vec![0.0; rows]);
                cpu.rmsnorm_forward(1e-5, input, weight, &mut output, &mut scale).unwrap();
                (output, scale)
            };
            let (output, scale) = run(&input, &weight);
            close("output", &output, &naive(1e-5, &input, &weight), 1e-12);
            let (mut input_grad, mut weight_grad) = (vec![0.0; input.len()], vec![0.0; hidden]);
            cpu.rmsnorm_backward(&input, &weight, &scale, &seed, &mut input_grad, &mut weight_grad).unwrap();
            check_slopes("input", &input, &input_grad, &seed, |input| run(input, &weight).0);
            check_slopes("weight", &weight, &weight_grad, &seed, |weight| run(&input, weight).0);
            // Both gradients are added to what was there.
            let (mut twice, mut weight_twice) = (input_grad.clone(), weight_grad.clone());
            cpu.rmsnorm_backward(&input, &weight, &scale, &seed, &mut twice, &mut weight_twice).unwrap();
            close("sum", &twice, &input_grad.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), 1e-12);
            close("weight sum", &weight_twice, &weight_grad.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), 1e-12);
        }
    }

    #[test]
    fn residual_is_added_first() {
        check_threads(|cpu| {
            let (rows, hidden) = (200, 24);
            let (input, addend, weight) = (numbers(rows * hidden, 1), numbers(rows * hidden, 2), numbers(hidden, 3));
            let [mut sum, mut output] = [vec![0.0; input.len()], vec![0.0; input.len()]];
            let mut scale = vec![0.0; rows];
            cpu.add_rmsnorm_forward(1e-6, &input, &addend, &weight, &mut sum, &mut output, &mut scale).unwrap();
            let (mut wanted, mut wanted_scale) = (vec![0.0; input.len()], vec![0.0; rows]);
            cpu.rmsnorm_forward(1e-6, &sum, &weight, &mut wanted, &mut wanted_scale).unwrap();
            assert_eq!((&output, &scale), (&wanted, &wanted_scale));
            assert_eq!(sum[5], cpu.rounded(input[5] + addend[5]));
            let (mut input_grad, mut weight_grad) = (vec![0.0; input.len()], vec![0.0; hidden]);
            cpu.rmsnorm_backward(&sum, &weight, &scale, &addend, &mut input_grad, &mut weight_grad).unwrap();
            [output, scale, input_grad, weight_grad].concat()
        });
    }

    #[test]
    fn shapes_are_checked() {
        let cpu = Cpu::<f32>::new(1).unwrap();
        let error = cpu.rmsnorm_forward(0.0, &[1.0; 5], &[1.0; 2], &mut [0.0; 5], &mut [0.0; 2]).unwrap_err().to_string();
        assert_eq!(error, "rmsnorm: `input` has 5 elements, wanted 6");
        assert!(cpu.rmsnorm_forward(0.0, &[], &[], &mut [], &mut []).is_err());
        assert!(cpu.rmsnorm_forward(f64::NAN, &[1.0], &[1.0], &mut [0.0], &mut [0.0]).is_err());
        assert!(cpu.rmsnorm_backward(&[1.0; 4], &[1.0; 2], &[1.0; 2], &[0.0; 4], &mut [0.0; 4], &mut [0.0; 1]).is_err());
    }

    #[test]
    fn zero_rows_stay_zero() {
        let (mut output, mut scale) = ([9.0f32; 2], [0.0; 1]);
        Cpu::new(1).unwrap().rmsnorm_forward(1e-6, &[0.0, 0.0], &[1.0, 1.0], &mut output, &mut scale).unwrap();
        assert_eq!((output, scale), ([0.0, 0.0], [1000.0]));
    }
}
