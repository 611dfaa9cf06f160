//! One step of a small model against the CPU twin.

use crate::common::{Emulated, watched};
use osler_emulator::Emulator;
use osler_kernel_cases::model::{Step, visit, visit_hopper};
use osler_kernel_cases::ranks::Course;
use osler_kernel_cases::read_stored;
use osler_kernels::cuda::{Gpu, Paper};
use osler_kernels::{Memory, Operations};
use osler_train::TrainError;
use osler_train::model::{Batch, Recompute};
use osler_train::optimiser::MomentKind;
use osler_train::outline::MemoryTable;
use osler_train::ranks::Alone;
use osler_train::recipe::{Precision, Recipe};
use osler_train::trainer::{Source, Trainer};

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

/// Batches that all have rows and targets.
struct Whole;

impl Source for Whole {
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
        Ok(Step::batch((step as usize + pass as usize) % 20))
    }
}

/// A step of one pass is one thing for the device, from the first token to the last weight, and no other bits come of it. Of several passes each is
/// one, the last with norm and step.
#[test]
fn a_step_is_one_replay() {
    for (kind, passes) in [("mistral", 1), ("mixtral", 1), ("qwen3", 3)] {
        let steps = |records: bool| {
            let (gpu, asked) = watched(records, true);
            let mut trainer = Course { kind, passes }.trainer(&gpu, Box::new(Alone)).unwrap();
            let mut step = |_| {
                let step = trainer.step(&gpu, &Whole).unwrap();
                (step, asked.take_counts())
            };
            let (steps, counts): (Vec<_>, Vec<_>) = (0..5).map(&mut step).unzip();
            let weights = trainer.model.weights.iter().zip(&trainer.model.parameters.list);
            (steps, weights.map(|(weight, parameter)| read_stored(&gpu, weight, parameter.len())).collect::<Vec<_>>(), counts)
        };
        let ((wanted, weights_wanted, _), (got, weights, counts)) = (steps(false), steps(true));
        assert!(got == wanted && weights == weights_wanted, "{kind}: a replay gives other bits");
        assert_eq!(counts[3..], [[0, 0, passes as usize]; 2], "{kind}: {counts:?}");
    }
}

/// What a run takes is what was planned, and all of it lies in the arena that was laid out.
#[test]
fn a_run_takes_the_arena_that_was_planned() {
    for (kind, passes) in [("mistral", 1), ("mixtral", 3), ("qwen2", 2)] {
        let (gpu, asked) = watched(true, true);
        let course = Course { kind, passes };
        let config = course.trainer(&Gpu::new(Paper::default()), Box::new(Alone)).unwrap().model.config;
        let recipe = Recipe { precision: Precision::Bf16, device: "cuda".into(), ..Recipe::default() };
        let plan = MemoryTable::new(&config, Step::batch(0).len(), passes, &recipe, Recompute::None).unwrap();
        gpu.reserve(plan.total() - plan.scratch, plan.scratch).unwrap();
        let mut trainer = course.trainer(&gpu, Box::new(Alone)).unwrap();
        for _ in 0..2 {
            trainer.step(&gpu, &Whole).unwrap();
            trainer.measure(&gpu, 3, Step::batch).unwrap();
        }
        assert_eq!((asked.take_allocations(), gpu.free_bytes()), (1, 0), "{kind}: {plan:?}");
        drop(trainer);
        assert!(gpu.free_bytes() as u64 > plan.total() - plan.scratch - 1024, "all but scratch memory and constants is given back");
    }
}

/// The device itself leaves out a step by gradients that are no numbers: the host learns of them later.
#[test]
fn a_step_that_is_no_number_leaves_all_as_it_is() {
    for moments in [MomentKind::F32, MomentKind::EightBit] {
        let gpu = Gpu::new(Emulator { wgmma: true, ..Emulator::default() });
        let mut trainer = Course { kind: "mistral", passes: 1 }.trainer_with(&gpu, Box::new(Alone), moments).unwrap();
        trainer.step(&gpu, &Whole).unwrap();
        let (norm, len) = (trainer.model.parameters.norm, trainer.model.config.hidden_size);
        gpu.write_stored(&mut trainer.model.weights[norm], 0, &[f32::NAN]).unwrap();
        let weights = |trainer: &Trainer<Gpu<Emulator>>| {
            let weights = trainer.model.weights.iter().zip(&trainer.model.parameters.list).enumerate().filter(|(at, _)| *at != norm);
            weights.map(|(_, (weight, parameter))| read_stored(&gpu, weight, parameter.len())).collect::<Vec<_>>()
        };
        let before = weights(&trainer);
        let error = trainer.step(&gpu, &Whole).unwrap_err().to_string();
        assert!(error.starts_with("step 2: the loss is not a number"), "{error}");
        assert!(trainer.num_steps() == 1 && weights(&trainer) == before);
        // With a number again, the same step can be taken.
        gpu.write_stored(&mut trainer.model.weights[norm], 0, &vec![1.0; len]).unwrap();
        assert_eq!(trainer.step(&gpu, &Whole).unwrap().step, 2);
    }
}
