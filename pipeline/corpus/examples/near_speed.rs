//! Prints how fast near-duplicate detection is on this machine, on one core: signatures by number of shingles, and every step of the stage
//! over real texts.
//!
//! `cargo run --example near_speed -- ../shared/data [FOLDER]`; with a folder, the texts are left there as JSON lines, for others to be
//! measured on.

#[path = "near_texts/texts.rs"]
mod texts;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use osler_corpus::near_duplicates::NearDuplicatesConfig;
use osler_corpus::near_duplicates::candidates::Candidates;
use osler_corpus::near_duplicates::cluster::{DocumentFacts, clusters, representatives};
use osler_corpus::near_duplicates::shingle::Shingler;
use osler_corpus::near_duplicates::signature::{Family, Signer};
use osler_corpus::near_duplicates::sketch::Sketch;
use osler_corpus::near_duplicates::verify::Evidence;
use osler_corpus::operator::Operator;
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Rows of a batch of texts.
const BATCH_ROWS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    signatures();
    let Some(data) = arguments.next() else { return Ok(()) };
    let folder = arguments.next();
    for (name, texts) in samples(Path::new(&data))? {
        let num_bytes: usize = texts.iter().map(String::len).sum();
        println!("\n{name}: {} texts, {:.1} MB, {} bytes each", texts.len(), num_bytes as f64 / 1e6, num_bytes / texts.len().max(1));
        if let Some(folder) = &folder {
            let lines: Vec<String> = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
            std::fs::write(Path::new(folder).join(format!("{name}.jsonl")), lines.join("\n"))?;
        }
        for family in [Family::FastSimilaritySketch, Family::Minhash] {
            let config = NearDuplicatesConfig { family, ..NearDuplicatesConfig::default() };
            let mut shingler = Shingler::of(&config);
            let (mut signer, mut slots, mut shingles) = (Signer::new(family, 0), vec![0; 9_000], Vec::new());
            let seconds = fastest(|| {
                for text in &texts {
                    shingler.shingles(text, &mut shingles);
                    signer.sign(&shingles, black_box(&mut slots));
                }
            });
            println!("{name}: shingles and 9,000 slots, {family:?}: {:.2} MB/s", num_bytes as f64 / seconds / 1e6);
        }
        let full = NearDuplicatesConfig { short_shingles: 0, ..NearDuplicatesConfig::default() };
        for (mode, config) in [("as it comes", NearDuplicatesConfig::default()), ("full signatures only", full)] {
            let mut best = Steps::default();
            for _ in 0..5 {
                let steps = stage(&texts, &config)?;
                best = if best.total() == 0.0 || steps.total() < best.total() { steps } else { best };
            }
            println!("{name}: whole stage, {mode}: {:.2} MB/s; {}", num_bytes as f64 / best.total() / 1e6, best.describe());
        }
    }
    Ok(())
}

/// Seconds of the fastest call, of as many as fit into three seconds and of three at least.
fn fastest(mut call: impl FnMut()) -> f64 {
    let (start, mut fastest, mut calls) = (Instant::now(), f64::INFINITY, 0);
    while calls < 3 || start.elapsed().as_secs_f64() < 3.0 {
        let start = Instant::now();
        call();
        fastest = start.elapsed().as_secs_f64().min(fastest);
        calls += 1;
    }
    fastest
}

fn signatures() {
    println!("microseconds per set\n{:>10} {:>14} {:>18} {:>14}", "shingles", "9,000 slots", "9,000, minhash", "168 slots");
    for size in [1_u64, 10, 50, 100, 200, 300, 500, 1_000, 2_000, 4_000, 20_000, 100_000] {
        let set: Vec<u64> = (0..size).map(|index| xxh3_64(&index.to_le_bytes())).collect();
        let time = |family, num_slots| {
            let (mut signer, mut slots) = (Signer::new(family, 1), vec![0; num_slots]);
            let repeats = (20_000 / size).clamp(1, 100);
            let mut call = || (0..repeats).for_each(|_| signer.sign(black_box(&set), black_box(&mut slots)));
            call();
            let once = (0..5).map(|_| {
                let start = Instant::now();
                call();
                start.elapsed().as_secs_f64()
            });
            1e6 * once.fold(f64::INFINITY, f64::min) / repeats as f64
        };
        let (fast, slow) = (time(Family::FastSimilaritySketch, 9_000), time(Family::Minhash, 9_000));
        println!("{size:>10} {fast:>14.1} {slow:>18.1} {:>14.1}", time(Family::FastSimilaritySketch, 168));
    }
}

/// Real texts: articles cut into pieces of 30 kB, and abstracts; every tenth comes again with a few words changed.
fn samples(data: &Path) -> Result<Vec<(&'static str, Vec<String>)>, Box<dyn Error>> {
    let mut articles = Vec::new();
    for folder in ["jats_epmc", "jats_plos", "bmc_trials_xml"] {
        for text in texts::articles(&data.join(folder))? {
            let folded = text.split_whitespace().collect::<Vec<_>>();
            articles.extend(folded.chunks(4_600).filter(|words| words.len() == 4_600).map(|words| words.join(" ")));
        }
    }
    let abstracts = texts::abstracts(&data.join("pubmedqa/ori_pqal.json"))?;
    Ok(vec![("articles-30kB", with_copies(articles)), ("abstracts-1.5kB", with_copies(abstracts))])
}

