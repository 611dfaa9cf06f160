//! A training run in a folder of its own: steps, measurements and checkpoints, to the end or from where it stopped.
//!
//! ```text
//! OUT/train.json            the recipe as resolved, its fingerprint, the model's size, memory and steps
//! OUT/metrics.jsonl         a line per step and per measurement of held-out text
//! OUT/tensorboard/          the same for TensorBoard
//! OUT/checkpoints/step-N/   a model for `transformers` with all that the run needs to go on
//! OUT/model/                the model at the end
//! OUT/train-report.html     curves (made by the report crate)
//! ```

use crate::data::Data;
use crate::metrics::Metrics;
use crate::model::{self, Model, ModelError};
use crate::outline::{Budget, Outline};
use crate::ranks::{Alone, Communicator, Devices, Door, Meeting, Mesh, RankError};
use crate::recipe::{Precision, Recipe, key};
use crate::trainer::{Plan, Step, TrainError, Trainer, copy_into};
use osler_kernels::cuda::{Gpu, driver};
use osler_kernels::{Cpu, Device, KernelError, Operations};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a run is given.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    pub recipe: &'a Recipe,
    /// The folder that the recipe's paths start from.
    pub base: &'a Path,
    /// The run's folder.
    pub out: &'a Path,
    /// Set to stop after the step at hand, with a checkpoint; of several ranks, any one's stops all.
    pub cancelled: &'a AtomicBool,
    /// Which of the recipe's ranks this process is; none where it is the only one.
    pub place: Option<Place<'a>>,
    /// With what a GPU is opened, where the recipe asks for one.
    pub cuda: driver::Options<'a>,
}

/// Which of several ranks a process is. All have the same recipe, corpus and run's folder, in which rank 0 writes.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub rank: usize,
    pub door: Door<'a>,
    /// Ranks on this machine, among which its cores are divided.
    pub neighbours: usize,
    /// Asked while this rank waits for the others; an error ends the wait.
    pub wait: &'a dyn Fn() -> Result<(), String>,
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("rank", &self.rank).field("door", &self.door).finish_non_exhaustive()
    }
}

/// Who watches a run.
pub trait Watch {
    /// Before the first step; `done` steps were taken before.
    fn begin(&mut self, outline: &Outline, done: u64);
    /// After each step, with its seconds and the operations per second of it.
    fn step(&mut self, step: &Step, seconds: f64, operations_per_second: f64);
    /// After each measurement of held-out text.
    fn measured(&mut self, step: u64, loss: f64);
    /// Something a user should look at.
    fn warn(&mut self, message: &str);
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pub steps: u64,
    /// Mean loss of the first and the last steps of this run's window of alarms.
    pub first_loss: Option<f64>,
    pub last_loss: Option<f64>,
    pub held_out_loss: Option<f64>,
    pub model: PathBuf,
}

/// Trains to the end, from the latest checkpoint in the folder if there is one. Every rank calls it; `watch` is that of rank 0.
///
/// # Errors
/// [`TrainError`]; after [`TrainError::Stopped`] the same call goes on.
pub fn run(options: Options<'_>, watch: &mut dyn Watch) -> Result<Finished, TrainError> {
    let threads = threads(&options);
    let device = options.recipe.device.parse().map_err(|error: KernelError| key("device", error.to_string()))?;
    match (device, options.recipe.precision) {
        (Device::Cpu, Precision::F32) => Run::new(options, Cpu::<f32>::new(threads)?, over_the_host)?.train(watch),
        (Device::Cpu, Precision::Bf16) => Run::new(options, Cpu::<f32>::bf16(threads)?, over_the_host)?.train(watch),
        (Device::Cuda, precision) => {
            let gpu = gpu(&options, precision, watch)?;
            let join = |gpu: &_, mesh| -> Result<Box<dyn Communicator<_>>, TrainError> {
                Ok(Box::new(Devices::join(mesh, gpu, options.cuda.libraries, &|| patience(&options))?))
            };
            Run::new(options, gpu, join)?.train(watch)
        }
        (other, _) => Err(key("device", format!("is `{other}`, which no model can be trained on yet")).into()),
    }
}

