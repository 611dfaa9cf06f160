//! Several ranks, each a thread with an emulated device of its own: what they send each other, and that no bit depends on how many there are.

use osler_emulator::{Emulator, Network, Order as BlockOrder, Place};
use osler_kernel_cases::model::Step;
use osler_kernel_cases::ranks::{Course, Sums, broadcast, each, part};
use osler_kernel_cases::{exact, read_stored};
use osler_kernels::cuda::Gpu;
use osler_kernels::cuda::exchange::{Reduction, Round};
use osler_kernels::{Memory, Operations};
use osler_train::model::{Batch, Recompute};
use osler_train::optimiser::MomentKind;
use osler_train::ranks::{Alone, Communicator, Devices, Ways};
use osler_train::trainer::Trainer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// Runs `work` as each of `ranks` ranks whose devices have joined.
fn joined<T: Send>(ranks: usize, work: impl Fn(usize, Gpu<Emulator>, Devices) -> T + Sync) -> Vec<T> {
    joined_by(&Arc::default(), ranks, work)
}

/// The same, by what has `failed`, or may.
fn joined_by<T: Send>(failed: &Arc<AtomicBool>, ranks: usize, work: impl Fn(usize, Gpu<Emulator>, Devices) -> T + Sync) -> Vec<T> {
    let network = Arc::new(Network::default());
    each(ranks, |rank, mesh| {
        let place = Some(Place::new(rank, ranks, network.clone()));
        // One does what it can at once, the other when it has to.
        let order = [BlockOrder::Forward, BlockOrder::Backward][rank % 2];
        let ways = Arc::new(Emulated { network: network.clone(), failed: failed.clone() });
        work(rank, Gpu::new(Emulator { order, wgmma: true, ends: None, place }), Devices::new(mesh, ways))
    })
}

struct Emulated {
    network: Arc<Network>,
    failed: Arc<AtomicBool>,
}

impl Ways for Emulated {
    fn problem(&self) -> Option<String> {
        self.failed.load(Ordering::Relaxed).then(|| "a cable is out".into())
    }

    fn give_up(&self) {
        self.network.give_up();
    }
}

#[test]
fn sums_are_those_in_order_of_rank_however_they_are_cut() {
    for ranks in 2..=4 {
        for sums in Sums::all(ranks) {
            joined(ranks, |rank, gpu, mut devices| {
                sums.run(&gpu, rank).unwrap();
                part::<Emulator>(&mut devices);
            });
        }
    }
}

#[test]
fn weights_come_from_their_owners() {
    joined(3, |rank, gpu, mut devices| {
        broadcast(&gpu, rank, 3).unwrap();
        part::<Emulator>(&mut devices);
    });
}

/// The rank that takes the most takes no less than was planned for each: its arena is full, with what comes from the others in it.
#[test]
fn ranks_take_the_arena_that_was_planned() {
    for (kind, ranks) in [("mistral", 2), ("mixtral", 3), ("qwen2", 3)] {
        let course = Course { kind, passes: 3 };
        let plan = course.memory(ranks, MomentKind::F32, Recompute::None).unwrap();
        let free = joined(ranks as usize, |_, gpu, devices| {
            gpu.reserve(plan.needs()).unwrap();
            let mut trainer = course.trainer(&gpu, Box::new(devices)).unwrap();
            trainer.make_room(&gpu, Step::ROWS).unwrap();
            (0..2).for_each(|_| drop(trainer.step(&gpu, &course).unwrap()));
            // With all ranks: none ends while others still have something to come.
            trainer.measure(&gpu, 0, |_| Batch::default()).unwrap();
            gpu.free_bytes()
        });
        assert_eq!(free.iter().min(), Some(&0), "{kind}: {free:?} of {plan:?}");
    }
}

