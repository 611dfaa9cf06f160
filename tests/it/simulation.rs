//! The same input gives the same bytes: for any number of threads, batch size, memory budget and file order, and for a run that is killed
//! at a random point and run again. Every failure prints its seed.

use crate::support::{Scratch, articles_of_sample, output_hashes, sample, steady_manifest, succeed};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ARTICLES: u32 = 600;

/// SplitMix64 (Steele, Lea, Flood 2014): enough to draw settings.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

fn seed() -> u64 {
    let seed = std::env::var("OSLER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("seed {seed}: set OSLER_TEST_SEED to replay");
    seed
}

fn reference(scratch: &Scratch) -> (BTreeMap<String, u64>, serde_json::Value, Duration) {
    let out = scratch.path("reference");
    let start = Instant::now();
    succeed(&mut sample(&out, ARTICLES));
    (output_hashes(&out), steady_manifest(&out), start.elapsed())
}

#[test]
fn threads_batches_and_memory_change_nothing() {
    let scratch = Scratch::new("settings");
    let (hashes, manifest, _) = reference(&scratch);
    for (threads, batch_rows, memory) in [("1", "1024", "4GiB"), ("2", "7", "4GiB"), ("5", "333", "1GiB"), ("2", "64", "256MiB")] {
        let out = scratch.path(&format!("t{threads}-b{batch_rows}"));
        succeed(sample(&out, ARTICLES).args(["--threads", threads, "--batch_rows", batch_rows, "--memory", memory]));
        assert_eq!(output_hashes(&out), hashes, "threads {threads}, batch rows {batch_rows}, memory {memory}");
        assert_eq!(steady_manifest(&out), manifest, "threads {threads}, batch rows {batch_rows}, memory {memory}");
    }
}

#[test]
fn killed_at_random_points_and_run_again() {
    let scratch = Scratch::new("kill");
    let (hashes, manifest, whole_run) = reference(&scratch);
    let mut draw = Draw(seed());
    let mut kills = 0;
    for round in 0..3 {
        let out = scratch.path(&format!("killed-{round}"));
        for _ in 0..6 {
            let mut child = sample(&out, ARTICLES).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
            let wait = Duration::from_micros(draw.below(whole_run.as_micros() as u64));
            std::thread::sleep(wait);
            child.kill().expect("kill");
            let status = child.wait().expect("wait");
            kills += u32::from(!status.success());
        }
        succeed(&mut sample(&out, ARTICLES));
        assert_eq!(output_hashes(&out), hashes, "round {round}");
        assert_eq!(steady_manifest(&out), manifest, "round {round}");
        assert_no_leftovers(&out);
    }
    assert!(kills > 0, "no run was killed before it ended: the test showed nothing");
}

fn assert_no_leftovers(out: &Path) {
    let mut folders = vec![out.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            assert!(!name.ends_with(".partial") && name != "spill", "left behind: {}", path.display());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
}

#[test]
fn file_order_and_place_change_nothing() {
    let scratch = Scratch::new("order");
    let mut hashes = Vec::new();
    for (round, order) in [[0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0]].iter().enumerate() {
        let folder = scratch.path(&format!("place-{round}"));
        fs::create_dir_all(folder.join("in")).expect("in");
        for &file in order {
            let rows: String = (0..40)
                .map(|row| {
                    let words: Vec<String> = (0..60).map(|word| format!("w{}", (file * 7919 + row * 104_729 + word * 31) % 5000)).collect();
                    format!("{{\"text\": \"{}\", \"id\": {row}}}\n", words.join(" "))
                })
                .collect();
            fs::write(folder.join(format!("in/part-{file}.jsonl")), rows).expect("file");
        }
        let recipe = folder.join("r.toml");
        let text = "name = 'x'\n[[source]]\nname = 'a'\nformat = 'jsonl'\npath = 'in/*.jsonl'\nlicenses = ['*']\n";
        fs::write(&recipe, text).expect("recipe");
        let out = folder.join("out");
        let mut command = crate::support::osler();
        command
            .args(["corpus", "--progress", "none", "--tokenizer.train.vocab_size", "400", "--recipe"])
            .arg(&recipe)
            .arg("--out")
            .arg(&out);
        succeed(&mut command);
        hashes.push(output_hashes(&out));
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_changed_recipe_runs_only_what_it_changes() {
    let scratch = Scratch::new("changed");
    let out = scratch.path("out");
    succeed(&mut sample(&out, 200));
    let stages = |command: &mut Command| -> Vec<(String, bool)> {
        let output = succeed(command.args(["--progress", "json"]));
        let lines = String::from_utf8_lossy(&output.stderr).into_owned();
        let events = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let finished = events.filter(|event| event["event"] == "finish");
        finished.map(|event| (event["stage"].as_str().expect("stage").to_string(), event["done_before"] == true)).collect()
    };
    let again = |arguments: &[&str]| {
        let mut command = crate::support::osler();
        command.args(["corpus", "--tokenizer.train.vocab_size", "1000"]);
        articles_of_sample(&mut command, 200);
        command.args(arguments).arg("--out").arg(&out);
        command
    };
    let same = stages(&mut again(&["--pack.context_length", "256"]));
    assert!(same.len() >= 4 && same.iter().all(|(_, done_before)| *done_before), "{same:?}");
    let repacked = stages(&mut again(&["--pack.context_length", "128"]));
    let ran: Vec<&str> = repacked.iter().filter(|(_, done_before)| !done_before).map(|(stage, _)| stage.as_str()).collect();
    assert_eq!(ran, ["pack again"]);
}
