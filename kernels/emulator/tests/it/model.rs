//! One step of a small model against the CPU twin.

use crate::common::Emulated;
use osler_kernel_cases::model::visit;

#[test]
fn a_step_of_a_model_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}
