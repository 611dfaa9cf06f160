//! AdamW, and sums and the norm of gradients.

use super::{Cpu, Number, expect_len, number};
use crate::KernelError;
use crate::operations::{AdamState, AdamW, AdamWFactors, Done};
use rayon::prelude::*;

const KERNEL: &str = "adamw";

/// Numbers per task, and per partial sum of a norm.
const BLOCK: usize = 16 * 1024;

impl<F: Number> Cpu<F> {
    pub(super) fn sum_of_squares(&self, values: &[F]) -> f64 {
        let blocks = values.par_chunks(BLOCK);
        let sums: Vec<f64> = self.run(|| blocks.map(|block| self.vectorise(|| number::dot(block, block))).collect());
        sums.iter().sum()
    }

    pub(super) fn add_exact(&self, addend: &[F], sum: &mut [F]) -> Done {
        expect_len("add", &[("addend", addend.len(), sum.len())])?;
        let blocks = addend.par_chunks(BLOCK).zip(sum.par_chunks_mut(BLOCK));
        self.run(|| blocks.for_each(|(addend, sum)| sum.iter_mut().zip(addend).for_each(|(sum, &addend)| *sum += addend)));
        Ok(())
    }

    pub(super) fn adamw(&self, settings: &AdamW, grad: &[F], state: &mut AdamState<Self>, weight: &mut [F]) -> Done {
        let wanted = weight.len();
        let sizes = [("grad", grad.len(), wanted), ("first", state.first.len(), wanted), ("second", state.second.len(), wanted)];
        expect_len(KERNEL, &sizes)?;
        expect_len(KERNEL, &[("rest", state.rest.as_ref().map_or(wanted, Vec::len), wanted)])?;
        let step = Step::new(settings)?;
        let moments = state.first.par_chunks_mut(BLOCK).zip(state.second.par_chunks_mut(BLOCK));
        let blocks = grad.par_chunks(BLOCK).zip(moments).zip(weight.par_chunks_mut(BLOCK));
        self.run(|| match &mut state.rest {
            Some(rest) => blocks.zip(rest.par_chunks_mut(BLOCK)).for_each(|(((grad, (first, second)), weight), rest)| {
                self.vectorise(|| {
                    // The sum is the master weight, exactly, and so is what is left of it.
                    rest.iter_mut().zip(&*weight).for_each(|(rest, &weight)| *rest += weight);
                    step.take(grad, first, second, rest);
                    weight.copy_from_slice(rest);
                    self.round(weight);
                    rest.iter_mut().zip(&*weight).for_each(|(rest, &weight)| *rest = *rest - weight);
                });
            }),
            None => blocks.for_each(|((grad, (first, second)), weight)| self.vectorise(|| step.take(grad, first, second, weight))),
        });
        Ok(())
    }
}

/// The factors of one step, the same for all numbers.
#[derive(Debug, Clone, Copy)]
struct Step<F> {
    gradient_scale: F,
    first: (F, F),
    second: (F, F),
    keep: F,
    rate: F,
    second_correction: F,
    epsilon: F,
}

impl<F: Number> Step<F> {
    fn new(settings: &AdamW) -> Result<Self, KernelError> {
        let AdamWFactors { gradient_scale, first, second, keep, rate, second_correction, epsilon } = settings.factors(KERNEL)?;
        Ok(Self {
            gradient_scale: F::of(gradient_scale),
            first: first.map(F::of).into(),
            second: second.map(F::of).into(),
            keep: F::of(keep),
            rate: F::of(rate),
            second_correction: F::of(second_correction),
            epsilon: F::of(epsilon),
        })
    }

    /// `m = β₁m + (1 − β₁)g`, `v = β₂v + (1 − β₂)g²`, `w = w(1 − ηλ) − η m̂ / (√v̂ + ε)`.
    #[inline(always)]
    fn take(&self, grad: &[F], first: &mut [F], second: &mut [F], weight: &mut [F]) {
        for (((&grad, m), v), w) in grad.iter().zip(first).zip(second).zip(weight) {
            let grad = grad * self.gradient_scale;
            *m = *m * self.first.0 + grad * self.first.1;
            *v = *v * self.second.0 + grad * grad * self.second.1;
            *w = *w * self.keep - self.rate * *m / ((*v).sqrt() * self.second_correction + self.epsilon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_threads, close, numbers};

    const SETTINGS: AdamW =
        AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step: 1, gradient_scale: 1.0 };

    /// After one step from zero moments, `m̂ = g` and `v̂ = g²`: each weight moves by the learning rate, after its decay.
    #[test]
    fn the_first_step_is_known() {
        let grad = [0.5f64, -3.0, 1e-12];
        let mut state = AdamState { first: vec![0.0; 3], second: vec![0.0; 3], rest: None };
        let mut weight = [1.0, 2.0, 3.0];
        Cpu::new(1).unwrap().adamw(&SETTINGS, &grad, &mut state, &mut weight).unwrap();
        let moved = |grad: f64| 0.01 * grad / (grad.abs() + 1e-8);
        close("weight", &weight, &[0.999 - moved(0.5), 1.998 - moved(-3.0), 2.997 - moved(1e-12)], 1e-12);
        close("first", &state.first, &[0.05, -0.3, 1e-13], 1e-12);
        close("second", &state.second, &[0.0125, 0.45, 5e-26], 1e-12);
    }

    #[test]
    fn clipping_scales_the_gradient() {
        let run = |grad: f64, gradient_scale: f64| {
            let mut state = AdamState { first: vec![0.3], second: vec![0.2], rest: None };
            let mut weight = [1.0];
            Cpu::new(1).unwrap().adamw(&AdamW { gradient_scale, step: 4, ..SETTINGS }, &[grad], &mut state, &mut weight).unwrap();
            (weight, state.first, state.second)
        };
        assert_eq!(run(4.0, 0.25), run(1.0, 1.0));
        let mut state = AdamState { first: vec![0.0], second: vec![0.0], rest: None };
        assert!(Cpu::new(1).unwrap().adamw(&AdamW { step: 0, ..SETTINGS }, &[1.0], &mut state, &mut [1.0f32]).is_err());
    }

    #[test]
    fn master_keeps_what_bf16_loses() {
        let mut state = AdamState { first: vec![0.0f32], second: vec![0.0], rest: Some(vec![0.0]) };
        let mut weight = [1.0];
        let settings = AdamW { learning_rate: 1e-4, weight_decay: 0.0, ..SETTINGS };
        for step in 1..=10 {
            Cpu::bf16(1).unwrap().adamw(&AdamW { step, ..settings }, &[1.0], &mut state, &mut weight).unwrap();
        }
        let master = weight[0] + state.rest.unwrap()[0];
        assert!((master - 0.999).abs() < 1e-6, "{master}");
        assert_eq!(weight, [master.to_bf16()]);
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let count = 3 * BLOCK + 5;
            let (grad, mut weight) = (numbers(count, 1), numbers(count, 2));
            let rest = cpu.rounds().then(|| vec![0.0; count]);
            let mut state = AdamState { first: vec![0.0; count], second: vec![0.0; count], rest };
            cpu.adamw(&SETTINGS, &grad, &mut state, &mut weight).unwrap();
            weight.push(cpu.sum_of_squares(&grad) as f32);
            [weight, state.first, state.second].concat()
        });
        let grad = [3.0f32, 4.0];
        assert_eq!(Cpu::new(1).unwrap().sum_of_squares(&grad), 25.0);
    }
}
