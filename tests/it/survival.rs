//! Bad input, full disks, two runs at once: a clear error, exit code 2, nothing half-written under a final name.

use crate::support::{Scratch, fail, osler, output_hashes, sample, succeed};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn text_recipe(folder: &Path, extra: &str) -> std::path::PathBuf {
    let recipe = folder.join("recipe.toml");
    let text = format!(
        "name = 'x'\n{extra}\n[[source]]\nname = 'a'\nformat = 'text'\npath = 'in/*'\nlicenses = ['*']\n\n[length_filter]\nmin_words = 1\n"
    );
    fs::write(&recipe, text).expect("recipe");
    recipe
}

fn run(recipe: &Path, out: &Path) -> Command {
    let mut command = osler();
    command.args(["corpus", "--progress", "none", "--tokenizer.train.vocab_size", "300", "--recipe"]).arg(recipe).arg("--out").arg(out);
    command
}

/// No table of the run stands under its final name.
fn nothing_published(out: &Path) {
    for name in ["corpus", "ledger", "tokens", "run.json"] {
        assert!(!out.join(name).exists(), "{name} must not be there after a failed run");
    }
}

#[test]
fn truncated_gzip_is_refused_with_its_place() {
    let scratch = Scratch::new("gzip");
    fs::create_dir_all(scratch.path("in")).expect("in");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let text: String = (0..20_000).map(|word| format!("word{word} ")).collect();
    encoder.write_all(text.as_bytes()).expect("gzip");
    let bytes = encoder.finish().expect("gzip");
    fs::write(scratch.path("in/a.txt.gz"), &bytes[..bytes.len() / 2]).expect("file");
    let (code, stderr) = fail(&mut run(&text_recipe(&scratch.path(""), ""), &scratch.path("out")));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("a.txt.gz") && stderr.contains("truncated"), "{stderr}");
    assert!(!stderr.contains("word1"), "no document text in errors: {stderr}");
    nothing_published(&scratch.path("out"));
}

#[test]
fn unreadable_input_names_what_is_missing() {
    let scratch = Scratch::new("missing");
    let recipe = text_recipe(&scratch.path(""), "");
    let (code, stderr) = fail(&mut run(&recipe, &scratch.path("out")));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("in/*"), "{stderr}");
    nothing_published(&scratch.path("out"));
}

#[test]
fn wrong_tokenizer_is_refused() {
    let scratch = Scratch::new("tokenizer");
    fs::create_dir_all(scratch.path("in")).expect("in");
    fs::write(scratch.path("in/a.txt"), "some words that are long enough to stay in the corpus").expect("file");
    fs::write(scratch.path("tokenizer.json"), "{\"version\": \"1.0\"}").expect("file");
    let mut command = run(&text_recipe(&scratch.path(""), ""), &scratch.path("out"));
    let mut command2 = osler();
    command2.args(["corpus", "--progress", "none", "--tokenizer.path", "tokenizer.json", "--recipe"]);
    command2.arg(text_recipe(&scratch.path(""), "")).arg("--out").arg(scratch.path("out"));
    let (code, stderr) = fail(&mut command2);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("tokenizer"), "{stderr}");
    assert!(!scratch.path("out/tokens").exists() && !scratch.path("out/run.json").exists());
    // Without it the same folder goes on from what was finished.
    succeed(&mut command);
}

#[test]
fn unknown_key_and_unknown_recipe_are_refused() {
    let scratch = Scratch::new("keys");
    let (code, stderr) = fail(&mut run(&text_recipe(&scratch.path(""), "memmory = '1GiB'"), &scratch.path("out")));
    assert_eq!(code, 2);
    assert!(stderr.contains("did you mean `memory`?"), "{stderr}");
    let (code, stderr) = fail(osler().args(["corpus", "--recipe", "no-such-recipe"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("no-such-recipe") && stderr.contains("sample"), "{stderr}");
}

#[test]
fn foreign_folder_is_left_alone() {
    let scratch = Scratch::new("foreign");
    fs::create_dir_all(scratch.path("out")).expect("out");
    fs::write(scratch.path("out/thesis.tex"), "mine").expect("file");
    let (code, stderr) = fail(&mut sample(&scratch.path("out"), 20));
    assert_eq!(code, 2);
    assert!(stderr.contains("no run of Osler made"), "{stderr}");
    assert_eq!(fs::read_dir(scratch.path("out")).expect("out").count(), 1);
}

#[test]
fn second_run_on_one_folder_refuses() {
    let scratch = Scratch::new("lock");
    let out = scratch.path("out");
    let mut first = sample(&out, 2000).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("first run");
    let start = Instant::now();
    while !out.join("work/lock").exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "the first run never took its lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    let (code, stderr) = fail(&mut sample(&out, 2000));
    assert_eq!(code, 2);
    assert!(stderr.contains("another run is at work"), "{stderr}");
    first.kill().expect("kill");
    first.wait().expect("wait");
}

#[test]
fn control_c_leaves_a_run_that_goes_on() {
    let scratch = Scratch::new("interrupt");
    let out = scratch.path("out");
    let mut child = sample(&out, 3000).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
    let start = Instant::now();
    while !out.join("work/documents.partial").exists() && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(2));
    }
    succeed(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let status = child.wait().expect("wait");
    assert_eq!(status.code(), Some(130), "Ctrl-C ends with 130");
    assert!(!out.join("run.json").exists());
    succeed(&mut sample(&out, 3000));
    let whole = scratch.path("whole");
    succeed(&mut sample(&whole, 3000));
    assert_eq!(output_hashes(&out), output_hashes(&whole));
}

#[test]
fn full_disk_is_named_and_the_run_goes_on_after() {
    let scratch = Scratch::new("disk");
    let out = scratch.path("small");
    fs::create_dir_all(&out).expect("folder");
    let mount = |size: &str| Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&out).output();
    if !mount("size=1m").is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a small file system cannot be mounted here (not root)");
        return;
    }
    let (code, stderr) = fail(&mut sample(&out, 400));
    let published = ["corpus", "tokens", "run.json"].map(|name| out.join(name).exists());
    let grown = Command::new("mount").args(["-o", "remount,size=256m"]).arg(&out).output();
    let resumed = sample(&out, 400).output().expect("run");
    let hashes = resumed.status.success().then(|| output_hashes(&out));
    succeed(Command::new("umount").arg(&out));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("disk is full"), "{stderr}");
    assert_eq!(published, [false; 3]);
    assert!(grown.is_ok_and(|output| output.status.success()));
    let whole = scratch.path("whole");
    succeed(&mut sample(&whole, 400));
    assert_eq!(hashes.expect("the run goes on after space was made"), output_hashes(&whole));
}

