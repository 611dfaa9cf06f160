//! Exact duplicates: takes out what stands elsewhere word for word, byte for byte, and proves that nothing is lost.
//!
//! # Rule
//! A *window* is `L` consecutive bytes inside one document. Documents are read in order, and each from left to right.
//! Under `keep = "first"`
//!
//! 1. a window is removed exactly if an equal window lies wholly in kept bytes and ends before it begins;
//! 2. a byte is removed exactly if a removed window covers it, and kept otherwise.
//!
//! Under `keep = "none"` a window is removed exactly if an equal one begins elsewhere, overlapping or not.
//!
//! # The rule has one solution, and a scan finds it
//! Number the bytes of all documents in order. By (2) the fate of byte `b` depends on the windows that begin at or before `b`; by (1) the
//! fate of a window that begins at `p` depends on bytes before `p`. So the fate of `b` depends only on bytes before `b`: by induction it is
//! determined, and known when the scan has passed `b`. Two facts then suffice per position `p`: whether the window at `p` equals one that
//! is known to be wholly kept (it then ends at or before `p`, since all its bytes have been passed), and whether the last `L` bytes of this
//! document up to `p` are all kept (the window that they form is from now on a kept one). So what is held per class of equal windows is
//! where the first kept one is, in ranges of classes that are in a row as their windows are; equal windows come from one of two engines
//! ([`sparse`], [`suffix_array`]). The scan goes from run to run of repeated windows, not from byte to byte.
//!
//! # Nothing is lost
//! Every removed window is equal to one of which every byte is kept, in one document and so without a gap: it stands verbatim in the
//! output of the pass. That holds for repeats that overlap themselves too: of a megabyte of one byte the first `L` are kept, of "abcabc…"
//! `L` and at most two more, where removing every window but the first of its class would leave one period, too short to hold a window.
//! The next pass reads the output of this one and keeps the same promise for its own windows.
//!
//! # Characters and words
//! A cut never divides a character: a character is removed exactly if it lies wholly in one removed window, and with
//! `boundary = "word"` the part of a word at each end of a cut is given back. Both only keep more than the rule does, so every kept
//! window stays kept. Each span of the result has one copy in kept text, byte for byte; [`verify`] checks it after every pass.

pub mod cut;
pub mod keep_first;
mod kept;
pub mod resources;
pub mod sparse;
pub mod suffix_array;
pub mod text;
pub mod verify;
pub mod windows;

pub use cut::{Cut, OffsetMap, SpanTable, cut};
pub use resources::Resources;
pub use text::{ArenaWriter, TextArena};
pub use verify::verify;

use crate::operator::{Error, Operator, Sink, give};
use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::SchemaRef;
use keep_first::Removals;
use osler_schemas::expect;
use osler_schemas::span::{self, Span};
use serde::{Deserialize, Serialize};
use sparse::SparseClasses;
use std::collections::BTreeMap;
use std::sync::Arc;
use suffix_array::SuffixArrayClasses;
use windows::WindowClasses;

/// Name of the stage in counts and the ledger.
pub const STAGE: &str = "exact-duplicates";

/// Rows per batch of spans given out.
const BATCH_ROWS: usize = 8192;

/// What counts as a repeat and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExactDuplicatesConfig {
    pub enabled: bool,
    /// Bytes a repeat must have at least (inclusive), pass by pass; each pass reads what the one before left.
    pub passes: Vec<usize>,
    pub keep: Keep,
    pub boundary: Boundary,
    /// Put where a cut has kept text on both sides.
    pub join: String,
    /// The run stops when a source would lose more than this share of its bytes.
    pub removed_share_max: f64,
    pub engine: Engine,
}

/// Which occurrence of a repeat is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The first in document order.
    First,
    /// None: every occurrence goes, as in Lee et al. 2021.
    None,
}

/// Where a cut may fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// Between characters.
    Character,
    /// Between words: runs of characters between white space.
    Word,
}

/// How equal windows are found. The result does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// Anchors in a few positions out of a hundred, and what lies around them.
    SparseSuffixArray,
    /// The full suffix array of all text, in memory: the reference.
    SuffixArray,
}

impl Default for ExactDuplicatesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            passes: vec![400, 100],
            keep: Keep::First,
            boundary: Boundary::Character,
            join: "\n".to_string(),
            removed_share_max: 0.9,
            engine: Engine::SparseSuffixArray,
        }
    }
}

/// Longest repeat that a pass may ask for, in bytes.
const LENGTH_MAX: usize = 1 << 30;

