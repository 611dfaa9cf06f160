//! Recipes of training runs: what is trained on what, and how, in one TOML file. Defaults are those of the source paper where it has any.

use crate::model::{GradientKind, Recompute, unknown_key};
use crate::optimiser::{MomentKind, Settings};
use crate::schedule::{Decay, Schedule};
use osler_kernels::Device;
use osler_schemas::recipe::{self, RecipeError, THREADS_MAX};
use osler_tokens::schedule::Solved;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Name and text of each recipe that ships.
const SHIPPED: [(&str, &str); 5] = [
    ("sample", include_str!("../recipes/sample.toml")),
    ("m42-mistral-cpt", include_str!("../recipes/m42-mistral-cpt.toml")),
    ("m42-mixtral-cpt", include_str!("../recipes/m42-mixtral-cpt.toml")),
    ("definemed-cpt", include_str!("../recipes/definemed-cpt.toml")),
    ("mdm-sft-base", include_str!("../recipes/mdm-sft-base.toml")),
];

/// A recipe as resolved: every key with the value in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Name of the run, for people.
    pub name: String,
    /// Folder of the corpus run whose shards are trained on, relative to the recipe.
    pub corpus: PathBuf,
    /// Where it runs: `cpu` or `cuda`. What the machine has not is refused when a run begins; `--dry-run` reckons with any.
    pub device: String,
    /// What activations and weights are stored as.
    pub precision: Precision,
    /// Threads of each rank on a CPU; 0 divides the machine's cores among the ranks on it. No bit of the result depends on it.
    pub threads: usize,
    /// Seed of random weights and, with the shards' own, of the order of chunks.
    pub seed: u64,
    pub model: ModelSettings,
    /// How much is trained: tokens of an epoch (all that the shards have, where it is left out), epochs, steps, sequences per step. What
    /// is left out is solved for.
    pub schedule: osler_tokens::Schedule,
    pub batch: BatchSettings,
    pub optimiser: OptimiserSettings,
    pub held_out: HeldOut,
    pub checkpoint: CheckpointSettings,
    pub alarm: AlarmSettings,
    pub machine: MachineSettings,
    /// Stages in order, each with keys that differ from those above; each starts from the weights that the one before ended with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stage: Vec<Stage>,
}

/// One of several runs in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Name of its folder within the run's.
    pub name: String,
    /// Keys of [`Recipe`] as it has them.
    #[serde(flatten)]
    pub keys: Map<String, Value>,
}

/// How numbers are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// Rounded to bf16 where a GPU stores them, with f32 master weights.
    Bf16,
}

/// Where the weights come from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Folder of a model with `config.json` and safetensors, relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// With `path`: keys that its `config.json` must agree with. Without: the `config.json` of a model with random weights, where what the
    /// shards know (vocabulary, EOS) may be left out.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
}

/// How a step is cut into passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSettings {
    /// Sequences in one pass; a divisor of `schedule.sequences_per_step`, or 0 for all at once. Fewer take less memory; the gradient is
    /// the same.
    pub sequences_per_pass: u32,
    /// Whether attention ends at the borders of documents.
    pub isolate_documents: bool,
    /// Activations that are not kept but computed again: none, elementwise, feed-forward or layer. Left out, the fastest of these with which
    /// a device's part fits into `machine.memory_bytes`. No bit of the result depends on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<Recompute>,
}

/// AdamW and its learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserSettings {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Learning rate at the end.
    pub learning_rate_end: f64,
    pub decay: Decay,
    /// Share of all steps in which the rate rises.
    pub warmup: f64,
    /// Steps in which the rate rises, instead of a share; 0 takes the share.
    pub warmup_steps: u64,
    /// The first step's rate as a part of the highest.
    pub warmup_start: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// For matrices, embeddings included; norms and biases do not decay.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; 0 does not clip.
    pub clip: f64,
    /// `f32`, or `8-bit` for a quarter of their memory.
    pub moments: MomentKind,
    /// `f32`, or `bf16` for half the memory of those of layers' matrices: of one rank, whose passes each round what they add.
    pub gradients: GradientKind,
}