#[test]
fn too_many_broken_records_stop_the_run() {
    let scratch = Scratch::new("broken");
    let mut command = sample(&scratch.path("out"), 400);
    let (code, stderr) = fail(command.args(["--max_rejected", "1"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("max_rejected"), "{stderr}");
    nothing_published(&scratch.path("out"));
    let strict = sample(&scratch.path("strict"), 400).arg("--strict").output().expect("run");
    assert_eq!(strict.status.code(), Some(1), "--strict ends with 1 when records were rejected");
}

#[test]
fn a_folder_that_only_looks_like_a_run_is_left_alone() {
    let scratch = Scratch::new("home");
    let home = scratch.path("home");
    fs::create_dir_all(home.join("work")).expect("work");
    fs::create_dir_all(home.join("corpus")).expect("corpus");
    fs::write(home.join("corpus/thesis.txt"), "mine").expect("file");
    let (code, stderr) = fail(&mut sample(&home, 20));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("no run of Osler made"), "{stderr}");
    assert!(home.join("corpus/thesis.txt").exists());
}

#[test]
fn a_failed_second_recipe_leaves_no_manifest_of_the_first() {
    let scratch = Scratch::new("stale");
    let out = scratch.path("out");
    succeed(&mut sample(&out, 60));
    let (code, stderr) = fail(sample(&out, 60).args(["--length_filter.min_words", "100000"]));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("no document is left"), "{stderr}");
    assert!(stderr.contains(" of `") && stderr.contains(" dropped by length-filter ("), "{stderr}");
    assert!(!out.join("run.json").exists() && !out.join("report.html").exists(), "the old manifest stands beside another corpus");
    assert!(!out.join("tokens").exists(), "old tokens stand beside another corpus");
}

/// A run does not destroy what it is not about.
#[test]
fn other_runs_are_left_alone() {
    let scratch = Scratch::new("other-runs");
    let out = scratch.path("out");
    succeed(sample(&out, 60).args(["--index", "true"]));
    let before = output_hashes(&out);
    let (code, stderr) = fail(sample(&out, 60).args(["--index", "true", "--against"]).arg(&out));
    assert!(code == 2 && stderr.contains("the folder of this very run"), "{code} {stderr}");
    fs::create_dir_all(scratch.path("in")).expect("in");
    fs::write(scratch.path("in/a.txt"), "some words that are long enough to stay in the corpus").expect("file");
    let (code, stderr) = fail(&mut run(&text_recipe(&scratch.path(""), ""), &out));
    assert!(code == 2 && stderr.contains("holds a finished run (`sample`) of other sources"), "{code} {stderr}");
    assert!(out.join("index/settings.json").exists());
    assert_eq!(output_hashes(&out), before);
}

/// A source may be the folder that the run's own lies in.
#[test]
fn what_a_run_writes_is_no_source_of_it() {
    let scratch = Scratch::new("own-output");
    fs::create_dir_all(scratch.path("in")).expect("in");
    fs::write(scratch.path("in/a.txt"), "some words that are long enough to stay in the corpus").expect("file");
    let out = scratch.path("in/o[1] + é");
    for words in ["1", "2"] {
        let recipe = text_recipe(&scratch.path(""), "");
        let text = fs::read_to_string(&recipe).expect("recipe");
        fs::write(&recipe, text.replace("in/*", "in/../in")).expect("recipe");
        succeed(run(&recipe, &out).args(["--length_filter.min_words", words]));
        let manifest: serde_json::Value = serde_json::from_slice(&fs::read(out.join("run.json")).expect("manifest")).expect("JSON");
        let inputs = manifest["inputs"].as_array().expect("inputs");
        assert!(inputs.len() == 1 && inputs[0]["path"] == "a.txt", "{inputs:?}");
    }
}

