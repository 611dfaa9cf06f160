//! The recipe over real documents, where they are there: every file accounted for, duplicates found that are known to be there.

use crate::support::{Scratch, osler, shared_data, succeed};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn rows(out: &Path, sql: &str) -> Vec<serde_json::Value> {
    let output = succeed(osler().args(["report", "--format", "jsonl", "--sql", sql]).arg(out));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn real_documents_from_files_to_shards() {
    let Some(data) = shared_data() else { return };
    let scratch = Scratch::new("real");
    let out = scratch.path("out");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../datasets/recipes/shared-data.toml");
    succeed(osler().args(["corpus", "--progress", "none", "--memory", "4GiB", "--recipe"]).arg(&recipe).arg("--out").arg(&out));
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).expect("run.json")).expect("JSON");
    assert_eq!(manifest["complete"], true);
    every_file_is_accounted_for(&data, &manifest);
    variants_end_as_one(&out);
    mtsamples_are_distinct(&out);
    let peak = manifest["stages"].as_array().expect("stages").iter().filter_map(|stage| stage["peak_memory_bytes"].as_u64()).max();
    assert!(peak.expect("peak") <= 4 << 30, "peak memory {peak:?} is over the budget");
}

/// Every document file in a folder that the recipe reads is an input of the run.
fn every_file_is_accounted_for(data: &Path, manifest: &serde_json::Value) {
    let inputs = manifest["inputs"].as_array().expect("inputs");
    let read: BTreeSet<String> =
        inputs.iter().map(|input| input["path"].as_str().expect("path").rsplit('/').next().expect("name").to_string()).collect();
    let not_documents = ["tokenizers", "mistral_chat_samples"];
    let mut missing = Vec::new();
    for folder in std::fs::read_dir(data).expect("data") {
        let folder = folder.expect("entry").path();
        let name = folder.file_name().expect("name").to_string_lossy().into_owned();
        if !folder.is_dir() || not_documents.contains(&name.as_str()) {
            continue;
        }
        for file in std::fs::read_dir(&folder).expect("folder") {
            let file = file.expect("entry").file_name().to_string_lossy().into_owned();
            let described = file.ends_with(".tsv") || matches!(file.as_str(), "SOURCE.md" | "test_ground_truth.json");
            if !described && !read.contains(&file) {
                missing.push(format!("{name}/{file}"));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// Groups of renderings of one article: at least 17 of 18 end as one document.
fn variants_end_as_one(out: &Path) {
    let sql = "SELECT origin FROM corpus WHERE source = 'jats-variants' UNION ALL
               SELECT origin FROM ledger WHERE source = 'jats-variants' AND span_start IS NULL";
    let all: BTreeSet<String> = rows(out, sql).iter().map(group).collect();
    // A file may hold several documents (an article and its translated abstracts): files are counted.
    let mut kept: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows(out, "SELECT origin FROM corpus WHERE source = 'jats-variants'") {
        let origin = row["origin"].as_str().expect("origin").split('#').next().expect("file").to_string();
        kept.entry(group(&row)).or_default().insert(origin);
    }
    let several: Vec<_> = kept.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(all.len() >= 17, "groups seen: {}", all.len());
    assert!(several.len() <= 1, "groups with more than one document left: {several:?}");
}

fn group(row: &serde_json::Value) -> String {
    let origin = row["origin"].as_str().expect("origin");
    origin.split("__v").next().expect("group").to_string()
}

/// 2,224 rows hold 1,048 distinct texts; exact copies go, and near-duplicate rules take a few more.
fn mtsamples_are_distinct(out: &Path) {
    let count = |sql: &str| rows(out, sql)[0]["n"].as_u64().expect("count");
    let kept = count("SELECT count(*) AS n FROM corpus WHERE source = 'mtsamples'");
    let gone = count("SELECT count(*) AS n FROM ledger WHERE source = 'mtsamples' AND span_start IS NULL");
    assert_eq!(kept + gone, 2224);
    assert!((950..=1060).contains(&kept), "{kept} of 2,224 kept");
}