/// Text that is measured and not trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeldOut {
    /// Every so many chunks, one is held out; 0 holds none out.
    pub every_chunks: u64,
    /// Held-out chunks that are measured, at most.
    pub max_chunks: u64,
    /// Steps between two measurements; the end is always measured.
    pub every_steps: u64,
}

/// When the run is written down so that it can go on from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Steps between two checkpoints; the last step always has one.
    pub every_steps: u64,
    /// Checkpoints that are kept besides those of `keep_every_steps`: the latest.
    pub keep_last: usize,
    /// Checkpoints at multiples of this are kept for good; 0 keeps none.
    pub keep_every_steps: u64,
}

/// What stops a run, with a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlarmSettings {
    /// A loss this many nats above the mean of the last `window` steps warns; 0 never does.
    pub spike: f64,
    /// A mean over the last `window` steps this many nats above the lowest such mean stops the run; 0 never does.
    pub divergence: f64,
    /// Steps that means are taken over.
    pub window: usize,
}

/// The machine that a run is meant for: what `--dry-run` reckons hours from, and what MFU is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineSettings {
    /// Processes that take a run's steps together, at most as many as a step has passes. No bit of the result depends on it.
    pub ranks: u32,
    /// Devices of all ranks together.
    pub devices: u32,
    /// Of one device, dense, in the precision of the run; 0 where it is not known.
    pub peak_operations_per_second: f64,
    /// Share of the peak that is expected.
    pub utilisation: f64,
    /// Memory of one device; 0 where it is not known.
    pub memory_bytes: f64,
    /// Whether numbers may be added in any order where that is faster: one rank's gradients of several passes. The last bits then depend on the
    /// number of ranks.
    pub sums_in_any_order: bool,
}

impl Default for MachineSettings {
    fn default() -> Self {
        Self { ranks: 1, devices: 1, peak_operations_per_second: 0.0, utilisation: 0.4, memory_bytes: 0.0, sums_in_any_order: false }
    }
}

impl MachineSettings {
    /// Operations a second of all devices, at most; `None` where that is not known.
    pub fn peak(&self) -> Option<f64> {
        let peak = f64::from(self.devices) * self.peak_operations_per_second;
        (peak > 0.0).then_some(peak)
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: "model".into(),
            corpus: PathBuf::from("out/sample"),
            device: "cpu".into(),
            precision: Precision::F32,
            threads: 0,
            seed: 0,
            model: ModelSettings::default(),
            schedule: osler_tokens::Schedule::default(),
            batch: BatchSettings::default(),
            optimiser: OptimiserSettings::default(),
            held_out: HeldOut::default(),
            checkpoint: CheckpointSettings::default(),
            alarm: AlarmSettings::default(),
            machine: MachineSettings::default(),
            stage: Vec::new(),
        }
    }
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self { sequences_per_pass: 0, isolate_documents: true, recompute: None }
    }
}

impl Default for OptimiserSettings {
    fn default() -> Self {
        let Settings { beta1, beta2, epsilon, weight_decay, clip, moments, gradients } = Settings::default();
        Self {
            learning_rate: 3e-4,
            learning_rate_end: 0.0,
            decay: Decay::Cosine,
            warmup: 0.01,
            warmup_steps: 0,
            warmup_start: 0.1,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            clip: clip.unwrap_or(0.0),
            moments,
            gradients,
        }
    }
}

impl Default for HeldOut {
    fn default() -> Self {
        Self { every_chunks: 0, max_chunks: 64, every_steps: 100 }
    }
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every_steps: 500, keep_last: 2, keep_every_steps: 0 }
    }
}

impl Default for AlarmSettings {
    fn default() -> Self {
        Self { spike: 2.0, divergence: 1.0, window: 50 }
    }
}

impl Recipe {
    /// Parses a recipe; `overrides` are (dotted key, TOML value) pairs that win over the file. Steps and epochs say the same thing: where one
    /// of them is overridden, what the file says of the other is not in force.
    ///
    /// # Errors
    /// [`RecipeError`] that names the key and, for an unknown one, the nearest that exists.
    pub fn parse(path: &str, text: &str, overrides: &[(String, String)]) -> Result<Self, RecipeError> {
        let mut recipe = recipe::parse::<Self>(path, text, overrides)?;
        let overridden = |key: &str| overrides.iter().any(|(name, _)| name == key);
        match (overridden("schedule.steps"), overridden("schedule.epochs")) {
            (true, false) => recipe.schedule.epochs = None,
            (false, true) => recipe.schedule.steps = None,
            _ => {}
        }
        recipe.checked()
    }

