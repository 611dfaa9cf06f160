//! What runs hot on a device. [`Operations`] is the boundary that a model is written against; [`Cpu`] implements it and is its
//! specification: what tests of every other device compare with.
//!
//! The device is chosen when the program runs; there is one build for all machines. [`cuda::Gpu`] is the other device: its kernels are in
//! `kernels/cuda`, and tests run them on a CPU.

pub mod blockwise;
mod checks;
pub mod cpu;
pub mod cuda;
mod device;
pub mod operations;

pub use cpu::Cpu;
pub use device::{Device, KernelError};
pub use operations::{Counter, Memory, Operations};
