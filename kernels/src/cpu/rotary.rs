//! Rotary positions (Su et al. 2021) in the half-split layout, after an optional norm of each head (Qwen3).

use super::{Cpu, Number, expect_len, rmsnorm};
use crate::KernelError;
use crate::operations::{Done, RotaryShape};
use rayon::prelude::*;

const KERNEL: &str = "rotary";

/// Rows per task, and per partial sum of the norm weight's gradient.
const BLOCK_ROWS: usize = 64;

/// What the backward pass of the head norm needs: its input, weight and scales, and where its weight's gradient is added.
pub(super) type NormGrad<'a, F> = (&'a [F], &'a [F], &'a [F], &'a mut [F]);

impl<F: Number> Cpu<F> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn rotary_forward(
        &self,
        shape: RotaryShape,
        table: &[F],
        positions: &[u32],
        input: &[F],
        norm: Option<(&[F], f64)>,
        output: &mut [F],
        scale: &mut [F],
    ) -> Done {
        let RotaryShape { rows, heads, head_dim } = shape;
        check(shape, table, positions)?;
        let scales = if norm.is_some() { rows * heads } else { scale.len() };
        expect_len(KERNEL, &[("input", input.len(), rows * heads * head_dim), ("output", output.len(), input.len())])?;
        expect_len(KERNEL, &[("norm", norm.map_or(head_dim, |(weight, _)| weight.len()), head_dim), ("scale", scale.len(), scales)])?;
        let row_len = heads * head_dim;
        let block = BLOCK_ROWS * row_len;
        // Without a norm the scales are not touched, however many there are.
        let mut scales: Vec<&mut [F]> = scale.chunks_mut(BLOCK_ROWS * heads).collect();
        scales.resize_with(rows.div_ceil(BLOCK_ROWS), Default::default);
        let blocks = input.par_chunks(block).zip(output.par_chunks_mut(block)).zip(positions.par_chunks(BLOCK_ROWS)).zip(scales);
        self.run(|| {
            blocks.for_each(|(((input, output), positions), scale)| {
                self.vectorise(|| {
                    let mut scale = scale.iter_mut();
                    for ((input, output), &position) in input.chunks_exact(row_len).zip(output.chunks_exact_mut(row_len)).zip(positions) {
                        let angles = &table[position as usize * head_dim..(position as usize + 1) * head_dim];
                        for (input, output) in input.chunks_exact(head_dim).zip(output.chunks_exact_mut(head_dim)) {
                            match norm {
                                Some((weight, epsilon)) => {
                                    let factor = rmsnorm::normalise(epsilon, input, weight, output);
                                    scale.next().map(|scale| *scale = factor).unwrap_or_default();
                                }
                                None => output.copy_from_slice(input),
                            }
                            rotate(output, angles, F::ONE);
                        }
                        self.round(output);
                    }
                });
            });
        });
        Ok(())
    }

    pub(super) fn rotary_backward(
        &self,
        shape: RotaryShape,
        table: &[F],
        positions: &[u32],
        norm: Option<NormGrad<'_, F>>,
        grad: &mut [F],
    ) -> Done {
        let RotaryShape { rows, heads, head_dim } = shape;
        check(shape, table, positions)?;
        expect_len(KERNEL, &[("grad", grad.len(), rows * heads * head_dim)])?;
        let row_len = heads * head_dim;
        let block = BLOCK_ROWS * row_len;
        let (saved, weight_grad) = match norm {
            Some((input, weight, scale, weight_grad)) => {
                let sizes = [("input", input.len(), grad.len()), ("norm", weight.len(), head_dim), ("scale", scale.len(), rows * heads)];
                expect_len(KERNEL, &sizes)?;
                expect_len(KERNEL, &[("norm_grad", weight_grad.len(), head_dim)])?;
                (Some((input, weight, scale)), weight_grad)
            }
            None => (None, Default::default()),
        };
        let one_block = |(at, (grad, positions)): (usize, (&mut [F], &[u32]))| {
            let mut sums = vec![0.0f64; if saved.is_some() { head_dim } else { 0 }];
            self.vectorise(|| {
                let mut turned = vec![F::ZERO; head_dim];
                for (row, (grad, &position)) in grad.chunks_exact_mut(row_len).zip(positions).enumerate() {
                    let angles = &table[position as usize * head_dim..(position as usize + 1) * head_dim];
                    for (head, grad) in grad.chunks_exact_mut(head_dim).enumerate() {
                        rotate(grad, angles, -F::ONE);
                        if let Some((input, weight, scale)) = saved {
                            let at = (at * BLOCK_ROWS + row) * heads + head;
                            turned.copy_from_slice(grad);
                            grad.fill(F::ZERO);
                            let input = &input[at * head_dim..(at + 1) * head_dim];
                            rmsnorm::slope(input, weight, scale[at].wide(), &turned, grad, &mut sums);
                        }
                    }
                    self.round(grad);
                }
            });
            sums
        };
        let blocks = grad.par_chunks_mut(block).zip(positions.par_chunks(BLOCK_ROWS));
        let sums: Vec<Vec<f64>> = self.run(|| blocks.enumerate().map(one_block).collect());
        for (at, grad) in weight_grad.iter_mut().enumerate() {
            *grad = F::of(grad.wide() + sums.iter().map(|sums| sums[at]).sum::<f64>());
        }
        Ok(())
    }
}

