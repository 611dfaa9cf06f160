//! A GPU: kernels of `kernels/cuda`, each with its launcher here. `docs/kernels.md` has a section on each.
//!
//! [`Gpu`] is written against [`Launcher`], which the driver offers on a machine with a GPU and the emulator in tests. Stored numbers
//! are bf16; offsets are 64 bits wide everywhere; no sum depends on what runs when, unless it is told that it may.

pub mod architecture;
mod attention;
mod board;
mod buffer;
pub mod compile;
mod dispatch;
pub mod driver;
mod embedding;
pub mod exchange;
mod grouped;
mod head_loss;
mod host_memory;
mod launcher;
pub mod library;
mod linear;
mod lists;
mod memory;
pub mod nccl;
mod norm;
mod operations;
mod optimiser;
mod paper;
mod products;
mod rmsnorm;
mod rotary;
mod route;
mod sort;
mod sums;
mod swiglu;
pub mod units;
mod uploads;

pub use buffer::{Bf16, Buffer, Element, IndexBuffer, float_from_bf16, float_to_bf16};
pub use launcher::{ABSENT, Argument, Aside, Command, Launch, Launcher, MatrixBox, Operand, OutputKind, Product, TensorMap, Transfer};
pub use lists::CONSTANTS_BYTES;
pub use memory::ALIGNMENT_BYTES;
pub use paper::Paper;
pub use products::WORKSPACE_BYTES as PRODUCTS_WORKSPACE_BYTES;
pub use units::{UNITS, Unit};

use crate::KernelError;
use crate::checks::{expect_len, range};
use crate::operations::{Done, Memory, Needs};
use buffer::Facts;
use exchange::Exchange;
use lists::{Constants, Known, Lists};
use memory::{Arena, Held};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A GPU, or what stands for one.
#[derive(Debug)]
pub struct Gpu<L: Launcher> {
    /// Memory of kernels that need some while they run. Launches run in order, so one piece serves all.
    scratch: Mutex<Growing<L::Memory>>,
    arena: Mutex<Option<Arc<Arena<L::Memory>>>>,
    lists: Arc<Lists<L::Memory>>,
    known: Mutex<Known<L::Recording>>,
    constants: Mutex<Option<Constants<L::Memory>>>,
    exchange: Mutex<Exchange<L>>,
    /// The last to go: what is above is its.
    launcher: L,
}

/// bf16 numbers of a GPU.
pub type Stored<L> = Buffer<<L as Launcher>::Memory, Bf16>;
/// f32 numbers of a GPU.
pub type Exact<L> = Buffer<<L as Launcher>::Memory, f32>;
/// Codes of a GPU's blockwise numbers.
pub type Bytes<L> = Buffer<<L as Launcher>::Memory, u8>;
/// What bf16 numbers of a GPU lack of f32 ones.
pub type Rest<L> = Buffer<<L as Launcher>::Memory, u16>;
/// u32 numbers of a GPU.
pub type Index<L> = IndexBuffer<<L as Launcher>::Memory>;

impl<L: Launcher> Gpu<L> {
    /// A GPU that is reached through `launcher`.
    pub fn new(launcher: L) -> Self {
        Self {
            launcher,
            scratch: Mutex::default(),
            arena: Mutex::default(),
            lists: Arc::default(),
            known: Mutex::default(),
            constants: Mutex::default(),
            exchange: Mutex::default(),
        }
    }

    /// The device itself.
    pub fn launcher(&self) -> &L {
        &self.launcher
    }

    /// Bytes that kernels have needed for themselves, so far.
    pub fn scratch_bytes(&self) -> u64 {
        lock(&self.scratch).bytes() as u64
    }

    /// Whether it runs the kernels for Hopper alone.
    pub fn has_wgmma(&self) -> bool {
        self.launcher.has_wgmma()
    }

    fn new_buffer<T: Element>(&self, len: usize) -> Result<Buffer<L::Memory, T>, KernelError> {
        let bytes = len.checked_mul(T::BYTES).ok_or(KernelError::Memory { bytes: usize::MAX })?;
        Ok(Buffer { memory: self.allocate(bytes)?, len, kind: PhantomData })
    }

