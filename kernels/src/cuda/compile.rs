//! Kernels compiled at first use, for the chip at hand, and kept.
//!
//! Sources are part of the program; NVRTC turns each into a cubin, the machine code of one architecture. A cubin is kept in a folder under
//! the hash of all that it depends on, with a checksum. `docs/kernels-compiler.md` has the whole.

mod cache;
mod nvrtc;
mod resources;

pub use resources::Resources;

use super::architecture::Architecture;
use super::library::Library;
use super::units::Unit;
use crate::KernelError;
use cache::{Cache, Entry};
use std::path::PathBuf;

/// A kernel source, as the compiler takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source<'a> {
    /// The name that the compiler's messages give it.
    pub name: &'a str,
    pub text: &'a str,
    /// Name and text of each file that the source may include.
    pub headers: &'a [(&'a str, &'a str)],
    /// Whether division, square root and exponentials may be the chip's coarse ones.
    pub fast_math: bool,
}

impl From<&Unit> for Source<'static> {
    fn from(unit: &Unit) -> Self {
        Self { name: unit.name, text: unit.source, headers: &[], fast_math: false }
    }
}

/// Machine code of one source for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cubin {
    pub bytes: Vec<u8>,
    /// What each kernel takes of the chip, in the compiler's order.
    pub resources: Vec<Resources>,
    /// All that the compiler said.
    pub log: String,
    pub origin: Origin,
}

/// Where a cubin came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Read from the cache.
    Cache,
    /// Compiled, and kept if there is a cache.
    Compiled,
    /// Compiled, and not kept for this reason: the next run compiles it again.
    NotKept(String),
}

/// NVRTC with a folder of what it compiled before.
#[derive(Debug)]
pub struct Compiler {
    version: (i32, i32),
    cache: Option<Cache>,
}

impl Compiler {
    /// Opens NVRTC as [`Library::open`] does, with `cache` as the folder of cubins; `None` keeps nothing.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] when NVRTC is not there or older than 12.0.
    pub fn open(folders: &[PathBuf], cache: Option<PathBuf>) -> Result<Self, KernelError> {
        Library::Compiler.open(folders)?;
        let version = nvrtc::version()?;
        if version < (12, 0) {
            let (major, minor) = version;
            return Err(KernelError::Cuda(format!("NVRTC is of version {major}.{minor}; kernels need 12.0 or newer: install CUDA 13")));
        }
        Ok(Self { version, cache: cache.map(Cache::new) })
    }

    /// Major and minor version of NVRTC.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The cubin of `source` for `architecture`: from the cache, or compiled and kept.
    ///
    /// A cache that cannot be read or written costs time and nothing else.
    ///
    /// # Errors
    /// [`KernelError::Compile`] with the compiler's log.
    pub fn compile(&self, source: &Source<'_>, architecture: Architecture) -> Result<Cubin, KernelError> {
        let options = options(source, architecture);
        let Some(cache) = &self.cache else {
            let Entry { cubin, log } = compile(source, architecture, &options)?;
            return Ok(Cubin::new(cubin, log, Origin::Compiled));
        };
        let key = cache::key(source, &options, self.version);
        let (Entry { cubin, log }, origin) = match cache.read(&key) {
            Some(entry) => (entry, Origin::Cache),
            None => {
                let entry = compile(source, architecture, &options)?;
                let origin = match cache.write(&key, &entry) {
                    Ok(()) => Origin::Compiled,
                    Err(error) => Origin::NotKept(error),
                };
                (entry, origin)
            }
        };
        Ok(Cubin::new(cubin, log, origin))
    }
}

impl Cubin {
    fn new(bytes: Vec<u8>, log: String, origin: Origin) -> Self {
        Self { bytes, resources: Resources::parse(&log), log, origin }
    }
}

fn options(source: &Source<'_>, architecture: Architecture) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={architecture}"),
        "-std=c++17".to_string(),
        // Places in the source, for profilers.
        "-lineinfo".to_string(),
        // Registers and spills in the log.
        "--ptxas-options=-v".to_string(),
    ];
    if source.fast_math {
        options.push("--use_fast_math".to_string());
    }
    options
}

fn compile(source: &Source<'_>, architecture: Architecture, options: &[String]) -> Result<Entry, KernelError> {
    nvrtc::compile(source, options).map_err(|log| KernelError::Compile {
        source_name: source.name.to_string(),
        architecture: architecture.to_string(),
        log: log.trim_end().to_string(),
    })
}
