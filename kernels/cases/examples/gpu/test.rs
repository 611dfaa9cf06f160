//! Every case on a GPU, against the CPU twin.

use osler_kernel_cases::{Visitor, Work, visit_all, visit_large};
use osler_kernels::Cpu;
use osler_kernels::cuda::{Gpu, Launcher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Whether all is well, and there was something to try.
pub fn run<L: Launcher>(gpu: Gpu<L>, only: &str, small: bool) -> bool {
    run_some(gpu, only, small).is_some_and(|num_failed| num_failed == 0)
}

/// How many cases failed; none where there was none to try.
pub fn run_some<L: Launcher>(gpu: Gpu<L>, only: &str, small: bool) -> Option<usize> {
    let twin = match Cpu::<f32>::bf16(0) {
        Ok(twin) => twin,
        Err(error) => {
            eprintln!("error: {error}");
            return Some(1);
        }
    };
    let wgmma = gpu.has_wgmma();
    let mut held = Held { gpu, twin, only, num_cases: 0, failed: Vec::new() };
    visit_all(&mut held, wgmma);
    if !small {
        visit_large(&mut held);
    }
    let Held { num_cases, failed, .. } = held;
    failed.iter().for_each(|failure| println!("FAILED {failure}"));
    println!("{num_cases} cases, {} failed", failed.len());
    (num_cases > 0).then_some(failed.len())
}

struct Held<'a, L: Launcher> {
    gpu: Gpu<L>,
    twin: Cpu<f32>,
    only: &'a str,
    num_cases: usize,
    failed: Vec<String>,
}

impl<L: Launcher> Visitor for Held<'_, L> {
    fn visit(&mut self, work: &impl Work) {
        let name = work.name();
        if !name.contains(self.only) {
            return;
        }
        self.num_cases += 1;
        let begun = Instant::now();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let (first, second) = (work.run(&self.gpu), work.run(&self.gpu));
            let on_gpu = begun.elapsed();
            let same = first.iter().flatten().map(|x| x.to_bits()).eq(second.iter().flatten().map(|x| x.to_bits()));
            if !same {
                return Err("two runs differ".to_string());
            }
            work.judge(&first, &work.run_twin(&self.twin)).map(|()| on_gpu)
        }));
        match tried {
            Ok(Ok(on_gpu)) => {
                println!("ok     {name} ({:.0} ms, {:.0} with the twin)", on_gpu.as_secs_f64() * 1e3, begun.elapsed().as_secs_f64() * 1e3)
            }
            Ok(Err(problem)) => self.failed.push(format!("{name}: {problem}")),
            Err(panic) => self.failed.push(format!("{name}: {}", message(panic.as_ref()))),
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

#[cfg(test)]
mod tests {
    use super::*;
    use osler_emulator::Emulator;

    #[test]
    fn a_case_that_fails_is_told() {
        let gpu = || Gpu::new(Emulator::default());
        assert!(run(gpu(), "swiglu", true));
        assert!(!run(gpu(), "no case has this name", true));
        let mut held = Held { gpu: gpu(), twin: Cpu::bf16(1).unwrap(), only: "", num_cases: 0, failed: Vec::new() };
        held.visit(&Off);
        assert_eq!(held.failed, ["a case that is off: it is"]);
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
