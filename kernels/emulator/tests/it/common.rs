//! What the tests share: the emulator and the CPU twin side by side, and an emulator that is watched.

use osler_emulator::{Allocation, Emulator, Order};
use osler_kernel_cases::{Visitor, Work};
use osler_kernels::cuda::{Aside, Command, Gpu, Launcher, MatrixBox, TensorMap};
use osler_kernels::operations::Done;
use osler_kernels::{Cpu, KernelError};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Runs cases on the CPU in bf16 mode and on an emulated GPU, there in both orders of blocks and threads, which must give the same bits.
pub struct Emulated {
    pub wgmma: bool,
}

impl Visitor for Emulated {
    fn visit(&mut self, work: &impl Work) {
        let wanted = work.run_twin(&Cpu::<f32>::bf16(1).unwrap());
        let bits = |order| {
            let got = work.run(&Gpu::new(Emulator { order, wgmma: self.wgmma, ..Emulator::default() }));
            (got.iter().map(|got| got.iter().map(|x| x.to_bits()).collect::<Vec<_>>()).collect::<Vec<_>>(), got)
        };
        let (forward, got) = bits(Order::Forward);
        assert!(forward == bits(Order::Backward).0, "{}: another order of threads gives other bits", work.name());
        if let Err(problem) = work.judge(&got, &wanted) {
            panic!("{}, wgmma {}: {problem}", work.name(), self.wgmma);
        }
    }
}

/// What a device was asked for.
#[derive(Debug, Default)]
pub struct Asked {
    runs: AtomicUsize,
    records: AtomicUsize,
    replays: AtomicUsize,
    reads: AtomicUsize,
    tellings: AtomicUsize,
    allocations: AtomicUsize,
    kernels: Mutex<Vec<&'static str>>,
}

impl Asked {
    /// Commands that were run one by one, lists that were recorded and lists that were replayed since the last call.
    pub fn take_counts(&self) -> [usize; 3] {
        [&self.runs, &self.records, &self.replays].map(|count| count.swap(0, Ordering::Relaxed))
    }

    /// How often the host read since the last call, which it waits for to the end of all, and how often it was told something on the way.
    pub fn take_reads(&self) -> [usize; 2] {
        [&self.reads, &self.tellings].map(|count| count.swap(0, Ordering::Relaxed))
    }

    /// How often the device was asked for memory since the last call.
    pub fn take_allocations(&self) -> usize {
        self.allocations.swap(0, Ordering::Relaxed)
    }

    /// Kernels that were run one by one since the last call, in order, and `told` where the host waited to be told something.
    pub fn take_kernels(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.kernels.lock().unwrap())
    }
}

/// The emulator, watched; one that records or does not.
#[derive(Debug)]
pub struct Watched {
    device: Emulator,
    records: bool,
    asked: Arc<Asked>,
}

impl Launcher for Watched {
    type Memory = Allocation;
    type Recording = Vec<Command>;
    type Mark = u64;

    fn allocate(&self, bytes: usize) -> Result<Allocation, KernelError> {
        self.asked.allocations.fetch_add(1, Ordering::Relaxed);
        self.device.allocate(bytes)
    }

    fn allocate_unwritten(&self, bytes: usize) -> Result<Allocation, KernelError> {
        self.asked.allocations.fetch_add(1, Ordering::Relaxed);
        self.device.allocate_unwritten(bytes)
    }

    fn allocate_on_host(&self, bytes: usize) -> Result<Allocation, KernelError> {
        self.asked.allocations.fetch_add(1, Ordering::Relaxed);
        self.device.allocate_on_host(bytes)
    }

    fn address(&self, memory: &Allocation) -> u64 {
        self.device.address(memory)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Done {
        self.device.write(address, bytes)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Done {
        self.asked.reads.fetch_add(1, Ordering::Relaxed);
        self.device.read(address, bytes)
    }

    fn told(&self, mark: u64, bytes: &mut [u8]) -> Done {
        self.asked.tellings.fetch_add(1, Ordering::Relaxed);
        self.asked.kernels.lock().unwrap().push("told");
        self.device.told(mark, bytes)
    }

    fn run(&self, command: &Command) -> Done {
        self.asked.runs.fetch_add(1, Ordering::Relaxed);
        if let Command::Launch(launch, _) = command {
            self.asked.kernels.lock().unwrap().push(launch.kernel);
        }
        self.device.run(command)
    }

    fn record(&self, commands: &[Command]) -> Result<Vec<Command>, KernelError> {
        self.asked.records.fetch_add(1, Ordering::Relaxed);
        if self.records { self.device.record(commands) } else { Err(KernelError::Launch("not today".into())) }
    }

    fn replay(&self, recording: &Vec<Command>) -> Done {
        self.asked.replays.fetch_add(1, Ordering::Relaxed);
        self.device.replay(recording)
    }

    fn aside(&self, work: &[Aside]) -> Result<u64, KernelError> {
        self.device.aside(work)
    }

    fn wait(&self, mark: u64) -> Done {
        self.device.wait(mark)
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

/// A GPU, and what it is asked for.
pub fn watched(records: bool, wgmma: bool) -> (Gpu<Watched>, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    (Gpu::new(Watched { device: Emulator { wgmma, ..Emulator::default() }, records, asked: asked.clone() }), asked)
}
