//! What every device checks of the buffers that it is given.

use crate::KernelError;
use crate::operations::Done;
use std::ops::Range;

/// Compares lengths: name, got, wanted.
pub(crate) fn expect_len(kernel: &'static str, sizes: &[(&'static str, usize, usize)]) -> Done {
    match sizes.iter().find(|(_, got, wanted)| got != wanted) {
        Some(&(argument, got, wanted)) => Err(KernelError::Shape { kernel, argument, wanted, got }),
        None => Ok(()),
    }
}

/// `len` numbers of a buffer from `at` on.
pub(crate) fn range(argument: &'static str, at: usize, len: usize, whole: usize) -> Result<Range<usize>, KernelError> {
    match at.checked_add(len).filter(|&end| end <= whole) {
        Some(end) => Ok(at..end),
        None => Err(KernelError::Shape { kernel: "copy", argument, wanted: whole, got: at.saturating_add(len) }),
    }
}
