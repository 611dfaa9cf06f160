//! Times kernels, a layer with experts and training steps on any device.
//!
//! A device is asked for the same work again and again and waited for once, so what is timed is the device and not the asking, as long as
//! the asking is faster. Numbers are random: on zeros a GPU is faster than it will ever be.

mod layer;

use osler_kernel_cases::numbers;
use osler_kernels::operations::{AdamState, AdamW, AttentionInput, AttentionShape, Gradient, LinearShape, RotaryShape, RouteShape};
use osler_kernels::{KernelError, Operations};
use osler_train::model::{Batch, Config, GradientKind, Gradients, KeptLosses, Model, ModelError, Workspace};
use osler_train::optimiser::{MomentKind, Optimiser, Settings};
use serde_json::{Value, json};
use std::time::Instant;

/// One measured thing.
#[derive(Debug)]
pub struct Row {
    pub what: &'static str,
    pub case: String,
    /// Of one run, the fastest of some rounds.
    pub seconds: f64,
    pub amount: Amount,
    /// What another program has to do for a comparison.
    pub peer: Value,
}

/// What one run does.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// Floating-point operations in matrix products; masked ones do not count.
    Operations(f64),
    /// Bytes read and written at least.
    Bytes(f64),
    /// Tokens trained on, and the operations for them.
    Tokens(f64, f64),
}

/// How large things are, and how long they are run.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows that elementwise kernels and products have.
    pub rows: usize,
    pub hidden: usize,
    pub inner: usize,
    pub vocabulary: usize,
    /// Lengths of one sequence.
    pub lengths: &'static [usize],
    /// Rows of all sequences of attention together.
    pub attention_rows: usize,
    /// Weights of the optimiser's step.
    pub weights: usize,
    /// A model that is trained with all its sums in f32, and those that are trained in as little memory as can be.
    pub model: Shape,
    pub large_models: [Shape; 2],
    /// Passes of a step of those: the optimiser's part is the smaller, the more there are.
    pub large_passes: [usize; 2],
    /// A round takes this long at least.
    pub round_seconds: f64,
    pub rounds: usize,
}

/// A model that is trained, and tokens of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// As `config.json` names it. A `qwen3` norms its heads and has one table for embeddings and head.
    pub model_type: &'static str,
    /// Layers, hidden size, inner size, query heads, key heads and head dimension.
    pub model: [usize; 6],
    pub vocabulary: usize,
    pub pass_tokens: usize,
}

impl Sizes {
    /// Those of Mistral 7B and Mixtral 8x7B. Of the trained models the first has 1.1 billion weights; the others are Mistral 7B and Qwen3 4B.
    pub const OF_MODELS: Self = Self {
        rows: 8192,
        hidden: 4096,
        inner: 14336,
        vocabulary: 32_000,
        lengths: &[1024, 4096, 16_384],
        attention_rows: 16_384,
        weights: 200_000_000,
        model: Shape { model_type: "mistral", model: [22, 2048, 5632, 32, 4, 64], vocabulary: 32_000, pass_tokens: 8192 },
        large_models: [
            Shape { model_type: "mistral", model: [32, 4096, 14336, 32, 8, 128], vocabulary: 32_000, pass_tokens: 4096 },
            Shape { model_type: "qwen3", model: [36, 2560, 9728, 32, 8, 128], vocabulary: 151_936, pass_tokens: 4096 },
        ],
        large_passes: [1, 8],
        round_seconds: 0.2,
        rounds: 4,
    };
}

