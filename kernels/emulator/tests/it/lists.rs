//! Lists of commands that a device takes as one: what is replayed, and that it changes nothing.

use osler_emulator::{Allocation, Emulator};
use osler_kernel_cases::model::Step;
use osler_kernel_cases::{exact, read_exact};
use osler_kernels::cuda::{Command, Gpu, Launcher, MatrixBox, TensorMap};
use osler_kernels::operations::Done;
use osler_kernels::{KernelError, Memory, Operations};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a device was asked for.
#[derive(Debug, Default)]
struct Counts {
    runs: AtomicUsize,
    records: AtomicUsize,
    replays: AtomicUsize,
}

impl Counts {
    /// Since the last call.
    fn take(&self) -> [usize; 3] {
        [&self.runs, &self.records, &self.replays].map(|count| count.swap(0, Ordering::Relaxed))
    }
}

/// The emulator, watched; one that records or does not.
#[derive(Debug)]
struct Watched {
    device: Emulator,
    records: bool,
    counts: Arc<Counts>,
}

impl Launcher for Watched {
    type Memory = Allocation;
    type Recording = Vec<Command>;

    fn allocate(&self, bytes: usize) -> Result<Allocation, KernelError> {
        self.device.allocate(bytes)
    }

    fn address(&self, memory: &Allocation) -> u64 {
        self.device.address(memory)
    }

    fn write(&self, memory: &mut Allocation, at: usize, bytes: &[u8]) -> Done {
        self.device.write(memory, at, bytes)
    }

    fn read(&self, memory: &Allocation, at: usize, bytes: &mut [u8]) -> Done {
        self.device.read(memory, at, bytes)
    }

    fn run(&self, command: &Command) -> Done {
        self.counts.runs.fetch_add(1, Ordering::Relaxed);
        self.device.run(command)
    }

    fn record(&self, commands: &[Command]) -> Result<Vec<Command>, KernelError> {
        self.counts.records.fetch_add(1, Ordering::Relaxed);
        if self.records { self.device.record(commands) } else { Err(KernelError::Launch("not today".into())) }
    }

    fn replay(&self, recording: &Vec<Command>) -> Done {
        self.counts.replays.fetch_add(1, Ordering::Relaxed);
        self.device.replay(recording)
    }

    fn has_wgmma(&self) -> bool {
        self.device.has_wgmma()
    }

    fn multiprocessors(&self) -> usize {
        self.device.multiprocessors()
    }

    fn tensor_map(&self, matrix: &MatrixBox) -> Result<TensorMap, KernelError> {
        self.device.tensor_map(matrix)
    }
}

fn watched(records: bool, wgmma: bool) -> (Gpu<Watched>, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    (Gpu::new(Watched { device: Emulator { wgmma, ..Emulator::default() }, records, counts: counts.clone() }), counts)
}

/// The host decides nothing in a pass, not even with experts: from the fourth on a pass is one replay, whatever its tokens are.
#[test]
fn passes_are_replayed_to_the_same_bits() {
    for kind in ["mistral", "mixtral", "qwen3"] {
        let step = Step::for_hopper(kind);
        let passes = |records: bool| {
            let (gpu, counts) = watched(records, true);
            let mut asked = Vec::new();
            let results = step.several(&gpu, 4, || asked.push(counts.take()));
            // Of each step, the pass alone.
            (results, asked.chunks(3).map(|step| step[1]).collect::<Vec<_>>())
        };
        let ((wanted, plain), (got, asked)) = (passes(false), passes(true));
        assert!(got == wanted, "{kind}: a replay gives other bits");
        let commands = asked[0][0];
        assert!(commands > 50, "{commands} commands of a pass");
        // In the first, scratch memory moves as it grows.
        assert_eq!(asked, [[commands, 0, 0], [commands, 0, 0], [0, 1, 1], [0, 0, 1]], "{kind}");
        assert_eq!(plain, [[commands, 0, 0], [commands, 0, 0], [commands, 1, 0], [commands, 0, 0]], "{kind}");
    }
}

#[test]
fn reading_divides_a_list_and_short_ones_run_as_they_are() {
    let (gpu, counts) = watched(true, false);
    let (one, mut sum) = (exact(&gpu, &[1.0; 3]), exact(&gpu, &[0.0; 3]));
    for round in 0..3 {
        let seen = gpu.as_one(|| {
            (0..10).try_for_each(|_| gpu.add_exact(&one, &mut sum))?;
            assert_eq!(counts.take(), [0; 3], "nothing has begun");
            let seen = read_exact(&gpu, &sum, 3);
            gpu.add_exact(&one, &mut sum)?;
            // One within another is part of it.
            gpu.as_one(|| gpu.add_exact(&one, &mut sum))?;
            Ok::<_, KernelError>(seen)
        });
        assert_eq!(seen.unwrap(), [12.0 * round as f32 + 10.0; 3]);
        // The two after the reading are not worth a recording.
        assert_eq!(counts.take(), [[12, 0, 0], [2, 1, 1], [2, 0, 1]][round]);
    }
    assert_eq!(read_exact(&gpu, &sum, 3), [36.0; 3]);
}

#[test]
fn memory_outlives_what_was_listed() {
    let (gpu, _) = watched(true, false);
    let mut sum = gpu.new_exact(1000).unwrap();
    let done = gpu.as_one(|| {
        let addend = exact(&gpu, &[1.0; 1000]);
        gpu.add_exact(&addend, &mut sum)?;
        drop(addend);
        // Where it lay, unless it is still held.
        let other = gpu.new_exact(1000)?;
        drop(other);
        Ok::<_, KernelError>(())
    });
    done.unwrap();
    assert_eq!(read_exact(&gpu, &sum, 1000), [1.0; 1000]);
}

#[test]
fn a_list_whose_work_fails_is_not_begun() {
    let (gpu, counts) = watched(true, false);
    let (one, mut sum) = (exact(&gpu, &[1.0; 3]), exact(&gpu, &[0.0; 3]));
    let failed = gpu.as_one(|| {
        gpu.add_exact(&one, &mut sum)?;
        Err::<(), _>(KernelError::Launch("on purpose".into()))
    });
    assert_eq!(failed.unwrap_err(), KernelError::Launch("on purpose".into()));
    gpu.add_exact(&one, &mut sum).unwrap();
    assert_eq!((read_exact(&gpu, &sum, 3), counts.take()), (vec![1.0; 3], [1, 0, 0]));
}
