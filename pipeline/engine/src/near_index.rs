//! The index of a run, and deduplication of new documents against it, without the earlier run's documents.
//!
//! `index/` holds what is needed and no text: which settings it was made with, the band keys, and for each document that was compared its
//! id, its keeper's id, the hash of its text and its shingle set. `docs/formats.md` has the tables.

use crate::boundary::{Done, RunFolder, TableWriter, write_atomically};
use crate::error::Error;
use crate::measure::Measure;
use crate::near::{self, fault};
use crate::recipe::Recipe;
use crate::session::Session;
use crate::spec::OperatorSpec;
use crate::tables::{AGAINST, CLUSTERS, COPIES, DOCUMENTS, INDEXED, INDEXED_BANDS};
use arrow::array::{ArrayRef, AsArray, Float64Array, ListBuilder, RecordBatch, StringArray, UInt64Array, UInt64Builder};
use arrow::datatypes::UInt64Type;
use datafusion::prelude::ident;
use osler_corpus::near_duplicates::cluster::DocumentFacts;
use osler_corpus::near_duplicates::shingle::Shingler;
use osler_corpus::near_duplicates::verify::{Blocks, Evidence, Part, max_evidence_bytes};
use osler_corpus::near_duplicates::{Decide, NearDuplicatesConfig};
use osler_schemas::{DocumentId, expect, index};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The boundary's name.
pub const BOUNDARY: &str = "index";
const SETTINGS: &str = "index/settings.json";

/// Version of the index.
const FORMAT: &str = "osler-near-index/1";

/// Documents of one band key that the index holds, at most: a boilerplate's key is no index.
const KEY_DOCUMENTS: usize = 16;

/// Numbers of indexed documents are told from ordinals by this bit.
const INDEXED_BIT: u64 = 1 << 63;

/// What an index was made with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    format: String,
    near_duplicates: NearDuplicatesConfig,
    num_documents: u64,
}

/// Writes `index/`, or finds it done; where the recipe wants none, there is none.
///
/// # Errors
/// What the disk or the budget gives.
pub async fn run(session: &Session, recipe: &Recipe, fingerprint: &str) -> Result<(), Error> {
    let (progress, folder, config) = (session.context.progress.clone(), &session.folder, &recipe.near_duplicates);
    if !(recipe.index && config.enabled) {
        return crate::boundary::remove(&folder.path("index"));
    }
    progress.start(BOUNDARY, 0);
    if folder.finished(BOUNDARY, fingerprint).is_some() {
        progress.finish(BOUNDARY, true);
        return Ok(());
    }
    let measure = Measure::start();
    folder.begin(BOUNDARY, &[INDEXED_BANDS, INDEXED])?;
    let bands = near::bands_plan(session, config).await?;
    let mut table = TableWriter::new(folder, &INDEXED_BANDS)?;
    let (mut key, mut held) = (0, 0);
    session
        .for_each(bands, |batch| {
            let column = |at: usize| batch.column(at).as_primitive::<UInt64Type>();
            let mut rows = (Vec::new(), Vec::new());
            for (next, ordinal) in column(0).values().iter().zip(column(1).values()) {
                (key, held) = if *next == key { (key, held + 1) } else { (*next, 1) };
                if held <= KEY_DOCUMENTS {
                    rows.0.push(key);
                    rows.1.push(*ordinal);
                }
            }
            let columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from(rows.0)), Arc::new(UInt64Array::from(rows.1))];
            let batch = RecordBatch::try_new(index::band_schema(), columns)
                .map_err(|error| Error::arrow(Path::new(INDEXED_BANDS.folder), error))?;
            table.push(&batch)
        })
        .await?;
    table.finish()?;
    let mut files = folder.publish(&INDEXED_BANDS)?.0;
    let num_documents = write_documents(session, config).await?;
    files.extend(folder.publish(&INDEXED)?.0);
    let settings = Settings { format: FORMAT.into(), near_duplicates: config.clone(), num_documents };
    let json = serde_json::to_vec_pretty(&settings).map_err(|error| Error::Internal(error.to_string()))?;
    write_atomically(&folder.path(SETTINGS), &json)?;
    let facts = serde_json::json!({ "documents": num_documents, "seconds": measure.seconds() });
    folder.finish(BOUNDARY, &Done { fingerprint: fingerprint.to_string(), files, facts, ..Done::default() })?;
    progress.finish(BOUNDARY, false);
    Ok(())
}

