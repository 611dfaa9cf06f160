//! What a run will take: every stage's operator runs over a sample of the documents, and what that took is scaled to all of them.
//!
//! What does not grow with the text alone (sorts within and beyond the memory budget) follows formulas whose constants were fitted to the
//! runs of `docs/benchmarks.md`.

use crate::boundary::encoded_bytes;
use crate::error::Error;
use crate::near::fault;
use crate::pool::SPILL_SHARE;
use crate::recipe::Recipe;
use crate::session::POOL_SHARE;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use osler_corpus::exact_duplicates::{FindExactDuplicates, Resources};
use osler_corpus::near_duplicates::cluster::DOCUMENT_BYTES;
use osler_corpus::near_duplicates::sketch::Sketch;
use osler_corpus::operator::Operator;
use osler_corpus::tokenize::{Tokenize, Tokenizer};
use osler_schemas::expect;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Instant;

/// Text bytes of a source over which the operators run.
pub const SAMPLE_BYTES: usize = 8 << 20;

/// Documents, and what one thread's work on them takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    pub documents: f64,
    pub text_bytes: f64,
    pub parse_seconds: f64,
    pub encode_seconds: f64,
    pub encoded_bytes: f64,
    pub sketch_seconds: f64,
    pub band_rows: f64,
    pub exact_seconds: f64,
    pub tokenize_seconds: f64,
    pub tokens: f64,
}

impl Work {
    /// The same for `factor` times as many documents of the same kind.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            documents: self.documents * factor,
            text_bytes: self.text_bytes * factor,
            parse_seconds: self.parse_seconds * factor,
            encode_seconds: self.encode_seconds * factor,
            encoded_bytes: self.encoded_bytes * factor,
            sketch_seconds: self.sketch_seconds * factor,
            band_rows: self.band_rows * factor,
            exact_seconds: self.exact_seconds * factor,
            tokenize_seconds: self.tokenize_seconds * factor,
            tokens: self.tokens * factor,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.documents += other.documents;
        self.text_bytes += other.text_bytes;
        self.parse_seconds += other.parse_seconds;
        self.encode_seconds += other.encode_seconds;
        self.encoded_bytes += other.encoded_bytes;
        self.sketch_seconds += other.sketch_seconds;
        self.band_rows += other.band_rows;
        self.exact_seconds += other.exact_seconds;
        self.tokenize_seconds += other.tokenize_seconds;
        self.tokens += other.tokens;
    }
}

/// Tokens a byte, and bytes a second and thread, of a tokenizer that is still to be trained.
const TRAINED: (f64, f64) = (0.23, 25e6);

/// Runs the operators of the recipe over batches of [`osler_schemas::document::flow_schema`]; all but parsing.
///
/// # Errors
/// What an operator or the disk runs into.
pub fn measure(recipe: &Recipe, sample: &[RecordBatch], tokenizer: Option<&Arc<Tokenizer>>) -> Result<Work, Error> {
    let mut work = Work::default();
    for batch in sample {
        let bytes = expect::u64(batch, "num_bytes").map_err(|error| Error::Internal(error.to_string()))?;
        work.documents += batch.num_rows() as f64;
        work.text_bytes += bytes.values().iter().sum::<u64>() as f64;
    }
    let timed = |work: &mut dyn FnMut() -> Result<(), Error>| -> Result<f64, Error> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    };
    work.encode_seconds = timed(&mut || {
        work.encoded_bytes = encoded_bytes(sample)? as f64;
        Ok(())
    })?;
    let mut next = 0;
    let numbered: Vec<RecordBatch> = sample.iter().map(|batch| with_ordinals(batch, &mut next)).collect::<Result<_, _>>()?;
    if recipe.near_duplicates.enabled {
        let mut rows = 0;
        let mut sketch = Sketch::new(&recipe.near_duplicates).map_err(fault)?;
        work.sketch_seconds = timed(&mut || run(&mut sketch, &numbered, |batch| rows += batch.num_rows()))?;
        work.band_rows = rows as f64;
    }
    if recipe.exact_duplicates.enabled {
        // The guard is for whole sources.
        let config = osler_corpus::exact_duplicates::ExactDuplicatesConfig { removed_share_max: 1.0, ..recipe.exact_duplicates.clone() };
        let mut find = FindExactDuplicates::new(config, Vec::new()).map_err(fault)?.with_resources(Resources::default());
        work.exact_seconds = timed(&mut || run(&mut find, &numbered, |_| ()))?;
    }
    (work.tokens, work.tokenize_seconds) = (work.text_bytes * TRAINED.0, work.text_bytes / TRAINED.1);
    if let Some(tokenizer) = tokenizer {
        let mut tokens = 0;
        let mut operator = Tokenize::new(tokenizer.clone());
        let mut count = |batch: &RecordBatch| tokens += batch.column(2).as_list_opt::<i32>().map_or(0, |ids| ids.values().len());
        work.tokenize_seconds = timed(&mut || run(&mut operator, sample, &mut count))?;
        work.tokens = tokens as f64;
    }
    Ok(work)
}

