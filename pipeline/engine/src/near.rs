//! Near-duplicates: sketch, group by band key, verify, cluster. The grouping is relational: a sort and a distinct that spill.
//!
//! Leaves `work/candidates`, `work/pairs` (with exact Jaccard) and `work/clusters`.

use crate::boundary::{Done, RunFolder, TableWriter};
use crate::error::Error;
use crate::measure::Measure;
use crate::near_index;
use crate::recipe::Recipe;
use crate::session::Session;
use crate::spec::OperatorSpec;
use crate::tables::{AGAINST, CANDIDATES, CLUSTERS, COPIES, DOCUMENTS, PAIRS, Table};
use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{UInt32Type, UInt64Type};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::ident;
use osler_corpus::near_duplicates::banding::{Banding, curve_points};
use osler_corpus::near_duplicates::cluster::{DocumentFacts, clusters, representatives, to_batch, uncompared};
use osler_corpus::near_duplicates::verify::{Evidence, blocks, max_evidence_bytes};
use osler_corpus::near_duplicates::{NearDuplicatesConfig, cluster::Statistics};
use osler_corpus::operator::Error as OperatorError;
use osler_schemas::manifest::StageRow;
use osler_schemas::{DocumentId, sketch};
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// The boundary's name.
pub const BOUNDARY: &str = "near-duplicates";

/// Share of the memory pool that is given to what pairs are decided by; the scan beside it needs the rest.
const EVIDENCE_SHARE: u64 = 2;

/// From documents to distinct candidate pairs, sorted.
///
/// # Errors
/// When a table is not there.
pub async fn candidates_plan(session: &Session, config: &NearDuplicatesConfig) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let sorted = bands_plan(session, config).await?;
    let pairs = session.operator(OperatorSpec::Candidates, sorted);
    let distinct = session.frame(pairs)?.distinct()?.sort_by(vec![ident("left"), ident("right")])?;
    Ok(distinct.create_physical_plan().await?)
}

/// From documents to band keys, sorted.
pub(crate) async fn bands_plan(session: &Session, config: &NearDuplicatesConfig) -> Result<Arc<dyn ExecutionPlan>, Error> {
    session.register(&DOCUMENTS).await?;
    let texts = session.plan("SELECT ordinal, text FROM documents").await?;
    let sketch = OperatorSpec::Sketch { config: config.clone(), copies: session.folder.path(COPIES.folder) };
    let bands = session.operator(sketch, texts);
    Ok(session.frame(bands)?.sort_by(vec![ident("key"), ident("ordinal")])?.create_physical_plan().await?)
}

/// Runs the stage, or finds it done. Its `facts` are the cluster statistics and the S-curve.
///
/// # Errors
/// What the disk or the budget gives.
pub async fn run(session: &Session, recipe: &Recipe, base: &Path, fingerprint: &str) -> Result<Done, Error> {
    let (progress, folder) = (session.context.progress.clone(), &session.folder);
    if let Some(done) = folder.finished(BOUNDARY, fingerprint) {
        progress.start(BOUNDARY, 0);
        progress.finish(BOUNDARY, true);
        return Ok(done);
    }
    let measure = Measure::start();
    folder.begin(BOUNDARY, &[COPIES, CANDIDATES, PAIRS, CLUSTERS, AGAINST])?;
    let config = &recipe.near_duplicates;
    let mut facts = if config.enabled { load_facts(session).await? } else { Vec::new() };
    progress.start(BOUNDARY, facts.iter().map(|document| document.num_bytes).sum());
    let indexed = near_index::against(session, recipe, base, &facts).await?;
    facts.retain(|document| indexed.binary_search(&document.ordinal).is_err());
    let mut files = propose(session, config, &facts, &indexed).await?;
    files.extend(folder.publish(&AGAINST)?.0);
    let (mut pairs, mut short) = decide(session, config, &facts).await?;
    files.extend(folder.publish(&PAIRS)?.0);
    let num_candidates = pairs.len();
    let further = uncompared(&facts, &pairs, config).map_err(fault)?;
    pairs.extend(compare(session, config, &facts, &further).await?.into_iter().map(|pair| pair.pair));
    let found = clusters(&facts, &pairs, config).map_err(fault)?;
    pairs.truncate(num_candidates);
    let mut table = TableWriter::new(folder, &CLUSTERS)?;
    table.push(&to_batch(&found.rows).map_err(fault)?)?;
    table.finish()?;
    let (clusters, output_hash) = folder.publish(&CLUSTERS)?;
    files.extend(clusters);
    let row = StageRow {
        name: BOUNDARY.into(),
        seconds: measure.seconds(),
        peak_memory_bytes: measure.peak_memory_bytes(),
        output_hash,
        ..StageRow::default()
    };
    short.resize(pairs.len(), false);
    let mut facts = summary(config, &found.statistics, &pairs, &short)?;
    facts["already_indexed"] = indexed.len().into();
    let done = Done { fingerprint: fingerprint.to_string(), files, stages: vec![row], inputs: Vec::new(), facts };
    folder.finish(BOUNDARY, &done)?;
    progress.finish(BOUNDARY, false);
    Ok(done)
}

