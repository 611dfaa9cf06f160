//! Linear maps and their gradients, one or one per expert.

use super::matrix::{Size, View, multiply_parallel};
use super::{Cpu, Number, expect_len};
use crate::KernelError;
use crate::operations::{Done, LinearShape};
use std::ops::Range;

const KERNEL: &str = "linear";

impl<F: Number> Cpu<F> {
    pub(super) fn linear_forward(&self, shape: LinearShape, input: &[F], weight: &[F], bias: Option<&[F]>, output: &mut [F]) -> Done {
        let LinearShape { rows, inputs, outputs } = shape;
        check(shape, 1, input.len(), weight.len(), output.len())?;
        expect_len(KERNEL, &[("bias", bias.map_or(outputs, <[F]>::len), outputs)])?;
        let size = Size { rows, columns: outputs, inner: inputs };
        let finish = |columns: Range<usize>, row: &mut [F]| {
            self.vectorise(|| {
                if let Some(bias) = bias {
                    row.iter_mut().zip(&bias[columns]).for_each(|(output, &bias)| *output += bias);
                }
                self.round(row);
            });
        };
        self.run(|| multiply_parallel(size, View::rows(input, inputs), View::rows(weight, inputs).transposed(), false, output, finish));
        Ok(())
    }

    pub(super) fn linear_backward_input(
        &self,
        shape: LinearShape,
        output_grad: &[F],
        weight: &[F],
        add: bool,
        input_grad: &mut [F],
    ) -> Done {
        let LinearShape { rows, inputs, outputs } = shape;
        check(shape, 1, input_grad.len(), weight.len(), output_grad.len())?;
        let size = Size { rows, columns: inputs, inner: outputs };
        let (left, right) = (View::rows(output_grad, outputs), View::rows(weight, inputs));
        self.run(|| multiply_parallel(size, left, right, add, input_grad, |_, row| self.round(row)));
        Ok(())
    }

    pub(super) fn linear_backward_weight(
        &self,
        shape: LinearShape,
        output_grad: &[F],
        input: &[F],
        add: bool,
        (weight_grad, is_stored): (&mut [F], bool),
        bias_grad: Option<&mut [F]>,
    ) -> Done {
        let LinearShape { rows, inputs, outputs } = shape;
        check(shape, 1, input.len(), weight_grad.len(), output_grad.len())?;
        expect_len(KERNEL, &[("bias_grad", bias_grad.as_ref().map_or(outputs, |grad| grad.len()), outputs)])?;
        let size = Size { rows: outputs, columns: inputs, inner: rows };
        let left = View::rows(output_grad, outputs).transposed();
        let finish = |_: Range<usize>, row: &mut [F]| {
            if is_stored {
                self.round(row);
            }
        };
        self.run(|| multiply_parallel(size, left, View::rows(input, inputs), add, weight_grad, finish));
        if let Some(bias_grad) = bias_grad {
            let mut sums = vec![0.0f64; outputs];
            for row in output_grad.chunks_exact(outputs) {
                sums.iter_mut().zip(row).for_each(|(sum, grad)| *sum += grad.wide());
            }
            bias_grad.iter_mut().zip(sums).for_each(|(grad, sum)| *grad = F::of(grad.wide() + sum));
        }
        Ok(())
    }

    pub(super) fn grouped_linear_forward(&self, shape: LinearShape, segments: &[u32], input: &[F], weight: &[F], output: &mut [F]) -> Done {
        let experts = experts(shape, segments)?;
        check(shape, experts, input.len(), weight.len(), output.len())?;
        for (part, input_range, weight_range, output_range) in parts(shape, segments) {
            self.linear_forward(part, &input[input_range], &weight[weight_range], None, &mut output[output_range])?;
        }
        Ok(())
    }