/// Ranks of devices without a network of their own.
fn over_the_host<O: Operations>(_: &O, mesh: Mesh) -> Result<Box<dyn Communicator<O>>, TrainError> {
    Ok(Box::new(mesh))
}

/// Threads of this process.
fn threads(options: &Options<'_>) -> usize {
    match (options.recipe.threads, options.place) {
        (0, Some(place)) if place.neighbours > 1 => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            (cores / place.neighbours).max(1)
        }
        (threads, _) => threads,
    }
}

/// The GPU that a recipe asks for.
fn gpu(options: &Options<'_>, precision: Precision, watch: &mut dyn Watch) -> Result<Gpu<driver::Driver>, TrainError> {
    let refused = |error: KernelError| key("device", format!("is `cuda`: {error}"));
    driver::find(options.cuda.ordinal).map_err(refused)?;
    if precision != Precision::Bf16 {
        return Err(key("device", "is `cuda`, which stores bf16: set precision = \"bf16\"".into()).into());
    }
    let driver = driver::Driver::open(&options.cuda).map_err(refused)?;
    watch.warn("nobody has trained on a GPU with this program yet: hold the first losses against those of device = \"cpu\"");
    if let Some(reason) = driver.not_kept() {
        watch.warn(&format!("compiled kernels are not kept for the next run: {reason}"));
    }
    Ok(Gpu::new(driver))
}

struct Run<'a, O: Operations> {
    options: Options<'a>,
    ops: O,
    outline: Outline,
    trainer: Trainer<O>,
    companions: Vec<PathBuf>,
    /// What rank 0 has.
    desk: Option<Desk>,
}

/// The run's folder, while one process writes in it.
struct Desk {
    metrics: Metrics,
    _lock: File,
}

impl<'a, O: Operations> Run<'a, O> {
    fn new(
        options: Options<'a>,
        ops: O,
        join: impl FnOnce(&O, Mesh) -> Result<Box<dyn Communicator<O>>, TrainError>,
    ) -> Result<Self, TrainError> {
        let Options { recipe, base, out, .. } = options;
        let outline = Outline::new(recipe, base)?;
        let lock = if options.place.is_none_or(|place| place.rank == 0) {
            let lock = lock(out)?;
            claim(out, recipe, &outline)?;
            remove_unfinished(&out.join(CHECKPOINTS))?;
            Some(lock)
        } else {
            None
        };
        let mut ranks = match meet(&options, &outline)? {
            Some(mesh) => join(&ops, mesh)?,
            None => Box::new(Alone),
        };
        let ready = prepare(&options, &outline, &ops, &mut *ranks).map_err(|error| cause(&*ranks, error));
        let (checkpoint, model) = ready.inspect_err(|error| ranks.abort(&error.to_string()))?;
        let plan = Plan {
            schedule: recipe.rates(outline.budget.solved.steps),
            optimiser: recipe.settings(),
            accumulation: outline.budget.passes,
            recompute: outline.budget.recompute,
            sums_in_any_order: recipe.machine.sums_in_any_order,
        };
        let mut trainer = match checkpoint {
            Some(path) => Trainer::resume(&ops, &path, model, plan, ranks)?,
            None => Trainer::new(&ops, model, plan, ranks)?,
        };
        trainer.make_room(&ops, outline.budget.rows())?;
        let desk = match lock {
            Some(lock) => {
                let metrics = Metrics::open(out, trainer.num_steps(), outline.source_names.clone());
                let metrics = metrics.inspect_err(|error| trainer.ranks().abort(&error.to_string()))?;
                Some(Desk { metrics, _lock: lock })
            }
            None => None,
        };
        let companions = companions(outline.weights.as_deref(), &base.join(&recipe.corpus).join("tokens"));
        Ok(Self { options, ops, outline, trainer, companions, desk })
    }