/// Measures the groups that have `only` in their name.
///
/// # Errors
/// Those of the device.
pub fn run<O: Operations>(ops: &O, sizes: &Sizes, only: &str, give: &mut impl FnMut(Row)) -> Result<(), KernelError> {
    let clock = Clock { ops, sizes, probe: ops.new_exact(1)? };
    let groups: [(&str, fn(&Clock<'_, O>, &mut dyn FnMut(Row)) -> Result<(), KernelError>); 7] = [
        ("elementwise", elementwise),
        (ATTENTION, attention),
        ("product", products),
        ("head loss", head_loss),
        (EXPERTS, experts),
        ("step", |clock, give| step(clock, clock.sizes.model, 1, Settings::default(), give)),
        ("large step", large_step),
    ];
    let wanted: Vec<_> = groups.iter().filter(|(name, _)| name.contains(only)).collect();
    if wanted.is_empty() {
        let names: Vec<&str> = groups.iter().map(|(name, _)| *name).collect();
        return Err(KernelError::Launch(format!("no group has `{only}` in its name; there are {}", names.join(", "))));
    }
    wanted.into_iter().try_for_each(|(_, group)| group(&clock, give))
}

/// A device, and how it is waited for.
struct Clock<'a, O: Operations> {
    ops: &'a O,
    sizes: &'a Sizes,
    probe: O::Exact,
}

impl<O: Operations> Clock<'_, O> {
    /// Work is done in order, so a copy back waits for all of it.
    fn wait(&self) -> Result<(), KernelError> {
        self.ops.read_exact(&self.probe, 0, &mut [0.0])
    }

    /// Seconds that `run` takes.
    fn seconds(&self, mut run: impl FnMut() -> Result<(), KernelError>) -> Result<f64, KernelError> {
        run()?;
        self.wait()?;
        let (mut best, mut count) = (f64::INFINITY, 1);
        for _ in 0..self.sizes.rounds {
            loop {
                let begun = Instant::now();
                (0..count).try_for_each(|_| run())?;
                self.wait()?;
                let taken = begun.elapsed().as_secs_f64();
                best = best.min(taken / f64::from(count));
                if taken >= self.sizes.round_seconds {
                    break;
                }
                count *= 2;
            }
        }
        Ok(best)
    }

    fn stored(&self, len: usize) -> Result<O::Stored, KernelError> {
        let mut buffer = self.ops.new_stored(len)?;
        fill(len, |at, values| self.ops.write_stored(&mut buffer, at, values))?;
        Ok(buffer)
    }

    fn exact(&self, len: usize) -> Result<O::Exact, KernelError> {
        let mut buffer = self.ops.new_exact(len)?;
        fill(len, |at, values| self.ops.write_exact(&mut buffer, at, values))?;
        Ok(buffer)
    }

    fn gradient(&self, len: usize, is_stored: bool) -> Result<Gradient<O>, KernelError> {
        Ok(if is_stored { Gradient::Stored(self.stored(len)?) } else { Gradient::Exact(self.exact(len)?) })
    }

    fn index(&self, values: &[u32]) -> Result<O::Index, KernelError> {
        let mut buffer = self.ops.new_index(values.len())?;
        self.ops.write_index(&mut buffer, values)?;
        Ok(buffer)
    }
}

/// Writes `len` random numbers: a million, and then the same again, so many that no row is like another.
fn fill(len: usize, write: impl FnMut(usize, &[f32]) -> Result<(), KernelError>) -> Result<(), KernelError> {
    let block = numbers(len.min((1 << 20) + 7), len as u64);
    repeat(&block, len, write)
}

/// Writes `block` again and again.
fn repeat(block: &[f32], len: usize, mut write: impl FnMut(usize, &[f32]) -> Result<(), KernelError>) -> Result<(), KernelError> {
    (0..len).step_by(block.len().max(1)).try_for_each(|at| write(at, &block[..block.len().min(len - at)]))
}

