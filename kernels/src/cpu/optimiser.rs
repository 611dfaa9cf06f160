//! AdamW, and sums and the norm of gradients.

use super::{Cpu, Number, expect_len, number};
use crate::KernelError;
use crate::blockwise::{self, Map, SIGNED, UNSIGNED};
use crate::operations::{AdamState, AdamW, AdamWFactors, Blockwise, Done, Moments};
use rayon::prelude::*;

const KERNEL: &str = "adamw";

/// Numbers per task, and per partial sum of a norm; whole blocks of blockwise moments.
const BLOCK: usize = 16 * 1024;

/// Squares of gradients, and what those are scaled by so that their norm is `most` at most.
#[derive(Debug)]
pub struct Norm {
    pub(super) most: f64,
    pub(super) squares: Vec<f64>,
    /// Of the sum of the squares: the norm.
    pub(super) root: f64,
    pub(super) factor: f64,
}

/// What was told last.
#[derive(Debug)]
pub struct Board {
    pub(super) numbers: Vec<f32>,
    /// Once it was told to its end.
    pub(super) norm: Option<f64>,
}

impl Norm {
    pub(super) fn clip(&mut self) {
        self.root = self.squares.iter().fold(0.0, |sum, square| sum + square).sqrt();
        self.factor = if self.root.is_finite() { (self.most / (self.root + 1e-6)).min(1.0) } else { f64::NAN };
    }
}

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

    /// With the gradient times `gradient_scale`; where that is not a number, nothing.
    pub(super) fn adamw(&self, settings: &AdamW, gradient_scale: f64, grad: &[F], state: &mut AdamState<Self>, weight: &mut [F]) -> Done {
        let wanted = weight.len();
        expect_len(KERNEL, &[("grad", grad.len(), wanted), ("rest", state.rest.as_ref().map_or(wanted, Vec::len), wanted)])?;
        let step = Step::new(settings, gradient_scale)?;
        if gradient_scale.is_nan() {
            return Ok(());
        }
        let weights = Weights { weight, rest: state.rest.as_deref_mut() };
        match &mut state.moments {
            Moments::Exact { first, second } => {
                expect_len(KERNEL, &[("first", first.len(), wanted), ("second", second.len(), wanted)])?;
                let moments = first.chunks_mut(BLOCK).zip(second.chunks_mut(BLOCK));
                self.step(step, grad, moments.map(|(first, second)| Part::Exact(first, second)).collect(), weights);
            }
            Moments::Blockwise { first, second } => {
                for (name, moment) in [("first", &first), ("second", &second)] {
                    expect_len(
                        KERNEL,
                        &[(name, moment.codes.len(), wanted), (name, moment.scales.len(), wanted.div_ceil(blockwise::BLOCK))],
                    )?;
                }
                let moments = chunks(first).zip(chunks(second));
                self.step(step, grad, moments.map(|(first, second)| Part::Blockwise(first, second)).collect(), weights);
            }
        }
        Ok(())
    }

    /// Steps the master weights, block by block.
    fn step(&self, step: Step<F>, grad: &[F], moments: Vec<Part<'_, F>>, weights: Weights<'_, F>) {
        let blocks = moments.into_par_iter().zip(grad.par_chunks(BLOCK)).zip(weights.weight.par_chunks_mut(BLOCK));
        self.run(|| match weights.rest {
            Some(rest) => blocks.zip(rest.par_chunks_mut(BLOCK)).for_each(|(((part, grad), weight), rest)| {
                self.vectorise(|| {
                    // The sum is the master weight, exactly, and so is what is left of it.
                    rest.iter_mut().zip(&*weight).for_each(|(rest, &weight)| *rest += weight);
                    step.take_part(grad, part, rest);
                    weight.copy_from_slice(rest);
                    self.round(weight);
                    rest.iter_mut().zip(&*weight).for_each(|(rest, &weight)| *rest = *rest - weight);
                });
            }),
            None => blocks.for_each(|((part, grad), weight)| self.vectorise(|| step.take_part(grad, part, weight))),
        });
    }
}

/// Stored weights and what they lack.
struct Weights<'a, F> {
    weight: &'a mut [F],
    rest: Option<&'a mut [F]>,
}

/// A block's first and second moments.
enum Part<'a, F> {
    Exact(&'a mut [F], &'a mut [F]),
    Blockwise(Codes<'a, F>, Codes<'a, F>),
}

/// Codes and their scales.
type Codes<'a, F> = (&'a mut [u8], &'a mut [F]);

