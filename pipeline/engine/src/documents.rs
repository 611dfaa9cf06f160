//! The first stretch of a run: read, parse, filter, and put the documents in order.
//!
//! Leaves `work/documents` (what goes on, in document order, numbered) and `work/dropped` (ledger rows of what does not).

use crate::boundary::{Done, TableWriter};
use crate::counts::Counter;
use crate::error::Error;
use crate::filter;
use crate::measure::Measure;
use crate::parse::{self, files_batch, files_schema};
use crate::recipe::{FilterPlace, Recipe};
use crate::session::Session;
use crate::spec::OperatorSpec;
use crate::tables::{DOCUMENTS, DROPPED};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray, StringBuilder, UInt64Array};
use arrow::compute::filter_record_batch;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use osler_corpus::length_filter;
use osler_datasets::list::FileEntry;
use osler_schemas::{DocumentId, document, expect, ledger};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The boundary's name.
pub const BOUNDARY: &str = "documents";

/// The plan: files, parse, filters, length filter, sort by source and id.
///
/// # Errors
/// When a filter's SQL is wrong.
pub async fn plan(session: &Session, recipe: &Recipe, files: &[FileEntry]) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let partitions = deal(files, session.sql.copied_config().target_partitions());
    let batches = partitions
        .iter()
        .map(|files| files.iter().map(|file| files_batch(&[*file])).collect::<Result<Vec<_>, _>>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::arrow(std::path::Path::new("files"), error))?;
    let leaf: Arc<dyn ExecutionPlan> = MemorySourceConfig::try_new_exec(&batches, files_schema(), None)?;
    let parse = OperatorSpec::Parse { sources: recipe.source.clone(), limits: recipe.limits, batch_rows: recipe.batch_rows };
    let mut plan = session.operator(parse, leaf);
    plan = filter::place(session, recipe, FilterPlace::Parse, plan).await?;
    plan = session.operator(OperatorSpec::LengthFilter { config: recipe.length_filter.clone() }, plan);
    plan = filter::place(session, recipe, FilterPlace::LengthFilter, plan).await?;
    let schema = plan.schema();
    let mut order = Vec::new();
    for name in ["source_index", "doc_id", "origin"] {
        order.push(PhysicalSortExpr::new_default(col(name, &schema)?));
    }
    let order = LexOrdering::new(order).ok_or_else(|| Error::Internal("the sort by source and id has no columns".into()))?;
    let sorted = Arc::new(SortExec::new(order.clone(), plan).with_preserve_partitioning(true));
    Ok(Arc::new(SortPreservingMergeExec::new(order, sorted)))
}

/// Deals files to partitions, largest first to the least loaded; which file goes where changes no output.
fn deal(files: &[FileEntry], partitions: usize) -> Vec<Vec<&FileEntry>> {
    let mut order: Vec<&FileEntry> = files.iter().collect();
    order.sort_by_key(|file| std::cmp::Reverse(file.num_bytes));
    let mut dealt = vec![(0u64, Vec::new()); partitions.max(1)];
    for file in order {
        if let Some((load, files)) = dealt.iter_mut().min_by_key(|(load, _)| *load) {
            *load += file.num_bytes + 4096;
            files.push(file);
        }
    }
    dealt.into_iter().map(|(_, files)| files).collect()
}

