//! What several ranks with a device each do together: sums in order of rank, copies of weights, and steps whose bits do not depend on how many
//! ranks there are.

use crate::model::Step;
use crate::{exact, numbers, read_exact, read_stored, stored};
use osler_kernels::Operations;
use osler_kernels::cuda::exchange::{Reduction, Round};
use osler_kernels::cuda::{Gpu, Launcher, Paper};
use osler_kernels::operations::IGNORED;
use osler_train::TrainError;
use osler_train::model::{Batch, ModelError, Recompute};
use osler_train::optimiser::{MomentKind, Settings};
use osler_train::outline::MemoryTable;
use osler_train::ranks::{Communicator, Door, Meeting, Mesh};
use osler_train::recipe::{MachineSettings, OptimiserSettings, Precision, Recipe};
use osler_train::schedule::{Decay, Schedule};
use osler_train::trainer::{Plan, Source, Trainer};
use std::net::TcpListener;

/// Runs `work` as each of `ranks` ranks, each a thread of this process, and gives what each returned.
pub fn each<T: Send>(ranks: usize, work: impl Fn(usize, Mesh) -> T + Sync) -> Vec<T> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::scope(|scope| {
        let run = |rank: usize| {
            let door = if rank == 0 { Door::Listener(&listener) } else { Door::Address(&address) };
            work(rank, Meeting { rank, ranks, door, agreement: 7, wait: &|| Ok(()) }.join().unwrap())
        };
        let threads: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Waits for all ranks: one that ends while others still exchange something is taken for one that is gone.
pub fn part<L: Launcher>(ranks: &mut dyn Communicator<Gpu<L>>) {
    ranks.all_gather(&[]).unwrap();
}

/// Lengths of the tensors that are added.
const LENS: [usize; 6] = [1000, 1, 37, 512, 300, 7];

/// Tensors of several owners that some ranks have addends for.
#[derive(Debug, Clone)]
pub struct Sums {
    owners: [usize; LENS.len()],
    from: Vec<usize>,
    begins: bool,
    staging_bytes: usize,
}

impl Sums {
    /// Those of so many ranks: owners that take turns or of whom one has all, addends of all ranks, of all but one, of one, of none; with staging
    /// memory for all and for one number.
    pub fn all(ranks: usize) -> Vec<Self> {
        let turns: [usize; LENS.len()] = std::array::from_fn(|at| at * 2 % ranks + at * 2 / ranks % 2);
        let last = ranks - 1;
        let mut found = Vec::new();
        for owners in [turns.map(|owner| owner % ranks), [last; LENS.len()]] {
            for from in [0..ranks, 0..last, 1.min(last)..ranks, last..ranks, 0..0] {
                for (begins, staging_bytes) in [(true, 1 << 20), (false, 1 << 20), (true, 700), (false, 4)] {
                    found.push(Self { owners, from: from.clone().collect(), begins, staging_bytes });
                }
            }
        }
        found
    }

    /// Adds them as one of the ranks, and holds what it owns against the host's sums.
    ///
    /// # Errors
    /// The first tensor with other bits, and errors of the device.
    pub fn run<L: Launcher>(&self, gpu: &Gpu<L>, rank: usize) -> Result<(), String> {
        let Self { owners, from, begins, staging_bytes } = self;
        let tensors = |rank: usize| LENS.iter().enumerate().map(move |(at, &len)| exact(gpu, &gradient(rank, at, len))).collect::<Vec<_>>();
        let (own, mut sums, takes) = (tensors(rank), tensors(BEFORE), from.contains(&rank));
        let reduction =
            |((&owner, own), sum)| Reduction { owner, own: Some(own).filter(|_| takes), sum: Some(sum).filter(|_| owner == rank) };
        let mut reductions: Vec<_> = owners.iter().zip(&own).zip(&mut sums).map(reduction).collect();
        let round = Round { rank, from, begins: *begins };
        gpu.reduce_by(round, &mut reductions, *staging_bytes).and_then(|()| gpu.settle()).map_err(|error| error.to_string())?;
        drop(reductions);
        for (tensor, len) in LENS.into_iter().enumerate().filter(|(tensor, _)| owners[*tensor] == rank) {
            let got = read_exact(gpu, &sums[tensor], len);
            if !got.iter().map(|x| x.to_bits()).eq(self.wanted(tensor).iter().map(|x| x.to_bits())) {
                return Err(format!("rank {rank}, tensor {tensor} of {self:?}: not the sum in order of rank"));
            }
        }
        Ok(())
    }

    fn wanted(&self, tensor: usize) -> Vec<f32> {
        let of = |rank: usize| gradient(rank, tensor, LENS[tensor]);
        let mut addends = self.from.iter().map(|&rank| of(rank));
        let first = if self.begins { addends.next().unwrap_or_else(|| of(BEFORE)) } else { of(BEFORE) };
        addends.fold(first, |sum, addend| sum.iter().zip(addend).map(|(sum, x)| sum + x).collect())
    }
}

/// Whose numbers are in the sums before.
const BEFORE: usize = 99;

/// Numbers whose sum depends on its order, and among them a negative zero.
fn gradient(rank: usize, tensor: usize, len: usize) -> Vec<f32> {
    let scale = |x: &f32| x * 10f32.powi((tensor + rank) as i32 % 5);
    let mut values: Vec<f32> = numbers(len, (rank * 10 + tensor + 1) as u64).iter().map(scale).collect();
    values[0] = -0.0;
    values
}

/// Copies tensors between ranks as one of them.
///
/// # Errors
/// Where another rank's numbers do not come, and errors of the device.
pub fn broadcast<L: Launcher>(gpu: &Gpu<L>, rank: usize, ranks: usize) -> Result<(), String> {
    let owners: Vec<usize> = (0..4).map(|at| (at + 2) % ranks).collect();
    let number = |rank: usize, at: usize| (10 * rank + at) as f32;
    let mut tensors: Vec<_> = (0..4).map(|at| stored(gpu, &[number(rank, at); 9])).collect();
    gpu.broadcast(&owners, &mut tensors).map_err(|error| error.to_string())?;
    for (at, (tensor, &owner)) in tensors.iter().zip(&owners).enumerate() {
        let got = read_stored(gpu, tensor, 9);
        if got != [number(owner, at); 9] {
            return Err(format!("rank {rank}, tensor {at}: {got:?} instead of rank {owner}'s"));
        }
    }
    Ok(())
}

/// Steps of a small model, each of so many passes.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    pub kind: &'static str,
    pub passes: u32,
}

impl Course {
    /// Losses, balances and norms of three steps, and the weights after them.
    ///
    /// # Errors
    /// Those of the trainer.
    pub fn run<L: Launcher>(
        &self,
        gpu: &Gpu<L>,
        ranks: Box<dyn Communicator<Gpu<L>>>,
    ) -> Result<(Vec<[f64; 3]>, Vec<Vec<f32>>), TrainError> {
        let mut trainer = self.trainer(gpu, ranks)?;
        let steps = (0..3).map(|_| trainer.step(gpu, self).map(|step| [step.loss, step.balance, step.norm])).collect::<Result<_, _>>()?;
        let weights = trainer.model.weights.iter().zip(&trainer.model.parameters.list);
        let weights = weights.map(|(weight, parameter)| read_stored(gpu, weight, parameter.len())).collect();
        // Of nothing, and with all ranks: none ends while others still have something to come.
        trainer.measure(gpu, 0, |_| Batch::default())?;
        Ok((steps, weights))
    }

    /// Before the first step.
    ///
    /// # Errors
    /// Where there is not enough memory.
    pub fn trainer<O: Operations>(&self, device: &O, ranks: Box<dyn Communicator<O>>) -> Result<Trainer<O>, TrainError> {
        self.trainer_with(device, ranks, MomentKind::F32, Recompute::None)
    }

    /// The same with moments of a kind, and some things computed again.
    ///
    /// # Errors
    /// As [`trainer`](Self::trainer).
    pub fn trainer_with<O: Operations>(
        &self,
        device: &O,
        ranks: Box<dyn Communicator<O>>,
        moments: MomentKind,
        recompute: Recompute,
    ) -> Result<Trainer<O>, TrainError> {
        // More layers than there are sets of gradients, so that sets are used again.
        Trainer::new(device, Step::for_hopper(self.kind).with_layers(4).model(device), self.plan(moments, recompute), ranks)
    }

    /// What a trainer of it is told.
    pub fn plan(&self, moments: MomentKind, recompute: Recompute) -> Plan {
        let schedule = Schedule { highest: 1e-2, lowest: 0.0, decay: Decay::Cosine, warmup_steps: 1, warmup_start: 0.1, total_steps: 10 };
        let optimiser = Settings { clip: Some(0.5), moments, ..Settings::default() };
        Plan { schedule, optimiser, accumulation: self.passes, recompute, sums_in_any_order: false }
    }

    /// Bytes of it on each of so many ranks' GPUs.
    ///
    /// # Errors
    /// Never: the sizes are those of kernels.
    pub fn memory(&self, ranks: u32, moments: MomentKind, recompute: Recompute) -> Result<MemoryTable, ModelError> {
        let config = Step::for_hopper(self.kind).with_layers(4).model(&Gpu::new(Paper::default())).config;
        let optimiser = OptimiserSettings { moments, ..Default::default() };
        let machine = MachineSettings { ranks, ..MachineSettings::default() };
        let recipe = Recipe { precision: Precision::Bf16, device: "cuda".into(), optimiser, machine, ..Recipe::default() };
        MemoryTable::new(&config, Step::ROWS, self.passes, &recipe, recompute)
    }
}

/// Batches of several sizes; in every third step one asks for nothing, and the last is empty.
impl Source for Course {
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
        if step % 3 == 2 && pass + 1 == self.passes {
            return Ok(Batch::default());
        }
        let mut batch = Step::batch((step as usize + pass as usize) % 20);
        if step % 3 == 2 && pass == 1 {
            batch.targets.fill(IGNORED);
        }
        Ok(batch)
    }
}