/// All say the same, and none takes the step.
#[test]
fn a_step_that_is_no_number_on_one_rank_is_none_on_all() {
    let course = Course { kind: "mistral", passes: 2 };
    joined(2, |rank, gpu, devices| {
        let mut trainer = course.trainer(&gpu, Box::new(devices)).unwrap();
        trainer.step(&gpu, &course).unwrap();
        let norm = trainer.model.parameters.norm;
        let weights = |trainer: &Trainer<_>| -> Vec<_> {
            let weights = trainer.model.weights.iter().zip(&trainer.model.parameters.list).enumerate();
            weights.filter(|(at, _)| *at != norm).map(|(_, (weight, parameter))| read_stored(&gpu, weight, parameter.len())).collect()
        };
        let before = weights(&trainer);
        if rank == 1 {
            gpu.write_stored(&mut trainer.model.weights[norm], 0, &[f32::NAN]).unwrap();
        }
        let error = trainer.step(&gpu, &course).unwrap_err().to_string();
        assert!(error.starts_with("step 2: the loss is not a number") && trainer.num_steps() == 1, "rank {rank}: {error}");
        assert!(weights(&trainer) == before, "rank {rank}");
        trainer.measure(&gpu, 0, |_| Batch::default()).unwrap();
    });
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let gpu = Gpu::new(Emulator::default());
    let (own, mut sum) = (exact(&gpu, &[1.0; 4]), exact(&gpu, &[1.0; 3]));
    let round = Round { rank: 0, from: &[0, 1], begins: true };
    for (sum, wanted) in [(None, "reduce: `sum` must be there"), (Some(&mut sum), "reduce: `sum` has 3 elements, wanted 4")] {
        let error = gpu.reduce(round, &mut [Reduction { owner: 0, own: Some(&own), sum }]).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    assert!(gpu.reduce(round, &mut [Reduction { owner: 1, own: None, sum: None }]).is_err());
    // Nothing to send to, and nothing to send.
    assert!(
        gpu.reduce(round, &mut [Reduction { owner: 1, own: Some(&own), sum: None }]).unwrap_err().to_string().contains("on no network")
    );
    assert_eq!(gpu.reduce(round, &mut []), Ok(()));
}

#[test]
fn any_number_of_devices_gives_the_same_bits() {
    for (kind, passes, several) in [("mistral", 2, &[2][..]), ("mixtral", 4, &[3, 4]), ("qwen2", 4, &[2, 3])] {
        let (gpu, course) = (Gpu::new(Emulator { wgmma: true, ..Emulator::default() }), Course { kind, passes });
        let one = course.run(&gpu, Box::new(Alone)).unwrap();
        assert!(
            one.0.iter().all(|[loss, balance, norm]| *loss > 0.0 && (*balance > 0.0) == (kind == "mixtral") && *norm > 0.0),
            "{:?}",
            one.0
        );
        for &ranks in several {
            for (rank, got) in joined(ranks, |_, gpu, devices| course.run(&gpu, Box::new(devices)).unwrap()).into_iter().enumerate() {
                assert!(got == one, "{kind}: rank {rank} of {ranks}: {:?} {:?}", got.0, one.0);
            }
        }
    }
}

/// One that ends early, with or without a word, while others' devices wait for it.
#[test]
fn no_device_waits_for_a_rank_that_is_gone() {
    for ends in ["with a word", "without", "not, but the network has failed"] {
        let (failed, all) = (Arc::new(AtomicBool::new(false)), Barrier::new(3));
        let told = joined_by(&failed, 3, |rank, gpu, mut devices| {
            let own = exact(&gpu, &[1.0; 4]);
            if rank == 2 {
                match ends {
                    "with a word" => Communicator::<Gpu<Emulator>>::abort(&mut devices, "no space left"),
                    "without" => {}
                    _ => {
                        failed.store(true, Ordering::Relaxed);
                        // None ends before all know.
                        all.wait();
                    }
                }
                return String::new();
            }
            let mut sum = exact(&gpu, &[0.0; 4]);
            let reduction = Reduction { owner: rank, own: Some(&own), sum: Some(&mut sum) };
            let error = gpu.reduce(Round { rank, from: &[0, 1, 2], begins: true }, &mut [reduction]).and_then(|()| gpu.settle());
            let error = error.unwrap_err().to_string();
            assert!(error.contains("given up"), "{error}");
            // The network was given up by the first that knew.
            let failure = std::iter::repeat_with(|| {
                std::thread::sleep(Duration::from_millis(5));
                Communicator::<Gpu<Emulator>>::failure(&devices)
            });
            let failure = failure.flatten().next().unwrap().to_string();
            if ends.starts_with("not") {
                all.wait();
            }
            failure
        });
        if ends.starts_with("not") {
            assert!(told[..2].iter().all(|told| told == "the GPUs of the ranks: a cable is out"), "{told:?}");
        } else if ends == "with a word" {
            assert!(told[..2].iter().all(|told| told == "rank 2 stopped: no space left"), "{told:?}");
        } else {
            // The other of the two may have ended for that before.
            assert!(told[..2].iter().all(|told| told.contains("it has ended, and should not have yet")), "{told:?}");
            assert!(told.iter().any(|told| told.contains("rank 2 is gone")), "{told:?}");
        }
    }
}
