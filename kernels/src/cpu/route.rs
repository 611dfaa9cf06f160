//! Routing of tokens to experts: softmax, the best few, their balance, and the moves there and back.

use super::{Cpu, Number, expect_len, number};
use crate::KernelError;
use crate::operations::{DispatchShape, Done, RouteShape};
use rayon::prelude::*;

const KERNEL: &str = "route";

/// Rows per task.
const BLOCK_ROWS: usize = 64;

impl<F: Number> Cpu<F> {
    pub(super) fn route_forward(
        &self,
        shape: RouteShape,
        logits: &[F],
        probabilities: &mut [F],
        chosen: &mut [u32],
        weights: &mut [F],
    ) -> Done {
        let RouteShape { experts, top_k, .. } = shape;
        check(shape, &[("logits", logits.len()), ("probabilities", probabilities.len())], &[("weights", weights.len())], chosen)?;
        let rows = logits.chunks_exact(experts).zip(probabilities.chunks_exact_mut(experts));
        for ((logits, probabilities), (chosen, weights)) in rows.zip(chosen.chunks_exact_mut(top_k).zip(weights.chunks_exact_mut(top_k))) {
            let max = number::max(logits);
            for (probability, &logit) in probabilities.iter_mut().zip(logits) {
                *probability = (logit - max).exp();
            }
            let total = F::of(number::sum(probabilities));
            probabilities.iter_mut().for_each(|probability| *probability = *probability / total);
            for at in 0..top_k {
                let (before, _) = chosen.split_at(at);
                let best = best_besides(probabilities, before);
                chosen[at] = best as u32;
                weights[at] = probabilities[best];
            }
            let total = F::of(number::sum(weights));
            weights.iter_mut().for_each(|weight| *weight = *weight / total);
        }
        Ok(())
    }

    /// With `p` the probabilities, `w` the weights and `s` the sum of the chosen `p`: `dp_chosen = (dw − Σ dw · w) / s`, to which the
    /// balance gradient is added; then `dlogit = p · (dp − Σ dp · p)`.
    pub(super) fn route_backward(
        &self,
        shape: RouteShape,
        probabilities: &[F],
        chosen: &[u32],
        weights_grad: &[F],
        balance_grad: &[F],
        logits_grad: &mut [F],
    ) -> Done {
        let RouteShape { experts, top_k, .. } = shape;
        let wide = [("probabilities", probabilities.len()), ("logits_grad", logits_grad.len())];
        check(shape, &wide, &[("weights_grad", weights_grad.len())], chosen)?;
        expect_len(KERNEL, &[("balance_grad", balance_grad.len(), experts)])?;
        let rows = probabilities.chunks_exact(experts).zip(logits_grad.chunks_exact_mut(experts));
        for ((probabilities, slopes), (chosen, grads)) in rows.zip(chosen.chunks_exact(top_k).zip(weights_grad.chunks_exact(top_k))) {
            let mut total = 0.0;
            let mut pull = 0.0;
            for (&expert, grad) in chosen.iter().zip(grads) {
                total += probabilities[expert as usize].wide();
                pull += probabilities[expert as usize].wide() * grad.wide();
            }
            let mut dot = number::dot(balance_grad, probabilities);
            slopes.copy_from_slice(balance_grad);
            for (&expert, grad) in chosen.iter().zip(grads) {
                let slope = (grad.wide() - pull / total) / total;
                slopes[expert as usize] += F::of(slope);
                dot += slope * probabilities[expert as usize].wide();
            }
            for (slope, &probability) in slopes.iter_mut().zip(probabilities) {
                *slope = probability * (*slope - F::of(dot));
            }
            self.round(slopes);
        }
        Ok(())
    }

