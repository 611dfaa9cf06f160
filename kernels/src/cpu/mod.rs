//! CPU twins of all operations: the specification that other devices are compared with, and what trains small models.
//!
//! f32 by default; in f64 they are the reference for slopes. In bf16 mode values are rounded where a GPU stores them, and are kept in
//! f32. Work is cut into blocks that depend on shapes alone, so the result has the same bits for any number of threads.

mod attention;
mod embedding;
mod head_loss;
mod linear;
mod matrix;
mod number;
mod optimiser;
mod rmsnorm;
mod rotary;
mod route;
mod swiglu;
#[cfg(test)]
mod testing;

pub use number::Number;

use crate::KernelError;
use crate::checks::{expect_len, range};
use crate::operations::{
    AdamState, AdamW, AttentionInput, AttentionShape, DispatchShape, Done, Gradient, LinearShape, Memory, Needs, Operations, RotaryShape,
    RouteShape,
};
use optimiser::{Board, Norm};
use std::marker::PhantomData;

/// A CPU with its threads. Buffers are vectors of `F`.
pub struct Cpu<F = f32> {
    pool: rayon::ThreadPool,
    vector: pulp::Arch,
    rounds: bool,
    number: PhantomData<fn() -> F>,
}

impl<F: Number> Cpu<F> {
    /// A CPU of `threads` threads; 0: as many as the machine has.
    ///
    /// # Errors
    /// [`KernelError::Threads`] when the system gives no threads.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|at| format!("osler-cpu-{at}")).build();
        let pool = pool.map_err(|error| KernelError::Threads(error.to_string()))?;
        Ok(Self { pool, vector: pulp::Arch::new(), rounds: false, number: PhantomData })
    }

    /// The same in bf16 mode: every store into a stored buffer rounds.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn bf16(threads: usize) -> Result<Self, KernelError> {
        Ok(Self { rounds: true, ..Self::new(threads)? })
    }

    /// Runs `work`, whose parallel iterators use this CPU's threads.
    fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Runs `work` compiled for the widest vectors of this machine. Every function it calls must be inlined into it.
    #[inline(always)]
    fn vectorise<R>(&self, work: impl FnOnce() -> R) -> R {
        self.vector.dispatch(work)
    }

    /// What a store does to `values`.
    #[inline(always)]
    fn round(&self, values: &mut [F]) {
        if self.rounds {
            values.iter_mut().for_each(|value| *value = value.to_bf16());
        }
    }
}

impl<F> std::fmt::Debug for Cpu<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cpu").field("threads", &self.pool.current_num_threads()).field("bf16", &self.rounds).finish()
    }
}

impl<F: Number> Memory for Cpu<F> {
    type Stored = Vec<F>;
    type Exact = Vec<F>;
    type Index = Vec<u32>;
    /// A difference of an f32 and its upper half is an f32.
    type Rest = Vec<F>;
    type Bytes = Vec<u8>;
    type Norm = Norm;
    type Board = Board;

    fn needs_master(&self) -> bool {
        self.rounds
    }

    fn new_stored(&self, len: usize) -> Result<Vec<F>, KernelError> {
        self.new_exact(len)
    }

    fn new_exact(&self, len: usize) -> Result<Vec<F>, KernelError> {
        zeros(len)
    }

    fn new_index(&self, len: usize) -> Result<Vec<u32>, KernelError> {
        zeros(len)
    }

    fn new_rest(&self, len: usize) -> Result<Vec<F>, KernelError> {
        self.new_exact(len)
    }

    fn new_bytes(&self, len: usize) -> Result<Vec<u8>, KernelError> {
        zeros(len)
    }

    fn new_norm(&self, gradients: usize, most: f64) -> Result<Norm, KernelError> {
        Ok(Norm { most, squares: zeros(gradients)?, root: 0.0, factor: 1.0 })
    }

    fn new_board(&self, len: usize) -> Result<Board, KernelError> {
        Ok(Board { numbers: zeros(len)?, norm: None })
    }

    /// Asks the system, which does not promise more than the machine has; nothing is touched.
    fn reserve(&self, needs: Needs) -> Result<(), KernelError> {
        let bytes = usize::try_from(needs.total()).unwrap_or(usize::MAX);
        let mut memory = Vec::<u8>::new();
        let reserved = memory.try_reserve_exact(bytes).map_err(|_| KernelError::Memory { bytes });
        // Else the compiler may see that nobody uses it, and not ask.
        std::hint::black_box(&mut memory);
        reserved
    }
}

