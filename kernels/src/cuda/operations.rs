//! The operations of a GPU: checks and launches are in the file of each.

use super::attention::Saved;
use super::buffer::{Facts, join, rest_of};
use super::head_loss::Gradients;
use super::{Gpu, Launcher, expect_len};
use crate::KernelError;
use crate::operations::{
    AdamState, AdamW, AttentionInput, AttentionShape, DispatchShape, Done, Gradient, LinearShape, Operations, RotaryShape, RouteShape,
};

impl<L: Launcher> Operations for Gpu<L> {
    fn as_one<R, E: From<KernelError>>(&self, work: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        self.listed(work)
    }

    fn begin(&self) -> Done {
        self.start_listed()
    }

    fn write_stored(&self, buffer: &mut Self::Stored, at: usize, values: &[f32]) -> Done {
        self.write(buffer, at, values)
    }

    fn write_exact(&self, buffer: &mut Self::Exact, at: usize, values: &[f32]) -> Done {
        self.write(buffer, at, values)
    }

    fn write_index(&self, buffer: &mut Self::Index, values: &[u32]) -> Done {
        expect_len("copy", &[("values", values.len(), buffer.buffer.len)])?;
        self.write(&mut buffer.buffer, 0, values)?;
        buffer.facts = Some(Facts::of(values));
        Ok(())
    }

    fn read_stored(&self, buffer: &Self::Stored, at: usize, values: &mut [f32]) -> Done {
        self.read(buffer, at, values)
    }

    fn read_exact(&self, buffer: &Self::Exact, at: usize, values: &mut [f32]) -> Done {
        self.read(buffer, at, values)
    }

    fn read_index(&self, buffer: &Self::Index) -> Result<Vec<u32>, KernelError> {
        let mut values = vec![0; buffer.buffer.len];
        self.read(&buffer.buffer, 0, &mut values)?;
        Ok(values)
    }

    fn write_master(&self, weight: &mut Self::Stored, rest: &mut Self::Rest, at: usize, values: &[f32]) -> Done {
        self.write(weight, at, values)?;
        self.write(rest, at, &values.iter().map(|&value| rest_of(value)).collect::<Vec<_>>())
    }

    fn read_master(&self, weight: &Self::Stored, rest: &Self::Rest, at: usize, values: &mut [f32]) -> Done {
        self.read(weight, at, values)?;
        let mut rests = vec![0; values.len()];
        self.read(rest, at, &mut rests)?;
        values.iter_mut().zip(rests).for_each(|(value, rest)| *value = join(*value, rest));
        Ok(())
    }

    fn write_bytes(&self, buffer: &mut Self::Bytes, at: usize, values: &[u8]) -> Done {
        self.write(buffer, at, values)
    }

    fn read_bytes(&self, buffer: &Self::Bytes, at: usize, values: &mut [u8]) -> Done {
        self.read(buffer, at, values)
    }

    fn copy_stored(&self, from: &Self::Stored, to: &mut Self::Stored, at: usize) -> Done {
        self.copy(from, to, at)
    }

    fn zero_stored(&self, buffer: &mut Self::Stored) -> Done {
        self.clear(buffer)
    }

    fn zero_exact(&self, buffer: &mut Self::Exact) -> Done {
        self.clear(buffer)
    }

    fn embedding_forward(&self, hidden: usize, tokens: &Self::Index, table: &Self::Stored, output: &mut Self::Stored) -> Done {
        self.embed(hidden, tokens, table, output)
    }

    fn embedding_backward(&self, hidden: usize, tokens: &Self::Index, output_grad: &Self::Stored, table_grad: &mut Self::Exact) -> Done {
        self.embedding_slopes(hidden, tokens, output_grad, table_grad)
    }

    fn rmsnorm_forward(
        &self,
        epsilon: f64,
        input: &Self::Stored,
        weight: &Self::Stored,
        output: &mut Self::Stored,
        scale: &mut Self::Exact,
    ) -> Done {
        self.rmsnorm(epsilon, input, None, weight, output, scale)
    }

    fn add_rmsnorm_forward(
        &self,
        epsilon: f64,
        input: &Self::Stored,
        addend: &Self::Stored,
        weight: &Self::Stored,
        sum: &mut Self::Stored,
        output: &mut Self::Stored,
        scale: &mut Self::Exact,
    ) -> Done {
        self.rmsnorm(epsilon, input, Some((addend, sum)), weight, output, scale)
    }

    fn rmsnorm_backward(
        &self,
        input: &Self::Stored,
        weight: &Self::Stored,
        scale: &Self::Exact,
        output_grad: &Self::Stored,
        input_grad: &mut Self::Stored,
        weight_grad: &mut Self::Exact,
    ) -> Done {
        self.rmsnorm_slopes(input, weight, scale, output_grad, input_grad, weight_grad)
    }