fn elementwise<O: Operations>(clock: &Clock<'_, O>, give: &mut dyn FnMut(Row)) -> Result<(), KernelError> {
    let (ops, Sizes { rows, hidden, inner, weights, .. }) = (clock.ops, *clock.sizes);
    let mut row = |what, case: String, bytes: usize, seconds, kind: &str| {
        give(Row { what, case, seconds, amount: Amount::Bytes(bytes as f64), peer: json!({ "kind": kind, "bytes": bytes }) });
    };
    let len = rows * hidden;
    let (input, weight) = (clock.stored(len)?, clock.stored(hidden)?);
    let [mut sum, mut output] = [ops.new_stored(len)?, ops.new_stored(len)?];
    let mut scale = ops.new_exact(rows)?;
    let case = format!("{rows} x {hidden}");
    row("copy", case.clone(), 4 * len, clock.seconds(|| ops.copy_stored(&input, &mut sum, 0))?, "copy");
    let seconds = clock.seconds(|| ops.rmsnorm_forward(1e-5, &input, &weight, &mut output, &mut scale))?;
    row("rmsnorm forward", case.clone(), 4 * len, seconds, "rmsnorm");
    let addend = clock.stored(len)?;
    let seconds = clock.seconds(|| ops.add_rmsnorm_forward(1e-5, &input, &addend, &weight, &mut sum, &mut output, &mut scale))?;
    row("sum and rmsnorm forward", case.clone(), 8 * len, seconds, "sum and rmsnorm");
    let mut weight_grad = ops.new_exact(hidden)?;
    let mut input_grad = clock.stored(len)?;
    let seconds = clock.seconds(|| ops.rmsnorm_backward(&sum, &weight, &scale, &addend, &mut input_grad, &mut weight_grad))?;
    row("rmsnorm backward", case, 8 * len, seconds, "rmsnorm backward");
    let head_dim = hidden.min(128);
    let shape = RotaryShape { rows, heads: hidden / head_dim, head_dim };
    let (table, positions) = (clock.exact(rows * head_dim)?, clock.index(&(0..rows as u32).collect::<Vec<_>>())?);
    let mut none = ops.new_exact(rows * shape.heads)?;
    let seconds = clock.seconds(|| ops.rotary_forward(shape, &table, &positions, &input, None, &mut output, &mut none))?;
    row("rotary forward", format!("{rows} x {} x {head_dim}", shape.heads), 4 * len, seconds, "rotary");
    drop((input, addend, sum, output, input_grad));
    let len = rows * inner;
    let (gate, up, grad) = (clock.stored(len)?, clock.stored(len)?, clock.stored(len)?);
    let [mut output, mut gate_grad, mut up_grad] = [ops.new_stored(len)?, ops.new_stored(len)?, ops.new_stored(len)?];
    let case = format!("{rows} x {inner}");
    row("swiglu forward", case.clone(), 6 * len, clock.seconds(|| ops.swiglu_forward(&gate, &up, &mut output))?, "swiglu");
    let seconds = clock.seconds(|| ops.swiglu_backward(&gate, &up, &grad, &mut gate_grad, &mut up_grad))?;
    row("swiglu backward", case, 10 * len, seconds, "swiglu backward");
    drop((gate, up, grad, output, gate_grad, up_grad));
    let mut weight = clock.stored(weights)?;
    let settings = AdamW { learning_rate: 1e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step: 10 };
    let mut norm = ops.new_norm(1, 1.0)?;
    // PyTorch has no moments of 8 bits.
    for (what, is_blockwise, moment_bytes, is_stored, kind) in [
        ("adamw", false, 4, false, "adamw"),
        ("adamw, 8-bit moments", true, 1, false, ""),
        ("adamw, 8-bit moments, bf16 gradients", true, 1, true, ""),
    ] {
        let grad = clock.gradient(weights, is_stored)?;
        let mut state = AdamState::new(ops, weights, is_blockwise)?;
        let seconds = clock.seconds(|| ops.adamw(&settings, &norm, &grad, &mut state, &mut weight))?;
        // Gradient, moments, weight and its rest read; all but the gradient written.
        let grad_bytes = if is_stored { 2 } else { 4 };
        row(what, format!("{weights} weights"), (grad_bytes + 2 * (2 * moment_bytes + 2 * 2)) * weights, seconds, kind);
    }
    let grad = clock.gradient(weights, false)?;
    let seconds = clock.seconds(|| ops.squares(&[(0, &grad)], &mut norm))?;
    row("sum of squares", format!("{weights} numbers"), 4 * weights, seconds, "squares");
    Ok(())
}

