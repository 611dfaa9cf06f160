//! Root-mean-square normalisation (Zhang and Sennrich 2019): `output = weight * input * scale`, `scale = 1 / sqrt(mean(input²) + epsilon)`,
//! row by row.

use crate::KernelError;

const KERNEL: &str = "rmsnorm";

/// Normalises `input` of `[rows, hidden]` with `weight` of `[hidden]` into `output` of `[rows, hidden]`, and keeps the factor of every row
/// in `scale` of `[rows]` for [`backward`].
///
/// # Errors
/// [`KernelError::Shape`] when the slices do not fit together, [`KernelError::Value`] when `epsilon` is negative or not a number.
pub fn forward(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32], scale: &mut [f32]) -> Result<(), KernelError> {
    if epsilon.is_nan() || epsilon < 0.0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "epsilon", wanted: "zero or more" });
    }
    check(input, weight, &[("output", output.len(), input.len())], scale.len())?;
    let hidden = weight.len();
    for ((input, output), scale) in input.chunks_exact(hidden).zip(output.chunks_exact_mut(hidden)).zip(scale) {
        let squares: f64 = input.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let factor = (squares / hidden as f64 + f64::from(epsilon)).sqrt().recip();
        *scale = factor as f32;
        for ((&x, &w), y) in input.iter().zip(weight).zip(output) {
            *y = (f64::from(x) * factor * f64::from(w)) as f32;
        }
    }
    Ok(())
}

/// Writes `input_grad` of `[rows, hidden]` and adds to `weight_grad` of `[hidden]`, from `output_grad` of `[rows, hidden]`.
///
/// With `s` the row's scale and `g = weight * output_grad`: `input_grad = s * (g - input * s² * mean(g * input))`, and
/// `weight_grad += sum over rows of output_grad * input * s`.
///
/// # Errors
/// [`KernelError::Shape`] when the slices do not fit together.
pub fn backward(
    input: &[f32],
    weight: &[f32],
    scale: &[f32],
    output_grad: &[f32],
    input_grad: &mut [f32],
    weight_grad: &mut [f32],
) -> Result<(), KernelError> {
    let sizes = [
        ("output_grad", output_grad.len(), input.len()),
        ("input_grad", input_grad.len(), input.len()),
        ("weight_grad", weight_grad.len(), weight.len()),
    ];
    check(input, weight, &sizes, scale.len())?;
    let hidden = weight.len();
    let mut weight_sums = vec![0.0f64; hidden];
    let rows = input.chunks_exact(hidden).zip(output_grad.chunks_exact(hidden)).zip(input_grad.chunks_exact_mut(hidden)).zip(scale);
    for (((input, output_grad), input_grad), &scale) in rows {
        let scale = f64::from(scale);
        let mut dot = 0.0;
        for (((&x, &dy), &w), sum) in input.iter().zip(output_grad).zip(weight).zip(&mut weight_sums) {
            dot += f64::from(dy) * f64::from(w) * f64::from(x);
            *sum += f64::from(dy) * f64::from(x) * scale;
        }
        let pull = dot / hidden as f64 * scale * scale;
        for (((&x, &dy), &w), dx) in input.iter().zip(output_grad).zip(weight).zip(input_grad) {
            *dx = (scale * (f64::from(dy) * f64::from(w) - f64::from(x) * pull)) as f32;
        }
    }
    for (grad, sum) in weight_grad.iter_mut().zip(weight_sums) {
        *grad = (f64::from(*grad) + sum) as f32;
    }
    Ok(())
}

