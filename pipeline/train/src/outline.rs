//! What a run will do, before it does it: steps, memory to the byte, operations.

use crate::data::Data;
use crate::model::{Batch, Config, GradientKind, Gradients, KeptLosses, Model, ModelError, Parameters, Recompute, Workspace};
use crate::optimiser::Optimiser;
use crate::ranks;
use crate::recipe::{MachineSettings, Precision, Recipe, key};
use crate::trainer::TrainError;
use crate::trainer::passes;
use osler_kernels::cuda::{ALIGNMENT_BYTES, CONSTANTS_BYTES, Gpu, PRODUCTS_WORKSPACE_BYTES, Paper, exchange};
use osler_kernels::operations::Needs;
use osler_kernels::{Counter, Memory};
use osler_schemas::chain;
use osler_schemas::shard::Header;
use osler_tokens::schedule::Solved;
use osler_tokens::{Expectations, Order, ShardSet};
use serde_json::Value;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes that a run takes on its device, exactly, buffer by buffer; of several ranks, on that of the one that holds the largest part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryTable {
    pub weights: u64,
    /// The sums of a step, and those of one layer and of what is outside the layers in a pass; of several ranks with GPUs those of two
    /// layers.
    pub gradients: u64,
    /// Moments, master weights where stored ones are coarser, and a square for each gradient.
    pub optimiser: u64,
    /// Of one pass: what layers keep for their backward pass, and what they share; on a CPU the losses of all, which a GPU tells the host at once.
    pub activations: u64,
    /// What a GPU's kernels need for themselves, one after the other: on a Hopper, whose need the most.
    pub scratch: u64,
    /// What other ranks' GPUs send, until it is added.
    pub staging: u64,
    /// Between all these, in a GPU's arena, with the few numbers of a step that kernels read there.
    pub gaps: u64,
    /// What the library of matrix products may use on a GPU, beside the arena.
    pub products: u64,
}

impl MemoryTable {
    /// Of steps of `num_passes`, each over `rows` tokens.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] for sizes that no GPU's kernels take, where the recipe is for one.
    pub fn new(config: &Config, rows: usize, num_passes: u32, recipe: &Recipe, recompute: Recompute) -> Result<Self, ModelError> {
        let counter = match recipe.precision {
            Precision::F32 => Counter::new(4),
            // On a CPU, bf16 mode rounds values and keeps them in f32.
            Precision::Bf16 if recipe.device == "cpu" => Counter::new(4).with_master(),
            Precision::Bf16 => Counter::new(2),
        };
        let model = Model::allocate(&counter, config.clone())?;
        let weights = counter.take();
        let owners = ranks::owners(&model.parameters, recipe.machine.ranks as usize);
        let (MachineSettings { ranks, sums_in_any_order, .. }, kind) = (recipe.machine, recipe.optimiser.gradients);
        let are_in_sums = passes::are_in_sums(ranks as usize, num_passes, sums_in_any_order || kind == GradientKind::Bf16);
        passes::gradients(&counter, &model.parameters, are_in_sums, are_devices(recipe))?;
        let (of_passes, gaps) = (counter.take(), counter.take_gaps());
        let part = |rank: usize| -> Result<_, ModelError> {
            passes::sums(&counter, &model.parameters, kind, are_in_sums, |at| owners[at] == rank)?;
            let sums = counter.take();
            Optimiser::of_part(&counter, &model.parameters, recipe.settings(), |at| owners[at] == rank)?;
            Ok((sums, counter.take(), counter.take_gaps()))
        };
        let is_gpu = recipe.device != "cpu";
        let parts = (0..ranks.max(1) as usize).map(part).collect::<Result<Vec<_>, _>>()?;
        let (sums, optimiser, gaps_of_part) =
            parts.into_iter().max_by_key(|(sums, optimiser, gaps)| sums + optimiser + if is_gpu { *gaps } else { 0 }).unwrap_or_default();
        Workspace::with_recompute(&counter, config, rows, recompute)?;
        KeptLosses::new().clear(&counter, (0..num_passes.div_ceil(ranks.max(1))).map(|_| rows))?;
        let activations = counter.take();
        let mut table = Self { weights, gradients: of_passes + sums, optimiser, activations, scratch: 0, staging: 0, gaps: 0, products: 0 };
        if is_gpu {
            table.scratch = scratch_bytes(config, rows)?;
            table.staging = staging_bytes(recipe, &model.parameters, &owners);
            let aligned = |bytes: u64| bytes.next_multiple_of(ALIGNMENT_BYTES as u64);
            table.gaps = gaps + gaps_of_part + counter.take_gaps() + aligned(CONSTANTS_BYTES as u64);
            table.gaps += [table.scratch, table.staging].map(|bytes| aligned(bytes) - bytes).iter().sum::<u64>();
            table.products = PRODUCTS_WORKSPACE_BYTES as u64;
        }
        Ok(table)
    }

