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
use osler_corpus::near_duplicates::banding::{Banding, JaccardBins, curve_points};
use osler_corpus::near_duplicates::cluster::{Clusters, DOCUMENT_BYTES, DocumentFacts, Found, representatives, to_batch};
use osler_corpus::near_duplicates::verify::{Blocks, Evidence, max_evidence_bytes};
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
    let bands = bands(session, config).await?;
    let pairs = session.operator(OperatorSpec::Candidates, bands);
    let distinct = session.frame(pairs)?.distinct()?.sort_by(vec![ident("left"), ident("right")])?;
    Ok(distinct.create_physical_plan().await?)
}

/// From documents to band keys, sorted.
pub(crate) async fn bands_plan(session: &Session, config: &NearDuplicatesConfig) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let bands = bands(session, config).await?;
    Ok(session.frame(bands)?.sort_by(vec![ident("key"), ident("ordinal")])?.create_physical_plan().await?)
}

/// From documents to band keys.
async fn bands(session: &Session, config: &NearDuplicatesConfig) -> Result<Arc<dyn ExecutionPlan>, Error> {
    session.register(&DOCUMENTS).await?;
    let texts = session.plan("SELECT ordinal, text FROM documents").await?;
    let sketch = OperatorSpec::Sketch { config: config.clone(), copies: session.folder.path(COPIES.folder) };
    Ok(session.operator(sketch, texts))
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
    let held = MemoryConsumer::new("near-duplicates: documents").register(&session.sql.runtime_env().memory_pool);
    let mut facts = if config.enabled { load_facts(session, &held).await? } else { Vec::new() };
    progress.start(BOUNDARY, facts.iter().map(|document| document.num_bytes).sum());
    let indexed = near_index::against(session, recipe, base, &facts).await?;
    facts.retain(|document| indexed.binary_search(&document.ordinal).is_err());
    let mut files = propose(session, config, &facts, &indexed).await?;
    files.extend(folder.publish(&AGAINST)?.0);
    let decided = decide(session, config, &facts).await?;
    files.extend(folder.publish(&PAIRS)?.0);
    held.try_resize(facts.len() * DOCUMENT_BYTES)?;
    let found = cluster(session, config, &facts, &decided.joined).await?;
    drop(held);
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
    let mut facts = summary(config, &found.statistics, &decided)?;
    facts["already_indexed"] = indexed.len().into();
    let done = Done { fingerprint: fingerprint.to_string(), files, stages: vec![row], inputs: Vec::new(), facts };
    folder.finish(BOUNDARY, &done)?;
    progress.finish(BOUNDARY, false);
    Ok(done)
}

pub(crate) fn fault(error: OperatorError) -> Error {
    Error::from(datafusion::error::DataFusionError::External(Box::new(error)))
}

