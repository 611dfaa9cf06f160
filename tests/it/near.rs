//! Near-duplicates end to end: new documents against an earlier run, pairs, functions in filters, a budget too small for everything.

use crate::support::{Scratch, fail, osler, output_hashes, succeed};
use std::path::Path;
use std::process::Command;

const RECIPE: &str = "
name = 'near'
[[source]]
name = 'notes'
format = 'jsonl'
path = 'in'
licenses = ['*']
[length_filter]
min_words = 1
[exact_duplicates]
passes = []
[tokenizer]
train = { vocab_size = 300 }
[pack]
context_length = 64
";

/// A text of `length` words that only `group` has, the last `changed` of them its own again.
fn text(group: u64, length: u64, changed: u64, variant: u64) -> String {
    let word = |index: u64| match index + changed < length {
        true => format!("w{group}x{index}"),
        false => format!("v{group}y{variant}z{index}"),
    };
    (0..length).map(word).collect::<Vec<_>>().join(" ")
}

fn recipe(folder: &Path, texts: &[String], more: &str) {
    std::fs::create_dir_all(folder.join("in")).expect("folder");
    let lines: Vec<String> = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
    std::fs::write(folder.join("in/notes.jsonl"), lines.join("\n")).expect("file");
    // Keys of the recipe itself come before its tables.
    let text = if more.trim_start().starts_with('[') { format!("{RECIPE}{more}") } else { format!("{more}\n{RECIPE}") };
    std::fs::write(folder.join("recipe.toml"), text).expect("file");
}

fn run(folder: &Path) -> Command {
    let mut command = osler();
    command.args(["corpus", "--progress", "none", "--recipe"]).arg(folder.join("recipe.toml")).arg("--out").arg(folder.join("out"));
    command
}