/// Every document that was compared, in order.
async fn write_documents(session: &Session, config: &NearDuplicatesConfig) -> Result<u64, Error> {
    let mut table = TableWriter::new(&session.folder, &INDEXED)?;
    let passed_over = near::ordinals(session, &COPIES).await?;
    let keepers = keeper_ids(session).await?;
    let single = session.in_order();
    single.register(&DOCUMENTS).await?;
    let plan = single.plan("SELECT ordinal, doc_id, content_hash, num_bytes, text FROM documents").await?;
    let (mut shingler, mut set, mut count) = (Shingler::of(config), Vec::new(), 0);
    let wrong = |error: osler_schemas::SchemaError| Error::Internal(error.to_string());
    session
        .for_each(plan, |batch| {
            let (ordinals, text) = (expect::u64(&batch, "ordinal").map_err(wrong)?, expect::utf8(&batch, "text").map_err(wrong)?);
            let (ids, hashes) = (expect::utf8(&batch, "doc_id").map_err(wrong)?, expect::utf8(&batch, "content_hash").map_err(wrong)?);
            let num_bytes = expect::u64(&batch, "num_bytes").map_err(wrong)?;
            let rows: Vec<usize> = (0..batch.num_rows()).filter(|row| passed_over.binary_search(&ordinals.value(*row)).is_err()).collect();
            let mut sets = ListBuilder::new(UInt64Builder::new()).with_field(index::shingle_field());
            for row in &rows {
                shingler.set(text.value(*row), &mut set);
                sets.values().append_slice(&set);
                sets.append(true);
            }
            count += rows.len() as u64;
            let pick =
                |column: &StringArray| Arc::new(StringArray::from_iter_values(rows.iter().map(|row| column.value(*row)))) as ArrayRef;
            let number =
                |column: &UInt64Array| Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| column.value(*row)))) as ArrayRef;
            let keeper = |row: &usize| keepers.get(&ordinals.value(*row)).map_or(ids.value(*row), String::as_str);
            let keeper_ids = Arc::new(StringArray::from_iter_values(rows.iter().map(keeper)));
            let columns = vec![number(ordinals), pick(ids), keeper_ids, pick(hashes), number(num_bytes), Arc::new(sets.finish())];
            let batch =
                RecordBatch::try_new(index::document_schema(), columns).map_err(|error| Error::arrow(Path::new(INDEXED.folder), error))?;
            table.push(&batch)
        })
        .await?;
    table.finish()?;
    Ok(count)
}

/// Ids of the keepers of documents that another stands for.
async fn keeper_ids(session: &Session) -> Result<HashMap<u64, String>, Error> {
    session.register(&CLUSTERS).await?;
    session.register(&DOCUMENTS).await?;
    let sql = "SELECT c.ordinal, k.doc_id FROM clusters c JOIN documents k ON c.keeper = k.ordinal WHERE c.ordinal <> c.keeper";
    let mut keepers = HashMap::new();
    for batch in session.query(sql).await? {
        let (ordinals, ids) = (batch.column(0).as_primitive::<UInt64Type>(), batch.column(1).as_string::<i32>());
        keepers.extend(ordinals.values().iter().copied().zip(ids.iter().flatten().map(str::to_string)));
    }
    Ok(keepers)
}

/// What an index says of a new document.
#[derive(Debug, Clone)]
struct Match {
    jaccard: f64,
    partner_id: String,
    keeper_id: String,
    reason: &'static str,
}

/// Writes `work/against`: the new documents that the recipe's indexes have already, exactly or nearly. Gives their ordinals, ascending.
///
/// # Errors
/// When an index is not there, was made with other settings, or cannot be read.
pub async fn against(session: &Session, recipe: &Recipe, base: &Path, facts: &[DocumentFacts]) -> Result<Vec<u64>, Error> {
    let mut matches: BTreeMap<u64, Match> = BTreeMap::new();
    for path in &recipe.against {
        let root = base.join(path);
        let earlier = Session { folder: RunFolder { root: root.clone() }, ..session.clone() };
        check(&root, &recipe.near_duplicates)?;
        earlier.register(&INDEXED).await?;
        earlier.register(&INDEXED_BANDS).await?;
        same_text(session, facts, &mut matches).await?;
        near_text(session, &recipe.near_duplicates, facts, &mut matches).await?;
    }
    // What is said of a text holds for its exact copies.
    let by_content: HashMap<u128, Match> =
        facts.iter().filter_map(|document| Some((document.content_hash, matches.get(&document.ordinal)?.clone()))).collect();
    for document in facts {
        if let Some(found) = by_content.get(&document.content_hash) {
            matches.entry(document.ordinal).or_insert_with(|| found.clone());
        }
    }
    write_matches(session, &matches)?;
    Ok(matches.into_keys().collect())
}

