//! Time and peak memory of a stage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often memory is looked at. A peak that is over sooner can be missed.
const INTERVAL: Duration = Duration::from_millis(20);

/// Linux gives `/proc/self/statm` in pages.
const PAGE_BYTES: u64 = 4096;

/// A stage being measured.
pub struct Measure {
    start: Instant,
    peak: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    watch: Option<JoinHandle<()>>,
}

impl Measure {
    /// Starts the clock, and a thread that looks at the memory now and then.
    pub fn start() -> Self {
        let (peak, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let watch = {
            let (peak, over) = (peak.clone(), over.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    peak.fetch_max(memory_bytes(), Ordering::Relaxed);
                    std::thread::park_timeout(INTERVAL);
                }
            })
        };
        Self { start: Instant::now(), peak, over, watch: Some(watch) }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Most memory held since the start, in bytes; 0 where the system does not tell. Pages of mapped files are not in it: the system takes
    /// them back when it wants.
    pub fn peak_memory_bytes(&self) -> u64 {
        self.peak.fetch_max(memory_bytes(), Ordering::Relaxed).max(self.peak.load(Ordering::Relaxed))
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            watch.thread().unpark();
            let _ = watch.join();
        }
    }
}

/// Resident memory that belongs to no file.
fn memory_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split_ascii_whitespace().skip(1).map_while(|number| number.parse::<u64>().ok());
    let (resident, of_files) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(of_files) * PAGE_BYTES
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_held_for_a_while_is_seen() {
        let measure = Measure::start();
        let held = vec![1_u8; 200 << 20];
        std::thread::sleep(5 * INTERVAL);
        drop(std::hint::black_box(held));
        assert!(measure.peak_memory_bytes() > 200 << 20);
        assert!(measure.seconds() > 0.0);
    }
}