    /// The runs of the recipe, read from `path`, in order, with the folder of each within that of all: one in the folder itself, or its
    /// stages. All but the first are without weights, unless the stage names its own: see [`Recipe::starting_from`]. `overrides` win over
    /// what a stage says.
    ///
    /// # Errors
    /// As for [`Recipe::parse`]; and when two stages share a name, or one cannot be that of a folder.
    pub fn runs(self, path: &str, overrides: &[(String, String)]) -> Result<Vec<(PathBuf, Self)>, RecipeError> {
        if self.stage.is_empty() {
            return Ok(vec![(PathBuf::new(), self)]);
        }
        let whole = Self { stage: Vec::new(), ..self.clone() }.to_toml();
        let mut runs: Vec<(PathBuf, Self)> = Vec::new();
        for stage in &self.stage {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            let folder = PathBuf::from(&stage.name);
            if stage.name.is_empty() || !stage.name.chars().all(plain) || runs.iter().any(|(other, _)| *other == folder) {
                return Err(key("stage.name", format!("is `{}`: letters, digits, - and _, and no two the same", stage.name)));
            }
            let mut keys = vec![("name".to_string(), format!("{}-{}", self.name, stage.name))];
            for (name, value) in &stage.keys {
                flatten(name, value, &mut keys);
            }
            let own_weights = keys.iter().any(|(name, _)| name == "model.path");
            keys.extend(overrides.iter().cloned());
            let mut run = Self::parse(&format!("{path}, stage {}", stage.name), &whole, &keys)?;
            if !run.stage.is_empty() {
                return Err(key("stage.stage", "cannot be: a stage has no stages".into()));
            }
            if !runs.is_empty() && !own_weights {
                run.model.path = None;
            }
            runs.push((folder, run));
        }
        Ok(runs)
    }

    /// The same with the weights of an earlier run, where `model.path` names none.
    pub fn starting_from(self, weights: PathBuf) -> Self {
        let path = self.model.path.or(Some(weights));
        Self { model: ModelSettings { path, ..self.model }, ..self }
    }

