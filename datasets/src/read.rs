//! Reads one file of a source, whatever its format and wherever it lies.

use crate::list::FileEntry;
use crate::open::{Input, Stored, Stores};
use crate::source::{Format, SourceConfig};
use crate::{Document, Emit, Limits, Reject};
use crate::{bmc, cnxml, csv, html, jats, json, jsonl, medquad, parquet_file, pubmed, sample, text, textgrid, wikipedia};
use std::io::{self, Read};
use std::ops::ControlFlow;

/// What was read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSummary {
    /// Size as stored; of a file that was not read to its end, what was read.
    pub num_bytes: u64,
    /// XXH3-128 of the bytes as stored, 32 hexadecimal digits; empty where the reading was stopped.
    pub hash: String,
    /// Whether `emit` broke off.
    pub stopped: bool,
}

/// The file itself could not be read to its end: the run cannot go on as if nothing had happened.
#[derive(Debug, thiserror::Error)]
#[error("source `{source_name}`, file `{path}`")]
pub struct ReadError {
    pub source_name: String,
    /// Below the source's root.
    pub path: String,
    /// Names the file in full, and the byte.
    pub source: io::Error,
}

/// Gives every document of `file`, and a reject for every record that yields none, to `emit`.
///
/// A file that is not of the source's format at all is one reject. Documents are as the file states them: what the source assumes about
/// licence and language is for the caller to add.
///
/// # Errors
/// [`ReadError`] when the file cannot be opened, ends too early, is corrupt as a compressed stream, or lacks a column that the source names.
pub fn read_file(
    source: &SourceConfig,
    file: &FileEntry,
    stores: &Stores,
    limits: &Limits,
    emit: &mut Emit<'_>,
) -> Result<ReadSummary, ReadError> {
    let fault = |cause| ReadError { source_name: source.name.clone(), path: file.path.clone(), source: cause };
    if source.format == Format::Parquet {
        return read_parquet(source, file, stores, limits, emit).map_err(fault);
    }
    if source.format == Format::Sample {
        return Ok(read_sample(source, file, limits, emit));
    }
    let mut input = stores.open(file).map_err(fault)?;
    let mut document = Document::default();
    let flow = read_stream(source, file, &mut input, limits, &mut document, emit).map_err(|cause| fault(name_file(cause, file)))?;
    finish(input, flow).map_err(fault)
}

fn read_stream(
    source: &SourceConfig,
    file: &FileEntry,
    input: &mut Input,
    limits: &Limits,
    document: &mut Document,
    emit: &mut Emit<'_>,
) -> io::Result<ControlFlow<()>> {
    match source.format {
        Format::Pubmed => return pubmed::read(input, &source.pubmed, limits, document, emit),
        Format::Wikipedia => return wikipedia::read(input, &source.wikipedia, limits, document, emit),
        Format::Jsonl => return jsonl::read(input, &source.jsonl, limits, document, emit),
        Format::Json => return json::read(input, &source.json, limits, document, emit),
        Format::Csv => return csv::read(input, &source.csv, limits, document, emit),
        _ => {}
    }
    let Some(bytes) = read_whole(input, file, limits)? else {
        let detail = limits.too_large("the file");
        return Ok(emit(Err(Reject::new("record-too-large", limits.record_bytes_max, detail))));
    };
    Ok(match source.format {
        Format::Jats => jats::parse_within(&bytes, &source.jats, limits, document, emit),
        Format::Bmc => bmc::parse_within(&bytes, &source.bmc, limits, document, emit),
        Format::Cnxml => cnxml::parse(&bytes, &source.cnxml, document, emit),
        Format::Medquad => medquad::parse(&bytes, &source.medquad, document, emit),
        Format::Html => html::parse(&bytes, &source.html, document, emit),
        Format::Text => text::parse(&bytes, &source.text, document, emit),
        Format::Textgrid => textgrid::parse(&bytes, &source.textgrid, document, emit),
        Format::Pubmed | Format::Wikipedia | Format::Jsonl | Format::Json | Format::Csv | Format::Parquet | Format::Sample => {
            return Err(io::Error::other("this format has no files to be read whole"));
        }
    })
}

/// Makes the file of the sample and reads it as the article that it is.
fn read_sample(source: &SourceConfig, file: &FileEntry, limits: &Limits, emit: &mut Emit<'_>) -> ReadSummary {
    let mut document = Document::default();
    let bytes = sample::file(&source.sample, &file.path).map(|file| file.bytes).unwrap_or_default();
    let flow = jats::parse_within(&bytes, &source.jats, limits, &mut document, emit);
    let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes));
    ReadSummary { num_bytes: bytes.len() as u64, hash, stopped: flow.is_break() }
}

/// The whole file, or `None` where it is larger than a record may be.
fn read_whole(input: &mut Input, file: &FileEntry, limits: &Limits) -> io::Result<Option<Vec<u8>>> {
    let expected = usize::try_from(file.num_bytes).unwrap_or(usize::MAX).min(limits.record_bytes_max);
    let mut bytes = Vec::with_capacity(expected.saturating_add(1));
    input.take((limits.record_bytes_max as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limits.record_bytes_max).then_some(bytes))
}

/// Parquet is read by its footer: at random, not as a stream.
fn read_parquet(source: &SourceConfig, file: &FileEntry, stores: &Stores, limits: &Limits, emit: &mut Emit<'_>) -> io::Result<ReadSummary> {
    let input = stores.open(file)?;
    let is_parquet = input.starts_with(b"PAR1");
    let flow = if is_parquet {
        let ranged = stores.open_ranged(file)?;
        let mut document = Document::default();
        parquet_file::read(ranged, &source.parquet, limits, &mut document, emit).map_err(|cause| name_file(cause, file))?
    } else {
        emit(Err(Reject::new("not-parquet", 0, "the file does not start as Parquet files do")))
    };
    finish(input, flow)
}

/// A reader's own error (a column that is not there) does not know its file; a stream's does.
fn name_file(cause: io::Error, file: &FileEntry) -> io::Error {
    let names_it = cause.to_string().contains(&file.url);
    if names_it { cause } else { io::Error::new(cause.kind(), format!("`{}`: {cause}", file.url)) }
}

fn finish(input: Input, flow: ControlFlow<()>) -> io::Result<ReadSummary> {
    if flow.is_break() {
        return Ok(ReadSummary { num_bytes: input.num_bytes(), hash: String::new(), stopped: true });
    }
    let Stored { num_bytes, hash } = input.finish()?;
    Ok(ReadSummary { num_bytes, hash, stopped: false })
}
