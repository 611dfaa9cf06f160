//! The two shapes of a fuzz target: a parser of whole files, and a reader of streams. On any bytes: no panic, no loop, no memory without
//! bound, and every text that is given out has its sections inside it.

use osler_datasets::{Document, Limits, Reject};
use std::ops::ControlFlow;

/// Small bounds, so that inputs of the fuzzer's size reach them.
pub const LIMITS: Limits = Limits { record_bytes_max: 1 << 16, depth_max: 64 };

/// Looks at what a parser gives out.
pub fn check(record: Result<&Document, Reject>) -> ControlFlow<()> {
    if let Ok(document) = record {
        for section in &document.sections {
            assert!(document.text.get(section.start..section.end).is_some(), "a section is outside its text");
        }
    }
    ControlFlow::Continue(())
}

/// A target over `MODULE::parse`, which takes a whole file.
#[macro_export]
macro_rules! parses {
    ($module:ident) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            let settings = osler_datasets::$module::Settings::default();
            let _ = osler_datasets::$module::parse(bytes, &settings, &mut Default::default(), &mut $crate::check);
        });
    };
}

/// A target over `MODULE::read`, which takes a stream.
#[macro_export]
macro_rules! reads {
    ($module:ident) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            let settings = osler_datasets::$module::Settings::default();
            let _ = osler_datasets::$module::read(&mut &*bytes, &settings, &$crate::LIMITS, &mut Default::default(), &mut $crate::check);
        });
    };
}