    fn train(mut self, watch: &mut dyn Watch) -> Result<Finished, TrainError> {
        let mut nobody = Nobody;
        let finished = self.finish(if self.desk.is_some() { watch } else { &mut nobody });
        let finished = finished.map_err(|error| cause(self.trainer.ranks(), error));
        if let Some(error) = finished.as_ref().err().filter(|error| !error.is_common()) {
            self.trainer.ranks().abort(&error.to_string());
        }
        finished
    }

    fn finish(&mut self, watch: &mut dyn Watch) -> Result<Finished, TrainError> {
        let (steps, recipe) = (self.outline.budget.solved.steps, self.options.recipe);
        watch.begin(&self.outline, self.trainer.num_steps());
        let mut alarm = Alarm::new(recipe.alarm.window);
        let (mut first_loss, mut held_out_loss) = (None, None);
        while self.trainer.num_steps() < steps {
            let cancelled = self.options.cancelled.load(Ordering::Relaxed);
            if self.trainer.ranks().all_gather(&[u64::from(cancelled)])?.contains(&vec![1]) {
                self.checkpoint()?;
                return Err(TrainError::Stopped { step: self.trainer.num_steps() });
            }
            let step = self.step(watch, &mut alarm)?;
            first_loss = first_loss.or_else(|| alarm.mean().filter(|_| alarm.is_full()));
            let done = step.step == steps;
            if done || step.step.is_multiple_of(recipe.held_out.every_steps) {
                held_out_loss = self.measure(step.step, watch)?.or(held_out_loss);
            }
            if done || step.step.is_multiple_of(recipe.checkpoint.every_steps) {
                self.checkpoint()?;
            }
        }
        let model = self.options.out.join("model");
        if self.desk.is_some() {
            self.write_model(&model)?;
        }
        // What comes next may read it.
        self.trainer.ranks().all_gather(&[])?;
        Ok(Finished { steps, first_loss, last_loss: alarm.mean(), held_out_loss, model })
    }

