//! The corpus as others read it: survivors with their repeats cut out, and the ledger of everything that is not in it.
//!
//! Leaves `corpus/`, `ledger/` and `work/removed` (ledger rows of whole documents removed after parsing).

use crate::boundary::{Done, TableWriter};
use crate::counts::Counter;
use crate::error::Error;
use crate::filter;
use crate::measure::Measure;
use crate::recipe::{FilterPlace, Recipe};
use crate::session::Session;
use crate::spec::OperatorSpec;
use crate::tables::{AGAINST, CLUSTERS, CORPUS, DOCUMENTS, DROPPED, LEDGER, REMOVED, SPANS};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::compute::{SortOptions, filter_record_batch};
use arrow::datatypes::{DataType, Field};
use datafusion::common::{JoinType, NullEquality};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::SortMergeJoinExec;
use datafusion::prelude::ident;
use osler_schemas::{document, expect, ledger};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// The boundary's name.
pub const BOUNDARY: &str = "corpus";

/// Documents in order, in one partition, those that a cluster's keeper stands for marked as dropped; with `partner_id`, `score` and `keeper_id` of the
/// removal and `bytes_before`. Filters after near-duplicates are applied.
///
/// # Errors
/// When a filter's SQL is wrong or a table is not there.
pub async fn survivors(session: &Session, recipe: &Recipe) -> Result<Arc<dyn ExecutionPlan>, Error> {
    session.register(&DOCUMENTS).await?;
    session.register(&CLUSTERS).await?;
    session.register(&AGAINST).await?;
    let removed = session
        .plan(
            "SELECT c.ordinal AS removed, c.reason, c.jaccard, p.doc_id AS partner_id, k.doc_id AS keeper_id
             FROM clusters c JOIN documents p ON c.partner = p.ordinal JOIN documents k ON c.keeper = k.ordinal
             WHERE c.ordinal <> c.keeper
             UNION ALL SELECT ordinal, reason, jaccard, partner_id, keeper_id FROM against
             ORDER BY removed",
        )
        .await?;
    // Documents rest in order: read so and joined by merging, their texts are never sorted or held.
    let session = &session.in_order();
    let documents = session.read(&DOCUMENTS).await?.create_physical_plan().await?;
    let on = (col("ordinal", &documents.schema())?, col("removed", &removed.schema())?);
    let options = vec![SortOptions::default()];
    let joined = SortMergeJoinExec::try_new(documents, removed, vec![on], None, JoinType::Left, options, NullEquality::NullEqualsNothing)?;
    let kept = "removed IS NULL";
    let columns = [
        "doc_id",
        "source",
        "origin",
        "title",
        &format!("CASE WHEN {kept} THEN text ELSE '' END AS text"),
        "language",
        "license",
        "identifiers",
        "published",
        "sections",
        "metadata",
        "num_bytes",
        "num_words",
        "source_index",
        &format!("CASE WHEN {kept} THEN NULL ELSE 'near-duplicates' END AS drop_stage"),
        "reason AS drop_reason",
        "keeper_id AS drop_detail",
        "ordinal",
        "num_bytes AS bytes_before",
        "partner_id",
        "jaccard AS score",
    ];
    let plan = session.frame(Arc::new(joined))?.select_exprs(&columns)?.create_physical_plan().await?;
    filter::place(session, recipe, FilterPlace::NearDuplicates, plan).await
}

/// The plan of the last stretch over documents: survivors, cut, filters.
///
/// # Errors
/// As for [`survivors`].
pub async fn plan(session: &Session, recipe: &Recipe) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let survivors = survivors(session, recipe).await?;
    let cut = OperatorSpec::Cut { config: recipe.exact_duplicates.clone(), spans: session.folder.path(SPANS.folder) };
    let plan = session.operator(cut, survivors);
    let too_short = OperatorSpec::AfterCut { config: recipe.length_filter.clone(), spans: session.folder.path(SPANS.folder) };
    let plan = session.operator(too_short, plan);
    let plan = filter::place(&session.in_order(), recipe, FilterPlace::ExactDuplicates, plan).await?;
    session.in_order().frame(plan)?.sort_by(vec![ident("ordinal")])?.create_physical_plan().await.map_err(Error::from)
}

