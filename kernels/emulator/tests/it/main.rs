//! Every kernel of `kernels/cuda` in the emulator against its CPU twin, and the emulator's own primitives.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod attention;
mod common;
mod elementwise;
mod far;
mod head_loss;
mod hopper;
mod lists;
mod model;
mod primitives;
mod ranks;
mod rmsnorm;
mod route;
