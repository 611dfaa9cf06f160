//! NCCL on this machine: one rank that sends to itself and, where there are several GPUs, ranks that add, copy and train together.

use osler_kernel_cases::ranks::{Course, Sums, broadcast, each, part};
use osler_kernels::KernelError;
use osler_kernels::cuda::driver::{Driver, Options, find};
use osler_kernels::cuda::nccl::Nccl;
use osler_kernels::cuda::{Aside, Gpu, Launcher, Transfer};
use osler_train::ranks::{Alone, Devices};

/// What a user calls it by.
pub const NAME: &str = "ranks";

/// Whether all is well; also where there is no NCCL, which is said. `gpu` is the one of `options`.
pub fn run(gpu: &Gpu<Driver>, options: &Options<'_>) -> bool {
    let nccl = match Nccl::open(options.libraries) {
        Ok(nccl) => nccl,
        Err(error) => {
            println!("SKIPPED {NAME}: {error}");
            return true;
        }
    };
    let tell = |what: &str, outcome: Result<(), String>| {
        match &outcome {
            Ok(()) => println!("ok     {NAME}: {what}"),
            Err(problem) => println!("FAILED {NAME}: {what}: {problem}"),
        }
        outcome.is_ok()
    };
    let alone = tell("one that sends to itself", arrives(gpu.launcher(), nccl));
    // Not all that a machine has: more ranks than eight show no more.
    let count = (1..=8).take_while(|&count| find(count - 1).is_ok()).last().unwrap_or(1);
    if count < 2 {
        println!("SKIPPED {NAME}: several ranks, for which there is one GPU");
        return alone;
    }
    let outcomes = together(gpu, options, count);
    tell(&format!("{count} that add, copy and train as one"), outcomes.into_iter().collect()) && alone
}

/// The cases of so many ranks, each with a GPU; the steps' bits are held against those of `gpu` alone, which chooses nothing after that.
fn together(gpu: &Gpu<Driver>, options: &Options<'_>, count: usize) -> Vec<Result<(), String>> {
    let courses = ["mistral", "mixtral", "qwen2"].map(|kind| Course { kind, passes: 2 * count as u32 });
    // As the ranks compute products: nothing is timed any more.
    gpu.launcher().follow(&gpu.launcher().choices());
    let wanted = courses.map(|course| course.run(gpu, Box::new(Alone)).map_err(|error| error.to_string()));
    // A device is joined with others once, and a communicator belongs to one trainer.
    let with = |work: &(dyn Fn(usize, Gpu<Driver>, Devices) -> Result<(), String> + Sync)| -> Result<(), String> {
        let one = |rank: usize, mesh| {
            let gpu = Gpu::new(Driver::open(&Options { ordinal: rank, ..*options }).map_err(|error| error.to_string())?);
            let devices = Devices::join(mesh, &gpu, options.libraries, &|| Ok(())).map_err(|error| error.to_string())?;
            work(rank, gpu, devices)
        };
        each(count, one).into_iter().collect()
    };
    let mut outcomes = vec![with(&|rank, gpu, mut devices| {
        Sums::all(count).iter().try_for_each(|sums| sums.run(&gpu, rank))?;
        broadcast(&gpu, rank, count)?;
        part::<Driver>(&mut devices);
        Ok(())
    })];
    for (course, wanted) in courses.iter().zip(wanted) {
        outcomes.push(wanted.and_then(|wanted| {
            with(&|rank, gpu, devices| match course.run(&gpu, Box::new(devices)) {
                Ok(got) if got == wanted => Ok(()),
                Ok((steps, _)) => Err(format!("{course:?}: rank {rank} of {count} has other bits: {steps:?}, alone {:?}", wanted.0)),
                Err(error) => Err(error.to_string()),
            })
        }));
    }
    outcomes
}

/// A megabyte and a byte, sent in two pieces that arrive in order.
fn arrives(driver: &Driver, nccl: Nccl) -> Result<(), String> {
    match sent_to_itself(driver, nccl) {
        Ok(true) => Ok(()),
        Ok(false) => Err("other bytes arrive than were sent".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether what arrives is what was sent.
fn sent_to_itself(driver: &Driver, nccl: Nccl) -> Result<bool, KernelError> {
    const BYTES: usize = (1 << 20) + 1;
    let id = nccl.new_id()?;
    driver.join(nccl, id, (0, 1), || Ok::<_, KernelError>(()))?;
    let sent: Vec<u8> = (0..BYTES).map(|at| (at % 251) as u8).collect();
    let (from, to) = (driver.allocate(BYTES)?, driver.allocate(BYTES)?);
    let [from_address, to_address] = [&from, &to].map(|memory| driver.address(memory));
    driver.write(from_address, &sent)?;
    let pieces = [(0, 1), (1, BYTES - 1)];
    let both = pieces.map(|(at, bytes)| {
        [Transfer::Send { to: 0, address: from_address + at, bytes }, Transfer::Receive { from: 0, address: to_address + at, bytes }]
    });
    let broadcast = Transfer::Broadcast { root: 0, address: to_address, bytes: BYTES };
    driver.wait(driver.aside(&[Aside::Exchange(both.as_flattened().to_vec()), Aside::Exchange(vec![broadcast])])?)?;
    let mut got = vec![0; BYTES];
    driver.read(to_address, &mut got)?;
    Ok(got == sent)
}