    pub(super) fn grouped_linear_backward_input(
        &self,
        shape: LinearShape,
        segments: &[u32],
        output_grad: &[F],
        weight: &[F],
        add: bool,
        input_grad: &mut [F],
    ) -> Done {
        let experts = experts(shape, segments)?;
        check(shape, experts, input_grad.len(), weight.len(), output_grad.len())?;
        for (part, input_range, weight_range, output_range) in parts(shape, segments) {
            self.linear_backward_input(part, &output_grad[output_range], &weight[weight_range], add, &mut input_grad[input_range])?;
        }
        Ok(())
    }

    pub(super) fn grouped_linear_backward_weight(
        &self,
        shape: LinearShape,
        segments: &[u32],
        output_grad: &[F],
        input: &[F],
        add: bool,
        (weight_grad, is_stored): (&mut [F], bool),
    ) -> Done {
        let experts = experts(shape, segments)?;
        check(shape, experts, input.len(), weight_grad.len(), output_grad.len())?;
        for (part, input_range, weight_range, output_range) in parts(shape, segments).filter(|(part, ..)| part.rows > 0 || !add) {
            let (output_grad, weight_grad) = (&output_grad[output_range], &mut weight_grad[weight_range]);
            self.linear_backward_weight(part, output_grad, &input[input_range], add, (weight_grad, is_stored), None)?;
        }
        Ok(())
    }
}

fn check(shape: LinearShape, experts: usize, input: usize, weight: usize, output: usize) -> Done {
    let LinearShape { rows, inputs, outputs } = shape;
    if inputs == 0 || outputs == 0 {
        return Err(KernelError::Value { kernel: KERNEL, argument: "weight", wanted: "one element or more" });
    }
    let sizes = [("input", input, rows * inputs), ("weight", weight, experts * inputs * outputs), ("output", output, rows * outputs)];
    expect_len(KERNEL, &sizes)
}

fn experts(shape: LinearShape, segments: &[u32]) -> Result<usize, KernelError> {
    let whole = segments.first() == Some(&0) && segments.last().map(|&end| end as usize) == Some(shape.rows);
    if whole && segments.is_sorted() {
        Ok(segments.len() - 1)
    } else {
        Err(KernelError::Value { kernel: KERNEL, argument: "segments", wanted: "from 0 to the number of rows, never falling" })
    }
}

