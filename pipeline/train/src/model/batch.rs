//! What one pass of a model reads: packed rows of tokens.

use super::{Config, ModelError};
use osler_kernels::operations::IGNORED;
use osler_kernels::{Memory, Operations};

/// Packed documents, one row per token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub tokens: Vec<u32>,
    /// What each row should predict; [`IGNORED`] where nothing is asked.
    pub targets: Vec<u32>,
    /// Position of each row in its document.
    pub positions: Vec<u32>,
    /// First row of each row's document.
    pub starts: Vec<u32>,
    /// Source of each row, any numbers; empty where nobody asks.
    pub sources: Vec<u32>,
}

impl Batch {
    /// Appends one document: each of its tokens is asked for the next; the last for nothing.
    pub fn push(&mut self, document: &[u32]) {
        let start = self.tokens.len() as u32;
        self.tokens.extend(document);
        self.targets.extend(document.iter().skip(1).copied().chain((!document.is_empty()).then_some(IGNORED)));
        self.positions.extend(0..document.len() as u32);
        self.starts.extend(document.iter().map(|_| start));
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Rows that count in the loss.
    pub fn num_targets(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORED).count()
    }

    /// First row that each row sees, under the model's window.
    pub(super) fn first_seen(&self, config: &Config) -> Vec<u32> {
        let window = config.window.map_or(u32::MAX, |window| u32::try_from(window).unwrap_or(u32::MAX));
        (0..).zip(&self.starts).map(|(row, &start): (u32, _)| start.max((row + 1).saturating_sub(window))).collect()
    }

    pub(super) fn check(&self, config: &Config) -> Result<(), ModelError> {
        let rows = self.tokens.len();
        if [self.targets.len(), self.positions.len(), self.starts.len()] != [rows; 3] {
            return Err(ModelError::Batch { wanted: "as many targets, positions and starts as tokens" });
        }
        if !self.sources.is_empty() && self.sources.len() != rows {
            return Err(ModelError::Batch { wanted: "as many sources as tokens, or none" });
        }
        if self.tokens.iter().any(|&token| token as usize >= config.vocab_size) {
            return Err(ModelError::Batch { wanted: "tokens below the size of the model's vocabulary: is this the model's tokenizer?" });
        }
        if self.positions.iter().any(|&position| position as usize >= config.max_positions) {
            return Err(ModelError::Batch { wanted: "documents no longer than max_position_embeddings of the model" });
        }
        Ok(())
    }
}

/// A batch on the device.
#[derive(Debug)]
pub(super) struct Input<O: Memory> {
    pub tokens: O::Index,
    pub targets: O::Index,
    pub positions: O::Index,
    pub lo: O::Index,
}

impl<O: Memory> Input<O> {
    pub fn new(ops: &O, rows: usize) -> Result<Self, ModelError> {
        let new = || ops.new_index(rows);
        Ok(Self { tokens: new()?, targets: new()?, positions: new()?, lo: new()? })
    }
}

impl<O: Operations> Input<O> {
    /// Rows of one document that follow `before` others of it.
    pub fn write_after(&mut self, ops: &O, tokens: &[u32], before: usize, config: &Config) -> Result<(), ModelError> {
        let mut batch = Batch::default();
        batch.push(tokens);
        batch.positions.iter_mut().for_each(|position| *position += before as u32);
        batch.check(config)?;
        let window = config.window.unwrap_or(usize::MAX);
        let lo: Vec<u32> = (0..tokens.len()).map(|row| (before + row + 1).saturating_sub(window) as u32).collect();
        ops.write_index(&mut self.tokens, &batch.tokens)?;
        ops.write_index(&mut self.positions, &batch.positions)?;
        Ok(ops.write_index(&mut self.lo, &lo)?)
    }

    pub fn write(&mut self, ops: &O, batch: &Batch, config: &Config) -> Result<(), ModelError> {
        batch.check(config)?;
        ops.write_index(&mut self.tokens, &batch.tokens)?;
        ops.write_index(&mut self.targets, &batch.targets)?;
        ops.write_index(&mut self.positions, &batch.positions)?;
        Ok(ops.write_index(&mut self.lo, &batch.first_seen(config))?)
    }
}
