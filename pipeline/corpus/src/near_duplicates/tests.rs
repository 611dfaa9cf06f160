//! Tests of the stage as a whole: planted pairs, batches, hubs, numbers.

use super::banding::candidate_probability;
use super::candidates::{ALL_PAIRS, Candidates, WINDOW};
use super::cluster::{DocumentFacts, clusters};
use super::shingle::Shingler;
use super::sketch::Sketch;
use super::verify::{Evidence, jaccard};
use super::*;
use crate::operator::Operator;
use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use std::collections::BTreeSet;
use std::sync::Arc;

fn text_batch(rows: &[(u64, String)]) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("ordinal", DataType::UInt64, false), Field::new("text", DataType::Utf8, false)]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn run(operator: &mut dyn Operator, batches: impl IntoIterator<Item = RecordBatch>) -> Result<Vec<RecordBatch>, Error> {
    let mut out = Vec::new();
    for batch in batches {
        operator.push(batch, &mut out)?;
    }
    operator.finish(&mut out)?;
    assert!(out.iter().all(|batch| batch.schema() == operator.output_schema() && batch.num_rows() > 0));
    Ok(out)
}

/// Two columns of u64 as rows.
fn rows(batches: &[RecordBatch]) -> Vec<(u64, u64)> {
    let column = |batch: &RecordBatch, at: usize| batch.column(at).as_primitive::<UInt64Type>().values().to_vec();
    batches.iter().flat_map(|batch| column(batch, 0).into_iter().zip(column(batch, 1))).collect()
}

