//! Several ranks, each a thread with an emulated device of its own: what they send each other, and that no bit depends on how many there are.

use osler_emulator::{Emulator, Network, Order, Place};
use osler_kernel_cases::model::Step;
use osler_kernel_cases::{exact, numbers, read_exact, read_stored, stored};
use osler_kernels::cuda::Gpu;
use osler_kernels::cuda::exchange::{Reduction, Round};
use osler_kernels::operations::IGNORED;
use osler_train::TrainError;
use osler_train::model::{Batch, Recompute};
use osler_train::optimiser::Settings;
use osler_train::ranks::{Alone, Communicator, Devices, Door, Meeting};
use osler_train::schedule::{Decay, Schedule};
use osler_train::trainer::{Plan, Source, Trainer};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// Runs `work` as each of `ranks` ranks and gives what each returned.
fn each<T: Send>(ranks: usize, work: impl Fn(usize, Gpu<Emulator>, Arc<Network>) -> T + Sync) -> Vec<T> {
    let network = Arc::new(Network::default());
    std::thread::scope(|scope| {
        let run = |rank: usize| {
            let place = Some(Place::new(rank, ranks, network.clone()));
            // One does what it can at once, the other when it has to.
            let order = [Order::Forward, Order::Backward][rank % 2];
            work(rank, Gpu::new(Emulator { order, wgmma: true, place }), network.clone())
        };
        let threads: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Numbers whose sum depends on its order, and among them a negative zero.
fn gradient(rank: usize, tensor: usize, len: usize) -> Vec<f32> {
    let mut values: Vec<f32> =
        numbers(len, (rank * 10 + tensor + 1) as u64).iter().map(|x| x * 10f32.powi((tensor + rank) as i32 % 5)).collect();
    values[0] = -0.0;
    values
}

#[test]
fn sums_are_those_in_order_of_rank_however_they_are_cut() {
    let lens = [1000, 1, 37, 512, 300, 7];
    for (ranks, owners, from) in [
        (3, [0, 1, 2, 0, 1, 2], &[0, 1, 2][..]),
        (3, [1, 1, 1, 1, 1, 1], &[0, 1, 2]),
        // One that has none: an owner, and one that is not; one that is the only one; nobody.
        (4, [0, 3, 2, 3, 1, 3], &[0, 1, 2]),
        (3, [0, 0, 1, 0, 1, 1], &[0, 1]),
        (2, [0, 1, 0, 1, 1, 0], &[1]),
        (2, [0, 1, 0, 1, 1, 0], &[]),
    ] {
        for (begins, staging_bytes) in [(true, 1 << 20), (false, 1 << 20), (true, 700), (false, 4)] {
            let wanted = |tensor: usize| -> Vec<u32> {
                let before = gradient(9, tensor, lens[tensor]);
                let mut addends = from.iter().map(|&rank| gradient(rank, tensor, lens[tensor]));
                let first = if begins { addends.next().unwrap_or(before) } else { before };
                addends
                    .fold(first, |sum, addend| sum.iter().zip(addend).map(|(sum, x)| sum + x).collect())
                    .iter()
                    .map(|x| x.to_bits())
                    .collect()
            };
            let sums = each(ranks, |rank, gpu, _| {
                let own: Vec<_> = lens.iter().enumerate().map(|(at, &len)| exact(&gpu, &gradient(rank, at, len))).collect();
                let mut sums: Vec<_> = lens.iter().enumerate().map(|(at, &len)| exact(&gpu, &gradient(9, at, len))).collect();
                let takes = from.contains(&rank);
                let reduction =
                    |((&owner, own), sum)| Reduction { owner, own: Some(own).filter(|_| takes), sum: Some(sum).filter(|_| owner == rank) };
                let mut reductions: Vec<_> = owners.iter().zip(&own).zip(&mut sums).map(reduction).collect();
                gpu.reduce_by(Round { rank, from, begins }, &mut reductions, staging_bytes).unwrap();
                drop(reductions);
                gpu.settle().unwrap();
                sums.iter()
                    .zip(lens)
                    .map(|(sum, len)| read_exact(&gpu, sum, len).iter().map(|x| x.to_bits()).collect::<Vec<_>>())
                    .collect::<Vec<_>>()
            });
            for (tensor, owner) in owners.into_iter().enumerate() {
                assert!(
                    sums[owner][tensor] == wanted(tensor),
                    "{ranks} ranks, from {from:?}, begins {begins}, {staging_bytes} bytes, {tensor}"
                );
            }
        }
    }
}

#[test]
fn weights_come_from_their_owners() {
    let owners = [2, 0, 1, 2];
    let got = each(3, |rank, gpu, _| {
        let mut tensors: Vec<_> = (0..4).map(|at| stored(&gpu, &[(10 * rank + at) as f32; 9])).collect();
        gpu.broadcast(&owners, &mut tensors).unwrap();
        tensors.iter().map(|tensor| read_stored(&gpu, tensor, 9)[8]).collect::<Vec<_>>()
    });
    assert_eq!(got, vec![[20.0, 1.0, 12.0, 23.0]; 3]);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let gpu = Gpu::new(Emulator::default());
    let (own, mut sum) = (exact(&gpu, &[1.0; 4]), exact(&gpu, &[1.0; 3]));
    let round = Round { rank: 0, from: &[0, 1], begins: true };
    for sum in [None, Some(&mut sum)] {
        let error = gpu.reduce(round, &mut [Reduction { owner: 0, own: Some(&own), sum }]).unwrap_err().to_string();
        assert!(error.contains("reduce: `sum` has"), "{error}");
    }
    assert!(gpu.reduce(round, &mut [Reduction { owner: 1, own: None, sum: None }]).is_err());
    // Nothing to send to, and nothing to send.
    assert!(
        gpu.reduce(round, &mut [Reduction { owner: 1, own: Some(&own), sum: None }]).unwrap_err().to_string().contains("on no network")
    );
    assert_eq!(gpu.reduce(round, &mut []), Ok(()));
}

/// Batches of several sizes; in every third step one asks for nothing, and the last is empty.
pub struct Texts {
    pub passes: u32,
}

impl Source for Texts {
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
        if step % 3 == 2 && pass + 1 == self.passes {
            return Ok(Batch::default());
        }
        let mut batch = Step::batch(step as usize + pass as usize);
        if step % 3 == 2 && pass == 1 {
            batch.targets.fill(IGNORED);
        }
        Ok(batch)
    }
}

/// Some steps of as many passes.
pub fn plan(passes: u32) -> Plan {
    let schedule = Schedule { highest: 1e-2, lowest: 0.0, decay: Decay::Cosine, warmup_steps: 1, warmup_start: 0.1, total_steps: 10 };
    let optimiser = Settings { clip: Some(0.5), ..Settings::default() };
    Plan { schedule, optimiser, accumulation: passes, recompute: Recompute::None, sums_in_any_order: false }
}

/// Losses, norms and weights after three steps of as many passes.
fn course(
    kind: &'static str,
    passes: u32,
    gpu: &Gpu<Emulator>,
    ranks: Box<dyn Communicator<Gpu<Emulator>>>,
) -> (Vec<[f64; 3]>, Vec<Vec<f32>>) {
    let mut trainer = Trainer::new(gpu, Step::for_hopper(kind).model(gpu), plan(passes), ranks).unwrap();
    let steps = (0..3).map(|_| trainer.step(gpu, &Texts { passes }).unwrap()).map(|step| [step.loss, step.balance, step.norm]).collect();
    let weights = trainer.model.weights.iter().zip(&trainer.model.parameters.list);
    (steps, weights.map(|(weight, parameter)| read_stored(gpu, weight, parameter.len())).collect())
}

/// Runs `work` as each of `ranks` ranks whose devices have joined.
fn joined<T: Send>(ranks: usize, work: impl Fn(usize, Gpu<Emulator>, Devices) -> T + Sync) -> Vec<T> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    each(ranks, |rank, gpu, network| {
        let door = if rank == 0 { Door::Listener(&listener) } else { Door::Address(&address) };
        let mesh = Meeting { rank, ranks, door, agreement: 7, wait: &|| Ok(()) }.join().unwrap();
        work(rank, gpu, Devices::new(mesh, move || network.give_up()))
    })
}

#[test]
fn any_number_of_devices_gives_the_same_bits() {
    for (kind, passes, several) in [("mistral", 2, &[2][..]), ("mixtral", 4, &[3, 4]), ("qwen2", 4, &[2, 3])] {
        let gpu = Gpu::new(Emulator { wgmma: true, ..Emulator::default() });
        let one = course(kind, passes, &gpu, Box::new(Alone));
        assert!(
            one.0.iter().all(|[loss, balance, norm]| *loss > 0.0 && (*balance > 0.0) == (kind == "mixtral") && *norm > 0.0),
            "{:?}",
            one.0
        );
        for &ranks in several {
            for (rank, course) in joined(ranks, |_, gpu, devices| course(kind, passes, &gpu, Box::new(devices))).into_iter().enumerate() {
                assert!(course == one, "{kind}: rank {rank} of {ranks}: {:?} {:?}", course.0, one.0);
            }
        }
    }
}

/// One that ends early, with or without a word, while others' devices wait for it.
#[test]
fn no_device_waits_for_a_rank_that_is_gone() {
    for speaks in [true, false] {
        let told = joined(3, |rank, gpu, mut devices| {
            let own = exact(&gpu, &[1.0; 4]);
            if rank == 2 {
                if speaks {
                    Communicator::<Gpu<Emulator>>::abort(&mut devices, "no space left");
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
            failure.flatten().next().unwrap().to_string()
        });
        if speaks {
            assert!(told[..2].iter().all(|told| told == "rank 2 stopped: no space left"), "{told:?}");
        } else {
            // The other of the two may have ended for that before.
            assert!(told[..2].iter().all(|told| told.contains("it has ended, and should not have yet")), "{told:?}");
            assert!(told.iter().any(|told| told.contains("rank 2 is gone")), "{told:?}");
        }
    }
}
