//! Rows of a table, by token.

use super::{Cpu, Number, expect_len};
use crate::KernelError;
use crate::operations::Done;

const KERNEL: &str = "embedding";

impl<F: Number> Cpu<F> {
    pub(super) fn embedding_forward(&self, hidden: usize, tokens: &[u32], table: &[F], output: &mut [F]) -> Done {
        check(hidden, tokens, table.len(), output.len())?;
        for (&token, output) in tokens.iter().zip(output.chunks_exact_mut(hidden)) {
            let start = token as usize * hidden;
            output.copy_from_slice(&table[start..start + hidden]);
        }
        Ok(())
    }

    pub(super) fn embedding_backward(&self, hidden: usize, tokens: &[u32], output_grad: &[F], table_grad: &mut [F]) -> Done {
        check(hidden, tokens, table_grad.len(), output_grad.len())?;
        // One thread: a token may occur often, and the order of its sum must be that of the rows.
        for (&token, output_grad) in tokens.iter().zip(output_grad.chunks_exact(hidden)) {
            let start = token as usize * hidden;
            for (sum, &grad) in table_grad[start..start + hidden].iter_mut().zip(output_grad) {
                *sum += grad;
            }
        }
        Ok(())
    }
}

fn check(hidden: usize, tokens: &[u32], table: usize, output: usize) -> Done {
    if hidden == 0 || !table.is_multiple_of(hidden) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "table", wanted: "whole rows of `hidden` numbers" });
    }
    if tokens.iter().any(|&token| token as usize >= table / hidden) {
        return Err(KernelError::Value { kernel: KERNEL, argument: "tokens", wanted: "below the size of the vocabulary" });
    }
    expect_len(KERNEL, &[("output", output, tokens.len() * hidden)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{check_slopes, numbers};

    #[test]
    fn gradients_match_slopes() {
        let (cpu, hidden, tokens) = (Cpu::<f64>::new(1).unwrap(), 3, [2, 0, 2, 4]);
        let (table, seed) = (numbers::<f64>(5 * hidden, 1), numbers::<f64>(tokens.len() * hidden, 2));
        let mut grad = vec![0.0; table.len()];
        cpu.embedding_backward(hidden, &tokens, &seed, &mut grad).unwrap();
        check_slopes("table", &table, &grad, &seed, |table| {
            let mut output = vec![0.0; seed.len()];
            cpu.embedding_forward(hidden, &tokens, table, &mut output).unwrap();
            output
        });
    }

    #[test]
    fn unknown_tokens_are_refused() {
        let error = Cpu::<f32>::new(1).unwrap().embedding_forward(1, &[2], &[0.0; 2], &mut [0.0]).unwrap_err();
        assert_eq!(error.to_string(), "embedding: `tokens` must be below the size of the vocabulary");
    }
}
