//! The training loop: steps of several passes, and checkpoints from which a run goes on as if it had not stopped.

pub(crate) mod passes;

use crate::model::{self, Batch, GradientKind, Gradients, KeptLosses, Model, ModelError, Recompute, Workspace};
use crate::optimiser::{Optimiser, Settings};
use crate::ranks::{self, BLOCK, Communicator, RankError, Topic};
use crate::schedule::Schedule;
use osler_kernels::{KernelError, Operations};
use osler_schemas::recipe::RecipeError;
use safetensors::tensor::Dtype;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where a run's batches come from. What it gives depends on `step` and `pass` alone, so a resumed run sees what a straight one would.
pub trait Source {
    /// The batch of one pass, of as many rows at most as room was made for.
    ///
    /// # Errors
    /// [`TrainError`] when it cannot be read.
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError>;
}

/// What can stop a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {problem}", path.display())]
    Checkpoint { path: PathBuf, problem: String },
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error("{0}")]
    Shards(String),
    #[error("{}: {problem}", path.display())]
    Folder { path: PathBuf, problem: String },
    #[error("stopped on request at step {step}; the same command goes on from there")]
    Stopped { step: u64 },
    #[error(
        "step {step}: the loss has diverged: its mean over the last steps is {mean:.3}, and was {lowest:.3}. The checkpoint is from before \
         this step, which read {chunks}. Try a lower learning rate"
    )]
    Diverged { step: u64, mean: f64, lowest: f64, chunks: String },
    #[error("step {step}: no row of its batches asks for a prediction")]
    NoTargets { step: u64 },
    #[error("step {step}: the {what} is not a number; the weights before the step are kept. Try a lower learning rate or more warm-up")]
    NotANumber { step: u64, what: &'static str },
    #[error("{error}. The step read {chunks}")]
    At { error: Box<TrainError>, chunks: String },
}

impl TrainError {
    /// Whether all ranks come to it at the same step, so that none has to tell the others.
    pub(crate) fn is_common(&self) -> bool {
        matches!(self, Self::Stopped { .. } | Self::Diverged { .. } | Self::NoTargets { .. } | Self::NotANumber { .. } | Self::At { .. })
    }

    /// Whether another rank says the same, or says why.
    pub fn is_shared(&self) -> bool {
        let elsewhere =
            matches!(self, Self::Model(ModelError::Ranks(RankError::Gone { .. } | RankError::Stopped { .. } | RankError::Devices(_))));
        elsewhere || self.is_common()
    }
}

impl From<KernelError> for TrainError {
    fn from(error: KernelError) -> Self {
        Self::Model(error.into())
    }
}

impl From<RankError> for TrainError {
    fn from(error: RankError) -> Self {
        Self::Model(error.into())
    }
}

/// What a run needs to know besides its model and its text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    pub schedule: Schedule,
    pub optimiser: Settings,
    /// Passes whose gradients are added up in one step, of all ranks together.
    pub accumulation: u32,
    /// What a pass computes again instead of keeping it.
    pub recompute: Recompute,
    /// Whether one rank's passes add to the step's sums as they go. The last bits then depend on the number of ranks.
    pub sums_in_any_order: bool,
}

impl Plan {
    /// Whether one rank's passes after the first add to the sums, too.
    fn adds_in_place(&self) -> bool {
        self.sums_in_any_order || self.optimiser.gradients == GradientKind::Bf16
    }
}

/// Cross entropy over some targets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Entropy {
    /// In nats.
    pub sum: f64,
    pub num_targets: u64,
}

impl Entropy {
    /// In nats; `None` where there is no target.
    pub fn mean(&self) -> Option<f64> {
        (self.num_targets > 0).then(|| self.sum / self.num_targets as f64)
    }

    fn add(&mut self, loss: f64) {
        self.sum += loss;
        self.num_targets += 1;
    }

    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.num_targets += other.num_targets;
    }
}

