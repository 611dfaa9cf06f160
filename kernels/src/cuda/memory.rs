//! The device's memory: one arena, laid out once, that all a run needs is cut from; and, where there is none or it is full, pieces by
//! themselves.

use super::launcher::{Command, Launcher};
use super::lists::Lists;
use super::{Gpu, lock};
use crate::KernelError;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};

/// What the beginning of each piece of the arena is a multiple of, in bytes.
pub const ALIGNMENT_BYTES: usize = 256;

/// Memory that is given back when it is dropped, but not before what was listed has been started.
#[derive(Debug)]
pub(super) struct Held<M> {
    address: u64,
    piece: ManuallyDrop<Piece<M>>,
    lists: Arc<Lists<M>>,
}

/// Where memory is from; given back when it is dropped.
#[derive(Debug)]
pub(super) enum Piece<M> {
    /// Of the device's, or of the host's.
    Alone { _memory: M },
    /// From byte `begin` of the arena on.
    Part { arena: Arc<Arena<M>>, begin: usize, bytes: usize },
}

/// One piece of the device's memory that others are cut from: each the first that is long enough.
#[derive(Debug)]
pub(super) struct Arena<M> {
    _memory: M,
    address: u64,
    free: Mutex<Free>,
}

/// What nobody has: lengths by first byte, no two of which touch.
#[derive(Debug)]
struct Free(BTreeMap<usize, usize>);

impl<M> Held<M> {
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl<M> Drop for Held<M> {
    fn drop(&mut self) {
        // SAFETY: taken here alone, once, and not used after.
        let piece = unsafe { ManuallyDrop::take(&mut self.piece) };
        self.lists.give_back(piece);
    }
}

impl<M> Drop for Piece<M> {
    fn drop(&mut self) {
        if let Self::Part { arena, begin, bytes } = self {
            lock(&arena.free).give(*begin, *bytes);
        }
    }
}

impl Free {
    fn all(bytes: usize) -> Self {
        Self(BTreeMap::from([(0, bytes)]))
    }

    /// So many bytes, if there are as many in one piece.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let (begin, len) = self.0.iter().map(|(&begin, &len)| (begin, len)).find(|&(_, len)| len >= bytes)?;
        self.0.remove(&begin);
        if len > bytes {
            self.0.insert(begin + bytes, len - bytes);
        }
        Some(begin)
    }

    fn give(&mut self, mut begin: usize, mut bytes: usize) {
        if let Some((&before, &len)) = self.0.range(..begin).next_back().filter(|&(&before, &len)| before + len == begin) {
            self.0.remove(&before);
            (begin, bytes) = (before, len + bytes);
        }
        if let Some(len) = self.0.remove(&(begin + bytes)) {
            bytes += len;
        }
        self.0.insert(begin, bytes);
    }
}

impl<L: Launcher> Gpu<L> {
    /// `bytes` zeros.
    pub(super) fn allocate(&self, bytes: usize) -> Result<Held<L::Memory>, KernelError> {
        match self.cut(bytes)? {
            Some(held) => {
                if bytes > 0 {
                    // Not listed: whatever is listed names other memory, and who had this before has been started.
                    self.launcher.run(&Command::Clear { address: held.address, bytes })?;
                }
                Ok(held)
            }
            None => Ok(self.alone(self.launcher.allocate(bytes)?)),
        }
    }

    /// `bytes` bytes whose contents are anything.
    pub(super) fn allocate_unwritten(&self, bytes: usize) -> Result<Held<L::Memory>, KernelError> {
        match self.cut(bytes)? {
            Some(held) => Ok(held),
            None => Ok(self.alone(self.launcher.allocate_unwritten(bytes)?)),
        }
    }

    /// Lays out an arena of so many bytes, that all comes from which is asked for after.
    pub(super) fn lay_out(&self, bytes: usize) -> Result<(), KernelError> {
        let memory = self.launcher.allocate_unwritten(bytes)?;
        let address = self.launcher.address(&memory);
        *lock(&self.arena) = Some(Arc::new(Arena { _memory: memory, address, free: Mutex::new(Free::all(bytes)) }));
        Ok(())
    }

    /// Bytes of the arena that nobody has.
    pub fn free_bytes(&self) -> usize {
        lock(&self.arena).as_ref().map_or(0, |arena| lock(&arena.free).0.values().sum())
    }

    /// A piece of the arena, if there is one that is long enough.
    fn cut(&self, bytes: usize) -> Result<Option<Held<L::Memory>>, KernelError> {
        let Some(arena) = lock(&self.arena).clone() else { return Ok(None) };
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGNMENT_BYTES).ok_or(KernelError::Memory { bytes })?;
        let Some(begin) = lock(&arena.free).take(bytes) else { return Ok(None) };
        let address = arena.address + begin as u64;
        Ok(Some(Held { address, piece: ManuallyDrop::new(Piece::Part { arena, begin, bytes }), lists: self.lists.clone() }))
    }

    pub(super) fn alone(&self, memory: L::Memory) -> Held<L::Memory> {
        let address = self.launcher.address(&memory);
        Held { address, piece: ManuallyDrop::new(Piece::Alone { _memory: memory }), lists: self.lists.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_that_is_long_enough_is_cut() {
        let mut free = Free::all(100);
        assert_eq!([free.take(10), free.take(20), free.take(30), free.take(41)], [Some(0), Some(10), Some(30), None]);
        free.give(10, 20);
        assert_eq!([free.take(21), free.take(5), free.take(15)], [Some(60), Some(10), Some(15)]);
        // What is given back becomes one with its neighbours, on either side and on both.
        free.give(0, 10);
        free.give(15, 15);
        free.give(10, 5);
        assert_eq!(free.0, BTreeMap::from([(0, 30), (81, 19)]));
        free.give(60, 21);
        free.give(30, 30);
        assert_eq!(free.0, BTreeMap::from([(0, 100)]));
        assert_eq!([free.take(100), free.take(1)], [Some(0), None]);
    }

    proptest! {
        /// Against a table of bytes: none is given twice, none is lost, and the place is the lowest that there is.
        #[test]
        fn no_byte_is_given_twice(steps in prop::collection::vec((any::<bool>(), 1usize..40, any::<prop::sample::Index>()), 1..80)) {
            let (mut free, mut taken, mut held) = (Free::all(128), [false; 128], Vec::new());
            for (takes, bytes, which) in steps {
                if takes {
                    let wanted = (0..=128 - bytes).find(|&begin| taken[begin..begin + bytes].iter().all(|taken| !taken));
                    let got = free.take(bytes);
                    prop_assert_eq!(got, wanted);
                    if let Some(begin) = got {
                        taken[begin..begin + bytes].fill(true);
                        held.push((begin, bytes));
                    }
                } else if !held.is_empty() {
                    let (begin, bytes) = held.swap_remove(which.index(held.len()));
                    taken[begin..begin + bytes].fill(false);
                    free.give(begin, bytes);
                }
                prop_assert_eq!(free.0.values().sum::<usize>(), taken.iter().filter(|taken| !**taken).count());
            }
        }
    }
}