/// Runs the stretch, or finds it done.
///
/// # Errors
/// What reading, the disk or the budget gives; too many broken records.
pub async fn run(session: &Session, recipe: &Recipe, files: &[FileEntry], fingerprint: &str) -> Result<Done, Error> {
    if let Some(done) = session.folder.finished(BOUNDARY, fingerprint) {
        session.context.progress.start("read and parse", 0);
        session.context.progress.finish("read and parse", true);
        let reasons = done.stages.first().map(|stage| stage.counts.dropped.clone()).unwrap_or_default();
        let broken = reasons.into_iter().filter(|(reason, _)| !is_policy(reason)).collect();
        return too_many(&broken, recipe.max_rejected).map_or(Ok(done), Err);
    }
    let measure = Measure::start();
    session.context.progress.start("read and parse", files.iter().map(|file| file.num_bytes).sum());
    session.folder.begin(BOUNDARY, &[DOCUMENTS, DROPPED])?;
    let mut stages = vec![parse::STAGE.to_string()];
    stages.extend(filter::stages(recipe, FilterPlace::Parse));
    stages.push(length_filter::STAGE.to_string());
    stages.extend(filter::stages(recipe, FilterPlace::LengthFilter));
    let mut sink = OrderedSink {
        documents: TableWriter::new(&session.folder, &DOCUMENTS)?,
        dropped: TableWriter::new(&session.folder, &DROPPED)?,
        counter: Counter::new(stages),
        previous: None,
        next_ordinal: 0,
        max_broken: recipe.max_rejected,
        reasons: BTreeMap::new(),
        lengths: BTreeMap::new(),
    };
    session.context.take_inputs();
    let session = session.for_documents();
    let plan = plan(&session, recipe, files).await?;
    session.for_each(plan, |batch| sink.push(&batch)).await?;
    let inputs = session.context.take_inputs();
    if inputs.len() != files.len() {
        return Err(Error::Internal(format!("{} files were listed and {} read", files.len(), inputs.len())));
    }
    sink.documents.finish()?;
    sink.dropped.finish()?;
    let (mut written, hash) = session.folder.publish(&DOCUMENTS)?;
    written.extend(session.folder.publish(&DROPPED)?.0);
    let mut rows = sink.counter.rows();
    rows[0].seconds = measure.seconds();
    rows[0].peak_memory_bytes = measure.peak_memory_bytes();
    rows[0].output_hash = hash;
    rows[0].facts = serde_json::json!({ "documents_by_words": sink.lengths.iter().collect::<Vec<_>>() });
    let facts = serde_json::json!({ "documents": sink.next_ordinal });
    let done = Done { fingerprint: fingerprint.to_string(), files: written, stages: rows, inputs, facts };
    session.folder.finish(BOUNDARY, &done)?;
    session.context.progress.finish("read and parse", false);
    Ok(done)
}

/// Reasons that are the source's or the recipe's policy, not damage.
pub(crate) fn is_policy(reason: &str) -> bool {
    reason.starts_with("license-") || matches!(reason, "no-text" | "redirect" | "namespace" | "deleted")
}

struct OrderedSink {
    documents: TableWriter,
    dropped: TableWriter,
    counter: Counter,
    /// The last id as parsed, and how often it has come.
    previous: Option<(String, u64)>,
    next_ordinal: u64,
    max_broken: u64,
    reasons: BTreeMap<String, u64>,
    /// Documents that parsing gave, by their number of words as [`document::rounded_length`].
    lengths: BTreeMap<u64, u64>,
}

