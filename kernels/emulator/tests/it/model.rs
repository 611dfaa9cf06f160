//! One step of a small model against the CPU twin.

use crate::common::Emulated;
use osler_kernel_cases::model::{visit, visit_hopper};

#[test]
fn a_step_of_a_model_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn a_step_on_hopper_agrees_with_its_twin() {
    visit_hopper(&mut Emulated { wgmma: true });
}