const ATTENTION: &str = "attention";
const EXPERTS: &str = "experts";
/// The groups that have kernels for Hopper and others for older devices.
pub const WITH_BOTH: [&str; 2] = [ATTENTION, EXPERTS];

const BACKWARD: &str = "attention backward";

fn attention<O: Operations>(clock: &Clock<'_, O>, give: &mut dyn FnMut(Row)) -> Result<(), KernelError> {
    let (ops, Sizes { lengths, attention_rows, hidden, .. }) = (clock.ops, *clock.sizes);
    for head_dim in [64, 80, 96, 128, 256] {
        for &length in lengths {
            // As many heads as fill the width, a fourth as many for keys.
            let query_heads = (hidden / head_dim).max(4) / 4 * 4;
            let rows = attention_rows.max(length) / length * length;
            let shape = AttentionShape { rows, query_heads, key_heads: query_heads / 4, head_dim };
            let (queries, keys) = (rows * query_heads * head_dim, rows * shape.key_heads * head_dim);
            let (query, key, value, grad) = (clock.stored(queries)?, clock.stored(keys)?, clock.stored(keys)?, clock.stored(queries)?);
            let lo = clock.index(&(0..rows).map(|row| (row / length * length) as u32).collect::<Vec<_>>())?;
            let input = || AttentionInput { query: &query, key: &key, value: &value, lo: &lo };
            let (mut output, mut sums) = (ops.new_stored(queries)?, ops.new_exact(rows * query_heads)?);
            let forward = clock.seconds(|| ops.attention_forward(shape, input(), &mut output, &mut sums))?;
            let [mut query_grad, mut key_grad, mut value_grad] = [ops.new_stored(queries)?, ops.new_stored(keys)?, ops.new_stored(keys)?];
            let backward = clock.seconds(|| {
                ops.attention_backward(shape, input(), &output, &sums, &grad, &mut query_grad, &mut key_grad, &mut value_grad)
            })?;
            // Two products forward and five backward, of two operations for each pair of a row and a key that it sees.
            let pairs = (rows / length) as f64 * (length * (length + 1) / 2) as f64;
            let operations = 4.0 * pairs * (query_heads * head_dim) as f64;
            for (what, seconds, operations) in [("attention forward", forward, operations), (BACKWARD, backward, 2.5 * operations)] {
                let case = format!("d {head_dim}, T {length}, {query_heads} and {} heads", shape.key_heads);
                let peer = json!({
                    "kind": "attention", "backward": what == BACKWARD, "sequences": rows / length, "length": length,
                    "query_heads": query_heads, "key_heads": shape.key_heads, "head_dim": head_dim, "operations": operations,
                });
                give(Row { what, case, seconds, amount: Amount::Operations(operations), peer });
            }
        }
    }
    Ok(())
}

fn products<O: Operations>(clock: &Clock<'_, O>, give: &mut dyn FnMut(Row)) -> Result<(), KernelError> {
    let (ops, Sizes { rows, hidden, inner, .. }) = (clock.ops, *clock.sizes);
    for (inputs, outputs) in [(hidden, hidden), (hidden, inner), (inner, hidden)] {
        let shape = LinearShape { rows, inputs, outputs };
        let (input, weight, grad) = (clock.stored(rows * inputs)?, clock.stored(inputs * outputs)?, clock.stored(rows * outputs)?);
        let (mut output, mut input_grad) = (ops.new_stored(rows * outputs)?, ops.new_stored(rows * inputs)?);
        let mut weight_grad = Gradient::new(ops, inputs * outputs, false)?;
        let times = [
            ("product forward", clock.seconds(|| ops.linear_forward(shape, &input, &weight, None, &mut output))?),
            ("product to input", clock.seconds(|| ops.linear_backward_input(shape, &grad, &weight, false, &mut input_grad))?),
            ("product to weight", clock.seconds(|| ops.linear_backward_weight(shape, &grad, &input, false, &mut weight_grad, None))?),
        ];
        let operations = 2.0 * (rows * inputs) as f64 * outputs as f64;
        for (what, seconds) in times {
            let peer =
                json!({ "kind": "product", "what": what, "rows": rows, "inputs": inputs, "outputs": outputs, "operations": operations });
            give(Row { what, case: format!("{rows} x {inputs} x {outputs}"), seconds, amount: Amount::Operations(operations), peer });
        }
    }
    Ok(())
}

