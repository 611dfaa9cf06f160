//! A device on paper: memory without end, of which nothing is taken, and commands that are not run. What is asked of it is what would be
//! asked of a GPU, so it says beforehand what that will need besides the buffers that are asked for by name.

use super::{Aside, Command, Launcher, MatrixBox, TensorMap};
use crate::KernelError;
use crate::operations::Done;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hopper's kernels on paper, which need the most.
#[derive(Debug, Default)]
pub struct Paper {
    /// Bytes given out so far.
    given: AtomicU64,
}

/// The multiprocessors of an H100.
const MULTIPROCESSORS: usize = 132;

impl Launcher for Paper {
    /// The address.
    type Memory = u64;
    type Recording = ();
    type Mark = ();

    fn allocate(&self, bytes: usize) -> Result<u64, KernelError> {
        // No two pieces have the same address, and none has 0.
        Ok(256 + self.given.fetch_add((bytes as u64).next_multiple_of(256) + 256, Ordering::Relaxed))
    }

    fn allocate_on_host(&self, bytes: usize) -> Result<u64, KernelError> {
        self.allocate(bytes)
    }

    fn address(&self, memory: &u64) -> u64 {
        *memory
    }

    fn write(&self, _: u64, _: &[u8]) -> Done {
        Ok(())
    }

    fn read(&self, _: u64, bytes: &mut [u8]) -> Done {
        bytes.fill(0);
        Ok(())
    }

    fn told(&self, _: u64, bytes: &mut [u8]) -> Done {
        bytes.fill(0);
        Ok(())
    }

    fn run(&self, _: &Command) -> Done {
        Ok(())
    }

    fn record(&self, _: &[Command]) -> Done {
        Ok(())
    }

    fn replay(&self, (): &()) -> Done {
        Ok(())
    }

    fn aside(&self, _: &[Aside]) -> Done {
        Ok(())
    }

    fn wait(&self, (): ()) -> Done {
        Ok(())
    }

    fn has_wgmma(&self) -> bool {
        true
    }

    fn multiprocessors(&self) -> usize {
        MULTIPROCESSORS
    }

    fn tensor_map(&self, _: &MatrixBox) -> Result<TensorMap, KernelError> {
        Ok(TensorMap([0; 16]))
    }
}
