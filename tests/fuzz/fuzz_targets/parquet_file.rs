#![no_main]
//! `parquet_file::read` on any bytes: no panic, no loop, no memory without bound.

use libfuzzer_sys::fuzz_target;
use osler_datasets::{Document, Limits, parquet_file};
use std::ops::ControlFlow;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { record_bytes_max: 1 << 16, depth_max: 64 };
    let mut emit = |_: Result<&Document, osler_datasets::Reject>| ControlFlow::Continue(());
    let input = bytes::Bytes::copy_from_slice(bytes);
    let _ = parquet_file::read(input, &parquet_file::Settings::default(), &limits, &mut Document::default(), &mut emit);
});
