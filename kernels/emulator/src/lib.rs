//! Runs the kernels of `kernels/cuda` on a CPU, the same files that a GPU gets: one fiber per CUDA thread, and functional models of
//! tensor cores, asynchronous copies and barriers. `docs/kernels.md` says what this can show and what it cannot.
//!
//! [`Emulator`] is a [`Launcher`], so `Gpu<Emulator>` is a device like any other.

mod network;
mod product;

pub use network::{Network, Place};

use osler_kernels::KernelError;
use osler_kernels::cuda::{Argument, Aside, Command, Launch, Launcher, MatrixBox, TensorMap};
use osler_kernels::operations::Done;
use std::ffi::{CString, c_char, c_void};

/// In which order blocks and threads run, where nothing but chance decides on a device. Kernels must give the same bits in both: in one,
/// warps go side by side; in the other, each goes as far as it can before another moves, and later blocks and threads come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    #[default]
    Forward = 0,
    Backward = 1,
}

/// A device that is this CPU.
#[derive(Debug, Clone, Default)]
pub struct Emulator {
    pub order: Order,
    /// Whether it is a Hopper: kernels with wgmma are taken where there are two.
    pub wgmma: bool,
    /// Runs so many of a grid's first blocks, and so many of its last, and no others.
    pub ends: Option<u64>,
    /// Which of the devices on a network it is; it may be on none.
    pub place: Option<Place>,
}

/// What a block may have of a Hopper's shared memory, and what it may of any other device's from compute capability 8.0 on: 8.6 and 8.9 have the
/// least (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
const HOPPER_SHARED_BYTES: u64 = 227 << 10;
const SHARED_BYTES: u64 = 99 << 10;

/// Columns of a box: 128 bytes of bf16.
const BOX_COLUMNS: u64 = 64;

/// Memory of the emulated device: whole 16-byte units, each piece an allocation of its own, so that a sanitizer sees its end.
#[derive(Debug)]
pub struct Allocation {
    units: Vec<u128>,
}

const _: () = assert!(align_of::<u128>() == 16, "kernels load 16 bytes at once");

impl Allocation {
    /// Zeros, which the system makes when they are first touched: memory may be larger than the machine's.
    fn zeros(bytes: usize) -> Result<Self, KernelError> {
        let count = bytes.div_ceil(16);
        let mut asked = Vec::<u128>::new();
        asked.try_reserve_exact(count).map_err(|_| KernelError::Memory { bytes })?;
        // Else the compiler may see that nobody uses it, and not ask.
        drop(std::hint::black_box(asked));
        Ok(Self { units: vec![0; count] })
    }
}

/// As `emulator::Argument` in `include/emulator/launch.hpp`.
#[repr(C)]
struct RawArgument {
    kind: u32,
    value: *const c_void,
}

unsafe extern "C" {
    fn osler_emulator_launch(
        kernel: *const c_char,
        grid: *const u32,
        threads: u32,
        shared_bytes: u64,
        order: u32,
        ends: u64,
        shared_most: u64,
        arguments: *const RawArgument,
        count: usize,
        message: *mut c_char,
        capacity: usize,
    ) -> usize;
}

/// Kind of the parameter, and where its value lies.
fn raw(argument: &Argument) -> RawArgument {
    let (kind, value): (u32, *const c_void) = match argument {
        Argument::Pointer(address) => (0, std::ptr::from_ref(address).cast()),
        Argument::U32(value) => (1, std::ptr::from_ref(value).cast()),
        Argument::U64(value) => (2, std::ptr::from_ref(value).cast()),
        Argument::F32(value) => (3, std::ptr::from_ref(value).cast()),
        Argument::TensorMap(map) => (4, std::ptr::from_ref(map).cast()),
    };
    RawArgument { kind, value }
}

impl Launcher for Emulator {
    type Memory = Allocation;
    type Recording = Vec<Command>;
    type Mark = u64;

    fn allocate(&self, bytes: usize) -> Result<Allocation, KernelError> {
        Allocation::zeros(bytes)
    }

    /// What is read before it is written is no number, and as an index far outside.
    fn allocate_unwritten(&self, bytes: usize) -> Result<Allocation, KernelError> {
        let mut memory = Allocation::zeros(bytes)?;
        memory.units.fill(u128::MAX);
        Ok(memory)
    }

    fn allocate_on_host(&self, bytes: usize) -> Result<Allocation, KernelError> {
        Allocation::zeros(bytes)
    }