    fn step(&mut self, watch: &mut dyn Watch, alarm: &mut Alarm) -> Result<Step, TrainError> {
        let (begun, at) = (Instant::now(), self.trainer.num_steps());
        let step = match self.trainer.step(&self.ops, &self.outline.data) {
            Ok(step) => step,
            Err(error @ TrainError::NotANumber { .. }) => {
                self.checkpoint()?;
                return Err(TrainError::At { error: Box::new(error), chunks: self.chunks(at) });
            }
            Err(error) => return Err(error),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let operations_per_second = self.outline.budget.operations_per_token() * step.num_tokens as f64 / seconds;
        let utilisation = self.outline.budget.machine.peak().map(|peak| operations_per_second / peak);
        if let Some(desk) = &mut self.desk {
            desk.metrics.step(&step, seconds, operations_per_second, utilisation)?;
        }
        watch.step(&step, seconds, operations_per_second);
        let settings = self.options.recipe.alarm;
        if let Some(mean) = alarm.mean().filter(|mean| settings.spike > 0.0 && alarm.is_full() && step.loss > mean + settings.spike) {
            let chunks = self.chunks(at);
            watch
                .warn(&format!("step {}: the loss jumped to {:.3} from a mean of {mean:.3}; the step read {chunks}", step.step, step.loss));
        }
        alarm.push(step.loss);
        if let Some((mean, lowest)) = alarm.diverged(settings.divergence) {
            self.checkpoint()?;
            return Err(TrainError::Diverged { step: step.step, mean, lowest, chunks: self.chunks(at) });
        }
        Ok(step)
    }

    /// The chunks that a step reads, for a person to look at.
    fn chunks(&self, step: u64) -> String {
        let chunks: Vec<String> = self.outline.data.chunks_of(step).map(|chunk| chunk.to_string()).collect();
        format!("the chunks {} (`osler tokens show {} --chunk N`)", chunks.join(", "), self.options.recipe.corpus.display())
    }

    fn measure(&mut self, step: u64, watch: &mut dyn Watch) -> Result<Option<f64>, TrainError> {
        if self.outline.held_out.is_empty() {
            return Ok(None);
        }
        let (chunks, data): (_, &Data) = (&self.outline.held_out, &self.outline.data);
        let (all, sources) = self.trainer.measure(&self.ops, chunks.len(), |at| data.chunk(chunks[at]))?;
        if let Some(desk) = &mut self.desk {
            desk.metrics.held_out(step, all, &sources)?;
        }
        if let Some(loss) = all.mean() {
            watch.measured(step, loss);
        }
        Ok(all.mean())
    }

    /// Writes a checkpoint, if this step has none, and deletes those that are no longer kept.
    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let folder = self.options.out.join(CHECKPOINTS);
        let path = folder.join(format!("step-{:08}", self.trainer.num_steps()));
        let is_first = self.desk.is_some();
        if is_first {
            fs::create_dir_all(&folder).map_err(|source| TrainError::Io { path: folder.clone(), source })?;
        }
        // Rank 0 says, since it may be there already when another looks.
        let missing = u64::from(is_first && !path.exists());
        if self.trainer.ranks().all_gather(&[missing])?.contains(&vec![1]) {
            self.trainer.save(&self.ops, &path, &self.companions)?;
        }
        if !is_first {
            return Ok(());
        }
        let settings = self.options.recipe.checkpoint;
        let all = checkpoints(self.options.out)?;
        let old = all.len().saturating_sub(settings.keep_last);
        for (step, path) in &all[..old] {
            if settings.keep_every_steps == 0 || !step.is_multiple_of(settings.keep_every_steps) {
                // What has a checkpoint's name is whole, also while it is deleted.
                let partial = path.with_extension(UNFINISHED);
                let io = |source| TrainError::Io { path: path.clone(), source };
                fs::rename(path, &partial).and_then(|()| fs::remove_dir_all(&partial)).map_err(io)?;
            }
        }
        Ok(())
    }

    /// Writes the model by itself, whole or not at all.
    fn write_model(&self, path: &Path) -> Result<(), TrainError> {
        let partial = path.with_extension(UNFINISHED);
        let io = |source| TrainError::Io { path: partial.clone(), source };
        for old in [&partial, &path.to_path_buf()] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(io)?;
            }
        }
        fs::create_dir_all(&partial).map_err(io)?;
        let dtype = if self.options.recipe.precision == Precision::Bf16 { Dtype::BF16 } else { Dtype::F32 };
        model::write(&self.ops, &self.trainer.model, dtype, model::FILE_BYTES, &partial)?;
        copy_into(&self.companions, &partial)?;
        fs::rename(&partial, path).map_err(io)
    }
}

/// The way to the other ranks, when all are there; none where there are no others.
fn meet(options: &Options<'_>, outline: &Outline) -> Result<Option<Mesh>, TrainError> {
    let Options { recipe, place, .. } = *options;
    let Recipe { held_out, checkpoint, alarm, device, .. } = recipe;
    let ranks = recipe.machine.ranks as usize;
    if ranks == 1 && place.is_none_or(|place| place.rank == 0) {
        return Ok(None);
    }
    let unplaced = || key("machine.ranks", format!("is {ranks}, and this process was not told which of them it is"));
    let place = place.ok_or_else(unplaced)?;
    let wait = || patience(options);
    // What the steps depend on, and what decides when something is written.
    let common = json!([outline.fingerprint, ranks, outline.budget.solved.steps, held_out, checkpoint, alarm, device]);
    let agreement = xxhash_rust::xxh3::xxh3_128(common.to_string().as_bytes());
    Ok(Some(Meeting { rank: place.rank, ranks, door: place.door, agreement, wait: &wait }.join()?))
}

