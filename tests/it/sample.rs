//! The embedded sample, whose truth is known: what was planted is found, and nothing else is taken.

use crate::support::{Scratch, articles_of_sample, osler, sample, succeed};
use osler_datasets::sample::{Fault, Settings, truth};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const ARTICLES: u32 = 600;

fn rows(out: &Path, sql: &str) -> Vec<serde_json::Value> {
    let output = succeed(osler().args(["report", "--format", "jsonl", "--sql", sql]).arg(out));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn text(row: &serde_json::Value, key: &str) -> String {
    row[key].as_str().unwrap_or_else(|| panic!("{key} in {row}")).to_string()
}

#[test]
fn planted_truth_is_found() {
    let scratch = Scratch::new("truth");
    let out = scratch.path("out");
    succeed(&mut sample(&out, ARTICLES));
    let truth = truth(&Settings { articles: u64::from(ARTICLES), ..Settings::default() });
    let kept: BTreeSet<String> = rows(&out, "SELECT origin FROM corpus").iter().map(|row| text(row, "origin")).collect();
    let gone: BTreeMap<String, (String, String)> = rows(&out, "SELECT origin, stage, reason FROM ledger WHERE span_start IS NULL")
        .iter()
        .map(|row| (text(row, "origin"), (text(row, "stage"), text(row, "reason"))))
        .collect();
    assert_eq!(kept.len() + gone.len(), usize::try_from(truth.num_files).expect("files"), "every file is kept or in the ledger");
    for bad in &truth.bad_records {
        assert_eq!(gone.contains_key(&bad.path), bad.fault.drops(), "{bad:?}");
    }
    for copy in &truth.exact_copies {
        let both = [&copy.original, &copy.copy].map(|path| kept.contains(path));
        assert!(both != [true, true], "an exact copy stays beside its original: {copy:?}");
    }
    let merging = truth.near_duplicates.iter().filter(|pair| pair.merges);
    let mut missed = Vec::new();
    for pair in merging {
        if kept.contains(&pair.original) && kept.contains(&pair.copy) {
            missed.push(pair);
        }
    }
    assert!(missed.is_empty(), "planted near-duplicates that were not found: {missed:?}");
    let apart = truth.near_duplicates.iter().filter(|pair| pair.jaccard < 0.83);
    for pair in apart {
        assert!(kept.contains(&pair.copy), "a copy at Jaccard {} is no near-duplicate: {:?}", pair.jaccard, gone.get(&pair.copy));
    }
}

#[test]
fn licences_and_faults_have_their_reasons() {
    let scratch = Scratch::new("reasons");
    let out = scratch.path("out");
    succeed(&mut sample(&out, ARTICLES));
    let reasons: BTreeMap<String, String> =
        rows(&out, "SELECT origin, reason FROM ledger WHERE span_start IS NULL AND stage IN ('parse', 'length-filter')")
            .iter()
            .map(|row| (text(row, "origin"), text(row, "reason")))
            .collect();
    let truth = truth(&Settings { articles: u64::from(ARTICLES), ..Settings::default() });
    for bad in truth.bad_records.iter().filter(|bad| bad.fault.drops()) {
        let wanted = match bad.fault {
            Fault::Malformed => "xml-malformed",
            Fault::Truncated => "xml-truncated",
            Fault::NoText => "no-text",
            Fault::TooShort => "too-short",
            Fault::LicenseMissing => "license-unknown",
            Fault::LicenseNonCommercial => "license-not-allowed",
            Fault::InvalidUtf8 => "invalid-utf8",
            Fault::TooDeep => "too-deep",
            Fault::EntityBomb => unreachable!("stays"),
        };
        assert_eq!(reasons.get(&bad.path).map(String::as_str), Some(wanted), "{}", bad.path);
    }
}

#[test]
fn repeated_passages_are_cut_but_once() {
    let scratch = Scratch::new("passages");
    let out = scratch.path("out");
    succeed(&mut sample(&out, ARTICLES));
    let truth = truth(&Settings { articles: u64::from(ARTICLES), ..Settings::default() });
    for passage in &truth.passages {
        let quoted = passage.text.trim().replace('\'', "''");
        let found = rows(&out, &format!("SELECT count(*) AS n FROM corpus WHERE contains(text, '{quoted}')"))[0]["n"].as_u64();
        let holders = passage.holders.len() as u64;
        assert!(holders > 3, "the passage is planted");
        if passage.removed {
            assert_eq!(found, Some(1), "a passage of {} bytes stays once", passage.text.len());
        } else {
            assert!(found.expect("count") > holders / 2, "a passage of {} bytes stays: {found:?} of {holders}", passage.text.len());
        }
    }
    let proof = succeed(osler().args(["exact", "verify"]).arg(&out));
    let proof = String::from_utf8_lossy(&proof.stdout).into_owned();
    assert_eq!(proof.lines().count(), 2, "{proof}");
    assert!(proof.lines().all(|line| line.contains("still stands")), "{proof}");
    succeed(osler().args(["tokens", "verify"]).arg(&out));
    succeed(osler().args(["tokens", "show", "--chunk", "1"]).arg(&out));
}

#[test]
fn a_keeper_carries_all_identifiers_and_inspect_tells_the_story() {
    let scratch = Scratch::new("story");
    let out = scratch.path("out");
    succeed(&mut sample(&out, ARTICLES));
    let truth = truth(&Settings { articles: u64::from(ARTICLES), ..Settings::default() });
    let pair = truth.near_duplicates.iter().find(|pair| pair.target >= 0.95).expect("a planted pair");
    let holders = rows(
        &out,
        &format!(
            "SELECT doc_id FROM corpus WHERE array_has(identifiers, 'doi:{}') AND array_has(identifiers, 'doi:{}')",
            pair.original_doi.to_lowercase(),
            pair.copy_doi.to_lowercase()
        ),
    );
    assert_eq!(holders.len(), 1, "one survivor carries both DOIs of {pair:?}");
    let gone = rows(&out, "SELECT doc_id, partner_id, score FROM ledger WHERE reason = 'near-duplicate' LIMIT 1");
    let story = succeed(osler().arg("inspect").arg(&out).args(["--doc", &text(&gone[0], "doc_id")]));
    let story = String::from_utf8_lossy(&story.stdout).into_owned();
    assert!(story.contains("near-duplicate") && story.contains(&text(&gone[0], "partner_id")) && story.contains("Jaccard"), "{story}");
    let keeper = succeed(osler().arg("inspect").arg(&out).args(["--text", "--doc", &text(&holders[0], "doc_id")]));
    let keeper = String::from_utf8_lossy(&keeper.stdout).into_owned();
    assert!(keeper.contains("stands for"), "{keeper}");
}

#[test]
fn the_report_is_one_file_that_needs_no_network() {
    let scratch = Scratch::new("report");
    let out = scratch.path("out");
    succeed(&mut sample(&out, 200));
    let html = std::fs::read_to_string(out.join("report.html")).expect("report.html");
    for remote in ["<script src", "<link rel=\"stylesheet\"", "src=\"http", "@import", "url(http"] {
        assert!(!html.contains(remote), "the report loads something: {remote}");
    }
    assert!(html.contains("<svg"), "the report has plots");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).expect("report.json")).expect("JSON");
    assert!(report.is_object());
    let before = std::fs::read(out.join("report.html")).expect("report.html");
    succeed(osler().arg("report").arg(&out));
    assert_eq!(std::fs::read(out.join("report.html")).expect("report.html"), before, "the report is made again byte for byte");
}