fn head_loss<O: Operations>(clock: &Clock<'_, O>, give: &mut dyn FnMut(Row)) -> Result<(), KernelError> {
    let (ops, Sizes { rows, hidden, vocabulary, .. }) = (clock.ops, *clock.sizes);
    let shape = LinearShape { rows, inputs: hidden, outputs: vocabulary };
    let (input, weight) = (clock.stored(rows * hidden)?, clock.stored(hidden * vocabulary)?);
    let targets = clock.index(&(0..rows).map(|row| (row * 7 % vocabulary) as u32).collect::<Vec<_>>())?;
    let (mut losses, mut input_grad) = (ops.new_exact(rows)?, ops.new_stored(rows * hidden)?);
    let mut weight_grad = ops.new_exact(hidden * vocabulary)?;
    let scale = 1.0 / rows as f64;
    let seconds = clock.seconds(|| {
        ops.head_loss_forward_backward(shape, &input, &weight, &targets, scale, &mut losses, &mut input_grad, false, &mut weight_grad)
    })?;
    let operations = 6.0 * (rows * hidden) as f64 * vocabulary as f64;
    let peer = json!({ "kind": "head_loss", "rows": rows, "hidden": hidden, "vocabulary": vocabulary, "operations": operations });
    let case = format!("{rows} x {hidden} x {vocabulary}");
    give(Row { what: "head loss, both ways", case, seconds, amount: Amount::Operations(operations), peer });
    Ok(())
}

/// A layer with experts as Mixtral has it, and with many small ones.
fn experts<O: Operations>(clock: &Clock<'_, O>, give: &mut dyn FnMut(Row)) -> Result<(), KernelError> {
    let Sizes { rows, hidden, inner, .. } = *clock.sizes;
    for (experts, top_k, inner) in [(8, 2, inner), (64, 8, inner / 8 / 8 * 8)] {
        layer::measure(clock, RouteShape { rows, experts, top_k }, [hidden, inner], give)?;
    }
    Ok(())
}

/// What has to fit into 80 GB, with nothing computed twice: moments are of 8 bits, and gradients of 16.
fn large_step<O: Operations>(clock: &Clock<'_, O>, give: &mut dyn FnMut(Row)) -> Result<(), KernelError> {
    let settings = Settings { moments: MomentKind::EightBit, gradients: GradientKind::Bf16, ..Settings::default() };
    let passes = clock.sizes.large_passes;
    for (shape, passes) in clock.sizes.large_models.into_iter().flat_map(|shape| passes.map(|passes| (shape, passes))) {
        match step(clock, shape, passes, settings, give) {
            Err(KernelError::Memory { bytes }) => {
                let kind = shape.model_type;
                eprintln!("large step of a {kind}: left out, the device has no memory for a buffer of {bytes} bytes beside the others");
            }
            done => done?,
        }
    }
    Ok(())
}