/// What a run begins with, when all ranks are there: the checkpoint that it goes on from, if there is one, and a model.
fn prepare<O: Operations>(
    options: &Options<'_>,
    outline: &Outline,
    ops: &O,
    ranks: &mut dyn Communicator<O>,
) -> Result<(Option<PathBuf>, Model<O>), TrainError> {
    let checkpoint = checkpoints(options.out)?.pop();
    agree(ranks, checkpoint.as_ref().map_or(0, |(step, _)| *step), options.out)?;
    // All at once, so that what is missing is missed before weights are read.
    let memory = &outline.budget.memory;
    ops.reserve(memory.needs())?;
    let checkpoint = checkpoint.map(|(_, path)| path);
    let model = match checkpoint.as_ref().or(outline.weights.as_ref()) {
        Some(path) => model::read_weights(ops, path)?,
        None => Model::random(ops, outline.budget.config.clone(), options.recipe.seed)?,
    };
    Ok((checkpoint, model))
}

/// Why a device failed: one that waited for a rank that is gone knows less of it than the others do, who may say so a little later.
fn cause<O: Operations>(ranks: &dyn Communicator<O>, error: TrainError) -> TrainError {
    let begun = Instant::now();
    let is_the_devices = matches!(error, TrainError::Model(ModelError::Kernel(_))) && ranks.ranks() > 1;
    while is_the_devices && begun.elapsed() < Duration::from_secs(1) {
        match ranks.failure() {
            Some(RankError::Devices(why)) => return RankError::Devices(format!("{why}; {error}")).into(),
            Some(failure) => return failure.into(),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    error
}

/// Whether there is still reason to wait for other ranks.
fn patience(options: &Options<'_>) -> Result<(), String> {
    if options.cancelled.load(Ordering::Relaxed) {
        return Err("stopped on request, while not all ranks were there".into());
    }
    options.place.map_or(Ok(()), |place| (place.wait)())
}

/// Makes sure that all ranks begin at the same step.
fn agree<O: Operations>(ranks: &mut dyn Communicator<O>, step: u64, out: &Path) -> Result<(), TrainError> {
    let steps = ranks.all_gather(&[step])?;
    let first = steps.first().and_then(|words| words.first()).copied();
    let Some((rank, other)) = steps.iter().map(|words| words.first().copied()).enumerate().find(|(_, other)| *other != first) else {
        return Ok(());
    };
    let [other, first] = [other, first].map(Option::unwrap_or_default);
    let problem = format!("rank {rank} would go on from step {other} and rank 0 from step {first}: all ranks have to see one folder");
    Err(TrainError::Folder { path: out.to_path_buf(), problem })
}

/// Watches the ranks that say nothing.
struct Nobody;

impl Watch for Nobody {
    fn begin(&mut self, _: &Outline, _: u64) {}
    fn step(&mut self, _: &Step, _: f64, _: f64) {}
    fn measured(&mut self, _: u64, _: f64) {}
    fn warn(&mut self, _: &str) {}
}

const CHECKPOINTS: &str = "checkpoints";
/// The extension of a folder that is being written or deleted.
const UNFINISHED: &str = "partial";
const RUN: &str = "train.json";
const FORMAT: &str = "osler-train/1";

/// Checkpoints of a run, by step.
///
/// # Errors
/// [`TrainError::Io`].
pub fn checkpoints(out: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let folder = out.join(CHECKPOINTS);
    let io = |source| TrainError::Io { path: folder.clone(), source };
    let mut found = Vec::new();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io(error)),
    };
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("step-"));
        if let Some(step) = name.and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Deletes what a killed run left half written.
fn remove_unfinished(folder: &Path) -> Result<(), TrainError> {
    let io = |source| TrainError::Io { path: folder.to_path_buf(), source };
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) {
            fs::remove_dir_all(&path).map_err(io)?;
        }
    }
    Ok(())
}

