//! Operators as plain data: what a plan node holds, what travels to another machine, and how an operator is built from it.

use crate::context::Context;
use crate::parse::Parse;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use osler_corpus::exact_duplicates::{Cut, ExactDuplicatesConfig, FindExactDuplicates, Resources, SpanTable};
use osler_corpus::length_filter::{FilterStage, LengthFilter, LengthFilterConfig};
use osler_corpus::near_duplicates::NearDuplicatesConfig;
use osler_corpus::near_duplicates::candidates::{Candidates, candidate_schema};
use osler_corpus::near_duplicates::sketch::Sketch;
use osler_corpus::operator::{Error, Operator};
use osler_corpus::tokenize::{Tokenize, Tokenizer, TokenizerConfig};
use osler_datasets::limits::Limits;
use osler_datasets::source::SourceConfig;
use osler_schemas::{document, sequence, sketch, span};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One operator with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operator", rename_all = "kebab-case")]
pub enum OperatorSpec {
    Parse { sources: Vec<SourceConfig>, limits: Limits, batch_rows: usize },
    LengthFilter { config: LengthFilterConfig },
    Sketch { config: NearDuplicatesConfig, copies: PathBuf },
    Candidates,
    FindExactDuplicates { config: ExactDuplicatesConfig, source_names: Vec<String>, threads: usize, memory_bytes: u64, scratch: PathBuf },
    Cut { config: ExactDuplicatesConfig, spans: PathBuf },
    AfterCut { config: LengthFilterConfig, spans: PathBuf },
    Tokenize { config: TokenizerConfig, file: PathBuf, threads: usize },
}

impl OperatorSpec {
    /// Schema of what the operator gives out for input of `input`.
    pub fn output_schema(&self, input: &SchemaRef) -> SchemaRef {
        match self {
            Self::Parse { .. } => document::flow_schema(),
            Self::LengthFilter { .. } | Self::Cut { .. } | Self::AfterCut { .. } => input.clone(),
            Self::Sketch { .. } => sketch::band_schema(),
            Self::Candidates => candidate_schema(),
            Self::FindExactDuplicates { .. } => span::schema(),
            Self::Tokenize { .. } => sequence::document_tokens_schema(),
        }
    }

    /// Whether the operator has to see every row in one place and in order.
    pub fn is_blocking(&self) -> bool {
        matches!(self, Self::FindExactDuplicates { .. } | Self::Tokenize { .. })
    }

