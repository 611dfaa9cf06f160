//! `osler plan`: what a run would do, without doing it.

use crate::boundary::RunFolder;
use crate::error::Error;
use crate::run::{Options, prepare, runtime};
use crate::session::explain;
use crate::{documents, near};
use osler_corpus::near_duplicates::NearDuplicatesConfig;
use osler_corpus::near_duplicates::banding::{Banding, Bandings, candidate_probability, num_bands, num_slots};
use osler_datasets::list::FileEntry;
use std::fmt::Write;

/// Bytes of text that a byte of input gives, and bytes a second that one thread parses, by format: measured over the real documents that
/// `docs/benchmarks.md` names. A plan is a forecast, not a promise.
fn yields(format: &str) -> (f64, f64) {
    match format {
        "jats" | "bmc" => (0.45, 100e6),
        "pubmed" | "medquad" | "cnxml" | "wikipedia" => (0.4, 80e6),
        "html" => (0.15, 60e6),
        "sample" => (0.8, 100e6),
        _ => (0.9, 60e6),
    }
}

/// Text bytes a second that one thread takes through the stages after parsing: sketching, exact duplicates, tokenisation.
const STAGES_BYTES_PER_SECOND: [(&str, f64); 3] = [("near-duplicates", 40e6), ("exact-duplicates", 8e6), ("tokenize and pack", 6e6)];

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
    let _ = writeln!(
        text,
        "\nstage 1, read and parse: leaves work/documents\n{}",
        explain(documents::plan(&session, recipe, &files).await?.as_ref())
    );
    let _ = writeln!(text, "{}", near_stages(recipe));
    Ok(text)
}

fn format_name(format: &impl serde::Serialize) -> String {
    serde_json::to_value(format).ok().and_then(|value| value.as_str().map(str::to_string)).unwrap_or_default()
}

fn near_stages(recipe: &crate::Recipe) -> String {
    let mut text = String::new();
    let lines = [
        (near::BOUNDARY, "documents ⋉ representatives → Sketch → Sort(key, ordinal) → Candidates → Distinct → verify → clusters"),
        ("exact-duplicates", "documents ▷ clusters → Sort(ordinal) → ExactDuplicates → spans"),
        ("corpus", "documents ⟕ clusters → Cut(spans) → Sort(ordinal) → corpus/, ledger/"),
        ("tokens", "corpus → Tokenize → Pack → tokens/"),
    ];
    for (stage, plan) in lines {
        let _ = writeln!(text, "{stage}: {plan}");
    }
    let passes: Vec<String> = recipe.exact_duplicates.passes.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "exact passes at {} bytes", passes.join(", "));
    text
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
