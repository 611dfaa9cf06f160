//! What passes say about their batches: the device tells the host on the way, which waits for all of it together, and not after each pass.

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
    /// Sum over rows.
    pub fn sum(&self) -> f64 {
        self.rows.iter().map(|&loss| f64::from(loss)).sum()
    }
}

/// What passes say, and the norm of their gradients, as the device tells it.
#[derive(Debug)]
pub struct KeptLosses<O: Memory> {
    board: Option<(usize, O::Board)>,
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
        Self { board: None, passes: Vec::new() }
    }

    /// Forgets what is kept, and makes room for passes over so many rows each.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough memory.
    pub fn clear(&mut self, ops: &O, rows: impl Iterator<Item = usize>) -> Result<(), ModelError> {
        self.passes.clear();
        let wanted = rows.map(numbers).sum();
        if self.board.as_ref().is_none_or(|(len, _)| *len < wanted) {
            self.board = None;
            self.board = Some((wanted, ops.new_board(wanted)?));
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
        let board = self.board()?;
        ops.tell(&work.losses, board, at)?;
        if let Some(balance) = &work.balance {
            ops.tell(&balance.loss, board, at + work.rows)?;
        }
        self.passes.push(Pass { rows: work.rows, share: if work.balance.is_some() { share } else { 0.0 } });
        Ok(())
    }

    /// Ends what is kept, with the norm of the passes' gradients if there is one.
    ///
    /// # Errors
    /// Those of the device; also where there is no room.
    pub fn end(&mut self, ops: &O, norm: Option<&O::Norm>) -> Result<(), ModelError> {
        Ok(ops.end_telling(norm, self.board()?)?)
    }

    /// All that is kept, in order, and the norm, 0 where there is none; nothing is kept, then. Waits for what was asked for before the end, and
    /// for nothing after it.
    ///
    /// # Errors
    /// Those of the device; also where what is kept has not been [ended](Self::end).
    pub fn take(&mut self, ops: &O) -> Result<(Vec<Losses>, f64), ModelError> {
        let mut values = vec![0.0; self.len()];
        let norm = ops.told(self.board()?, &mut values)?;
        let mut rest = values.as_slice();
        let mut one = |Pass { rows, share }: Pass| {
            let (pass, after) = rest.split_at(numbers(rows));
            rest = after;
            let balance = if share > 0.0 { f64::from(pass[rows]) / share } else { 0.0 };
            Losses { rows: pass[..rows].to_vec(), balance }
        };
        Ok((std::mem::take(&mut self.passes).into_iter().map(&mut one).collect(), norm))
    }

    fn board(&mut self) -> Result<&mut O::Board, KernelError> {
        let no_room = KernelError::Value { kernel: "kept losses", argument: "rows", wanted: "those that room was made for" };
        self.board.as_mut().map(|(_, board)| board).ok_or(no_room)
    }

    fn len(&self) -> usize {
        self.passes.iter().map(|pass| numbers(pass.rows)).sum()
    }
}
