//! Memory of one pass: what each layer keeps for its backward pass, and what all layers share.

use super::{Config, ModelError, batch};
use osler_kernels::{Memory, Operations};

/// Buffers for passes over batches of one size.
#[derive(Debug)]
pub struct Workspace<O: Memory> {
    pub(super) rows: usize,
    pub(super) input: batch::Input<O>,
    pub(super) layers: Vec<LayerActivations<O>>,
    /// The stream after the last layer, its norm and the norm's scales.
    pub(super) stream: O::Stored,
    pub(super) normed: O::Stored,
    pub(super) scale: O::Exact,
    pub(super) losses: O::Exact,
    /// What a half layer adds to the stream.
    pub(super) delta: O::Stored,
    /// Gradient of the stream.
    pub(super) grad: O::Stored,
    /// Gradient of the output of a norm.
    pub(super) normed_grad: O::Stored,
    pub(super) scratch: Scratch<O>,
    pub(super) balance: Option<Balance<O>>,
}

/// What one layer keeps.
#[derive(Debug)]
pub(super) struct LayerActivations<O: Memory> {
    pub rows: usize,
    pub stream: O::Stored,
    pub normed: O::Stored,
    pub scale: O::Exact,
    pub query_raw: O::Stored,
    pub key_raw: O::Stored,
    pub query: O::Stored,
    pub key: O::Stored,
    pub value: O::Stored,
    pub query_scale: O::Exact,
    pub key_scale: O::Exact,
    pub context: O::Stored,
    pub log_sum_exp: O::Exact,
    /// The stream between attention and feed-forward network.
    pub middle: O::Stored,
    pub middle_normed: O::Stored,
    pub middle_scale: O::Exact,
    pub gate: O::Stored,
    pub up: O::Stored,
    pub active: O::Stored,
    pub routes: Option<Routes<O>>,
}

/// What a layer with experts keeps besides.
#[derive(Debug)]
pub(super) struct Routes<O: Memory> {
    pub logits: O::Stored,
    pub probabilities: O::Exact,
    pub chosen: O::Index,
    pub weights: O::Exact,
    pub slots: O::Index,
    pub sources: O::Index,
    pub segments: O::Index,
    pub sent: O::Stored,
    pub returned: O::Stored,
}

/// Gradients inside one layer.
#[derive(Debug)]
pub(super) struct Scratch<O: Memory> {
    pub context: O::Stored,
    pub query: O::Stored,
    pub key: O::Stored,
    pub value: O::Stored,
    pub gate: O::Stored,
    pub up: O::Stored,
    pub active: O::Stored,
    pub routes: Option<RouteScratch<O>>,
}

/// Gradients inside one layer with experts.
#[derive(Debug)]
pub(super) struct RouteScratch<O: Memory> {
    pub slots: O::Stored,
    pub weights: O::Exact,
    pub logits: O::Stored,
}

/// The balance of the experts over all layers.
#[derive(Debug)]
pub(super) struct Balance<O: Memory> {
    pub statistics: O::Exact,
    pub loss: O::Exact,
    pub grad: O::Exact,
}

impl<O: Memory> Workspace<O> {
    /// Memory for batches of `rows` tokens.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough.
    pub fn new(ops: &O, config: &Config, rows: usize) -> Result<Self, ModelError> {
        let sizes = Sizes::new(config, rows);
        let layers = (0..config.num_layers).map(|_| LayerActivations::new(ops, config, &sizes)).collect::<Result<_, ModelError>>()?;
        let stream = || ops.new_stored(sizes.hidden);
        let balance = match config.experts {
            Some(experts) => Some(Balance {
                statistics: ops.new_exact(2 * experts.count)?,
                loss: ops.new_exact(1)?,
                grad: ops.new_exact(experts.count)?,
            }),
            None => None,
        };
        Ok(Self {
            rows,
            input: batch::Input::new(ops, rows)?,
            layers,
            stream: stream()?,
            normed: stream()?,
            scale: ops.new_exact(rows)?,
            losses: ops.new_exact(rows)?,
            delta: stream()?,
            grad: stream()?,
            normed_grad: stream()?,
            scratch: Scratch::new(ops, config, &sizes)?,
            balance,
        })
    }