impl ExactDuplicatesConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, problem: String| Err(Error::Config { operator: STAGE, setting, problem });
        if let Some(pass) = self.passes.iter().position(|length| *length == 0) {
            return wrong("passes", format!("has length 0 for pass {pass}; a repeat has at least one byte"));
        }
        if let Some(pass) = self.passes.iter().position(|length| *length > LENGTH_MAX) {
            return wrong("passes", format!("has a length of more than {LENGTH_MAX} bytes for pass {pass}, which no document repeats"));
        }
        if !(0.0..=1.0).contains(&self.removed_share_max) {
            return wrong("removed_share_max", format!("is {}; a share lies between 0 and 1", self.removed_share_max));
        }
        Ok(())
    }
}

/// Collects documents, and finds their repeats at the end.
#[derive(Debug)]
pub struct ExactDuplicates {
    config: ExactDuplicatesConfig,
    resources: Resources,
    source_names: Vec<String>,
    arena: ArenaWriter,
    last_ordinal: Option<u64>,
}

impl ExactDuplicates {
    /// # Errors
    /// As for [`ExactDuplicatesConfig::validate`].
    pub fn new(config: ExactDuplicatesConfig) -> Result<Self, Error> {
        config.validate()?;
        let resources = Resources::default();
        let arena = ArenaWriter::new(&resources);
        Ok(Self { config, resources, source_names: Vec::new(), arena, last_ordinal: None })
    }

    /// Sets what the stage may use, before the first document.
    pub fn with_resources(mut self, resources: Resources) -> Self {
        // The full suffix array has no use for text that is not in memory.
        let scratch = resources.scratch.filter(|_| self.config.engine == Engine::SparseSuffixArray);
        self.resources = Resources { scratch, ..resources };
        self.arena = ArenaWriter::new(&self.resources);
        self
    }

    /// Gives sources, by their index, the names that errors call them by.
    pub fn with_source_names(mut self, names: Vec<String>) -> Self {
        self.source_names = names;
        self
    }

    /// Adds a document.
    ///
    /// # Errors
    /// [`Error::Data`] when `ordinal` is not greater than the last one, or memory runs out.
    pub fn push_document(&mut self, ordinal: u64, source_index: u32, text: &str) -> Result<(), Error> {
        if let Some(last) = self.last_ordinal.replace(ordinal).filter(|last| *last >= ordinal) {
            let problem = format!("document {ordinal} came after document {last}; documents must be sorted by `ordinal`");
            return Err(Error::Data { operator: STAGE, problem });
        }
        self.arena.push(ordinal, source_index, text)
    }

    /// Bytes of memory that the end will take for the documents so far: they have to be within the budget before it begins.
    pub fn memory_bytes(&self) -> usize {
        let num_bytes = self.arena.num_bytes() as u64;
        let peak = match self.config.engine {
            Engine::SuffixArray => suffix_array::memory_bytes(num_bytes).saturating_add(num_bytes / 8 + num_bytes),
            Engine::SparseSuffixArray => sparse::memory_bytes(num_bytes).min(self.resources.index_bytes()),
        };
        self.arena.memory_bytes().saturating_add(usize::try_from(peak).unwrap_or(usize::MAX))
    }

    /// Runs every pass.
    ///
    /// # Errors
    /// [`Error::Data`] when a source would lose too much, or memory runs out; [`Error::Io`] when the scratch folder cannot be used;
    /// [`Error::Closed`] when the run should stop.
    pub fn finish(self) -> Result<Outcome, Error> {
        let Self { config, resources, source_names, arena, .. } = self;
        let mut arena = arena.finish()?;
        let mut outcome = Outcome::default();
        for index in 0..arena.len() {
            let source = outcome.sources.entry(arena.source_index(index)).or_default();
            source.bytes_in += arena.range(index).len() as u64;
            source.bytes_out = source.bytes_in;
            source.removed_bytes.resize(config.passes.len(), 0);
            source.covered_bytes.resize(config.passes.len(), 0);
        }
        let passes = if config.enabled { config.passes.as_slice() } else { &[] };
        for (pass, &length) in passes.iter().enumerate() {
            let (spans, covered_bytes) = run_pass(&arena, &config, length, &resources)?;
            verify(&arena, &spans, &resources)?;
            outcome.count(pass, &arena, &spans, &covered_bytes);
            arena = cut_all(arena, &spans, &config.join, &resources)?;
            outcome.guard(&arena, config.removed_share_max, &source_names)?;
            outcome.passes.push(spans);
        }
        outcome.arena = arena;
        Ok(outcome)
    }
}

