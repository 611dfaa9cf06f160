//! One decoder with switches: Mistral, Mixtral, Qwen2.5 and Qwen3 with hand-written forward and backward passes over the operations of
//! a device. Names and files are those of Hugging Face.

mod activations;
mod batch;
mod config;
mod decode;
mod feed_forward;
mod files;
mod gradients;
#[cfg(test)]
mod invariances;
mod losses;
mod parameters;
#[cfg(test)]
mod tests;

pub use activations::{Recompute, Workspace};
pub use batch::Batch;
pub(crate) use config::unknown_key;
pub use config::{Config, Experts, Kind};
pub use decode::Decoder;
pub use files::{FILE_BYTES, State, read_state, read_weights, state_tensors, write, write_state};
pub use gradients::{GradientKind, Gradients};
pub use losses::{KeptLosses, Losses};
pub use parameters::{Parameter, Parameters};
#[cfg(test)]
pub(crate) use tests::golden_folder;

use crate::ranks::RankError;
use activations::LayerActivations;
use osler_kernels::operations::{AttentionInput, AttentionShape, LinearShape, RotaryShape};
use osler_kernels::{KernelError, Memory, Operations};
use parameters::{Layer, Linear};
use std::ops::Range;
use std::path::PathBuf;

/// What can go wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: line {line} is not JSON", path.display())]
    Json { path: PathBuf, line: usize },
    #[error("config.json: `{key}` is missing")]
    Missing { key: &'static str },
    #[error("config.json: `{key}` is {value}, which is not supported: it must be {wanted}")]
    Unsupported { key: String, value: String, wanted: &'static str },
    #[error("config.json: `{key}` must be {wanted}")]
    Invalid { key: &'static str, wanted: &'static str },
    #[error("{}: not a safetensors file: {problem}", path.display())]
    Tensors { path: PathBuf, problem: String },
    #[error("{}: {problem}: `{name}`", path.display())]
    Tensor { path: PathBuf, name: String, problem: String },
    #[error("batch: wanted {wanted}")]
    Batch { wanted: &'static str },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Ranks(#[from] RankError),
}

/// A model on a device: its weights, in the order of [`Parameters`].
#[derive(Debug)]
pub struct Model<O: Memory> {
    pub config: Config,
    pub parameters: Parameters,
    pub weights: Vec<O::Stored>,
    /// Cosines and sines by position, for [`Operations::rotary_forward`].
    rotary: O::Exact,
}

/// Takes gradients of some parameters, by their places in the list, when a pass is done with them.
pub type Take<'a, O> = dyn FnMut(Range<usize>, &mut Gradients<O>) -> Result<(), ModelError> + 'a;

impl<O: Memory> Model<O> {
    /// The memory of a model of this shape, and nothing in it.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    pub fn allocate(memory: &O, config: Config) -> Result<Self, ModelError> {
        let parameters = Parameters::new(&config);
        let weights = parameters.list.iter().map(|parameter| memory.new_stored(parameter.len())).collect::<Result<_, _>>()?;
        let rotary = memory.new_exact(config.max_positions * config.head_dim)?;
        Ok(Self { config, parameters, weights, rotary })
    }
}

impl<O: Operations> Model<O> {
    /// A model of this shape with random weights: normal matrices, norms of one, biases of zero.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    pub fn random(ops: &O, config: Config, seed: u64) -> Result<Self, ModelError> {
        const BLOCK: usize = 1 << 16;
        let mut model = Self::zeros(ops, config)?;
        for (parameter, weight) in model.parameters.list.iter().zip(&mut model.weights) {
            let mut values = parameter.start_values(&model.config, seed);
            for at in (0..parameter.len()).step_by(BLOCK) {
                let block: Vec<f32> = values.by_ref().take(BLOCK).collect();
                ops.write_stored(weight, at, &block)?;
            }
        }
        Ok(model)
    }

    /// A model of this shape whose weights are zero.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    pub fn zeros(ops: &O, config: Config) -> Result<Self, ModelError> {
        let mut model = Self::allocate(ops, config)?;
        ops.write_exact(&mut model.rotary, 0, &rotary_table(&model.config))?;
        Ok(model)
    }

    /// The losses of a batch.
    ///
    /// # Errors
    /// [`ModelError::Batch`] when it does not fit the model or the workspace.
    pub fn forward(&self, ops: &O, batch: &Batch, work: &mut Workspace<O>) -> Result<Losses, ModelError> {
        self.start_forward(ops, batch, work)?;
        self.losses(ops, work, 1.0)
    }

    /// Starts the same, and does not wait for the losses: [`KeptLosses::keep`] has them, with a share of 1.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn start_forward(&self, ops: &O, batch: &Batch, work: &mut Workspace<O>) -> Result<(), ModelError> {
        ops.as_one(|| {
            self.body(ops, batch, work)?;
            let (head, shape) = (&self.weights[self.parameters.head], self.head_shape(work.rows));
            ops.head_loss_forward(shape, &work.normed, head, &work.input.targets, &mut work.losses)?;
            self.balance(ops, work, 1.0)
        })
    }

    /// The losses of a batch, and the gradient of `loss_scale · Σ losses + share · balance loss`, added to `grads`, where `share` is the
    /// batch's part of the step: `loss_scale` times its targets.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_backward(
        &self,
        ops: &O,
        batch: &Batch,
        loss_scale: f64,
        work: &mut Workspace<O>,
        grads: &mut Gradients<O>,
    ) -> Result<Losses, ModelError> {
        let share = self.start_forward_backward(ops, batch, loss_scale, work, grads, &mut |_, _| Ok(()))?;
        self.losses(ops, work, share)
    }

    /// Starts the same, gives the share, and does not wait for the losses: [`KeptLosses::keep`] has them. `take` is told of parameters, in the
    /// order of [`Parameters::backward`], when the pass has added all that it has to their gradients. So one set of buffers does for all
    /// layers: see [`Gradients::of_pass`].
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and those of `take`.
    pub fn start_forward_backward(
        &self,
        ops: &O,
        batch: &Batch,
        loss_scale: f64,
        work: &mut Workspace<O>,
        grads: &mut Gradients<O>,
        take: &mut Take<'_, O>,
    ) -> Result<f64, ModelError> {
        let share = loss_scale * batch.num_targets() as f64;
        ops.as_one(|| {
            self.body(ops, batch, work)?;
            let (head, shape) = (&self.weights[self.parameters.head], self.head_shape(work.rows));
            let (targets, (add, head_grad)) = (&work.input.targets, grads.exact_product(self.parameters.head)?);
            let (losses, normed_grad) = (&mut work.losses, &mut work.normed_grad);
            ops.head_loss_forward_backward(shape, &work.normed, head, targets, loss_scale, losses, normed_grad, add, head_grad)?;
            self.balance(ops, work, share)?;
            self.body_backward(ops, work, grads, take)
        })?;
        Ok(share)
    }

    /// From the gradient of the last norm's output to those of the tokens' embeddings.
    fn body_backward(&self, ops: &O, work: &mut Workspace<O>, grads: &mut Gradients<O>, take: &mut Take<'_, O>) -> Result<(), ModelError> {
        let mut take = |parameters: Range<usize>, grads: &mut Gradients<O>| {
            grads.settle(ops, parameters.clone())?;
            take(parameters, grads)
        };
        ops.zero_stored(&mut work.grad)?;
        let norm = self.parameters.norm;
        let (stream, scale) = (&work.stream, &work.scale);
        ops.rmsnorm_backward(stream, &self.weights[norm], scale, &work.normed_grad, &mut work.grad, grads.at(ops, norm)?)?;
        take(self.parameters.after_layers(), grads)?;
        for (at, layer) in self.parameters.layers.iter().enumerate().rev() {
            work.layers[at].lend(&mut work.spare, work.recompute);
            self.compute_again(ops, layer, at, work)?;
            self.feed_forward_backward(ops, layer, at, work, grads)?;
            self.attention_backward(ops, layer, at, work, grads)?;
            work.layers[at].lend(&mut work.spare, work.recompute);
            take(layer.parameters(), grads)?;
        }
        let embedding = grads.at(ops, self.parameters.embedding)?;
        ops.embedding_backward(self.config.hidden_size, &work.input.tokens, &work.grad, embedding)?;
        take(self.parameters.before_layers(), grads)
    }

    /// Logits of every row, `[rows, vocab_size]`: for tests and for small batches, since they are whole.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn logits(&self, ops: &O, batch: &Batch, work: &mut Workspace<O>) -> Result<Vec<f32>, ModelError> {
        self.body(ops, batch, work)?;
        let shape = self.head_shape(work.rows);
        let mut logits = ops.new_stored(shape.rows * shape.outputs)?;
        ops.linear_forward(shape, &work.normed, &self.weights[self.parameters.head], None, &mut logits)?;
        let mut values = vec![0.0; shape.rows * shape.outputs];
        ops.read_stored(&logits, 0, &mut values)?;
        Ok(values)
    }

    fn head_shape(&self, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.config.hidden_size, outputs: self.config.vocab_size }
    }

    /// From tokens to the last norm.
    fn body(&self, ops: &O, batch: &Batch, work: &mut Workspace<O>) -> Result<(), ModelError> {
        if batch.len() != work.rows {
            return Err(ModelError::Batch { wanted: "as many rows as the workspace was made for" });
        }
        let Config { hidden_size, epsilon, .. } = self.config;
        work.input.write(ops, batch, &self.config)?;
        work.clear_balance(ops)?;
        let stream = work.layers.first_mut().map_or(&mut work.stream, |first| &mut first.stream);
        ops.embedding_forward(hidden_size, &work.input.tokens, &self.weights[self.parameters.embedding], stream)?;
        for (at, layer) in self.parameters.layers.iter().enumerate() {
            let (before, rest) = work.layers.split_at_mut(at);
            let saved = &mut rest[0];
            saved.lend(&mut work.spare, work.recompute);
            let norm = &self.weights[layer.attention_norm];
            match before.last() {
                None => ops.rmsnorm_forward(epsilon, &saved.stream, norm, &mut saved.normed, &mut saved.scale)?,
                Some(before) => {
                    let (stream, normed, scale) = (&mut saved.stream, &mut saved.normed, &mut saved.scale);
                    // What the layer before had borrowed has come here.
                    let middle = if work.recompute == Recompute::Layer { &saved.middle } else { &before.middle };
                    ops.add_rmsnorm_forward(epsilon, middle, &work.delta, norm, stream, normed, scale)?;
                }
            }
            self.attention(ops, layer, saved, &mut work.delta, &work.input)?;
            let norm = &self.weights[layer.feed_forward_norm];
            let (middle, normed, scale) = (&mut saved.middle, &mut saved.middle_normed, &mut saved.middle_scale);
            ops.add_rmsnorm_forward(epsilon, &saved.stream, &work.delta, norm, middle, normed, scale)?;
            self.feed_forward(ops, layer, saved, &mut work.delta, work.balance.as_mut())?;
            saved.lend(&mut work.spare, work.recompute);
        }
        let norm = &self.weights[self.parameters.norm];
        let (stream, normed, scale) = (&mut work.stream, &mut work.normed, &mut work.scale);
        match work.layers.last() {
            Some(last) => {
                let middle = if work.recompute == Recompute::Layer { &work.spare.middle } else { &last.middle };
                ops.add_rmsnorm_forward(epsilon, middle, &work.delta, norm, stream, normed, scale)?;
            }
            None => ops.rmsnorm_forward(epsilon, stream, norm, normed, scale)?,
        }
        Ok(())
    }

    /// Fills what a layer did not keep, from what it did: the same operations on the same numbers.
    fn compute_again(&self, ops: &O, layer: &Layer, at: usize, work: &mut Workspace<O>) -> Result<(), ModelError> {
        let (recompute, epsilon) = (work.recompute, self.config.epsilon);
        if recompute == Recompute::None {
            return Ok(());
        }
        let saved = &mut work.layers[at];
        let norm = &self.weights[layer.attention_norm];
        ops.rmsnorm_forward(epsilon, &saved.stream, norm, &mut saved.normed, &mut saved.scale)?;
        let norm = &self.weights[layer.feed_forward_norm];
        if recompute == Recompute::Layer {
            self.attention(ops, layer, saved, &mut work.delta, &work.input)?;
            let (middle, normed, scale) = (&mut saved.middle, &mut saved.middle_normed, &mut saved.middle_scale);
            ops.add_rmsnorm_forward(epsilon, &saved.stream, &work.delta, norm, middle, normed, scale)?;
        } else {
            ops.rmsnorm_forward(epsilon, &saved.middle, norm, &mut saved.middle_normed, &mut saved.middle_scale)?;
        }
        if recompute >= Recompute::FeedForward {
            self.feed_forward_inner(ops, layer, saved, None)
        } else {
            Ok(ops.swiglu_forward(&saved.gate, &saved.up, &mut saved.active)?)
        }
    }

    /// Attention of one layer, from its norm to `output`.
    fn attention(
        &self,
        ops: &O,
        layer: &Layer,
        saved: &mut LayerActivations<O>,
        output: &mut O::Stored,
        input: &batch::Input<O>,
    ) -> Result<(), ModelError> {
        self.project(ops, layer, saved, input)?;
        let read = AttentionInput { query: &saved.query, key: &saved.key, value: &saved.value, lo: &input.lo };
        ops.attention_forward(self.attention_shape(saved.rows), read, &mut saved.context, &mut saved.log_sum_exp)?;
        self.attention_output(ops, layer, saved, output)
    }

    /// Queries, keys and values of the norm, rotated.
    fn project(&self, ops: &O, layer: &Layer, saved: &mut LayerActivations<O>, input: &batch::Input<O>) -> Result<(), ModelError> {
        let (weights, rows, epsilon) = (&self.weights, saved.rows, self.config.epsilon);
        let (queries, keys) = (self.heads(rows, self.config.num_heads), self.heads(rows, self.config.num_key_heads));
        self.linear(ops, layer.query, &saved.normed, rows, &mut saved.query_raw)?;
        self.linear(ops, layer.key, &saved.normed, rows, &mut saved.key_raw)?;
        self.linear(ops, layer.value, &saved.normed, rows, &mut saved.value)?;
        let norm = |norm: Option<usize>| norm.map(|at| (&weights[at], epsilon));
        let (table, positions) = (&self.rotary, &input.positions);
        let (query, key) = (&saved.query_raw, &saved.key_raw);
        ops.rotary_forward(queries, table, positions, query, norm(layer.query_norm), &mut saved.query, &mut saved.query_scale)?;
        Ok(ops.rotary_forward(keys, table, positions, key, norm(layer.key_norm), &mut saved.key, &mut saved.key_scale)?)
    }

    /// From the context of all heads to `output`.
    fn attention_output(&self, ops: &O, layer: &Layer, saved: &LayerActivations<O>, output: &mut O::Stored) -> Result<(), ModelError> {
        let inputs = self.config.num_heads * self.config.head_dim;
        let shape = LinearShape { rows: saved.rows, inputs, outputs: self.config.hidden_size };
        Ok(ops.linear_forward(shape, &saved.context, &self.weights[layer.output], None, output)?)
    }

    /// Takes `work.grad` from the stream after attention to the stream before its norm.
    fn attention_backward(
        &self,
        ops: &O,
        layer: &Layer,
        at: usize,
        work: &mut Workspace<O>,
        grads: &mut Gradients<O>,
    ) -> Result<(), ModelError> {
        let (saved, scratch, weights) = (&work.layers[at], &mut work.scratch, &self.weights);
        let rows = saved.rows;
        let (queries, keys) = (self.heads(rows, self.config.num_heads), self.heads(rows, self.config.num_key_heads));
        let shape = LinearShape { rows, inputs: queries.heads * queries.head_dim, outputs: self.config.hidden_size };
        ops.linear_backward_input(shape, &work.grad, &weights[layer.output], false, &mut scratch.context)?;
        let (add, output_grad) = grads.product(layer.output);
        ops.linear_backward_weight(shape, &work.grad, &saved.context, add, output_grad, None)?;
        let read = AttentionInput { query: &saved.query, key: &saved.key, value: &saved.value, lo: &work.input.lo };
        let (query, key, value) = (&mut scratch.query, &mut scratch.key, &mut scratch.value);
        let attention = self.attention_shape(rows);
        ops.attention_backward(attention, read, &saved.context, &saved.log_sum_exp, &scratch.context, query, key, value)?;
        let (table, positions) = (&self.rotary, &work.input.positions);
        for (shape, norm, raw, scale, grad) in [
            (queries, layer.query_norm, &saved.query_raw, &saved.query_scale, &mut *query),
            (keys, layer.key_norm, &saved.key_raw, &saved.key_scale, &mut *key),
        ] {
            let norm = match norm {
                Some(at) => Some((raw, &weights[at], scale, grads.at(ops, at)?)),
                None => None,
            };
            ops.rotary_backward(shape, table, positions, norm, grad)?;
        }
        for (at, (linear, grad)) in [(layer.query, &*query), (layer.key, key), (layer.value, value)].into_iter().enumerate() {
            let shape = self.linear_shape(linear, rows);
            ops.linear_backward_input(shape, grad, &weights[linear.weight], at > 0, &mut work.normed_grad)?;
            let (add, weight_grad, bias_grad) = grads.pair(ops, linear.weight, linear.bias)?;
            ops.linear_backward_weight(shape, grad, &saved.normed, add, weight_grad, bias_grad)?;
        }
        let norm = layer.attention_norm;
        let (normed, grad) = (&work.normed_grad, &mut work.grad);
        Ok(ops.rmsnorm_backward(&saved.stream, &weights[norm], &saved.scale, normed, grad, grads.at(ops, norm)?)?)
    }

    fn linear(&self, ops: &O, linear: Linear, input: &O::Stored, rows: usize, output: &mut O::Stored) -> Result<(), ModelError> {
        let bias = linear.bias.map(|at| &self.weights[at]);
        Ok(ops.linear_forward(self.linear_shape(linear, rows), input, &self.weights[linear.weight], bias, output)?)
    }

    fn linear_shape(&self, linear: Linear, rows: usize) -> LinearShape {
        let shape = &self.parameters.list[linear.weight].shape;
        LinearShape { rows, inputs: shape[1], outputs: shape[0] }
    }

    fn heads(&self, rows: usize, heads: usize) -> RotaryShape {
        RotaryShape { rows, heads, head_dim: self.config.head_dim }
    }

    fn attention_shape(&self, rows: usize) -> AttentionShape {
        let Config { num_heads, num_key_heads, head_dim, .. } = self.config;
        AttentionShape { rows, query_heads: num_heads, key_heads: num_key_heads, head_dim }
    }

    /// Computes the balance loss and its gradient for a batch with this share of the step.
    fn balance(&self, ops: &O, work: &mut Workspace<O>, share: f64) -> Result<(), ModelError> {
        let (Some(experts), Some(state)) = (self.config.experts, &mut work.balance) else { return Ok(()) };
        let (shape, factor) = (self.route_shape(experts, work.rows), experts.balance_coefficient * share);
        Ok(ops.balance_loss(shape, self.config.num_layers, factor, &state.statistics, &mut state.loss, &mut state.grad)?)
    }

    /// Reads the losses back.
    fn losses(&self, ops: &O, work: &Workspace<O>, share: f64) -> Result<Losses, ModelError> {
        let mut kept = KeptLosses::new();
        kept.clear(ops, std::iter::once(work.rows))?;
        kept.keep(ops, work, share)?;
        kept.end(ops, None)?;
        Ok(kept.take(ops)?.0.swap_remove(0))
    }
}

/// Cosines, then sines, of `position · theta^(−2j / head_dim)`, `[max_positions, head_dim]`.
fn rotary_table(config: &Config) -> Vec<f32> {
    let half = config.head_dim / 2;
    let frequency = |pair: usize| config.rope_theta.powf(-((2 * pair) as f64) / config.head_dim as f64);
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let mut table = Vec::with_capacity(config.max_positions * config.head_dim);
    for position in 0..config.max_positions {
        let angles = || frequencies.iter().map(move |frequency| position as f64 * frequency);
        table.extend(angles().map(|angle| angle.cos() as f32));
        table.extend(angles().map(|angle| angle.sin() as f32));
    }
    table
}