    fn linear_forward(
        &self,
        shape: LinearShape,
        input: &Self::Stored,
        weight: &Self::Stored,
        bias: Option<&Self::Stored>,
        output: &mut Self::Stored,
    ) -> Done {
        self.linear(shape, input, weight, bias, output)
    }

    fn linear_backward_input(
        &self,
        shape: LinearShape,
        output_grad: &Self::Stored,
        weight: &Self::Stored,
        add: bool,
        input_grad: &mut Self::Stored,
    ) -> Done {
        self.linear_input_slopes(shape, output_grad, weight, add, input_grad)
    }

    fn linear_backward_weight(
        &self,
        shape: LinearShape,
        output_grad: &Self::Stored,
        input: &Self::Stored,
        add: bool,
        weight_grad: &mut Gradient<Self>,
        bias_grad: Option<&mut Self::Exact>,
    ) -> Done {
        self.linear_weight_slopes(shape, output_grad, input, add, weight_grad, bias_grad.as_deref())
    }

    fn grouped_linear_forward(
        &self,
        shape: LinearShape,
        segments: &Self::Index,
        input: &Self::Stored,
        weight: &Self::Stored,
        output: &mut Self::Stored,
    ) -> Done {
        self.grouped_linear(shape, segments, input, weight, output)
    }

    fn grouped_linear_backward_input(
        &self,
        shape: LinearShape,
        segments: &Self::Index,
        output_grad: &Self::Stored,
        weight: &Self::Stored,
        add: bool,
        input_grad: &mut Self::Stored,
    ) -> Done {
        self.grouped_linear_input_slopes(shape, segments, output_grad, weight, add, input_grad)
    }

    fn grouped_linear_backward_weight(
        &self,
        shape: LinearShape,
        segments: &Self::Index,
        output_grad: &Self::Stored,
        input: &Self::Stored,
        add: bool,
        weight_grad: &mut Gradient<Self>,
    ) -> Done {
        self.grouped_linear_weight_slopes(shape, segments, output_grad, input, add, weight_grad)
    }

    fn rotary_forward(
        &self,
        shape: RotaryShape,
        table: &Self::Exact,
        positions: &Self::Index,
        input: &Self::Stored,
        norm: Option<(&Self::Stored, f64)>,
        output: &mut Self::Stored,
        scale: &mut Self::Exact,
    ) -> Done {
        self.rotary(shape, table, positions, input, norm, output, scale)
    }

    fn rotary_backward(
        &self,
        shape: RotaryShape,
        table: &Self::Exact,
        positions: &Self::Index,
        norm: Option<(&Self::Stored, &Self::Stored, &Self::Exact, &mut Self::Exact)>,
        grad: &mut Self::Stored,
    ) -> Done {
        self.rotary_slopes(shape, table, positions, norm, grad)
    }

    fn attention_forward(
        &self,
        shape: AttentionShape,
        input: AttentionInput<'_, Self>,
        output: &mut Self::Stored,
        log_sum_exp: &mut Self::Exact,
    ) -> Done {
        self.attend(shape, 0, input, output, Some(log_sum_exp))
    }

    fn attention_cached(&self, shape: AttentionShape, before: usize, input: AttentionInput<'_, Self>, output: &mut Self::Stored) -> Done {
        self.attend(shape, before, input, output, None)
    }

    fn attention_backward(
        &self,
        shape: AttentionShape,
        input: AttentionInput<'_, Self>,
        output: &Self::Stored,
        log_sum_exp: &Self::Exact,
        output_grad: &Self::Stored,
        query_grad: &mut Self::Stored,
        key_grad: &mut Self::Stored,
        value_grad: &mut Self::Stored,
    ) -> Done {
        let saved = Saved { output, log_sum_exp, output_grad };
        self.attention_slopes(shape, input, saved, query_grad, key_grad, value_grad)
    }

    fn swiglu_forward(&self, gate: &Self::Stored, up: &Self::Stored, output: &mut Self::Stored) -> Done {
        self.swiglu(gate, up, output)
    }

    fn swiglu_backward(
        &self,
        gate: &Self::Stored,
        up: &Self::Stored,
        output_grad: &Self::Stored,
        gate_grad: &mut Self::Stored,
        up_grad: &mut Self::Stored,
    ) -> Done {
        self.swiglu_slopes(gate, up, output_grad, gate_grad, up_grad)
    }

    fn route_forward(
        &self,
        shape: RouteShape,
        logits: &Self::Stored,
        probabilities: &mut Self::Exact,
        chosen: &mut Self::Index,
        weights: &mut Self::Exact,
    ) -> Done {
        self.route(shape, logits, probabilities, chosen, weights)
    }