/// Cross entropy by source.
pub type BySource = BTreeMap<u32, Entropy>;

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// From 1.
    pub step: u64,
    /// Mean cross entropy of its targets, in nats.
    pub loss: f64,
    /// The balance loss of experts, with its coefficient.
    pub balance: f64,
    /// Norm of the gradients before clipping.
    pub norm: f64,
    pub learning_rate: f64,
    pub num_tokens: usize,
    pub num_targets: usize,
    /// By source, of batches that name theirs.
    pub sources: BySource,
}

/// A run: a model, its optimiser, and the memory of a step. Of several ranks each has all of the model, and a part of the rest.
#[derive(Debug)]
pub struct Trainer<O: Operations> {
    pub model: Model<O>,
    optimiser: Optimiser<O>,
    plan: Plan,
    /// Of one pass, layer by layer, where they are not those of the step.
    grads: Gradients<O>,
    /// Of the step, for the parameters that are held here.
    sums: Gradients<O>,
    /// The rank that holds each parameter's sum and the optimiser's state of it.
    owners: Vec<usize>,
    work: Option<Workspace<O>>,
    /// Of the passes of a step.
    kept: KeptLosses<O>,
    /// What the next step reads, if it was read while the device was at this one: by the step's place.
    ahead: Option<(u64, Vec<Batch>)>,
    ranks: Box<dyn Communicator<O>>,
}

impl<O: Operations> Trainer<O> {
    /// A run that begins with these weights, which all ranks have, and a fresh optimiser.
    ///
    /// # Errors
    /// [`TrainError::Model`] when there is not enough memory.
    pub fn new(ops: &O, model: Model<O>, plan: Plan, ranks: Box<dyn Communicator<O>>) -> Result<Self, TrainError> {
        let owners = ranks::owners(&model.parameters, ranks.ranks());
        let holds = |at: usize| owners[at] == ranks.rank();
        let are_in_sums = passes::are_in_sums(ranks.ranks(), plan.accumulation, plan.adds_in_place());
        let grads = passes::gradients(ops, &model.parameters, are_in_sums, ranks.overlaps())?;
        let sums = passes::sums(ops, &model.parameters, plan.optimiser.gradients, are_in_sums, holds)?;
        let optimiser = Optimiser::of_part(ops, &model.parameters, plan.optimiser, holds)?;
        Ok(Self { optimiser, grads, sums, owners, work: None, kept: KeptLosses::new(), ahead: None, plan, model, ranks })
    }

    /// Steps taken.
    pub fn num_steps(&self) -> u64 {
        self.optimiser.step
    }

    /// The way to the other ranks.
    pub(crate) fn ranks(&mut self) -> &mut dyn Communicator<O> {
        &mut *self.ranks
    }

