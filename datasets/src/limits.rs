//! The bounds that keep a hostile file from taking the machine.

use serde::{Deserialize, Serialize};

/// Bounds on a single record; what exceeds them is rejected, not truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest record, decompressed; default 64 MiB. Longer: reject `record-too-large`.
    pub record_bytes_max: usize,
    /// Deepest nesting of elements, arrays or objects; default 256. Deeper: reject `too-deep`.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { record_bytes_max: 64 << 20, depth_max: 256 }
    }
}

impl Limits {
    /// What is told of `record-too-large`.
    pub(crate) fn too_large(&self, what: &str) -> String {
        format!("{what} is larger than {} bytes; raise `limits.record_bytes_max`", self.record_bytes_max)
    }
}