    fn route_backward(
        &self,
        shape: RouteShape,
        probabilities: &Self::Exact,
        chosen: &Self::Index,
        weights_grad: &Self::Exact,
        balance_grad: &Self::Exact,
        logits_grad: &mut Self::Stored,
    ) -> Done {
        self.route_slopes(shape, probabilities, chosen, weights_grad, balance_grad, logits_grad)
    }

    fn balance_add(&self, shape: RouteShape, probabilities: &Self::Exact, chosen: &Self::Index, statistics: &mut Self::Exact) -> Done {
        self.add_balance(shape, probabilities, chosen, statistics)
    }

    fn balance_loss(
        &self,
        shape: RouteShape,
        layers: usize,
        coefficient: f64,
        statistics: &Self::Exact,
        loss: &mut Self::Exact,
        balance_grad: &mut Self::Exact,
    ) -> Done {
        self.take_balance(shape, layers, coefficient, statistics, loss, balance_grad)
    }

    fn dispatch(
        &self,
        shape: RouteShape,
        chosen: &Self::Index,
        slots: &mut Self::Index,
        sources: &mut Self::Index,
        segments: &mut Self::Index,
    ) -> Done {
        self.sort_choices(shape, chosen, slots, sources, segments)
    }

    fn permute_forward(&self, shape: DispatchShape, sources: &Self::Index, input: &Self::Stored, output: &mut Self::Stored) -> Done {
        self.permute(shape, sources, input, output)
    }

    fn permute_backward(
        &self,
        shape: DispatchShape,
        slots: &Self::Index,
        output_grad: &Self::Stored,
        input_grad: &mut Self::Stored,
    ) -> Done {
        self.combine(shape, slots, None, output_grad, input_grad)
    }

    fn combine_forward(
        &self,
        shape: DispatchShape,
        slots: &Self::Index,
        weights: &Self::Exact,
        input: &Self::Stored,
        output: &mut Self::Stored,
    ) -> Done {
        self.combine(shape, slots, Some(weights), input, output)
    }

    fn combine_backward(
        &self,
        shape: DispatchShape,
        slots: &Self::Index,
        _sources: &Self::Index,
        weights: &Self::Exact,
        input: &Self::Stored,
        output_grad: &Self::Stored,
        input_grad: &mut Self::Stored,
        weights_grad: &mut Self::Exact,
    ) -> Done {
        self.combine_slopes(shape, slots, weights, input, output_grad, input_grad, weights_grad)
    }

    fn head_loss_forward(
        &self,
        shape: LinearShape,
        hidden: &Self::Stored,
        weight: &Self::Stored,
        targets: &Self::Index,
        losses: &mut Self::Exact,
    ) -> Done {
        self.head_loss(shape, hidden, weight, targets, losses, None)
    }

    fn head_loss_forward_backward(
        &self,
        shape: LinearShape,
        hidden: &Self::Stored,
        weight: &Self::Stored,
        targets: &Self::Index,
        loss_scale: f64,
        losses: &mut Self::Exact,
        hidden_grad: &mut Self::Stored,
        add: bool,
        weight_grad: &mut Self::Exact,
    ) -> Done {
        let gradients = Gradients { loss_scale, hidden: hidden_grad, add, weight: weight_grad };
        self.head_loss(shape, hidden, weight, targets, losses, Some(gradients))
    }

    fn squares(&self, gradients: &[(usize, &Gradient<Self>)], norm: &mut Self::Norm) -> Done {
        self.square(gradients, norm)
    }

    fn read_squares(&self, norm: &Self::Norm) -> Result<Vec<f64>, KernelError> {
        self.squares_of(norm)
    }

    fn write_squares(&self, norm: &mut Self::Norm, squares: &[f64]) -> Done {
        self.replace_squares(norm, squares)
    }

    fn clip(&self, norm: &mut Self::Norm) -> Done {
        self.make_factor(norm)
    }

    fn tell(&self, numbers: &Self::Exact, board: &mut Self::Board, at: usize) -> Done {
        self.tell_numbers(numbers, board, at)
    }

    fn end_telling(&self, norm: Option<&Self::Norm>, board: &mut Self::Board) -> Done {
        self.tell_end(norm, board)
    }

    fn told(&self, board: &mut Self::Board, numbers: &mut [f32]) -> Result<f64, KernelError> {
        self.read_board(board, numbers)
    }

    fn add_exact(&self, addend: &Self::Exact, sum: &mut Self::Exact) -> Done {
        self.add(addend, sum)
    }

    fn adamw(
        &self,
        settings: &AdamW,
        norm: &Self::Norm,
        grad: &Gradient<Self>,
        state: &mut AdamState<Self>,
        weight: &mut Self::Stored,
    ) -> Done {
        self.adamw_step(settings, norm, grad, state, weight)
    }
}