fn zeros<T: Copy + Default>(len: usize) -> Result<Vec<T>, KernelError> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(len).map_err(|_| KernelError::Memory { bytes: len.saturating_mul(size_of::<T>()) })?;
    buffer.resize(len, T::default());
    Ok(buffer)
}

impl<F: Number> Operations for Cpu<F> {
    fn write_stored(&self, buffer: &mut Vec<F>, at: usize, values: &[f32]) -> Done {
        let range = range("values", at, values.len(), buffer.len())?;
        self.write_exact(buffer, at, values)?;
        self.round(&mut buffer[range]);
        Ok(())
    }

    fn write_exact(&self, buffer: &mut Vec<F>, at: usize, values: &[f32]) -> Done {
        let range = range("values", at, values.len(), buffer.len())?;
        buffer[range].iter_mut().zip(values).for_each(|(to, &from)| *to = F::of(f64::from(from)));
        Ok(())
    }

    fn write_index(&self, buffer: &mut Vec<u32>, values: &[u32]) -> Done {
        expect_len("copy", &[("values", values.len(), buffer.len())])?;
        buffer.copy_from_slice(values);
        Ok(())
    }

    fn read_stored(&self, buffer: &Vec<F>, at: usize, values: &mut [f32]) -> Done {
        self.read_exact(buffer, at, values)
    }

    fn read_exact(&self, buffer: &Vec<F>, at: usize, values: &mut [f32]) -> Done {
        let range = range("values", at, values.len(), buffer.len())?;
        values.iter_mut().zip(&buffer[range]).for_each(|(to, from)| *to = from.wide() as f32);
        Ok(())
    }

    fn read_index(&self, buffer: &Vec<u32>) -> Result<Vec<u32>, KernelError> {
        Ok(buffer.clone())
    }

    fn write_master(&self, weight: &mut Vec<F>, rest: &mut Vec<F>, at: usize, values: &[f32]) -> Done {
        let range = range("values", at, values.len(), weight.len().min(rest.len()))?;
        self.write_stored(weight, at, values)?;
        let weights = weight[range.clone()].iter().zip(values);
        rest[range].iter_mut().zip(weights).for_each(|(rest, (&weight, &value))| *rest = F::of(f64::from(value)) - weight);
        Ok(())
    }

    fn read_master(&self, weight: &Vec<F>, rest: &Vec<F>, at: usize, values: &mut [f32]) -> Done {
        let range = range("values", at, values.len(), weight.len().min(rest.len()))?;
        let weights = weight[range.clone()].iter().zip(&rest[range]);
        values.iter_mut().zip(weights).for_each(|(to, (&weight, &rest))| *to = (weight + rest).wide() as f32);
        Ok(())
    }

    fn write_bytes(&self, buffer: &mut Vec<u8>, at: usize, values: &[u8]) -> Done {
        let range = range("values", at, values.len(), buffer.len())?;
        buffer[range].copy_from_slice(values);
        Ok(())
    }

    fn read_bytes(&self, buffer: &Vec<u8>, at: usize, values: &mut [u8]) -> Done {
        let range = range("values", at, values.len(), buffer.len())?;
        values.copy_from_slice(&buffer[range]);
        Ok(())
    }

    fn copy_stored(&self, from: &Vec<F>, to: &mut Vec<F>, at: usize) -> Done {
        let range = range("from", at, from.len(), to.len())?;
        to[range].copy_from_slice(from);
        Ok(())
    }

    fn zero_stored(&self, buffer: &mut Vec<F>) -> Done {
        buffer.fill(F::ZERO);
        Ok(())
    }

    fn zero_exact(&self, buffer: &mut Vec<F>) -> Done {
        buffer.fill(F::ZERO);
        Ok(())
    }

    fn embedding_forward(&self, hidden: usize, tokens: &Vec<u32>, table: &Vec<F>, output: &mut Vec<F>) -> Done {
        self.embedding_forward(hidden, tokens, table, output)
    }

