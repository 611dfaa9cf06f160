//! The operation boundary: what a model asks of a device. Some thirty coarse operations, each forward with its backward, on buffers that
//! live on the device. `docs/trainer.md` has the table with shapes, what is saved for the backward pass and where values are rounded.
//!
//! Five kinds of buffer, so that precision is a property of the kind and not of each call:
//! - **stored**: weights, activations and their gradients. bf16 on a device in bf16 mode. *Every store into one rounds; nothing else does.*
//! - **exact**: statistics, gradients of weights unless they are stored ([`Gradient`]), moments. f32 everywhere.
//! - **rest**: what stored weights lack of f32 master weights.
//! - **bytes**: codes of moments of 8 bits, see [`blockwise`].
//! - **index**: tokens, positions, routes. u32.
//!
//! There is no batch axis and no padding: a batch is `rows` tokens of packed documents, and attention is told by `lo` which rows each may
//! see. All matrices are row-major. A backward operation *adds* to gradients of weights, those of matrices if it is
//! told to; gradients of activations are overwritten unless the operation says that it adds. Sums over rows are taken in one order: the result does not depend on the number of threads.

use crate::cuda::ALIGNMENT_BYTES;
use crate::{KernelError, blockwise};
use std::sync::atomic::{AtomicU64, Ordering};

/// The target of a row that counts nothing in the loss.
pub const IGNORED: u32 = u32::MAX;

/// Result of an operation.
pub type Done = Result<(), KernelError>;

/// A matrix product `output[rows, outputs] = input[rows, inputs] · weight[outputs, inputs]ᵀ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearShape {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
}

/// Heads that are rotated by position: tensors of `[rows, heads, head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotaryShape {
    pub rows: usize,
    pub heads: usize,
    pub head_dim: usize,
}

/// Grouped-query attention: queries `[rows, query_heads, head_dim]`, keys and values `[rows, key_heads, head_dim]`; query head `h` reads
/// key head `h / (query_heads / key_heads)`. Scores are divided by `sqrt(head_dim)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    pub rows: usize,
    pub query_heads: usize,
    pub key_heads: usize,
    pub head_dim: usize,
}

/// What attention reads: rows of queries, keys and values, and the first row that each row may see.
///
/// Row `i` sees rows `lo[i] ..= i`. `lo` never falls and `lo[i] <= i`; with a document that begins at row `s` and a window of `W` keys,
/// itself included, `lo[i] = max(s, i - W + 1)`.
#[derive(Debug)]
pub struct AttentionInput<'a, O: Operations + ?Sized> {
    pub query: &'a O::Stored,
    pub key: &'a O::Stored,
    pub value: &'a O::Stored,
    pub lo: &'a O::Index,
}

/// Routing of `rows` tokens to `top_k` of `experts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteShape {
    pub rows: usize,
    pub experts: usize,
    pub top_k: usize,
}

/// Rows that are sent to experts and gathered again: `rows` tokens of `hidden`, each in `top_k` slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DispatchShape {
    pub rows: usize,
    pub top_k: usize,
    pub hidden: usize,
}

/// The settings of one AdamW step (Loshchilov and Hutter 2019, decoupled decay).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Number of this step, from 1, for the correction of bias.
    pub step: u64,
}

/// The numbers of one AdamW step that are the same for every weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AdamWFactors {
    /// On the first moment, and on the gradient that is added to it.
    pub first: [f64; 2],
    /// On the second moment, and on the squared gradient that is added to it.
    pub second: [f64; 2],
    /// On the weight: `1 − η λ`.
    pub keep: f64,
    /// On the first moment: the learning rate over its correction of bias.
    pub rate: f64,
    /// On the root of the second moment: its correction of bias.
    pub second_correction: f64,
    pub epsilon: f64,
}

impl AdamW {
    /// The factors of this step.
    pub(crate) fn factors(&self, kernel: &'static str) -> Result<AdamWFactors, KernelError> {
        let Self { learning_rate, beta1, beta2, epsilon, weight_decay, step } = *self;
        let power = i32::try_from(step).unwrap_or(i32::MAX);
        if power < 1 {
            return Err(KernelError::Value { kernel, argument: "step", wanted: "1 or more" });
        }
        Ok(AdamWFactors {
            first: [beta1, 1.0 - beta1],
            second: [beta2, 1.0 - beta2],
            keep: 1.0 - learning_rate * weight_decay,
            rate: learning_rate / (1.0 - beta1.powi(power)),
            second_correction: (1.0 - beta2.powi(power)).sqrt().recip(),
            epsilon,
        })
    }
}