/// Runs the stretch, or finds it done. `before` are the markers of near and exact duplicates, whose time and memory the rows take.
///
/// # Errors
/// What the disk or the budget gives.
pub async fn run(session: &Session, recipe: &Recipe, fingerprint: &str, before: [&Done; 2]) -> Result<Done, Error> {
    let progress = session.context.progress.clone();
    if let Some(done) = session.folder.finished(BOUNDARY, fingerprint) {
        progress.start("corpus and ledger", 0);
        progress.finish("corpus and ledger", true);
        return Ok(done);
    }
    let measure = Measure::start();
    progress.start("corpus and ledger", 0);
    session.folder.begin(BOUNDARY, &[CORPUS, LEDGER, REMOVED])?;
    let mut stages = vec!["near-duplicates".to_string()];
    stages.extend(filter::stages(recipe, FilterPlace::NearDuplicates));
    let exact_stage = stages.len();
    stages.push("exact-duplicates".to_string());
    stages.extend(filter::stages(recipe, FilterPlace::ExactDuplicates));
    let identifiers = merged_identifiers(session).await?;
    let mut sink = CorpusSink {
        corpus: TableWriter::new(&session.folder, &CORPUS)?,
        removed: TableWriter::new(&session.folder, &REMOVED)?,
        counter: Counter::new(stages),
        exact_stage,
        identifiers,
    };
    let plan = plan(session, recipe).await?;
    session.for_each(plan, |batch| sink.push(&batch)).await?;
    sink.corpus.finish()?;
    sink.removed.finish()?;
    let mut rows = sink.counter.rows();
    let (mut written, hash) = session.folder.publish(&CORPUS)?;
    written.extend(session.folder.publish(&REMOVED)?.0);
    write_ledger(session, recipe).await?;
    written.extend(session.folder.publish(&LEDGER)?.0);
    for (row, done) in [(0, before[0]), (exact_stage, before[1])] {
        if let Some(measured) = done.stages.first() {
            rows[row].seconds = measured.seconds;
            rows[row].peak_memory_bytes = measured.peak_memory_bytes;
            rows[row].facts = done.facts.clone();
        }
    }
    rows[exact_stage].seconds += measure.seconds();
    rows[exact_stage].peak_memory_bytes = rows[exact_stage].peak_memory_bytes.max(measure.peak_memory_bytes());
    rows[exact_stage].output_hash = hash;
    let done = Done { fingerprint: fingerprint.to_string(), files: written, stages: rows, ..Done::default() };
    session.folder.finish(BOUNDARY, &done)?;
    progress.finish("corpus and ledger", false);
    Ok(done)
}

/// Identifiers of all members, by the keeper's id: the survivor carries the DOIs of those it stands for.
async fn merged_identifiers(session: &Session) -> Result<HashMap<String, Vec<String>>, Error> {
    session.register(&DOCUMENTS).await?;
    session.register(&CLUSTERS).await?;
    let batches = session
        .query(
            "SELECT k.doc_id, d.identifiers FROM clusters c
             JOIN documents d ON c.ordinal = d.ordinal JOIN documents k ON c.keeper = k.ordinal",
        )
        .await?;
    let mut merged: HashMap<String, Vec<String>> = HashMap::new();
    for batch in &batches {
        let (keepers, lists) = (batch.column(0).as_string::<i32>(), batch.column(1).as_list::<i32>());
        for row in 0..batch.num_rows() {
            let identifiers = lists.value(row);
            let entry = merged.entry(keepers.value(row).to_string()).or_default();
            entry.extend(identifiers.as_string::<i32>().iter().flatten().map(str::to_string));
        }
    }
    for identifiers in merged.values_mut() {
        identifiers.sort_unstable();
        identifiers.dedup();
    }
    Ok(merged)
}

/// The ledger in the order of the stages: what parsing dropped, whole documents, spans.
async fn write_ledger(session: &Session, recipe: &Recipe) -> Result<(), Error> {
    let mut table = TableWriter::new(&session.folder, &LEDGER)?;
    session.register(&DOCUMENTS).await?;
    session.register(&DROPPED).await?;
    session.register(&REMOVED).await?;
    session.register(&SPANS).await?;
    let single = session.in_order();
    let reasons = recipe.exact_duplicates.passes.iter().enumerate().map(|(pass, length)| format!("WHEN {pass} THEN 'repeat-{length}'"));
    let reason = format!("CASE s.pass {} ELSE 'repeat' END", reasons.collect::<Vec<_>>().join(" "));
    let spans = format!(
        "SELECT d.doc_id, d.source, d.origin, 'exact-duplicates' AS stage, {reason} AS reason, CAST(NULL AS VARCHAR) AS detail,
           p.doc_id AS partner_id, s.partner_start, CAST(NULL AS DOUBLE) AS score, s.start AS span_start, s.\"end\" AS span_end
         FROM spans s JOIN documents d ON s.ordinal = d.ordinal LEFT JOIN documents p ON s.partner = p.ordinal
         ORDER BY s.pass, s.ordinal, s.start"
    );
    for rows in [&DROPPED, &REMOVED] {
        let plan = single.read(rows).await?.create_physical_plan().await?;
        session.for_each(plan, |batch| table.push(&batch)).await?;
    }
    let plan = session.plan(&if recipe.exact_duplicates.passes.is_empty() { spans.replace(&reason, "'repeat'") } else { spans }).await?;
    session.for_each(plan, |batch| table.push(&batch)).await?;
    table.finish()
}