    pub(super) fn balance_add(&self, shape: RouteShape, probabilities: &[F], chosen: &[u32], statistics: &mut [F]) -> Done {
        let RouteShape { rows, experts, top_k } = shape;
        check(shape, &[("probabilities", probabilities.len())], &[("chosen", rows * top_k)], chosen)?;
        expect_len(KERNEL, &[("statistics", statistics.len(), 2 * experts)])?;
        let mut sums = vec![0.0f64; 2 * experts];
        for &expert in chosen {
            sums[expert as usize] += 1.0;
        }
        for row in probabilities.chunks_exact(experts) {
            row.iter().zip(&mut sums[experts..]).for_each(|(probability, sum)| *sum += probability.wide());
        }
        statistics.iter_mut().zip(sums).for_each(|(statistic, sum)| *statistic = F::of(statistic.wide() + sum));
        Ok(())
    }

    pub(super) fn balance_loss(
        &self,
        shape: RouteShape,
        layers: usize,
        coefficient: f64,
        statistics: &[F],
        loss: &mut [F],
        balance_grad: &mut [F],
    ) -> Done {
        let RouteShape { rows, experts, .. } = shape;
        let sizes = [("statistics", statistics.len(), 2 * experts), ("balance_grad", balance_grad.len(), experts), ("loss", loss.len(), 1)];
        expect_len(KERNEL, &sizes)?;
        let total = (layers * rows).max(1) as f64;
        let factor = coefficient * experts as f64 / (total * total);
        let (counts, sums) = statistics.split_at(experts);
        loss[0] = F::of(factor * number::dot(counts, sums));
        // As for the head's loss: not a number where the loss is none.
        let none = F::ZERO * loss[0];
        balance_grad.iter_mut().zip(counts).for_each(|(grad, count)| *grad = F::of(factor * count.wide()) + none);
        Ok(())
    }

    pub(super) fn dispatch(&self, shape: RouteShape, chosen: &[u32], slots: &mut [u32], sources: &mut [u32], segments: &mut [u32]) -> Done {
        let choices = shape.rows * shape.top_k;
        check(shape, &[], &[("slots", slots.len()), ("sources", sources.len())], chosen)?;
        expect_len(KERNEL, &[("segments", segments.len(), shape.experts + 1)])?;
        if u32::try_from(choices).is_err() {
            return Err(KernelError::Value { kernel: KERNEL, argument: "chosen", wanted: "fewer than 2³² choices" });
        }
        segments.fill(0);
        for &expert in chosen {
            segments[expert as usize + 1] += 1;
        }
        for expert in 0..shape.experts {
            segments[expert + 1] += segments[expert];
        }
        let mut next = segments.to_vec();
        for (choice, (&expert, slot)) in chosen.iter().zip(slots).enumerate() {
            *slot = next[expert as usize];
            sources[*slot as usize] = choice as u32;
            next[expert as usize] += 1;
        }
        Ok(())
    }

    pub(super) fn permute_forward(&self, shape: DispatchShape, sources: &[u32], input: &[F], output: &mut [F]) -> Done {
        check_moves(shape, sources, input.len(), output.len())?;
        let DispatchShape { top_k, hidden, .. } = shape;
        let blocks = sources.par_chunks(BLOCK_ROWS).zip(output.par_chunks_mut(BLOCK_ROWS * hidden));
        self.run(|| {
            blocks.for_each(|(sources, output)| {
                for (&source, output) in sources.iter().zip(output.chunks_exact_mut(hidden)) {
                    output.copy_from_slice(row(input, source as usize / top_k, hidden));
                }
            });
        });
        Ok(())
    }

    pub(super) fn permute_backward(&self, shape: DispatchShape, slots: &[u32], output_grad: &[F], input_grad: &mut [F]) -> Done {
        check_moves(shape, slots, input_grad.len(), output_grad.len())?;
        self.gather(shape, slots, |_| F::ONE, output_grad, input_grad);
        Ok(())
    }