fn with_copies(mut texts: Vec<String>) -> Vec<String> {
    let copies: Vec<String> = texts
        .iter()
        .step_by(10)
        .map(|text| {
            let mut words: Vec<&str> = text.split(' ').collect();
            words.iter_mut().step_by(150).for_each(|word| *word = "changed");
            words.join(" ")
        })
        .collect();
    texts.extend(copies);
    texts
}

/// Seconds of each step.
#[derive(Default)]
struct Steps {
    copies: f64,
    sketch: f64,
    sort: f64,
    group: f64,
    verify: f64,
    cluster: f64,
    num_candidates: usize,
    num_removed: u64,
}

impl Steps {
    fn total(&self) -> f64 {
        self.copies + self.sketch + self.sort + self.group + self.verify + self.cluster
    }

    fn describe(&self) -> String {
        let share = |seconds: f64| 100.0 * seconds / self.total();
        format!(
            "copies {:.1} %, sketch {:.1} %, sort {:.1} %, group {:.1} %, verify {:.1} %, cluster {:.1} %; {} candidates, {} removed",
            share(self.copies),
            share(self.sketch),
            share(self.sort),
            share(self.group),
            share(self.verify),
            share(self.cluster),
            self.num_candidates,
            self.num_removed
        )
    }
}

/// The whole stage in memory, on this thread.
fn stage(texts: &[String], config: &NearDuplicatesConfig) -> Result<Steps, Box<dyn Error>> {
    let schema = Arc::new(Schema::new(vec![Field::new("ordinal", DataType::UInt64, false), Field::new("text", DataType::Utf8, false)]));
    let batches: Vec<RecordBatch> = texts
        .chunks(BATCH_ROWS)
        .enumerate()
        .map(|(chunk, texts)| {
            let first = (chunk * BATCH_ROWS) as u64;
            let ordinals = UInt64Array::from_iter_values(first..first + texts.len() as u64);
            RecordBatch::try_new(schema.clone(), vec![Arc::new(ordinals) as ArrayRef, Arc::new(StringArray::from_iter_values(texts))])
        })
        .collect::<Result<_, _>>()?;
    let mut steps = Steps::default();
    let mut start = Instant::now();
    let mut lap = |step: &mut f64| {
        *step = start.elapsed().as_secs_f64();
        start = Instant::now();
    };
    let facts: Vec<DocumentFacts> = (0..)
        .zip(texts)
        .map(|(ordinal, text)| {
            let content_hash = xxh3_128(text.as_bytes());
            let doc_id = content_hash ^ u128::from(ordinal);
            DocumentFacts { ordinal, num_bytes: text.len() as u64, source_index: 0, content_hash, doc_id }
        })
        .collect();
    let kept = representatives(&facts, config);
    let copies = facts.iter().map(|document| document.ordinal).filter(|ordinal| kept.binary_search(ordinal).is_err());
    let mut sketch = Sketch::new(config)?.without(copies.collect());
    lap(&mut steps.copies);
    let mut bands = Vec::new();
    batches.iter().try_for_each(|batch| sketch.push(batch.clone(), &mut bands))?;
    lap(&mut steps.sketch);
    let mut rows = two_columns(&bands);
    rows.sort_unstable();
    lap(&mut steps.sort);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    let mut candidates = Vec::new();
    let mut operator = Candidates::new();
    operator.push(RecordBatch::try_new(osler_schemas::sketch::band_schema(), columns)?, &mut candidates)?;
    operator.finish(&mut candidates)?;
    let mut pairs = two_columns(&candidates);
    pairs.sort_unstable();
    pairs.dedup();
    lap(&mut steps.group);
    let mut evidence = Evidence::new(config, pairs.iter().flat_map(|pair| [pair.0, pair.1]).collect())?;
    for batch in &batches {
        let part = evidence.reader().read(batch)?;
        evidence.hold(part);
    }
    let compared: Vec<(u64, u64, f64)> =
        pairs.iter().map(|(left, right)| (*left, *right, evidence.jaccard(*left, *right).unwrap_or_default())).collect();
    lap(&mut steps.verify);
    let found = clusters(&facts, &compared, config)?;
    lap(&mut steps.cluster);
    (steps.num_candidates, steps.num_removed) = (pairs.len(), found.statistics.num_near_duplicates + found.statistics.num_exact_copies);
    Ok(steps)
}

fn two_columns(batches: &[RecordBatch]) -> Vec<(u64, u64)> {
    let column = |batch: &RecordBatch, at: usize| batch.column(at).as_primitive::<UInt64Type>().clone();
    let rows = |batch: &RecordBatch| column(batch, 0).values().iter().copied().zip(column(batch, 1).values().to_vec()).collect::<Vec<_>>();
    batches.iter().flat_map(rows).collect()
}