    fn embedding_backward(&self, hidden: usize, tokens: &Vec<u32>, output_grad: &Vec<F>, table_grad: &mut Vec<F>) -> Done {
        self.embedding_backward(hidden, tokens, output_grad, table_grad)
    }

    fn rmsnorm_forward(&self, epsilon: f64, input: &Vec<F>, weight: &Vec<F>, output: &mut Vec<F>, scale: &mut Vec<F>) -> Done {
        self.rmsnorm_forward(epsilon, input, weight, output, scale)
    }

    fn add_rmsnorm_forward(
        &self,
        epsilon: f64,
        input: &Vec<F>,
        addend: &Vec<F>,
        weight: &Vec<F>,
        sum: &mut Vec<F>,
        output: &mut Vec<F>,
        scale: &mut Vec<F>,
    ) -> Done {
        self.add_rmsnorm_forward(epsilon, input, addend, weight, sum, output, scale)
    }

    fn rmsnorm_backward(
        &self,
        input: &Vec<F>,
        weight: &Vec<F>,
        scale: &Vec<F>,
        output_grad: &Vec<F>,
        input_grad: &mut Vec<F>,
        weight_grad: &mut Vec<F>,
    ) -> Done {
        self.rmsnorm_backward(input, weight, scale, output_grad, input_grad, weight_grad)
    }

    fn linear_forward(&self, shape: LinearShape, input: &Vec<F>, weight: &Vec<F>, bias: Option<&Vec<F>>, output: &mut Vec<F>) -> Done {
        self.linear_forward(shape, input, weight, bias.map(Vec::as_slice), output)
    }

    fn linear_backward_input(&self, shape: LinearShape, output_grad: &Vec<F>, weight: &Vec<F>, add: bool, input_grad: &mut Vec<F>) -> Done {
        self.linear_backward_input(shape, output_grad, weight, add, input_grad)
    }

    fn linear_backward_weight(
        &self,
        shape: LinearShape,
        output_grad: &Vec<F>,
        input: &Vec<F>,
        add: bool,
        weight_grad: &mut Gradient<Self>,
        bias_grad: Option<&mut Vec<F>>,
    ) -> Done {
        let (weight_grad, is_stored) = numbers_mut(weight_grad);
        self.linear_backward_weight(shape, output_grad, input, add, (weight_grad, is_stored), bias_grad.map(Vec::as_mut_slice))
    }

    fn grouped_linear_forward(
        &self,
        shape: LinearShape,
        segments: &Vec<u32>,
        input: &Vec<F>,
        weight: &Vec<F>,
        output: &mut Vec<F>,
    ) -> Done {
        self.grouped_linear_forward(shape, segments, input, weight, output)
    }

    fn grouped_linear_backward_input(
        &self,
        shape: LinearShape,
        segments: &Vec<u32>,
        output_grad: &Vec<F>,
        weight: &Vec<F>,
        add: bool,
        input_grad: &mut Vec<F>,
    ) -> Done {
        self.grouped_linear_backward_input(shape, segments, output_grad, weight, add, input_grad)
    }

    fn grouped_linear_backward_weight(
        &self,
        shape: LinearShape,
        segments: &Vec<u32>,
        output_grad: &Vec<F>,
        input: &Vec<F>,
        add: bool,
        weight_grad: &mut Gradient<Self>,
    ) -> Done {
        self.grouped_linear_backward_weight(shape, segments, output_grad, input, add, numbers_mut(weight_grad))
    }

    fn rotary_forward(
        &self,
        shape: RotaryShape,
        table: &Vec<F>,
        positions: &Vec<u32>,
        input: &Vec<F>,
        norm: Option<(&Vec<F>, f64)>,
        output: &mut Vec<F>,
        scale: &mut Vec<F>,
    ) -> Done {
        let norm = norm.map(|(weight, epsilon)| (weight.as_slice(), epsilon));
        self.rotary_forward(shape, table, positions, input, norm, output, scale)
    }

    fn rotary_backward(
        &self,
        shape: RotaryShape,
        table: &Vec<F>,
        positions: &Vec<u32>,
        norm: Option<(&Vec<F>, &Vec<F>, &Vec<F>, &mut Vec<F>)>,
        grad: &mut Vec<F>,
    ) -> Done {
        let norm = norm.map(|(input, weight, scale, grad)| (input.as_slice(), weight.as_slice(), scale.as_slice(), grad.as_mut_slice()));
        self.rotary_backward(shape, table, positions, norm, grad)
    }

