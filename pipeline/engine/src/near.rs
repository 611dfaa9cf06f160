//! Near-duplicates: sketch, group by band key, verify, cluster. The grouping is relational: a sort and a distinct that spill.
//!
//! Leaves `work/candidates`, `work/pairs` (with exact Jaccard) and `work/clusters`.

use crate::boundary::{Done, TableWriter};
use crate::error::Error;
use crate::measure::Measure;
use crate::recipe::Recipe;
use crate::session::Session;
use crate::spec::OperatorSpec;
use crate::tables::{CANDIDATES, CLUSTERS, DOCUMENTS, PAIRS};
use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, UInt32Type, UInt64Type};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::ident;
use osler_corpus::near_duplicates::NearDuplicatesConfig;
use osler_corpus::near_duplicates::banding::curve_points;
use osler_corpus::near_duplicates::cluster::{DocumentFacts, clusters_compared, representatives, to_batch};
use osler_corpus::near_duplicates::verify::Evidence;
use osler_corpus::operator::Error as OperatorError;
use osler_schemas::manifest::StageRow;
use osler_schemas::{DocumentId, sketch};
use std::path::Path;
use std::sync::Arc;

/// The boundary's name.
pub const BOUNDARY: &str = "near-duplicates";

/// From documents to distinct candidate pairs, sorted.
///
/// # Errors
/// When a table is not there.
pub async fn candidates_plan(
    session: &Session,
    config: &NearDuplicatesConfig,
    representatives: Vec<u64>,
) -> Result<Arc<dyn ExecutionPlan>, Error> {
    session.register(&DOCUMENTS).await?;
    let schema = Arc::new(Schema::new(vec![Field::new("ordinal", DataType::UInt64, false)]));
    let ordinals = RecordBatch::try_new(schema, vec![Arc::new(UInt64Array::from(representatives))])
        .map_err(|error| Error::arrow(Path::new(CANDIDATES.folder), error))?;
    session.sql.deregister_table("representatives")?;
    session.sql.register_batch("representatives", ordinals)?;
    let texts = session.plan("SELECT d.ordinal, d.text FROM documents d LEFT SEMI JOIN representatives r ON d.ordinal = r.ordinal").await?;
    let bands = session.operator(OperatorSpec::Sketch { config: config.clone() }, texts);
    let sorted = session.frame(bands)?.sort_by(vec![ident("key"), ident("ordinal")])?.create_physical_plan().await?;
    let pairs = session.operator(OperatorSpec::Candidates, sorted);
    let distinct = session.frame(pairs)?.distinct()?.sort_by(vec![ident("left"), ident("right")])?;
    Ok(distinct.create_physical_plan().await?)
}

/// Runs the stage, or finds it done. Its `facts` are the cluster statistics and the S-curve.
///
/// # Errors
/// What the disk or the budget gives.
pub async fn run(session: &Session, recipe: &Recipe, fingerprint: &str) -> Result<Done, Error> {
    let (progress, folder) = (session.context.progress.clone(), &session.folder);
    if let Some(done) = folder.finished(BOUNDARY, fingerprint) {
        progress.start(BOUNDARY, 0);
        progress.finish(BOUNDARY, true);
        return Ok(done);
    }
    let measure = Measure::start();
    folder.begin(BOUNDARY, &[CANDIDATES, PAIRS, CLUSTERS])?;
    let config = &recipe.near_duplicates;
    let facts = if config.enabled { load_facts(session).await? } else { Vec::new() };
    let representatives = representatives(&facts, config);
    progress.start(BOUNDARY, facts.iter().map(|document| document.num_bytes).sum());
    let mut table = TableWriter::new(folder, &CANDIDATES)?;
    if config.enabled {
        let plan = candidates_plan(session, config, representatives).await?;
        session.for_each(plan, |batch| table.push(&batch)).await?;
    }
    table.finish()?;
    let mut files = folder.publish(&CANDIDATES)?.0;
    let (pairs, evidence) = verify(session, config).await?;
    files.extend(folder.publish(&PAIRS)?.0);
    let fault = |error: OperatorError| Error::from(datafusion::error::DataFusionError::External(Box::new(error)));
    let found =
        clusters_compared(&facts, &pairs, config, |left, right| evidence.jaccard(left.min(right), left.max(right))).map_err(fault)?;
    let mut table = TableWriter::new(folder, &CLUSTERS)?;
    table.push(&to_batch(&found.rows).map_err(fault)?)?;
    table.finish()?;
    let (clusters, output_hash) = folder.publish(&CLUSTERS)?;
    files.extend(clusters);
    let bandings = config.resolve().map_err(fault)?;
    let statistics = found.statistics;
    let s_curve = if config.enabled { curve_points(&bandings, pairs.iter().map(|pair| pair.2)) } else { Vec::new() };
    let facts = serde_json::json!({
        "clusters": statistics.num_clusters, "largest_cluster": statistics.largest, "exact_copies": statistics.num_exact_copies,
        "near_duplicates": statistics.num_near_duplicates, "candidate_pairs": pairs.len(),
        "pairs_at_threshold": pairs.iter().filter(|pair| pair.2 >= config.threshold).count(),
        "weakest_jaccard": statistics.weakest_jaccard, "alarm": statistics.alarm(config), "s_curve": s_curve,
    });
    let row = StageRow {
        name: BOUNDARY.into(),
        seconds: measure.seconds(),
        peak_memory_bytes: measure.peak_memory_bytes(),
        output_hash,
        ..StageRow::default()
    };
    let done = Done { fingerprint: fingerprint.to_string(), files, stages: vec![row], inputs: Vec::new(), facts };
    folder.finish(BOUNDARY, &done)?;
    progress.finish(BOUNDARY, false);
    Ok(done)
}