/// Runs an operator, and gives `each` what comes out.
fn run(operator: &mut dyn Operator, batches: &[RecordBatch], mut each: impl FnMut(&RecordBatch)) -> Result<(), Error> {
    let mut out: Vec<RecordBatch> = Vec::new();
    for batch in batches {
        operator.push(batch.clone(), &mut out).map_err(fault)?;
        out.drain(..).for_each(|batch| each(&batch));
    }
    operator.finish(&mut out).map_err(fault)?;
    out.iter().for_each(each);
    Ok(())
}

/// Numbers the documents, as the sort by source and id does.
fn with_ordinals(batch: &RecordBatch, next: &mut u64) -> Result<RecordBatch, Error> {
    let rows = batch.num_rows() as u64;
    let mut fields = vec![Field::new("ordinal", DataType::UInt64, false)];
    fields.extend(batch.schema().fields().iter().map(|field| field.as_ref().clone()));
    let mut columns: Vec<ArrayRef> = vec![Arc::new((*next..*next + rows).collect::<UInt64Array>())];
    columns.extend(batch.columns().iter().cloned());
    *next += rows;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|error| Error::Internal(error.to_string()))
}

/// What a run takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    pub seconds: f64,
    /// Most memory that a stage holds.
    pub memory_bytes: f64,
    /// Disk that `work/` keeps.
    pub work_bytes: f64,
    /// Disk that the corpus and its tokens keep.
    pub output_bytes: f64,
    /// Disk at any time, at most: a stage gives back what it spills.
    pub peak_disk_bytes: f64,
}

/// Memory of the program and the buffers of readers and writers.
const BASE_BYTES: f64 = 150e6;
/// Bytes of a row of a document beside its text, in a sort.
const ROW_BYTES: f64 = 250.0;
/// Share of what sorts may fill of the pool that one does fill before it spills.
const SORT_SHARE: f64 = 0.83;
/// Seconds a row takes in the sort of documents, and in the corpus's writer.
const SORT_ROW_SECONDS: f64 = 11e-6;
const CORPUS_ROW_SECONDS: f64 = 8e-6;
/// Seconds a byte takes to be read from a table, and to be spilled and read again.
const READ_SECONDS: f64 = 5.5e-9;
const SPILL_SECONDS: f64 = 4e-9;
/// Seconds a band key takes to be sorted and grouped.
const BAND_SECONDS: f64 = 0.55e-6;
/// Bytes of a band key and its document.
const BAND_BYTES: f64 = 16.0;
/// Bytes of anchors per byte of text and window length: three anchors per window of 24 bytes each.
const ANCHOR_BYTES: f64 = 72.0;
/// Seconds that a vocabulary takes to be trained, and seconds a byte takes to be counted for it.
const TRAIN_SECONDS: (f64, f64) = (8.0, 5e-9);
/// Bytes of a token in a shard, and of the sidecar that says which documents it belongs to.
const TOKEN_BYTES: f64 = 2.5;

