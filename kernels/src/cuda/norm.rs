//! The norm of a step's gradients and what follows from it: squares of each gradient, and the factor of all.

use super::linear::Numbers;
use super::memory::Held;
use super::{Argument, Command, Gpu, Launch, Launcher, OutputKind, blocks, expect_len};
use crate::KernelError;
use crate::checks::range;
use crate::operations::{Done, Gradient, norm_numbers};

const KERNEL: &str = "norm";

/// Partial sums of squares at most: enough to fill a GPU, and fixed, so that the order of the sum depends on the length alone.
const PARTS: usize = 1024;

const SIZE: usize = size_of::<f64>();

/// What the norm may be, the squares of so many gradients, the norm, and the factor, an f32.
#[derive(Debug)]
pub struct Norm<M> {
    memory: Held<M>,
    gradients: usize,
}

impl<L: Launcher> Gpu<L> {
    pub(super) fn make_norm(&self, gradients: usize, most: f64) -> Result<Norm<L::Memory>, KernelError> {
        let norm = Norm { memory: self.allocate(SIZE * norm_numbers(gradients))?, gradients };
        self.write_to(norm.memory.address(), &most.to_le_bytes())?;
        self.write_to(self.square_at(&norm, gradients + 1), &1f32.to_le_bytes())?;
        Ok(norm)
    }

    /// Where the square of a gradient is.
    fn square_at(&self, norm: &Norm<L::Memory>, place: usize) -> u64 {
        norm.memory.address() + (SIZE * (1 + place)) as u64
    }

    /// Where the norm is.
    pub(super) fn root_at(&self, norm: &Norm<L::Memory>) -> u64 {
        self.square_at(norm, norm.gradients)
    }

    /// The factor as a kernel's argument.
    pub(super) fn factor(&self, norm: &Norm<L::Memory>) -> Argument {
        Argument::Pointer(self.square_at(norm, norm.gradients + 1))
    }

    pub(super) fn square(&self, gradients: &[(usize, &Gradient<Self>)], norm: &Norm<L::Memory>) -> Done {
        self.with_scratch(SIZE * PARTS, |partials| {
            for &(place, gradient) in gradients {
                range("squares", place, 1, norm.gradients)?;
                let (address, Numbers { address: numbers, len, kind }) = (self.square_at(norm, place), self.numbers(gradient));
                if len == 0 {
                    self.run(Command::Clear { address, bytes: SIZE })?;
                    continue;
                }
                // Each thread has four loads of 16 bytes at a time.
                let parts = blocks(KERNEL, len, 256 * 4 * (16 / kind.bytes()))?.min(PARTS as u32);
                let kernel = match kind {
                    OutputKind::Exact => "square_partials",
                    OutputKind::Stored => "square_partials_stored",
                };
                let launch = Launch { kernel, grid: [parts, 1, 1], threads: 256, shared_bytes: 0 };
                self.launch(launch, &[Argument::Pointer(partials), Argument::Pointer(numbers), Argument::U64(len as u64)])?;
                let launch = Launch { kernel: "sum_doubles", grid: [1, 1, 1], threads: 256, shared_bytes: 0 };
                self.launch(launch, &[Argument::Pointer(address), Argument::Pointer(partials), Argument::U32(parts)])?;
            }
            Ok(())
        })
    }

    pub(super) fn squares_of(&self, norm: &Norm<L::Memory>) -> Result<Vec<f64>, KernelError> {
        let mut bytes = vec![0; SIZE * norm.gradients];
        self.read_from(self.square_at(norm, 0), &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn replace_squares(&self, norm: &mut Norm<L::Memory>, squares: &[f64]) -> Done {
        expect_len(KERNEL, &[("squares", squares.len(), norm.gradients)])?;
        let bytes: Vec<u8> = squares.iter().flat_map(|square| square.to_le_bytes()).collect();
        self.write_to(self.square_at(norm, 0), &bytes)
    }

    pub(super) fn make_factor(&self, norm: &Norm<L::Memory>) -> Done {
        let gradients = super::buffer::narrow(KERNEL, "gradients", norm.gradients)?;
        let arguments = [Argument::Pointer(norm.memory.address()), Argument::U32(gradients)];
        self.launch(Launch { kernel: "clip", grid: [1, 1, 1], threads: 32, shared_bytes: 0 }, &arguments)
    }
}
