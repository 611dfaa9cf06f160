//! One step of a small model against the CPU twin.

use crate::common::{Emulated, watched};
use osler_emulator::Emulator;
use osler_kernel_cases::model::{Step, Whole, visit};
use osler_kernel_cases::ranks::Course;
use osler_kernel_cases::read_stored;
use osler_kernels::cuda::{Gpu, Paper};
use osler_kernels::{Memory, Operations};
use osler_train::TrainError;
use osler_train::model::{Batch, Recompute, read_weights};
use osler_train::optimiser::MomentKind;
use osler_train::ranks::Alone;
use osler_train::trainer::{Source, Trainer};

#[test]
fn a_step_of_a_model_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
    visit(&mut Emulated { wgmma: true });
}

/// For norm and losses together, whatever the number of passes: the device has the next before it is done with one. And it has the optimiser's step
/// before the host has the norm.
#[test]
fn the_host_waits_once_a_step() {
    for (kind, passes) in [("mistral", 1), ("mixtral", 3)] {
        let (gpu, asked) = watched(true, true);
        let course = Course { kind, passes };
        let mut trainer = course.trainer(&gpu, Box::new(Alone)).unwrap();
        for step in 0..2 {
            asked.take_reads();
            asked.take_kernels();
            trainer.step(&gpu, &course).unwrap();
            assert_eq!(asked.take_reads(), [0, 1], "{kind}");
            let kernels = asked.take_kernels();
            if step == 0 {
                let begin = kernels.iter().position(|kernel| kernel.starts_with("adamw")).unwrap();
                assert_eq!(kernels[begin - 2..begin], ["clip", "end_telling"], "{kind}");
                let (last, rest) = kernels[begin..].split_last().unwrap();
                assert!(*last == "told" && rest.iter().all(|kernel| kernel.starts_with("adamw")), "{kind}: {kernels:?}");
            }
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

/// A pass is one thing for the device, from the first token to the last gradient; of the last pass with squares, norm, clipping and the optimiser's step.
/// No other bits come of it.
#[test]
fn a_step_of_one_pass_is_one_replay() {
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

/// Batches of other sizes in each pass and step, the largest not the first.
struct Uneven;

impl Source for Uneven {
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
        let mut batch = Batch::default();
        batch.push(&vec![7; 20 + 25 * ((step as usize + pass as usize) % 3)]);
        Ok(batch)
    }
}

/// What a run takes is what was planned, and all of it lies in the arena that was laid out, also where passes have other sizes.
#[test]
fn a_run_takes_the_arena_that_was_planned() {
    for (kind, passes, recompute, moments) in [
        ("mistral", 1, Recompute::None, MomentKind::F32),
        ("mixtral", 3, Recompute::FeedForward, MomentKind::EightBit),
        ("qwen2", 2, Recompute::Layer, MomentKind::F32),
    ] {
        let (gpu, asked) = watched(true, true);
        let course = Course { kind, passes };
        let begin = |gpu: &Gpu<_>| course.trainer_with(gpu, Box::new(Alone), moments, recompute).unwrap();
        let plan = course.memory(1, moments, recompute).unwrap();
        gpu.reserve(plan.needs()).unwrap();
        let mut trainer = begin(&gpu);
        trainer.make_room(&gpu, Step::ROWS).unwrap();
        // And the host's memory, where the device tells what passes say.
        assert_eq!(asked.take_allocations(), 2, "{kind}: {plan:?}");
        for _ in 0..4 {
            trainer.step(&gpu, &Uneven).unwrap();
            trainer.measure(&gpu, 4, |at| Uneven.batch(0, at as u32).unwrap()).unwrap();
        }
        trainer.measure(&gpu, 1, Step::batch).unwrap();
        assert_eq!((asked.take_allocations(), gpu.free_bytes()), (0, 0), "{kind}: {plan:?}");
        drop(trainer);
        assert!(gpu.free_bytes() as u64 > plan.needs().total() - plan.scratch - 1024, "all but scratch memory and constants is given back");
    }
}

/// The step after one that was none is the one that would have been.
#[test]
fn a_step_that_is_no_number_leaves_all_as_it_is() {
    for moments in [MomentKind::F32, MomentKind::EightBit] {
        let run = |fails: bool| {
            let gpu = Gpu::new(Emulator { wgmma: true, ..Emulator::default() });
            let mut trainer = Course { kind: "mistral", passes: 1 }.trainer_with(&gpu, Box::new(Alone), moments, Recompute::None).unwrap();
            trainer.step(&gpu, &Whole).unwrap();
            let (norm, len) = (trainer.model.parameters.norm, trainer.model.config.hidden_size);
            if fails {
                gpu.write_stored(&mut trainer.model.weights[norm], 0, &[f32::NAN]).unwrap();
                let error = trainer.step(&gpu, &Whole).unwrap_err().to_string();
                assert!(error.starts_with("step 2: the loss is not a number") && trainer.num_steps() == 1, "{error}");
            }
            gpu.write_stored(&mut trainer.model.weights[norm], 0, &vec![1.0; len]).unwrap();
            let steps: Vec<_> = (0..2).map(|_| trainer.step(&gpu, &Whole).unwrap()).collect();
            let weights = trainer.model.weights.iter().zip(&trainer.model.parameters.list);
            (steps, weights.map(|(weight, parameter)| read_stored(&gpu, weight, parameter.len())).collect::<Vec<_>>())
        };
        assert!(run(true) == run(false), "{moments:?}");
    }
}

/// A run that goes on from its files has the bits of one that never stopped.
#[test]
fn a_checkpoint_of_a_device_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    for moments in [MomentKind::F32, MomentKind::EightBit] {
        let course = Course { kind: "mixtral", passes: 2 };
        let device = || Gpu::new(Emulator { wgmma: true, ..Emulator::default() });
        let gpu = device();
        let mut straight = course.trainer_with(&gpu, Box::new(Alone), moments, Recompute::None).unwrap();
        (0..2).for_each(|_| drop(straight.step(&gpu, &Whole).unwrap()));
        let path = folder.path().join(format!("{moments:?}"));
        straight.save(&gpu, &path, &[]).unwrap();
        let other = device();
        let model = read_weights(&other, &path).unwrap();
        let mut resumed = Trainer::resume(&other, &path, model, course.plan(moments, Recompute::None), Box::new(Alone)).unwrap();
        for _ in 0..2 {
            assert_eq!(straight.step(&gpu, &Whole).unwrap(), resumed.step(&other, &Whole).unwrap(), "{moments:?}");
        }
        let weights = |gpu: &Gpu<Emulator>, trainer: &Trainer<_>| {
            let weights = trainer.model.weights.iter().zip(&trainer.model.parameters.list);
            weights.map(|(weight, parameter)| read_stored(gpu, weight, parameter.len())).collect::<Vec<_>>()
        };
        assert!(weights(&gpu, &straight) == weights(&other, &resumed), "{moments:?}");
    }
}
