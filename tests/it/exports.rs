//! Shards in other formats and other packings: exported, loaded by the packages that they are for, imported, packed and mixed again.

use crate::support::{Scratch, fail, osler, output_hashes, sample, succeed};
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = include_str!("exports.py");
const FORMATS: [&str; 6] = ["megatron", "datatrove", "olmo", "mds", "litdata", "npy"];

fn tokens(command: &str, out: &Path) -> Command {
    let mut osler = osler();
    osler.args(["tokens", command]).arg(out);
    osler
}

/// Bytes of all token files of a run.
fn stream(out: &Path) -> Vec<u8> {
    let mut files: Vec<_> = std::fs::read_dir(out.join("tokens")).expect("tokens").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    files.iter().flat_map(|path| std::fs::read(path).expect("token file")).collect()
}

#[test]
fn every_package_reads_its_export_and_imports_give_the_tokens_back() {
    let scratch = Scratch::new("exports");
    let out = scratch.path("out");
    succeed(&mut sample(&out, 60));
    for format in FORMATS {
        succeed(tokens("export", &out).args(["--format", format, "--to"]).arg(scratch.path("x").join(format)));
    }
    let (code, said) = fail(tokens("export", &out).args(["--format", "npy", "--to"]).arg(scratch.path("x").join("npy")));
    assert!(code == 2 && said.contains("is there already"), "{said}");
    for format in &FORMATS[..3] {
        let back = scratch.path(format);
        let mut import = osler();
        import
            .args(["tokens", "import", "--format", format, "--context-length", "128", "--tokenizer"])
            .arg(out.join("tokens/tokenizer.json"));
        succeed(import.arg(scratch.path("x").join(format)).arg("--out").arg(&back));
        assert!(stream(&back) == stream(&out), "{format}");
        succeed(&mut tokens("verify", &back));
        succeed(tokens("repack", &back).args(["--context-length", "64", "--method", "best-fit"]));
        let shown = succeed(tokens("show", &back).args(["--chunk", "1"]));
        assert!(String::from_utf8_lossy(&shown.stdout).contains("piece 0, imported,"), "{format}");
    }
    let python = std::env::var("OSLER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let packages = "import numpy, pyarrow, importlib.util as u; [u.find_spec(n).name for n in ('streaming', 'litdata', 'datatrove')]";
    if !Command::new(&python).args(["-c", packages]).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("CI").is_err(), "CI must have mosaicml-streaming, litdata and datatrove: tests/run installs them");
        eprintln!("SKIPPED: {python} lacks mosaicml-streaming, litdata or datatrove; `make test` installs them");
        return;
    }
    let output = succeed(Command::new(&python).arg("-c").arg(SCRIPT).arg(&out).arg(scratch.path("x")));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("every token agrees"), "{said}");
}

#[test]
fn packing_again_is_what_a_fresh_run_gives() {
    let scratch = Scratch::new("repack");
    let (out, fresh) = (scratch.path("out"), scratch.path("fresh"));
    succeed(&mut sample(&out, 60));
    let (stream_before, first) = (stream(&out), output_hashes(&out));
    let best_fit = ["--pack.method", "best-fit", "--pack.context_length", "512"];
    succeed(sample(&fresh, 60).args(best_fit));
    // By the command, and then by a run of the changed recipe, which finds it done.
    succeed(tokens("repack", &out).args(["--method", "best-fit", "--context-length", "512"]));
    assert_eq!(output_hashes(&out), output_hashes(&fresh));
    let said = succeed(sample(&out, 60).args(best_fit).args(["--progress", "json"]));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(!said.contains("\"done_before\":false"), "{said}");
    // By a run alone.
    let said = succeed(sample(&out, 60).args(["--pack.context_length", "128", "--progress", "json"]));
    assert!(String::from_utf8_lossy(&said.stderr).contains("pack again"), "tokens are not made again");
    assert!(stream(&out) == stream_before);
    succeed(&mut tokens("verify", &out));
    // By a recipe that ships, with the length that the first run was given.
    succeed(tokens("repack", &out).args(["--recipe", "sample", "--context-length", "256"]));
    assert_eq!(output_hashes(&out), first);
}