fn chunks<F: Number>(moment: &mut Blockwise<Cpu<F>>) -> impl Iterator<Item = Codes<'_, F>> {
    moment.codes.chunks_mut(BLOCK).zip(moment.scales.chunks_mut(BLOCK / blockwise::BLOCK))
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
    fn new(settings: &AdamW, gradient_scale: f64) -> Result<Self, KernelError> {
        let AdamWFactors { first, second, keep, rate, second_correction, epsilon } = settings.factors(KERNEL)?;
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

    #[inline(always)]
    fn take_part(&self, grad: &[F], moments: Part<'_, F>, weight: &mut [F]) {
        match moments {
            Part::Exact(first, second) => self.take(grad, first, second, weight),
            Part::Blockwise(first, second) => self.take_blockwise(grad, first, second, weight),
        }
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

    /// The same with moments of 8 bits, block by block.
    #[inline(always)]
    fn take_blockwise(&self, grad: &[F], first: Codes<'_, F>, second: Codes<'_, F>, weight: &mut [F]) {
        let [mut m, mut v] = [[F::ZERO; blockwise::BLOCK]; 2];
        let blocks = grad.chunks(blockwise::BLOCK).zip(weight.chunks_mut(blockwise::BLOCK));
        let first = first.0.chunks_mut(blockwise::BLOCK).zip(first.1);
        let second = second.0.chunks_mut(blockwise::BLOCK).zip(second.1);
        for (((grad, weight), first), second) in blocks.zip(first).zip(second) {
            let (m, v) = (&mut m[..grad.len()], &mut v[..grad.len()]);
            widen(&SIGNED, &first, m);
            widen(&UNSIGNED, &second, v);
            self.take(grad, m, v, weight);
            narrow(&SIGNED, m, first);
            narrow(&UNSIGNED, v, second);
        }
    }
}

#[inline(always)]
fn widen<F: Number>(map: &Map, (codes, scale): &(&mut [u8], &mut F), values: &mut [F]) {
    values.iter_mut().zip(&**codes).for_each(|(value, &code)| *value = F::of(f64::from(map[usize::from(code)])) * **scale);
}

#[inline(always)]
fn narrow<F: Number>(map: &Map, values: &[F], (codes, scale): (&mut [u8], &mut F)) {
    let magnitude = |value: F| if value < F::ZERO { -value } else { value };
    // A NaN is larger than nothing: the scale stays a number.
    *scale = values.iter().fold(F::ZERO, |most, &value| if magnitude(value) > most { magnitude(value) } else { most });
    // Of a scale of zero all are zero or no numbers.
    let share = |value: F| if value == F::ZERO { 0.0 } else { (value / *scale).wide() as f32 };
    codes.iter_mut().zip(values).for_each(|(code, &value)| *code = blockwise::code(map, share(value)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_threads, close, numbers};

    const SETTINGS: AdamW = AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step: 1 };

    /// After one step from zero moments, `m̂ = g` and `v̂ = g²`: each weight moves by the learning rate, after its decay.
    #[test]
    fn the_first_step_is_known() {
        let grad = [0.5f64, -3.0, 1e-12];
        let cpu = Cpu::<f64>::new(1).unwrap();
        let mut state = AdamState::new(&cpu, 3, false).unwrap();
        let mut weight = [1.0, 2.0, 3.0];
        cpu.adamw(&SETTINGS, 1.0, &grad, &mut state, &mut weight).unwrap();
        let moved = |grad: f64| 0.01 * grad / (grad.abs() + 1e-8);
        close("weight", &weight, &[0.999 - moved(0.5), 1.998 - moved(-3.0), 2.997 - moved(1e-12)], 1e-12);
        let Moments::Exact { first, second } = &state.moments else { panic!("asked for exact ones") };
        close("first", first, &[0.05, -0.3, 1e-13], 1e-12);
        close("second", second, &[0.0125, 0.45, 5e-26], 1e-12);
    }

    #[test]
    fn clipping_scales_the_gradient() {
        let run = |grad: f32, gradient_scale: f64| {
            let mut state = AdamState::<Cpu> { moments: Moments::Exact { first: vec![0.3], second: vec![0.2] }, rest: None };
            let mut weight = [1.0];
            Cpu::new(1).unwrap().adamw(&AdamW { step: 4, ..SETTINGS }, gradient_scale, &[grad], &mut state, &mut weight).unwrap();
            let Moments::Exact { first, second } = state.moments else { panic!("these are exact") };
            (weight, first, second)
        };
        assert_eq!(run(4.0, 0.25), run(1.0, 1.0));
        assert_eq!(run(4.0, f64::NAN), ([1.0], vec![0.3], vec![0.2]));
        let mut state = AdamState::new(&Cpu::<f32>::new(1).unwrap(), 1, false).unwrap();
        assert!(Cpu::new(1).unwrap().adamw(&AdamW { step: 0, ..SETTINGS }, 1.0, &[1.0], &mut state, &mut [1.0f32]).is_err());
    }

    #[test]
    fn master_keeps_what_bf16_loses() {
        let cpu = Cpu::<f32>::bf16(1).unwrap();
        let mut state = AdamState::new(&cpu, 1, false).unwrap();
        let mut weight = [1.0];
        let settings = AdamW { learning_rate: 1e-4, weight_decay: 0.0, ..SETTINGS };
        for step in 1..=10 {
            cpu.adamw(&AdamW { step, ..settings }, 1.0, &[1.0], &mut state, &mut weight).unwrap();
        }
        let master = weight[0] + state.rest.unwrap()[0];
        assert!((master - 0.999).abs() < 1e-6, "{master}");
        assert_eq!(weight, [master.to_bf16()]);
    }

    /// Each moment takes the nearest code of the exact one, which the step itself is taken with.
    #[test]
    fn blockwise_moments_are_near_exact_ones() {
        let (cpu, count) = (Cpu::<f32>::new(1).unwrap(), 3 * blockwise::BLOCK + 7);
        let grad: Vec<f32> = numbers::<f32>(count, 1).iter().enumerate().map(|(at, grad)| grad * 0.3f32.powi(at as i32 % 9)).collect();
        let (mut exact, mut narrow) = (AdamState::new(&cpu, count, false).unwrap(), AdamState::new(&cpu, count, true).unwrap());
        let (mut exact_weight, mut weight) = (vec![0.0; count], vec![0.0; count]);
        cpu.adamw(&SETTINGS, 1.0, &grad, &mut exact, &mut exact_weight).unwrap();
        cpu.adamw(&SETTINGS, 1.0, &grad, &mut narrow, &mut weight).unwrap();
        assert_eq!(weight, exact_weight, "the step is taken before moments are rounded");
        let (Moments::Exact { first, second }, Moments::Blockwise { first: narrow_first, second: narrow_second }) =
            (&exact.moments, &narrow.moments)
        else {
            panic!("one of each was asked for")
        };
        for (exact, narrow, map) in [(first, narrow_first, &SIGNED), (second, narrow_second, &UNSIGNED)] {
            for (block, values) in exact.chunks(blockwise::BLOCK).enumerate() {
                let scale = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                assert_eq!(narrow.scales[block], scale);
                for (at, &value) in values.iter().enumerate() {
                    let got = map[usize::from(narrow.codes[block * blockwise::BLOCK + at])] * scale;
                    let best = map.iter().map(|share| (share * scale - value).abs()).fold(f32::INFINITY, f32::min);
                    // Nothing but zero is zero: then the code is the one next to it.
                    assert!((got - value).abs() <= best.max(5.6e-7 * scale), "{value} {got} of {scale}");
                    assert!(got * value >= 0.0);
                }
            }
        }
    }

    /// What AdamW divides by stays above zero where a gradient was: weights whose gradient is gone move as they do with exact moments.
    #[test]
    fn a_gradient_that_is_gone_moves_little() {
        let (cpu, count) = (Cpu::<f32>::new(1).unwrap(), 40 * blockwise::BLOCK);
        let moved = |is_blockwise| {
            let mut state = AdamState::new(&cpu, count, is_blockwise).unwrap();
            let (mut grad, mut weight) = (numbers::<f32>(count, 1), vec![0.0; count]);
            for step in 1..20 {
                cpu.adamw(&AdamW { step, ..SETTINGS }, 1.0, &grad, &mut state, &mut weight).unwrap();
                grad.fill(0.0);
            }
            weight.iter().fold(0.0f32, |most, weight| most.max(weight.abs()))
        };
        let (exact, narrow) = (moved(false), moved(true));
        assert!(exact > 0.05 && narrow < 1.5 * exact, "{exact} {narrow}");
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let count = 3 * BLOCK + 5;
            let (grad, mut weight) = (numbers(count, 1), numbers(count, 2));
            let mut state = AdamState::new(cpu, count, false).unwrap();
            cpu.adamw(&SETTINGS, 1.0, &grad, &mut state, &mut weight).unwrap();
            let mut blockwise = AdamState::new(cpu, count, true).unwrap();
            (1..3).for_each(|step| cpu.adamw(&AdamW { step, ..SETTINGS }, 1.0, &grad, &mut blockwise, &mut weight).unwrap());
            weight.push(cpu.sum_of_squares(&grad) as f32);
            let Moments::Exact { first, second } = state.moments else { panic!("asked for exact ones") };
            let Moments::Blockwise { first: codes, .. } = blockwise.moments else { panic!("asked for blockwise ones") };
            [weight, first, second, codes.codes.iter().map(|&code| f32::from(code)).collect()].concat()
        });
        let grad = [3.0f32, 4.0];
        assert_eq!(Cpu::new(1).unwrap().sum_of_squares(&grad), 25.0);
    }
}
