//! One step of a small model against the CPU twin.

use crate::common::{Emulated, watched};
use osler_kernel_cases::model::{visit, visit_hopper};
use osler_kernel_cases::ranks::Course;
use osler_train::ranks::Alone;

#[test]
fn a_step_of_a_model_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn a_step_on_hopper_agrees_with_its_twin() {
    visit_hopper(&mut Emulated { wgmma: true });
}

/// For the norm and for the losses, whatever the number of passes: the device has the next before it is done with one.
#[test]
fn the_host_waits_twice_a_step() {
    for (kind, passes) in [("mistral", 1), ("mixtral", 3)] {
        let (gpu, asked) = watched(true, true);
        let course = Course { kind, passes };
        let mut trainer = course.trainer(&gpu, Box::new(Alone)).unwrap();
        for _ in 0..2 {
            asked.take_reads();
            trainer.step(&gpu, &course).unwrap();
            assert_eq!(asked.take_reads(), 2, "{kind}");
        }
    }
}