pub(crate) fn fault(error: OperatorError) -> Error {
    Error::from(datafusion::error::DataFusionError::External(Box::new(error)))
}

/// What the manifest and the report tell of the stage. `short` says of each pair whether both documents were proposed as short ones.
fn summary(
    config: &NearDuplicatesConfig,
    statistics: &Statistics,
    pairs: &[(u64, u64, f64)],
    short: &[bool],
) -> Result<serde_json::Value, Error> {
    let curve = |bandings: &[Banding], wanted: bool| {
        let jaccards = pairs.iter().zip(short).filter(|(_, short)| **short == wanted).map(|(pair, _)| pair.2);
        if config.enabled { curve_points(bandings, jaccards) } else { Vec::new() }
    };
    let s_curve = curve(&config.resolve().map_err(fault)?, false);
    let s_curve_short = config.short().map_or_else(Vec::new, |short| curve(&[short.banding], true));
    Ok(serde_json::json!({
        "clusters": statistics.num_clusters, "largest_cluster": statistics.largest, "exact_copies": statistics.num_exact_copies,
        "near_duplicates": statistics.num_near_duplicates, "candidate_pairs": pairs.len(),
        "pairs_at_threshold": pairs.iter().filter(|pair| pair.2 >= config.threshold).count(),
        "weakest_jaccard": statistics.weakest_jaccard, "alarm": statistics.alarm(config),
        "s_curve": s_curve, "s_curve_short": s_curve_short,
    }))
}

/// Writes `work/copies` and `work/candidates`, and gives their files. Documents that an index has already are passed over like copies.
async fn propose(
    session: &Session,
    config: &NearDuplicatesConfig,
    facts: &[DocumentFacts],
    indexed: &[u64],
) -> Result<Vec<(String, u64)>, Error> {
    let folder = &session.folder;
    let kept = representatives(facts, config);
    let copies = facts.iter().map(|document| document.ordinal).filter(|ordinal| kept.binary_search(ordinal).is_err());
    let mut passed_over: Vec<u64> = copies.chain(indexed.iter().copied()).collect();
    passed_over.sort_unstable();
    let mut files = write_ordinals(folder, &COPIES, &passed_over)?;
    let mut table = TableWriter::new(folder, &CANDIDATES)?;
    if config.enabled {
        let plan = candidates_plan(session, config).await?;
        session.for_each(plan, |batch| table.push(&batch)).await?;
    }
    table.finish()?;
    files.extend(folder.publish(&CANDIDATES)?.0);
    Ok(files)
}

/// Writes and publishes a table of ordinals.
pub(crate) fn write_ordinals(folder: &RunFolder, table: &Table, ordinals: &[u64]) -> Result<Vec<(String, u64)>, Error> {
    let mut writer = TableWriter::new(folder, table)?;
    let column = Arc::new(UInt64Array::from(ordinals.to_vec()));
    let batch = RecordBatch::try_new((table.schema)(), vec![column]).map_err(|error| Error::arrow(Path::new(table.folder), error))?;
    writer.push(&batch)?;
    writer.finish()?;
    Ok(folder.publish(table)?.0)
}

