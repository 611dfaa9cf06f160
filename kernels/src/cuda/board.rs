//! What the device tells the host while it goes on: numbers that commands leave in the host's memory, and a mark when all of them are there.

use super::memory::Held;
use super::norm::Norm;
use super::{Command, Exact, Gpu, Launcher};
use crate::KernelError;
use crate::checks::range;
use crate::operations::Done;

/// In the host's memory the mark, the norm, and then the numbers. Whatever was told before is lost when the next is.
#[derive(Debug)]
pub struct Board<M> {
    host: Held<M>,
    /// What the device marks the end with: a one.
    mark: Held<M>,
    len: usize,
    has_norm: bool,
    /// Whether something was told that nobody has asked for.
    is_pending: bool,
}

/// Bytes of the mark, and of the norm.
const SIZE: usize = size_of::<u64>();

impl<M> Board<M> {
    fn norm_at(&self) -> u64 {
        self.host.address() + SIZE as u64
    }

    fn number_at(&self, at: usize) -> u64 {
        self.norm_at() + (SIZE + at * size_of::<f32>()) as u64
    }
}

impl<L: Launcher> Gpu<L> {
    pub(super) fn make_board(&self, len: usize) -> Result<Board<L::Memory>, KernelError> {
        let bytes = len.checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_add(2 * SIZE));
        let host = self.alone(self.launcher.allocate_on_host(bytes.ok_or(KernelError::Memory { bytes: usize::MAX })?)?);
        let mark = self.allocate(SIZE)?;
        self.write_to(mark.address(), &1u64.to_le_bytes())?;
        Ok(Board { host, mark, len, has_norm: false, is_pending: false })
    }

    pub(super) fn tell_numbers(&self, numbers: &Exact<L>, board: &Board<L::Memory>, at: usize) -> Done {
        range("numbers", at, numbers.len, board.len)?;
        if numbers.len == 0 {
            return Ok(());
        }
        self.run(Command::Tell { from: self.address(numbers, 0), to: board.number_at(at), bytes: numbers.len * size_of::<f32>() })
    }

    pub(super) fn tell_end(&self, norm: Option<&Norm<L::Memory>>, board: &mut Board<L::Memory>) -> Done {
        if board.is_pending {
            // Its mark is not to be taken for this one. It may never come: where what it belongs to failed.
            self.start_listed()?;
            let _ = self.launcher.told(board.host.address(), &mut []);
        }
        (board.has_norm, board.is_pending) = (norm.is_some(), true);
        if let Some(norm) = norm {
            self.run(Command::Tell { from: self.root_at(norm), to: board.norm_at(), bytes: SIZE })?;
        }
        self.run(Command::Tell { from: board.mark.address(), to: board.host.address(), bytes: SIZE })
    }

    pub(super) fn read_board(&self, board: &mut Board<L::Memory>, numbers: &mut [f32]) -> Result<f64, KernelError> {
        range("numbers", 0, numbers.len(), board.len)?;
        self.start_listed()?;
        let mut bytes = vec![0; SIZE + size_of_val(numbers)];
        self.launcher.told(board.host.address(), &mut bytes)?;
        board.is_pending = false;
        let (norm, rest) = bytes.split_at(SIZE);
        let norm = norm.try_into().map_or(0.0, f64::from_le_bytes);
        numbers.iter_mut().zip(rest.as_chunks().0).for_each(|(number, bytes)| *number = f32::from_le_bytes(*bytes));
        Ok(if board.has_norm { norm } else { 0.0 })
    }
}
