//! What a source will give, told from a sample of its files: they are read and parsed as the run would, up to a bound.

use crate::error::Error;
use crate::estimate::SAMPLE_BYTES;
use crate::near::fault;
use crate::parse::{Rows, chain};
use crate::recipe::Recipe;
use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use osler_corpus::operator::Sink;
use osler_datasets::list::FileEntry;
use osler_datasets::open::Stores;
use osler_datasets::read::read_file;
use osler_datasets::source::SourceConfig;
use osler_datasets::{Document, Reject};
use osler_schemas::expect;
use std::ops::ControlFlow;
use std::time::Instant;

/// Files of a source that are looked at, evenly spread over its listing.
const SAMPLE_FILES: usize = 24;
/// Text bytes after which the next file is looked at.
const TEXT_BYTES_PER_FILE: u64 = 2 << 20;

/// A source as expected.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forecast {
    pub num_files: usize,
    /// Bytes of the files as stored.
    pub num_bytes: u64,
    /// Files looked at.
    pub sampled_files: usize,
    /// Records, those that give no document included.
    pub records: f64,
    /// Documents that parsing and the length filter let through.
    pub documents: f64,
    /// Text bytes of those.
    pub text_bytes: f64,
    /// Seconds that one thread reads and parses.
    pub seconds: f64,
    /// Some of those documents, as parsing gives them.
    pub sample: Vec<RecordBatch>,
}

/// Reads a sample of the source's files.
///
/// # Errors
/// As a run would: a file that cannot be read, or lacks a column the source names.
pub fn forecast(source: &SourceConfig, files: &[&FileEntry], recipe: &Recipe, stores: &Stores) -> Result<Forecast, Error> {
    let num_bytes = files.iter().map(|file| file.num_bytes).sum();
    let (mut sample, mut rows) = (Sample::default(), Rows::default());
    let mut kept = Kept { recipe, documents: 0, text_bytes: 0, batches: Vec::new(), quota_bytes: 0 };
    let start = Instant::now();
    for file in spread(files) {
        let (mut text_bytes, mut full) = (0_u64, Ok(()));
        kept.quota_bytes = SAMPLE_BYTES / files.len().min(SAMPLE_FILES);
        let mut emit = |record: Result<&Document, Reject>| {
            sample.records += 1;
            match record {
                Ok(document) => {
                    text_bytes += document.text.len() as u64;
                    rows.document(source, file, document);
                }
                Err(reject) => rows.reject(source, file, &reject),
            }
            if rows.are_enough(recipe.batch_rows) {
                full = rows.flush(&mut kept);
            }
            if text_bytes < TEXT_BYTES_PER_FILE && full.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let summary = read_file(source, file, stores, &recipe.limits, &mut emit).map_err(|error| Error::User(chain(&error)))?;
        full.and_then(|()| rows.flush(&mut kept)).map_err(fault)?;
        // A stream that was broken off has read ahead; a file read whole is its size in the listing.
        sample.bytes_read += if summary.stopped { summary.num_bytes.min(file.num_bytes) } else { file.num_bytes };
        sample.files += 1;
    }
    let scale = if sample.bytes_read > 0 { num_bytes as f64 / sample.bytes_read as f64 } else { 0.0 };
    Ok(Forecast {
        num_files: files.len(),
        num_bytes,
        sampled_files: sample.files,
        records: sample.records as f64 * scale,
        documents: kept.documents as f64 * scale,
        text_bytes: kept.text_bytes as f64 * scale,
        seconds: start.elapsed().as_secs_f64() * scale,
        sample: kept.batches,
    })
}

/// Counts what passes the length filter, and keeps of it up to a number of bytes.
struct Kept<'a> {
    recipe: &'a Recipe,
    documents: u64,
    text_bytes: u64,
    batches: Vec<RecordBatch>,
    quota_bytes: usize,
}

impl Sink for Kept<'_> {
    fn push(&mut self, batch: RecordBatch) -> ControlFlow<()> {
        let column = |name| expect::u64(&batch, name);
        let (Ok(bytes), Ok(words)) = (column("num_bytes"), column("num_words")) else { return ControlFlow::Break(()) };
        let dropped = batch.column_by_name("drop_reason");
        let passes = (0..batch.num_rows()).map(|row| {
            let length = self.recipe.length_filter.reason(words.value(row), bytes.value(row));
            let passes = length.is_none() && dropped.is_none_or(|dropped| dropped.is_null(row));
            let keeps = passes && self.quota_bytes > 0;
            if passes {
                self.documents += 1;
                self.text_bytes += bytes.value(row);
                self.quota_bytes = self.quota_bytes.saturating_sub(bytes.value(row) as usize);
            }
            Some(keeps)
        });
        let passes: BooleanArray = passes.collect();
        match filter_record_batch(&batch, &passes) {
            Ok(batch) if batch.num_rows() > 0 => self.batches.push(batch),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Counts over the files looked at.
#[derive(Debug, Default)]
struct Sample {
    files: usize,
    bytes_read: u64,
    records: u64,
}

/// Up to [`SAMPLE_FILES`] of the files, at equal distances.
fn spread<'a>(files: &'a [&FileEntry]) -> impl Iterator<Item = &'a FileEntry> {
    let count = files.len().min(SAMPLE_FILES);
    (0..count).map(move |index| files[(2 * index + 1) * files.len() / (2 * count)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_the_listing() {
        let file = |number: usize| FileEntry {
            source: "a".into(),
            source_index: 0,
            url: String::new(),
            path: number.to_string(),
            num_bytes: 1,
            version: String::new(),
        };
        let chosen = |len: usize| -> Vec<usize> {
            let files: Vec<FileEntry> = (0..len).map(file).collect();
            spread(&files.iter().collect::<Vec<_>>()).map(|file| file.path.parse().unwrap()).collect()
        };
        assert_eq!(chosen(0), [0usize; 0]);
        assert_eq!(chosen(3), [0, 1, 2]);
        let many = chosen(1000);
        assert_eq!((many.len(), many[0], many[SAMPLE_FILES - 1]), (SAMPLE_FILES, 20, 979));
    }
}
