//! Prints how fast near-duplicate detection is on this machine, and what it finds in a CSV file with a `transcription` or `text` column.
//!
//! `cargo run --example near_speed -- notes.csv`

use osler_corpus::near_duplicates::banding::{candidate_probability, curve_points};
use osler_corpus::near_duplicates::cluster::{DocumentFacts, clusters, representatives};
use osler_corpus::near_duplicates::shingle::Shingler;
use osler_corpus::near_duplicates::signature::{Family, Signer, estimate};
use osler_corpus::near_duplicates::sketch::Sketcher;
use osler_corpus::near_duplicates::verify::jaccard;
use osler_corpus::near_duplicates::{NearDuplicatesConfig, banding};
use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::time::Instant;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Seconds of the fastest of `calls` calls.
fn fastest_of(calls: usize, mut call: impl FnMut()) -> f64 {
    (0..calls).fold(f64::INFINITY, |fastest, _| {
        let start = Instant::now();
        call();
        fastest.min(start.elapsed().as_secs_f64())
    })
}

/// Seconds of the fastest call, of as many as fit into half a second.
fn fastest(mut call: impl FnMut()) -> f64 {
    let once = fastest_of(3, &mut call);
    once.min(fastest_of(((0.5 / once) as usize).min(10_000), call))
}

fn signatures() {
    println!("9,000 slots, microseconds per set\n{:>10} {:>24} {:>10}", "shingles", "fast-similarity-sketch", "minhash");
    let mut slots = vec![0; 9_000];
    for size in [1_u64, 10, 50, 100, 200, 300, 500, 1_000, 2_000, 4_000, 20_000, 100_000] {
        let set: Vec<u64> = (0..size).map(|index| xxh3_64(&index.to_le_bytes())).collect();
        let mut time = |family| {
            let mut signer = Signer::new(family, 1);
            1e6 * fastest(|| signer.sign(black_box(&set), black_box(&mut slots)))
        };
        println!("{size:>10} {:>24.1} {:>10.1}", time(Family::FastSimilaritySketch), time(Family::Minhash));
    }
}

/// Two sets with `common` shared shingles and `own` more each.
fn pair(seed: u64, common: u64, own: u64) -> [Vec<u64>; 2] {
    let random = |group: u64, count: u64| (0..count).map(move |index| xxh3_64(&[seed, group, index].map(u64::to_le_bytes).concat()));
    [1, 2].map(|group| random(0, common).chain(random(group, own)).collect())
}

/// Estimates and candidates of planted pairs.
fn planted() -> Result<(), Box<dyn Error>> {
    let trials = 400;
    println!(
        "\n9,000 slots, m42, {trials} planted pairs a row\n{:>8} {:>6}  {:<20} {:>8} {:>14} {:>11} {:>10}",
        "shingles", "J", "family", "bias", "spread/theory", "candidates", "predicted"
    );
    for family in [Family::FastSimilaritySketch, Family::Minhash] {
        let config = NearDuplicatesConfig { family, ..NearDuplicatesConfig::default() };
        let bandings = config.resolve()?;
        for (common, own) in [(8, 1), (40, 6), (170, 15), (140, 30), (850, 75), (700, 150), (990, 5), (3_400, 300)] {
            let truth = common as f64 / (common + 2 * own) as f64;
            let (mut sum, mut squares, mut found) = (0.0, 0.0, 0);
            for trial in 0..trials {
                let mut signer = Signer::new(family, trial);
                let [left, right] = pair(trial, common, own).map(|set| {
                    let mut slots = vec![0; 9_000];
                    signer.sign(&set, &mut slots);
                    let mut keys = Vec::new();
                    banding::band_keys(&slots, &bandings, &mut keys);
                    (slots, keys)
                });
                let error = estimate(&left.0, &right.0) - truth;
                sum += error;
                squares += error * error;
                found += usize::from(left.1.iter().zip(&right.1).any(|(left, right)| left == right));
            }
            let n = trials as f64;
            let theory = (truth * (1.0 - truth) / 9_000.0).sqrt();
            println!(
                "{:>8} {truth:>6.3}  {:<20} {:>+.5} {:>14.3} {:>11.3} {:>10.3}",
                common + own,
                format!("{family:?}"),
                sum / n,
                (squares / n).sqrt() / theory,
                found as f64 / n,
                candidate_probability(&bandings, truth)
            );
        }
    }
    Ok(())
}

fn read(path: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let mut reader = csv::Reader::from_path(path)?;
    let column = reader.headers()?.iter().position(|name| name == "transcription" || name == "text").ok_or("no text column")?;
    let mut texts = Vec::new();
    for record in reader.records() {
        texts.push(record?.get(column).unwrap_or_default().to_string());
    }
    Ok(texts)
}

