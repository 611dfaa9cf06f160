//! Memory of the host that kernels write to, so that the host learns what is there before the device has done all that it was given. It is
//! page-locked and not write-combined, so it has the same address for both (CUDA driver API, "Unified Addressing").

use cudarc::driver::{CudaStream, DriverError, PinnedHostSlice};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A piece of it.
#[derive(Debug)]
pub(super) struct HostMemory {
    address: u64,
    _memory: PinnedHostSlice<u8>,
    stream: Arc<CudaStream>,
    pages: Arc<Pages>,
}

/// All pieces that there are: bytes by address.
#[derive(Debug, Default)]
pub(super) struct Pages(Mutex<BTreeMap<u64, usize>>);

impl HostMemory {
    /// Zeros.
    pub fn new(pages: &Arc<Pages>, stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: written at once. The flags are not for write-combined memory, which the host reads slowly.
        let mut memory = unsafe { stream.context().alloc_pinned_with_flags::<u8>(bytes, 0) }?;
        let first = memory.as_mut_ptr()?;
        // SAFETY: so many bytes were just made, and nothing else has them yet.
        unsafe { first.write_bytes(0, bytes) };
        pages.lock().insert(first as u64, bytes);
        Ok(Self { address: first as u64, _memory: memory, stream: stream.clone(), pages: pages.clone() })
    }

    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        self.pages.lock().remove(&self.address);
        // Kernels may be at it. An error of earlier work is told instead of waiting, once.
        let _ = self.stream.synchronize().or_else(|_| self.stream.synchronize());
    }
}

impl Pages {
    /// Takes the mark at an address, if it has come, and then copies what comes after it; `None` where there is no such memory.
    pub fn take(&self, mark: u64, bytes: &mut [u8]) -> Option<bool> {
        let pages = self.lock();
        let (first, len) = pages.range(..=mark).next_back()?;
        let wanted = size_of::<u64>() + bytes.len();
        if !mark.is_multiple_of(size_of::<u64>() as u64) || (mark - first) as usize + wanted > *len {
            return None;
        }
        // SAFETY: eight bytes of a piece, aligned, which is not given back while the lock is held. Kernels write them as one.
        let marked = unsafe { AtomicU64::from_ptr(mark as *mut u64) }.swap(0, Ordering::Acquire) != 0;
        if marked {
            // SAFETY: of the same piece. What kernels wrote there they wrote before the mark, and they write again when they are asked to.
            unsafe { std::ptr::copy_nonoverlapping((mark as *const u8).add(size_of::<u64>()), bytes.as_mut_ptr(), bytes.len()) };
        }
        Some(marked)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