    /// Rows of the batches that it is for.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl<O: Operations> Workspace<O> {
    pub(super) fn clear_balance(&mut self, ops: &O) -> Result<(), ModelError> {
        match &mut self.balance {
            Some(balance) => Ok(ops.zero_exact(&mut balance.statistics)?),
            None => Ok(()),
        }
    }
}

/// Numbers in the buffers of a pass.
struct Sizes {
    rows: usize,
    hidden: usize,
    queries: usize,
    keys: usize,
    /// Rows of the feed-forward network: tokens, or choices of experts.
    slots: usize,
    inner: usize,
}

impl Sizes {
    fn new(config: &Config, rows: usize) -> Self {
        let slots = rows * config.experts.map_or(1, |experts| experts.top_k);
        Self {
            rows,
            hidden: rows * config.hidden_size,
            queries: rows * config.num_heads * config.head_dim,
            keys: rows * config.num_key_heads * config.head_dim,
            slots,
            inner: slots * config.intermediate_size,
        }
    }
}

impl<O: Memory> LayerActivations<O> {
    /// Of passes over `rows` tokens.
    pub fn of(ops: &O, config: &Config, rows: usize) -> Result<Self, ModelError> {
        Self::new(ops, config, &Sizes::new(config, rows))
    }

    fn new(ops: &O, config: &Config, sizes: &Sizes) -> Result<Self, ModelError> {
        let Sizes { rows, hidden, queries, keys, inner, .. } = *sizes;
        let head_scales = |heads: usize| ops.new_exact(if config.has_head_norm() { rows * heads } else { 0 });
        Ok(Self {
            rows,
            stream: ops.new_stored(hidden)?,
            normed: ops.new_stored(hidden)?,
            scale: ops.new_exact(rows)?,
            query_raw: ops.new_stored(queries)?,
            key_raw: ops.new_stored(keys)?,
            query: ops.new_stored(queries)?,
            key: ops.new_stored(keys)?,
            value: ops.new_stored(keys)?,
            query_scale: head_scales(config.num_heads)?,
            key_scale: head_scales(config.num_key_heads)?,
            context: ops.new_stored(queries)?,
            log_sum_exp: ops.new_exact(rows * config.num_heads)?,
            middle: ops.new_stored(hidden)?,
            middle_normed: ops.new_stored(hidden)?,
            middle_scale: ops.new_exact(rows)?,
            gate: ops.new_stored(inner)?,
            up: ops.new_stored(inner)?,
            active: ops.new_stored(inner)?,
            routes: match config.experts {
                Some(experts) => Some(Routes::new(ops, config, experts.count, sizes)?),
                None => None,
            },
        })
    }
}

impl<O: Memory> Routes<O> {
    fn new(ops: &O, config: &Config, experts: usize, sizes: &Sizes) -> Result<Self, ModelError> {
        let Sizes { rows, slots, .. } = *sizes;
        Ok(Self {
            logits: ops.new_stored(rows * experts)?,
            probabilities: ops.new_exact(rows * experts)?,
            chosen: ops.new_index(slots)?,
            weights: ops.new_exact(slots)?,
            slots: ops.new_index(slots)?,
            sources: ops.new_index(slots)?,
            segments: ops.new_index(experts + 1)?,
            sent: ops.new_stored(slots * config.hidden_size)?,
            returned: ops.new_stored(slots * config.hidden_size)?,
        })
    }
}

impl<O: Memory> Scratch<O> {
    fn new(ops: &O, config: &Config, sizes: &Sizes) -> Result<Self, ModelError> {
        let Sizes { rows, queries, keys, slots, inner, .. } = *sizes;
        let routes = match config.experts {
            Some(experts) => Some(RouteScratch {
                slots: ops.new_stored(slots * config.hidden_size)?,
                weights: ops.new_exact(slots)?,
                logits: ops.new_stored(rows * experts.count)?,
            }),
            None => None,
        };
        Ok(Self {
            context: ops.new_stored(queries)?,
            query: ops.new_stored(queries)?,
            key: ops.new_stored(keys)?,
            value: ops.new_stored(keys)?,
            gate: ops.new_stored(inner)?,
            up: ops.new_stored(inner)?,
            active: ops.new_stored(inner)?,
            routes,
        })
    }
}
