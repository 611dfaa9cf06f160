//! `osler train`: shows what a run would do, or does it with a live line per step.

use crate::arguments::{ProgressKind, TrainArguments};
use crate::commands::{read_recipe, stop_on};
use crate::ranks::Ranks;
use crate::{Failure, render};
use indicatif::{ProgressBar, ProgressStyle};
use osler_kernels::cuda::driver;
use osler_schemas::chain;
use osler_train::outline::Budget;
use osler_train::trainer::Step;
use osler_train::{Finished, Options, Outline, Recipe, TrainError, Watch};
use serde_json::json;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Trains, or says what would be trained, and gives the exit code.
///
/// # Errors
/// [`Failure`] with a message and the exit code.
pub fn run(arguments: &TrainArguments, only_plan: bool, print_recipe: bool, progress: ProgressKind) -> Result<u8, Failure> {
    let names: Vec<&str> = Recipe::names().collect();
    let (text, base) = read_recipe(&arguments.recipe, Recipe::shipped(&arguments.recipe), &names)?;
    let overrides = arguments.overrides()?;
    let recipe = Recipe::parse(&arguments.recipe, &text, &overrides).map_err(TrainError::from)?;
    if print_recipe {
        write!(stdout(), "{}", recipe.to_toml())?;
        return Ok(0);
    }
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("out").join(format!("{}-model", recipe.name)));
    let runs = recipe.runs(&arguments.recipe, &overrides).map_err(TrainError::from)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    stop_on(&cancelled)?;
    let places = CudaPlaces::from_environment();
    let all = std::path::absolute(&out)?;
    let count = ranks_of(runs.iter().map(|(_, recipe)| recipe))?;
    if let Some((_, recipe)) = runs.first().filter(|_| count > 1 && !only_plan) {
        // What is wrong is said once, before there are others to say it too.
        Outline::new(recipe, &base)?;
    }
    let ranks = if only_plan { None } else { Some(Ranks::gather(&arguments.ranks, count)?) };
    let mut weights = None;
    for (folder, recipe) in runs {
        let out = if folder.as_os_str().is_empty() { out.clone() } else { out.join(&folder) };
        let recipe = match weights.replace(std::path::absolute(out.join("model"))?) {
            Some(weights) => recipe.starting_from(weights),
            None => recipe,
        };
        if only_plan {
            // What a later stage begins with is there when the one before has ended.
            let waits = recipe.model.path.as_ref().is_some_and(|path| path.starts_with(&all) && !path.exists());
            if waits {
                writeln!(stdout(), "stage {}\nbegins with the weights of the stage before, which are not there yet", folder.display())?;
                continue;
            }
            let head = if folder.as_os_str().is_empty() { String::new() } else { format!("stage {}\n", folder.display()) };
            writeln!(stdout(), "{head}{}", dry_run(&recipe, &base)?.trim_end())?;
        }
        if let Some(ranks) = &ranks {
            let wait = || ranks.check();
            let (place, cuda) = (ranks.place(&wait), places.options(ranks.ordinal()));
            let options = Options { recipe: &recipe, base: &base, out: &out, cancelled: &cancelled, place, cuda };
            match ranks.rank() {
                0 => one(options, progress)?,
                _ => match osler_train::run(options, &mut Silent) {
                    Ok(_) => {}
                    // Rank 0 says it.
                    Err(error) if ranks.is_started() && error.is_shared() => return Ok(Failure::from(error).code),
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }
    Ok(0)
}

/// The number of processes that take all runs of a recipe.
fn ranks_of<'a>(mut runs: impl Iterator<Item = &'a Recipe>) -> Result<usize, Failure> {
    let count = runs.next().map_or(1, |recipe| recipe.machine.ranks);
    match runs.find(|recipe| recipe.machine.ranks != count) {
        Some(other) => {
            let problem = format!("recipe key `machine.ranks`: is {count} in one stage and {} in another", other.machine.ranks);
            Err(Failure::user(format!("{problem}: the same processes take all stages")))
        }
        None => Ok(count as usize),
    }
}

/// Where CUDA is looked for, and where what is compiled for a GPU is kept.
struct CudaPlaces {
    libraries: Vec<PathBuf>,
    cache: Option<PathBuf>,
}

impl CudaPlaces {
    /// The variables that NVIDIA's toolkit goes by, and the user's folder for what can be made again.
    fn from_environment() -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        Self {
            libraries: ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(folder).collect(),
            cache: cache.map(|cache| cache.join("osler/cuda")),
        }
    }

    /// Those of the GPU with this number.
    fn options(&self, ordinal: usize) -> driver::Options<'_> {
        driver::Options { ordinal, libraries: &self.libraries, cache: self.cache.as_deref(), ..driver::Options::default() }
    }
}

