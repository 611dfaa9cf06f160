//! Prints how fast exact deduplication goes over a folder of text files, on one core beside a full suffix array and its longest common
//! prefixes, and on every number of cores that there are, beside as many stages that share nothing: `exact_speed FOLDER [LENGTH…]`, lengths 400 and 100 by default.

use osler_corpus::exact_duplicates::keep_first::{Removals, keep_first};
use osler_corpus::exact_duplicates::sparse::SparseClasses;
use osler_corpus::exact_duplicates::suffix_array::SuffixArrayClasses;
use osler_corpus::exact_duplicates::{Engine, ExactDuplicates, ExactDuplicatesConfig, Resources, TextArena};
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: exact_speed FOLDER [LENGTH…]")?;
    let lengths: Vec<usize> = arguments.map(|length| length.parse()).collect::<Result<_, _>>()?;
    let passes = if lengths.is_empty() { vec![400, 100] } else { lengths };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    let texts: Vec<String> = paths.iter().map(std::fs::read_to_string).collect::<Result<_, _>>()?;
    let mut arena = TextArena::default();
    for (ordinal, text) in texts.iter().enumerate() {
        arena.push(ordinal as u64, 0, text)?;
    }
    let megabytes = arena.bytes().len() as f64 / 1e6;
    println!("{} documents, {megabytes:.1} MB", arena.len());
    for &length in &passes {
        let start = Instant::now();
        let full = full(&arena, length)?;
        let baseline = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let classes = SparseClasses::find(&arena, length, &Default::default())?;
        let found = start.elapsed().as_secs_f64();
        let sparse = keep_first(&arena, &classes, length, &Default::default())?;
        let total = start.elapsed().as_secs_f64();
        let bytes: usize = sparse.covered_bytes.iter().sum();
        println!(
            "length {length}, whole text: suffix-array {:.1} MB/s, sparse-suffix-array {:.1} MB/s ({found:.3} s classes, {:.3} s scan), {:.1}x; \
             {bytes} bytes in {} spans, {}",
            megabytes / baseline,
            megabytes / total,
            total - found,
            baseline / total,
            sparse.removals.len(),
            if sparse == full { "equal" } else { "DIFFERENT" },
        );
    }
    let stage = |engine, threads| {
        let config = ExactDuplicatesConfig { passes: passes.clone(), removed_share_max: 1.0, engine, ..ExactDuplicatesConfig::default() };
        both_passes(config, threads, &texts)
    };
    let (seconds, sources) = stage(Engine::SuffixArray, 1);
    println!("{:?}, 1 threads, all passes, verified and cut: {:.1} MB/s; bytes {sources}", Engine::SuffixArray, megabytes / seconds);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    // By turns, so that what else the machine does meets all alike: threads that share a text, and as many stages that share nothing.
    let mut best = vec![[(f64::INFINITY, String::new()), (f64::INFINITY, String::new())]; cores];
    for _ in 0..ROUNDS {
        for (threads, best) in (1..).zip(&mut best) {
            let shared = stage(Engine::SparseSuffixArray, threads);
            let apart = std::thread::scope(|scope| {
                let stages: Vec<_> = (0..threads).map(|_| scope.spawn(|| stage(Engine::SparseSuffixArray, 1))).collect();
                let finished = stages.into_iter().map(|stage| stage.join().expect("a stage does not panic"));
                finished.max_by(|one, other| one.0.total_cmp(&other.0)).expect("there is one thread at least")
            });
            for (best, (seconds, sources)) in best.iter_mut().zip([shared, apart]) {
                *best = if seconds < best.0 { (seconds, sources) } else { best.clone() };
            }
        }
    }
    for (threads, [(shared, sources), (apart, _)]) in (1..).zip(&best) {
        println!(
            "{:?}, {threads} threads, all passes, verified and cut: {:.1} MB/s; bytes {sources}; as many stages apart, one thread each: \
             {:.1} MB/s together",
            Engine::SparseSuffixArray,
            megabytes / shared,
            threads as f64 * megabytes / apart,
        );
    }
    Ok(())
}

/// How often each number of threads has its turn.
const ROUNDS: usize = 5;

/// Seconds that the stage took, and the bytes it removed. A stage that fails ends the measurement.
fn both_passes(config: ExactDuplicatesConfig, threads: usize, texts: &[String]) -> (f64, String) {
    let run = || -> Result<_, Box<dyn Error>> {
        let mut stage = ExactDuplicates::new(config)?.with_resources(Resources { threads, ..Resources::default() });
        for (ordinal, text) in texts.iter().enumerate() {
            stage.push_document(ordinal as u64, 0, text)?;
        }
        let start = Instant::now();
        let outcome = stage.finish()?;
        Ok((start.elapsed().as_secs_f64(), format!("{:?}", outcome.sources.into_values().next())))
    };
    run().expect("the stage runs on any text")
}

fn full(arena: &TextArena, length: usize) -> Result<Removals, Box<dyn Error>> {
    Ok(match SuffixArrayClasses::find(arena, length)? {
        SuffixArrayClasses::Narrow(classes) => keep_first(arena, &classes, length, &Default::default())?,
        SuffixArrayClasses::Wide(classes) => keep_first(arena, &classes, length, &Default::default())?,
    })
}