    /// Takes the next step. The loss is the mean over all targets of its passes, whatever pass they are in. All ranks are told the same.
    ///
    /// The host does not wait for a pass before it starts the next, and reads the next step's batches while the device is at this one's; so
    /// all steps are given the same source.
    ///
    /// # Errors
    /// [`TrainError::NotANumber`], where the weights stay as they are, and errors of the source, the device and other ranks.
    pub fn step(&mut self, ops: &O, source: &impl Source) -> Result<Step, TrainError> {
        let at = self.optimiser.step;
        let batches = match self.ahead.take() {
            Some((step, batches)) if step == at => batches,
            _ => self.read(source, at)?,
        };
        let sizes = self.sizes(&batches)?;
        let num_targets: usize = sizes.iter().map(|size| size.num_targets).sum();
        if num_targets == 0 {
            return Err(TrainError::NoTargets { step: at + 1 });
        }
        let scale = 1.0 / num_targets as f64;
        let (learning_rate, is_alone) = (self.plan.schedule.rate(at), self.ranks.ranks() == 1);
        ops.as_one(|| {
            self.passes(ops, &batches, &sizes, scale)?;
            self.optimiser.squares(ops, &mut self.sums)?;
            if is_alone { self.finish(ops, learning_rate) } else { Ok(()) }
        })?;
        if at + 1 < self.plan.schedule.total_steps {
            // What cannot be read is an error of the step that needs it.
            self.ahead = self.read(source, at + 1).ok().map(|batches| (at + 1, batches));
        }
        if !is_alone {
            self.share_squares(ops)?;
            ops.as_one(|| self.finish(ops, learning_rate))?;
            self.ranks.broadcast(ops, &self.model.parameters, &self.owners, &mut self.model.weights)?;
        }
        // Now the host waits for what was told before the optimiser's step, and lists the next pass while the device is at that.
        let (losses, norm) = self.kept.take(ops)?;
        let own = passes::told(losses, &batches, |batch| !batch.is_empty());
        let (mut loss, mut balance, mut sources) = (0.0, 0.0, BySource::new());
        for told in passes::gather(&mut *self.ranks, &own, sizes.len())? {
            loss += told.entropy.sum * scale;
            balance += told.balance * scale * told.entropy.num_targets as f64;
            merge(&mut sources, &told.sources);
        }
        let what = [("loss", loss + balance), ("norm of the gradients", norm)].into_iter().find(|(_, value)| !value.is_finite());
        if let Some((what, _)) = what {
            // It was none: a loss that is no number makes gradients that are none, and these no step.
            self.optimiser.step = at;
            return Err(TrainError::NotANumber { step: at + 1, what });
        }
        let num_tokens = sizes.iter().map(|size| size.num_rows).sum();
        Ok(Step { step: at + 1, loss, balance, norm, learning_rate, num_tokens, num_targets, sources })
    }

    /// Takes the optimiser's step, once all squares are there.
    fn finish(&mut self, ops: &O, learning_rate: f64) -> Result<(), TrainError> {
        Ok(self.optimiser.finish(ops, learning_rate, &mut self.kept, &self.sums, &mut self.model)?)
    }

    /// Makes room for what passes over so many rows at most say, before anything whose size differs from pass to pass.
    ///
    /// # Errors
    /// [`TrainError::Model`] when there is not enough memory.
    pub fn make_room(&mut self, ops: &O, rows: usize) -> Result<(), TrainError> {
        let passes = (self.plan.accumulation as usize).div_ceil(self.ranks.ranks());
        Ok(self.kept.clear(ops, std::iter::repeat_n(rows, passes))?)
    }

    /// This rank's batches of a step.
    fn read(&self, source: &impl Source, step: u64) -> Result<Vec<Batch>, TrainError> {
        passes::share(&*self.ranks, self.plan.accumulation as usize).map(|pass| source.batch(step, pass as u32)).collect()
    }

    /// Cross entropy of text that is not trained on, in `count` numbered batches that ranks share: of all, and by source. All ranks are
    /// told the same.
    ///
    /// # Errors
    /// Errors of the device and of other ranks, and of a batch that does not fit the model.
    pub fn measure(&mut self, ops: &O, count: usize, batch: impl Fn(usize) -> Batch) -> Result<(Entropy, BySource), TrainError> {
        let (mut own, mine) = (Vec::new(), passes::share(&*self.ranks, count).collect::<Vec<_>>());
        let Self { model, plan, work, kept, .. } = self;
        // As many at a time as a step has passes: what is kept of them has the room.
        for group in mine.chunks((plan.accumulation as usize).div_ceil(self.ranks.ranks())) {
            let batches: Vec<Batch> = group.iter().map(|&at| batch(at)).collect();
            let asks = |batch: &Batch| batch.num_targets() > 0;
            kept.clear(ops, batches.iter().map(Batch::len))?;
            for batch in batches.iter().filter(|batch| asks(batch)) {
                let work = workspace(work, ops, model, batch, plan.recompute)?;
                model.start_forward(ops, batch, work)?;
                kept.keep(ops, work, 1.0)?;
            }
            kept.end(ops, None)?;
            own.extend(passes::told(kept.take(ops)?.0, &batches, asks));
        }
        let (mut all, mut sources) = (Entropy::default(), BySource::new());
        for told in passes::gather(&mut *self.ranks, &own, count)? {
            all.merge(told.entropy);
            merge(&mut sources, &told.sources);
        }
        Ok((all, sources))
    }

