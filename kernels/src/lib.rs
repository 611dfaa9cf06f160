//! What runs hot on a device. Every kernel has a twin in [`cpu`], which is its specification: plain, exact, and what tests compare with.
//!
//! The device is chosen when the program runs; there is one build for all machines. For now there is the CPU.

pub mod cpu;
mod device;

pub use device::{Device, KernelError};
