//! `osler tokens`: shards by themselves.

use crate::arguments::{PackArguments, TokensCommand};
use crate::commands::{read_recipe, stop_on_signals};
use crate::{Failure, render};
use osler_corpus::tokenize::{Tokenizer, TokenizerConfig, sentencepiece};
use osler_datasets::recipes;
use osler_engine::{Options, Recipe};
use osler_schemas::chain;
use osler_tokens::exchange::{self, Format};
use osler_tokens::writer::DEFAULT_SHARD_BYTES;
use osler_tokens::{Expectations, MixConfig, PackConfig, ShardSet, ShardWriter, Summary, mix};
use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Runs one of the commands and gives the exit code.
///
/// # Errors
/// [`Failure`] with a message and the exit code.
pub fn run(command: &TokensCommand) -> Result<u8, Failure> {
    match command {
        TokensCommand::Verify { out } => verify(out),
        TokensCommand::Show { out, chunk } => show(out, *chunk),
        TokensCommand::Repack { out, recipe, pack } => repack(out, recipe.as_deref(), pack),
        TokensCommand::Export { out, format, to } => export(out, *format, to.as_deref()),
        TokensCommand::Import { paths, format, tokenizer, eos, out, source, pack } => {
            let config = TokenizerConfig { eos: eos.clone(), ..TokenizerConfig::default() };
            import(paths, *format, (tokenizer.as_path(), &config), out, source, &pack.over(PackConfig::default()))
        }
    }
}