fn band_batch(rows: &[(u64, u64)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    RecordBatch::try_new(osler_schemas::sketch::band_schema(), columns).unwrap()
}

/// The stage from texts to compared pairs, in batches of `batch_rows`.
fn compared(texts: &[(u64, String)], config: &NearDuplicatesConfig, batch_rows: usize) -> Vec<(u64, u64, f64)> {
    let mut keys = rows(&run(&mut Sketch::new(config).unwrap(), texts.chunks(batch_rows).map(text_batch)).unwrap());
    keys.sort_unstable();
    let mut pairs = rows(&run(&mut Candidates::new(), keys.chunks(batch_rows).map(band_batch)).unwrap());
    pairs.sort_unstable();
    pairs.dedup();
    let mut evidence = Evidence::new(config, pairs.iter().flat_map(|pair| [pair.0, pair.1]).collect()).unwrap();
    for texts in texts.chunks(batch_rows) {
        let part = evidence.reader().read(&text_batch(texts)).unwrap();
        evidence.hold(part);
    }
    pairs.into_iter().map(|(left, right)| (left, right, evidence.jaccard(left, right).unwrap())).collect()
}

/// A text of `length` words, none of which any other `group` has.
fn words(group: u64, length: usize) -> Vec<String> {
    (0..length).map(|index| format!("w{group}x{}", mix(group ^ (index as u64) << 20))).collect()
}

/// `original` with the last `changed` words replaced: of n 5-grams, `changed` are lost and as many are new.
fn altered(original: &[String], group: u64, changed: usize) -> String {
    let kept = &original[..original.len() - changed];
    kept.iter().cloned().chain(words(group, changed)).collect::<Vec<_>>().join(" ")
}

#[test]
fn planted_pairs_are_found_as_the_curve_predicts() {
    // 204 words are 200 shingles; c changed words leave (200 − c) of 200 + c.
    let trials = 120_u64;
    for (family, short_shingles) in [(Family::FastSimilaritySketch, 0), (Family::Minhash, 0), (Family::FastSimilaritySketch, 2_000)] {
        let config = NearDuplicatesConfig { family, short_shingles, ..NearDuplicatesConfig::default() };
        let bandings = config.short().map_or_else(|| config.resolve().unwrap(), |short| vec![short.banding]);
        for changed in [4, 12, 16, 22, 28, 36, 60] {
            let texts: Vec<(u64, String)> = (0..trials)
                .flat_map(|trial| {
                    let original = words(trial * 1_000 + changed as u64, 204);
                    [(2 * trial, original.join(" ")), (2 * trial + 1, altered(&original, trial * 1_000 + 500 + changed as u64, changed))]
                })
                .collect();
            let planted = (200 - changed) as f64 / (200 + changed) as f64;
            let found = compared(&texts, &config, 50);
            assert!(found.iter().all(|pair| pair.0 % 2 == 0 && pair.1 == pair.0 + 1), "no stranger is proposed");
            assert!(found.iter().all(|pair| pair.2 == planted), "the exact Jaccard is the planted one");
            let wanted = candidate_probability(&bandings, planted);
            let rate = found.len() as f64 / trials as f64;
            let deviation = (wanted * (1.0 - wanted) / trials as f64).sqrt();
            assert!((rate - wanted).abs() < 4.0 * deviation + 0.005, "{family:?} J {planted:.3}: {rate:.3}, predicted {wanted:.3}");
        }
    }
}

#[test]
fn batches_do_not_matter() {
    let mut texts: Vec<(u64, String)> = Vec::new();
    for group in 0..6 {
        let original = words(group, 60);
        texts.push((10 * group, original.join(" ")));
        texts.push((10 * group + 1, altered(&original, 100 + group, 2)));
        texts.push((10 * group + 2, altered(&original, 200 + group, 1)));
    }
    texts.extend([
        (100, String::new()),
        (101, "—".to_string()),
        (102, "one".to_string()),
        (103, "One.".to_string()),
        (104, "血".to_string()),
    ]);
    let config = NearDuplicatesConfig::default();
    let whole = compared(&texts, &config, usize::MAX);
    assert_eq!(whole.iter().filter(|pair| pair.0 < 100).count(), 18);
    assert_eq!(whole.last(), Some(&(102, 103, 1.0)), "texts shorter than a shingle compare whole, texts without words not at all");
    for batch_rows in [1, 2, 7] {
        assert_eq!(compared(&texts, &config, batch_rows), whole);
    }
    texts.reverse();
    assert_eq!(compared(&texts, &config, 3), whole);

    let estimated = compared(&texts, &NearDuplicatesConfig { decide: Decide::Estimate, ..config }, 5);
    for (exact, estimate) in whole.iter().zip(&estimated) {
        assert_eq!((exact.0, exact.1), (estimate.0, estimate.1));
        assert!((exact.2 - estimate.2).abs() < 0.02, "{exact:?} {estimate:?}");
    }
}

#[test]
fn reports_that_differ_in_values_are_different() {
    let report = |value: &str| format!("sodium {value} potassium {value} chloride {value} creatinine {value} glucose {value}");
    let values = ["7.35", "7.36", "735", "-7.35", ".735"];
    let texts: Vec<(u64, String)> = (0..).zip(values.map(report)).collect();
    let found = compared(&texts, &NearDuplicatesConfig::default(), 10);
    assert_eq!(found, [], "every shingle of the reports holds a value");
}

#[test]
fn a_bucket_gives_a_bounded_number_of_pairs() {
    for size in [0_u64, 1, 2, 16, 17, 25, 1_000, 100_000] {
        let keys: Vec<(u64, u64)> = (0..size).map(|ordinal| (5, ordinal * 2)).collect();
        let mut wanted = BTreeSet::new();
        for right in 0..size.min(1_000) {
            let from = if right < ALL_PAIRS as u64 { 0 } else { right - WINDOW as u64 };
            wanted.extend((from..right).chain((right > 0).then_some(0)).map(|left| (left * 2, right * 2)));
        }
        for batch_rows in [3, 4_096] {
            let pairs = rows(&run(&mut Candidates::new(), keys.chunks(batch_rows).map(band_batch)).unwrap());
            assert!(pairs.len() as u64 <= size * 15, "{size}: {}", pairs.len());
            assert!(pairs.iter().all(|pair| pair.0 < pair.1));
            let set: BTreeSet<(u64, u64)> = pairs.iter().copied().filter(|pair| pair.1 < 2_000).collect();
            assert_eq!(set, wanted);
            assert_eq!(pairs.iter().copied().collect::<BTreeSet<_>>().len(), pairs.len(), "no pair comes twice from a bucket");
        }
    }
}

#[test]
fn buckets_do_not_run_into_each_other() {
    let keys = [(0, 0), (0, 4), (1, 4), (1, 4), (1, 9), (u64::MAX, 1), (u64::MAX, u64::MAX)];
    for batch_rows in 1..8 {
        let pairs = rows(&run(&mut Candidates::new(), keys.chunks(batch_rows).map(band_batch)).unwrap());
        assert_eq!(pairs, [(0, 4), (4, 9), (1, u64::MAX)]);
    }
    // Within a bucket any order will do.
    let turned = [(0, 4), (0, 0), (1, 9), (1, 4), (1, 4)];
    assert_eq!(rows(&run(&mut Candidates::new(), [band_batch(&turned)]).unwrap()), [(0, 4), (4, 9)]);
    let error = run(&mut Candidates::new(), [band_batch(&[(1, 0), (0, 1)])]).unwrap_err();
    assert!(error.to_string().contains("not sorted"), "{error}");
}

#[test]
fn a_boilerplate_hub_stays_one_cluster_without_quadratic_work() {
    // 400 texts within a word of each other: every bucket is large.
    let common = words(1, 300);
    let texts: Vec<(u64, String)> = (0..400).map(|ordinal| (ordinal, altered(&common, 1_000 + ordinal, 2))).collect();
    let pairs = compared(&texts, &NearDuplicatesConfig::default(), 64);
    assert!(pairs.len() < 400 * 120, "{} of {} pairs", pairs.len(), 400 * 399 / 2);
    let facts: Vec<DocumentFacts> = texts
        .iter()
        .map(|(ordinal, text)| {
            let id = u128::from(mix(*ordinal));
            DocumentFacts { ordinal: *ordinal, num_bytes: text.len() as u64, source_index: 0, content_hash: id, doc_id: id }
        })
        .collect();
    let found = clusters(&facts, &pairs, &NearDuplicatesConfig::default()).unwrap();
    assert_eq!((found.statistics.num_clusters, found.statistics.largest), (1, 400));
}

#[test]
fn documents_on_either_side_of_the_border_meet() {
    // 100 distinct shingles are the most that a short document has; pairs of 0.86 to 0.99 lie across, at 85 of 100 for the last time.
    let config = NearDuplicatesConfig { short_shingles: 100, ..NearDuplicatesConfig::default() };
    let mut texts = Vec::new();
    for (group, (left, right)) in (0..).zip([(89, 104), (90, 105), (103, 105), (104, 104), (104, 105), (104, 119), (105, 119), (110, 120)])
    {
        for trial in 0..20 {
            let words = words(group * 100 + trial, right);
            let ordinal = (group * 20 + trial) * 2;
            texts.extend([(ordinal, words[..left].join(" ")), (ordinal + 1, words.join(" "))]);
        }
    }
    let found = compared(&texts, &config, 64);
    let wanted: Vec<u64> =
        (0..160).filter(|pair| found.iter().any(|(left, right, _)| (*left, *right) == (2 * pair, 2 * pair + 1))).collect();
    // The full signature finds a pair of 0.87 with probability 0.9996.
    assert!(wanted.len() >= 159, "{} of 160", wanted.len());
    assert!(found.iter().all(|pair| pair.2 >= 0.85));
}

#[test]
fn pairs_without_texts_are_seen() {
    let config = NearDuplicatesConfig::default();
    let mut evidence = Evidence::new(&config, vec![2, 1, 2]).unwrap();
    let part = evidence.reader().read(&text_batch(&[(1, "a b c d e f".into()), (3, "not wanted".into())])).unwrap();
    evidence.hold(part);
    assert_eq!((evidence.jaccard(1, 2), evidence.jaccard(1, 3), evidence.jaccard(1, 1)), (None, None, Some(1.0)));
    let again = evidence.reader().read(&text_batch(&[(1, "another text".into()), (2, "a b c d e".into())])).unwrap();
    evidence.hold(again);
    assert_eq!(evidence.jaccard(1, 2), Some(0.5), "the text that came first stays");
    assert!(evidence.memory_bytes() >= 3 * 8);
    let error = Sketch::new(&config).unwrap().push(band_batch(&[(1, 1)]), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Schema { .. }));
}

#[test]
fn a_document_that_another_stands_for_has_no_keys() {
    let texts: Vec<(u64, String)> = (0..5).map(|ordinal| (ordinal, words(1, 50).join(" "))).collect();
    let mut sketch = Sketch::new(&NearDuplicatesConfig::default()).unwrap().without(vec![4, 1, 3]);
    let keys = rows(&run(&mut sketch, [text_batch(&texts)]).unwrap());
    assert_eq!(keys.iter().map(|key| key.1).collect::<BTreeSet<_>>(), BTreeSet::from([0, 2]));
}

#[test]
fn exact_jaccard_is_that_of_shingle_sets() {
    let mut shingler = Shingler::of(&NearDuplicatesConfig::default());
    let mut set = |text: &str| {
        let mut set = Vec::new();
        shingler.set(text, &mut set);
        set
    };
    // Shingles abcde bcdef cdefg against abcde bcdef cdefx.
    assert_eq!(jaccard(&set("a b c d e f g"), &set("A b c d e f x")), 0.5);
    assert_eq!(jaccard(&set("a b"), &set("a b")), 1.0);
    assert_eq!(jaccard(&set("a b"), &set("a b c")), 0.0);
}
