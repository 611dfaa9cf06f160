//! One step of a small model against the CPU twin.

use crate::common::{Emulated, watched};
use osler_emulator::Emulator;
use osler_kernel_cases::model::{Step, visit, visit_hopper};
use osler_kernel_cases::ranks::Course;
use osler_kernels::cuda::{Gpu, Paper};
use osler_train::ranks::Alone;

#[test]
fn a_step_of_a_model_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
    visit(&mut Emulated { wgmma: true });
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

/// What kernels ask for themselves is known before there is a device.
#[test]
fn scratch_on_paper_is_that_of_a_device() {
    for kind in ["mistral", "mixtral", "qwen2", "qwen3"] {
        let (device, paper) = (Gpu::new(Emulator { wgmma: true, ..Emulator::default() }), Gpu::new(Paper::default()));
        let step = Step::for_hopper(kind);
        step.several(&device, 1, || {});
        step.several(&paper, 1, || {});
        assert!(device.scratch_bytes() > 0);
        assert_eq!(device.scratch_bytes(), paper.scratch_bytes(), "{kind}");
    }
}
