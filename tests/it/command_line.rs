//! What a person sees on the command line.

use crate::support::{Scratch, fail, osler, sample, succeed};
use std::process::Stdio;

fn said(arguments: &[&str]) -> String {
    let output = succeed(osler().args(arguments));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn help_names_every_command() {
    insta::assert_snapshot!(said(&["--help"]));
}

#[test]
fn every_recipe_key_is_a_flag() {
    let help = said(&["corpus", "--help"]);
    for key in
        ["--memory", "--near_duplicates.threshold", "--exact_duplicates.passes", "--pack.context_length", "--length_filter.min_words"]
    {
        assert!(help.contains(key), "{key} is not in the help");
    }
    let recipe = said(&["corpus", "--print-recipe", "--near_duplicates.threshold", "0.9"]);
    assert!(recipe.contains("threshold = 0.9"), "{recipe}");
}

#[test]
fn printed_recipe_reads_back_to_itself() {
    let scratch = Scratch::new("print");
    for name in osler_datasets::recipes::names() {
        let printed = said(&["corpus", "--print-recipe", "--recipe", name]);
        let path = scratch.path("printed.toml");
        std::fs::write(&path, &printed).expect("file");
        let again = said(&["corpus", "--print-recipe", "--recipe", path.to_str().expect("path")]);
        assert_eq!(printed, again, "{name}");
    }
}

#[test]
fn curve_shows_what_a_banding_finds() {
    insta::assert_snapshot!(said(&["minhash", "curve"]));
    let literal = said(&["minhash", "curve", "--preset", "m42-literal"]);
    assert!(literal.contains("WARNING"), "{literal}");
}

#[test]
fn a_broken_pipe_is_no_error() {
    let mut child = osler().args(["corpus", "--print-recipe"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn plan_promises_and_touches_nothing() {
    let scratch = Scratch::new("plan");
    let out = scratch.path("out");
    let mut command = osler();
    command.args(["plan", "--recipe", "sample", "--out"]).arg(&out);
    let plan = succeed(&mut command);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    for word in [
        "OperatorExec: Parse",
        "LengthFilter",
        "SortExec",
        "Sketch",
        "Candidates",
        "FindExactDuplicates",
        "Cut",
        "Tokenize",
        "recall at the threshold",
    ] {
        assert!(plan.contains(word), "{word} is not in the plan:\n{plan}");
    }
    assert!(!out.exists(), "a plan makes no folder");
}

#[test]
fn progress_is_json_lines_where_nobody_looks() {
    let scratch = Scratch::new("progress");
    let output = succeed(sample(&scratch.path("out"), 60).args(["--progress", "json"]));
    let lines = String::from_utf8_lossy(&output.stderr).into_owned();
    let events: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    let starts = events.iter().filter(|event| event["event"] == "start").count();
    let ends = events.iter().filter(|event| event["event"] == "finish").count();
    assert!(starts >= 4 && starts == ends, "{lines}");
    let silent = succeed(&mut sample(&scratch.path("silent"), 60));
    assert!(silent.stderr.is_empty(), "{}", String::from_utf8_lossy(&silent.stderr));
}

#[test]
fn inspect_and_report_refuse_what_is_no_run() {
    let scratch = Scratch::new("norun");
    let (code, stderr) = fail(osler().arg("inspect").arg(scratch.path("")).args(["--doc", "abcd"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("no finished run"), "{stderr}");
    let (code, stderr) = fail(osler().arg("inspect").arg(scratch.path("")).args(["--doc", "not hex"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("hexadecimal"), "{stderr}");
}
