//! What each command does: calls the library, prints what it says.

use crate::arguments::{Cli, Command, ExactCommand, MinhashCommand, RecipeArguments, RowFormat};
use crate::{Failure, generate, progress, render, tokens, train};
use osler_engine::context::Silent;
use osler_engine::inspect::{Removal, Story};
use osler_engine::{Options, Recipe};
use osler_schemas::chain;
use osler_schemas::manifest::Manifest;
use std::collections::BTreeMap;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs the command and gives the exit code.
///
/// # Errors
/// [`Failure`] with a message, a hint and the exit code.
pub fn run(arguments: &Cli) -> Result<u8, Failure> {
    match &arguments.command {
        Command::Corpus { recipe, print_recipe: true, .. } => print_recipe(recipe),
        Command::Corpus { recipe, strict, progress, .. } => corpus(recipe, *strict, progress::choose(*progress)),
        Command::Plan { recipe } => plan(recipe),
        Command::Stream { recipe } => tokens::stream(&options(recipe)?),
        Command::Report { out, sql: Some(sql), format } => query(out, sql, *format),
        Command::Report { out, sql: None, .. } => report(out),
        Command::Inspect { out, doc, text } => inspect(out, doc, *text),
        Command::Minhash(MinhashCommand::Curve { preset, bands, rows, threshold }) => curve(preset, bands.zip(*rows), *threshold),
        Command::Minhash(MinhashCommand::Pairs { out, min, to }) => pairs(out, *min, to.as_deref()),
        Command::Exact(ExactCommand::Verify { out }) => verify_exact(out),
        Command::Tokens(command) => tokens::run(command),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Train { train: arguments, dry_run, print_recipe, progress } => train::run(arguments, *dry_run, *print_recipe, *progress),
    }
}

fn resolve(arguments: &RecipeArguments) -> Result<(Recipe, PathBuf), Failure> {
    let shipped = osler_datasets::recipes::shipped(&arguments.recipe);
    let (text, base) = read_recipe(&arguments.recipe, shipped, &osler_datasets::recipes::names())?;
    Ok((Recipe::parse(&arguments.recipe, &text, &arguments.overrides()?)?, base))
}

/// The text of a recipe, a shipped one or a file, and the folder that its paths start from.
pub(crate) fn read_recipe(name: &str, shipped: Option<&str>, names: &[&str]) -> Result<(String, PathBuf), Failure> {
    if let Some(text) = shipped {
        return Ok((text.to_string(), std::env::current_dir()?));
    }
    let path = Path::new(name);
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::user(format!("recipe {}: {error}; give a file, or one that ships: {}", path.display(), names.join(", ")))
    })?;
    let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((text, std::path::absolute(base)?))
}

fn options(arguments: &RecipeArguments) -> Result<Options, Failure> {
    let (recipe, base) = resolve(arguments)?;
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("out").join(&recipe.name));
    let storage_environment: BTreeMap<String, String> = std::env::vars().filter(|(key, _)| key.starts_with("AWS_")).collect();
    Ok(Options { out, recipe, base, storage_environment, progress: Arc::new(Silent), cancelled: Arc::new(AtomicBool::new(false)) })
}

fn print_recipe(arguments: &RecipeArguments) -> Result<u8, Failure> {
    let (recipe, _) = resolve(arguments)?;
    write!(stdout(), "{}", recipe.to_toml())?;
    Ok(0)
}

fn corpus(arguments: &RecipeArguments, strict: bool, progress: Arc<dyn osler_engine::context::Progress>) -> Result<u8, Failure> {
    let options = Options { progress, ..options(arguments)? };
    stop_on_signals(&options)?;
    for warning in osler_engine::warnings(&options.recipe)? {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    let manifest = osler_engine::run(&options)?;
    osler_report::build(&options.out, &manifest, Some(osler_engine::token_summary(&manifest)))
        .map_err(|error| Failure::user(chain(&error)))?;
    // The code is the run's, also for a reader who went away before the closing table.
    let code = u8::from(strict && osler_engine::num_broken(&manifest) > 0);
    match closing(&options.out, &manifest) {
        Err(failure) if !failure.is_broken_pipe() => Err(failure),
        _ => Ok(code),
    }
}

/// Has a signal stop the run at the next batch. A second one ends at once; the run's folder bears that, too.
pub(crate) fn stop_on_signals(options: &Options) -> Result<(), Failure> {
    stop_on(&options.cancelled)
}

/// Has a signal set the flag, and a second one end the program at once.
pub(crate) fn stop_on(flag: &Arc<AtomicBool>) -> Result<(), Failure> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone())?;
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(())
}

fn closing(out: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let mut to = stdout().lock();
    writeln!(to, "\n{}", render::funnel(manifest))?;
    for line in render::tokens(manifest) {
        writeln!(to, "  {line}")?;
    }
    writeln!(to, "  corpus    {}/corpus/*.parquet", out.display())?;
    writeln!(to, "  ledger    {}/ledger/*.parquet   (why is a document gone: osler inspect {} --doc ID)", out.display(), out.display())?;
    writeln!(to, "  tokens    {}/tokens/*.bin", out.display())?;
    writeln!(to, "  report    {}/report.html", out.display())?;
    let broken = osler_engine::num_broken(manifest);
    if broken > 0 {
        writeln!(to, "  {} broken records were rejected; each is in the ledger with its place", render::grouped(broken))?;
    }
    Ok(())
}