    /// Writes all that the run needs to go on into `directory`, which must not be there: first under another name, then renamed, so that
    /// a checkpoint that has its name is whole. The model in it is one for `transformers` too. `companions` are copied into it: a
    /// tokenizer, a chat template. Rank 0 writes, and the others send it what they hold, so the files are the same for any number of
    /// ranks. None goes on before they are whole.
    ///
    /// # Errors
    /// [`TrainError::Io`] or [`TrainError::Model`] when it cannot be written.
    pub fn save(&mut self, ops: &O, directory: &Path, companions: &[PathBuf]) -> Result<(), TrainError> {
        match self.ranks.rank() {
            0 => self.write(ops, directory, companions)?,
            _ => self.send_state(ops)?,
        }
        Ok(self.ranks.all_gather(&[]).map(drop)?)
    }

    /// Sends rank 0 the optimiser's state that is held here.
    fn send_state(&mut self, ops: &O) -> Result<(), TrainError> {
        let tensors = model::state_tensors(&self.model.parameters, ops.needs_master(), self.optimiser.settings.moments);
        for (at, tensor) in tensors.iter().enumerate() {
            let states = &self.optimiser.states;
            if !tensor.is_held(states) {
                continue;
            }
            ranks::blocks(tensor.len, |begin, values| {
                tensor.read(ops, &self.model.weights, states, begin, values)?;
                Ok(self.ranks.send(0, Topic::State(at), values)?)
            })?;
        }
        Ok(())
    }

    fn write(&mut self, ops: &O, directory: &Path, companions: &[PathBuf]) -> Result<(), TrainError> {
        let partial = directory.with_extension("partial");
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| TrainError::Io { path, source }
        };
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(io(&partial))?;
        }
        fs::create_dir_all(&partial).map_err(io(&partial))?;
        model::write(ops, &self.model, Dtype::F32, model::FILE_BYTES, &partial)?;
        let (ranks, owners) = (&mut self.ranks, &self.owners);
        let fetch = |at: usize, parameter: usize, values: &mut [f32]| {
            let topic = Topic::State(at);
            Ok(values.chunks_mut(BLOCK).try_for_each(|values| ranks.receive(owners[parameter], topic, values))?)
        };
        model::write_state(ops, &self.model, &self.optimiser, fetch, &partial.join(STATE))?;
        copy_into(companions, &partial)?;
        let state = json!({ "format": FORMAT, "step": self.optimiser.step });
        fs::write(partial.join(TRAINER), format!("{state:#}\n")).map_err(io(&partial))?;
        for entry in fs::read_dir(&partial).map_err(io(&partial))? {
            let path = entry.map_err(io(&partial))?.path();
            fs::File::open(&path).and_then(|file| file.sync_all()).map_err(io(&path))?;
        }
        fs::rename(&partial, directory).map_err(io(directory))?;
        match directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(io(parent)),
            None => Ok(()),
        }
    }

    /// Goes on from a checkpoint that [`save`](Self::save) wrote, with any number of ranks; `model` has its weights.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] when it is not one, and errors of reading.
    pub fn resume(ops: &O, directory: &Path, model: Model<O>, plan: Plan, ranks: Box<dyn Communicator<O>>) -> Result<Self, TrainError> {
        let path = directory.join(TRAINER);
        let text = fs::read(&path).map_err(|source| TrainError::Io { path: path.clone(), source })?;
        let broken = |problem: &str| TrainError::Checkpoint { path: path.clone(), problem: problem.to_string() };
        let state: serde_json::Value = serde_json::from_slice(&text).map_err(|_| broken("not JSON"))?;
        if state["format"] != FORMAT {
            return Err(broken("not the state of a run that this version can go on with"));
        }
        let step = state["step"].as_u64().ok_or_else(|| broken("no `step`"))?;
        let mut trainer = Self::new(ops, model, plan, ranks)?;
        trainer.optimiser.step = step;
        model::read_state(ops, &mut trainer.model, &mut trainer.optimiser, &directory.join(STATE))?;
        Ok(trainer)
    }
}