/// What the choice of keepers looks at, for every document.
async fn load_facts(session: &Session) -> Result<Vec<DocumentFacts>, Error> {
    session.register(&DOCUMENTS).await?;
    let batches = session.query("SELECT ordinal, num_bytes, source_index, content_hash, doc_id FROM documents ORDER BY ordinal").await?;
    let mut facts = Vec::new();
    for batch in &batches {
        let number = |index: usize| batch.column(index).as_primitive::<UInt64Type>();
        let source_index = batch.column(2).as_primitive::<UInt32Type>();
        for row in 0..batch.num_rows() {
            let hash = |index: usize| {
                let text = batch.column(index).as_string::<i32>().value(row);
                text.parse::<DocumentId>().map_err(|_| Error::Internal(format!("`{text}` is no hash")))
            };
            facts.push(DocumentFacts {
                ordinal: number(0).value(row),
                num_bytes: number(1).value(row),
                source_index: source_index.value(row),
                content_hash: hash(3)?.0,
                doc_id: hash(4)?.0,
            });
        }
    }
    Ok(facts)
}

type Pairs = Vec<(u64, u64, f64)>;

/// Compares every candidate pair and writes `work/pairs`.
async fn verify(session: &Session, config: &NearDuplicatesConfig) -> Result<(Pairs, Evidence), Error> {
    let fault = |error: OperatorError| Error::from(datafusion::error::DataFusionError::External(Box::new(error)));
    session.register(&CANDIDATES).await?;
    let mut candidates: Vec<(u64, u64)> = Vec::new();
    for batch in session.query("SELECT \"left\", \"right\" FROM candidates ORDER BY \"left\", \"right\"").await? {
        let column = |index: usize| batch.column(index).as_primitive::<UInt64Type>().clone();
        candidates.extend(column(0).values().iter().copied().zip(column(1).values().iter().copied()));
    }
    let mut ordinals: Vec<u64> = candidates.iter().flat_map(|(left, right)| [*left, *right]).collect();
    ordinals.sort_unstable();
    ordinals.dedup();
    let mut evidence = Evidence::new(config, ordinals).map_err(fault)?;
    if !candidates.is_empty() {
        let texts = session
            .plan(
                "SELECT d.ordinal, d.text FROM documents d LEFT SEMI JOIN
                   (SELECT \"left\" AS ordinal FROM candidates UNION SELECT \"right\" FROM candidates) c ON d.ordinal = c.ordinal",
            )
            .await?;
        let held = MemoryConsumer::new("near-duplicates: shingle sets").register(&session.sql.runtime_env().memory_pool);
        session
            .for_each(texts, |batch| {
                evidence.push(&batch).map_err(fault)?;
                Ok(held.try_resize(evidence.memory_bytes())?)
            })
            .await?;
    }
    let mut table = TableWriter::new(&session.folder, &PAIRS)?;
    let mut pairs = Vec::with_capacity(candidates.len());
    for (left, right) in candidates {
        let jaccard = evidence
            .jaccard(left, right)
            .ok_or_else(|| Error::Internal(format!("the text of candidate {left} or {right} was not read")))?;
        pairs.push((left, right, jaccard));
    }
    for chunk in pairs.chunks(65_536) {
        let number =
            |of: fn(&(u64, u64, f64)) -> u64| Arc::new(UInt64Array::from_iter_values(chunk.iter().map(of))) as arrow::array::ArrayRef;
        let jaccard = Arc::new(chunk.iter().map(|pair| Some(pair.2)).collect::<arrow::array::PrimitiveArray<Float64Type>>());
        let batch = RecordBatch::try_new(sketch::pair_schema(), vec![number(|pair| pair.0), number(|pair| pair.1), jaccard])
            .map_err(|error| Error::arrow(Path::new(PAIRS.folder), error))?;
        table.push(&batch)?;
    }
    table.finish()?;
    Ok((pairs, evidence))
}