/// What AdamW keeps of one tensor on a device: the moments, and what the stored weights lack of the f32 ones where those are coarser.
#[derive(Debug)]
pub struct AdamState<M: Memory> {
    pub moments: Moments<M>,
    pub rest: Option<M::Rest>,
}

/// The first and the second moment of each weight.
#[derive(Debug)]
pub enum Moments<M: Memory> {
    Exact { first: M::Exact, second: M::Exact },
    Blockwise { first: Blockwise<M>, second: Blockwise<M> },
}

/// Numbers of 8 bits with a scale per block, as in [`blockwise`]: `scales[i / 256] · map[codes[i]]`. All zeros are zeros.
#[derive(Debug)]
pub struct Blockwise<M: Memory> {
    pub codes: M::Bytes,
    pub scales: M::Exact,
}

impl<M: Memory> AdamState<M> {
    /// The state of `len` weights before the first step: moments of zero, and no rest, as masters are the stored weights to begin with.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    pub fn new(memory: &M, len: usize, is_blockwise: bool) -> Result<Self, KernelError> {
        let blockwise = || Ok(Blockwise { codes: memory.new_bytes(len)?, scales: memory.new_exact(len.div_ceil(blockwise::BLOCK))? });
        let moments = match is_blockwise {
            true => Moments::Blockwise { first: blockwise()?, second: blockwise()? },
            false => Moments::Exact { first: memory.new_exact(len)?, second: memory.new_exact(len)? },
        };
        Ok(Self { moments, rest: if memory.needs_master() { Some(memory.new_rest(len)?) } else { None } })
    }
}

/// The gradient of a tensor of weights.
#[derive(Debug)]
pub enum Gradient<M: Memory> {
    /// f32.
    Exact(M::Exact),
    /// In half the memory on a device that stores bf16. Each product that adds to it rounds.
    Stored(M::Stored),
}

impl<M: Memory> Gradient<M> {
    /// Zeros.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    pub fn new(memory: &M, len: usize, is_stored: bool) -> Result<Self, KernelError> {
        Ok(if is_stored { Self::Stored(memory.new_stored(len)?) } else { Self::Exact(memory.new_exact(len)?) })
    }

    /// What is added to in f32, if it is that.
    pub fn exact(&mut self) -> Option<&mut M::Exact> {
        match self {
            Self::Exact(gradient) => Some(gradient),
            Self::Stored(_) => None,
        }
    }
}

/// Bytes that a run takes of its device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Buffers, and the gaps between all that is here.
    pub buffers: u64,
    /// What a GPU's kernels need for themselves: as much as those that need the most.
    pub scratch: u64,
    /// What other ranks' GPUs send, until it is added.
    pub staging: u64,
}

impl Needs {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.buffers.saturating_add(self.scratch).saturating_add(self.staging)
    }
}

/// Memory of one device, by kind of buffer.
pub trait Memory {
    /// Weights, activations and their gradients.
    type Stored: Send + Sync + std::fmt::Debug;
    /// Statistics, gradients of weights, optimiser state.
    type Exact: Send + Sync + std::fmt::Debug;
    /// Tokens, positions, routes.
    type Index: Send + Sync + std::fmt::Debug;
    /// What stored weights lack of f32 master weights: the two together are those, exactly.
    type Rest: Send + Sync + std::fmt::Debug;
    /// Codes of [`Blockwise`] numbers.
    type Bytes: Send + Sync + std::fmt::Debug;
    /// Squares of a step's gradients, their norm, and the factor that follows from it.
    type Norm: Send + Sync + std::fmt::Debug;
    /// Numbers that the device tells the host.
    type Board: Send + Sync + std::fmt::Debug;

