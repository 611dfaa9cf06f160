#![no_main]
//! `textgrid::parse` on any bytes: no panic, no loop, no memory without bound.

use libfuzzer_sys::fuzz_target;
use osler_datasets::{Document, textgrid};
use std::ops::ControlFlow;

fuzz_target!(|bytes: &[u8]| {
    let mut emit = |_: Result<&Document, osler_datasets::Reject>| ControlFlow::Continue(());
    let _ = textgrid::parse(bytes, &textgrid::Settings::default(), &mut Document::default(), &mut emit);
});