/// Candidate pairs by their band keys; every pair of a bucket.
fn candidates(mut keys: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    keys.sort_unstable();
    let mut pairs = Vec::new();
    for bucket in keys.chunk_by(|a, b| a.0 == b.0) {
        for (index, left) in bucket.iter().enumerate() {
            pairs.extend(bucket[index + 1..].iter().map(|right| (left.1, right.1)));
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// Exact Jaccard of every pair of sets that share a shingle, by lists of the sets that hold each shingle.
fn every_pair(sets: &HashMap<u64, Vec<u64>>) -> HashMap<(u64, u64), f64> {
    let mut rows: Vec<(u64, u64)> = sets.iter().flat_map(|(ordinal, set)| set.iter().map(|shingle| (*shingle, *ordinal))).collect();
    rows.sort_unstable();
    let mut common: HashMap<(u64, u64), usize> = HashMap::new();
    for list in rows.chunk_by(|a, b| a.0 == b.0) {
        for (index, left) in list.iter().enumerate() {
            for right in &list[index + 1..] {
                *common.entry((left.1, right.1)).or_default() += 1;
            }
        }
    }
    common.into_iter().map(|((a, b), common)| ((a, b), common as f64 / (sets[&a].len() + sets[&b].len() - common) as f64)).collect()
}

fn quality(texts: &[String]) -> Result<(), Box<dyn Error>> {
    let num_bytes: usize = texts.iter().map(String::len).sum();
    let mut shingler = Shingler::of(&NearDuplicatesConfig::default());
    let mut shingles = Vec::new();
    let seconds: f64 = texts.iter().map(|text| fastest_of(10, || shingler.shingles(black_box(text), &mut shingles))).sum();
    println!("\n{} texts, {num_bytes} bytes\nshingles {:.1} MB/s", texts.len(), num_bytes as f64 / seconds / 1e6);
    let seconds: f64 = texts.iter().map(|text| fastest_of(10, || shingler.set(black_box(text), &mut shingles))).sum();
    println!("sets {:.1} MB/s", num_bytes as f64 / seconds / 1e6);

    let facts: Vec<DocumentFacts> = (0..)
        .zip(texts)
        .map(|(ordinal, text)| {
            let content_hash = xxh3_128(text.as_bytes());
            DocumentFacts {
                ordinal,
                num_bytes: text.len() as u64,
                source_index: 0,
                content_hash,
                doc_id: content_hash ^ u128::from(ordinal),
            }
        })
        .collect();
    let config = NearDuplicatesConfig::default();
    let kept = representatives(&facts, &config);
    let mut sets = HashMap::new();
    for ordinal in &kept {
        let mut set = Vec::new();
        shingler.set(&texts[*ordinal as usize], &mut set);
        sets.insert(*ordinal, set);
    }
    let truth = every_pair(&sets);
    println!("{} distinct texts, {} pairs share a shingle", kept.len(), truth.len());

    for family in [Family::FastSimilaritySketch, Family::Minhash] {
        let config = NearDuplicatesConfig { family, ..config.clone() };
        let bandings = config.resolve()?;
        let mut sketcher = Sketcher::new(&config)?;
        let mut keys = Vec::new();
        for ordinal in &kept {
            let mut own = Vec::new();
            sketcher.band_keys(&texts[*ordinal as usize], &mut own);
            keys.extend(own.into_iter().map(|key| (key, *ordinal)));
        }
        // Text by text, so that what else the machine does falls out with the slower calls.
        let some: Vec<&String> = kept.iter().step_by(20).map(|ordinal| &texts[*ordinal as usize]).collect();
        let mut own = Vec::new();
        let mut time = |text: &String| {
            let call = || {
                own.clear();
                sketcher.band_keys(black_box(text), &mut own);
            };
            fastest_of(20, call)
        };
        let seconds: f64 = some.iter().map(|text| time(text)).sum();
        let rate = some.iter().map(|text| text.len()).sum::<usize>() as f64 / seconds / 1e6;
        println!("\n{family:?}: sketch {rate:.1} MB/s, {} keys ({} per document)", keys.len(), banding::num_bands(&bandings));

        let signatures: HashMap<u64, Vec<u32>> =
            kept.iter().map(|ordinal| (*ordinal, sketcher.signature(&texts[*ordinal as usize]).to_vec())).collect();
        for low in [0.3, 0.5, 0.7, 0.8, 0.9] {
            let (mut count, mut sum, mut squares, mut variance) = (0_usize, 0.0, 0.0, 0.0);
            for ((left, right), truth) in truth.iter().filter(|(_, truth)| (low..low + 0.1).contains(*truth)) {
                let error = estimate(&signatures[left], &signatures[right]) - truth;
                (count, sum, squares) = (count + 1, sum + error, squares + error * error);
                variance += truth * (1.0 - truth) / 9_000.0;
            }
            let n = count.max(1) as f64;
            println!(
                "  J {low:.1}: {count:5} pairs, bias {:+.5}, spread {:.5}, theory {:.5}",
                sum / n,
                (squares / n).sqrt(),
                (variance / n).sqrt()
            );
        }

        let pairs: Vec<(u64, u64, f64)> =
            candidates(keys).into_iter().map(|(left, right)| (left, right, jaccard(&sets[&left], &sets[&right]))).collect();
        let expected: f64 = truth.values().map(|jaccard| candidate_probability(&bandings, *jaccard)).sum();
        println!("  candidates {}, expected {expected:.1}", pairs.len());
        for point in curve_points(&bandings, pairs.iter().map(|pair| pair.2)).iter().filter(|point| point.jaccard > 0.62) {
            let all = truth
                .values()
                .filter(|jaccard| (**jaccard * 100.0 + 1e-9).floor() as i64 == (point.jaccard * 100.0).round() as i64)
                .count();
            if all > 0 {
                println!("  J {:.2}: {:3} of {all:3} found, predicted {:.3}", point.jaccard, point.num_pairs, point.predicted);
            }
        }
        let clusters = clusters(&facts, &pairs, &config)?;
        println!("  {:?}", clusters.statistics);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    signatures();
    planted()?;
    match std::env::args().nth(1) {
        Some(path) => quality(&read(&path)?),
        None => Ok(()),
    }
}