    /// Whether there are f32 master weights, because the stored ones are coarser.
    fn needs_master(&self) -> bool;
    /// `len` zeros.
    ///
    /// # Errors
    /// [`KernelError::Memory`], as for the three below.
    fn new_stored(&self, len: usize) -> Result<Self::Stored, KernelError>;
    /// `len` zeros.
    fn new_exact(&self, len: usize) -> Result<Self::Exact, KernelError>;
    /// `len` zeros.
    fn new_index(&self, len: usize) -> Result<Self::Index, KernelError>;
    /// The rest of `len` weights that lack nothing.
    fn new_rest(&self, len: usize) -> Result<Self::Rest, KernelError>;
    /// `len` zeros.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    fn new_bytes(&self, len: usize) -> Result<Self::Bytes, KernelError>;
    /// Room for the squares of so many gradients, all zero, whose norm is to be `most` at most; a factor of 1.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    fn new_norm(&self, gradients: usize, most: f64) -> Result<Self::Norm, KernelError>;
    /// Room for `len` numbers and a norm.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    fn new_board(&self, len: usize) -> Result<Self::Board, KernelError>;
    /// Sees to it that there is memory for what follows. A GPU has it in one arena, which all that follows is cut from.
    ///
    /// # Errors
    /// [`KernelError::Memory`] if there is not.
    fn reserve(&self, _needs: Needs) -> Result<(), KernelError> {
        Ok(())
    }
}

/// Numbers of 8 bytes in a [`Memory::Norm`]: what the norm may be, the squares, the norm, and the factor.
pub(crate) const fn norm_numbers(gradients: usize) -> usize {
    gradients + 3
}

/// Memory that only counts what would be taken of it: what is built on it says how many bytes it needs, exactly, before there are any.
#[derive(Debug)]
pub struct Counter {
    stored_bytes: u64,
    master: bool,
    taken: AtomicU64,
    gaps: AtomicU64,
}

impl Counter {
    /// Memory of a device that stores values in `stored_bytes` bytes each: 2 for bf16, 4 for f32.
    pub fn new(stored_bytes: u64) -> Self {
        Self { stored_bytes, master: stored_bytes < 4, taken: AtomicU64::new(0), gaps: AtomicU64::new(0) }
    }

    /// The same with master weights, whatever the size of stored ones.
    pub fn with_master(self) -> Self {
        Self { master: true, ..self }
    }

    /// Bytes taken since the last call.
    pub fn take(&self) -> u64 {
        self.taken.swap(0, Ordering::Relaxed)
    }

    /// Bytes between what was taken since the last call, in an arena of a GPU.
    pub fn take_gaps(&self) -> u64 {
        self.gaps.swap(0, Ordering::Relaxed)
    }