    fn attention_forward(
        &self,
        shape: AttentionShape,
        input: AttentionInput<'_, Self>,
        output: &mut Vec<F>,
        log_sum_exp: &mut Vec<F>,
    ) -> Done {
        self.attention_forward(shape, slices(&input), output, log_sum_exp)
    }

    fn attention_cached(&self, shape: AttentionShape, before: usize, input: AttentionInput<'_, Self>, output: &mut Vec<F>) -> Done {
        self.attention_cached(shape, before, slices(&input), output)
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        input: AttentionInput<'_, Self>,
        output: &Vec<F>,
        log_sum_exp: &Vec<F>,
        output_grad: &Vec<F>,
        query_grad: &mut Vec<F>,
        key_grad: &mut Vec<F>,
        value_grad: &mut Vec<F>,
    ) -> Done {
        let saved = attention::Saved { output, log_sum_exp, output_grad };
        self.attention_backward(shape, slices(&input), saved, query_grad, key_grad, value_grad)
    }

    fn swiglu_forward(&self, gate: &Vec<F>, up: &Vec<F>, output: &mut Vec<F>) -> Done {
        self.swiglu_forward(gate, up, output)
    }

    fn swiglu_backward(&self, gate: &Vec<F>, up: &Vec<F>, output_grad: &Vec<F>, gate_grad: &mut Vec<F>, up_grad: &mut Vec<F>) -> Done {
        self.swiglu_backward(gate, up, output_grad, gate_grad, up_grad)
    }

    fn route_forward(
        &self,
        shape: RouteShape,
        logits: &Vec<F>,
        probabilities: &mut Vec<F>,
        chosen: &mut Vec<u32>,
        weights: &mut Vec<F>,
    ) -> Done {
        self.route_forward(shape, logits, probabilities, chosen, weights)
    }

    fn route_backward(
        &self,
        shape: RouteShape,
        probabilities: &Vec<F>,
        chosen: &Vec<u32>,
        weights_grad: &Vec<F>,
        balance_grad: &Vec<F>,
        logits_grad: &mut Vec<F>,
    ) -> Done {
        self.route_backward(shape, probabilities, chosen, weights_grad, balance_grad, logits_grad)
    }

    fn balance_add(&self, shape: RouteShape, probabilities: &Vec<F>, chosen: &Vec<u32>, statistics: &mut Vec<F>) -> Done {
        self.balance_add(shape, probabilities, chosen, statistics)
    }

    fn balance_loss(
        &self,
        shape: RouteShape,
        layers: usize,
        coefficient: f64,
        statistics: &Vec<F>,
        loss: &mut Vec<F>,
        balance_grad: &mut Vec<F>,
    ) -> Done {
        self.balance_loss(shape, layers, coefficient, statistics, loss, balance_grad)
    }

    fn dispatch(
        &self,
        shape: RouteShape,
        chosen: &Vec<u32>,
        slots: &mut Vec<u32>,
        sources: &mut Vec<u32>,
        segments: &mut Vec<u32>,
    ) -> Done {
        self.dispatch(shape, chosen, slots, sources, segments)
    }

    fn permute_forward(&self, shape: DispatchShape, sources: &Vec<u32>, input: &Vec<F>, output: &mut Vec<F>) -> Done {
        self.permute_forward(shape, sources, input, output)
    }

    fn permute_backward(&self, shape: DispatchShape, slots: &Vec<u32>, output_grad: &Vec<F>, input_grad: &mut Vec<F>) -> Done {
        self.permute_backward(shape, slots, output_grad, input_grad)
    }

    fn combine_forward(&self, shape: DispatchShape, slots: &Vec<u32>, weights: &Vec<F>, input: &Vec<F>, output: &mut Vec<F>) -> Done {
        self.combine_forward(shape, slots, weights, input, output)
    }

    fn combine_backward(
        &self,
        shape: DispatchShape,
        slots: &Vec<u32>,
        sources: &Vec<u32>,
        weights: &Vec<F>,
        input: &Vec<F>,
        output_grad: &Vec<F>,
        input_grad: &mut Vec<F>,
        weights_grad: &mut Vec<F>,
    ) -> Done {
        self.combine_backward(shape, slots, sources, weights, input, output_grad, input_grad, weights_grad)
    }