#[test]
fn filters_drop_with_their_name() {
    let scratch = Scratch::new("filter");
    let recipe = scratch.path("r.toml");
    let shipped = osler_datasets::recipes::shipped("sample").expect("the sample ships");
    let filters = "\n[[filter]]\nname = 'long-enough'\nafter = 'parse'\nsql = 'num_words >= 300'\n\
                   [[filter]]\nname = 'has-doi'\nafter = 'exact-duplicates'\nsql = 'cardinality(identifiers) > 0'\n";
    std::fs::write(&recipe, format!("{shipped}{filters}")).expect("recipe");
    let out = scratch.path("out");
    let mut command = osler();
    command.args(["corpus", "--progress", "none", "--tokenizer.train.vocab_size", "600"]);
    articles_of_sample(&mut command, 200);
    succeed(command.arg("--recipe").arg(&recipe).arg("--out").arg(&out));
    let kept = rows(&out, "SELECT min(num_words) AS n FROM documents")[0]["n"].as_u64().expect("words");
    assert!(kept >= 300);
    let dropped = rows(&out, "SELECT count(*) AS n FROM ledger WHERE stage = 'filter:long-enough' AND reason = 'long-enough'");
    assert!(dropped[0]["n"].as_u64().expect("count") > 0);
    std::fs::write(&recipe, format!("{shipped}\n[[filter]]\nname = 'wrong'\nsql = 'no_such_column > 1'\n")).expect("recipe");
    let (code, stderr) = crate::support::fail(
        osler().args(["corpus", "--progress", "none", "--recipe"]).arg(&recipe).arg("--out").arg(scratch.path("wrong")),
    );
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("filter `wrong`") && stderr.contains("no_such_column"), "{stderr}");
}