/// What all passes removed, and what is left.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Spans by pass, sorted by ordinal and start.
    pub passes: Vec<Vec<RemovedSpan>>,
    /// Bytes by source index.
    pub sources: BTreeMap<u32, SourceBytes>,
    arena: TextArena,
}

/// One removed span, in offsets of the text as its pass saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovedSpan {
    pub ordinal: u64,
    pub span: Span,
    /// Ordinal of the document, and first byte in it, where the same bytes are kept; `None` under `keep = "none"`.
    pub partner: Option<(u64, u64)>,
}

/// Text bytes of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceBytes {
    /// Before the first pass.
    pub bytes_in: u64,
    /// After the last pass, with what was put where cuts have kept text on both sides.
    pub bytes_out: u64,
    /// Removed, by pass.
    pub removed_bytes: Vec<u64>,
    /// Covered by a removed window, by pass: `removed_bytes` and what was given back so as not to divide characters or words.
    pub covered_bytes: Vec<u64>,
}

impl Outcome {
    /// The texts after the last pass, with their ordinals.
    pub fn texts(&self) -> impl Iterator<Item = (u64, &str)> {
        (0..self.arena.len()).map(|index| (self.arena.ordinal(index), self.arena.text(index)))
    }

    /// The spans as batches of [`span::schema`], sorted by pass, ordinal and start.
    ///
    /// # Errors
    /// [`Error::Arrow`] when a batch cannot be built.
    pub fn span_batches(&self) -> impl Iterator<Item = Result<RecordBatch, Error>> {
        let passes = self.passes.iter().enumerate();
        passes.flat_map(|(pass, spans)| spans.chunks(BATCH_ROWS).map(move |spans| span_batch(pass as u32, spans)))
    }

    fn count(&mut self, pass: usize, arena: &TextArena, spans: &[RemovedSpan], covered_bytes: &[usize]) {
        let mut spans = spans.iter().peekable();
        for (index, covered) in covered_bytes.iter().enumerate() {
            let source = self.sources.entry(arena.source_index(index)).or_default();
            source.covered_bytes[pass] += *covered as u64;
            while let Some(span) = spans.next_if(|span| span.ordinal == arena.ordinal(index)) {
                source.removed_bytes[pass] += span.span.len();
            }
        }
    }

    /// Compares what is left in `arena` with what came in. What was removed would not do: a later pass can remove what a cut put in.
    fn guard(&mut self, arena: &TextArena, removed_share_max: f64, names: &[String]) -> Result<(), Error> {
        self.sources.values_mut().for_each(|source| source.bytes_out = 0);
        for index in 0..arena.len() {
            self.sources.entry(arena.source_index(index)).or_default().bytes_out += arena.range(index).len() as u64;
        }
        for (index, source) in &self.sources {
            let share = 1.0 - source.bytes_out as f64 / source.bytes_in.max(1) as f64;
            if source.bytes_in > 0 && share > removed_share_max {
                let name = names.get(*index as usize).map_or_else(|| format!("number {index}"), |name| format!("`{name}`"));
                let problem = format!(
                    "source {name} would lose {:.1} % of its bytes, more than `removed_share_max` = {removed_share_max} allows; \
                     see whether it holds other documents than you think, or raise the limit",
                    share * 100.0
                );
                return Err(Error::Data { operator: STAGE, problem });
            }
        }
        Ok(())
    }
}

fn span_batch(pass: u32, spans: &[RemovedSpan]) -> Result<RecordBatch, Error> {
    let numbers = |value: &dyn Fn(&RemovedSpan) -> Option<u64>| -> ArrayRef { Arc::new(spans.iter().map(value).collect::<UInt64Array>()) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_value(pass, spans.len())),
        numbers(&|span| Some(span.ordinal)),
        numbers(&|span| Some(span.span.start)),
        numbers(&|span| Some(span.span.end)),
        numbers(&|span| span.partner.map(|(ordinal, _)| ordinal)),
        numbers(&|span| span.partner.map(|(_, start)| start)),
    ];
    RecordBatch::try_new(span::schema(), columns).map_err(|source| Error::Arrow { operator: STAGE, source })
}