    fn address(&self, memory: &Allocation) -> u64 {
        memory.units.as_ptr() as u64
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Done {
        // SAFETY: the caller gives an address of so many bytes; the device runs one thing at a time.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Done {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Commands are done when they are started, so what will come has come.
    fn told(&self, mark: u64, bytes: &mut [u8]) -> Done {
        let (mark, size) = (mark as *mut u64, size_of::<u64>());
        // SAFETY: the caller gives the address of so many bytes and a mark, aligned to it; the device runs one thing at a time.
        unsafe {
            if mark.replace(0) == 0 {
                return Err(KernelError::nothing_told());
            }
            std::ptr::copy_nonoverlapping(mark.cast::<u8>().add(size), bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn run(&self, command: &Command) -> Done {
        match command {
            Command::Launch(launch, arguments) => return self.launch(launch, arguments),
            Command::Multiply(product) => product::multiply(product),
            // SAFETY: the caller gives addresses of so many bytes each; the device runs one thing at a time.
            &Command::Copy { from, to, bytes } => unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) },
            // SAFETY: as above.
            &Command::Clear { address, bytes } => unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) },
        }
        Ok(())
    }

    fn record(&self, commands: &[Command]) -> Result<Self::Recording, KernelError> {
        Ok(commands.to_vec())
    }

    fn replay(&self, recording: &Self::Recording) -> Done {
        recording.iter().try_for_each(|command| self.run(command))
    }

    /// At once, or as late as can be: when something waits for it.
    fn aside(&self, work: &[Aside]) -> Result<u64, KernelError> {
        let place =
            self.place.as_ref().ok_or_else(|| KernelError::Launch("an emulator that is on no network was asked to reach others".into()))?;
        let mark = place.put_off(work);
        if self.order == Order::Forward {
            self.wait(mark)?;
        }
        Ok(mark)
    }

    fn wait(&self, mark: u64) -> Done {
        let Some(place) = &self.place else { return Ok(()) };
        place.take(mark).iter().try_for_each(|work| match work {
            Aside::Run(command) => self.run(command),
            Aside::Exchange(transfers) => place.exchange(transfers),
        })
    }

    fn has_wgmma(&self) -> bool {
        self.wgmma
    }

    /// So few that kernels whose blocks stay take several turns; where only a grid's ends run, so many that none does.
    fn multiprocessors(&self) -> usize {
        self.ends.map_or(3, |_| 1 << 24)
    }

    /// As `TensorMap` in `include/emulator/hopper.hpp`.
    fn tensor_map(&self, matrix: &MatrixBox) -> Result<TensorMap, KernelError> {
        if !matrix.row_bytes.is_multiple_of(16) || !matrix.address.is_multiple_of(16) || !(1..=256).contains(&matrix.box_rows) {
            return Err(KernelError::Launch(format!("a matrix that cannot be copied by boxes: {matrix:?}")));
        }
        let mut words = [0; 16];
        words[..4].copy_from_slice(&[matrix.address, matrix.rows as u64, matrix.columns as u64, matrix.row_bytes as u64]);
        words[4] = matrix.box_rows as u64 | BOX_COLUMNS << 32;
        Ok(TensorMap(words))
    }
}

impl Emulator {
    /// Runs a kernel to its end.
    fn launch(&self, launch: &Launch, arguments: &[Argument]) -> Done {
        let name = CString::new(launch.kernel).map_err(|error| KernelError::Launch(error.to_string()))?;
        let raw: Vec<RawArgument> = arguments.iter().map(raw).collect();
        let mut message = vec![0u8; 4096];
        let (order, shared_bytes) = (self.order as u32, u64::from(launch.shared_bytes));
        // SAFETY: all pointers are to live values of the lengths given with them. Kinds and number of the arguments are checked against
        // the kernel's parameters on the other side; that its pointers reach far enough is what the launchers are written and tested for.
        let length = unsafe {
            osler_emulator_launch(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                shared_bytes,
                order,
                self.ends.unwrap_or(u64::MAX),
                if self.wgmma { HOPPER_SHARED_BYTES } else { SHARED_BYTES },
                raw.as_ptr(),
                raw.len(),
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        if length == 0 {
            return Ok(());
        }
        Err(KernelError::Launch(String::from_utf8_lossy(&message[..length]).into_owned()))
    }
}