/// The shape of each expert's part, and where its input, weight and output lie.
fn parts(shape: LinearShape, segments: &[u32]) -> impl Iterator<Item = (LinearShape, Range<usize>, Range<usize>, Range<usize>)> {
    let size = shape.inputs * shape.outputs;
    segments.windows(2).enumerate().map(move |(expert, bounds)| {
        let (start, end) = (bounds[0] as usize, bounds[1] as usize);
        let part = LinearShape { rows: end - start, ..shape };
        (part, start * shape.inputs..end * shape.inputs, expert * size..(expert + 1) * size, start * shape.outputs..end * shape.outputs)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, check_threads, close, numbers};

    #[test]
    fn gradients_match_slopes() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        for (rows, inputs, outputs) in [(1, 1, 1), (4, 3, 5), (7, 6, 2)] {
            let shape = LinearShape { rows, inputs, outputs };
            let (input, weight, bias) = (numbers(rows * inputs, 1), numbers(inputs * outputs, 2), numbers(outputs, 3));
            let seed = numbers(rows * outputs, 4);
            let run = |input: &[f64], weight: &[f64], bias: &[f64]| {
                let mut output = vec![0.0; rows * outputs];
                cpu.linear_forward(shape, input, weight, Some(bias), &mut output).unwrap();
                output
            };
            let mut input_grad = vec![9.0; input.len()];
            cpu.linear_backward_input(shape, &seed, &weight, false, &mut input_grad).unwrap();
            let (mut weight_grad, mut bias_grad) = (vec![0.0; weight.len()], vec![0.0; outputs]);
            cpu.linear_backward_weight(shape, &seed, &input, true, (&mut weight_grad, false), Some(&mut bias_grad)).unwrap();
            check_slopes("input", &input, &input_grad, &seed, |input| run(input, &weight, &bias));
            check_slopes("weight", &weight, &weight_grad, &seed, |weight| run(&input, weight, &bias));
            check_slopes("bias", &bias, &bias_grad, &seed, |bias| run(&input, &weight, bias));
        }
    }

    #[test]
    fn each_expert_has_its_rows() {
        let (cpu, shape, segments) = (Cpu::<f64>::new(1).unwrap(), LinearShape { rows: 6, inputs: 3, outputs: 2 }, [0, 2, 2, 6]);
        let (input, weight, seed) = (numbers(18, 1), numbers(18, 2), numbers(12, 3));
        let run = |input: &[f64], weight: &[f64]| {
            let mut output = vec![0.0; 12];
            cpu.grouped_linear_forward(shape, &segments, input, weight, &mut output).unwrap();
            output
        };
        let mut first = vec![0.0; 4];
        cpu.linear_forward(LinearShape { rows: 2, ..shape }, &input[..6], &weight[..6], None, &mut first).unwrap();
        close("first expert", &run(&input, &weight)[..4], &first, 0.0);
        let (mut input_grad, mut weight_grad) = (vec![9.0; 18], vec![0.0; 18]);
        cpu.grouped_linear_backward_input(shape, &segments, &seed, &weight, false, &mut input_grad).unwrap();
        cpu.grouped_linear_backward_weight(shape, &segments, &seed, &input, true, (&mut weight_grad, false)).unwrap();
        assert_eq!(weight_grad[6..12], [0.0; 6], "no row went to the second expert");
        let mut alone = vec![9.0; 18];
        cpu.grouped_linear_backward_weight(shape, &segments, &seed, &input, false, (&mut alone, false)).unwrap();
        assert_eq!(alone, weight_grad, "overwritten, or added to nothing");
        check_slopes("input", &input, &input_grad, &seed, |input| run(input, &weight));
        check_slopes("weight", &weight, &weight_grad, &seed, |weight| run(&input, weight));
        for segments in [&[0, 7][..], &[1, 6], &[0, 4, 3, 6], &[]] {
            assert!(cpu.grouped_linear_forward(shape, segments, &input, &weight, &mut [0.0; 12]).is_err());
        }
    }

    /// What is there is added before the sum is rounded, once.
    #[test]
    fn stored_gradients_are_rounded() {
        let (cpu, shape) = (Cpu::<f32>::bf16(1).unwrap(), LinearShape { rows: 5, inputs: 3, outputs: 4 });
        let [seed, input, before] = [(20, 1), (15, 2), (12, 3)].map(|(count, salt)| numbers::<f32>(count, salt));
        for add in [false, true] {
            let [mut exact, mut stored] = [(); 2].map(|()| before.clone());
            cpu.linear_backward_weight(shape, &seed, &input, add, (&mut exact, false), None).unwrap();
            cpu.linear_backward_weight(shape, &seed, &input, add, (&mut stored, true), None).unwrap();
            assert_ne!(exact, stored);
            cpu.round(&mut exact);
            assert_eq!(exact, stored);
        }
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let shape = LinearShape { rows: 301, inputs: 67, outputs: 259 };
            let (input, weight, seed) =
                (numbers(shape.rows * shape.inputs, 1), numbers(shape.inputs * shape.outputs, 2), numbers(shape.rows * shape.outputs, 3));
            let (mut output, mut input_grad) = (vec![0.0; seed.len()], vec![0.5; input.len()]);
            let (mut weight_grad, mut bias_grad) = (vec![0.0; weight.len()], vec![0.0; shape.outputs]);
            cpu.linear_forward(shape, &input, &weight, Some(&seed[..shape.outputs]), &mut output).unwrap();
            cpu.linear_backward_input(shape, &seed, &weight, true, &mut input_grad).unwrap();
            cpu.linear_backward_weight(shape, &seed, &input, true, (&mut weight_grad, false), Some(&mut bias_grad)).unwrap();
            [output, input_grad, weight_grad, bias_grad].concat()
        });
    }
}
