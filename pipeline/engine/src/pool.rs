//! The pool that a run's sorts and operators reserve memory from.

use datafusion::common::human_readable_size;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use std::fmt::{Display, Formatter};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Share that sorts may fill of what is left by those that cannot spill, who find the rest: the merges of these sorts, and operators.
pub const SPILL_SHARE: f64 = 0.75;

/// Gives what can spill equal parts of [`SPILL_SHARE`] of what the others leave, and these all that nobody has.
#[derive(Debug)]
pub struct SpillPool {
    bytes: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Consumers that can spill.
    num_sorts: usize,
    by_sorts: usize,
    by_others: usize,
}

impl Taken {
    fn of(&mut self, reservation: &MemoryReservation) -> &mut usize {
        if reservation.consumer().can_spill() { &mut self.by_sorts } else { &mut self.by_others }
    }
}

impl SpillPool {
    /// A pool of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { bytes, taken: Mutex::default() }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryPool for SpillPool {
    fn name(&self) -> &str {
        "spill"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.taken().num_sorts += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.taken().num_sorts -= usize::from(consumer.can_spill());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *self.taken().of(reservation) += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        *self.taken().of(reservation) -= shrink;
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut taken = self.taken();
        let left = self.bytes.saturating_sub(taken.by_others);
        let available = if reservation.consumer().can_spill() {
            let part = (left as f64 * SPILL_SHARE) as usize / taken.num_sorts.max(1);
            part.saturating_sub(reservation.size())
        } else {
            left.saturating_sub(taken.by_sorts)
        };
        if additional <= available {
            *taken.of(reservation) += additional;
            return Ok(());
        }
        let [asked, held, available] = [additional, reservation.size(), available].map(human_readable_size);
        let name = reservation.consumer().name();
        Err(DataFusionError::ResourcesExhausted(format!(
            "{name} asks for {asked} beside its {held}, and {available} of {self} are left to it"
        )))
    }

    fn reserved(&self) -> usize {
        let taken = self.taken();
        taken.by_sorts + taken.by_others
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}

impl Display for SpillPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", human_readable_size(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn sorts_leave_room_for_their_merge() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SpillPool::new(100));
        let sorts = [1, 2].map(|at| MemoryConsumer::new(format!("sort {at}")).with_can_spill(true).register(&pool));
        sorts.iter().for_each(|sort| sort.try_grow(37).unwrap());
        assert!(sorts.iter().all(|sort| sort.try_grow(1).is_err()));
        assert_eq!(pool.reserved(), 74, "what was refused is not counted");
        let merge = MemoryConsumer::new("merge").register(&pool);
        merge.try_grow(26).unwrap();
        let error = merge.try_grow(1).unwrap_err().to_string();
        assert!(error.contains("merge asks for 1.0 B beside its 26.0 B, and 0.0 B of 100.0 B are left to it"), "{error}");
        // Of what the merge leaves there is a quarter for another, too.
        sorts.iter().for_each(|sort| sort.shrink(30));
        sorts.iter().for_each(|sort| sort.try_grow(20).unwrap());
        assert!(sorts[0].try_grow(1).is_err());
        let other = MemoryConsumer::new("operator").register(&pool);
        other.try_grow(20).unwrap();
        assert!(other.try_grow(1).is_err());
        // Who comes late has its part, of those that are there then.
        drop((merge, other));
        let third = MemoryConsumer::new("sort 3").with_can_spill(true).register(&pool);
        third.try_grow(25).unwrap();
        assert!(third.try_grow(1).is_err());
        drop((sorts, third));
        assert_eq!(pool.reserved(), 0);
    }
}
