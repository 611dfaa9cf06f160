//! `osler plan`: what a run would do, without doing it.

use crate::boundary::{RunFolder, TableWriter};
use crate::error::Error;
use crate::estimate::{Estimate, Work, measure};
use crate::forecast::{Forecast, forecast};
use crate::run::{Fingerprints, Options, prepare, runtime};
use crate::session::{Session, explain};
use crate::tables::{AGAINST, CLUSTERS, CORPUS, DOCUMENTS, SPANS};
use crate::{Recipe, corpus, documents, exact, near, tokens};
use osler_corpus::near_duplicates::banding::{Banding, Bandings, candidate_probability, num_bands, num_slots};
use osler_corpus::near_duplicates::{NearDuplicatesConfig, Short};
use osler_datasets::list::FileEntry;
use std::fmt::Write;

/// Everything `osler plan` prints.
///
/// # Errors
/// When a source cannot be listed or a setting cannot work.
pub fn plan(options: &Options) -> Result<String, Error> {
    let runtime = runtime(&options.recipe)?;
    runtime.block_on(async {
        // Nothing of the plan may touch the run's folder.
        let scratch = std::env::temp_dir().join(format!("osler-plan-{}", std::process::id()));
        let folder = RunFolder { root: scratch.clone() };
        let text = describe(options, folder, runtime.handle()).await;
        let _ = std::fs::remove_dir_all(&scratch);
        text
    })
}

async fn describe(options: &Options, folder: RunFolder, handle: &tokio::runtime::Handle) -> Result<String, Error> {
    let recipe = &options.recipe;
    let (session, files) = prepare(options, folder, handle).await?;
    let mut text = String::new();
    let _ = writeln!(text, "recipe {} ({}), output to {}\n", recipe.name, recipe.hash(), options.out.display());
    let forecasts = forecasts(&session, recipe, &files, handle).await?;
    totals(&mut text, recipe, &forecasts);
    resources(&mut text, options, &forecasts)?;
    text.push_str(&progress(options, &files)?);
    text.push_str(&tokens_and_steps(recipe)?);
    text.push_str(&s_curve(&recipe.near_duplicates)?);
    for (boundary, plan) in stage_plans(&session, recipe, &files).await? {
        let _ = writeln!(text, "\n{boundary}\n{}", plan.trim_end());
    }
    Ok(text)
}

/// A forecast per source, in the recipe's order.
async fn forecasts(
    session: &Session,
    recipe: &Recipe,
    files: &[FileEntry],
    handle: &tokio::runtime::Handle,
) -> Result<Vec<Forecast>, Error> {
    let mut forecasts = Vec::new();
    for source in &recipe.source {
        let (source, recipe, stores) = (source.clone(), recipe.clone(), session.context.stores.clone());
        let mine: Vec<FileEntry> = files.iter().filter(|file| file.source == source.name).cloned().collect();
        // Readers block, and remote files need the runtime meanwhile.
        let task = handle.spawn_blocking(move || forecast(&source, &mine.iter().collect::<Vec<_>>(), &recipe, &stores));
        forecasts.push(task.await.map_err(|error| Error::Internal(error.to_string()))??);
    }
    Ok(forecasts)
}

/// Writes the table of sources.
fn totals(text: &mut String, recipe: &Recipe, forecasts: &[Forecast]) {
    let head = ["source", "format", "files", "bytes", "records", "documents", "text bytes", "looked at"];
    let [source, format, files, bytes, records, documents, text_bytes, sampled] = head;
    let _ = writeln!(text, "{source:<24} {format:<10} {files:>8} {bytes:>14} {records:>12} {documents:>12} {text_bytes:>14} {sampled:>10}");
    let mut total = Forecast::default();
    let row = |text: &mut String, name: &str, format: &str, forecast: &Forecast| {
        let Forecast { num_files, num_bytes, sampled_files, records, documents, text_bytes, .. } = forecast;
        let _ = writeln!(
            text,
            "{name:<24} {format:<10} {num_files:>8} {num_bytes:>14} {records:>12.0} {documents:>12.0} {text_bytes:>14.0} {sampled_files:>10}"
        );
    };
    for (source, forecast) in recipe.source.iter().zip(forecasts) {
        row(text, &source.name, source.format.name(), forecast);
        total.num_files += forecast.num_files;
        total.num_bytes += forecast.num_bytes;
        total.sampled_files += forecast.sampled_files;
        total.records += forecast.records;
        total.documents += forecast.documents;
        total.text_bytes += forecast.text_bytes;
    }
    row(text, "all", "", &total);
}

