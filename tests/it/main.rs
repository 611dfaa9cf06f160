//! End to end, through the program and through the engine: what a user sees has to hold.

mod command_line;
mod exports;
mod gpu;
mod interop;
mod near;
mod readme;
mod real_data;
mod reference_ids;
mod sample;
mod simulation;
mod support;
mod survival;
mod tidy;
mod train;