/// Copies files into a folder, byte for byte.
pub(crate) fn copy_into(files: &[PathBuf], folder: &Path) -> Result<(), TrainError> {
    for file in files {
        let Some(name) = file.file_name() else { continue };
        fs::copy(file, folder.join(name)).map_err(|source| TrainError::Io { path: file.clone(), source })?;
    }
    Ok(())
}

/// The workspace, made anew where batches have another size.
fn workspace<'a, O: Operations>(
    held: &'a mut Option<Workspace<O>>,
    ops: &O,
    model: &Model<O>,
    batch: &Batch,
    recompute: Recompute,
) -> Result<&'a mut Workspace<O>, TrainError> {
    if held.as_ref().is_some_and(|work| work.rows() != batch.len()) {
        // Before the new one, so that there are never two; and nothing that is under way holds on to it.
        ops.begin()?;
        *held = None;
    }
    match held {
        Some(work) => Ok(work),
        none => Ok(none.insert(Workspace::with_recompute(ops, &model.config, batch.len(), recompute)?)),
    }
}

/// Adds the losses of a pass to those of its sources.
fn merge(sources: &mut BySource, of_pass: &BySource) {
    of_pass.iter().for_each(|(&source, &entropy)| sources.entry(source).or_default().merge(entropy));
}