/// Time, memory and disk.
fn resources(text: &mut String, options: &Options, forecasts: &[Forecast]) -> Result<(), Error> {
    let recipe = &options.recipe;
    let tokenizer = tokens::load(recipe, &options.base)?.map(|loaded| loaded.tokenizer);
    let mut work = Work::default();
    for forecast in forecasts {
        let measured = measure(recipe, &forecast.sample, tokenizer.as_ref())?;
        let scale = if measured.text_bytes > 0.0 { forecast.text_bytes / measured.text_bytes } else { 0.0 };
        work += Work { parse_seconds: forecast.seconds, documents: forecast.documents, ..measured.scaled(scale) };
    }
    let Estimate { seconds, memory_bytes, work_bytes, output_bytes, peak_disk_bytes } = Estimate::new(recipe, &work)?;
    let threads = recipe.num_threads();
    let _ = writeln!(text, "\ntime about {} on {threads} threads", duration(seconds));
    let _ = writeln!(
        text,
        "disk about {} for the corpus and its tokens, {} for `work/`, at most {} on the way",
        size(output_bytes),
        size(work_bytes),
        size(peak_disk_bytes)
    );
    let _ = writeln!(text, "memory about {} of the budget of {}\n", size(memory_bytes), recipe.memory);
    Ok(())
}

fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

fn size(bytes: f64) -> String {
    let (unit, name) = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB")].into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1e3, "kB"));
    format!("{:.1} {name}", bytes / unit)
}

/// Which stages an earlier run into the same folder has finished.
fn progress(options: &Options, files: &[FileEntry]) -> Result<String, Error> {
    let folder = RunFolder { root: options.out.clone() };
    // A tokenizer that cannot be used is refused by the run.
    let tokenizer = tokens::load(&options.recipe, &options.base).ok().flatten();
    let prints = Fingerprints::new(options, files, tokenizer.as_ref());
    let done: Vec<&str> =
        prints.boundaries().into_iter().filter(|(name, print)| folder.finished(name, print).is_some()).map(|(name, _)| name).collect();
    Ok(if done.is_empty() { String::new() } else { format!("already done: {}\n\n", done.join(", ")) })
}

/// The mix, and what `[schedule]` asks: unique tokens, total tokens, steps.
fn tokens_and_steps(recipe: &Recipe) -> Result<String, Error> {
    let mut text = String::new();
    let (mix, mut schedule) = (&recipe.mix, recipe.schedule);
    let conflict = |key: &str, here: String, there: String| {
        Err(Error::User(format!("`schedule.{key}` is {here}, and {there} follows from the rest of the recipe; leave it out")))
    };
    if !mix.is_empty() {
        let tokens = mix.tokens_per_epoch();
        for part in &mix.part {
            let share = 100.0 * part.tokens as f64 / tokens as f64;
            let _ = writeln!(text, "mix: {:<22} {:>16} tokens an epoch, {share:.2} %", part.name, part.tokens);
        }
        let total = tokens.saturating_mul(u64::from(mix.epochs));
        let _ = writeln!(text, "mix: {tokens} unique tokens × {} epochs = {total} tokens\n", mix.epochs);
    }
    if schedule.is_empty() {
        return Ok(text);
    }
    if !mix.is_empty() {
        let tokens = mix.tokens_per_epoch();
        if let Some(other) = schedule.tokens.filter(|&other| other != tokens) {
            return conflict("tokens", other.to_string(), tokens.to_string());
        }
        if let Some(other) = schedule.epochs.filter(|&other| other != f64::from(mix.epochs)) {
            return conflict("epochs", other.to_string(), mix.epochs.to_string());
        }
        (schedule.tokens, schedule.epochs) = (Some(tokens), Some(f64::from(mix.epochs)));
    }
    // What is packed decides the context length, unless that is the one that is asked for.
    let asked = [schedule.tokens.is_none(), schedule.epochs.is_none(), schedule.steps.is_none(), schedule.sequences_per_step.is_none()];
    if schedule.context_length.is_none() && asked.contains(&true) {
        schedule.context_length = Some(recipe.pack.context_length);
    }
    let solved = schedule.solve().map_err(|error| Error::User(error.to_string()))?;
    let _ = writeln!(text, "{solved}");
    if solved.context_length != recipe.pack.context_length {
        let _ = writeln!(text, "  note: `pack.context_length` is {}\n", recipe.pack.context_length);
    }
    Ok(text)
}