/// What the manifest and the report tell of the stage.
fn summary(config: &NearDuplicatesConfig, statistics: &Statistics, decided: &Decided) -> Result<serde_json::Value, Error> {
    let curve = |bandings: &[Banding], bins: &JaccardBins| if config.enabled { curve_points(bandings, bins) } else { Vec::new() };
    let s_curve = curve(&config.resolve().map_err(fault)?, &decided.long);
    let s_curve_short = config.short().map_or_else(Vec::new, |short| curve(&[short.banding], &decided.short));
    Ok(serde_json::json!({
        "clusters": statistics.num_clusters, "largest_cluster": statistics.largest, "exact_copies": statistics.num_exact_copies,
        "near_duplicates": statistics.num_near_duplicates, "candidate_pairs": decided.num_pairs,
        "pairs_at_threshold": decided.joined.len(),
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
async fn load_facts(session: &Session, held: &MemoryReservation) -> Result<Vec<DocumentFacts>, Error> {
    session.register(&DOCUMENTS).await?;
    let count = session.number("SELECT CAST(count(*) AS BIGINT UNSIGNED) FROM documents").await? as usize;
    held.try_resize(count * size_of::<DocumentFacts>())?;
    let plan = session.plan("SELECT ordinal, num_bytes, source_index, content_hash, doc_id FROM documents").await?;
    let mut facts = Vec::with_capacity(count);
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

/// What the comparison of all candidates came to.
#[derive(Default)]
struct Decided {
    /// Pairs at the threshold or above, sorted.
    joined: Pairs,
    num_pairs: u64,
    /// All pairs by similarity: those of two short documents, and the others.
    short: JaccardBins,
    long: JaccardBins,
}

/// Compares every candidate pair, in blocks whose documents fit into the memory budget, and writes `work/pairs`.
async fn decide(session: &Session, config: &NearDuplicatesConfig, facts: &[DocumentFacts]) -> Result<Decided, Error> {
    session.register(&CANDIDATES).await?;
    let held = MemoryConsumer::new("near-duplicates: pairs").register(&session.sql.runtime_env().memory_pool);
    let mut table = TableWriter::new(&session.folder, &PAIRS)?;
    let mut decided = Decided::default();
    let starts = block_starts(session, config, facts).await?;
    for (index, start) in starts.iter().enumerate() {
        let candidates = candidates_between(session, *start, starts.get(index + 1).copied()).await?;
        let compared = compare(session, config, &candidates).await?;
        write_pairs(&mut table, &compared)?;
        decided.num_pairs += compared.len() as u64;
        for Compared { pair, short } in compared {
            if short {
                decided.short.add(pair.2)
            } else {
                decided.long.add(pair.2)
            }
            if pair.2 >= config.threshold {
                decided.joined.push(pair);
            }
        }
        // The pair, and once more in the clustering.
        held.try_resize(decided.joined.len() * 2 * size_of::<(u64, u64, f64)>())?;
    }
    table.finish()?;
    Ok(decided)
}

/// The left documents with which blocks of candidates begin.
async fn block_starts(session: &Session, config: &NearDuplicatesConfig, facts: &[DocumentFacts]) -> Result<Vec<u64>, Error> {
    let mut starts = Vec::new();
    let mut blocks = Blocks::new(evidence_budget(session), bytes_of(config, facts));
    let plan = in_order(session, &CANDIDATES).await?;
    session
        .for_each(plan, |batch| {
            let column = |index: usize| batch.column(index).as_primitive::<UInt64Type>().values().iter().copied();
            starts.extend(column(0).zip(column(1)).filter(|(left, right)| blocks.begins(*left, *right)).map(|(left, _)| left));
            Ok(())
        })
        .await?;
    Ok(starts)
}

/// A table's rows as they were written.
async fn in_order(session: &Session, table: &Table) -> Result<Arc<dyn ExecutionPlan>, Error> {
    Ok(session.in_order().read(table).await?.create_physical_plan().await?)
}

/// What a document takes while it is compared, by its ordinal.
fn bytes_of(config: &NearDuplicatesConfig, facts: &[DocumentFacts]) -> impl Fn(u64) -> u64 {
    move |ordinal| {
        let place = facts.binary_search_by_key(&ordinal, |document| document.ordinal);
        place.map_or(0, |place| max_evidence_bytes(config, facts[place].num_bytes))
    }
}

/// The candidates from a left document to before another, sorted.
async fn candidates_between(session: &Session, start: u64, end: Option<u64>) -> Result<Vec<(u64, u64)>, Error> {
    let before = end.map_or_else(String::new, |end| format!(" AND \"left\" < {end}"));
    let plan = session.plan(&format!("SELECT \"left\", \"right\" FROM candidates WHERE \"left\" >= {start}{before}")).await?;
    let mut candidates: Vec<(u64, u64)> = Vec::new();
    session
        .for_each(plan, |batch| {
            let column = |index: usize| batch.column(index).as_primitive::<UInt64Type>().values().iter().copied();
            candidates.extend(column(0).zip(column(1)));
            Ok(())
        })
        .await?;
    candidates.sort_unstable();
    Ok(candidates)
}

fn write_pairs(table: &mut TableWriter, compared: &[Compared]) -> Result<(), Error> {
    for chunk in compared.chunks(65_536) {
        let number = |of: fn(&Compared) -> u64| Arc::new(UInt64Array::from_iter_values(chunk.iter().map(of))) as ArrayRef;
        let jaccard = Arc::new(Float64Array::from_iter_values(chunk.iter().map(|compared| compared.pair.2)));
        let columns = vec![number(|compared| compared.pair.0), number(|compared| compared.pair.1), jaccard];
        let batch = RecordBatch::try_new(sketch::pair_schema(), columns).map_err(|error| Error::arrow(Path::new(PAIRS.folder), error))?;
        table.push(&batch)?;
    }
    Ok(())
}

/// Joins documents over decided pairs, and compares each member with its keeper where that was not done.
async fn cluster(session: &Session, config: &NearDuplicatesConfig, facts: &[DocumentFacts], joined: &Pairs) -> Result<Clusters, Error> {
    let mut found = Found::new(facts, joined, config).map_err(fault)?;
    let uncompared = found.uncompared();
    let mut told = Pairs::new();
    for block in Blocks::new(evidence_budget(session), bytes_of(config, facts)).of(&uncompared) {
        told.extend(compare(session, config, &uncompared[block]).await?.into_iter().map(|compared| compared.pair));
    }
    found.tell(&told);
    Ok(found.tabulate(config))
}

/// A pair with its similarity, and whether both documents are short ones.
struct Compared {
    pair: (u64, u64, f64),
    short: bool,
}

/// Compares pairs, sorted, whose documents fit into the memory budget.
async fn compare(session: &Session, config: &NearDuplicatesConfig, pairs: &[(u64, u64)]) -> Result<Vec<Compared>, Error> {
    let ordinals = || pairs.iter().flat_map(|(left, right)| [*left, *right]);
    let mut evidence = Evidence::new(config, ordinals().collect()).map_err(fault)?;
    let _held = read_evidence(session, &mut evidence, ordinals()).await?;
    compare_block(&evidence, pairs, session.sql.copied_config().target_partitions())
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