    pub(super) fn combine_forward(&self, shape: DispatchShape, slots: &[u32], weights: &[F], input: &[F], output: &mut [F]) -> Done {
        check_moves(shape, slots, output.len(), input.len())?;
        expect_len(KERNEL, &[("weights", weights.len(), slots.len())])?;
        self.gather(shape, slots, |choice| weights[choice], input, output);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn combine_backward(
        &self,
        shape: DispatchShape,
        slots: &[u32],
        sources: &[u32],
        weights: &[F],
        input: &[F],
        output_grad: &[F],
        input_grad: &mut [F],
        weights_grad: &mut [F],
    ) -> Done {
        check_moves(shape, slots, output_grad.len(), input.len())?;
        check_moves(shape, sources, output_grad.len(), input_grad.len())?;
        expect_len(KERNEL, &[("weights", weights.len(), slots.len()), ("weights_grad", weights_grad.len(), slots.len())])?;
        let DispatchShape { top_k, hidden, .. } = shape;
        let blocks = sources.par_chunks(BLOCK_ROWS).zip(input_grad.par_chunks_mut(BLOCK_ROWS * hidden));
        self.run(|| {
            blocks.for_each(|(sources, input_grad)| {
                for (&source, input_grad) in sources.iter().zip(input_grad.chunks_exact_mut(hidden)) {
                    let weight = weights[source as usize];
                    let grads = row(output_grad, source as usize / top_k, hidden);
                    input_grad.iter_mut().zip(grads).for_each(|(input, &grad)| *input = weight * grad);
                    self.round(input_grad);
                }
            });
            weights_grad.par_iter_mut().with_min_len(BLOCK_ROWS).enumerate().for_each(|(choice, weight)| {
                let value = row(input, slots[choice] as usize, hidden);
                *weight = F::of(number::dot(value, row(output_grad, choice / top_k, hidden)));
            });
        });
        Ok(())
    }

    /// `output[row] = Σ_k factor(row · top_k + k) · input[slots[row, k]]`.
    fn gather(&self, shape: DispatchShape, slots: &[u32], factor: impl Fn(usize) -> F + Sync, input: &[F], output: &mut [F]) {
        let DispatchShape { top_k, hidden, .. } = shape;
        let blocks = slots.par_chunks(BLOCK_ROWS * top_k).zip(output.par_chunks_mut(BLOCK_ROWS * hidden)).enumerate();
        self.run(|| {
            blocks.for_each(|(block, (slots, output))| {
                for (at, (slots, output)) in slots.chunks_exact(top_k).zip(output.chunks_exact_mut(hidden)).enumerate() {
                    output.fill(F::ZERO);
                    for (k, &slot) in slots.iter().enumerate() {
                        let factor = factor((block * BLOCK_ROWS + at) * top_k + k);
                        output.iter_mut().zip(row(input, slot as usize, hidden)).for_each(|(sum, &value)| *sum += factor * value);
                    }
                    self.round(output);
                }
            });
        });
    }
}

/// The largest probability that is not among `before`, of equals the first; a row of NaN gives its first free expert.
fn best_besides<F: Number>(probabilities: &[F], before: &[u32]) -> usize {
    let mut best: Option<usize> = None;
    for (expert, &probability) in probabilities.iter().enumerate() {
        if !before.contains(&(expert as u32)) && best.is_none_or(|best| probability > probabilities[best]) {
            best = Some(expert);
        }
    }
    best.unwrap_or(0)
}

fn row<F>(data: &[F], row: usize, hidden: usize) -> &[F] {
    &data[row * hidden..(row + 1) * hidden]
}

/// Sizes of what has a number per expert, of what has one per choice, and the range of the choices.
fn check(shape: RouteShape, wide: &[(&'static str, usize)], narrow: &[(&'static str, usize)], chosen: &[u32]) -> Done {
    let RouteShape { rows, experts, top_k } = shape;
    if top_k == 0 || top_k > experts {
        return Err(KernelError::Value { kernel: KERNEL, argument: "top_k", wanted: "from 1 to the number of experts" });
    }
    for &(argument, len) in wide {
        expect_len(KERNEL, &[(argument, len, rows * experts)])?;
    }
    for &(argument, len) in narrow {
        expect_len(KERNEL, &[(argument, len, rows * top_k)])?;
    }
    expect_len(KERNEL, &[("chosen", chosen.len(), rows * top_k)])?;
    if chosen.iter().any(|&expert| expert as usize >= experts) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "chosen", wanted: "below the number of experts" });
    }
    Ok(())
}