/// A step of so many passes, which add to the same sums.
fn step<O: Operations>(
    clock: &Clock<'_, O>,
    shape: Shape,
    passes: usize,
    settings: Settings,
    give: &mut dyn FnMut(Row),
) -> Result<(), KernelError> {
    let failed = |error: ModelError| match error {
        ModelError::Kernel(error) => error,
        error => KernelError::Launch(error.to_string()),
    };
    let Shape { model_type, model: [layers, hidden, inner, query_heads, key_heads, head_dim], vocabulary, pass_tokens: rows } = shape;
    let (ops, tied) = (clock.ops, model_type == "qwen3");
    let config = json!({
        "model_type": model_type, "hidden_act": "silu", "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": query_heads, "num_key_value_heads": key_heads, "head_dim": head_dim,
        "max_position_embeddings": rows, "tie_word_embeddings": tied,
    });
    let fields = config.as_object().cloned().unwrap_or_default();
    let mut model = Model::zeros(ops, Config::from_json(fields).map_err(failed)?).map_err(failed)?;
    for (parameter, weight) in model.parameters.list.iter().zip(&mut model.weights) {
        let block: Vec<f32> = parameter.start_values(&model.config, 1).take(1 << 20).collect();
        repeat(&block, parameter.len(), |at, values| ops.write_stored(weight, at, values))?;
    }
    let mut batch = Batch::default();
    batch.push(&(0..rows).map(|row| (row * 7919 % vocabulary) as u32).collect::<Vec<_>>());
    let mut work = Workspace::new(ops, &model.config, rows).map_err(failed)?;
    let mut grads = Gradients::of_kind(ops, &model.parameters, settings.gradients, |_| true).map_err(failed)?;
    let (mut kept, mut optimiser) = (KeptLosses::new(), Optimiser::new(ops, &model, settings).map_err(failed)?);
    let scale = 1.0 / (passes * batch.num_targets()) as f64;
    let seconds = clock.seconds(|| {
        let mut one = || {
            grads.clear();
            kept.clear(ops, std::iter::repeat_n(rows, passes))?;
            ops.as_one(|| {
                for _ in 0..passes {
                    let share = model.start_forward_backward(ops, &batch, scale, &mut work, &mut grads, &mut |_, _| Ok(()))?;
                    kept.keep(ops, &work, share)?;
                }
                optimiser.squares(ops, &mut grads)?;
                optimiser.finish(ops, 1e-4, &mut kept, &grads, &mut model)
            })?;
            match kept.take(ops)? {
                (_, norm) if norm.is_finite() => Ok::<_, ModelError>(()),
                _ => Err(KernelError::Launch("the norm of the gradients is not a number".into()).into()),
            }
        };
        one().map_err(failed)
    })?;
    let weights = model.parameters.num_weights();
    // `FORMULA`: three times two for each weight in a product, and three times attention's four for each pair of a row and a key.
    let pairs = rows as f64 * (rows + 1) as f64 / 2.0;
    let in_products = weights - if tied { 0 } else { vocabulary * hidden };
    let of_pass = 6.0 * in_products as f64 * rows as f64 + 12.0 * pairs * (layers * query_heads * head_dim) as f64;
    let (tokens, operations) = (passes * rows, passes as f64 * of_pass);
    let peer = json!({ "kind": "step", "config": config, "tokens": rows, "passes": passes, "operations": operations });
    let moments = if settings.moments == MomentKind::EightBit { ", 8-bit moments" } else { "" };
    let gradients = if settings.gradients == GradientKind::Bf16 { ", bf16 gradients" } else { "" };
    let sequences = if passes == 1 { "one sequence".into() } else { format!("{passes} sequences, one a pass,") };
    let case = format!("{model_type}, {weights} weights, {sequences} of {rows}{moments}{gradients}");
    give(Row { what: "training step", case, seconds, amount: Amount::Tokens(tokens as f64, operations), peer });
    Ok(())
}

/// What a step's share of the peak is: its model FLOPs utilisation.
const FORMULA: &str = "A training step's share is its MFU: P (6 N T + 6 L D T (T + 1)) / seconds / peak, with P passes, each of one \
                       sequence of T tokens, N weights in products, L layers, D numbers of all query heads of a row.";

/// Prints rows.
#[derive(Debug)]
pub struct Table {
    json: bool,
    peak: f64,
    begun: bool,
}

impl Table {
    /// `peak`: operations a second that shares are of.
    pub fn new(json: bool, peak: f64) -> Self {
        Self { json, peak, begun: false }
    }