/// One run, to its end, as the rank that others watch.
fn one(options: Options<'_>, progress: ProgressKind) -> Result<(), Failure> {
    let finished = match progress {
        ProgressKind::None => osler_train::run(options, &mut Silent),
        ProgressKind::Auto if !stderr().is_terminal() => osler_train::run(options, &mut Lines),
        ProgressKind::Json => osler_train::run(options, &mut Lines),
        ProgressKind::Auto | ProgressKind::Bar => osler_train::run(options, &mut Live::default()),
    };
    // A run that stopped early has a report, too.
    let report = osler_report::build_training(options.out);
    let finished = finished?;
    report.map_err(|error| Failure::user(chain(&error)))?;
    closing(options.out, &finished)
}

/// What would be trained: of a recipe that leaves nothing to shards and weights, also before there are any.
fn dry_run(recipe: &Recipe, base: &Path) -> Result<String, Failure> {
    match (Outline::new(recipe, base), Budget::alone(recipe)) {
        (Ok(outline), _) => Ok(describe(&outline)),
        (Err(error), Some(budget)) => Ok(format!("{}\nnot there yet: {error}\n", describe_budget(&budget))),
        (Err(error), None) => Err(error.into()),
    }
}

/// What a run will do, for people.
fn describe(outline: &Outline) -> String {
    let from = match &outline.weights {
        Some(path) => format!("weights   from {}", path.display()),
        None => "weights   random".into(),
    };
    let text = format!(
        "text      {} chunks an epoch, {} chunks measured and not trained on; sources: {}",
        render::grouped(outline.num_chunks),
        outline.held_out.len(),
        outline.source_names.join(", ")
    );
    format!("{}{from}\n{text}\n", describe_budget(&outline.budget))
}

fn describe_budget(budget: &Budget) -> String {
    let Budget { config, solved, memory, machine, .. } = budget;
    let mut lines = vec![format!(
        "model     {:?}: {} weights, of which a token meets {}; {} layers of {}, vocabulary {}",
        config.kind,
        render::grouped(budget.num_weights),
        render::grouped(budget.num_active_weights),
        config.num_layers,
        config.hidden_size,
        render::grouped(config.vocab_size as u64)
    )];
    lines.push(format!(
        "steps     {} of {} sequences of {} tokens ({} passes of {}): {} tokens × {:.4} epochs = {} tokens",
        render::grouped(solved.steps),
        solved.sequences_per_step,
        solved.context_length,
        budget.passes,
        budget.sequences_per_pass,
        render::grouped(solved.tokens),
        solved.epochs,
        render::grouped(solved.total_tokens().round() as u64)
    ));
    lines.push(format!("compute   {:.3e} operations a token, {:.3e} in all", budget.operations_per_token(), budget.operations()));
    if let Some(seconds) = budget.seconds() {
        lines.push(format!(
            "time      {:.1} hours on {} devices of {:.3e} operations a second at {:.0} % of that",
            seconds / 3600.0,
            machine.devices,
            machine.peak_operations_per_second,
            100.0 * machine.utilisation
        ));
    }
    let parts = memory.parts().into_iter().filter(|(_, bytes)| *bytes > 0);
    for (name, bytes) in parts.chain([("in all", memory.total())]) {
        lines.push(format!("memory    {name:<12} {:>20} bytes", render::grouped(bytes)));
    }
    if machine.ranks > 1 {
        lines.push(format!("ranks     {}: above is what the fullest takes; each has all weights, and a part of the rest", machine.ranks));
    } else if machine.devices > 1 {
        lines.push(format!(
            "memory    {:<12} {:>20} bytes, all but activations shared out",
            "a device",
            render::grouped(budget.device_bytes())
        ));
    }
    for (recompute, bytes) in &budget.policies {
        let chosen = if *recompute == budget.recompute { "  <- this run" } else { "" };
        lines.push(format!("recompute {:<12} {:>20} bytes of activations{chosen}", recompute.name(), render::grouped(*bytes)));
    }
    lines.join("\n") + "\n"
}