struct CorpusSink {
    corpus: TableWriter,
    removed: TableWriter,
    counter: Counter,
    exact_stage: usize,
    identifiers: HashMap<String, Vec<String>>,
}

impl CorpusSink {
    fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let wrong = |error: osler_schemas::SchemaError| Error::Internal(error.to_string());
        let arrow = |error| Error::arrow(Path::new(CORPUS.folder), error);
        let utf8 = |name: &str| expect::utf8(batch, name).map_err(wrong);
        let (stage, reason, source) = (utf8("drop_stage")?, utf8("drop_reason")?, utf8("source")?);
        let num_bytes = expect::u64(batch, "num_bytes").map_err(wrong)?;
        let before = expect::u64(batch, "bytes_before").map_err(wrong)?;
        for row in 0..batch.num_rows() {
            let (source, before, after) = (source.value(row), before.value(row), num_bytes.value(row));
            if reason.is_null(row) {
                self.counter.kept_cut(source, before, after, self.exact_stage);
            } else {
                self.counter.dropped_cut(source, before, after, self.exact_stage, stage.value(row), reason.value(row));
            }
        }
        let kept: BooleanArray = (0..batch.num_rows()).map(|row| Some(reason.is_null(row))).collect();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in document::corpus_schema().fields() {
            columns.push(match field.name().as_str() {
                "identifiers" => self.with_merged(utf8("doc_id")?, batch)?,
                name => named(batch, name)?,
            });
        }
        let documents = RecordBatch::try_new(document::corpus_schema(), columns).map_err(arrow)?;
        self.corpus.push(&filter_record_batch(&documents, &kept).map_err(arrow)?)?;
        let dropped = arrow::compute::not(&kept).map_err(arrow)?;
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in ledger::schema().fields() {
            let filled = |column: &StringArray| Arc::new(column.iter().map(|v| Some(v.unwrap_or_default())).collect::<StringArray>());
            columns.push(match field.name().as_str() {
                "stage" => filled(stage),
                "reason" => filled(reason),
                "detail" => keeper_detail(stage, utf8("drop_detail")?),
                name @ ("doc_id" | "source" | "origin" | "partner_id" | "score") => named(batch, name)?,
                _ => arrow::array::new_null_array(field.data_type(), batch.num_rows()),
            });
        }
        let rows = RecordBatch::try_new(ledger::schema(), columns).map_err(arrow)?;
        self.removed.push(&filter_record_batch(&rows, &dropped).map_err(arrow)?)
    }

    fn with_merged(&self, ids: &StringArray, batch: &RecordBatch) -> Result<ArrayRef, Error> {
        let own = expect::list(batch, "identifiers").map_err(|error| Error::Internal(error.to_string()))?;
        let item = Arc::new(Field::new_list_field(DataType::Utf8, false));
        let mut lists = ListBuilder::new(StringBuilder::new()).with_field(item);
        for row in 0..batch.num_rows() {
            if let Some(merged) = self.identifiers.get(ids.value(row)) {
                merged.iter().for_each(|identifier| lists.values().append_value(identifier));
            } else {
                let own = own.value(row);
                own.as_string::<i32>().iter().flatten().for_each(|identifier| lists.values().append_value(identifier));
            }
            lists.append(true);
        }
        Ok(Arc::new(lists.finish()))
    }
}

/// For members of clusters: which document was kept, where it is not the partner that was compared.
fn keeper_detail(stage: &StringArray, detail: &StringArray) -> ArrayRef {
    let rows = stage.iter().zip(detail.iter()).map(|(stage, detail)| match (stage, detail) {
        (Some("near-duplicates"), Some(keeper)) => Some(format!("kept: {keeper}")),
        (_, detail) => detail.map(str::to_string),
    });
    Arc::new(rows.collect::<StringArray>())
}

fn named(batch: &RecordBatch, name: &str) -> Result<ArrayRef, Error> {
    batch.column_by_name(name).cloned().ok_or_else(|| Error::Internal(format!("no column `{name}`")))
}
