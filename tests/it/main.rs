//! End to end, through the program and through the engine: what a user sees has to hold.

mod command_line;
mod interop;
mod near;
mod real_data;
mod sample;
mod simulation;
mod support;
mod survival;
mod tidy;
