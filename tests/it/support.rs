//! What the tests share: the program, scratch folders, hashes of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// The program, built beside this test.
pub fn osler() -> Command {
    let test = std::env::current_exe().expect("path of this test");
    let program = test.parent().and_then(Path::parent).expect("target folder").join("osler");
    assert!(program.is_file(), "{} is not built: run `cargo build --bin osler` first, or `make test`", program.display());
    Command::new(program)
}

/// A folder that goes with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("osler-test-{}-{number}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("scratch folder");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a command and gives its output; a failure shows what it said.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a command that has to fail, and gives its exit code and what it said on stderr.
pub fn fail(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("the program starts");
    assert!(!output.status.success(), "{command:?} was expected to fail");
    (output.status.code().expect("an exit code"), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A small sample run: `articles` articles, everything else as shipped.
pub fn sample(out: &Path, articles: u32) -> Command {
    let mut command = osler();
    command.args(["corpus", "--progress", "none"]);
    articles_of_sample(&mut command, articles);
    command.args(["--tokenizer.train.vocab_size", "1000", "--pack.context_length", "256", "--out"]).arg(out);
    command
}

/// Sets the size of the sample, which is three sources: the parts of one collection.
pub fn articles_of_sample(command: &mut Command, articles: u32) {
    for source in ["journals", "case-reports", "preprints"] {
        command.arg("--set").arg(format!("source.{source}.sample.articles={articles}"));
    }
}

/// Hashes of everything a run leaves that others read: corpus, ledger, tokens. `run.json` holds times, and so is compared without them.
pub fn output_hashes(out: &Path) -> BTreeMap<String, u64> {
    let mut hashes = BTreeMap::new();
    for folder in ["corpus", "ledger", "tokens"] {
        for entry in std::fs::read_dir(out.join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
            let path = entry.expect("entry").path();
            let name = format!("{folder}/{}", path.file_name().expect("name").to_string_lossy());
            hashes.insert(name, xxhash_rust::xxh3::xxh3_64(&std::fs::read(&path).expect("file")));
        }
    }
    assert!(hashes.len() >= 4, "a run leaves at least four files: {hashes:?}");
    hashes
}

/// The manifest, without what differs from run to run: times, memory, and the recipe's budget.
pub fn steady_manifest(out: &Path) -> serde_json::Value {
    let bytes = std::fs::read(out.join("run.json")).expect("run.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    for stage in manifest["stages"].as_array_mut().expect("stages") {
        stage["seconds"] = 0.into();
        stage["peak_memory_bytes"] = 0.into();
    }
    for key in ["memory", "threads", "batch_rows"] {
        manifest["recipe"][key] = 0.into();
    }
    manifest
}

/// The folder of real documents, where it is there. A test that needs it says loudly that it is skipped.
pub fn shared_data() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if path.is_dir() {
        return Some(path.canonicalize().expect("path"));
    }
    eprintln!("SKIPPED: the folder of real documents ../shared/data is not there");
    None
}
