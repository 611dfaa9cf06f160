//! Flags repeats in a folder of real documents with both engines, pass by pass and source by source, and ends with an error where the sparse
//! one differs from the full suffix array: `exact_quality FOLDER [MEGABYTES]`. A source is a folder of that folder; of a source of more
//! megabytes, 40 by default, the first files are taken. `make quality` runs it.

#[path = "near_texts/texts.rs"]
mod texts;

use osler_corpus::exact_duplicates::{Engine, ExactDuplicates, ExactDuplicatesConfig, Keep, Outcome, Resources};
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().ok_or("name the folder of real documents")?;
    let most = arguments.next().map_or(Ok(40), |megabytes| megabytes.parse::<usize>())? * 1_000_000;
    let sources = texts::sources(Path::new(&data), most)?;
    let mut different = 0;
    for keep in [Keep::First, Keep::None] {
        let config = ExactDuplicatesConfig { keep, removed_share_max: 1.0, ..ExactDuplicatesConfig::default() };
        let [sparse, full] = [Engine::SparseSuffixArray, Engine::SuffixArray].map(|engine| flag(&sources, &config, engine));
        let (sparse, full) = (sparse?, full?);
        println!(
            "## keep = {keep:?}\n\n| source | bytes | flagged at {:?} by suffix-array | by sparse-suffix-array | |\n|---|---|---|---|---|",
            config.passes
        );
        for ((name, _), (index, full)) in sources.iter().zip(&full.sources) {
            let sparse = sparse.sources.get(index).cloned().unwrap_or_default();
            let equal = sparse == *full;
            different += usize::from(!equal);
            let verdict = if equal { "equal" } else { "DIFFERENT" };
            println!("| {name} | {} | {:?} | {:?} | {verdict} |", full.bytes_in, full.covered_bytes, sparse.covered_bytes);
        }
        let (spans, verdict) = (full.passes.iter().map(Vec::len).collect::<Vec<_>>(), sparse.passes == full.passes);
        different += usize::from(!verdict);
        println!(
            "\nspans by pass {spans:?}, {}\n",
            if verdict { "the same to the byte, and so are their kept copies" } else { "DIFFERENT" }
        );
    }
    if different > 0 { Err(format!("{different} of these differ").into()) } else { Ok(()) }
}

fn flag(sources: &[(String, Vec<String>)], config: &ExactDuplicatesConfig, engine: Engine) -> Result<Outcome, Box<dyn Error>> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let config = ExactDuplicatesConfig { engine, ..config.clone() };
    let mut stage = ExactDuplicates::new(config)?.with_resources(Resources { threads, ..Resources::default() });
    let texts = (0..).zip(sources).flat_map(|(source, (_, texts))| texts.iter().map(move |text| (source, text)));
    (0..).zip(texts).try_for_each(|(ordinal, (source, text))| stage.push_document(ordinal, source, text))?;
    Ok(stage.finish()?)
}