#[test]
fn a_mix_is_packed_checked_and_told() {
    let scratch = Scratch::new("mix");
    let out = scratch.path("out");
    succeed(&mut sample(&out, 60));
    let recipe = |tokens: u64, repeat: bool| {
        let path = scratch.path(&format!("mix-{tokens}-{repeat}.toml"));
        let sources = String::from_utf8(succeed(osler().args(["corpus", "--print-recipe"])).stdout).expect("a recipe");
        let mix = format!(
            "[mix]\nepochs = 4\nrepeat = {repeat}\n[[mix.part]]\nname = 'clinical'\nsources = ['case-reports', 'preprints']\ntokens = {tokens}\n\
             [[mix.part]]\nname = 'journals'\ntokens = 2560\n"
        );
        let (before, rest) = sources.split_once("[mix]").expect("a mix in every recipe");
        let after = rest.split_once("\n[").map_or(String::new(), |(_, after)| format!("[{after}"));
        std::fs::write(&path, format!("{before}{mix}{after}")).expect("recipe");
        path
    };
    let before = output_hashes(&out);
    let (code, said) = fail(tokens("repack", &out).arg("--recipe").arg(recipe(1_000_000_000, false)));
    assert!(code == 2 && said.contains("mix.repeat = true"), "{said}");
    assert_eq!(output_hashes(&out), before, "a mix that cannot be had changes nothing");
    let said = succeed(tokens("repack", &out).args(["--context-length", "256"]).arg("--recipe").arg(recipe(7680, false)));
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("clinical: 30 of") && said.contains("journals: 10 of") && said.contains("given 4.0 times"), "{said}");
    let said = succeed(tokens("repack", &out).args(["--context-length", "256"]).arg("--recipe").arg(recipe(5_000_000, true)));
    assert!(String::from_utf8_lossy(&said.stderr).contains("warning: part `clinical`"), "more than four epochs are told");
    let plan = succeed(
        osler()
            .args(["plan", "--schedule.steps", "79259", "--schedule.tokens", "65e9", "--schedule.epochs", "4"])
            .args(["--pack.context_length", "8192"]),
    );
    let plan = String::from_utf8_lossy(&plan.stdout);
    assert!(plan.contains("260000000000 tokens") && plan.contains("79259 steps × 400 sequences × 8192"), "{plan}");
    let all = ["--schedule.steps", "79259", "--schedule.sequences_per_step", "850", "--schedule.tokens", "65e9", "--schedule.epochs", "4"];
    let (code, said) = fail(osler().arg("plan").args(all).args(["--schedule.context_length", "8192"]));
    assert!(code == 2 && said.contains("conflict"), "{said}");
}

#[test]
fn streamed_chunks_are_the_bytes_of_the_shards() {
    let scratch = Scratch::new("stream");
    let (out, streamed) = (scratch.path("out"), scratch.path("streamed"));
    succeed(&mut sample(&out, 60));
    let mut stream_command = osler();
    stream_command.arg("stream");
    crate::support::articles_of_sample(&mut stream_command, 60);
    stream_command.args(["--tokenizer.train.vocab_size", "1000", "--pack.context_length", "256", "--out"]).arg(&streamed);
    let bytes = succeed(&mut stream_command).stdout;
    let wanted = stream(&out);
    assert!(!bytes.is_empty() && bytes.len().is_multiple_of(512) && wanted.starts_with(&bytes) && wanted.len() - bytes.len() < 512);
    assert!(!streamed.join("tokens").exists());
    // A run goes on from there.
    succeed(&mut sample(&streamed, 60));
    assert_eq!(output_hashes(&out), output_hashes(&streamed));
}