    fn write<T: Element>(&self, buffer: &mut Buffer<L::Memory, T>, at: usize, values: &[T::Host]) -> Done {
        range("values", at, values.len(), buffer.len)?;
        let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
        values.iter().for_each(|&value| T::put(value, &mut bytes));
        self.write_to(self.address(buffer, at), &bytes)
    }

    /// After all that was listed.
    fn write_to(&self, address: u64, bytes: &[u8]) -> Done {
        self.start_listed()?;
        self.launcher.write(address, bytes)
    }

    fn read<T: Element>(&self, buffer: &Buffer<L::Memory, T>, at: usize, values: &mut [T::Host]) -> Done {
        range("values", at, values.len(), buffer.len)?;
        let mut bytes = vec![0; values.len() * T::BYTES];
        self.read_from(self.address(buffer, at), &mut bytes)?;
        values.iter_mut().zip(bytes.chunks_exact(T::BYTES)).for_each(|(value, bytes)| *value = T::get(bytes));
        Ok(())
    }

    /// After all that was listed.
    fn read_from(&self, address: u64, bytes: &mut [u8]) -> Done {
        self.start_listed()?;
        self.launcher.read(address, bytes)
    }

    /// The buffer as a kernel's argument.
    fn pointer<T>(&self, buffer: &Buffer<L::Memory, T>) -> Argument {
        Argument::Pointer(buffer.memory.address())
    }

    /// Its address from element `at` on.
    fn address<T: Element>(&self, buffer: &Buffer<L::Memory, T>, at: usize) -> u64 {
        buffer.memory.address() + (at * T::BYTES) as u64
    }

    /// An index buffer as a kernel's argument.
    fn indices(&self, buffer: &Index<L>) -> Argument {
        self.pointer(&buffer.buffer)
    }

    /// Launches unless there is nothing to do.
    fn launch(&self, launch: Launch, arguments: &[Argument]) -> Done {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.run(Command::Launch(launch, arguments.to_vec()))
    }

    /// Copies all of `from` to `to[at..]`.
    fn copy<T: Element>(&self, from: &Buffer<L::Memory, T>, to: &Buffer<L::Memory, T>, at: usize) -> Done {
        range("from", at, from.len, to.len)?;
        if from.len == 0 {
            return Ok(());
        }
        self.run(Command::Copy { from: self.address(from, 0), to: self.address(to, at), bytes: from.len * T::BYTES })
    }

    /// Sets every number to zero.
    fn clear<T: Element>(&self, buffer: &Buffer<L::Memory, T>) -> Done {
        if buffer.len == 0 {
            return Ok(());
        }
        self.run(Command::Clear { address: self.address(buffer, 0), bytes: buffer.len * T::BYTES })
    }

    /// Runs `work` with the address of `bytes` bytes whose contents are anything.
    fn with_scratch<R>(&self, bytes: usize, work: impl FnOnce(u64) -> Result<R, KernelError>) -> Result<R, KernelError> {
        let mut scratch = lock(&self.scratch);
        work(scratch.at_least(self, bytes)?)
    }
}

/// Memory that is made anew where more is wanted, so that it stays where it is from some time on.
#[derive(Debug)]
struct Growing<M>(Option<(usize, Held<M>)>);

impl<M> Default for Growing<M> {
    fn default() -> Self {
        Self(None)
    }
}

impl<M> Growing<M> {
    fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |(held, _)| *held)
    }

    /// Whether it is large enough as it is.
    fn has(&self, bytes: usize) -> bool {
        self.0.as_ref().is_some_and(|(held, _)| *held >= bytes)
    }

    /// Makes room for so many bytes, if any.
    fn reserve<L: Launcher<Memory = M>>(&mut self, gpu: &Gpu<L>, bytes: usize) -> Done {
        if bytes > 0 { self.at_least(gpu, bytes).map(drop) } else { Ok(()) }
    }

    /// The address of at least so many bytes, whose contents are anything.
    fn at_least<L: Launcher<Memory = M>>(&mut self, gpu: &Gpu<L>, bytes: usize) -> Result<u64, KernelError> {
        if !self.has(bytes) {
            // Given back first: the two need not fit together.
            gpu.start_listed()?;
            self.0 = None;
            self.0 = Some((bytes, gpu.allocate_unwritten(bytes)?));
        }
        self.0.as_ref().map(|(_, memory)| memory.address()).ok_or(KernelError::Memory { bytes })
    }
}

