//! Reading token by token: keys and values of what was read are held, so that each further token costs one row.

use super::activations::LayerActivations;
use super::{Config, Model, ModelError, batch};
use osler_kernels::Operations;
use osler_kernels::operations::{AttentionInput, LinearShape};

/// Keys and values of the tokens that were read, and the memory for reading more.
#[derive(Debug)]
pub struct Decoder<O: Operations> {
    /// By layer, `[capacity, key heads, head_dim]`.
    keys: Vec<O::Stored>,
    values: Vec<O::Stored>,
    len: usize,
    capacity: usize,
    work: Option<Work<O>>,
}

/// Memory of a pass over some number of rows. Layers take turns with two sets of activations: nothing is kept for a backward pass.
#[derive(Debug)]
struct Work<O: Operations> {
    input: batch::Input<O>,
    layers: [LayerActivations<O>; 2],
    delta: O::Stored,
    stream: O::Stored,
    normed: O::Stored,
    scale: O::Exact,
    last: O::Stored,
    logits: O::Stored,
}

impl<O: Operations> Decoder<O> {
    /// Room for `capacity` tokens.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for more than the model has positions, and errors of memory.
    pub fn new(ops: &O, model: &Model<O>, capacity: usize) -> Result<Self, ModelError> {
        let Config { num_layers, num_key_heads, head_dim, max_positions, .. } = model.config;
        if capacity > max_positions {
            return Err(ModelError::Batch { wanted: "no more tokens than max_position_embeddings of the model" });
        }
        let held = || (0..num_layers).map(|_| ops.new_stored(capacity * num_key_heads * head_dim)).collect::<Result<Vec<_>, _>>();
        Ok(Self { keys: held()?, values: held()?, len: 0, capacity, work: None })
    }

    /// Tokens that were read.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was read.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that can still be read.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Reads further tokens, and gives the logits of what follows the last.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for no token, more than there is room for, or one that the model does not know.
    pub fn read(&mut self, ops: &O, model: &Model<O>, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let (rows, before, config) = (tokens.len(), self.len, &model.config);
        if rows == 0 || rows > self.room() {
            return Err(ModelError::Batch { wanted: "at least one token, and no more than there is room for" });
        }
        let mut work = match self.work.take() {
            Some(work) if work.layers[0].rows == rows => work,
            _ => Work::new(ops, config, rows)?,
        };
        work.input.write_after(ops, tokens, before, config)?;
        let Work { input, layers: [one, other], delta, stream, normed, scale, last, logits } = &mut work;
        let (mut here, mut there) = (one, other);
        ops.embedding_forward(config.hidden_size, &input.tokens, &model.weights[model.parameters.embedding], stream)?;
        for (at, layer) in model.parameters.layers.iter().enumerate() {
            let norm = &model.weights[layer.attention_norm];
            if at == 0 {
                std::mem::swap(&mut here.stream, stream);
                ops.rmsnorm_forward(config.epsilon, &here.stream, norm, &mut here.normed, &mut here.scale)?;
            } else {
                let (sum, output, scale) = (&mut here.stream, &mut here.normed, &mut here.scale);
                ops.add_rmsnorm_forward(config.epsilon, &there.middle, delta, norm, sum, output, scale)?;
            }
            model.project(ops, layer, here, input)?;
            let (keys, values) = (&mut self.keys[at], &mut self.values[at]);
            let place = before * config.num_key_heads * config.head_dim;
            ops.copy_stored(&here.key, keys, place)?;
            ops.copy_stored(&here.value, values, place)?;
            let read = AttentionInput { query: &here.query, key: keys, value: values, lo: &input.lo };
            ops.attention_cached(model.attention_shape(rows), before, read, &mut here.context)?;
            model.attention_output(ops, layer, here, delta)?;
            let norm = &model.weights[layer.feed_forward_norm];
            let (sum, output, scale) = (&mut here.middle, &mut here.middle_normed, &mut here.middle_scale);
            ops.add_rmsnorm_forward(config.epsilon, &here.stream, delta, norm, sum, output, scale)?;
            model.feed_forward(ops, layer, here, delta, None)?;
            std::mem::swap(&mut here, &mut there);
        }
        // The layer that was computed last, after the turn.
        ops.add_rmsnorm_forward(config.epsilon, &there.middle, delta, &model.weights[model.parameters.norm], stream, normed, scale)?;
        let mut hidden = vec![0.0; config.hidden_size];
        ops.read_stored(normed, (rows - 1) * config.hidden_size, &mut hidden)?;
        ops.write_stored(last, 0, &hidden)?;
        let shape = LinearShape { rows: 1, inputs: config.hidden_size, outputs: config.vocab_size };
        ops.linear_forward(shape, last, &model.weights[model.parameters.head], None, logits)?;
        let mut values = vec![0.0; config.vocab_size];
        ops.read_stored(logits, 0, &mut values)?;
        self.len += rows;
        self.work = Some(work);
        Ok(values)
    }
}

impl<O: Operations> Work<O> {
    fn new(ops: &O, config: &Config, rows: usize) -> Result<Self, ModelError> {
        let hidden = rows * config.hidden_size;
        let layers = [LayerActivations::of(ops, config, rows)?, LayerActivations::of(ops, config, rows)?];
        Ok(Self {
            input: batch::Input::new(ops, rows)?,
            layers,
            delta: ops.new_stored(hidden)?,
            stream: ops.new_stored(hidden)?,
            normed: ops.new_stored(hidden)?,
            scale: ops.new_exact(rows)?,
            last: ops.new_stored(config.hidden_size)?,
            logits: ops.new_stored(config.vocab_size)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, Workspace, golden_folder, read_weights};
    use super::*;
    use osler_kernels::Cpu;

    /// Read at once, in parts or token by token, the logits of the last token are those of a whole pass.
    #[test]
    fn logits_are_those_of_a_whole_pass() {
        let ops = Cpu::<f32>::new(2).unwrap();
        for kind in ["mistral", "mixtral", "qwen2", "qwen3"] {
            let model = read_weights(&ops, &golden_folder(kind)).unwrap();
            let vocabulary = model.config.vocab_size;
            let tokens: Vec<u32> = (0..20).map(|at| (at * 7 + 3) % vocabulary as u32).collect();
            let mut batch = Batch::default();
            batch.push(&tokens);
            let mut work = Workspace::new(&ops, &model.config, tokens.len()).unwrap();
            let whole = model.logits(&ops, &batch, &mut work).unwrap();
            for cuts in [vec![20], vec![1; 20], vec![7, 1, 1, 11], vec![19, 1]] {
                let mut decoder = Decoder::new(&ops, &model, 20).unwrap();
                let mut at = 0;
                for rows in cuts {
                    let logits = decoder.read(&ops, &model, &tokens[at..at + rows]).unwrap();
                    at += rows;
                    let wanted = &whole[(at - 1) * vocabulary..at * vocabulary];
                    let largest = wanted.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                    let wrong = logits.iter().zip(wanted).find(|(got, wanted)| (*got - *wanted).abs() > 1e-5 * largest);
                    assert_eq!(wrong, None, "{kind}, after {at} tokens");
                }
                assert!(decoder.read(&ops, &model, &[0]).is_err(), "there is no room");
            }
        }
    }
}
