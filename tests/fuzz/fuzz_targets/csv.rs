#![no_main]
//! `csv::read` on any stream: no panic, no loop, no memory without bound.

use libfuzzer_sys::fuzz_target;
use osler_datasets::{Document, Limits, csv};
use std::ops::ControlFlow;

fuzz_target!(|bytes: &[u8]| {
    let mut input = bytes;
    let limits = Limits { record_bytes_max: 1 << 16, depth_max: 64 };
    let mut emit = |_: Result<&Document, osler_datasets::Reject>| ControlFlow::Continue(());
    let _ = csv::read(&mut input, &csv::Settings::default(), &limits, &mut Document::default(), &mut emit);
});
