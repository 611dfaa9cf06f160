//! What a machine with a GPU needs to try the kernels, in one file: `osler-gpu test` holds them to their CPU twins, `osler-gpu bench` times
//! them. Needs the driver, NVRTC and cuBLASLt, which come with PyTorch too; `tests/gpu/run` finds them.

mod bench;
mod ranks;
mod test;

use clap::{Parser, Subcommand};
use osler_kernels::KernelError;
use osler_kernels::cuda::Gpu;
use osler_kernels::cuda::driver::{Driver, Options};
use std::path::PathBuf;
use std::process::ExitCode;

/// Tries the CUDA kernels on this machine's GPU.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Number of the device, as the driver counts
    #[arg(long, global = true, default_value_t = 0)]
    device: usize,
    /// Folder that CUDA's libraries are looked for in, before the system's own; may be repeated
    #[arg(long, global = true, value_name = "FOLDER")]
    libraries: Vec<PathBuf>,
    /// Folder of compiled kernels
    #[arg(long, global = true, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints how many cases there are; needs no GPU
    Cases,
    /// Runs every case on the GPU, twice, and on the CPU; exits with 1 where a result is off or differs between the two runs
    Test {
        /// Only cases whose name contains this; `ranks` is what several GPUs do together
        #[arg(long, default_value = "")]
        only: String,
        /// Leaves out cases of sizes that models have, which take the CPU minutes, and what several GPUs do together
        #[arg(long)]
        small: bool,
    },
    /// Times kernels, layers and training steps
    Bench {
        /// Only groups that have this in their name: elementwise, attention, product, head loss, experts, step, large step
        #[arg(long, default_value = "")]
        only: String,
        /// A JSON object a line instead of a table
        #[arg(long)]
        json: bool,
        /// What the device can do in bf16, in operations a second, that shares are of
        #[arg(long, default_value_t = 989.4e12)]
        peak: f64,
    },
}

/// What is said of a Hopper that does without its own kernels.
const FOR_OLDER: &str = ", without kernels for Hopper";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, KernelError> {
    let Arguments { command, device, libraries, cache } = arguments;
    if let Command::Cases = command {
        print!("{}", cases());
        return Ok(true);
    }
    let options = Options { ordinal: *device, libraries, cache: cache.as_deref(), without_wgmma: false };
    let driver = Driver::open(&options)?;
    if let Some(reason) = driver.not_kept() {
        eprintln!("warning: compiled kernels are not kept: {reason}");
    }
    eprintln!("{}, {:?}, {:.1} GB", driver.found().name, driver.found().architecture, driver.found().memory_bytes as f64 / 1e9);
    let gpu = Gpu::new(driver);
    // A Hopper runs the kernels for older devices, too.
    let older = || Driver::open(&Options { without_wgmma: true, ..options }).map(Gpu::new);
    let wgmma = gpu.has_wgmma();
    match command {
        Command::Cases => Ok(true),
        Command::Test { only, small } => {
            let ranks_alone = only == ranks::NAME;
            let mut devices = vec![("", gpu)];
            if wgmma && !ranks_alone {
                devices.push((FOR_OLDER, older()?));
            }
            let held = ranks_alone || test::run(&devices, only, *small);
            // Small cases are for compute-sanitizer, under which NCCL's kernels, which wait for others, take for ever.
            let reached = !(ranks_alone || only.is_empty() && !small) || ranks::run(&devices[0].1, &options);
            Ok(held && reached)
        }
        Command::Bench { only, json, peak } => {
            let (mut table, sizes) = (bench::Table::new(*json, *peak), bench::Sizes::OF_MODELS);
            bench::run(&gpu, &sizes, only, &mut |row| table.print(&row))?;
            drop(gpu);
            for group in bench::WITH_BOTH.into_iter().filter(|group| wgmma && group.contains(only.as_str())) {
                bench::run(&older()?, &sizes, group, &mut |mut row| {
                    row.case.push_str(FOR_OLDER);
                    table.print(&row);
                })?;
            }
            Ok(true)
        }
    }
}

/// How many cases there are.
fn cases() -> String {
    let mut table = String::from("| cases | small | of sizes that models have |\n|---|---|---|\n");
    for (list, [small, large]) in osler_kernel_cases::counts() {
        table.push_str(&format!("| {list} | {small} | {large} |\n"));
    }
    table
}