fn check_moves(shape: DispatchShape, moves: &[u32], tokens: usize, slots: usize) -> Done {
    let DispatchShape { rows, top_k, hidden } = shape;
    if top_k == 0 || hidden == 0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "hidden", wanted: "one or more, as the choices" });
    }
    let sizes = [("moves", moves.len(), rows * top_k), ("tokens", tokens, rows * hidden), ("slots", slots, rows * top_k * hidden)];
    expect_len(KERNEL, &sizes)?;
    if moves.iter().any(|&slot| slot as usize >= rows * top_k) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "moves", wanted: "below the number of choices" });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, check_threads, close, numbers};

    const SHAPE: RouteShape = RouteShape { rows: 7, experts: 5, top_k: 2 };

    fn route(logits: &[f64]) -> (Vec<f64>, Vec<u32>, Vec<f64>) {
        let (mut probabilities, mut chosen, mut weights) = (vec![0.0; 35], vec![0; 14], vec![0.0; 14]);
        Cpu::new(1).unwrap().route_forward(SHAPE, logits, &mut probabilities, &mut chosen, &mut weights).unwrap();
        (probabilities, chosen, weights)
    }

    #[test]
    fn the_best_are_chosen_and_share_one() {
        let logits = [0.0, 2.0, 1.0, 2.0, -1.0];
        let (mut probabilities, mut chosen, mut weights) = ([0.0; 5], [0; 3], [0.0; 3]);
        let shape = RouteShape { rows: 1, experts: 5, top_k: 3 };
        Cpu::<f64>::new(1).unwrap().route_forward(shape, &logits, &mut probabilities, &mut chosen, &mut weights).unwrap();
        assert_eq!(chosen, [1, 3, 2], "of equals the lower comes first");
        let total = 2.0 * 2f64.exp() + 1f64.exp();
        close("weights", &weights, &[2f64.exp() / total, 2f64.exp() / total, 1f64.exp() / total], 1e-14);
        close("sum", &[probabilities.iter().sum()], &[1.0], 1e-14);
    }

    #[test]
    fn router_gradients_match_slopes() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let (logits, weights_seed, balance_seed) = (numbers::<f64>(35, 1), numbers::<f64>(14, 2), numbers::<f64>(5, 3));
        let (probabilities, chosen, _) = route(&logits);
        let mut grad = vec![0.0; 35];
        cpu.route_backward(SHAPE, &probabilities, &chosen, &weights_seed, &balance_seed, &mut grad).unwrap();
        let seed: Vec<f64> = weights_seed.iter().copied().chain((0..35).map(|at| balance_seed[at % 5])).collect();
        check_slopes("logits", &logits, &grad, &seed, |logits| {
            let (probabilities, same, weights) = route(logits);
            assert_eq!(same, chosen, "a slope is not defined where the choice changes");
            [weights, probabilities].concat()
        });
    }

    #[test]
    fn balance_loss_is_least_when_even() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let shape = RouteShape { rows: 4, experts: 2, top_k: 1 };
        let loss = |probabilities: &[f64], chosen: &[u32]| {
            let (mut statistics, mut loss, mut grad) = ([0.0; 4], [0.0], [0.0; 2]);
            cpu.balance_add(shape, probabilities, chosen, &mut statistics).unwrap();
            cpu.balance_add(shape, probabilities, chosen, &mut statistics).unwrap();
            cpu.balance_loss(shape, 2, 0.5, &statistics, &mut loss, &mut grad).unwrap();
            (loss[0], grad)
        };
        let even = loss(&[0.5; 8], &[0, 1, 0, 1]);
        close("even", &[even.0], &[0.5], 1e-14);
        let (uneven, grad) = loss(&[0.9, 0.1, 0.9, 0.1, 0.9, 0.1, 0.9, 0.1], &[0; 4]);
        close("uneven", &[uneven], &[0.5 * 2.0 * 0.9], 1e-14);
        // Every probability of the first expert has this share: 0.5 · 2 experts · all choices / (2 layers · 4 rows).
        close("gradient", &grad, &[0.125, 0.0], 1e-14);
    }

    #[test]
    fn choices_are_sorted_stably() {
        let shape = RouteShape { rows: 3, experts: 4, top_k: 2 };
        let (mut slots, mut sources, mut segments) = ([9; 6], [9; 6], [9; 5]);
        Cpu::<f32>::new(1).unwrap().dispatch(shape, &[3, 1, 1, 3, 0, 3], &mut slots, &mut sources, &mut segments).unwrap();
        assert_eq!(segments, [0, 1, 3, 3, 6]);
        assert_eq!(sources, [4, 1, 2, 0, 3, 5]);
        assert_eq!(slots, [3, 1, 2, 4, 0, 5]);
        let error = Cpu::<f32>::new(1).unwrap().dispatch(shape, &[4; 6], &mut slots, &mut sources, &mut segments).unwrap_err();
        assert_eq!(error.to_string(), "route: `chosen` must be below the number of experts");
    }

    #[test]
    fn moves_have_gradients() {
        let (cpu, shape) = (Cpu::<f64>::new(1).unwrap(), DispatchShape { rows: 7, top_k: 2, hidden: 3 });
        let (_, chosen, weights) = route(&numbers::<f64>(35, 1));
        let (mut slots, mut sources, mut segments) = ([0; 14], [0; 14], [0; 6]);
        cpu.dispatch(SHAPE, &chosen, &mut slots, &mut sources, &mut segments).unwrap();
        let (input, seed) = (numbers::<f64>(21, 4), numbers::<f64>(42, 5));
        let mut input_grad = vec![0.0; 21];
        cpu.permute_backward(shape, &slots, &seed, &mut input_grad).unwrap();
        check_slopes("permute", &input, &input_grad, &seed, |input| {
            let mut output = vec![0.0; 42];
            cpu.permute_forward(shape, &sources, input, &mut output).unwrap();
            output
        });
        let (values, seed) = (numbers::<f64>(42, 6), numbers::<f64>(21, 7));
        let run = |values: &[f64], weights: &[f64]| {
            let mut output = vec![0.0; 21];
            cpu.combine_forward(shape, &slots, weights, values, &mut output).unwrap();
            output
        };
        let (mut values_grad, mut weights_grad) = (vec![0.0; 42], vec![0.0; 14]);
        cpu.combine_backward(shape, &slots, &sources, &weights, &values, &seed, &mut values_grad, &mut weights_grad).unwrap();
        check_slopes("combine", &values, &values_grad, &seed, |values| run(values, &weights));
        check_slopes("weights", &weights, &weights_grad, &seed, |weights| run(&values, weights));
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let (route, shape) = (RouteShape { rows: 300, experts: 8, top_k: 2 }, DispatchShape { rows: 300, top_k: 2, hidden: 24 });
            let (logits, input) = (numbers(2400, 1), numbers(300 * 24, 2));
            let (mut probabilities, mut chosen, mut weights) = (vec![0.0; 2400], vec![0; 600], vec![0.0; 600]);
            cpu.route_forward(route, &logits, &mut probabilities, &mut chosen, &mut weights).unwrap();
            let (mut slots, mut sources, mut segments) = (vec![0; 600], vec![0; 600], vec![0; 9]);
            cpu.dispatch(route, &chosen, &mut slots, &mut sources, &mut segments).unwrap();
            let [mut sent, mut grads] = [vec![0.0; 600 * 24], vec![0.0; 600 * 24]];
            let [mut output, mut summed] = [vec![0.0; 300 * 24], vec![0.0; 300 * 24]];
            let mut weights_grad = vec![0.0; 600];
            cpu.permute_forward(shape, &sources, &input, &mut sent).unwrap();
            cpu.combine_forward(shape, &slots, &weights, &sent, &mut output).unwrap();
            cpu.combine_backward(shape, &slots, &sources, &weights, &sent, &output, &mut grads, &mut weights_grad).unwrap();
            cpu.permute_backward(shape, &slots, &grads, &mut summed).unwrap();
            [sent, output, grads, weights_grad, summed].concat()
        });
    }
}