    fn head_loss_forward(&self, shape: LinearShape, hidden: &Vec<F>, weight: &Vec<F>, targets: &Vec<u32>, losses: &mut Vec<F>) -> Done {
        self.head_loss(shape, hidden, weight, targets, losses, None)
    }

    fn head_loss_forward_backward(
        &self,
        shape: LinearShape,
        hidden: &Vec<F>,
        weight: &Vec<F>,
        targets: &Vec<u32>,
        loss_scale: f64,
        losses: &mut Vec<F>,
        hidden_grad: &mut Vec<F>,
        add: bool,
        weight_grad: &mut Vec<F>,
    ) -> Done {
        let gradients = head_loss::Gradients { loss_scale, hidden: hidden_grad, add, weight: weight_grad };
        self.head_loss(shape, hidden, weight, targets, losses, Some(gradients))
    }

    fn squares(&self, gradients: &[(usize, &Gradient<Self>)], norm: &mut Norm) -> Done {
        for &(place, gradient) in gradients {
            range("squares", place, 1, norm.squares.len())?;
            norm.squares[place] = self.sum_of_squares(numbers(gradient));
        }
        Ok(())
    }

    fn read_squares(&self, norm: &Norm) -> Result<Vec<f64>, KernelError> {
        Ok(norm.squares.clone())
    }

    fn write_squares(&self, norm: &mut Norm, squares: &[f64]) -> Done {
        expect_len("norm", &[("squares", squares.len(), norm.squares.len())])?;
        norm.squares.copy_from_slice(squares);
        Ok(())
    }

    fn clip(&self, norm: &mut Norm) -> Done {
        norm.clip();
        Ok(())
    }

    fn tell(&self, numbers: &Vec<F>, board: &mut Board, at: usize) -> Done {
        let range = range("numbers", at, numbers.len(), board.numbers.len())?;
        board.norm = None;
        self.read_exact(numbers, 0, &mut board.numbers[range])
    }

    fn end_telling(&self, norm: Option<&Norm>, board: &mut Board) -> Done {
        board.norm = Some(norm.map_or(0.0, |norm| norm.root));
        Ok(())
    }

    fn told(&self, board: &mut Board, numbers: &mut [f32]) -> Result<f64, KernelError> {
        let range = range("numbers", 0, numbers.len(), board.numbers.len())?;
        numbers.copy_from_slice(&board.numbers[range]);
        board.norm.take().ok_or_else(KernelError::nothing_told)
    }

    fn add_exact(&self, addend: &Vec<F>, sum: &mut Vec<F>) -> Done {
        self.add_exact(addend, sum)
    }

    fn adamw(&self, settings: &AdamW, norm: &Norm, grad: &Gradient<Self>, state: &mut AdamState<Self>, weight: &mut Vec<F>) -> Done {
        self.adamw(settings, norm.factor, numbers(grad), state, weight)
    }
}

/// A gradient's numbers: here, stored ones are rounded and as wide as exact ones.
fn numbers<F: Number>(gradient: &Gradient<Cpu<F>>) -> &[F] {
    match gradient {
        Gradient::Exact(numbers) | Gradient::Stored(numbers) => numbers,
    }
}

/// The same to be written, and whether what is written is rounded.
fn numbers_mut<F: Number>(gradient: &mut Gradient<Cpu<F>>) -> (&mut [F], bool) {
    match gradient {
        Gradient::Exact(numbers) => (numbers, false),
        Gradient::Stored(numbers) => (numbers, true),
    }
}

fn slices<'a, F: Number>(input: &AttentionInput<'a, Cpu<F>>) -> attention::Input<'a, F> {
    attention::Input { query: input.query, key: input.key, value: input.value, lo: input.lo }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_no_machine_has_is_refused_at_once() {
        let cpu = Cpu::<f32>::new(1).unwrap();
        cpu.reserve(Needs { buffers: 1 << 20, ..Needs::default() }).unwrap();
        for bytes in [1 << 47, u64::MAX] {
            assert!(matches!(cpu.reserve(Needs { buffers: bytes, ..Needs::default() }), Err(KernelError::Memory { .. })), "{bytes}");
        }
    }
}