    fn add(&self, len: usize, bytes: u64) -> Result<(), KernelError> {
        let bytes = len as u64 * bytes;
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        self.gaps.fetch_add(bytes.max(1).next_multiple_of(ALIGNMENT_BYTES as u64) - bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Memory for Counter {
    type Stored = ();
    type Exact = ();
    type Index = ();
    type Rest = ();
    type Bytes = ();
    type Norm = ();
    type Board = ();

    fn needs_master(&self) -> bool {
        self.master
    }

    fn new_stored(&self, len: usize) -> Result<(), KernelError> {
        self.add(len, self.stored_bytes)
    }

    fn new_exact(&self, len: usize) -> Result<(), KernelError> {
        self.add(len, 4)
    }

    fn new_index(&self, len: usize) -> Result<(), KernelError> {
        self.add(len, 4)
    }

    /// Of bf16, the other half of an f32.
    fn new_rest(&self, len: usize) -> Result<(), KernelError> {
        self.add(len, self.stored_bytes)
    }

    fn new_bytes(&self, len: usize) -> Result<(), KernelError> {
        self.add(len, 1)
    }

    fn new_norm(&self, gradients: usize, _most: f64) -> Result<(), KernelError> {
        self.add(norm_numbers(gradients), 8)
    }

    /// A GPU's is in the host's memory.
    fn new_board(&self, len: usize) -> Result<(), KernelError> {
        if self.stored_bytes < 4 { Ok(()) } else { self.add(len, 4) }
    }
}

/// Operations of one device.
///
/// # Errors
/// Every operation gives [`KernelError::Shape`] when buffers do not fit together and [`KernelError::Value`] when an index is out of range.
pub trait Operations: Memory + Sync {
    /// Does `work`. A device may begin with it only at its end, and take all of it as one, faster where it has done the same before: the same
    /// operations with the same numbers on the same buffers, whatever these hold. What reads from the device or writes to it in between divides it.
    /// One thread at a time: what another asks for meanwhile may be done before it or after.
    ///
    /// # Errors
    /// Those of `work`, and those of its operations, which may come after it.
    fn as_one<R, E: From<KernelError>>(&self, work: impl FnOnce() -> Result<R, E>) -> Result<R, E>
    where
        Self: Sized,
    {
        work()
    }

    /// Begins with all that [`as_one`](Self::as_one) was told so far: memory that is dropped after is there again at once.
    fn begin(&self) -> Done {
        Ok(())
    }

    /// Copies `values` to `buffer[at..]`, rounded as every store is.
    fn write_stored(&self, buffer: &mut Self::Stored, at: usize, values: &[f32]) -> Done;
    /// Copies `values` to `buffer[at..]`.
    fn write_exact(&self, buffer: &mut Self::Exact, at: usize, values: &[f32]) -> Done;
    /// Replaces the whole buffer.
    fn write_index(&self, buffer: &mut Self::Index, values: &[u32]) -> Done;
    /// Copies `buffer[at..]` to all of `values`.
    fn read_stored(&self, buffer: &Self::Stored, at: usize, values: &mut [f32]) -> Done;
    /// Copies `buffer[at..]` to all of `values`.
    fn read_exact(&self, buffer: &Self::Exact, at: usize, values: &mut [f32]) -> Done;
    /// Copies the whole buffer.
    fn read_index(&self, buffer: &Self::Index) -> Result<Vec<u32>, KernelError>;
    /// Sets the master weights `[at..]` to `values`: `weight` to them as they are stored, and `rest` to what that lacks.
    fn write_master(&self, weight: &mut Self::Stored, rest: &mut Self::Rest, at: usize, values: &[f32]) -> Done;
    /// The master weights `[at..]`.
    fn read_master(&self, weight: &Self::Stored, rest: &Self::Rest, at: usize, values: &mut [f32]) -> Done;
    /// Copies `values` to `buffer[at..]`.
    fn write_bytes(&self, buffer: &mut Self::Bytes, at: usize, values: &[u8]) -> Done;
    /// Copies `buffer[at..]` to all of `values`.
    fn read_bytes(&self, buffer: &Self::Bytes, at: usize, values: &mut [u8]) -> Done;
    /// Copies all of `from` to `to[at..]`.
    fn copy_stored(&self, from: &Self::Stored, to: &mut Self::Stored, at: usize) -> Done;
    /// Sets every value to zero.
    fn zero_stored(&self, buffer: &mut Self::Stored) -> Done;
    /// Sets every value to zero.
    fn zero_exact(&self, buffer: &mut Self::Exact) -> Done;

    /// `output[i] = table[tokens[i]]`; `table` `[vocabulary, hidden]`, `output` `[rows, hidden]`.
    fn embedding_forward(&self, hidden: usize, tokens: &Self::Index, table: &Self::Stored, output: &mut Self::Stored) -> Done;
    /// `table_grad[tokens[i]] += output_grad[i]`, in order of rows.
    fn embedding_backward(&self, hidden: usize, tokens: &Self::Index, output_grad: &Self::Stored, table_grad: &mut Self::Exact) -> Done;

    /// `output = weight · input · scale` by row with `scale = 1 / sqrt(mean(input²) + epsilon)` (Zhang and Sennrich 2019); saves `scale`
    /// `[rows]`.
    fn rmsnorm_forward(
        &self,
        epsilon: f64,
        input: &Self::Stored,
        weight: &Self::Stored,
        output: &mut Self::Stored,
        scale: &mut Self::Exact,
    ) -> Done;
    /// `sum = input + addend`, stored, and the norm of the stored sum: the residual connection and the norm after it.
    #[allow(clippy::too_many_arguments)]
    fn add_rmsnorm_forward(
        &self,
        epsilon: f64,
        input: &Self::Stored,
        addend: &Self::Stored,
        weight: &Self::Stored,
        sum: &mut Self::Stored,
        output: &mut Self::Stored,
        scale: &mut Self::Exact,
    ) -> Done;
    /// *Adds* to `input_grad`, which holds the gradient that reaches the residual stream by the other way, and to `weight_grad`.
    /// `input` is what was normalised: the sum, where there was one.
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_backward(
        &self,
        input: &Self::Stored,
        weight: &Self::Stored,
        scale: &Self::Exact,
        output_grad: &Self::Stored,
        input_grad: &mut Self::Stored,
        weight_grad: &mut Self::Exact,
    ) -> Done;

    /// `output = input · weightᵀ + bias`.
    fn linear_forward(
        &self,
        shape: LinearShape,
        input: &Self::Stored,
        weight: &Self::Stored,
        bias: Option<&Self::Stored>,
        output: &mut Self::Stored,
    ) -> Done;
    /// `input_grad = output_grad · weight`, added to what is there if `add`.
    fn linear_backward_input(
        &self,
        shape: LinearShape,
        output_grad: &Self::Stored,
        weight: &Self::Stored,
        add: bool,
        input_grad: &mut Self::Stored,
    ) -> Done;
    /// `weight_grad = output_gradᵀ · input`, added to what is there if `add`, and rounded once where it is stored; `bias_grad += sum over rows of
    /// output_grad`.
    fn linear_backward_weight(
        &self,
        shape: LinearShape,
        output_grad: &Self::Stored,
        input: &Self::Stored,
        add: bool,
        weight_grad: &mut Gradient<Self>,
        bias_grad: Option<&mut Self::Exact>,
    ) -> Done
    where
        Self: Sized;

    /// One linear map per expert: rows `segments[e] .. segments[e + 1]` of `input` go through matrix `e` of `weight`
    /// `[experts, outputs, inputs]`. `segments` `[experts + 1]` begins with 0 and ends with `rows`.
    fn grouped_linear_forward(
        &self,
        shape: LinearShape,
        segments: &Self::Index,
        input: &Self::Stored,
        weight: &Self::Stored,
        output: &mut Self::Stored,
    ) -> Done;
    /// As [`linear_backward_input`](Self::linear_backward_input), by segment.
    fn grouped_linear_backward_input(
        &self,
        shape: LinearShape,
        segments: &Self::Index,
        output_grad: &Self::Stored,
        weight: &Self::Stored,
        add: bool,
        input_grad: &mut Self::Stored,
    ) -> Done;
    /// As [`linear_backward_weight`](Self::linear_backward_weight), by segment; an expert without rows adds nothing to its own, or makes it zero.
    fn grouped_linear_backward_weight(
        &self,
        shape: LinearShape,
        segments: &Self::Index,
        output_grad: &Self::Stored,
        input: &Self::Stored,
        add: bool,
        weight_grad: &mut Gradient<Self>,
    ) -> Done
    where
        Self: Sized;

    /// Optional norm of each head (`norm` = weight `[head_dim]` and epsilon; saves `scale` `[rows, heads]`), then rotary positions (Su et
    /// al. 2021) in the half-split layout: `(a, b)` at `(j, j + head_dim / 2)` becomes `(a·cos − b·sin, b·cos + a·sin)`.
    /// `table` `[positions, head_dim]` holds the cosines, then the sines, of one position's `head_dim / 2` angles.
    #[allow(clippy::too_many_arguments)]
    fn rotary_forward(
        &self,
        shape: RotaryShape,
        table: &Self::Exact,
        positions: &Self::Index,
        input: &Self::Stored,
        norm: Option<(&Self::Stored, f64)>,
        output: &mut Self::Stored,
        scale: &mut Self::Exact,
    ) -> Done;
    /// Turns `grad` from the gradient of the output into that of the input, in place; with `norm` (`input`, weight, `scale`, gradient of
    /// weight)
    /// also through the norm. The rotated gradient is not rounded before it goes through the norm.
    fn rotary_backward(
        &self,
        shape: RotaryShape,
        table: &Self::Exact,
        positions: &Self::Index,
        norm: Option<(&Self::Stored, &Self::Stored, &Self::Exact, &mut Self::Exact)>,
        grad: &mut Self::Stored,
    ) -> Done;

    /// `output[i] = Σ_j softmax_j(query[i] · key[j] / sqrt(head_dim)) · value[j]` over `j` in `lo[i] ..= i`, by head; saves `log_sum_exp`
    /// `[query_heads, rows]` of the scaled scores. Never holds a rows × rows matrix. Probabilities are rounded before they meet the values;
    /// their sum is not.
    fn attention_forward(
        &self,
        shape: AttentionShape,
        input: AttentionInput<'_, Self>,
        output: &mut Self::Stored,
        log_sum_exp: &mut Self::Exact,
    ) -> Done;
    /// Attention of new rows that follow `before` rows whose keys and values are held already, as in generation: `key` and `value` hold
    /// `before + rows` rows or more, and row `i` sees rows `lo[i] ..= before + i` of them. It has no backward.
    fn attention_cached(&self, shape: AttentionShape, before: usize, input: AttentionInput<'_, Self>, output: &mut Self::Stored) -> Done;
    /// Overwrites the three gradients. Probabilities and gradients of scores are computed again from `log_sum_exp`, and rounded before
    /// they enter a product.
    #[allow(clippy::too_many_arguments)]
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
    ) -> Done;

    /// `output = silu(gate) · up`, `silu(x) = x / (1 + exp(−x))` (Shazeer 2020).
    fn swiglu_forward(&self, gate: &Self::Stored, up: &Self::Stored, output: &mut Self::Stored) -> Done;
    /// Overwrites both gradients.
    fn swiglu_backward(
        &self,
        gate: &Self::Stored,
        up: &Self::Stored,
        output_grad: &Self::Stored,
        gate_grad: &mut Self::Stored,
        up_grad: &mut Self::Stored,
    ) -> Done;

    /// Softmax of `logits` `[rows, experts]` into `probabilities`, the `top_k` largest into `chosen` `[rows, top_k]` (largest first; of
    /// equals
    /// the lower expert), and their probabilities, divided by their sum, into `weights` `[rows, top_k]`.
    fn route_forward(
        &self,
        shape: RouteShape,
        logits: &Self::Stored,
        probabilities: &mut Self::Exact,
        chosen: &mut Self::Index,
        weights: &mut Self::Exact,
    ) -> Done;
    /// Overwrites `logits_grad` from the gradient of the weights and of the balance loss: `balance_grad` `[experts]` is the gradient of
    /// every
    /// row's probabilities.
    fn route_backward(
        &self,
        shape: RouteShape,
        probabilities: &Self::Exact,
        chosen: &Self::Index,
        weights_grad: &Self::Exact,
        balance_grad: &Self::Exact,
        logits_grad: &mut Self::Stored,
    ) -> Done;
    /// Adds one layer to `statistics` `[2, experts]`: how often each expert was chosen, then the sum of its probabilities.
    fn balance_add(&self, shape: RouteShape, probabilities: &Self::Exact, chosen: &Self::Index, statistics: &mut Self::Exact) -> Done;
    /// The auxiliary loss of Switch transformers (Fedus et al. 2022) over all layers together, as Mixtral in `transformers` has it:
    /// `loss[0] = coefficient · experts · Σ_e (count_e / n) · (probability_e / n)` with `n = layers · rows`, and its gradient by
    /// probability.
    fn balance_loss(
        &self,
        shape: RouteShape,
        layers: usize,
        coefficient: f64,
        statistics: &Self::Exact,
        loss: &mut Self::Exact,
        balance_grad: &mut Self::Exact,
    ) -> Done;

    /// Stable counting sort of the choices by expert. `slots` `[rows, top_k]` says where each choice went, `sources` `[rows · top_k]` which
    /// choice (`row · top_k + k`) lies in each slot, `segments` `[experts + 1]` where each expert's slots begin.
    fn dispatch(
        &self,
        shape: RouteShape,
        chosen: &Self::Index,
        slots: &mut Self::Index,
        sources: &mut Self::Index,
        segments: &mut Self::Index,
    ) -> Done;
    /// `output[slot] = input[sources[slot] / top_k]`; `output` `[rows · top_k, hidden]`.
    fn permute_forward(&self, shape: DispatchShape, sources: &Self::Index, input: &Self::Stored, output: &mut Self::Stored) -> Done;
    /// `input_grad[row] = Σ_k output_grad[slots[row, k]]`, summed exactly and stored once.
    fn permute_backward(
        &self,
        shape: DispatchShape,
        slots: &Self::Index,
        output_grad: &Self::Stored,
        input_grad: &mut Self::Stored,
    ) -> Done;
    /// `output[row] = Σ_k weights[row, k] · input[slots[row, k]]`, summed exactly and stored once.
    fn combine_forward(
        &self,
        shape: DispatchShape,
        slots: &Self::Index,
        weights: &Self::Exact,
        input: &Self::Stored,
        output: &mut Self::Stored,
    ) -> Done;
    /// `input_grad[slot] = weights[row, k] · output_grad[row]` and `weights_grad[row, k] = input[slot] · output_grad[row]`; both
    /// overwritten.
    #[allow(clippy::too_many_arguments)]
    fn combine_backward(
        &self,
        shape: DispatchShape,
        slots: &Self::Index,
        sources: &Self::Index,
        weights: &Self::Exact,
        input: &Self::Stored,
        output_grad: &Self::Stored,
        input_grad: &mut Self::Stored,
        weights_grad: &mut Self::Exact,
    ) -> Done;

    /// `losses[i] = −log softmax(hidden[i] · weightᵀ)[targets[i]]`, 0 where the target is [`IGNORED`]; `weight` `[vocabulary, hidden]`
    /// is the
    /// language-model head. Logits exist for one block of rows at a time, in f32.
    fn head_loss_forward(
        &self,
        shape: LinearShape,
        hidden: &Self::Stored,
        weight: &Self::Stored,
        targets: &Self::Index,
        losses: &mut Self::Exact,
    ) -> Done;
    /// The losses, and the gradient of `loss_scale · Σ losses`, in one pass over the logits. `loss_scale` is 1 over the tokens that
    /// count in the whole step, known before it. Overwrites `hidden_grad`, and adds to
    /// `weight_grad` if `add`; the gradient of a logit is rounded before it enters a product. A row whose loss is not finite has NaN for its logits'
    /// gradients, so no step follows from it.
    #[allow(clippy::too_many_arguments)]
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
    ) -> Done;

    /// `Σ gradient²` of some gradients, summed in f64, each at its place in the norm.
    fn squares(&self, gradients: &[(usize, &Gradient<Self>)], norm: &mut Self::Norm) -> Done
    where
        Self: Sized;
    /// All squares, in order.
    fn read_squares(&self, norm: &Self::Norm) -> Result<Vec<f64>, KernelError>;
    /// Replaces all squares: with those of gradients that are elsewhere, too.
    fn write_squares(&self, norm: &mut Self::Norm, squares: &[f64]) -> Done;
    /// Makes the norm, the root of the sum of all squares in order, and the factor `most / (norm + 10⁻⁶)`, but at most 1 (Pascanu et al. 2013,
    /// algorithm 1; the small number is that of PyTorch). The factor is NaN where the norm is not finite.
    fn clip(&self, norm: &mut Self::Norm) -> Done;
    /// Leaves all of `numbers` at `board[at..]`, as they are when all that came before is done.
    fn tell(&self, numbers: &Self::Exact, board: &mut Self::Board, at: usize) -> Done;
    /// Ends what is told: with a norm, if there is one to tell.
    fn end_telling(&self, norm: Option<&Self::Norm>, board: &mut Self::Board) -> Done;
    /// Copies the first numbers of the board, as far as `numbers` goes, and gives the norm, 0 where there is none; once for each end. Waits for the
    /// end of what was told, and for nothing that came after. An error where nothing was told to its end.
    fn told(&self, board: &mut Self::Board, numbers: &mut [f32]) -> Result<f64, KernelError>;
    /// `sum += addend`.
    fn add_exact(&self, addend: &Self::Exact, sum: &mut Self::Exact) -> Done;
    /// One step of AdamW on one tensor, on its master weights where it has a rest, with the gradient times the norm's factor; nothing where that is NaN.
    /// Blockwise moments are widened, stepped as exact ones are,
    /// and take the codes nearest to what came out.
    fn adamw(
        &self,
        settings: &AdamW,
        norm: &Self::Norm,
        grad: &Gradient<Self>,
        state: &mut AdamState<Self>,
        weight: &mut Self::Stored,
    ) -> Done
    where
        Self: Sized;
}