/// Rows of a query, as JSON.
fn ask(folder: &Path, sql: &str) -> Vec<serde_json::Value> {
    let output = succeed(osler().arg("report").arg(folder.join("out")).args(["--format", "jsonl", "--sql", sql]));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn new_documents_are_held_against_an_earlier_run() {
    let scratch = Scratch::new("against");
    let (old, new) = (scratch.path("old"), scratch.path("new"));
    // 20 short documents, 5 long ones, and a pair of which one stands for the other.
    let mut earlier: Vec<String> =
        (0..20).map(|group| text(group, 200, 0, 0)).chain((20..25).map(|group| text(group, 2_600, 0, 0))).collect();
    earlier.push(text(0, 200, 4, 1));
    recipe(&old, &earlier, "");
    succeed(&mut run(&old));
    assert!(!old.join("out/index").exists(), "no index unless it is asked for");
    // New: exact copies, near-duplicates of 0.92 short and long, one of a document that was removed, strangers, and a pair of strangers.
    let mut later = vec![text(3, 200, 0, 0), text(3, 200, 0, 0), text(4, 200, 8, 2), text(22, 2_600, 100, 2), text(0, 200, 8, 1)];
    later.extend([text(100, 200, 0, 0), text(101, 2_600, 0, 0), text(102, 200, 0, 0), text(102, 200, 8, 2), text(5, 200, 60, 2)]);
    recipe(&new, &later, "");
    let (code, said) = fail(run(&new).arg("--against").arg(old.join("out")));
    assert!(code == 2 && said.contains("index = true"), "{said}");

    recipe(&old, &earlier, "index = true");
    succeed(&mut run(&old));
    // The index needs nothing else of the earlier run.
    for folder in ["work/documents", "work/candidates", "work/pairs", "work/clusters", "corpus"] {
        std::fs::remove_dir_all(old.join("out").join(folder)).expect("folder");
    }
    succeed(run(&new).arg("--against").arg(old.join("out")));
    let kept = ask(&new, "SELECT num_words FROM corpus ORDER BY num_words");
    assert_eq!(kept.iter().map(|row| row["num_words"].as_u64().expect("words")).collect::<Vec<_>>(), [200, 200, 200, 2_600]);
    let removed = ask(&new, "SELECT reason, count(*) AS n, min(score) AS low FROM ledger GROUP BY reason ORDER BY reason");
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!((removed[0]["reason"].as_str(), removed[0]["n"].as_u64()), (Some("exact-copy"), Some(2)), "{removed:?}");
    // Three that the index has, and one of the two strangers that are alike.
    assert_eq!((removed[1]["reason"].as_str(), removed[1]["n"].as_u64()), (Some("near-duplicate"), Some(4)), "{removed:?}");
    assert!(removed[1]["low"].as_f64().expect("score") > 0.9, "{removed:?}");
    let first = output_hashes(&new.join("out"));
    std::fs::remove_dir_all(new.join("out")).expect("folder");
    succeed(run(&new).arg("--against").arg(old.join("out")).args(["--threads", "1"]));
    assert_eq!(output_hashes(&new.join("out")), first);

    let (code, said) = fail(run(&new).arg("--against").arg(old.join("out")).args(["--near_duplicates.n", "4"]));
    assert!(code == 2 && said.contains("other settings"), "{said}");
}

#[test]
fn pairs_are_exported_and_functions_filter() {
    let scratch = Scratch::new("pairs");
    let folder = scratch.path("run");
    let texts: Vec<String> = (0..10).flat_map(|group| [text(group, 200, 0, 0), text(group, 200, 8 * group, 1)]).collect();
    let filter = "
[[filter]]
name = 'not-like-the-form'
sql = \"jaccard(text, 'a form that nobody filled in at all') < 0.5 AND jaccard(minhash_signature(text), minhash_signature('x')) < 0.5\"
[[filter]]
name = 'after-the-length-filter'
after = 'length-filter'
sql = 'jaccard(text, text) = 1'
[[filter]]
name = 'after-near-duplicates'
after = 'near-duplicates'
sql = 'jaccard(text, text) = 1'
[[filter]]
name = 'after-all'
after = 'exact-duplicates'
sql = 'jaccard(text, text) = 1'
";
    recipe(&folder, &[texts, vec!["A form that nobody filled in at all!".to_string()]].concat(), filter);
    succeed(&mut run(&folder));
    let dropped = ask(&folder, "SELECT count(*) AS n FROM ledger WHERE stage = 'filter:not-like-the-form'");
    assert_eq!(dropped[0]["n"].as_u64(), Some(1));
    let output = succeed(osler().args(["minhash", "pairs"]).arg(folder.join("out")).args(["--min", "0.85"]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // 196 shingles, of which 8 × group are changed: 0.92 and 0.849 are the similarities on either side of the threshold but one.
    let wanted = ask(&folder, "SELECT count(*) AS n FROM pairs WHERE jaccard >= 0.85")[0]["n"].as_u64().expect("number");
    assert_eq!(wanted, 1, "{said}");
    assert!(said.starts_with("1 pairs in ") && folder.join("out/pairs.parquet").is_file(), "{said}");
}

#[test]
fn a_small_budget_changes_nothing() {
    let scratch = Scratch::new("budget");
    let folder = scratch.path("run");
    // 240 documents of 2,600 words in pairs: their sets are more than half of the smallest pool.
    let texts: Vec<String> = (0..120).flat_map(|group| [text(group, 12_000, 0, 0), text(group, 12_000, 300, 1)]).collect();
    recipe(&folder, &texts, "");
    succeed(run(&folder).args(["--memory", "2GiB"]));
    let (wide, pairs) = (output_hashes(&folder.join("out")), ask(&folder, "SELECT * FROM pairs ORDER BY 1, 2"));
    assert_eq!(pairs.len(), 120);
    std::fs::remove_dir_all(folder.join("out")).expect("folder");
    succeed(run(&folder).args(["--memory", "64MiB", "--batch_rows", "16"]));
    assert_eq!(output_hashes(&folder.join("out")), wide);
    assert_eq!(ask(&folder, "SELECT * FROM pairs ORDER BY 1, 2"), pairs);
}