pub(crate) const TRAINER: &str = "trainer.json";
const STATE: &str = "optimiser.safetensors";
const FORMAT: &str = "osler-trainer/1";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;
    use crate::random::Random;
    use crate::ranks::Alone;
    use crate::schedule::Decay;
    use osler_kernels::Cpu;
    use osler_kernels::operations::Gradient;

    /// Texts in which each token is three times the one before, or any.
    struct Texts {
        documents: u32,
        passes: u32,
    }

    impl Source for Texts {
        fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
            let mut batch = Batch::default();
            for document in 0..self.documents {
                let number = (step * u64::from(self.passes) + u64::from(pass)) * u64::from(self.documents) + u64::from(document);
                let mut random = Random::new(number, "text");
                let mut token = 1;
                batch.push(&std::array::from_fn::<u32, 24, _>(|_| {
                    token = if random.uniform() < 0.7 { token * 3 % 40 } else { (random.bits() % 40) as u32 };
                    token
                }));
            }
            Ok(batch)
        }
    }

    fn plan(highest: f64, accumulation: u32) -> Plan {
        let schedule = Schedule { highest, lowest: 0.0, decay: Decay::Cosine, warmup_steps: 5, warmup_start: 0.1, total_steps: 60 };
        Plan { schedule, optimiser: Settings::default(), accumulation, recompute: Recompute::None, sums_in_any_order: false }
    }

    fn begin(ops: &Cpu<f32>, kind: &str, plan: Plan) -> Trainer<Cpu<f32>> {
        let mut source = Config::read(&crate::model::golden_folder(kind).join("config.json")).unwrap().source;
        source.insert("router_aux_loss_coef".to_string(), json!(0.0));
        Trainer::new(ops, Model::random(ops, Config::from_json(source).unwrap(), 3).unwrap(), plan, Box::new(Alone)).unwrap()
    }

    #[test]
    fn the_loss_falls() {
        let ops = Cpu::new(2).unwrap();
        for kind in ["mistral", "mixtral", "qwen2", "qwen3"] {
            let mut trainer = begin(&ops, kind, plan(5e-3, 1));
            let texts = Texts { documents: 16, passes: 1 };
            let losses: Vec<f64> = (0..60).map(|_| trainer.step(&ops, &texts).unwrap().loss).collect();
            let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
            assert!(mean(&losses[55..]) < 0.8 * mean(&losses[..5]), "{kind}: {losses:?}");
        }
    }

    #[test]
    fn a_resumed_run_is_a_straight_run() {
        type Open = fn(usize) -> Result<Cpu<f32>, osler_kernels::KernelError>;
        let cases = [(Cpu::new as Open, GradientKind::F32), (Cpu::bf16, GradientKind::F32), (Cpu::bf16, GradientKind::Bf16)];
        for (open, gradients) in cases {
            let plan = |rate, passes| {
                let plan = plan(rate, passes);
                Plan { optimiser: Settings { gradients, ..plan.optimiser }, ..plan }
            };
            let (ops, folder) = (open(2).unwrap(), tempfile::tempdir().unwrap());
            for kind in ["mixtral", "qwen2"] {
                let texts = Texts { documents: 3, passes: 2 };
                let mut straight = begin(&ops, kind, plan(1e-2, 2));
                let checkpoint = folder.path().join(format!("{kind}-step-10"));
                for _ in 0..10 {
                    straight.step(&ops, &texts).unwrap();
                }
                straight.save(&ops, &checkpoint, &[]).unwrap();
                let mut resumed =
                    Trainer::resume(&ops, &checkpoint, model::read_weights(&ops, &checkpoint).unwrap(), plan(1e-2, 2), Box::new(Alone))
                        .unwrap();
                assert_eq!(resumed.num_steps(), 10);
                for _ in 10..20 {
                    assert_eq!(resumed.step(&ops, &texts).unwrap(), straight.step(&ops, &texts).unwrap());
                }
                assert_eq!(resumed.model.weights, straight.model.weights);
            }
        }
    }

    #[test]
    fn many_passes_are_one_batch() {
        let ops = Cpu::new(2).unwrap();
        for kind in ["mistral", "mixtral"] {
            for sums_in_any_order in [false, true] {
                let several = Plan { sums_in_any_order, ..plan(1e-3, 4) };
                let (mut once, mut often) = (begin(&ops, kind, plan(1e-3, 1)), begin(&ops, kind, several));
                // Where passes add to the sums as they go, they need no memory of their own.
                assert_eq!((once.grads.buffers.is_empty(), often.grads.buffers.is_empty()), (true, sums_in_any_order));
                for _ in 0..5 {
                    let whole = once.step(&ops, &Texts { documents: 8, passes: 1 }).unwrap();
                    let parts = often.step(&ops, &Texts { documents: 2, passes: 4 }).unwrap();
                    assert!((whole.loss - parts.loss).abs() < 1e-5 * whole.loss, "{kind}: {whole:?} {parts:?}");
                    assert!((whole.norm - parts.norm).abs() < 1e-4 * whole.norm, "{kind}: {whole:?} {parts:?}");
                    assert_eq!(whole.num_targets, parts.num_targets);
                }
            }
        }
    }

    /// Texts of which one pass in each step has none.
    struct Gaps(Texts);

    impl Source for Gaps {
        fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
            let gap = (step % u64::from(self.0.passes + 1)) as u32;
            if pass == gap { Ok(Batch::default()) } else { self.0.batch(step, pass - u32::from(pass > gap)) }
        }
    }

    /// Whichever it is: the first, one between, or the last.
    #[test]
    fn a_pass_without_text_adds_nothing() {
        let ops = Cpu::bf16(2).unwrap();
        for gradients in [GradientKind::F32, GradientKind::Bf16] {
            let with = |passes| {
                let plan = plan(1e-2, passes);
                begin(&ops, "mixtral", Plan { optimiser: Settings { gradients, ..plan.optimiser }, ..plan })
            };
            let (mut whole, mut gaps) = (with(2), with(3));
            for _ in 0..4 {
                let [wanted, got] = [
                    whole.step(&ops, &Texts { documents: 2, passes: 2 }).unwrap(),
                    gaps.step(&ops, &Gaps(Texts { documents: 2, passes: 2 })).unwrap(),
                ];
                assert_eq!((got.loss.to_bits(), got.norm.to_bits()), (wanted.loss.to_bits(), wanted.norm.to_bits()), "{gradients:?}");
            }
            assert_eq!(gaps.model.weights, whole.model.weights);
        }
    }

    /// Passes add to sums of bf16 as they go; several ranks' sums are f32.
    #[test]
    fn passes_add_to_gradients_of_bf16() {
        let ops = Cpu::bf16(2).unwrap();
        let with = |gradients| {
            let plan = plan(1e-3, 4);
            begin(&ops, "mixtral", Plan { optimiser: Settings { gradients, ..plan.optimiser }, ..plan })
        };
        let (mut exact, mut rounded) = (with(GradientKind::F32), with(GradientKind::Bf16));
        assert_eq!((exact.grads.buffers.is_empty(), rounded.grads.buffers.is_empty()), (false, true));
        for step in 0..5 {
            let [wanted, got] = [&mut exact, &mut rounded].map(|trainer| trainer.step(&ops, &Texts { documents: 2, passes: 4 }).unwrap());
            assert!((got.loss - wanted.loss).abs() < 1e-3 * wanted.loss, "{got:?} {wanted:?}");
            assert!((got.norm - wanted.norm).abs() < 1e-2 * wanted.norm && got.norm != wanted.norm, "step {step}: {got:?} {wanted:?}");
        }
        let kinds = |are_in_sums| {
            let sums = passes::sums(&ops, &exact.model.parameters, GradientKind::Bf16, are_in_sums, |_| true).unwrap();
            sums.buffers.iter().filter(|sum| matches!(sum, Gradient::Stored(_))).count()
        };
        // Of two layers, four matrices of attention, the router, and three of experts.
        assert_eq!((kinds(true), kinds(false)), (2 * 8, 0));
    }

    #[test]
    fn what_is_not_a_number_stops_before_the_weights() {
        let ops = Cpu::new(1).unwrap();
        let mut trainer = begin(&ops, "mistral", plan(1e-3, 1));
        let norm = trainer.model.parameters.norm;
        trainer.model.weights[norm][0] = f32::NAN;
        let before = trainer.model.weights[0].clone();
        let error = trainer.step(&ops, &Texts { documents: 1, passes: 1 }).unwrap_err().to_string();
        assert!(error.starts_with("step 1: the loss is not a number"), "{error}");
        assert_eq!((trainer.num_steps(), &trainer.model.weights[0]), (0, &before));
    }

    #[test]
    fn broken_checkpoints_are_named() {
        let (ops, folder) = (Cpu::<f32>::new(1).unwrap(), tempfile::tempdir().unwrap());
        let checkpoint = folder.path().join("step-0");
        // What a killed run left under the unfinished name is in nobody's way.
        fs::create_dir_all(folder.path().join("step-0.partial/rest")).unwrap();
        begin(&ops, "qwen3", plan(1e-3, 1)).save(&ops, &checkpoint, &[]).unwrap();
        assert!(!folder.path().join("step-0.partial").exists());
        let resume = || {
            let model = model::read_weights(&ops, &checkpoint).unwrap();
            Trainer::resume(&ops, &checkpoint, model, plan(1e-3, 1), Box::new(Alone)).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(resume(), Ok(()));
        let state = fs::read(checkpoint.join(STATE)).unwrap();
        fs::write(checkpoint.join(STATE), &state[..state.len() - 1]).unwrap();
        assert!(resume().unwrap_err().contains("optimiser.safetensors: not a safetensors file"));
        fs::write(checkpoint.join(TRAINER), "{}").unwrap();
        assert!(resume().unwrap_err().contains("trainer.json: not the state of a run"));
    }
}