impl Estimate {
    /// What the stages of `recipe` take for `work`.
    pub fn new(recipe: &Recipe, work: &Work) -> Result<Self, Error> {
        let budget_bytes = recipe.memory_bytes()? as f64;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(recipe.num_threads()) as f64;
        let stages = [
            documents(work, budget_bytes, cores),
            near(recipe, work, budget_bytes, cores),
            exact(recipe, work, budget_bytes, cores),
            corpus(work),
            tokens(recipe, work, cores),
        ];
        let most = |of: fn(&Stage) -> f64| stages.iter().map(of).fold(0.0, f64::max);
        let output_bytes = work.encoded_bytes + TOKEN_BYTES * work.tokens;
        Ok(Self {
            seconds: stages.iter().map(|stage| stage.seconds).sum(),
            memory_bytes: BASE_BYTES + most(|stage| stage.held_bytes),
            work_bytes: work.encoded_bytes,
            output_bytes,
            peak_disk_bytes: work.encoded_bytes + output_bytes.max(most(|stage| stage.spill_bytes)),
        })
    }
}

/// What one stage takes.
#[derive(Debug, Clone, Copy, Default)]
struct Stage {
    seconds: f64,
    held_bytes: f64,
    spill_bytes: f64,
}

/// Sorted within the budget, or spilled.
fn sort(bytes: f64, budget_bytes: f64) -> Stage {
    let room = (SORT_SHARE * SPILL_SHARE * POOL_SHARE * budget_bytes).max(0.0);
    let spilled = if 1.3 * bytes > room { bytes } else { 0.0 };
    Stage { seconds: spilled * SPILL_SECONDS, held_bytes: room.min(1.3 * bytes), spill_bytes: 1.1 * spilled }
}

fn documents(work: &Work, budget_bytes: f64, cores: f64) -> Stage {
    let sort = sort(work.text_bytes + ROW_BYTES * work.documents, budget_bytes);
    Stage { seconds: sort.seconds + work.parse_seconds / cores + work.documents * SORT_ROW_SECONDS, ..sort }
}

fn near(recipe: &Recipe, work: &Work, budget_bytes: f64, cores: f64) -> Stage {
    if !recipe.near_duplicates.enabled {
        return Stage::default();
    }
    // What keepers are chosen by is held meanwhile; clustering takes about as much again.
    let clustering = work.documents * DOCUMENT_BYTES as f64;
    let sort = sort(BAND_BYTES * work.band_rows, budget_bytes - clustering / 2.0 / POOL_SHARE);
    let seconds = (work.sketch_seconds + work.text_bytes * READ_SECONDS) / cores + work.band_rows * BAND_SECONDS;
    Stage { seconds: seconds + sort.seconds, held_bytes: clustering.max(clustering / 2.0 + sort.held_bytes), ..sort }
}

fn exact(recipe: &Recipe, work: &Work, budget_bytes: f64, cores: f64) -> Stage {
    let Some(shortest) = recipe.exact_duplicates.passes.iter().min().filter(|_| recipe.exact_duplicates.enabled) else {
        return Stage::default();
    };
    let share = budget_bytes / 9.0;
    let index = work.text_bytes * ANCHOR_BYTES / *shortest as f64;
    // The text before a pass and what it leaves.
    let beyond = |bytes: f64| if bytes > share { bytes } else { 0.0 };
    let spill_bytes = 2.0 * beyond(work.text_bytes) + beyond(index);
    let seconds = work.text_bytes * READ_SECONDS + work.exact_seconds * if spill_bytes > 0.0 { 1.0 } else { 0.4 + 0.6 / cores };
    Stage { seconds, held_bytes: 2.0 * work.text_bytes.min(share) + index.min(share), spill_bytes }
}

fn corpus(work: &Work) -> Stage {
    let seconds = work.encode_seconds.max(work.text_bytes * READ_SECONDS) + work.documents * CORPUS_ROW_SECONDS;
    Stage { seconds, ..Stage::default() }
}

fn tokens(recipe: &Recipe, work: &Work, cores: f64) -> Stage {
    let training = if recipe.tokenizer.path.is_none() { TRAIN_SECONDS.0 + TRAIN_SECONDS.1 * work.text_bytes } else { 0.0 };
    Stage { seconds: training + work.tokenize_seconds / cores, ..Stage::default() }
}
