#![no_main]
//! `medquad::parse` on any bytes: no panic, no loop, no memory without bound.

use libfuzzer_sys::fuzz_target;
use osler_datasets::{Document, medquad};
use std::ops::ControlFlow;

fuzz_target!(|bytes: &[u8]| {
    let mut emit = |_: Result<&Document, osler_datasets::Reject>| ControlFlow::Continue(());
    let _ = medquad::parse(bytes, &medquad::Settings::default(), &mut Document::default(), &mut emit);
});