/// Holds the folder for one run at a time.
fn lock(out: &Path) -> Result<File, TrainError> {
    fs::create_dir_all(out).map_err(|source| TrainError::Io { path: out.to_path_buf(), source })?;
    let path = out.join("lock");
    let file = File::create(&path).map_err(|source| TrainError::Io { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let problem = "another run is at work here; wait for it, or name another folder".to_string();
            Err(TrainError::Folder { path: out.to_path_buf(), problem })
        }
        Err(TryLockError::Error(source)) => Err(TrainError::Io { path, source }),
    }
}

/// Writes `train.json`, or checks that the folder is this run's.
fn claim(out: &Path, recipe: &Recipe, outline: &Outline) -> Result<(), TrainError> {
    let path = out.join(RUN);
    if let Ok(text) = fs::read(&path) {
        let before: Value = serde_json::from_slice(&text).unwrap_or_default();
        if before["fingerprint"] != outline.fingerprint.as_str() {
            let problem = "holds a run of another recipe, model or shards; name another folder with --out, or delete it".to_string();
            return Err(TrainError::Folder { path: out.to_path_buf(), problem });
        }
    } else if out.join("run.json").exists() || out.join(CHECKPOINTS).exists() {
        let problem = "holds something else than a training run; name another folder with --out".to_string();
        return Err(TrainError::Folder { path: out.to_path_buf(), problem });
    }
    let Budget { memory, solved, num_weights, .. } = &outline.budget;
    let text = json!({
        "format": FORMAT, "version": env!("CARGO_PKG_VERSION"), "fingerprint": outline.fingerprint, "recipe": recipe,
        "weights": num_weights, "steps": solved.steps, "sequences_per_step": solved.sequences_per_step,
        "context_length": solved.context_length, "sources": outline.source_names,
        "operations_per_token": outline.budget.operations_per_token(),
        "memory_bytes": memory.parts().into_iter().collect::<BTreeMap<_, _>>(),
    });
    let partial = path.with_extension("partial");
    fs::write(&partial, format!("{text:#}\n")).and_then(|()| fs::rename(&partial, &path)).map_err(|source| TrainError::Io { path, source })
}

/// What a model's folder has besides weights and config: of the model that training started from, or of the corpus.
fn companions(weights: Option<&Path>, tokens: &Path) -> Vec<PathBuf> {
    const NAMES: [&str; 11] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
        "preprocessor_config.json",
    ];
    let of = |folder: &Path| -> Vec<PathBuf> { NAMES.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect() };
    let found = weights.map(of).unwrap_or_default();
    if found.iter().any(|path| path.ends_with("tokenizer.json")) { found } else { [found, of(tokens)].concat() }
}

/// Watches the mean of the loss over a window of steps.
#[derive(Debug)]
struct Alarm {
    window: usize,
    losses: VecDeque<f64>,
    lowest: f64,
}

impl Alarm {
    fn new(window: usize) -> Self {
        Self { window, losses: VecDeque::with_capacity(window), lowest: f64::INFINITY }
    }

    fn push(&mut self, loss: f64) {
        if self.losses.len() == self.window {
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
        if let Some(mean) = self.mean().filter(|_| self.is_full()) {
            self.lowest = self.lowest.min(mean);
        }
    }

    fn is_full(&self) -> bool {
        self.losses.len() == self.window
    }

    fn mean(&self) -> Option<f64> {
        (!self.losses.is_empty()).then(|| self.losses.iter().sum::<f64>() / self.losses.len() as f64)
    }

    /// Mean and lowest mean, if the mean lies `margin` or more above.
    fn diverged(&self, margin: f64) -> Option<(f64, f64)> {
        let mean = self.mean().filter(|_| self.is_full() && margin > 0.0)?;
        (mean > self.lowest + margin).then_some((mean, self.lowest))
    }
}

#[cfg(test)]
mod tests;