    /// The shipped recipe called `name`.
    pub fn shipped(name: &str) -> Option<&'static str> {
        SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
    }

    /// Names of the shipped recipes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// Every key with the value in force, as TOML.
    pub fn to_toml(&self) -> String {
        recipe::to_toml(self)
    }

    /// What a step of the run does not depend on is left out: where it runs, and how often it is written down.
    pub(crate) fn essence(&self) -> Self {
        let Self { name, corpus, threads, device, held_out, checkpoint, alarm, machine, .. } = Self::default();
        let held_out = HeldOut { every_chunks: self.held_out.every_chunks, ..held_out };
        // The shards and the model are told by their content.
        let model = ModelSettings { path: None, config: self.model.config.clone() };
        let batch = BatchSettings { recompute: None, ..self.batch };
        Self { name, corpus, threads, device, held_out, checkpoint, alarm, machine, model, batch, ..self.clone() }
    }

    /// The learning rate by step.
    pub(crate) fn rates(&self, total_steps: u64) -> Schedule {
        let OptimiserSettings { learning_rate, learning_rate_end, decay, warmup, warmup_steps, warmup_start, .. } = self.optimiser;
        let warmup_steps = if warmup_steps > 0 { warmup_steps } else { (total_steps as f64 * warmup).ceil() as u64 };
        Schedule { highest: learning_rate, lowest: learning_rate_end, decay, warmup_steps, warmup_start, total_steps }
    }

    /// The optimiser's constants.
    pub(crate) fn settings(&self) -> Settings {
        let OptimiserSettings { beta1, beta2, epsilon, weight_decay, clip, moments, gradients, .. } = self.optimiser;
        Settings { beta1, beta2, epsilon, weight_decay, clip: (clip > 0.0).then_some(clip), moments, gradients }
    }

    /// Gradients of bf16 need products that round, and sums that no other rank adds to.
    fn check_gradients(&self) -> Result<(), RecipeError> {
        let MachineSettings { ranks, devices, .. } = self.machine;
        let problem = match (self.optimiser.gradients, self.precision) {
            (GradientKind::F32, _) => return Ok(()),
            (_, Precision::Bf16) if ranks.max(devices) <= 1 => return Ok(()),
            (_, Precision::F32) => "is `bf16`, which a run in f32 does not have: set precision = \"bf16\", or leave it out".to_string(),
            _ => format!(
                "is `bf16`, for one rank on one device, but `machine` has ranks = {ranks} and devices = {devices}, which add to sums in f32, of \
                 which each holds a part: leave it out"
            ),
        };
        Err(key("optimiser.gradients", problem))
    }

    /// Sequences in one pass, and passes in a step.
    ///
    /// # Errors
    /// [`RecipeError::Key`] when a step is no whole number of passes.
    pub(crate) fn passes(&self, solved: &Solved) -> Result<(u32, u32), RecipeError> {
        let wrong = |problem: String| Err(key("batch.sequences_per_pass", problem));
        let Ok(step) = u32::try_from(solved.sequences_per_step) else {
            return wrong(format!("{} sequences in a step are more than can be", solved.sequences_per_step));
        };
        match self.batch.sequences_per_pass {
            0 => Ok((step, 1)),
            pass if step.is_multiple_of(pass) => Ok((pass, step / pass)),
            pass => wrong(format!("is {pass}, which does not divide the {step} sequences of a step")),
        }
    }

    fn checked(self) -> Result<Self, RecipeError> {
        let OptimiserSettings { learning_rate, learning_rate_end, warmup, warmup_start, beta1, beta2, epsilon, weight_decay, clip, .. } =
            self.optimiser;
        if let Some((name, _)) = [("warmup", warmup), ("warmup_start", warmup_start)].iter().find(|(_, value)| !(0.0..=1.0).contains(value))
        {
            return Err(key(&format!("optimiser.{name}"), "must be from 0 to 1".into()));
        }
        // With 1, nothing of a gradient would reach a moment, and its correction would divide by zero.
        if let Some((name, _)) = [("beta1", beta1), ("beta2", beta2)].iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            return Err(key(&format!("optimiser.{name}"), "must be 0 or more, and less than 1".into()));
        }
        if self.threads > usize::from(THREADS_MAX) {
            return Err(key("threads", format!("is {}; at most {THREADS_MAX} are of use", self.threads)));
        }
        let amounts = [
            ("learning_rate", learning_rate),
            ("learning_rate_end", learning_rate_end),
            ("epsilon", epsilon),
            ("weight_decay", weight_decay),
            ("clip", clip),
        ];
        if let Some((name, _)) = amounts.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            return Err(key(&format!("optimiser.{name}"), "must be a number, 0 or more".into()));
        }
        if self.model.path.is_none() && self.model.config.is_empty() {
            return Err(key("model", "give `path` to start from weights, or `config` to start from random ones".into()));
        }
        if let Some((name, nearest)) = unknown_key(&self.model.config) {
            return Err(key(&format!("model.config.{name}"), format!("is no key of a model's config.json; did you mean `{nearest}`?")));
        }
        for (name, value) in [("checkpoint.every_steps", self.checkpoint.every_steps), ("held_out.every_steps", self.held_out.every_steps)]
        {
            if value == 0 {
                return Err(key(name, "must be at least 1".into()));
            }
        }
        if self.machine.devices == 0 || self.machine.utilisation <= 0.0 || self.machine.utilisation > 1.0 {
            return Err(key("machine", "needs at least one device, and a utilisation above 0 and at most 1".into()));
        }
        if self.machine.ranks == 0 {
            return Err(key("machine.ranks", "must be at least 1".into()));
        }
        if let Err(error) = self.device.parse::<Device>() {
            return Err(key("device", error.to_string()));
        }
        let MachineSettings { peak_operations_per_second, .. } = self.machine;
        if !(peak_operations_per_second.is_finite() && peak_operations_per_second >= 0.0) {
            return Err(key("machine.peak_operations_per_second", "must be a number, 0 or more".into()));
        }
        if self.device != "cpu" && self.optimiser.epsilon < 1e-15 {
            return Err(key("optimiser.epsilon", "must be 1e-15 or more on a GPU, where roots of less than 2⁻¹²⁶ are 0".into()));
        }
        self.check_gradients()?;
        if self.held_out.every_chunks == 1 {
            return Err(key("held_out.every_chunks", "is 1: nothing would be left to train on".into()));
        }
        if self.checkpoint.keep_last == 0 {
            return Err(key("checkpoint.keep_last", "must be at least 1, to go on from".into()));
        }
        let AlarmSettings { spike, divergence, .. } = self.alarm;
        if let Some((name, _)) = [("spike", spike), ("divergence", divergence)].iter().find(|(_, nats)| !(nats.is_finite() && *nats >= 0.0))
        {
            return Err(key(&format!("alarm.{name}"), "must be a number, 0 or more".into()));
        }
        if self.alarm.window == 0 {
            return Err(key("alarm.window", "must be at least 1".into()));
        }
        Ok(self)
    }
}

