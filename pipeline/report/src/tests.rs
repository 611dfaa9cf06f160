//! A run's folder made by hand, and the report of it.

use super::*;
use osler_schemas::manifest::{Counts, CurvePoint, FORMAT, Input, StageRow};
use polars::prelude::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn save(path: &Path, mut table: DataFrame) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    ParquetWriter::new(File::create(path).unwrap()).finish(&mut table).unwrap();
}

/// Five documents parsed, one merged into another under a third's name, two spans cut, three left.
fn run(name: &str) -> (Folder, Manifest) {
    let folder = Folder(std::env::temp_dir().join(format!("osler-report-{}-{name}", std::process::id())));
    let corpus = df!(
        "doc_id" => ["a", "b", "c"],
        "source" => ["journals", "journals", "notes"],
        "text" => ["never read", "never read", "never read"],
        "language" => [Some("en"), None, Some("de")],
        "license" => [Some("CC-BY-4.0"), Some("CC-BY-4.0"), Some("CC0-1.0")],
        "published" => [Some("2021-03-04"), Some("2021"), None],
        "num_bytes" => [600_u64, 300, 100],
        "num_words" => [100_u64, 50, 20],
    );
    save(&folder.0.join("corpus/part-00000.parquet"), corpus.unwrap());
    let ledger = df!(
        "doc_id" => ["x", "d", "e", "a", "c"],
        "source" => ["notes", "journals", "notes", "journals", "notes"],
        "stage" => ["parse", "near-duplicates", "near-duplicates", "exact-duplicates", "exact-duplicates"],
        "reason" => ["xml-malformed", "near-duplicate", "near-duplicate", "repeat", "repeat"],
        "detail" => [Some("an end tag"), None, Some("kept: a"), None, None],
        "partner_id" => [None, Some("a"), Some("d"), Some("b"), Some("b")],
        "score" => [None, Some(0.9), Some(0.88), None, None],
        "span_start" => [None, None, None, Some(10_u64), Some(0)],
        "span_end" => [None, None, None, Some(130_u64), Some(450)],
    );
    save(&folder.0.join("ledger/part-00000.parquet"), ledger.unwrap());
    (folder, manifest())
}

fn manifest() -> Manifest {
    let counts = |records: [u64; 2], bytes: [u64; 2], dropped: &[(&str, u64)], removed: &[(&str, u64)]| Counts {
        records_in: records[0],
        records_out: records[1],
        bytes_in: bytes[0],
        bytes_out: bytes[1],
        dropped: dropped.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
        bytes_removed: removed.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
    };
    let stage = |name: &str, journals: Counts, notes: Counts| {
        let mut row = StageRow { name: name.into(), seconds: 1.5, peak_memory_bytes: 1 << 20, ..StageRow::default() };
        row.counts.add(&journals);
        row.counts.add(&notes);
        row.sources = BTreeMap::from([("journals".into(), journals), ("notes".into(), notes)]);
        row
    };
    Manifest {
        format: FORMAT.into(),
        version: "1.2.3".into(),
        recipe: serde_json::json!({
            "name": "wards & <clinics>", "source": [{"name": "notes"}, {"name": "journals"}], "near_duplicates": {"threshold": 0.85}
        }),
        recipe_hash: "00ff".into(),
        inputs: vec![Input { source: "notes".into(), path: "n.xml".into(), num_bytes: 5_000, hash: String::new() }],
        stages: vec![
            stage("parse", counts([3, 3], [1_700, 1_700], &[], &[]), counts([3, 2], [900, 900], &[("xml-malformed", 1)], &[])),
            stage(
                "near-duplicates",
                counts([3, 2], [1_700, 1_020], &[("near-duplicate", 1)], &[("near-duplicate", 680)]),
                counts([2, 1], [900, 550], &[("near-duplicate", 1)], &[("near-duplicate", 350)]),
            ),
            stage(
                "exact-duplicates",
                counts([2, 2], [1_020, 900], &[], &[("repeat", 120)]),
                counts([1, 1], [550, 100], &[], &[("repeat", 450)]),
            ),
        ],
        s_curve: vec![
            CurvePoint { jaccard: 0.8, predicted: 0.5, num_pairs: 0 },
            CurvePoint { jaccard: 0.85, predicted: 0.997, num_pairs: 1 },
            CurvePoint { jaccard: 0.9, predicted: 1.0, num_pairs: 1 },
        ],
        complete: true,
    }
}