fn closing(out: &Path, finished: &Finished) -> Result<(), Failure> {
    let mut to = stdout().lock();
    let losses = [("first", finished.first_loss), ("last", finished.last_loss), ("held-out", finished.held_out_loss)];
    let losses: Vec<String> = losses.iter().filter_map(|(name, loss)| Some(format!("{name} {:.3}", (*loss)?))).collect();
    let losses = if losses.is_empty() { "all done before".into() } else { format!("mean loss: {}", losses.join(", ")) };
    writeln!(to, "\n  {} steps; {losses}", render::grouped(finished.steps))?;
    writeln!(to, "  model        {}   (loads in transformers)", finished.model.display())?;
    writeln!(to, "  checkpoints  {}/checkpoints/step-*", out.display())?;
    writeln!(to, "  report       {}/train-report.html", out.display())?;
    writeln!(to, "  metrics      {}/metrics.jsonl, and {}/tensorboard for TensorBoard", out.display(), out.display())?;
    Ok(())
}

/// Says nothing but warnings.
struct Silent;

impl Watch for Silent {
    fn begin(&mut self, _: &Outline, _: u64) {}
    fn step(&mut self, _: &Step, _: f64, _: f64) {}
    fn measured(&mut self, _: u64, _: f64) {}
    fn warn(&mut self, message: &str) {
        let _ = writeln!(stderr(), "warning: {message}");
    }
}

/// One JSON object a line.
struct Lines;

impl Lines {
    fn line(value: &serde_json::Value) {
        let _ = writeln!(stderr(), "{value}");
    }
}

impl Watch for Lines {
    fn begin(&mut self, outline: &Outline, done: u64) {
        Self::line(&json!({ "event": "begin", "steps": outline.budget.solved.steps, "done": done, "weights": outline.budget.num_weights,
            "memory_bytes": outline.budget.memory.total() }));
    }

    fn step(&mut self, step: &Step, seconds: f64, operations_per_second: f64) {
        Self::line(&json!({ "event": "step", "step": step.step, "loss": step.loss, "learning_rate": step.learning_rate,
            "gradient_norm": step.norm, "tokens_per_second": (step.num_tokens as f64 / seconds).round(),
            "operations_per_second": operations_per_second.round() }));
    }

    fn measured(&mut self, step: u64, loss: f64) {
        Self::line(&json!({ "event": "held-out", "step": step, "loss": loss }));
    }

    fn warn(&mut self, message: &str) {
        Self::line(&json!({ "event": "warning", "message": message }));
    }
}

/// A line that is rewritten at each step; measurements stay above it.
#[derive(Default)]
struct Live {
    bar: Option<ProgressBar>,
}

impl Live {
    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(stderr(), "{text}")),
        }
    }
}

impl Watch for Live {
    fn begin(&mut self, plan: &Outline, done: u64) {
        let _ = write!(stderr(), "{}", describe(plan));
        let bar = ProgressBar::new(plan.budget.solved.steps).with_position(done);
        let style = ProgressStyle::with_template("  step {pos} of {len} {bar:24.cyan/dim} {msg}  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(250));
        self.bar = Some(bar);
    }

    fn step(&mut self, step: &Step, seconds: f64, operations_per_second: f64) {
        let Some(bar) = &self.bar else { return };
        bar.set_message(format!(
            "loss {:.3}  rate {:.2e}  norm {:.2}  {:.0} tokens/s  {:.1} GFLOP/s",
            step.loss,
            step.learning_rate,
            step.norm,
            step.num_tokens as f64 / seconds,
            operations_per_second * 1e-9
        ));
        bar.set_position(step.step);
    }

    fn measured(&mut self, step: u64, loss: f64) {
        self.say(&format!("  step {step:<8} held-out loss {loss:.3}"));
    }

    fn warn(&mut self, message: &str) {
        self.say(&format!("warning: {message}"));
    }
}
