//! House rules that a test can check.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("root")
}

fn tracked(pattern: &str) -> Vec<PathBuf> {
    let output = Command::new("git").current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard", pattern]).output();
    let output = output.expect("git");
    let files =
        String::from_utf8_lossy(&output.stdout).lines().map(|line| root().join(line)).filter(|path| path.is_file()).collect::<Vec<_>>();
    assert!(!files.is_empty(), "no file matches {pattern}");
    files
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Only cli prints; tests, examples, benchmarks and build scripts, which speak to cargo so, may.
#[test]
fn libraries_do_not_print() {
    for path in tracked("*.rs") {
        let name = path.to_string_lossy().into_owned();
        if ["pipeline/cli/", "/tests/", "/examples/", "/benches/", "tests.rs", "build.rs"].iter().any(|part| name.contains(part)) {
            continue;
        }
        let text = read(&path);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let prints =
                ["println!", "eprintln!", "print!(", "dbg!", "std::env::var", "process::exit"].iter().any(|word| line.contains(word));
            assert!(!prints, "{name}:{}: only pipeline/cli prints, reads the environment or exits", number + 1);
        }
    }
}

/// One crate names each heavy dependency.
#[test]
fn heavy_dependencies_have_one_home() {
    for (dependency, home) in [("datafusion", "pipeline/engine"), ("polars", "pipeline/report"), ("cudarc", "kernels")] {
        for path in tracked("*Cargo.toml") {
            let name = path.to_string_lossy().into_owned();
            let elsewhere = !name.contains(home) && !name.contains("/tests/") && path != root().join("Cargo.toml");
            let names = read(&path).lines().any(|line| line.starts_with(dependency));
            assert!(!(elsewhere && names), "{name} names {dependency}, whose home is {home}");
        }
    }
}

/// Every test file of this folder is part of the test.
#[test]
fn no_test_file_is_forgotten() {
    let main = read(&root().join("tests/it/main.rs"));
    for entry in std::fs::read_dir(root().join("tests/it")).expect("folder") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let stem = path.file_stem().expect("stem").to_string_lossy().into_owned();
            assert!(stem == "main" || main.contains(&format!("mod {stem};")), "tests/it/{stem}.rs is not in main.rs");
        }
    }
}

/// Every relative link in the documents leads somewhere.
#[test]
fn links_lead_somewhere() {
    for path in tracked("*.md") {
        for link in read(&path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let place = path.parent().expect("folder").join(target);
            assert!(place.exists(), "{}: {link} leads nowhere", path.display());
        }
    }
}
