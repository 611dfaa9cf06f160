//! Every case on a GPU, against the CPU twin.

use osler_kernel_cases::{Visitor, Work, visit_all, visit_large};
use osler_kernels::Cpu;
use osler_kernels::cuda::{Gpu, Launcher};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Whether all cases held on each of these devices, and there was something to try.
pub fn run<L: Launcher>(devices: &[(&'static str, Gpu<L>)], only: &str, small: bool) -> bool {
    let twin = match Cpu::<f32>::bf16(0) {
        Ok(twin) => twin,
        Err(error) => {
            eprintln!("error: {error}");
            return false;
        }
    };
    let mut held = Held { devices, twin, only, num_cases: 0, failed: Vec::new() };
    visit_all(&mut held);
    if !small {
        visit_large(&mut held);
    }
    let Held { num_cases, failed, .. } = held;
    if !failed.is_empty() {
        println!("\nwhat failed:\n{}", failed.join("\n"));
    }
    println!("{num_cases} cases, {} failed", failed.len());
    num_cases > 0 && failed.is_empty()
}

struct Held<'a, L: Launcher> {
    /// What is said of each, and the device.
    devices: &'a [(&'static str, Gpu<L>)],
    twin: Cpu<f32>,
    only: &'a str,
    num_cases: usize,
    failed: Vec<String>,
}

impl<L: Launcher> Visitor for Held<'_, L> {
    fn visit(&mut self, work: &impl Work) {
        if !work.name().contains(self.only) {
            return;
        }
        let begun = Instant::now();
        let wanted = catch_unwind(AssertUnwindSafe(|| work.run_twin(&self.twin)));
        let twin_ms = begun.elapsed().as_secs_f64() * 1e3;
        for (kernels, gpu) in self.devices {
            self.num_cases += 1;
            let name = format!("{}{kernels}", work.name());
            // Before it runs, so that one that never ends has a name.
            print!("{name} ... ");
            let _ = std::io::stdout().flush();
            let begun = Instant::now();
            let tried = match &wanted {
                Ok(wanted) => {
                    catch_unwind(AssertUnwindSafe(|| hold(work, gpu, wanted))).unwrap_or_else(|panic| Err(message(panic.as_ref())))
                }
                Err(panic) => Err(format!("the CPU: {}", message(panic.as_ref()))),
            };
            match tried {
                Ok(()) => println!("ok ({:.0} ms, the twin {twin_ms:.0})", begun.elapsed().as_secs_f64() * 1e3),
                Err(problem) => {
                    println!("FAILED: {problem}");
                    self.failed.push(format!("{name}: {problem}"));
                }
            }
        }
    }
}

/// Does the work twice: the same bits, near enough to those that are wanted.
fn hold<L: Launcher>(work: &impl Work, gpu: &Gpu<L>, wanted: &[Vec<f32>]) -> Result<(), String> {
    let (first, second) = (work.run(gpu), work.run(gpu));
    if !first.iter().flatten().map(|x| x.to_bits()).eq(second.iter().flatten().map(|x| x.to_bits())) {
        return Err("two runs differ".into());
    }
    work.judge(&first, wanted)
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use osler_emulator::Emulator;

    #[test]
    fn a_case_that_fails_is_told() {
        let device = |wgmma| Gpu::new(Emulator { wgmma, ..Emulator::default() });
        let both = [("", device(true)), (", older kernels", device(false))];
        assert!(run(&both, "swiglu", true));
        assert!(!run(&both, "no case has this name", true));
        let mut held = Held { devices: &both, twin: Cpu::bf16(1).unwrap(), only: "", num_cases: 0, failed: Vec::new() };
        held.visit(&Off);
        assert_eq!(held.failed, ["a case that is off: it is", "a case that is off, older kernels: it is"]);
    }

    struct Off;

    impl Work for Off {
        fn name(&self) -> String {
            "a case that is off".into()
        }

        fn run<O: osler_kernels::Operations>(&self, _: &O) -> Vec<Vec<f32>> {
            Vec::new()
        }

        fn judge(&self, _: &[Vec<f32>], _: &[Vec<f32>]) -> Result<(), String> {
            Err("it is".into())
        }
    }
}