/// The plan of each stretch between boundaries, as `EXPLAIN` prints it, over empty tables of the right shape.
async fn stage_plans(session: &Session, recipe: &Recipe, files: &[FileEntry]) -> Result<Vec<(&'static str, String)>, Error> {
    for table in [DOCUMENTS, CLUSTERS, AGAINST, SPANS, CORPUS] {
        TableWriter::new(&session.folder, &table)?.finish()?;
        session.folder.publish(&table)?;
    }
    let tokenizer = session.folder.path("tokenizer.json");
    Ok(vec![
        ("1. read, parse, filter → work/documents, work/dropped", explain(documents::plan(session, recipe, files).await?.as_ref())),
        (
            "2. near-duplicates → work/candidates; then verify → work/pairs, cluster → work/clusters",
            explain(near::candidates_plan(session, &recipe.near_duplicates).await?.as_ref()),
        ),
        ("3. exact-duplicates → work/spans", explain(exact::plan(session, recipe).await?.as_ref())),
        ("4. cut → corpus, ledger", explain(corpus::plan(session, recipe).await?.as_ref())),
        ("5. tokenize and pack → tokens", explain(tokens::plan(session, recipe, tokenizer).await?.as_ref())),
    ])
}

/// The S-curve of a configuration, with the recall at its threshold.
///
/// # Errors
/// When the bandings cannot work.
pub fn s_curve(config: &NearDuplicatesConfig) -> Result<String, Error> {
    if !config.enabled {
        return Ok("near-duplicates: off\n".into());
    }
    let bandings = config.resolve().map_err(|error| Error::User(crate::parse::chain(&error)))?;
    let mut text = String::new();
    let spent: Vec<String> = bandings.iter().map(|Banding { bands, rows }| format!("{bands} × {rows}")).collect();
    let _ = writeln!(
        text,
        "near-duplicates: {} hashes in {} bands ({}); probability that a pair becomes a candidate:",
        num_slots(&bandings),
        num_bands(&bandings),
        spent.join(" + ")
    );
    for jaccard in [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99] {
        let probability = candidate_probability(&bandings, jaccard);
        let bar = "█".repeat((probability * 40.0).round() as usize);
        let _ = writeln!(text, "  Jaccard {jaccard:.2}  {probability:.4}  {bar}");
    }
    let _ = writeln!(text, "recall at the threshold {}: {:.4}", config.threshold, candidate_probability(&bandings, config.threshold));
    if let Some(Short { banding, max_shingles, .. }) = config.short() {
        let recall = candidate_probability(&[banding], config.threshold);
        let Banding { bands, rows } = banding;
        let _ = writeln!(text, "documents of up to {max_shingles} shingles: {bands} × {rows} hashes, recall at the threshold {recall:.4}");
    }
    for warning in config.warnings().map_err(|error| Error::User(crate::parse::chain(&error)))? {
        let _ = writeln!(text, "WARNING: {warning}");
    }
    Ok(text)
}

/// The S-curve of a preset or of one banding.
///
/// # Errors
/// When there is no such preset, or the banding cannot work.
pub fn curve(preset: &str, banding: Option<(usize, usize)>, threshold: f64) -> Result<String, Error> {
    let bandings = match banding {
        Some((bands, rows)) => Bandings::List(vec![Banding { bands, rows }]),
        None => Bandings::named(preset)
            .ok_or_else(|| Error::User(format!("`{preset}` is no preset: write m42, m42-literal, m42-transposed, lee2021 or auto")))?,
    };
    s_curve(&NearDuplicatesConfig { bandings, threshold, ..NearDuplicatesConfig::default() })
}