fn check(root: &Path, config: &NearDuplicatesConfig) -> Result<(), Error> {
    let path = root.join(SETTINGS);
    let bytes = std::fs::read(&path).map_err(|_| {
        let name = root.display();
        Error::User(format!("{name} has no index: run its recipe again with `index = true`; only the index is made, the rest is done"))
    })?;
    let wrong = |problem: String| Error::User(format!("{}: {problem}", path.display()));
    let settings: Settings = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if settings.format != FORMAT {
        return Err(wrong(format!("format `{}`, this version reads `{FORMAT}`", settings.format)));
    }
    // What decides, clusters and keeps may differ; what is compared may not.
    let compared = |config: &NearDuplicatesConfig| {
        let mut config = config.clone();
        let default = NearDuplicatesConfig::default();
        (config.cluster, config.keeper, config.decide) = (default.cluster, default.keeper, default.decide);
        config
    };
    if compared(&settings.near_duplicates) != compared(config) {
        return Err(wrong(
            "was made with other settings of `near_duplicates` than this recipe's; only cluster, keeper and decide may differ".into(),
        ));
    }
    Ok(())
}

/// Exact copies, by the hash of their text.
async fn same_text(session: &Session, facts: &[DocumentFacts], matches: &mut BTreeMap<u64, Match>) -> Result<(), Error> {
    let mut new: HashMap<u128, Vec<u64>> = HashMap::new();
    facts.iter().for_each(|document| new.entry(document.content_hash).or_default().push(document.ordinal));
    let plan = session.plan("SELECT content_hash, doc_id, keeper_id FROM indexed").await?;
    let take = |batch: RecordBatch| -> Result<(), Error> {
        let text = |at: usize, row: usize| batch.column(at).as_string::<i32>().value(row);
        for row in 0..batch.num_rows() {
            let hash: DocumentId = text(0, row).parse().map_err(|_| Error::Internal("an index holds what is no hash".into()))?;
            for ordinal in new.get(&hash.0).into_iter().flatten() {
                let (partner_id, keeper_id) = (text(1, row).to_string(), text(2, row).to_string());
                offer(matches, *ordinal, Match { jaccard: 1.0, partner_id, keeper_id, reason: "exact-copy" });
            }
        }
        Ok(())
    };
    session.for_each(plan, take).await
}

/// Keeps the better of two matches: an exact copy, then the more similar, then the smaller id.
fn offer(matches: &mut BTreeMap<u64, Match>, ordinal: u64, found: Match) {
    let merit = |found: &Match| (found.reason == "exact-copy", found.jaccard);
    let better = matches.get(&ordinal).is_none_or(|held| match merit(&found).partial_cmp(&merit(held)) {
        Some(std::cmp::Ordering::Equal) | None => found.partner_id < held.partner_id,
        Some(order) => order == std::cmp::Ordering::Greater,
    });
    if better {
        matches.insert(ordinal, found);
    }
}

/// Near-duplicates: pairs that share a band key, decided like any other.
async fn near_text(
    session: &Session,
    config: &NearDuplicatesConfig,
    facts: &[DocumentFacts],
    matches: &mut BTreeMap<u64, Match>,
) -> Result<(), Error> {
    let skipped: Vec<u64> = matches.keys().copied().collect();
    near::write_ordinals(&session.folder, &COPIES, &skipped)?;
    session.register(&DOCUMENTS).await?;
    let texts = session.plan("SELECT ordinal, text FROM documents").await?;
    let bands = session.operator(OperatorSpec::Sketch { config: config.clone(), copies: session.folder.path(COPIES.folder) }, texts);
    let indexed = session.sql.table("indexed_bands").await?;
    let joined = session.frame(bands)?.join(indexed, datafusion::common::JoinType::Inner, &["key"], &["band"], None)?;
    let pairs = joined.select(vec![ident("ordinal"), ident("document")])?.distinct()?;
    let mut candidates: Vec<(u64, u64)> = Vec::new();
    for batch in pairs.collect().await? {
        let column = |at: usize| batch.column(at).as_primitive::<UInt64Type>().clone();
        candidates.extend(column(0).values().iter().copied().zip(column(1).values().iter().map(|document| document | INDEXED_BIT)));
    }
    candidates.sort_unstable();
    let known = indexed_facts(session, &candidates).await?;
    let new: HashMap<u64, u64> = facts.iter().map(|document| (document.ordinal, document.num_bytes)).collect();
    let bytes_of = |ordinal: u64| {
        let num_bytes = new.get(&ordinal).copied().or_else(|| known.get(&ordinal).map(|document| document.0));
        max_evidence_bytes(config, num_bytes.unwrap_or_default())
    };
    for block in Blocks::new(near::evidence_budget(session), bytes_of).of(&candidates) {
        let pairs = &candidates[block];
        let mut evidence = Evidence::new(config, pairs.iter().flat_map(|(left, right)| [*left, *right]).collect()).map_err(fault)?;
        let _held = near::read_evidence(session, &mut evidence, pairs.iter().map(|pair| pair.0)).await?;
        read_indexed(session, config, &mut evidence).await?;
        for (ordinal, document) in pairs {
            let jaccard = evidence.jaccard(*ordinal, *document);
            let jaccard = jaccard.ok_or_else(|| Error::Internal(format!("candidate {ordinal} or an indexed one was not read")))?;
            if jaccard >= config.threshold
                && let Some((_, partner_id, keeper_id)) = known.get(document)
            {
                let found = Match { jaccard, partner_id: partner_id.clone(), keeper_id: keeper_id.clone(), reason: "near-duplicate" };
                offer(matches, *ordinal, found);
            }
        }
    }
    Ok(())
}

