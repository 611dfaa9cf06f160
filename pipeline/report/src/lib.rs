//! The reports of runs. Of a corpus: every number a person asks about, as `report.json`, and a page that shows them, `report.html`.
//!
//! The page is one file: style and charts are inside it, it needs neither network nor script, and the same run gives the same bytes. The
//! only crate that names polars. It reads columns of counts and names from `corpus/` and `ledger/`, never a document's text.

mod chart;
mod format;
mod numbers;
mod page;
mod tokens;
mod training;

pub use numbers::Report;
pub use training::build_training;

use osler_schemas::manifest::Manifest;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A table of the run is missing or not one of ours.
    #[error("the report needs the table {table}, which cannot be read; is the run complete?")]
    Table { table: String, source: polars::error::PolarsError },
    /// A file or folder could not be read or written.
    #[error("{path}")]
    Io { path: String, source: std::io::Error },
    /// A file that a training run leaves is not there or not one of its.
    #[error("{path}: not what a training run leaves: {problem}")]
    Training { path: String, problem: String },
    /// The page could not be put together: a fault of the program.
    #[error("the report's page could not be put together")]
    Page(#[from] minijinja::Error),
    /// The numbers could not be written as JSON: a fault of the program.
    #[error("the report's numbers could not be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// Reads the run in `out_dir` and writes `report.json` and `report.html` beside its manifest; each appears whole or not at all.
///
/// `token_summary` is an object with `tokens`, `chunks`, `context_length`, `tokenizer` and, by source, `source_tokens`; what is absent is
/// left out.
///
/// # Errors
/// [`Error`] when a table of the run cannot be read, or a file cannot be written.
pub fn build(out_dir: &Path, manifest: &Manifest, token_summary: Option<serde_json::Value>) -> Result<Report, Error> {
    let report = Report::of(out_dir, manifest, token_summary.as_ref())?;
    let mut json = serde_json::to_vec_pretty(&report)?;
    json.push(b'\n');
    let html = page::render(&report, manifest)?;
    write(&out_dir.join("report.json"), &json)?;
    write(&out_dir.join("report.html"), html.as_bytes())?;
    Ok(report)
}

/// Writes a file under another name and renames it once it is whole and on disk.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let partial = path.with_extension(match path.extension().and_then(|extension| extension.to_str()) {
        Some(extension) => format!("{extension}.partial"),
        None => "partial".to_string(),
    });
    let written = File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    written.map_err(|source| {
        // The write has failed already; what is left behind matters less than why.
        let _ = fs::remove_file(&partial);
        Error::Io { path: path.display().to_string(), source }
    })
}

#[cfg(test)]
mod tests;
