//! Memory of the host that the device writes to by itself, so that the host learns what is there before the device has done all that it was given.

use cudarc::driver::{CudaStream, DriverError, PinnedHostSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A piece of it.
#[derive(Debug)]
pub(super) struct HostMemory {
    address: u64,
    _memory: PinnedHostSlice<u8>,
    stream: Arc<CudaStream>,
}

impl HostMemory {
    /// Zeros.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: written at once. The flags are not for write-combined memory, which the host reads slowly.
        let mut memory = unsafe { stream.context().alloc_pinned_with_flags::<u8>(bytes, 0) }?;
        let first = memory.as_mut_ptr()?;
        // SAFETY: so many bytes were just made, and nothing else has them yet.
        unsafe { first.write_bytes(0, bytes) };
        Ok(Self { address: first as u64, _memory: memory, stream: stream.clone() })
    }

    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // Copies to it may be under way.
        let _ = self.stream.synchronize();
    }
}

/// Takes the mark at an address, if it has come, and then copies what comes after it.
///
/// # Safety
/// At the address is memory of this kind: a mark of eight bytes, aligned to them, and after it as many bytes as there are in `bytes`. Once the mark
/// is there, nothing writes to these until the next is asked for.
pub(super) unsafe fn take(mark: u64, bytes: &mut [u8]) -> bool {
    // SAFETY: the caller's promise. The device writes the eight bytes as one, after all that it was to write before.
    let marked = unsafe { AtomicU64::from_ptr(mark as *mut u64) }.swap(0, Ordering::Acquire) != 0;
    if marked {
        // SAFETY: as above; `bytes` is the host's alone.
        unsafe { std::ptr::copy_nonoverlapping((mark as *const u8).add(size_of::<u64>()), bytes.as_mut_ptr(), bytes.len()) };
    }
    marked
}
