//! The gated activation of the feed-forward network (Shazeer 2020): `silu(gate) · up`.

use super::{Cpu, Number, expect_len};
use crate::operations::Done;
use rayon::prelude::*;

const KERNEL: &str = "swiglu";

/// Numbers per task.
const BLOCK: usize = 16 * 1024;

impl<F: Number> Cpu<F> {
    pub(super) fn swiglu_forward(&self, gate: &[F], up: &[F], output: &mut [F]) -> Done {
        expect_len(KERNEL, &[("up", up.len(), gate.len()), ("output", output.len(), gate.len())])?;
        let blocks = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK)).zip(output.par_chunks_mut(BLOCK));
        self.run(|| {
            blocks.for_each(|((gate, up), output)| {
                self.vectorise(|| {
                    for ((&gate, &up), output) in gate.iter().zip(up).zip(output.iter_mut()) {
                        *output = gate * sigmoid(gate) * up;
                    }
                    self.round(output);
                });
            });
        });
        Ok(())
    }

    /// With `s = sigmoid(gate)`: `silu'(gate) = s · (1 + gate · (1 − s))`.
    pub(super) fn swiglu_backward(&self, gate: &[F], up: &[F], output_grad: &[F], gate_grad: &mut [F], up_grad: &mut [F]) -> Done {
        let wanted = gate.len();
        let sizes = [("up", up.len(), wanted), ("output_grad", output_grad.len(), wanted)];
        expect_len(KERNEL, &sizes)?;
        expect_len(KERNEL, &[("gate_grad", gate_grad.len(), wanted), ("up_grad", up_grad.len(), wanted)])?;
        let blocks = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK)).zip(output_grad.par_chunks(BLOCK));
        let blocks = blocks.zip(gate_grad.par_chunks_mut(BLOCK)).zip(up_grad.par_chunks_mut(BLOCK));
        self.run(|| {
            blocks.for_each(|((((gate, up), output_grad), gate_grad), up_grad)| {
                self.vectorise(|| {
                    let inputs = gate.iter().zip(up).zip(output_grad);
                    for (((&gate, &up), &grad), (gate_grad, up_grad)) in inputs.zip(gate_grad.iter_mut().zip(up_grad.iter_mut())) {
                        let s = sigmoid(gate);
                        *gate_grad = grad * up * s * (F::ONE + gate * (F::ONE - s));
                        *up_grad = grad * gate * s;
                    }
                    self.round(gate_grad);
                    self.round(up_grad);
                });
            });
        });
        Ok(())
    }
}

#[inline(always)]
fn sigmoid<F: Number>(x: F) -> F {
    F::ONE / (F::ONE + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, check_threads, close, numbers};

    #[test]
    fn gradients_match_slopes() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let (gate, up, seed) = (numbers::<f64>(40, 1), numbers::<f64>(40, 2), numbers::<f64>(40, 3));
        let run = |gate: &[f64], up: &[f64]| {
            let mut output = vec![0.0; gate.len()];
            cpu.swiglu_forward(gate, up, &mut output).unwrap();
            output
        };
        let naive: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + f64::exp(-g)) * u).collect();
        close("output", &run(&gate, &up), &naive, 1e-13);
        let (mut gate_grad, mut up_grad) = (vec![0.0; 40], vec![0.0; 40]);
        cpu.swiglu_backward(&gate, &up, &seed, &mut gate_grad, &mut up_grad).unwrap();
        check_slopes("gate", &gate, &gate_grad, &seed, |gate| run(gate, &up));
        check_slopes("up", &up, &up_grad, &seed, |up| run(&gate, up));
    }

    #[test]
    fn far_gates_saturate() {
        let mut output = [0.0f32; 3];
        Cpu::new(1).unwrap().swiglu_forward(&[-1e4, 1e4, 0.0], &[1.0; 3], &mut output).unwrap();
        assert_eq!(output, [0.0, 1e4, 0.0]);
    }

    #[test]
    fn threads_do_not_matter() {
        check_threads(|cpu| {
            let count = 2 * BLOCK + 77;
            let (gate, up) = (numbers(count, 1), numbers(count, 2));
            let [mut output, mut gate_grad, mut up_grad] = [vec![0.0; count], vec![0.0; count], vec![0.0; count]];
            cpu.swiglu_forward(&gate, &up, &mut output).unwrap();
            cpu.swiglu_backward(&gate, &up, &output, &mut gate_grad, &mut up_grad).unwrap();
            [output, gate_grad, up_grad].concat()
        });
    }
}
