//! What the tests of compiler and driver share.

use std::path::PathBuf;

/// Where `tests/kernels/install` puts NVRTC.
pub fn nvrtc() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("osler-nvrtc")
}
