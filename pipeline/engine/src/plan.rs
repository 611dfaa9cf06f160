//! `osler plan`: what a run would do, without doing it.

use crate::boundary::{RunFolder, TableWriter};
use crate::error::Error;
use crate::run::{Options, prepare, runtime};
use crate::session::{Session, explain};
use crate::{Recipe, corpus, documents, exact, near, near_index, tokens};
use osler_corpus::near_duplicates::banding::{Banding, Bandings, candidate_probability, num_bands, num_slots};
use osler_corpus::near_duplicates::{NearDuplicatesConfig, Short};
use osler_datasets::list::FileEntry;
use osler_schemas::{cluster, document, index, span};
use std::fmt::Write;

/// Bytes of text that a byte of input gives, and bytes a second that one thread parses, by format: measured over the real documents that
/// `docs/benchmarks.md` names. A plan is a forecast, not a promise.
fn yields(format: &str) -> (f64, f64) {
    match format {
        "jats" | "bmc" => (0.5, 60e6),
        "pubmed" | "cnxml" | "wikipedia" => (0.3, 50e6),
        "medquad" => (0.8, 50e6),
        "html" => (0.15, 20e6),
        "sample" => (0.54, 10e6),
        _ => (0.9, 50e6),
    }
}

/// Text bytes a second that one thread takes through the stages after parsing: sketching, exact duplicates, tokenisation.
const STAGES_BYTES_PER_SECOND: [(&str, f64); 3] = [("near-duplicates", 20e6), ("exact-duplicates", 7e6), ("tokenize and pack", 6e6)];

/// Disk bytes that a byte of text takes: in `work/`, `corpus/` and `tokens/`.
const DISK_PER_TEXT_BYTE: f64 = 0.35 + 0.35 + 0.55;

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
    let _ = writeln!(text, "{:<24} {:<10} {:>8} {:>12} {:>14}", "source", "format", "files", "bytes", "text expected");
    let mut total = (0u64, 0f64, 0f64);
    for source in &recipe.source {
        let mine: Vec<&FileEntry> = files.iter().filter(|file| file.source == source.name).collect();
        let bytes: u64 = mine.iter().map(|file| file.num_bytes).sum();
        let format = format_name(&source.format);
        let (ratio, speed) = yields(&format);
        let _ = writeln!(text, "{:<24} {:<10} {:>8} {:>12} {:>14.0}", source.name, format, mine.len(), bytes, bytes as f64 * ratio);
        total = (total.0 + bytes, total.1 + bytes as f64 * ratio, total.2 + bytes as f64 / speed);
    }
    let threads = recipe.num_threads() as f64;
    let stages: f64 = STAGES_BYTES_PER_SECOND.iter().map(|(_, speed)| total.1 / speed).sum();
    let _ = writeln!(text, "\ninput {} bytes in {} files; text about {:.0} bytes", total.0, files.len(), total.1);
    let _ = writeln!(
        text,
        "time about {:.0} s on {threads} threads; disk about {:.0} bytes",
        (total.2 / threads + stages / threads.min(2.0)).ceil(),
        total.1 * DISK_PER_TEXT_BYTE
    );
    let _ =
        writeln!(text, "memory budget {} (about {:.0} bytes wanted; what does not fit is spilled)\n", recipe.memory, 256e6 + total.1 * 6.0);
    text.push_str(&s_curve(&recipe.near_duplicates)?);
    for (boundary, plan) in stage_plans(&session, recipe, &files).await? {
        let _ = writeln!(text, "\n{boundary}\n{}", plan.trim_end());
    }
    Ok(text)
}

/// The plan of each stretch between boundaries, as `EXPLAIN` prints it, over empty tables of the right shape.
async fn stage_plans(session: &Session, recipe: &Recipe, files: &[FileEntry]) -> Result<Vec<(&'static str, String)>, Error> {
    let tables = [
        (documents::DOCUMENTS, document::ordered_schema()),
        (near::CLUSTERS, cluster::schema()),
        (near_index::AGAINST, index::against_schema()),
        (exact::SPANS, span::schema()),
        (corpus::CORPUS, document::corpus_schema()),
    ];
    for (table, schema) in tables {
        TableWriter::new(&session.folder, table, schema)?.finish()?;
        session.folder.publish(table)?;
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

fn format_name(format: &impl serde::Serialize) -> String {
    serde_json::to_value(format).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
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