impl OrderedSink {
    fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let wrong = |error: osler_schemas::SchemaError| Error::Internal(error.to_string());
        let arrow = |error| Error::arrow(std::path::Path::new(DOCUMENTS.folder), error);
        let ids = self.unique_ids(expect::utf8(batch, "doc_id").map_err(wrong)?)?;
        let column = |name: &str| batch.column_by_name(name).cloned().ok_or_else(|| Error::Internal(format!("no column `{name}`")));
        let reason = expect::utf8(batch, "drop_reason").map_err(wrong)?.clone();
        let stage = expect::utf8(batch, "drop_stage").map_err(wrong)?.clone();
        let source = expect::utf8(batch, "source").map_err(wrong)?.clone();
        let num_bytes = expect::u64(batch, "num_bytes").map_err(wrong)?.clone();
        let num_words = expect::u64(batch, "num_words").map_err(wrong)?;
        for row in 0..batch.num_rows() {
            if reason.is_null(row) || stage.value(row) != parse::STAGE {
                *self.lengths.entry(document::rounded_length(num_words.value(row))).or_default() += 1;
            }
            if reason.is_null(row) {
                self.counter.kept(source.value(row), num_bytes.value(row));
            } else {
                self.counter.dropped(source.value(row), num_bytes.value(row), stage.value(row), reason.value(row));
                self.broken(stage.value(row), reason.value(row))?;
            }
        }
        let kept: BooleanArray = (0..batch.num_rows()).map(|row| Some(reason.is_null(row))).collect();
        let mut columns = Vec::new();
        for field in document::ordered_schema().fields() {
            columns.push(match field.name().as_str() {
                "ordinal" => Arc::new(self.ordinals(&kept)) as ArrayRef,
                "doc_id" => Arc::new(ids.clone()),
                "content_hash" => Arc::new(content_hashes(expect::utf8(batch, "text").map_err(wrong)?)),
                name => column(name)?,
            });
        }
        let documents = RecordBatch::try_new(document::ordered_schema(), columns).map_err(arrow)?;
        self.documents.push(&filter_record_batch(&documents, &kept).map_err(arrow)?)?;
        let null = |kind: &arrow::datatypes::DataType| arrow::array::new_null_array(kind, batch.num_rows());
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in ledger::schema().fields() {
            columns.push(match field.name().as_str() {
                "doc_id" => Arc::new(ids.clone()),
                "source" | "origin" => column(field.name())?,
                // Kept rows have none; they are filtered out below, and the column is not nullable.
                "stage" => Arc::new(stage.iter().map(|v| Some(v.unwrap_or_default())).collect::<StringArray>()),
                "reason" => Arc::new(reason.iter().map(|v| Some(v.unwrap_or_default())).collect::<StringArray>()),
                "detail" => column("drop_detail")?,
                _ => null(field.data_type()),
            });
        }
        let rows = RecordBatch::try_new(ledger::schema(), columns).map_err(arrow)?;
        let dropped = arrow::compute::not(&kept).map_err(arrow)?;
        self.dropped.push(&filter_record_batch(&rows, &dropped).map_err(arrow)?)
    }

    fn ordinals(&mut self, kept: &BooleanArray) -> UInt64Array {
        let start = self.next_ordinal;
        let mut next = start;
        let ordinals = kept
            .values()
            .iter()
            .map(|kept| {
                let ordinal = next;
                next += u64::from(kept);
                ordinal
            })
            .collect();
        self.next_ordinal = next;
        ordinals
    }

    /// Records that are equal in everything follow each other and get ids of their own.
    fn unique_ids(&mut self, ids: &StringArray) -> Result<StringArray, Error> {
        let mut unique = StringBuilder::with_capacity(ids.len(), ids.len() * 32);
        for id in ids.iter().flatten() {
            let ordinal = match &mut self.previous {
                Some((previous, count)) if previous == id => {
                    *count += 1;
                    *count
                }
                _ => {
                    self.previous = Some((id.to_string(), 0));
                    0
                }
            };
            if ordinal == 0 {
                unique.append_value(id);
            } else {
                let parsed: DocumentId = id.parse().map_err(|_| Error::Internal(format!("`{id}` is no document id")))?;
                unique.append_value(parsed.repeated(ordinal).to_string());
            }
        }
        Ok(unique.finish())
    }

    fn broken(&mut self, stage: &str, reason: &str) -> Result<(), Error> {
        if stage != parse::STAGE || is_policy(reason) {
            return Ok(());
        }
        *self.reasons.entry(reason.to_string()).or_default() += 1;
        too_many(&self.reasons, self.max_broken).map_or(Ok(()), Err)
    }
}

/// The error that ends a run with more broken records than the recipe allows.
fn too_many(broken: &BTreeMap<String, u64>, limit: u64) -> Option<Error> {
    let count = broken.values().sum::<u64>();
    let most = broken.iter().max_by_key(|(_, count)| **count).map_or(String::new(), |(reason, _)| reason.clone());
    (count > limit).then_some(Error::TooManyRejected { count, limit, most })
}

fn content_hashes(text: &StringArray) -> StringArray {
    let mut hashes = StringBuilder::with_capacity(text.len(), text.len() * 32);
    for text in text.iter() {
        hashes.append_value(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.unwrap_or_default().as_bytes())));
    }
    hashes.finish()
}