    /// Columns that rows have to agree in to be needed in one place.
    pub fn required_grouping(&self) -> &'static [&'static str] {
        match self {
            Self::Candidates => &["key"],
            _ => &[],
        }
    }

    /// Columns by which the operator's input has to be sorted; an optimiser would otherwise take the sort below it for idle.
    pub fn required_order(&self) -> &'static [&'static str] {
        match self {
            Self::Candidates => &["key"],
            Self::FindExactDuplicates { .. } => &["ordinal"],
            _ => &[],
        }
    }

    /// Whether rows come out in the order they went in, with the columns they came with.
    pub fn keeps_order(&self) -> bool {
        matches!(self, Self::LengthFilter { .. } | Self::Cut { .. } | Self::AfterCut { .. })
    }

    /// The operator, ready to take batches of `input`.
    ///
    /// # Errors
    /// When a setting cannot work, or a file the operator loads cannot be read.
    pub fn build(&self, context: &Arc<Context>, input: &SchemaRef) -> Result<Box<dyn Operator>, Error> {
        Ok(match self {
            Self::Parse { sources, limits, batch_rows } => {
                Box::new(Parse::new(Arc::new(sources.clone()), *limits, *batch_rows, context.clone()))
            }
            Self::LengthFilter { config } => Box::new(LengthFilter::new(config.clone(), FilterStage::LengthFilter, input.clone())),
            Self::AfterCut { config, spans } => {
                let batches = read_table(spans).map_err(|source| io(spans, source))?;
                let holders = batches.iter().filter_map(|batch| batch.column_by_name("partner")?.as_primitive_opt::<UInt64Type>());
                let stage = FilterStage::AfterCut { holders: holders.flat_map(|column| column.iter().flatten()).collect() };
                Box::new(LengthFilter::new(config.clone(), stage, input.clone()))
            }
            Self::Sketch { config, copies } => {
                let batches = read_table(copies).map_err(|source| io(copies, source))?;
                let ordinals = batches.iter().filter_map(|batch| batch.column_by_name("ordinal")?.as_primitive_opt::<UInt64Type>());
                let copies = ordinals.flat_map(|column| column.values().iter().copied()).collect();
                Box::new(Sketch::new(config)?.without(copies))
            }
            Self::Candidates => Box::new(Candidates::new()),
            Self::FindExactDuplicates { config, source_names, threads, memory_bytes, scratch } => {
                let cancelled = context.cancelled.clone();
                let resources = Resources {
                    threads: *threads,
                    memory_bytes: *memory_bytes,
                    scratch: Some(scratch.clone()),
                    should_stop: Arc::new(move || cancelled.load(Ordering::Relaxed)),
                };
                Box::new(FindExactDuplicates::new(config.clone(), source_names.clone())?.with_resources(resources))
            }
            Self::Cut { config, spans } => {
                let batches = read_table(spans).map_err(|source| io(spans, source))?;
                Box::new(Cut::with_schema(config, SpanTable::new(&batches)?, input.clone()))
            }
            Self::Tokenize { config, file, threads } => {
                let load = || {
                    let bytes = std::fs::read(file).map_err(|source| io(file, source))?;
                    Tokenizer::load(&bytes, &tokenizer_name(config), config).map(Arc::new)
                };
                let tokenizer = context.tokenizer(file).map_or_else(load, Ok)?;
                Box::new(Tokenize::new(tokenizer).with_threads(*threads))
            }
        })
    }

    /// Bytes of text in a batch of input, for the operators whose pace is a stage's progress.
    pub(crate) fn progress_bytes(&self, batch: &RecordBatch) -> u64 {
        match self {
            Self::Sketch { .. } | Self::FindExactDuplicates { .. } | Self::Tokenize { .. } => {
                let text = batch.column_by_name("text").and_then(|column| column.as_string_opt::<i32>());
                text.map_or(0, |text| {
                    text.value_offsets().last().zip(text.value_offsets().first()).map_or(0, |(end, start)| (end - start) as u64)
                })
            }
            Self::Cut { .. } => {
                let bytes = batch.column_by_name("num_bytes").and_then(|column| column.as_primitive_opt::<UInt64Type>());
                bytes.map_or(0, |bytes| bytes.values().iter().sum())
            }
            _ => 0,
        }
    }
}

impl fmt::Display for OperatorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse { sources, .. } => {
                let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
                write!(f, "Parse, sources=[{}]", names.join(", "))
            }
            Self::LengthFilter { config } => write!(f, "LengthFilter, min_words={}, min_bytes={}", config.min_words, config.min_bytes),
            Self::AfterCut { config, .. } => write!(f, "LengthFilter after cut, min_words={}", config.min_words),
            Self::Sketch { config, .. } => write!(f, "Sketch, {}-grams of {:?}s, family={:?}", config.n, config.unit, config.family),
            Self::Candidates => write!(f, "Candidates"),
            Self::FindExactDuplicates { config, .. } => {
                write!(f, "FindExactDuplicates, passes={:?}, keep={:?}, engine={:?}", config.passes, config.keep, config.engine)
            }
            Self::Cut { .. } => write!(f, "Cut"),
            Self::Tokenize { config, threads, .. } => {
                let which = config.path.as_deref().unwrap_or("trained on the corpus");
                write!(f, "Tokenize, tokenizer={which}, threads={threads}")
            }
        }
    }
}

/// What shards and errors call the tokenizer: the folder its file lies in, as models are named, or that it was trained here.
pub(crate) fn tokenizer_name(config: &TokenizerConfig) -> String {
    let Some(path) = config.path.as_deref().map(Path::new) else { return "trained".into() };
    let name = |part: Option<&std::ffi::OsStr>| part.map(|name| name.to_string_lossy().into_owned());
    let stem = name(path.file_stem()).unwrap_or_default();
    name(path.parent().and_then(Path::file_name)).filter(|_| stem == "tokenizer").unwrap_or(stem)
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { operator: "engine", path: path.display().to_string(), source }
}

/// The rows of a small table in the run's folder.
fn read_table(folder: &Path) -> std::io::Result<Vec<RecordBatch>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let mut batches = Vec::new();
    for path in paths {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
        for batch in reader {
            batches.push(batch.map_err(std::io::Error::other)?);
        }
    }
    Ok(batches)
}
