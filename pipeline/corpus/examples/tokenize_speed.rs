//! Tokenises texts on one thread: `tokenize_speed tokenizer.json texts [rounds]`, where `texts` holds texts with a zero byte after each.
//! Prints the fastest round's MB/s, the number of ids and their XXH3-64, by which bench.py compares them with another program's.

use osler_corpus::tokenize::{Ids, Tokenizer, TokenizerConfig};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, tokenizer, texts, rest @ ..] = arguments.as_slice() else { return Err("tokenize_speed tokenizer.json texts [rounds]".into()) };
    let rounds: usize = rest.first().map_or(Ok(3), |rounds| rounds.parse())?;
    let tokenizer = Tokenizer::load(&std::fs::read(tokenizer)?, "tokenizer", &TokenizerConfig::default())?;
    let bytes = std::fs::read_to_string(texts)?;
    let texts: Vec<&str> = bytes.split_terminator('\0').collect();
    let num_bytes: usize = texts.iter().map(|text| text.len()).sum();
    let mut ids = Ids::default();
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        ids.clear();
        let start = Instant::now();
        for text in &texts {
            tokenizer.encode_into(text, &mut ids)?;
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    let hash = {
        let bytes: Vec<u8> = ids.as_slice().iter().flat_map(|id| id.to_le_bytes()).collect();
        xxhash_rust::xxh3::xxh3_64(&bytes)
    };
    println!(
        "{:.2} MB/s, {} texts, {num_bytes} bytes, {} ids, {hash:016x}",
        num_bytes as f64 / best / 1e6,
        texts.len(),
        ids.as_slice().len()
    );
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    }
    Ok(())
}