    pub fn print(&mut self, row: &Row) {
        let line = if self.json { self.line(row) } else { self.cells(row) };
        if !std::mem::replace(&mut self.begun, true) && !self.json {
            println!("{FORMULA}\n\n| what | case | ms | speed | of {:.0} TFLOP/s |\n|---|---|---|---|---|", self.peak * 1e-12);
        }
        println!("{line}");
    }

    fn cells(&self, row: &Row) -> String {
        let Row { what, case, seconds, amount, .. } = row;
        let share = |operations: f64| format!("{:.1} %", 100.0 * operations / seconds / self.peak);
        let (speed, share) = match *amount {
            Amount::Operations(operations) => (format!("{:.0} TFLOP/s", operations / seconds * 1e-12), share(operations)),
            Amount::Bytes(bytes) => (format!("{:.0} GB/s", bytes / seconds * 1e-9), String::new()),
            Amount::Tokens(tokens, operations) => (format!("{:.0} tokens/s", tokens / seconds), share(operations)),
        };
        format!("| {what} | {case} | {:.3} | {speed} | {share} |", seconds * 1e3)
    }

    fn line(&self, row: &Row) -> String {
        let Row { what, case, seconds, amount, peer } = row;
        let share = match *amount {
            Amount::Operations(operations) | Amount::Tokens(_, operations) => Some(operations / seconds / self.peak),
            Amount::Bytes(_) => None,
        };
        let (bytes, operations, tokens) = match *amount {
            Amount::Operations(operations) => (None, Some(operations), None),
            Amount::Bytes(bytes) => (Some(bytes), None, None),
            Amount::Tokens(tokens, operations) => (None, Some(operations), Some(tokens)),
        };
        json!({
            "what": what, "case": case, "seconds": seconds, "bytes": bytes, "operations": operations, "tokens": tokens, "share": share,
            "peer": peer, "peak": self.peak, "formula": FORMULA,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osler_kernels::Cpu;

    #[test]
    fn everything_is_measured_once() {
        let sizes = Sizes {
            rows: 24,
            hidden: 64,
            inner: 128,
            vocabulary: 40,
            lengths: &[8, 16],
            attention_rows: 16,
            weights: 1000,
            model: Shape { model_type: "mistral", model: [1, 64, 64, 2, 1, 32], vocabulary: 40, pass_tokens: 16 },
            large_models: ["mistral", "qwen3"].map(|model_type| Shape {
                model_type,
                model: [2, 64, 96, 2, 1, 32],
                vocabulary: 40,
                pass_tokens: 16,
            }),
            large_passes: [1, 3],
            round_seconds: 0.0,
            rounds: 1,
        };
        let mut rows = Vec::new();
        run(&Cpu::<f32>::bf16(1).unwrap(), &sizes, "", &mut |row| rows.push(row)).unwrap();
        let named: std::collections::BTreeSet<_> = rows.iter().map(|row| (row.what, row.case.clone())).collect();
        assert_eq!((rows.len(), named.len()), (11 + 2 * 2 * 5 + 3 * 3 + 1 + 2 * 4 + 1 + 2 * 2, rows.len()));
        assert!(rows.iter().all(|row| row.seconds.is_finite()));
        assert!(run(&Cpu::<f32>::bf16(1).unwrap(), &sizes, "nothing", &mut |_| ()).is_err());
        let table = Table::new(false, 1e15);
        let row =
            Row { what: "product forward", case: "2 x 3 x 4".into(), seconds: 2e-3, amount: Amount::Operations(1e12), peer: Value::Null };
        assert_eq!(table.cells(&row), "| product forward | 2 x 3 x 4 | 2.000 | 500 TFLOP/s | 50.0 % |");
        let mut one = Vec::new();
        run(&Cpu::<f32>::bf16(1).unwrap(), &sizes, "head loss", &mut |row| one.push(row)).unwrap();
        assert_eq!(one.len(), 1);
    }
}