/// The ordinals of a table, ascending.
pub(crate) async fn ordinals(session: &Session, table: &Table) -> Result<Vec<u64>, Error> {
    let plan = session.read(table).await?.create_physical_plan().await?;
    let mut ordinals = Vec::new();
    session
        .for_each(plan, |batch| {
            ordinals.extend_from_slice(batch.column(0).as_primitive::<UInt64Type>().values());
            Ok(())
        })
        .await?;
    ordinals.sort_unstable();
    Ok(ordinals)
}

/// What the choice of keepers looks at, for every document, by ordinal.
async fn load_facts(session: &Session) -> Result<Vec<DocumentFacts>, Error> {
    session.register(&DOCUMENTS).await?;
    let plan = session.plan("SELECT ordinal, num_bytes, source_index, content_hash, doc_id FROM documents").await?;
    let mut facts = Vec::new();
    let take = |batch: RecordBatch| -> Result<(), Error> {
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
        Ok(())
    };
    session.for_each(plan, take).await?;
    facts.sort_unstable_by_key(|document| document.ordinal);
    Ok(facts)
}

type Pairs = Vec<(u64, u64, f64)>;

/// Compares every candidate pair and writes `work/pairs`. Says of each whether both documents were proposed as short ones.
async fn decide(session: &Session, config: &NearDuplicatesConfig, facts: &[DocumentFacts]) -> Result<(Pairs, Vec<bool>), Error> {
    session.register(&CANDIDATES).await?;
    let held = MemoryConsumer::new("near-duplicates: pairs").register(&session.sql.runtime_env().memory_pool);
    let mut candidates: Vec<(u64, u64)> = Vec::new();
    let plan = session.plan("SELECT \"left\", \"right\" FROM candidates").await?;
    session
        .for_each(plan, |batch| {
            let column = |index: usize| batch.column(index).as_primitive::<UInt64Type>().clone();
            candidates.extend(column(0).values().iter().copied().zip(column(1).values().iter().copied()));
            // The pair, its similarity, and both again in the clustering.
            Ok(held.try_resize(candidates.len() * 3 * size_of::<(u64, u64, f64)>())?)
        })
        .await?;
    candidates.sort_unstable();
    let compared = compare(session, config, facts, &candidates).await?;
    let mut table = TableWriter::new(&session.folder, &PAIRS)?;
    for chunk in compared.chunks(65_536) {
        let number = |of: fn(&Compared) -> u64| Arc::new(UInt64Array::from_iter_values(chunk.iter().map(of))) as ArrayRef;
        let jaccard = Arc::new(Float64Array::from_iter_values(chunk.iter().map(|compared| compared.pair.2)));
        let columns = vec![number(|compared| compared.pair.0), number(|compared| compared.pair.1), jaccard];
        let batch = RecordBatch::try_new(sketch::pair_schema(), columns).map_err(|error| Error::arrow(Path::new(PAIRS.folder), error))?;
        table.push(&batch)?;
    }
    table.finish()?;
    Ok(compared.into_iter().map(|compared| (compared.pair, compared.short)).unzip())
}

/// A pair with its similarity, and whether both documents are short ones.
struct Compared {
    pair: (u64, u64, f64),
    short: bool,
}

/// Compares pairs, sorted, in blocks whose documents fit into the memory budget.
async fn compare(
    session: &Session,
    config: &NearDuplicatesConfig,
    facts: &[DocumentFacts],
    pairs: &[(u64, u64)],
) -> Result<Vec<Compared>, Error> {
    let num_bytes = |ordinal: u64| {
        let place = facts.binary_search_by_key(&ordinal, |document| document.ordinal);
        place.map_or(0, |place| max_evidence_bytes(config, facts[place].num_bytes))
    };
    let mut compared = Vec::with_capacity(pairs.len());
    for block in blocks(pairs, evidence_budget(session), num_bytes) {
        let pairs = &pairs[block];
        let mut evidence = Evidence::new(config, pairs.iter().flat_map(|(left, right)| [*left, *right]).collect()).map_err(fault)?;
        let _held = read_evidence(session, &mut evidence, pairs.iter().flat_map(|(left, right)| [*left, *right])).await?;
        let threads = session.sql.copied_config().target_partitions();
        compared.extend(compare_block(&evidence, pairs, threads)?);
    }
    Ok(compared)
}

