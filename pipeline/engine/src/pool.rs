//! The pool that a run's sorts and operators reserve memory from.

use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use std::fmt::{Display, Formatter};

/// Share of the pool that consumers that spill may fill: what merges their parts, and operators, cannot spill and has to find room beside them.
pub const SPILL_SHARE: f64 = 0.75;

/// Shares out [`SPILL_SHARE`] among those that spill, each an equal part; the rest, and what those have not taken, is for whoever comes first.
#[derive(Debug)]
pub struct SpillPool {
    spilling: FairSpillPool,
    all: GreedyMemoryPool,
}

impl SpillPool {
    /// A pool of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { spilling: FairSpillPool::new((bytes as f64 * SPILL_SHARE) as usize), all: GreedyMemoryPool::new(bytes) }
    }
}

fn spills(reservation: &MemoryReservation) -> bool {
    reservation.consumer().can_spill()
}

impl MemoryPool for SpillPool {
    fn name(&self) -> &str {
        "spill"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.spilling.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.spilling.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.all.grow(reservation, additional);
        if spills(reservation) {
            self.spilling.grow(reservation, additional);
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.all.shrink(reservation, shrink);
        if spills(reservation) {
            self.spilling.shrink(reservation, shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if !spills(reservation) {
            return self.all.try_grow(reservation, additional);
        }
        // In this order: what a sort is refused for its share no other finds taken meanwhile.
        self.spilling.try_grow(reservation, additional)?;
        self.all.try_grow(reservation, additional).inspect_err(|_| self.spilling.shrink(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.all.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.all.memory_limit()
    }
}

impl Display for SpillPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.all.fmt(f)
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
        assert!(merge.try_grow(1).is_err());
        // What cannot spill may take what sorts have not; these then find nothing, and spill.
        sorts[0].shrink(30);
        merge.try_grow(30).unwrap();
        assert!(sorts[0].try_grow(1).is_err());
        drop((sorts, merge));
        assert_eq!(pool.reserved(), 0);
    }
}