/// Turns each pair `(j, j + half)` by its angle, or back where `sign` is −1.
#[inline(always)]
fn rotate<F: Number>(head: &mut [F], angles: &[F], sign: F) {
    let half = head.len() / 2;
    let (first, second) = head.split_at_mut(half);
    let (cosines, sines) = angles.split_at(half);
    for (((a, b), &cosine), &sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
        let sine = sine * sign;
        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
    }
}

fn check<F>(shape: RotaryShape, table: &[F], positions: &[u32]) -> Done {
    let RotaryShape { rows, heads, head_dim } = shape;
    if head_dim == 0 || !head_dim.is_multiple_of(2) || heads == 0 || !table.len().is_multiple_of(head_dim) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "head_dim", wanted: "even, and rows of the table that long" });
    }
    if positions.iter().any(|&position| position as usize >= table.len() / head_dim) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "positions", wanted: "below the rows of the table" });
    }
    expect_len(KERNEL, &[("positions", positions.len(), rows)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, check_threads, close, numbers};

    fn table(positions: usize, head_dim: usize) -> Vec<f64> {
        let angle = |position: usize, pair: usize| position as f64 * 100f64.powf(-2.0 * pair as f64 / head_dim as f64);
        (0..positions)
            .flat_map(|position| {
                let half = move |call: fn(f64) -> f64| (0..head_dim / 2).map(move |pair| call(angle(position, pair)));
                half(f64::cos).chain(half(f64::sin))
            })
            .collect()
    }

    #[test]
    fn gradients_match_slopes() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        for (rows, heads, head_dim) in [(1, 1, 2), (5, 3, 6), (70, 2, 4)] {
            let shape = RotaryShape { rows, heads, head_dim };
            let (table, positions) = (table(9, head_dim), (0..rows as u32).map(|row| row * 5 % 9).collect::<Vec<_>>());
            let count = rows * heads * head_dim;
            let (input, weight, seed) = (numbers(count, 1), numbers(head_dim, 2), numbers(count, 3));
            for with_norm in [false, true] {
                let run = |input: &[f64], weight: &[f64]| {
                    let (mut output, mut scale) = (vec![0.0; count], vec![0.0; rows * heads]);
                    let norm = with_norm.then_some((weight, 1e-6));
                    cpu.rotary_forward(shape, &table, &positions, input, norm, &mut output, &mut scale).unwrap();
                    (output, scale)
                };
                let scale = run(&input, &weight).1;
                let (mut grad, mut weight_grad) = (seed.clone(), vec![0.0; head_dim]);
                let norm = with_norm.then_some((&input[..], &weight[..], &scale[..], &mut weight_grad[..]));
                cpu.rotary_backward(shape, &table, &positions, norm, &mut grad).unwrap();
                check_slopes("input", &input, &grad, &seed, |input| run(input, &weight).0);
                if with_norm {
                    check_slopes("weight", &weight, &weight_grad, &seed, |weight| run(&input, weight).0);
                }
            }
        }
    }

    #[test]
    fn angles_are_of_the_position() {
        let (cpu, table) = (Cpu::<f64>::new(1).unwrap(), table(4, 2));
        let mut output = [0.0; 2];
        let shape = RotaryShape { rows: 1, heads: 1, head_dim: 2 };
        cpu.rotary_forward(shape, &table, &[3], &[1.0, 0.0], None, &mut output, &mut []).unwrap();
        close("turned", &output, &[3f64.cos(), 3f64.sin()], 1e-15);
        assert!(cpu.rotary_forward(shape, &table, &[4], &[1.0, 0.0], None, &mut output, &mut []).is_err());
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let shape = RotaryShape { rows: 333, heads: 3, head_dim: 16 };
            let table: Vec<f32> = table(40, 16).iter().map(|x| *x as f32).collect();
            let positions: Vec<u32> = (0..333).map(|row| row % 40).collect();
            let count = 333 * 48;
            let (input, weight, mut grad) = (numbers(count, 1), numbers(16, 2), numbers(count, 3));
            let (mut output, mut scale, mut weight_grad) = (vec![0.0; count], vec![0.0; 999], vec![0.0; 16]);
            cpu.rotary_forward(shape, &table, &positions, &input, Some((&weight, 1e-6)), &mut output, &mut scale).unwrap();
            cpu.rotary_backward(shape, &table, &positions, Some((&input, &weight, &scale, &mut weight_grad)), &mut grad).unwrap();
            [output, scale, grad, weight_grad].concat()
        });
    }
}
