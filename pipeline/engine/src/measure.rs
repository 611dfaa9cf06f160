//! Time and peak memory of a stage.

use std::time::Instant;

/// A stage being measured.
pub struct Measure {
    start: Instant,
}

impl Measure {
    /// Starts the clock and, where the system allows it, resets the peak.
    pub fn start() -> Self {
        // Linux: writing 5 resets VmHWM. Elsewhere, or where it is not allowed, the peak is that of the whole run.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self { start: Instant::now() }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Most resident memory since the start, in bytes; 0 where the system does not tell.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kilobytes.unwrap_or(0) * 1024
    }
}