/// A value of a stage as overrides of single keys.
fn flatten(name: &str, value: &Value, keys: &mut Vec<(String, String)>) {
    match value {
        Value::Object(table) => table.iter().for_each(|(inner, value)| flatten(&format!("{name}.{inner}"), value, keys)),
        // What JSON writes of anything else is TOML too.
        value => keys.push((name.to_string(), value.to_string())),
    }
}

pub(crate) fn key(key: &str, problem: String) -> RecipeError {
    RecipeError::Key { key: key.to_string(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_recipes_are_recipes_and_read_back() {
        for name in Recipe::names() {
            let recipe = Recipe::parse(name, Recipe::shipped(name).unwrap(), &[]).unwrap();
            assert_eq!(Recipe::parse(name, &recipe.to_toml(), &[]).unwrap(), recipe);
        }
    }

    #[test]
    fn wrong_keys_are_named() {
        let check = |text: &str, wanted: &str| {
            let error = Recipe::parse("r.toml", text, &[]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        };
        check("[optimiser]\nlearning_rates = 1", "did you mean `learning_rate`?");
        check("[optimiser]\nmoments = '4-bit'", "unknown variant `4-bit`, expected `f32` or `8-bit`");
        check("device = 'cuda'\n[model]\npath = 'x'\n[optimiser]\nepsilon = 0.0", "`optimiser.epsilon`: must be 1e-15 or more on a GPU");
        check("[model]\npath = 'x'\n[optimiser]\ngradients = 'bf16'", "`optimiser.gradients`: is `bf16`, which a run in f32 does not have");
        let several = "precision = 'bf16'\n[model]\npath = 'x'\n[optimiser]\ngradients = 'bf16'\n[machine]\nranks = 2";
        check(several, "`optimiser.gradients`: is `bf16`, for one rank on one device, but `machine` has ranks = 2 and devices = 1");
        check("[optimiser]\nbeta1 = 1.0", "`optimiser.beta1`: must be 0 or more, and less than 1");
        check("[optimiser]\nwarmup = 2.0", "`optimiser.warmup`: must be from 0 to 1");
        let with = |keys: &str| format!("{keys}\n[model]\npath = 'x'");
        check(&with("threads = 1000"), "`threads`: is 1000; at most 512 are of use");
        check(&with("device = 'tpu'"), "`device`: no device `tpu`");
        check(&with("[alarm]\ndivergence = -1.0"), "`alarm.divergence`: must be a number, 0 or more");
        check(&with("[machine]\npeak_operations_per_second = -1.0"), "`machine.peak_operations_per_second`: must be");
        check("", "recipe key `model`: give `path`");
        check("[model]\npath = 'x'\n[checkpoint]\nevery_steps = 0", "`checkpoint.every_steps`");
    }

    /// The numbers of the source paper, table 1 and section 3.1: 793 steps of warm-up from a tenth of 7e-6.
    #[test]
    fn published_rates() {
        let recipe = Recipe::parse("m42-mistral-cpt", Recipe::shipped("m42-mistral-cpt").unwrap(), &[]).unwrap();
        let rates = recipe.rates(79_259);
        assert_eq!((rates.warmup_steps, rates.highest), (793, 7e-6));
        assert!((rates.rate(0) - 7e-7).abs() < 1e-18);
        let linear = Recipe::parse("definemed-cpt", Recipe::shipped("definemed-cpt").unwrap(), &[]).unwrap().rates(9728);
        assert_eq!((linear.warmup_steps, linear.rate(0), linear.rate(250), linear.rate(9728)), (500, 0.0, 5e-6, 0.0));
    }

    #[test]
    fn stages_are_runs_with_keys_of_their_own() {
        let text =
            "name = 'three'\nseed = 5\n[model.config]\nmodel_type = 'mistral'\n[schedule]\nsteps = 9\n[optimiser]\nlearning_rate = 1e-3
            [[stage]]\nname = 'books'\ncorpus = 'a'\n[[stage]]\nname = 'notes'\ncorpus = 'b'\n[stage.schedule]\nsteps = 4
            [stage.optimiser]\nlearning_rate = 6e-4\n[[stage]]\nname = 'guidelines'\n[stage.checkpoint]\nevery_steps = 2";
        let all = |text: &str, overrides: &[(String, String)]| Recipe::parse("r", text, overrides)?.runs("r", overrides);
        let runs = all(text, &[("seed".into(), "7".into())]).unwrap();
        let seen: Vec<_> = runs
            .iter()
            .map(|(folder, run)| (folder.to_str().unwrap(), run.corpus.to_str().unwrap(), run.schedule.steps, run.optimiser.learning_rate))
            .collect();
        let wanted = [("books", "a", Some(9), 1e-3), ("notes", "b", Some(4), 6e-4), ("guidelines", "out/sample", Some(9), 1e-3)];
        assert_eq!(seen, wanted);
        assert!(runs.iter().all(|(_, run)| run.seed == 7 && run.stage.is_empty()));
        assert_eq!((runs[2].1.name.as_str(), runs[2].1.checkpoint.every_steps), ("three-guidelines", 2));
        let whole = Recipe::parse("r", text, &[]).unwrap();
        assert_eq!(Recipe::parse("r", &whole.to_toml(), &[]).unwrap(), whole);
        let refused = |stages: &str, wanted: &str| {
            let error = all(&format!("[model]\npath = 'x'\n{stages}"), &[]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        };
        // The weights of the whole recipe are those that the first stage begins with; a stage can name its own.
        let stages = "[model]\npath = 'x'\n[[stage]]\nname = 'a'\n[[stage]]\nname = 'b'\n[[stage]]\nname = 'c'\n[stage.model]\npath = 'y'";
        let weights = all(stages, &[]).unwrap().into_iter().map(|(_, run)| run.starting_from("last".into()).model.path.unwrap());
        assert_eq!(weights.collect::<Vec<_>>(), ["x", "last", "y"].map(PathBuf::from));
        refused("[[stage]]\nname = '../a'", "`stage.name`: is `../a`");
        refused("[[stage]]\nname = 'a'\n[[stage]]\nname = 'a'", "no two the same");
        refused("[[stage]]\nname = 'a'\n[stage.schedule]\nstep = 3", "did you mean `steps`?");
        refused("[[stage]]\ncorpus = 'a'", "name");
    }

    #[test]
    fn keys_of_the_model_are_those_that_models_have() {
        let overrides = [("model.config.num_hiden_layers".to_string(), "3".to_string())];
        let error =
            Recipe::parse("r", "[model.config]\nmodel_type = 'mistral'\ntorch_dtype = 'bfloat16'", &overrides).unwrap_err().to_string();
        let wanted = "`model.config.num_hiden_layers`: is no key of a model's config.json; did you mean `num_hidden_layers`?";
        assert!(error.contains(wanted), "{error}");
    }

    #[test]
    fn passes_divide_a_step() {
        let recipe = |pass: u32| Recipe::parse("r", &format!("[model]\npath = 'x'\n[batch]\nsequences_per_pass = {pass}"), &[]).unwrap();
        let solved = Solved { tokens: 1, epochs: 1.0, steps: 1, sequences_per_step: 12, context_length: 1, solved: None };
        assert_eq!(recipe(0).passes(&solved).unwrap(), (12, 1));
        assert_eq!(recipe(4).passes(&solved).unwrap(), (4, 3));
        assert!(recipe(5).passes(&solved).unwrap_err().to_string().contains("does not divide the 12"));
    }
}
