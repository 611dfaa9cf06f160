//! How a reader hands over what it finds.

use crate::{Document, Reject};
use std::ops::ControlFlow;

/// Takes each document or reject as it is found; `Break` means stop.
pub type Emit<'a> = dyn FnMut(Result<&Document, Reject>) -> ControlFlow<()> + 'a;
