//! What passes say about their batches. It stays on the device until the host asks, which waits then, and not after each pass.

use super::{ModelError, Workspace};
use osler_kernels::{KernelError, Memory, Operations};

/// What a pass says about a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Losses {
    /// Cross entropy of each row in nats; 0 where nothing is asked.
    pub rows: Vec<f32>,
    /// The balance loss of the experts with its coefficient; 0 without experts.
    pub balance: f64,
}

impl Losses {
    /// Whether all of them are numbers.
    pub fn are_finite(&self) -> bool {
        self.balance.is_finite() && self.rows.iter().all(|loss| loss.is_finite())
    }

    /// Sum over rows.
    pub fn sum(&self) -> f64 {
        self.rows.iter().map(|&loss| f64::from(loss)).sum()
    }
}

/// What passes said, on the device.
#[derive(Debug)]
pub struct KeptLosses<O: Memory> {
    memory: Option<(usize, O::Exact)>,
    passes: Vec<Pass>,
}

/// One of them: `rows` losses, and then the balance.
#[derive(Debug, Clone, Copy)]
struct Pass {
    rows: usize,
    share: f64,
}

/// Numbers that are kept of a pass over so many rows.
const fn numbers(rows: usize) -> usize {
    rows + 1
}

impl<O: Memory> KeptLosses<O> {
    /// None yet.
    pub fn new() -> Self {
        Self { memory: None, passes: Vec::new() }
    }

    /// Forgets what is kept, and makes room for passes over so many rows each.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough memory.
    pub fn clear(&mut self, ops: &O, rows: impl Iterator<Item = usize>) -> Result<(), ModelError> {
        self.passes.clear();
        let wanted = rows.map(numbers).sum();
        if self.memory.as_ref().is_none_or(|(len, _)| *len < wanted) {
            self.memory = None;
            self.memory = Some((wanted, ops.new_exact(wanted)?));
        }
        Ok(())
    }
}

impl<O: Memory> Default for KeptLosses<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Operations> KeptLosses<O> {
    /// Keeps what the last pass says, which made `share` of its step's gradients.
    ///
    /// # Errors
    /// Those of the device; also where there is no room.
    pub fn keep(&mut self, ops: &O, work: &Workspace<O>, share: f64) -> Result<(), ModelError> {
        let at = self.len();
        let no_room = KernelError::Value { kernel: "kept losses", argument: "rows", wanted: "those that room was made for" };
        let (_, memory) = self.memory.as_mut().ok_or(no_room)?;
        ops.copy_exact(&work.losses, memory, at)?;
        if let Some(balance) = &work.balance {
            ops.copy_exact(&balance.loss, memory, at + work.rows)?;
        }
        self.passes.push(Pass { rows: work.rows, share: if work.balance.is_some() { share } else { 0.0 } });
        Ok(())
    }

    /// All that is kept, in order; nothing is, then. Waits for the device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn take(&mut self, ops: &O) -> Result<Vec<Losses>, ModelError> {
        let mut values = vec![0.0; self.len()];
        if let Some((_, memory)) = self.memory.as_ref().filter(|_| !values.is_empty()) {
            ops.read_exact(memory, 0, &mut values)?;
        }
        let mut rest = values.as_slice();
        let mut one = |Pass { rows, share }: Pass| {
            let (pass, after) = rest.split_at(numbers(rows));
            rest = after;
            let balance = if share > 0.0 { f64::from(pass[rows]) / share } else { 0.0 };
            Losses { rows: pass[..rows].to_vec(), balance }
        };
        Ok(std::mem::take(&mut self.passes).into_iter().map(&mut one).collect())
    }

    fn len(&self) -> usize {
        self.passes.iter().map(|pass| numbers(pass.rows)).sum()
    }
}
