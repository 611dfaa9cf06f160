//! What a device must offer so that the launchers here can run on it: memory, and commands one after the other.
//!
//! The driver is one such device; the emulator of `kernels/emulator` is another, so tests check the geometry and the arguments of every
//! launch, not only the kernels.

use crate::KernelError;
use crate::operations::Done;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::mem::discriminant;

/// Runs commands in the order in which they come.
pub trait Launcher: Send + Sync + Debug {
    /// A piece of the device's memory, or of the host's that it reaches, given back when it is dropped.
    type Memory: Send + Sync + Debug;
    /// A list of commands that the device takes as one.
    type Recording: Send + Debug;
    /// The end of some work that is aside.
    type Mark: Send + Debug;

    /// `bytes` zeros, aligned to 16 bytes at least.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, KernelError>;
    /// `bytes` bytes whose contents are anything.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    fn allocate_unwritten(&self, bytes: usize) -> Result<Self::Memory, KernelError> {
        self.allocate(bytes)
    }
    /// `bytes` zeros of the host's memory, aligned to 16 bytes at least, that kernels reach at the same address.
    ///
    /// # Errors
    /// [`KernelError::Memory`].
    fn allocate_on_host(&self, bytes: usize) -> Result<Self::Memory, KernelError>;
    /// The address of its first byte, for the device.
    fn address(&self, memory: &Self::Memory) -> u64;
    /// Copies `bytes` to an address of the device.
    ///
    /// # Errors
    /// [`KernelError::Launch`], as for all below. Where memory ends is checked by the caller.
    fn write(&self, address: u64, bytes: &[u8]) -> Done;
    /// Copies from an address of the device. Waits for what was launched before.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Done;
    /// Waits until the eight bytes at an address of such memory of the host's are not zero, which they become by what was started before; makes
    /// them zero, and copies what comes after them. Does not wait for what was started later.
    fn told(&self, mark: u64, bytes: &mut [u8]) -> Done;
    /// Starts a command, after all that were started before.
    fn run(&self, command: &Command) -> Done;
    /// Makes one thing of a list of commands, each of which has run before, and runs none of them.
    fn record(&self, commands: &[Command]) -> Result<Self::Recording, KernelError>;
    /// Starts all commands of a recording.
    fn replay(&self, recording: &Self::Recording) -> Done;
    /// Starts work beside what comes next, after all that was started before and after what is aside already, and gives a mark of its end.
    ///
    /// Never part of a recording: NCCL wants all ranks of a transfer to record it or none, and each decides for itself.
    fn aside(&self, work: &[Aside]) -> Result<Self::Mark, KernelError>;
    /// Lets what is started from now on wait for the end of what is aside, up to a mark.
    fn wait(&self, mark: Self::Mark) -> Done;
    /// Whether it runs the units for Hopper alone (`sm_90a`).
    fn has_wgmma(&self) -> bool;
    /// Multiprocessors: how many blocks run at once, of kernels that take one each.
    fn multiprocessors(&self) -> usize;
    /// The map by which such a kernel copies a matrix.
    fn tensor_map(&self, matrix: &MatrixBox) -> Result<TensorMap, KernelError>;
}

/// Something that a device does without the host. Addresses are the device's; that they reach far enough is seen to before.
#[derive(Debug, Clone, PartialEq, Hash)]
pub enum Command {
    /// A kernel, with the arguments of its parameters.
    Launch(Launch, Vec<Argument>),
    Multiply(Product),
    Copy {
        from: u64,
        to: u64,
        bytes: usize,
    },
    /// Sets every byte to zero.
    Clear {
        address: u64,
        bytes: usize,
    },
}

/// Work beside the rest.
#[derive(Debug, Clone, PartialEq)]
pub enum Aside {
    Run(Command),
    /// Transfers to and from the devices of other ranks, all at the same time. Of those between two ranks the first that is sent goes where the
    /// first is received.
    Exchange(Vec<Transfer>),
}

/// Bytes that go from one rank's device to another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    Send {
        to: usize,
        address: u64,
        bytes: usize,
    },
    Receive {
        from: usize,
        address: u64,
        bytes: usize,
    },
    /// From the root to all others, each of which asks for the same.
    Broadcast {
        root: usize,
        address: u64,
        bytes: usize,
    },
}

/// A kernel and its geometry: blocks by axis, threads of a block (in whole warps), bytes of dynamic shared memory. More than 48 KiB of it
/// must be asked for when the kernel is loaded (`CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
}

/// The argument of one parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// An address on the device; 0 for what is optional and not there.
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
    TensorMap(TensorMap),
}

impl Hash for Argument {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            Self::Pointer(value) | Self::U64(value) => value.hash(state),
            Self::U32(value) => value.hash(state),
            Self::F32(value) => value.to_bits().hash(state),
            Self::TensorMap(value) => value.hash(state),
        }
    }
}

/// What a kernel of Hopper copies a matrix by; only the device that made it knows what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C, align(64))]
pub struct TensorMap(pub [u64; 16]);

/// A row-major bf16 matrix and the box of it, 64 columns wide, that one copy moves: rows of 128 bytes in the 128-byte swizzle. What a box
/// has outside the matrix becomes zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixBox {
    pub address: u64,
    pub rows: usize,
    pub columns: usize,
    /// Bytes from one row to the next, a multiple of 16.
    pub row_bytes: usize,
    pub box_rows: usize,
}

/// The argument for what is optional and not there.
pub const ABSENT: Argument = Argument::Pointer(0);

/// `output[rows, columns] (+)= left[rows, inner] · right[inner, columns] (+ bias[columns])`: bf16 operands, sums in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub left: Operand,
    pub right: Operand,
    /// Address of bf16 numbers, added before the output is rounded.
    pub bias: Option<u64>,
    /// Whether the product is added to what is there.
    pub add: bool,
    /// Address of the output, row-major and without gaps.
    pub output: u64,
    pub output_kind: OutputKind,
}

/// A bf16 matrix of a product, row-major and without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operand {
    pub address: u64,
    /// Whether its transpose lies in memory.
    pub transposed: bool,
}

/// How a product is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputKind {
    /// bf16, rounded once.
    Stored,
    /// f32.
    Exact,
}

impl OutputKind {
    /// Of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::Stored => 2,
            Self::Exact => 4,
        }
    }
}
