//! Every command of the README is run, in a scratch folder where it names one.

use crate::support::{Scratch, osler, succeed};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("root")
}

/// The lines of the README's shell blocks.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README");
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(|block| block.lines().map(str::to_string).collect::<Vec<_>>()).collect()
}

/// A recipe of one's own: a folder of text files beside it.
fn recipe_of_texts(scratch: &Scratch) -> PathBuf {
    let texts = scratch.path("texts");
    std::fs::create_dir_all(&texts).expect("folder");
    for number in 0..40 {
        let sentence = format!("Patient {number} came with fever for {number} days and was seen in ward {}. ", number * 7);
        std::fs::write(texts.join(format!("{number}.txt")), sentence.repeat(4)).expect("file");
    }
    let recipe = scratch.path("my.toml");
    let text = "[[source]]\nname = 'notes'\nformat = 'text'\npath = 'texts/*.txt'\nlicense = 'CC0-1.0'\n\
                [tokenizer.train]\nvocab_size = 400\n[pack]\ncontext_length = 64\n";
    std::fs::write(&recipe, text).expect("recipe");
    recipe
}

#[test]
fn every_command_runs() {
    let scratch = Scratch::new("readme");
    let recipe = recipe_of_texts(&scratch);
    let program = PathBuf::from(osler().get_program());
    // The first two folders above the program: what `make` builds into has to be the folder that holds this test.
    let target = program.parent().and_then(Path::parent).expect("target folder");
    let mut ran = 0;
    for line in commands() {
        // It is what runs this.
        if line == "make test" {
            continue;
        }
        let out = |name: &str| scratch.path(name).display().to_string();
        let line = line.replace("my.toml", &recipe.to_string_lossy()).replace("my-corpus", &scratch.path("my-corpus").to_string_lossy());
        let line = line.replace("out/sample", &scratch.path("sample").to_string_lossy());
        let line = if line == "make corpus" { format!("make corpus OUT={}", scratch.path("sample").display()) } else { line };
        // The sample's corpus is there already, and two steps of a hundred show that the command runs.
        let short = format!("make train OUT={} ARGS='--schedule.steps 2 --corpus {}'", out("model"), out("sample"));
        let line = if line == "make train" { short } else { line };
        let line = if line.contains("--doc ID") { line.replace("--doc ID", &format!("--doc {}", some_id(&scratch))) } else { line };
        let path = format!("{}:{}", program.parent().expect("folder").display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        // What cargo tells a test of its package makes build scripts run again, and with them half of the dependencies.
        let told = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| told(name)) {
            shell.env_remove(name);
        }
        shell.args(["-c", &line]).current_dir(root()).env("CARGO_TARGET_DIR", target).env("PATH", path);
        let said = succeed(&mut shell);
        assert!(!said.stdout.is_empty(), "`{line}` said nothing");
        ran += 1;
    }
    assert!(ran >= 5, "the README has {ran} commands");
}

fn some_id(scratch: &Scratch) -> String {
    let mut command = osler();
    command.arg("report").arg(scratch.path("sample")).args(["--format", "jsonl", "--sql", "SELECT min(doc_id) AS id FROM ledger"]);
    let row: serde_json::Value = serde_json::from_slice(&succeed(&mut command).stdout).expect("a JSON row");
    row["id"].as_str().expect("an id").to_string()
}