/// One pass: its spans, and the bytes that removed windows cover, by document.
fn run_pass(
    arena: &TextArena,
    config: &ExactDuplicatesConfig,
    length: usize,
    resources: &Resources,
) -> Result<(Vec<RemovedSpan>, Vec<usize>), Error> {
    let Removals { mut removals, covered_bytes } = match config.engine {
        Engine::SparseSuffixArray => removals(arena, &SparseClasses::find(arena, length, resources)?, config.keep, length, resources)?,
        Engine::SuffixArray => match SuffixArrayClasses::find(arena, length)? {
            SuffixArrayClasses::Narrow(classes) => removals(arena, &classes, config.keep, length, resources)?,
            SuffixArrayClasses::Wide(classes) => removals(arena, &classes, config.keep, length, resources)?,
        },
    };
    if config.boundary == Boundary::Word {
        keep_first::give_back_partial_words(arena, &mut removals);
    }
    let place = |position: usize| {
        let index = arena.document_at(position);
        (arena.ordinal(index), (position - arena.range(index).start) as u64)
    };
    let spans = removals.iter().map(|removal| {
        let (ordinal, start) = place(removal.start);
        let span = Span { start, end: start + (removal.end - removal.start) as u64 };
        RemovedSpan { ordinal, span, partner: removal.copy.map(place) }
    });
    Ok((spans.collect(), covered_bytes))
}

fn removals(arena: &TextArena, classes: &impl WindowClasses, keep: Keep, length: usize, resources: &Resources) -> Result<Removals, Error> {
    match keep {
        Keep::First => keep_first::keep_first(arena, classes, length, resources),
        Keep::None => Ok(keep_first::keep_none(arena, classes, length)),
    }
}

/// The documents without `spans`, which are those of [`verify`].
///
/// # Errors
/// As for [`ArenaWriter::push`].
pub fn cut_all(mut arena: TextArena, spans: &[RemovedSpan], join: &str, resources: &Resources) -> Result<TextArena, Error> {
    if spans.is_empty() {
        return Ok(arena);
    }
    // Then no text is ever further right than it was.
    let in_place = spans.iter().all(|span| span.span.len() >= join.len() as u64);
    if in_place && arena.is_in_memory() {
        arena.cut_in_place(spans, join, resources)?;
        return Ok(arena);
    }
    let mut rest = spans;
    let mut left = ArenaWriter::new(resources);
    for index in 0..arena.len() {
        let (ordinal, text) = (arena.ordinal(index), arena.text(index));
        let (own, others) = rest.split_at(rest.partition_point(|span| span.ordinal <= ordinal));
        let own: Vec<Span> = own.iter().map(|span| span.span).collect();
        left.push(ordinal, arena.source_index(index), &OffsetMap::new(text.len(), &own, join.len()).cut(text, join))?;
        rest = others;
    }
    left.finish()
}

/// The operator: batches with `ordinal`, `source_index` and `text` in, sorted by ordinal; rows of [`span::schema`] out, at the end.
#[derive(Debug)]
pub struct FindExactDuplicates {
    state: Option<ExactDuplicates>,
    sources: BTreeMap<u32, SourceBytes>,
}

impl FindExactDuplicates {
    /// `source_names` by source index; they may be missing.
    ///
    /// # Errors
    /// As for [`ExactDuplicatesConfig::validate`].
    pub fn new(config: ExactDuplicatesConfig, source_names: Vec<String>) -> Result<Self, Error> {
        Ok(Self { state: Some(ExactDuplicates::new(config)?.with_source_names(source_names)), sources: BTreeMap::new() })
    }

    /// Sets what the stage may use, before the first batch.
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.state = self.state.map(|state| state.with_resources(resources));
        self
    }

    /// Bytes by source index, once finished.
    pub fn sources(&self) -> &BTreeMap<u32, SourceBytes> {
        &self.sources
    }
}

impl Operator for FindExactDuplicates {
    fn name(&self) -> &'static str {
        STAGE
    }

    fn output_schema(&self) -> SchemaRef {
        span::schema()
    }

    fn push(&mut self, batch: RecordBatch, _out: &mut dyn Sink) -> Result<(), Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let ordinals = expect::u64(&batch, "ordinal").map_err(schema)?;
        let sources = expect::u32(&batch, "source_index").map_err(schema)?;
        let texts = expect::utf8(&batch, "text").map_err(schema)?;
        let Some(state) = &mut self.state else { return Err(Error::Closed) };
        (0..batch.num_rows()).try_for_each(|row| state.push_document(ordinals.value(row), sources.value(row), texts.value(row)))
    }

    fn finish(&mut self, out: &mut dyn Sink) -> Result<(), Error> {
        let Some(state) = self.state.take() else { return Ok(()) };
        let outcome = state.finish()?;
        for batch in outcome.span_batches() {
            give(out, batch?)?;
        }
        self.sources = outcome.sources;
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, ExactDuplicates::memory_bytes)
    }
}

#[cfg(test)]
mod tests;
