//! What the device tells the host while it goes on: numbers that kernels leave in the host's memory, and a mark when all of them are there.
//! Launches of `cuda/board.cu`.

use super::memory::Held;
use super::norm::Norm;
use super::{ABSENT, Argument, Exact, Gpu, Launch, Launcher, blocks};
use crate::KernelError;
use crate::checks::range;
use crate::operations::Done;

const KERNEL: &str = "tell";

/// In the host's memory: the mark, the norm, and then the numbers.
#[derive(Debug)]
pub struct Board<M> {
    host: Held<M>,
    len: usize,
    /// Whether something was told to its end that nobody has asked for.
    is_pending: bool,
}

/// Bytes of the mark, and of the norm.
const SIZE: usize = size_of::<u64>();

impl<L: Launcher> Gpu<L> {
    pub(super) fn make_board(&self, len: usize) -> Result<Board<L::Memory>, KernelError> {
        let bytes = len.checked_mul(size_of::<f32>()).and_then(|bytes| bytes.checked_add(2 * SIZE));
        let memory = self.launcher.allocate_on_host(bytes.ok_or(KernelError::Memory { bytes: usize::MAX })?)?;
        Ok(Board { host: self.alone(memory), len, is_pending: false })
    }

    pub(super) fn tell_numbers(&self, numbers: &Exact<L>, board: &mut Board<L::Memory>, at: usize) -> Done {
        range("numbers", at, numbers.len, board.len)?;
        self.forget(board)?;
        let to = board.host.address() + (2 * SIZE + at * size_of::<f32>()) as u64;
        let launch = Launch { kernel: KERNEL, grid: [blocks(KERNEL, numbers.len, 256)?, 1, 1], threads: 256, shared_bytes: 0 };
        self.launch(launch, &[Argument::Pointer(to), self.pointer(numbers), Argument::U64(numbers.len as u64)])
    }

    pub(super) fn tell_end(&self, norm: Option<&Norm<L::Memory>>, board: &mut Board<L::Memory>) -> Done {
        self.forget(board)?;
        let norm = norm.map_or(ABSENT, |norm| Argument::Pointer(self.root_at(norm)));
        let launch = Launch { kernel: "end_telling", grid: [1, 1, 1], threads: 32, shared_bytes: 0 };
        self.launch(launch, &[Argument::Pointer(board.host.address()), norm])?;
        board.is_pending = true;
        Ok(())
    }

    pub(super) fn read_board(&self, board: &mut Board<L::Memory>, numbers: &mut [f32]) -> Result<f64, KernelError> {
        range("numbers", 0, numbers.len(), board.len)?;
        self.start_listed()?;
        let mut bytes = vec![0; SIZE + size_of_val(numbers)];
        self.launcher.told(board.host.address(), &mut bytes)?;
        board.is_pending = false;
        let (norm, rest) = bytes.split_at(SIZE);
        numbers.iter_mut().zip(rest.as_chunks().0).for_each(|(number, bytes)| *number = f32::from_le_bytes(*bytes));
        Ok(norm.try_into().map_or(0.0, f64::from_le_bytes))
    }

    /// Waits for what nobody has asked for: its mark is not to be taken for the next, nor are its numbers to be written over the next ones.
    fn forget(&self, board: &mut Board<L::Memory>) -> Done {
        if std::mem::take(&mut board.is_pending) {
            self.start_listed()?;
            // Where what it belongs to has failed it never comes. An error of earlier work may be told first, without waiting.
            let told = || self.launcher.told(board.host.address(), &mut []);
            let _ = told().or_else(|_| told());
        }
        Ok(())
    }
}