/// Questions of a report read, and what is wrong with one is the user's to mend.
#[test]
fn a_query_changes_nothing() {
    let scratch = Scratch::new("query");
    succeed(&mut sample(&scratch.path("out"), 60));
    let target = scratch.path("x.csv");
    for sql in [format!("COPY corpus TO '{}'", target.display()), "CREATE TABLE t AS SELECT 1".into(), "SELECT 1; SELECT 2".into()] {
        let (code, stderr) = fail(osler().arg("report").arg(scratch.path("out")).args(["--sql", &sql]));
        assert!(code == 2 && !stderr.contains("fault of Osler"), "{sql}: {code} {stderr}");
        assert!(!target.exists());
    }
}

#[test]
fn the_limit_of_broken_records_holds_on_resume() {
    let scratch = Scratch::new("resume-limit");
    let out = scratch.path("out");
    succeed(&mut sample(&out, 400));
    let (code, stderr) = fail(sample(&out, 400).args(["--max_rejected", "1"]));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("max_rejected"), "{stderr}");
}

#[test]
fn unusual_output_folders_work() {
    let scratch = Scratch::new("names");
    for name in ["with space", "o[1]", "o?x", "run:1", "é%20#"] {
        succeed(&mut sample(&scratch.path(name), 60));
        assert!(scratch.path(name).join("report.html").exists(), "{name}");
    }
}

#[test]
fn many_threads_do_not_starve_each_other() {
    let scratch = Scratch::new("threads");
    let out = scratch.path("out");
    succeed(sample(&out, 200).args(["--threads", "200", "--memory", "8GiB"]));
    let few = scratch.path("few");
    succeed(&mut sample(&few, 200));
    assert_eq!(output_hashes(&out), output_hashes(&few));
    let (code, stderr) = fail(sample(&scratch.path("more"), 20).args(["--threads", "5000"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("threads"), "{stderr}");
}

#[test]
fn filters_that_cannot_be_computed_or_repeated_are_refused() {
    let scratch = Scratch::new("sql");
    fs::create_dir_all(scratch.path("in")).expect("in");
    fs::write(scratch.path("in/a.txt"), "some words that are long enough to stay in the corpus").expect("file");
    fs::write(scratch.path("in/b.txt"), [0xff, 0xfe, 0xfd, 0x41]).expect("a broken record");
    let filtered = |sql: &str| text_recipe(&scratch.path(""), &format!("[[filter]]\nname = 'f'\nsql = \"{sql}\"\n"));
    let (code, stderr) = fail(&mut run(&filtered("random() < 0.5"), &scratch.path("random")));
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("another value each time"), "{stderr}");
    let (code, stderr) = fail(&mut run(&filtered("CAST(text AS INT) > 1"), &scratch.path("cast")));
    assert_eq!(code, 2, "{stderr}");
    assert!(!stderr.contains("some words"), "no document text in errors: {stderr}");
    // A rejected record has no words; it is not asked.
    succeed(&mut run(&filtered("num_bytes / num_words < 20"), &scratch.path("divide")));
    let (code, stderr) = fail(osler().arg("report").arg(scratch.path("divide")).args(["--sql", "SELECT nocol FROM corpus"]));
    assert_eq!(code, 2, "{stderr}");
}

/// A ring of documents, each of whose halves stands in a neighbour: what is cut from one must not be held by another that is then
/// dropped as too short.
#[test]
fn the_holder_of_a_kept_copy_is_never_dropped_as_too_short() {
    let scratch = Scratch::new("ring");
    fs::create_dir_all(scratch.path("in")).expect("in");
    let segment = |number: usize| (0..15).map(|word| format!("segment{number}word{word}")).collect::<Vec<_>>().join(" ");
    for number in 0..40 {
        fs::write(scratch.path(&format!("in/{number}.txt")), format!("{} {}", segment(number), segment((number + 1) % 40))).expect("file");
    }
    let recipe = text_recipe(&scratch.path(""), "");
    let mut command = run(&recipe, &scratch.path("out"));
    succeed(command.args(["--length_filter.min_words", "20"]));
    let proof = succeed(osler().args(["exact", "verify"]).arg(scratch.path("out")));
    assert!(String::from_utf8_lossy(&proof.stdout).contains("still stands"));
    for number in 0..40 {
        let sql = format!("SELECT count(*) AS n FROM corpus WHERE contains(text, '{}')", segment(number));
        let rows = succeed(osler().arg("report").arg(scratch.path("out")).args(["--format", "jsonl", "--sql", &sql]));
        assert!(!String::from_utf8_lossy(&rows.stdout).contains(":0"), "segment {number} stands nowhere in the corpus");
    }
}
