//! Token ids beside the reference: Python tokenizers over all real documents and over texts of random Unicode.

use crate::support::{Scratch, osler, shared_data, succeed};
use std::process::Command;

const SCRIPT: &str = include_str!("reference_ids.py");

/// Texts of characters from every plane and of what tokenizers treat apart: white space, marks, digits, joiners, spellings of tokens.
fn random_texts(count: usize) -> String {
    let special =
        [" ", "  ", "\n", "\t", "▁", "'s", "'LL", "1234", "\u{301}", "\u{200d}", "\u{feff}", "\u{a0}", "<0x41>", "Ġ", "é", "ſ", "İ", "ﬁ"];
    let mut state = 1u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut lines = String::new();
    for _ in 0..count {
        let mut text = String::from("x");
        for _ in 0..next(400) {
            match next(6) {
                0 => text.push_str(special[next(special.len() as u64) as usize]),
                1 => text.push(char::from(b' ' + next(95) as u8)),
                2 => text.push(char::from(b'a' + next(26) as u8)),
                3 => text.extend(char::from_u32(next(0x800) as u32 + 0x80)),
                4 => text.extend(char::from_u32(next(0x1_0000) as u32)),
                _ => text.extend(char::from_u32(next(0x11_0000) as u32)),
            }
        }
        lines.push_str(&format!("{}\n", serde_json::json!({"text": text})));
    }
    lines
}

#[test]
fn ids_are_those_of_python_tokenizers() {
    let Some(data) = shared_data() else { return };
    let python = std::env::var("OSLER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_string());
    if !Command::new(&python).args(["-c", "import tokenizers, pyarrow, numpy"]).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("CI").is_err(), "CI must have tokenizers: tests/run installs it");
        eprintln!("SKIPPED: {python} lacks tokenizers; `make test` installs it");
        return;
    }
    let scratch = Scratch::new("ids");
    std::fs::write(scratch.path("random.jsonl"), random_texts(3000)).expect("texts");
    let shipped = include_str!("../../datasets/recipes/shared-data.toml").replace("../../../shared/data", &data.display().to_string());
    let random = "\n[[source]]\nname = \"random\"\nformat = \"jsonl\"\npath = \"random.jsonl\"\nlicense = \"local\"\nlicenses = [\"*\"]\n";
    let recipe = scratch.path("recipe.toml");
    std::fs::write(&recipe, shipped + random).expect("recipe");
    let out = scratch.path("out");
    for tokenizer in ["mistral_7b_v1", "qwen2"] {
        let mut run = osler();
        run.args(["corpus", "--progress", "none", "--near_duplicates.enabled", "false", "--exact_duplicates.passes", "[]"]);
        run.args(["--length_filter.min_words", "0", "--length_filter.min_bytes", "0", "--tokenizer.path"]);
        run.arg(data.join(format!("tokenizers/{tokenizer}.tokenizer.json")));
        succeed(run.arg("--recipe").arg(&recipe).arg("--out").arg(&out));
        let output = succeed(Command::new(&python).arg("-c").arg(SCRIPT).arg(&out));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("tokens agree"), "{said}");
        eprintln!("{tokenizer}: {}", said.trim());
    }
}