fn plan(arguments: &RecipeArguments) -> Result<u8, Failure> {
    let text = osler_engine::plan(&options(arguments)?)?;
    write!(stdout(), "{text}")?;
    Ok(0)
}

fn report(out: &Path) -> Result<u8, Failure> {
    if out.join("train.json").is_file() {
        osler_report::build_training(out).map_err(|error| Failure::user(chain(&error)))?;
        writeln!(stdout(), "{}", out.join("train-report.html").display())?;
        return Ok(0);
    }
    let manifest = osler_engine::manifest(out)?;
    osler_report::build(out, &manifest, Some(osler_engine::token_summary(&manifest))).map_err(|error| Failure::user(chain(&error)))?;
    closing(out, &manifest)?;
    Ok(0)
}

fn query(out: &Path, sql: &str, format: RowFormat) -> Result<u8, Failure> {
    let batches = osler_engine::inspect::query(out, sql)?;
    let text = match format {
        RowFormat::Table => osler_engine::inspect::table(&batches)?,
        RowFormat::Jsonl => osler_engine::inspect::json_lines(&batches)?,
    };
    writeln!(stdout(), "{}", text.trim_end())?;
    Ok(0)
}

fn inspect(out: &Path, id: &str, with_text: bool) -> Result<u8, Failure> {
    let story = osler_engine::inspect::inspect(out, id)?;
    let mut to = stdout().lock();
    write_story(&mut to, &story)?;
    if with_text {
        writeln!(to, "\n{}", story.text.as_deref().unwrap_or("(no text is left)"))?;
    }
    Ok(0)
}

fn write_story(to: &mut impl Write, story: &Story) -> std::io::Result<()> {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "not stated".into());
    writeln!(to, "document   {}", story.doc_id)?;
    writeln!(to, "from       {}: {}", story.source, story.origin)?;
    writeln!(to, "title      {}", or_none(&story.title))?;
    writeln!(
        to,
        "licence    {}    language {}    published {}",
        or_none(&story.license),
        or_none(&story.language),
        or_none(&story.published)
    )?;
    if !story.identifiers.is_empty() {
        writeln!(to, "known as   {}", story.identifiers.join(", "))?;
    }
    match (story.parsed_bytes, story.kept_bytes) {
        (Some(parsed), Some(kept)) => {
            writeln!(to, "text       {} bytes parsed, {} in the corpus", render::grouped(parsed), render::grouped(kept))?
        }
        (Some(parsed), None) => writeln!(to, "text       {} bytes parsed, not in the corpus", render::grouped(parsed))?,
        (None, Some(kept)) => writeln!(to, "text       {} bytes in the corpus", render::grouped(kept))?,
        (None, None) => writeln!(to, "text       none: the record gave no document, or was dropped by a filter")?,
    }
    for removal in &story.removals {
        writeln!(to, "{}", removal_line(removal))?;
    }
    if story.removals.is_empty() {
        writeln!(to, "nothing of it was removed")?;
    }
    for (id, origin, stage, count) in &story.stands_for {
        match stage.as_str() {
            "near-duplicates" => writeln!(to, "stands for {id} ({origin})")?,
            _ => writeln!(to, "holds the kept copy of {count} span(s) cut from {id} ({origin})")?,
        }
    }
    Ok(())
}

fn removal_line(removal: &Removal) -> String {
    let mut line = match removal.span {
        Some((start, end)) => format!("cut        bytes {start}..{end} ({} bytes): {}, {}", end - start, removal.stage, removal.reason),
        None => format!("removed    by {}: {}", removal.stage, removal.reason),
    };
    if let Some(partner) = &removal.partner_id {
        line.push_str(&format!(", partner {partner}"));
        if let Some(origin) = &removal.partner_origin {
            line.push_str(&format!(" ({origin})"));
        }
    }
    if let Some(start) = removal.partner_start {
        line.push_str(&format!(", kept copy at byte {start}"));
    }
    if let Some(score) = removal.score {
        line.push_str(&format!(", Jaccard {score:.4}"));
    }
    if let Some(detail) = &removal.detail {
        line.push_str(&format!(" [{detail}]"));
    }
    line
}

fn curve(preset: &str, banding: Option<(usize, usize)>, threshold: f64) -> Result<u8, Failure> {
    let text = osler_engine::plan::curve(preset, banding, threshold)?;
    write!(stdout(), "{text}")?;
    Ok(0)
}

fn pairs(out: &Path, min: f64, to: Option<&Path>) -> Result<u8, Failure> {
    let file = to.map_or_else(|| out.join("pairs.parquet"), Path::to_path_buf);
    let count = osler_engine::export_pairs(out, min, &file)?;
    writeln!(stdout(), "{} pairs in {}", render::grouped(count), file.display())?;
    Ok(0)
}

fn verify_exact(out: &Path) -> Result<u8, Failure> {
    let proof = osler_engine::verify_exact(out)?;
    writeln!(stdout(), "{proof}")?;
    Ok(0)
}