#[test]
fn numbers_are_those_of_the_tables() {
    let (folder, manifest) = run("numbers");
    let source_tokens = serde_json::json!({"notes": 60, "journals": 240});
    let tokens = serde_json::json!({
        "tokens": 300, "chunks": 2, "context_length": 128, "tokenizer": "t", "source_tokens": source_tokens,
        "packing": "best-fit/pad", "padding": 6, "tail_tokens": 50, "documents": 3, "shards": 1, "documents_by_tokens": [[60, 1], [120, 2]],
        "mix": [{"name": "clinical", "available_chunks": 2, "chunks_per_epoch": 1, "passes": 2.0}]
    });
    let report = build(&folder.0, &manifest, Some(tokens)).unwrap();
    assert_eq!((report.totals.records_in, report.totals.records_out, report.totals.words_out), (6, 3, 170));
    assert_eq!((report.totals.bytes_in, report.totals.bytes_out), (2_600, 1_000));
    // In the recipe's order, not the alphabet's.
    let names: Vec<&str> = report.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["notes", "journals"]);
    assert_eq!(report.sources[0].records, [3, 2, 1, 1]);
    assert_eq!(report.sources[0].bytes, [900, 900, 550, 100]);
    assert_eq!(report.sources[0].removed_bytes, BTreeMap::from([("near-duplicates".into(), 350), ("exact-duplicates".into(), 450)]));
    assert_eq!((report.sources[1].words, report.sources[1].tokens), (150, Some(240)));
    let tokens = report.tokens.as_ref().unwrap();
    assert_eq!((tokens.padding, tokens.tail_tokens, tokens.lengths.as_ref().unwrap().num_values, tokens.mix.len()), (6, 50, 3, 1));
    let html = std::fs::read_to_string(folder.0.join("report.html")).unwrap();
    let chapters =
        ["id=\"run\"", "id=\"tokens\"", "Packing", "97.7% of the places", "Token mix", "Tokens per document", "What training is given"];
    let places: Vec<usize> = chapters.iter().map(|wanted| html.find(wanted).unwrap_or_else(|| panic!("no {wanted}"))).collect();
    assert!(places.is_sorted(), "{places:?}");
    // `e` was compared with `d`, but both stand under `a`: one cluster of three.
    assert_eq!(report.clusters.sizes, BTreeMap::from([(3, 1)]));
    assert_eq!((report.clusters.num_clusters, report.clusters.num_removed), (1, 2));
    assert_eq!((report.span_bytes.num_values, report.span_bytes.sum, report.span_bytes.max), (2, 570, 450));
    assert_eq!((report.lengths.after.num_values, report.lengths.after.median), (3, 50));
    assert!(report.lengths.before.is_none());
    let languages: Vec<(&str, u64)> = report.languages.iter().map(|share| (share.name.as_str(), share.words)).collect();
    assert_eq!(languages, [("en", 100), ("unknown", 50), ("de", 20)]);
    assert_eq!(report.years, BTreeMap::from([("2021".into(), 2), ("unknown".into(), 1)]));
    assert_eq!(report.removals.len(), 3);
    assert_eq!(report.threshold, Some(0.85));
}

#[test]
fn lengths_before_are_those_that_parsing_noted() {
    let (folder, mut manifest) = run("before");
    manifest.stages[0].facts = serde_json::json!({ "documents_by_words": [[30, 1], [50, 1], [70, 1], [90, 1], [100, 1]] });
    let report = build(&folder.0, &manifest, None).unwrap();
    let before = report.lengths.before.unwrap();
    assert_eq!((before.num_values, before.median, before.sum), (5, 70, 340));
    assert!(report.tokens.is_none());
}

#[test]
fn the_page_stands_alone_and_is_the_same_each_time() {
    let (folder, manifest) = run("page");
    build(&folder.0, &manifest, None).unwrap();
    let read = || ["report.html", "report.json"].map(|name| std::fs::read_to_string(folder.0.join(name)).unwrap());
    let first = read();
    build(&folder.0, &manifest, None).unwrap();
    assert_eq!(read(), first);
    let [html, json] = first;
    assert!(html.contains("Wards &amp; &lt;clinics&gt;"));
    for outside in ["<script", "src=", "http://", "https://", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    assert!(!html.contains("never read"));
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert_eq!(html.matches("<figure").count(), html.matches("<table").count());
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["format"], "osler-report/1");
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
}

#[test]
fn a_missing_or_foreign_table_is_an_error_that_names_it() {
    let (folder, manifest) = run("missing");
    std::fs::write(folder.0.join("ledger/part-00001.parquet"), b"not parquet").unwrap();
    let error = build(&folder.0, &manifest, None).unwrap_err();
    assert!(error.to_string().contains("ledger"), "{error}");
    assert!(!folder.0.join("report.html").exists());
    std::fs::remove_dir_all(folder.0.join("corpus")).unwrap();
    assert!(build(&folder.0, &manifest, None).unwrap_err().to_string().contains("corpus"));
}

#[test]
fn a_run_that_kept_nothing_still_has_a_report() {
    let folder = Folder(std::env::temp_dir().join(format!("osler-report-{}-nothing", std::process::id())));
    for table in ["corpus", "ledger"] {
        std::fs::create_dir_all(folder.0.join(table)).unwrap();
    }
    let manifest = Manifest { stages: Vec::new(), s_curve: Vec::new(), inputs: Vec::new(), ..manifest() };
    let report = build(&folder.0, &manifest, None).unwrap();
    assert_eq!(report.totals.records_out, 0);
}