impl<L: Launcher> Memory for Gpu<L> {
    type Stored = Stored<L>;
    type Exact = Exact<L>;
    type Index = Index<L>;
    type Rest = Rest<L>;
    type Bytes = Bytes<L>;
    type Norm = norm::Norm<L::Memory>;
    type Board = board::Board<L::Memory>;

    fn needs_master(&self) -> bool {
        true
    }

    fn new_stored(&self, len: usize) -> Result<Stored<L>, KernelError> {
        self.new_buffer(len)
    }

    fn new_exact(&self, len: usize) -> Result<Exact<L>, KernelError> {
        self.new_buffer(len)
    }

    fn new_index(&self, len: usize) -> Result<Index<L>, KernelError> {
        Ok(IndexBuffer { buffer: self.new_buffer(len)?, facts: Some(Facts::of(&vec![0; len.min(1)])) })
    }

    fn new_rest(&self, len: usize) -> Result<Rest<L>, KernelError> {
        self.new_buffer(len)
    }

    fn new_bytes(&self, len: usize) -> Result<Bytes<L>, KernelError> {
        self.new_buffer(len)
    }

    fn new_norm(&self, gradients: usize, most: f64) -> Result<Self::Norm, KernelError> {
        self.make_norm(gradients, most)
    }

    fn new_board(&self, len: usize) -> Result<Self::Board, KernelError> {
        self.make_board(len)
    }

    /// What is made but once comes first, so that nothing but a pass's buffers, the last to be made, is ever made anew.
    fn reserve(&self, needs: Needs) -> Result<(), KernelError> {
        self.lay_out(usize::try_from(needs.total()).map_err(|_| KernelError::Memory { bytes: usize::MAX })?)?;
        self.make_constants(&mut lock(&self.constants))?;
        lock(&self.exchange).reserve(self, needs.staging as usize)?;
        lock(&self.scratch).reserve(self, needs.scratch as usize)
    }
}

/// What is behind the lock. A thread that panicked there left nothing half done.
fn lock<T>(behind: &Mutex<T>) -> MutexGuard<'_, T> {
    behind.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pieces of one allocation, each 256 bytes or a multiple after its beginning.
#[derive(Debug, Default)]
struct Pieces {
    bytes: usize,
}

impl Pieces {
    /// The offset of the next piece of `len` elements of `size` bytes.
    fn next(&mut self, len: usize, size: usize) -> u64 {
        let start = self.bytes.next_multiple_of(256);
        self.bytes = start + len * size;
        start as u64
    }
}

/// Blocks of `each` for `count`.
fn blocks(kernel: &'static str, count: usize, each: usize) -> Result<u32, KernelError> {
    // The first axis of a grid has 2³¹ − 1 blocks at most.
    let blocks = i32::try_from(count.div_ceil(each));
    blocks.map(i32::cast_unsigned).map_err(|_| KernelError::Value { kernel, argument: "rows", wanted: "fewer than 2³¹ blocks" })
}

/// Threads of a block that have eight columns each, as far as it goes.
fn threads_of_eights(columns: u32) -> u32 {
    columns.div_ceil(8).next_multiple_of(32).min(256)
}

/// Refuses what 16-byte loads cannot reach.
fn expect_eights(kernel: &'static str, argument: &'static str, columns: usize) -> Done {
    if columns == 0 || !columns.is_multiple_of(8) {
        return Err(KernelError::Value { kernel, argument, wanted: "a multiple of 8 on a GPU" });
    }
    Ok(())
}

/// Refuses indices of which the host knows that they reach too far.
fn expect_below<L: Launcher>(kernel: &'static str, argument: &'static str, index: &Index<L>, bound: usize, wanted: &'static str) -> Done {
    match index.facts {
        Some(facts) if index.buffer.len > 0 && !facts.below(bound) => Err(KernelError::Value { kernel, argument, wanted }),
        _ => Ok(()),
    }
}
