//! Memory of one pass: what each layer keeps for its backward pass, and what all layers share.

use super::{Config, ModelError, batch};
use osler_kernels::{Memory, Operations};
use serde::{Deserialize, Serialize};
use std::mem::swap;

/// What a pass does not keep for its way back, and computes again there, layer by layer. No bit of the result depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing: all is kept.
    #[default]
    None,
    /// Norms and the gated product: what takes no matrix product.
    Elementwise,
    /// The wide middle of the feed-forward network too: two of a layer's seven products are done twice.
    FeedForward,
    /// All of a layer but the stream that it began with: the forward pass is done twice.
    Layer,
}

impl Recompute {
    /// All of them, the fastest first.
    pub const ALL: [Self; 4] = [Self::None, Self::Elementwise, Self::FeedForward, Self::Layer];

    /// The name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Elementwise => "elementwise",
            Self::FeedForward => "feed-forward",
            Self::Layer => "layer",
        }
    }
}

/// Buffers for passes over batches of one size.
#[derive(Debug)]
pub struct Workspace<O: Memory> {
    pub(super) rows: usize,
    pub(super) input: batch::Input<O>,
    pub(super) layers: Vec<LayerActivations<O>>,
    pub(super) recompute: Recompute,
    /// What is computed again: lent to one layer at a time.
    pub(super) spare: LayerActivations<O>,
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
    /// Memory for batches of `rows` tokens, all of whose activations are kept.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough.
    pub fn new(ops: &O, config: &Config, rows: usize) -> Result<Self, ModelError> {
        Self::with_recompute(ops, config, rows, Recompute::None)
    }

    /// Memory for batches of `rows` tokens.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough.
    pub fn with_recompute(ops: &O, config: &Config, rows: usize, recompute: Recompute) -> Result<Self, ModelError> {
        let sizes = Sizes::new(config, rows);
        let kept = Share { recompute, spare: false };
        let layers = (0..config.num_layers).map(|_| LayerActivations::new(ops, config, &sizes, kept)).collect::<Result<_, ModelError>>()?;
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
            recompute,
            spare: LayerActivations::new(ops, config, &sizes, Share { recompute, spare: true })?,
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

/// Which buffers of a layer: those that every layer keeps, or the spare ones for what is computed again.
#[derive(Clone, Copy)]
struct Share {
    recompute: Recompute,
    spare: bool,
}

impl Share {
    /// `len` of a buffer that is computed again from `level` on, if it is of this share.
    fn of(self, level: Recompute, len: usize) -> usize {
        if (self.recompute >= level) == self.spare { len } else { 0 }
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
    /// Of passes over `rows` tokens, all of it.
    pub fn of(ops: &O, config: &Config, rows: usize) -> Result<Self, ModelError> {
        Self::new(ops, config, &Sizes::new(config, rows), Share { recompute: Recompute::None, spare: false })
    }

    /// The buffers of a share; the others are empty.
    fn new(ops: &O, config: &Config, sizes: &Sizes, share: Share) -> Result<Self, ModelError> {
        use Recompute::{Elementwise, FeedForward, Layer};
        let Sizes { rows, hidden, queries, keys, inner, .. } = *sizes;
        let stored = |level, len| ops.new_stored(share.of(level, len));
        let exact = |level, len| ops.new_exact(share.of(level, len));
        let head_scales = |heads: usize| exact(Layer, if config.has_head_norm() { rows * heads } else { 0 });
        Ok(Self {
            rows,
            // Kept in any case: the layer is computed again from it.
            stream: ops.new_stored(if share.spare { 0 } else { hidden })?,
            normed: stored(Elementwise, hidden)?,
            scale: exact(Layer, rows)?,
            query_raw: stored(Layer, queries)?,
            key_raw: stored(Layer, keys)?,
            query: stored(Layer, queries)?,
            key: stored(Layer, keys)?,
            value: stored(Layer, keys)?,
            query_scale: head_scales(config.num_heads)?,
            key_scale: head_scales(config.num_key_heads)?,
            context: stored(Layer, queries)?,
            log_sum_exp: exact(Layer, rows * config.num_heads)?,
            middle: stored(Layer, hidden)?,
            middle_normed: stored(Elementwise, hidden)?,
            middle_scale: exact(Layer, rows)?,
            gate: stored(FeedForward, inner)?,
            up: stored(FeedForward, inner)?,
            active: stored(Elementwise, inner)?,
            routes: match config.experts {
                Some(experts) => Some(Routes::new(ops, config, experts.count, sizes, share)?),
                None => None,
            },
        })
    }

    /// Lends the spare buffers to this layer, or takes them back: those that are computed again.
    pub fn lend(&mut self, spare: &mut Self, recompute: Recompute) {
        if recompute >= Recompute::Elementwise {
            swap(&mut self.normed, &mut spare.normed);
            swap(&mut self.middle_normed, &mut spare.middle_normed);
            swap(&mut self.active, &mut spare.active);
        }
        if recompute >= Recompute::FeedForward {
            swap(&mut self.gate, &mut spare.gate);
            swap(&mut self.up, &mut spare.up);
        }
        if recompute == Recompute::Layer {
            swap(&mut self.scale, &mut spare.scale);
            swap(&mut self.query_raw, &mut spare.query_raw);
            swap(&mut self.key_raw, &mut spare.key_raw);
            swap(&mut self.query, &mut spare.query);
            swap(&mut self.key, &mut spare.key);
            swap(&mut self.value, &mut spare.value);
            swap(&mut self.query_scale, &mut spare.query_scale);
            swap(&mut self.key_scale, &mut spare.key_scale);
            swap(&mut self.context, &mut spare.context);
            swap(&mut self.log_sum_exp, &mut spare.log_sum_exp);
            swap(&mut self.middle, &mut spare.middle);
            swap(&mut self.middle_scale, &mut spare.middle_scale);
        }
        if let (Some(own), Some(spare)) = (&mut self.routes, &mut spare.routes) {
            if recompute >= Recompute::FeedForward {
                swap(&mut own.sent, &mut spare.sent);
                swap(&mut own.returned, &mut spare.returned);
            }
            if recompute == Recompute::Layer {
                swap(&mut own.logits, &mut spare.logits);
                swap(&mut own.probabilities, &mut spare.probabilities);
                swap(&mut own.chosen, &mut spare.chosen);
                swap(&mut own.weights, &mut spare.weights);
                swap(&mut own.slots, &mut spare.slots);
                swap(&mut own.sources, &mut spare.sources);
                swap(&mut own.segments, &mut spare.segments);
            }
        }
    }
}

impl<O: Memory> Routes<O> {
    fn new(ops: &O, config: &Config, experts: usize, sizes: &Sizes, share: Share) -> Result<Self, ModelError> {
        let Sizes { rows, slots, .. } = *sizes;
        let narrow = |len: usize| share.of(Recompute::Layer, len);
        let wide = share.of(Recompute::FeedForward, slots * config.hidden_size);
        Ok(Self {
            logits: ops.new_stored(narrow(rows * experts))?,
            probabilities: ops.new_exact(narrow(rows * experts))?,
            chosen: ops.new_index(narrow(slots))?,
            weights: ops.new_exact(narrow(slots))?,
            slots: ops.new_index(narrow(slots))?,
            sources: ops.new_index(narrow(slots))?,
            segments: ops.new_index(narrow(experts + 1))?,
            sent: ops.new_stored(wide)?,
            returned: ops.new_stored(wide)?,
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