fn check(input: &[f32], weight: &[f32], sizes: &[(&'static str, usize, usize)], rows: usize) -> Result<(), KernelError> {
    if weight.is_empty() {
        return Err(KernelError::Value { kernel: KERNEL, argument: "weight", wanted: "one element or more" });
    }
    let whole = input.len().next_multiple_of(weight.len());
    let sizes = sizes.iter().copied().chain([("input", input.len(), whole), ("scale", rows, whole / weight.len())]);
    for (argument, got, wanted) in sizes {
        if got != wanted {
            return Err(KernelError::Shape { kernel: KERNEL, argument, wanted, got });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in f64, from which slopes are taken.
    fn loss(input: &[f64], weight: &[f64], epsilon: f64, seed: &[f64]) -> f64 {
        let hidden = weight.len();
        let row = |input: &[f64], seed: &[f64]| -> f64 {
            let mean = input.iter().map(|x| x * x).sum::<f64>() / hidden as f64;
            (0..hidden).map(|at| seed[at] * weight[at] * input[at] / (mean + epsilon).sqrt()).sum()
        };
        input.chunks(hidden).zip(seed.chunks(hidden)).map(|(input, seed)| row(input, seed)).sum()
    }

    fn numbers(count: usize, salt: u32) -> Vec<f32> {
        (0..count as u32).map(|at| ((at * 37 + salt * 101) % 61) as f32 / 20.0 - 1.45).collect()
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().copied().map(f64::from).collect()
    }

    #[test]
    fn gradients_match_finite_differences() {
        const EPSILON: f32 = 1e-5;
        for (rows, hidden) in [(1, 1), (1, 7), (3, 8), (5, 33)] {
            let (input, weight, seed) = (numbers(rows * hidden, 1), numbers(hidden, 2), numbers(rows * hidden, 3));
            let (mut output, mut scale) = (vec![0.0; input.len()], vec![0.0; rows]);
            forward(&input, &weight, EPSILON, &mut output, &mut scale).unwrap();
            let value: f64 = output.iter().zip(&seed).map(|(y, s)| f64::from(*y) * f64::from(*s)).sum();
            let (input64, weight64, seed64) = (wide(&input), wide(&weight), wide(&seed));
            let epsilon = f64::from(EPSILON);
            assert!((value - loss(&input64, &weight64, epsilon, &seed64)).abs() < 1e-4);
            let (mut input_grad, mut weight_grad) = (vec![0.0; input.len()], vec![1.0; hidden]);
            backward(&input, &weight, &scale, &seed, &mut input_grad, &mut weight_grad).unwrap();
            let slope = |at: usize, values: &[f64], call: &dyn Fn(&[f64]) -> f64| {
                let step = 1e-5;
                let moved = |by: f64| {
                    let mut values = values.to_vec();
                    values[at] += by;
                    call(&values)
                };
                (moved(step) - moved(-step)) / (2.0 * step)
            };
            for (at, got) in input_grad.iter().enumerate() {
                let wanted = slope(at, &input64, &|input| loss(input, &weight64, epsilon, &seed64));
                assert!((f64::from(*got) - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "input {at}: {got} {wanted}");
            }
            for (at, got) in weight_grad.iter().enumerate() {
                // The gradient is added to the 1 that was there.
                let wanted = 1.0 + slope(at, &weight64, &|weight| loss(&input64, weight, epsilon, &seed64));
                assert!((f64::from(*got) - wanted).abs() < 1e-4 * (1.0 + wanted.abs()), "weight {at}");
            }
        }
    }

    #[test]
    fn shapes_are_checked() {
        let error = forward(&[1.0; 5], &[1.0; 2], 0.0, &mut [0.0; 5], &mut [0.0; 2]).unwrap_err().to_string();
        assert_eq!(error, "rmsnorm: `input` has 5 elements, wanted 6");
        assert!(forward(&[], &[], 0.0, &mut [], &mut []).is_err());
        assert!(forward(&[1.0], &[1.0], f32::NAN, &mut [0.0], &mut [0.0]).is_err());
        assert!(backward(&[1.0; 4], &[1.0; 2], &[1.0; 2], &[0.0; 4], &mut [0.0; 4], &mut [0.0; 1]).is_err());
    }

    #[test]
    fn zero_rows_stay_zero() {
        let (mut output, mut scale) = ([9.0; 2], [0.0; 1]);
        forward(&[0.0, 0.0], &[1.0, 1.0], 1e-6, &mut output, &mut scale).unwrap();
        assert_eq!((output, scale), ([0.0, 0.0], [1000.0]));
    }
}