/// Writes the chunks of a running corpus to standard output.
///
/// # Errors
/// As for a run.
pub fn stream(options: &Options) -> Result<u8, Failure> {
    if stdout().is_terminal() {
        return Err(Failure::user("chunks are bytes, and standard output is a terminal: send them to a program or a file"));
    }
    stop_on_signals(options)?;
    let mut to = BufWriter::with_capacity(1 << 20, stdout().lock());
    let mut written = Ok(());
    let streamed = osler_engine::stream(options, |chunk| {
        written = to.write_all(chunk.bytes);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written.and_then(|()| to.flush())?;
    let numbers = [streamed.num_chunks, streamed.num_tail_tokens].map(render::grouped);
    let tokenizer = streamed.tokenizer.display();
    writeln!(std::io::stderr(), "{} chunks; {} tokens at the end in none; tokenizer {tokenizer}", numbers[0], numbers[1])?;
    Ok(0)
}

fn shards(out: &Path) -> Result<ShardSet, Failure> {
    ShardSet::open(&out.join("tokens"), &Expectations::default()).map_err(|error| Failure::user(chain(&error)))
}

fn verify(out: &Path) -> Result<u8, Failure> {
    let shards = shards(out)?;
    shards.verify().map_err(|error| Failure::user(chain(&error)))?;
    let summary = shards.summary();
    let numbers = [summary.num_shards, summary.num_chunks, summary.num_tokens].map(render::grouped);
    writeln!(stdout(), "{} shards, {} chunks, {} tokens: every byte is as it was written", numbers[0], numbers[1], numbers[2])?;
    Ok(0)
}

fn show(out: &Path, index: u64) -> Result<u8, Failure> {
    let shards = shards(out)?;
    let Some(chunk) = shards.chunk(index) else {
        return Err(Failure::user(format!("there is no chunk {index}: the run has {}, numbered from 0", shards.num_chunks())));
    };
    let mut to = stdout().lock();
    writeln!(to, "chunk {index}: {} tokens in {} pieces, {} padding", chunk.num_tokens(), chunk.num_pieces(), chunk.num_padding)?;
    for (number, source) in chunk.sources.iter().enumerate() {
        let Some(tokens) = chunk.piece(number) else { continue };
        let ids: Vec<u32> = tokens.iter().collect();
        let name = chunk.source_names().value(*source as usize);
        let document = chunk.doc_id(number).unwrap_or_default();
        writeln!(to, "── piece {number}, {name}, {} tokens, document {document} ──", ids.len())?;
        writeln!(to, "{}", osler_engine::decode(out, &ids)?)?;
    }
    Ok(0)
}

fn repack(out: &Path, recipe: Option<&str>, arguments: &PackArguments) -> Result<u8, Failure> {
    let own = match recipe {
        Some(name) => {
            let (text, _) = read_recipe(name, recipes::shipped(name), &recipes::names())?;
            let recipe = Recipe::parse(name, &text, &[])?;
            (recipe.pack, recipe.mix)
        }
        None => packing_of(out)?,
    };
    let (pack, mix) = (arguments.over(own.0), own.1);
    let summary = if out.join("run.json").is_file() {
        let summary = osler_engine::repack(out, &pack, &mix)?;
        let manifest = osler_engine::manifest(out)?;
        osler_report::build(out, &manifest, Some(osler_engine::token_summary(&manifest))).map_err(|error| Failure::user(chain(&error)))?;
        summary
    } else {
        osler_tokens::repack(&out.join("tokens"), &pack, &mix).map_err(failure)?
    };
    say(&summary, &pack)?;
    Ok(0)
}

/// Packing and mix of a run, or of shards that no run made.
fn packing_of(out: &Path) -> Result<(PackConfig, MixConfig), Failure> {
    if let Ok(manifest) = osler_engine::manifest(out) {
        let recipe: Recipe = serde_json::from_value(manifest.recipe).map_err(|error| Failure::user(format!("run.json: {error}")))?;
        return Ok((recipe.pack, recipe.mix));
    }
    let set = shards(out)?;
    let header = set.header();
    let mix = MixConfig::from_json(header.mix.as_deref()).map_err(|error| Failure::user(error.to_string()))?;
    Ok((PackConfig { context_length: header.context_length, seed: header.seed, ..PackConfig::default() }, mix))
}

fn export(out: &Path, format: Format, to: Option<&Path>) -> Result<u8, Failure> {
    let default = || out.join("exports").join(format.name());
    let to = to.map_or_else(default, Path::to_path_buf);
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let exported = exchange::export(&shards(out)?, format, &to).map_err(failure)?;
    writeln!(
        stdout(),
        "{} files in {}: {} linked to the shards, {} written",
        render::grouped(exported.num_files),
        to.display(),
        render::bytes(exported.linked_bytes),
        render::bytes(exported.written_bytes)
    )?;
    Ok(0)
}

fn import(
    paths: &[PathBuf],
    format: Format,
    (file, config): (&Path, &TokenizerConfig),
    out: &Path,
    source: &str,
    pack: &PackConfig,
) -> Result<u8, Failure> {
    let (tokens, partial) = (out.join("tokens"), out.join("tokens.partial"));
    if tokens.exists() {
        return Err(Failure::user(format!("{} is there already; name another folder", tokens.display())));
    }
    let bytes = std::fs::read(file).map_err(|error| Failure::user(format!("{}: {error}", file.display())))?;
    let bytes =
        sentencepiece::read_as_json(file, bytes).map_err(|error| Failure::user(format!("{}: {}", file.display(), chain(&error))))?;
    let name = file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let tokenizer = Tokenizer::load(&bytes, &name, config).map_err(|error| Failure::user(chain(&error)))?;
    let mut writer = ShardWriter::create(&partial, tokenizer.identity().clone(), pack.clone(), DEFAULT_SHARD_BYTES).map_err(failure)?;
    let imported = exchange::import(format, paths, source, &mut writer).map_err(failure)?;
    let summary = writer.finish().map_err(failure)?;
    std::fs::write(partial.join("tokenizer.json"), bytes)?;
    std::fs::rename(&partial, &tokens)?;
    if imported.num_without_eos > 0 {
        let count = render::grouped(imported.num_without_eos);
        writeln!(std::io::stderr(), "warning: {count} documents do not end with the end-of-document token; they were taken as they are")?;
    }
    say(&summary, pack)?;
    Ok(0)
}

fn say(summary: &Summary, pack: &PackConfig) -> Result<(), Failure> {
    let numbers = [summary.num_tokens, summary.num_chunks, summary.num_tail_tokens].map(render::grouped);
    let length = render::grouped(pack.context_length.into());
    let mut to = stdout().lock();
    writeln!(to, "{} tokens in {} chunks of {length}; {} in no chunk", numbers[0], numbers[1], numbers[2])?;
    for mix::PartUse { name, available_chunks, chunks_per_epoch, passes } in &summary.parts {
        let (available, given) = (render::grouped(*available_chunks), render::grouped(*chunks_per_epoch));
        writeln!(to, "  {name}: {given} of {available} chunks an epoch, each given {passes:.1} times")?;
    }
    for warning in &summary.warnings {
        writeln!(std::io::stderr(), "warning: {warning}")?;
    }
    Ok(())
}

fn failure(error: osler_tokens::Error) -> Failure {
    Failure::from(osler_engine::Error::from(error))
}