/// Bytes that may be held of what pairs are decided by.
pub(crate) fn evidence_budget(session: &Session) -> u64 {
    match session.sql.runtime_env().memory_pool.memory_limit() {
        MemoryLimit::Finite(bytes) => bytes as u64 / EVIDENCE_SHARE,
        _ => u64::MAX,
    }
}

/// Reads documents for the evidence, on several threads. The memory is reserved until the reservation that comes back is dropped.
pub(crate) async fn read_evidence(
    session: &Session,
    evidence: &mut Evidence,
    ordinals: impl Iterator<Item = u64> + Clone,
) -> Result<MemoryReservation, Error> {
    let held = MemoryConsumer::new("near-duplicates: shingle sets").register(&session.sql.runtime_env().memory_pool);
    let (Some(first), Some(last)) = (ordinals.clone().min(), ordinals.max()) else { return Ok(held) };
    let plan = session.plan(&format!("SELECT ordinal, text FROM documents WHERE ordinal BETWEEN {first} AND {last}")).await?;
    let reader = evidence.reader();
    session
        .map_each(
            plan,
            move |batch| reader.read(&batch).map_err(fault),
            |part| {
                evidence.hold(part);
                Ok(held.try_resize(evidence.memory_bytes())?)
            },
        )
        .await?;
    Ok(held)
}

/// Compares pairs whose documents are all held, on several threads.
fn compare_block(evidence: &Evidence, pairs: &[(u64, u64)], threads: usize) -> Result<Vec<Compared>, Error> {
    let compare = |(left, right): &(u64, u64)| -> Result<Compared, Error> {
        let jaccard = evidence
            .jaccard(*left, *right)
            .ok_or_else(|| Error::Internal(format!("the text of candidate {left} or {right} was not read")))?;
        Ok(Compared { pair: (*left, *right, jaccard), short: evidence.are_short(*left, *right) })
    };
    let chunk = pairs.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            pairs.chunks(chunk).map(|pairs| scope.spawn(move || pairs.iter().map(compare).collect::<Result<Vec<_>, _>>())).collect();
        let mut compared = Vec::with_capacity(pairs.len());
        for worker in workers {
            let part = worker.join().map_err(|_| Error::Internal("comparing pairs ended early".into()))?;
            compared.extend(part?);
        }
        Ok(compared)
    })
}

/// Writes the candidate pairs of a finished run whose Jaccard similarity is `min` or more to a Parquet file: `left_id`, `right_id`,
/// `left_origin`, `right_origin`, `jaccard`; the most similar first. Gives their number.
///
/// # Errors
/// When the run's `work/` was deleted, or the file cannot be written.
pub fn export_pairs(out: &Path, min: f64, file: &Path) -> Result<u64, Error> {
    crate::inspect::ask(out, async |session| {
        if !session.folder.path(PAIRS.folder).is_dir() {
            return Err(Error::User(format!("{} is gone; the pairs are in it", out.join("work").display())));
        }
        let plan = session
            .plan(&format!(
                "SELECT l.doc_id AS left_id, r.doc_id AS right_id, l.origin AS left_origin, r.origin AS right_origin, p.jaccard
                 FROM pairs p JOIN documents l ON p.\"left\" = l.ordinal JOIN documents r ON p.\"right\" = r.ordinal
                 WHERE p.jaccard >= {min:?} ORDER BY p.jaccard DESC, left_id, right_id"
            ))
            .await?;
        let partial = file.with_extension("partial");
        let handle = File::create(&partial).map_err(|error| Error::io(&partial, error))?;
        let fault = |error| Error::parquet(&partial, error);
        let mut writer = ArrowWriter::try_new(handle, plan.schema(), None).map_err(fault)?;
        let mut count = 0;
        session
            .for_each(plan, |batch| {
                count += batch.num_rows() as u64;
                writer.write(&batch).map_err(fault)
            })
            .await?;
        writer.close().map_err(fault)?;
        std::fs::rename(&partial, file).map_err(|error| Error::io(file, error))?;
        Ok(count)
    })
}
