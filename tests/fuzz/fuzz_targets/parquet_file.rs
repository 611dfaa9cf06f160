#![no_main]
//! Parquet is read at random: its reader takes bytes, not a stream.

use osler_datasets::parquet_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let input = bytes::Bytes::copy_from_slice(bytes);
    let settings = parquet_file::Settings::default();
    let _ = parquet_file::read(input, &settings, &osler_fuzz::LIMITS, &mut Default::default(), &mut osler_fuzz::check);
});
