//! What the host writes to the device: through memory that the device copies from by itself, so that the host goes on while the device is
//! still at something else. A copy from any other memory waits for the device where it is larger than 64 KiB.

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of one copy: an index of 131,072 rows.
const SLOT_BYTES: usize = 512 << 10;

/// Copies under way at most. A pass writes four indices, so the host can be eight passes ahead.
const SLOTS_MAX: usize = 32;

/// Host memory for copies, the one that was used first first.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    slots: VecDeque<Slot>,
}

/// One piece of it.
#[derive(Debug)]
struct Slot {
    memory: PinnedHostSlice<u8>,
    /// The end of the last copy from it. Ours, since the memory's own event is not recorded where the context orders nothing.
    copied: CudaEvent,
}

impl Uploads {
    /// Copies bytes to an address of the device, after what the stream was given before. They may be changed when this returns.
    pub fn copy(&mut self, stream: &Arc<CudaStream>, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        for (at, bytes) in (0..).step_by(SLOT_BYTES).zip(bytes.chunks(SLOT_BYTES)) {
            let mut slot = self.free(stream.context())?;
            if let Err(error) = slot.start(stream, address + at, bytes) {
                // The copy may have begun, and its end is not known.
                let _ = stream.synchronize();
                return Err(error);
            }
            self.slots.push_back(slot);
        }
        Ok(())
    }

    /// A slot that no copy uses: a new one while there are few and all are used.
    fn free(&mut self, context: &Arc<CudaContext>) -> Result<Slot, DriverError> {
        let first = match self.slots.front() {
            Some(slot) if self.slots.len() == SLOTS_MAX || slot.copied.try_is_complete()? => self.slots.pop_front(),
            _ => None,
        };
        match first {
            Some(slot) => slot.copied.synchronize().map(|()| slot),
            None => Slot::new(context),
        }
    }
}

impl Slot {
    fn new(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        let copied = context.new_event(None)?;
        // SAFETY: `start` writes what it has copied. The flags are not for write-combined memory, which some hosts write slowly.
        let memory = unsafe { context.alloc_pinned_with_flags(SLOT_BYTES, 0) }?;
        Ok(Self { memory, copied })
    }

    /// Starts a copy of at most as many bytes as there are here. No other is under way.
    fn start(&mut self, stream: &CudaStream, address: u64, bytes: &[u8]) -> Result<(), DriverError> {
        let memory = self.memory.as_mut_ptr()?;
        debug_assert!(bytes.len() <= SLOT_BYTES);
        // SAFETY: the memory has as many bytes, which nothing else uses: the last copy from it has ended.
        let source = unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
            std::slice::from_raw_parts(memory, bytes.len())
        };
        // SAFETY: the stream lives, and the source until `copied` has come. The address is the device's: what is done there, right or wrong,
        // touches no memory of the host.
        unsafe { result::memcpy_htod_async(address, source, stream.cu_stream()) }?;
        self.copied.record(stream)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
    }
}