    /// What one device holds besides activations: of weights, gradients and optimiser what its rank does or, of more devices than ranks, each
    /// an equal part.
    fn resident(&self, machine: &MachineSettings) -> u64 {
        let all = self.weights + self.gradients + self.optimiser;
        let part = if machine.ranks > 1 { all } else { all.div_ceil(u64::from(machine.devices.max(1))) };
        self.total() - self.activations - all + part
    }

    /// What each part is called, and its bytes.
    pub fn parts(&self) -> [(&'static str, u64); 8] {
        let Self { weights, gradients, optimiser, activations, scratch, staging, gaps, products } = *self;
        [
            ("weights", weights),
            ("gradients", gradients),
            ("optimiser", optimiser),
            ("activations", activations),
            ("scratch", scratch),
            ("staging", staging),
            ("gaps", gaps),
            ("products", products),
        ]
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// Of that the arena, as a device is asked for it.
    pub fn needs(&self) -> Needs {
        let buffers = self.weights + self.gradients + self.optimiser + self.activations + self.gaps;
        Needs { buffers, scratch: self.scratch, staging: self.staging }
    }
}

/// What a run takes: steps, memory, operations.
#[derive(Debug, Clone)]
pub struct Budget {
    pub config: Config,
    pub num_weights: u64,
    /// Those of the matrices that one token meets.
    pub num_active_weights: u64,
    pub solved: Solved,
    pub sequences_per_pass: u32,
    pub passes: u32,
    /// What is computed again, and what the run takes with it.
    pub recompute: Recompute,
    pub memory: MemoryTable,
    /// Bytes of activations with each policy, the fastest first.
    pub policies: Vec<(Recompute, u64)>,
    pub machine: MachineSettings,
}

impl Budget {
    /// What follows from the recipe alone, before there are shards or weights; `None` where it leaves something to them.
    pub fn alone(recipe: &Recipe) -> Option<Self> {
        let config = Config::from_json(recipe.model.config.clone()).ok()?;
        Self::new(recipe, config, recipe.schedule.solve().ok()?).ok()
    }

    fn new(recipe: &Recipe, config: Config, solved: Solved) -> Result<Self, TrainError> {
        let (sequences_per_pass, passes) = recipe.passes(&solved)?;
        check_ranks(recipe.machine.ranks, passes, sequences_per_pass)?;
        let rows = rows(sequences_per_pass, &solved);
        let mut policies = Vec::new();
        for recompute in Recompute::ALL {
            policies.push((recompute, MemoryTable::new(&config, rows, passes, recipe, recompute)?.activations));
        }
        let machine = recipe.machine;
        let resident = MemoryTable::new(&config, rows, passes, recipe, Recompute::None)?.resident(&machine);
        let room = (machine.memory_bytes > 0.0).then_some(machine.memory_bytes - resident as f64);
        let recompute = recipe.batch.recompute.unwrap_or_else(|| fastest(&policies, room));
        let memory = MemoryTable::new(&config, rows, passes, recipe, recompute)?;
        let (num_weights, num_active_weights) = weights_of(&config);
        Ok(Self { config, num_weights, num_active_weights, solved, sequences_per_pass, passes, recompute, memory, policies, machine })
    }

    /// Tokens of a pass at most.
    pub fn rows(&self) -> usize {
        rows(self.sequences_per_pass, &self.solved)
    }

    /// Bytes of one device: of its rank or, of more devices than ranks, where all but the activations are shared out among them.
    pub fn device_bytes(&self) -> u64 {
        self.memory.resident(&self.machine) + self.memory.activations
    }

    /// Operations that training on one token takes: `6 N + 6 L Q D T`, with N the weights of matrices that a token meets (the head, not the
    /// look-up), L layers, Q heads of D, and half of T keys a token, since a token sees those before it (Chowdhery et al. 2022, appendix B,
    /// which counts all T).
    pub fn operations_per_token(&self) -> f64 {
        let Config { num_layers, num_heads, head_dim, .. } = self.config;
        let keys = self.config.window.map_or(self.solved.context_length as usize, |window| window.min(self.solved.context_length as usize));
        6.0 * self.num_active_weights as f64 + 6.0 * (num_layers * num_heads * head_dim * keys) as f64
    }

    /// Operations of the whole run.
    pub fn operations(&self) -> f64 {
        self.operations_per_token() * self.solved.total_tokens()
    }

    /// Seconds that the machine takes at the utilisation that is expected; `None` where its peak is not known.
    pub fn seconds(&self) -> Option<f64> {
        Some(self.operations() / (self.machine.peak()? * self.machine.utilisation))
    }
}

fn rows(sequences_per_pass: u32, solved: &Solved) -> usize {
    sequences_per_pass as usize * solved.context_length as usize
}

/// Whether ranks reach each other from device to device.
fn are_devices(recipe: &Recipe) -> bool {
    recipe.machine.ranks > 1 && recipe.device != "cpu"
}

/// What a rank with a GPU needs for gradients that come from others.
fn staging_bytes(recipe: &Recipe, parameters: &Parameters, owners: &[usize]) -> u64 {
    if !are_devices(recipe) {
        return 0;
    }
    let ranks = recipe.machine.ranks as usize;
    let of_all = |group: Range<usize>| (0..ranks).map(move |rank| load(parameters, owners, rank, group.clone()));
    exchange::staging_bytes(ranks, parameters.backward().flat_map(of_all).max().unwrap_or(0)) as u64
}

/// Numbers that a rank holds of some parameters.
fn load(parameters: &Parameters, owners: &[usize], rank: usize, group: Range<usize>) -> usize {
    group.filter(|&at| owners[at] == rank).map(|at| parameters.list[at].len()).sum()
}

/// What the kernels of a GPU ask for in a pass over so many rows, and for the norm.
fn scratch_bytes(config: &Config, rows: usize) -> Result<u64, ModelError> {
    let gpu = Gpu::new(Paper::default());
    let mut config = config.clone();
    if config.experts.is_some() {
        // Experts of other sizes are multiplied one by one, by the rows that each has got: none, on paper.
        config.intermediate_size = config.intermediate_size.next_multiple_of(64);
        if config.hidden_size.is_multiple_of(8) {
            config.hidden_size = config.hidden_size.next_multiple_of(64);
        }
    }
    let model = Model::allocate(&gpu, config.clone())?;
    let mut grads = Gradients::new(&gpu, &model.parameters)?;
    let mut batch = Batch::default();
    let documents = vec![0; rows];
    documents.chunks(config.max_positions.max(1)).for_each(|document| batch.push(document));
    let mut work = Workspace::new(&gpu, &config, rows)?;
    model.start_forward_backward(&gpu, &batch, 1.0, &mut work, &mut grads, &mut |_, _| Ok(()))?;
    let mut norm = gpu.new_norm(model.parameters.list.len(), 1.0)?;
    grads.squares(&gpu, &mut norm)?;
    Ok(gpu.scratch_bytes())
}

/// Every rank has to have something to do: which passes a step has decides its bits, so it is not for the ranks to change.
fn check_ranks(ranks: u32, passes: u32, sequences_per_pass: u32) -> Result<(), TrainError> {
    if ranks <= passes {
        return Ok(());
    }
    let sequences = u64::from(passes) * u64::from(sequences_per_pass);
    let remedy = match sequences / u64::from(ranks) {
        0 => format!("take at most {sequences} ranks, or more sequences in a step"),
        most => format!("set `batch.sequences_per_pass` to {most} or less"),
    };
    let problem = format!("is {ranks}, but a step has {passes} passes of {sequences_per_pass} sequences, and a rank takes whole passes");
    Err(key("machine.ranks", format!("{problem}: {remedy}")).into())
}

/// The first policy that fits into the room, where that is known; the leanest where none does.
fn fastest(policies: &[(Recompute, u64)], room_bytes: Option<f64>) -> Recompute {
    let Some(room_bytes) = room_bytes else { return Recompute::None };
    let fitting = policies.iter().find(|(_, bytes)| *bytes as f64 <= room_bytes);
    fitting.or(policies.last()).map_or(Recompute::None, |(recompute, _)| *recompute)
}

/// A run that could begin.
#[derive(Debug, Clone)]
pub struct Outline {
    pub budget: Budget,
    /// Folder of the weights it starts from; random ones where there is none.
    pub weights: Option<PathBuf>,
    /// Chunks of an epoch, and those that are held out and measured.
    pub num_chunks: u64,
    pub held_out: Vec<u64>,
    pub source_names: Vec<String>,
    pub data: Data,
    /// Hash of all that the steps depend on.
    pub fingerprint: String,
}

impl Outline {
    /// Reads the shards' sidecars and the model's config; no token and no weight.
    ///
    /// # Errors
    /// [`TrainError`] when shards, model and recipe do not fit together: names the key or file.
    pub fn new(recipe: &Recipe, base: &Path) -> Result<Self, TrainError> {
        let tokens = base.join(&recipe.corpus).join("tokens");
        if !tokens.is_dir() {
            let problem = format!("has no tokens: there is no folder {}; `osler corpus` makes it", tokens.display());
            return Err(key("corpus", problem).into());
        }
        let set = ShardSet::open(&tokens, &Expectations::default()).map_err(|error| TrainError::Shards(chain(&error)))?;
        let set = Arc::new(set);
        let weights = recipe.model.path.as_ref().map(|path| base.join(path));
        let config = match &weights {
            Some(path) => agreeing(Config::read(&path.join("config.json"))?, recipe)?,
            None => Config::from_json(completed(recipe, &set))?,
        };
        check_fit(&config, set.header())?;
        let order = Order::of(&set).map_err(|error| TrainError::Shards(error.to_string()))?;
        let (order, held_out) = order_and_held_out(recipe, &set, order)?;
        let num_chunks = order.chunks_per_epoch();
        let solved = solve(recipe, set.header().context_length, num_chunks, order.epochs())?;
        let epochs = (solved.steps * solved.sequences_per_step).div_ceil(num_chunks.max(1));
        let fingerprint = fingerprint(recipe, &set, weights.as_deref())?;
        let source_names = set.source_names().iter().map(|name| name.unwrap_or_default().to_string()).collect();
        let budget = Budget::new(recipe, config, solved)?;
        let data = Data::new(set, order, epochs, (budget.sequences_per_pass, budget.passes), recipe.batch.isolate_documents);
        Ok(Self { budget, weights, num_chunks, held_out, source_names, data, fingerprint })
    }
}

/// The order of what is trained on, and the chunks that are measured instead.
fn order_and_held_out(recipe: &Recipe, set: &ShardSet, order: Order) -> Result<(Order, Vec<u64>), TrainError> {
    let seed = order.seed().wrapping_add(recipe.seed);
    let order = order.with_seed(seed);
    let Some(every) = NonZeroU64::new(recipe.held_out.every_chunks) else { return Ok((order, Vec::new())) };
    let wrong = "cannot be used with a mix; measure on a corpus of its own";
    let order = order.holding_out(every).ok_or_else(|| key("held_out.every_chunks", wrong.into()))?;
    // Spread over the set, which is in order of sources.
    let available = set.num_chunks() / every;
    let count = available.min(recipe.held_out.max_chunks);
    Ok((order, (0..count).map(|at| (at * available / count + 1) * every.get() - 1).collect()))
}

fn check_fit(config: &Config, header: &Header) -> Result<(), TrainError> {
    if header.tokenizer.vocab_size as usize > config.vocab_size {
        let problem = format!("the shards have ids up to {}, the model {}", header.tokenizer.vocab_size - 1, config.vocab_size - 1);
        return Err(key("corpus", format!("{problem}: tokenise with the model's tokenizer")).into());
    }
    if header.context_length as usize > config.max_positions {
        let problem = format!("is {}, fewer than the {} of a chunk", config.max_positions, header.context_length);
        return Err(key("model.config.max_position_embeddings", format!("{problem}; `osler tokens repack` makes shorter ones")).into());
    }
    Ok(())
}

/// The model's config, if it is what the recipe says that it has to be.
fn agreeing(config: Config, recipe: &Recipe) -> Result<Config, TrainError> {
    let wanted = &recipe.model.config;
    let same = |wanted: &Value, got: &Value| wanted == got || wanted.as_f64().is_some_and(|wanted| got.as_f64() == Some(wanted));
    for (name, wanted) in wanted {
        // Transformers 5 has it one level down.
        let beside = config.source.get("rope_parameters").and_then(|parameters| parameters.get(name));
        let got = config.source.get(name).or(beside).unwrap_or(&Value::Null);
        if !same(wanted, got) {
            return Err(key(&format!("model.config.{name}"), format!("is {wanted}, and {got} in the model's config.json")).into());
        }
    }
    Ok(config)
}

/// All weights, and those of matrices that one token meets.
fn weights_of(config: &Config) -> (u64, u64) {
    let parameters = Parameters::new(config);
    let mut active = 0;
    for (at, parameter) in parameters.list.iter().enumerate() {
        let met = match config.experts {
            Some(experts) if parameter.names.len() > 1 => parameter.piece_len() * experts.top_k,
            _ => parameter.len(),
        };
        let looked_up = at == parameters.embedding && !config.tied;
        if parameter.decays() && !looked_up {
            active += met as u64;
        }
    }
    (parameters.num_weights() as u64, active)
}

/// `config.json` with what the shards know.
fn completed(recipe: &Recipe, set: &ShardSet) -> serde_json::Map<String, Value> {
    let tokenizer = &set.header().tokenizer;
    let mut config = recipe.model.config.clone();
    let mut put = |key: &str, value: Value| {
        config.entry(key).or_insert(value);
    };
    put("vocab_size", tokenizer.vocab_size.into());
    put("eos_token_id", tokenizer.eos_id.into());
    put("bos_token_id", tokenizer.bos_id.map_or(Value::Null, Value::from));
    config
}

fn solve(recipe: &Recipe, context_length: u32, num_chunks: u64, epochs: u32) -> Result<Solved, TrainError> {
    let mut schedule = recipe.schedule;
    let available = num_chunks * u64::from(context_length);
    if schedule.context_length.is_some_and(|wanted| wanted != context_length) {
        let problem = format!("the shards are packed for {context_length}; `osler tokens repack` packs them anew");
        return Err(key("schedule.context_length", problem).into());
    }
    schedule.context_length = Some(context_length);
    if schedule.tokens.is_some_and(|tokens| tokens > available) {
        return Err(key("schedule.tokens", format!("is more than the {available} that the shards give in an epoch")).into());
    }
    // What an epoch has is a fact of the shards, and nothing to solve for.
    let tokens = *schedule.tokens.get_or_insert(available);
    if schedule.steps.is_none() && schedule.epochs.is_none() {
        schedule.epochs = Some(f64::from(epochs));
    }
    let solved = schedule.solve().map_err(|error| key("schedule", error.to_string()))?;
    if tokens == available {
        return Ok(solved);
    }
    // An epoch of fewer tokens than the shards' says how much is trained, but no part of them comes again before all have come.
    let taken = (solved.steps * solved.sequences_per_step) as f64 * f64::from(context_length);
    Ok(Solved { tokens: available, epochs: taken / available.max(1) as f64, ..solved })
}

fn fingerprint(recipe: &Recipe, set: &ShardSet, weights: Option<&Path>) -> Result<String, TrainError> {
    let mut files = Vec::new();
    if let Some(folder) = weights {
        let io = |source| TrainError::Io { path: folder.to_path_buf(), source };
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "config.json" || name.ends_with(".safetensors") {
                files.push((name, entry.metadata().map_err(io)?.len()));
            }
        }
        files.sort_unstable();
    }
    let shards: Vec<_> = set.shards().iter().map(|shard| format!("{:?}", shard.header())).collect();
    let parts = serde_json::to_string(&(env!("CARGO_PKG_VERSION"), recipe.essence(), shards, files)).unwrap_or_default();
    Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(parts.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::golden_folder;
    use crate::optimiser::MomentKind;
    use crate::recipe::OptimiserSettings;
    use osler_kernels::Cpu;

    /// A small config, with heads that a GPU takes.
    fn config(kind: &str) -> Config {
        Config { head_dim: 32, ..Config::read(&golden_folder(kind).join("config.json")).unwrap() }
    }

    /// Kernels' own memory is counted where there are some, and a size that they do not take is an error before anything is begun.
    #[test]
    fn scratch_is_that_of_the_kernels() {
        let device = Recipe { precision: Precision::Bf16, device: "cuda".into(), ..Recipe::default() };
        let table =
            |head_dim, recipe: &Recipe| MemoryTable::new(&Config { head_dim, ..config("mistral") }, 640, 1, recipe, Recompute::None);
        let (cpu, small, large) = (table(32, &Recipe::default()).unwrap(), table(32, &device).unwrap(), table(128, &device).unwrap());
        let beside = |table: MemoryTable| table.scratch + table.staging + table.gaps + table.products;
        assert_eq!((beside(cpu), cpu.total()), (0, cpu.weights + cpu.gradients + cpu.optimiser + cpu.activations));
        assert_eq!(small.total() - beside(small), small.weights + small.gradients + small.optimiser + small.activations);
        assert_eq!((small.products, small.total() - small.needs().total()), (32 << 20, 32 << 20));
        // Attention's sums of four heads on Hopper, which has no kernels of its own for heads of 32.
        let sums = 640 * 4 * 128 * 4;
        assert!(small.scratch > 0 && small.scratch < sums && (sums..sums + sums / 20).contains(&large.scratch), "{small:?} {large:?}");
        let error = table(48, &device).unwrap_err().to_string();
        assert!(error.contains("`head_dim` must be 32, 64, 80, 96, 128 or 256 on a GPU"), "{error}");
    }

    /// The table against the buffers that a run really makes.
    #[test]
    fn the_table_is_what_a_run_takes() {
        for kind in ["mistral", "mixtral", "qwen2", "qwen3"] {
            let config = config(kind);
            let ops = Cpu::<f32>::new(1).unwrap();
            let model = Model::random(&ops, config.clone(), 1).unwrap();
            let table = MemoryTable::new(&config, 24, 2, &Recipe::default(), Recompute::None).unwrap();
            let weights: usize = model.weights.iter().map(|weight| weight.len() * 4).sum();
            assert_eq!(table.weights, (weights + config.max_positions * config.head_dim * 4) as u64);
            // The norm, what it may be, the factor, and a square for each.
            let norm = 8 * (model.parameters.list.len() + 3) as u64;
            let layers = &model.parameters.layers;
            let later: usize = layers[1..].iter().flat_map(|layer| layer.parameters()).map(|at| model.weights[at].len() * 4).sum();
            // The sums of a step, and what a pass has at a time: one layer, and what is outside them.
            assert_eq!((table.gradients, table.optimiser - norm), ((2 * weights - later) as u64, 2 * weights as u64));
            // A pass that is the only one has the sums.
            assert_eq!(MemoryTable::new(&config, 24, 1, &Recipe::default(), Recompute::None).unwrap().gradients, weights as u64);
            let with_master =
                MemoryTable::new(&config, 24, 2, &Recipe { precision: Precision::Bf16, ..Recipe::default() }, Recompute::None).unwrap();
            assert_eq!(with_master.optimiser - norm, 3 * weights as u64);
            let device = Recipe { precision: Precision::Bf16, device: "cuda".into(), ..Recipe::default() };
            // There a master weight takes but the other half of an f32.
            assert_eq!(MemoryTable::new(&config, 24, 2, &device, Recompute::None).unwrap().optimiser - norm, 5 * weights as u64 / 2);
            assert!(MemoryTable::new(&config, 24, 2, &device, Recompute::None).unwrap().weights < table.weights);
            // Half the sums of layers' matrices.
            let half = Recipe { optimiser: OptimiserSettings { gradients: GradientKind::Bf16, ..Default::default() }, ..device.clone() };
            let matrices: usize = layers
                .iter()
                .flat_map(|layer| layer.parameters())
                .filter(|&at| model.parameters.list[at].decays())
                .map(|at| model.weights[at].len())
                .sum();
            let sums = MemoryTable::new(&config, 24, 1, &device, Recompute::None).unwrap().gradients;
            for passes in [1, 2] {
                assert_eq!(MemoryTable::new(&config, 24, passes, &half, Recompute::None).unwrap().gradients, sums - 2 * matrices as u64);
            }
            // Moments of 8 bits and their scales, where a parameter is large enough.
            let wide = Config { intermediate_size: 256, ..config.clone() };
            let lens: Vec<usize> =
                Model::allocate(&Counter::new(4), wide.clone()).unwrap().parameters.list.iter().map(|p| p.len()).collect();
            let narrow =
                Recipe { optimiser: OptimiserSettings { moments: MomentKind::EightBit, ..Default::default() }, ..Recipe::default() };
            let moment = |len: usize| if len < 4096 { 4 * len } else { len + 4 * len.div_ceil(256) };
            let wanted: usize = lens.into_iter().map(|len| 2 * moment(len)).sum();
            assert_eq!(MemoryTable::new(&wide, 24, 2, &narrow, Recompute::None).unwrap().optimiser - norm, wanted as u64);
            let twice = MemoryTable::new(&config, 48, 2, &Recipe::default(), Recompute::None).unwrap();
            // All but the statistics of experts grows with the rows.
            assert!(2 * table.activations - twice.activations < 1000 && twice.total() > table.total(), "{table:?} {twice:?}");
        }
    }

    /// The same of the fullest of several ranks.
    #[test]
    fn the_table_is_what_a_rank_takes() {
        for kind in ["mistral", "mixtral"] {
            let config = config(kind);
            let table = |ranks: u32| {
                let machine = MachineSettings { ranks, ..MachineSettings::default() };
                MemoryTable::new(&config, 24, 2, &Recipe { machine, ..Recipe::default() }, Recompute::None).unwrap()
            };
            let (parameters, one) = (Parameters::new(&config), table(1));
            let norm = 8 * (parameters.list.len() + 3) as u64;
            let all = 4 * parameters.num_weights() as u64;
            for ranks in 2..=4 {
                let owners = ranks::owners(&parameters, ranks as usize);
                let part =
                    |rank: usize| -> usize { (0..owners.len()).filter(|&at| owners[at] == rank).map(|at| parameters.list[at].len()).sum() };
                let largest = 4 * (0..ranks as usize).map(part).max().unwrap() as u64;
                let of_rank = table(ranks);
                // Of two passes one rank keeps the losses of both, several of one each.
                assert_eq!((of_rank.weights, of_rank.activations), (one.weights, one.activations - 4 * (24 + 1)));
                assert_eq!((of_rank.optimiser - norm, of_rank.gradients), (2 * largest, one.gradients - all + largest));
                assert!(largest >= all / u64::from(ranks) && largest < all);
                // GPUs keep two layers' gradients (there are no more), and what comes from others, of the rank that has most of a layer or of what
                // is outside the layers.
                let machine = MachineSettings { ranks, ..MachineSettings::default() };
                let device = Recipe { device: "cuda".into(), machine, ..Recipe::default() };
                let of_device = MemoryTable::new(&config, 24, 2, &device, Recompute::None).unwrap();
                let layer: usize = parameters.layers[1].parameters().map(|at| parameters.list[at].len()).sum();
                let largest = parameters.list.iter().map(|parameter| parameter.len()).max().unwrap();
                let staging = of_device.staging;
                assert_eq!(of_device.gradients - of_rank.gradients, 4 * layer as u64);
                assert!(
                    parameters.layers.len() == 2
                        && staging >= u64::from(ranks - 1) * 4 * largest as u64
                        && staging < all * u64::from(ranks - 1)
                );
            }
        }
    }

    #[test]
    fn the_fastest_policy_that_fits_is_taken() {
        let config = Config::read(&golden_folder("mistral").join("config.json")).unwrap();
        let bytes = |recompute| MemoryTable::new(&config, 512, 2, &Recipe::default(), recompute).unwrap().activations;
        let policies: Vec<(Recompute, u64)> = Recompute::ALL.into_iter().map(|recompute| (recompute, bytes(recompute))).collect();
        // Each policy holds less than the one before.
        assert!(policies.windows(2).all(|pair| pair[0].1 > pair[1].1), "{policies:?}");
        assert_eq!(fastest(&policies, None), Recompute::None);
        for (recompute, bytes) in &policies {
            assert_eq!(fastest(&policies, Some(*bytes as f64)), *recompute);
        }
        assert_eq!(fastest(&policies, Some(-1.0)), Recompute::Layer);
    }

    /// The published runs, reckoned without a file: 260 billion tokens each.
    #[test]
    fn published_runs_are_reckoned_alone() {
        let budget = |name: &str| Budget::alone(&Recipe::parse(name, Recipe::shipped(name).unwrap(), &[]).unwrap());
        let mistral = budget("m42-mistral-cpt").unwrap();
        assert_eq!((mistral.solved.total_tokens(), mistral.solved.steps, mistral.passes), (260e9, 79_259, 400));
        // 6 × 7.1 billion for the weights, and a little for attention.
        assert!((4.2e10..4.6e10).contains(&mistral.operations_per_token()), "{}", mistral.operations_per_token());
        assert!((90.0..110.0).contains(&(mistral.seconds().unwrap() / 3600.0)), "{:?}", mistral.seconds());
        let mixtral = budget("m42-mixtral-cpt").unwrap();
        assert_eq!((mixtral.num_weights, mixtral.solved.steps), (46_702_792_704, 37_344));
        // A token meets two of eight experts: 12.9 billion weights, 131 million of them looked up.
        assert!((12.7e9..12.9e9).contains(&(mixtral.num_active_weights as f64)), "{}", mixtral.num_active_weights);
        assert_eq!(budget("definemed-cpt").unwrap().solved.steps, 9728);
        assert!(budget("sample").is_none(), "the shards say the rest");
    }

    #[test]
    fn a_model_has_to_be_what_the_recipe_says() {
        let config = || Config::read(&golden_folder("qwen2").join("config.json")).unwrap();
        let recipe = |keys: &str| Recipe::parse("r", &format!("[model]\npath = 'x'\n[model.config]\n{keys}"), &[]).unwrap();
        let hidden = config().hidden_size;
        assert!(agreeing(config(), &recipe(&format!("hidden_size = {hidden}"))).is_ok());
        let error = agreeing(config(), &recipe("hidden_size = 7")).unwrap_err().to_string();
        assert!(error.contains("`model.config.hidden_size`: is 7, and"), "{error}");
    }

    /// 7.24 billion weights, of which all but the look-up and the norms are met by each token: the published size of Mistral 7B.
    #[test]
    fn published_sizes() {
        let config = |text: &str| Config::from_json(serde_json::from_str(text).unwrap()).unwrap();
        let mistral = config(
            r#"{"model_type": "mistral", "hidden_act": "silu", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768}"#,
        );
        assert_eq!(weights_of(&mistral), (7_241_732_096, 7_241_732_096 - 32_000 * 4096 - 65 * 4096));
        let mixtral = config(
            r#"{"model_type": "mixtral", "hidden_act": "silu", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
            "num_local_experts": 8, "num_experts_per_tok": 2}"#,
        );
        assert_eq!(weights_of(&mixtral).0, 46_702_792_704);
    }
}
