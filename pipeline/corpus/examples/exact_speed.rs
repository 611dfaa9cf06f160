//! Prints how fast exact deduplication goes over a folder of text files: `exact_speed FOLDER [LENGTH…]`, lengths 400 and 100 by default.

use osler_corpus::exact_duplicates::keep_first::keep_first;
use osler_corpus::exact_duplicates::windows::SuffixArrayClasses;
use osler_corpus::exact_duplicates::{ExactDuplicates, ExactDuplicatesConfig, TextArena};
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: exact_speed FOLDER [LENGTH…]")?;
    let lengths: Vec<usize> = arguments.map(|length| length.parse()).collect::<Result<_, _>>()?;
    let passes = if lengths.is_empty() { vec![400, 100] } else { lengths };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    let config = ExactDuplicatesConfig { passes: passes.clone(), removed_share_max: 1.0, ..ExactDuplicatesConfig::default() };
    let mut stage = ExactDuplicates::new(config)?;
    let mut arena = TextArena::default();
    for (ordinal, path) in paths.iter().enumerate() {
        let text = std::fs::read_to_string(path)?;
        arena.push(ordinal as u64, 0, &text)?;
        stage.push_document(ordinal as u64, 0, &text)?;
    }
    let megabytes = arena.bytes().len() as f64 / 1e6;
    println!("{} documents, {megabytes:.1} MB", arena.len());
    for length in passes {
        let start = Instant::now();
        let classes = SuffixArrayClasses::find(&arena, length)?;
        let found = start.elapsed().as_secs_f64();
        let removed = match &classes {
            SuffixArrayClasses::Narrow(classes) => keep_first(&arena, classes, length),
            SuffixArrayClasses::Wide(classes) => keep_first(&arena, classes, length),
        };
        let total = start.elapsed().as_secs_f64();
        let bytes: usize = removed.covered_bytes.iter().sum();
        println!(
            "length {length}, whole text: {:.1} MB/s ({found:.2} s classes, {:.2} s scan), {bytes} bytes in {} spans",
            megabytes / total,
            total - found,
            removed.removals.len()
        );
    }
    let start = Instant::now();
    let outcome = stage.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    println!("all passes, verified and cut: {:.1} MB/s; bytes {:?}", megabytes / seconds, outcome.sources.values().next());
    Ok(())
}