/// Bytes and ids of the indexed documents that occur in pairs.
async fn indexed_facts(session: &Session, pairs: &[(u64, u64)]) -> Result<HashMap<u64, (u64, String, String)>, Error> {
    let mut wanted: Vec<u64> = pairs.iter().map(|pair| pair.1).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut known = HashMap::new();
    let plan = session.plan("SELECT document, num_bytes, doc_id, keeper_id FROM indexed").await?;
    let take = |batch: RecordBatch| -> Result<(), Error> {
        let number = |at: usize| batch.column(at).as_primitive::<UInt64Type>();
        let text = |at: usize, row: usize| batch.column(at).as_string::<i32>().value(row).to_string();
        for row in 0..batch.num_rows() {
            let document = number(0).value(row) | INDEXED_BIT;
            if wanted.binary_search(&document).is_ok() {
                known.insert(document, (number(1).value(row), text(2, row), text(3, row)));
            }
        }
        Ok(())
    };
    session.for_each(plan, take).await?;
    Ok(known)
}

/// Gives the shingle sets of indexed documents to the evidence.
async fn read_indexed(session: &Session, config: &NearDuplicatesConfig, evidence: &mut Evidence) -> Result<(), Error> {
    if config.decide == Decide::Estimate {
        return Err(Error::User("near_duplicates.decide = \"estimate\" cannot be used with `against`: an index holds shingle sets".into()));
    }
    let plan = session.plan("SELECT document, shingles FROM indexed").await?;
    let take = |batch: RecordBatch| -> Result<(), Error> {
        let documents = batch.column(0).as_primitive::<UInt64Type>();
        let sets = batch.column(1).as_list::<i32>();
        let mut part = Part::default();
        for row in 0..batch.num_rows() {
            let document = documents.value(row) | INDEXED_BIT;
            if evidence.wants(document) {
                part.push(document, sets.value(row).as_primitive::<UInt64Type>().values().iter().copied());
            }
        }
        evidence.hold(part);
        Ok(())
    };
    session.for_each(plan, take).await
}

fn write_matches(session: &Session, matches: &BTreeMap<u64, Match>) -> Result<(), Error> {
    let mut table = TableWriter::new(&session.folder, &AGAINST)?;
    let text = |of: fn(&Match) -> &str| Arc::new(StringArray::from_iter_values(matches.values().map(of))) as ArrayRef;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(matches.keys().copied())),
        text(|found| &found.partner_id),
        text(|found| &found.keeper_id),
        Arc::new(Float64Array::from_iter_values(matches.values().map(|found| found.jaccard))),
        text(|found| found.reason),
    ];
    let batch = RecordBatch::try_new(index::against_schema(), columns).map_err(|error| Error::arrow(Path::new(AGAINST.folder), error))?;
    table.push(&batch)?;
    table.finish()
}

/// Hash of everything that the indexes hold, for the fingerprint of the stage that reads them.
pub fn fingerprint(recipe: &Recipe, base: &Path) -> Vec<Option<Vec<u8>>> {
    let marker = |path: &String| -> PathBuf { base.join(path).join("work/done").join(format!("{BOUNDARY}.json")) };
    recipe.against.iter().map(|path| std::fs::read(marker(path)).or_else(|_| std::fs::read(base.join(path).join(SETTINGS))).ok()).collect()
}
