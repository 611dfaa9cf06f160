//! datatrove's tokenized files: `NAME.ds`, token ids; `NAME.ds.index`, the end of every document in tokens (u64); `NAME.ds.loss`, one byte
//! per token, 1 where it counts; `NAME.ds.metadata`, three lines of text: tokenizer and bytes per token, tokens, tokens for people.

use super::{Folder, Import, Width, damaged, mask_of_ranges, ranges_of_mask};
use crate::error::Error;
use crate::shards::ShardSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub(super) fn export(set: &ShardSet, folder: &mut Folder) -> Result<(), Error> {
    for shard in set.shards() {
        let header = shard.header();
        let name = format!("part-{:05}.ds", header.shard);
        let ends: Vec<u8> = shard.documents().flat_map(|document| (document.start + document.len).to_le_bytes()).collect();
        let (width, num_tokens) = (header.dtype.num_bytes(), header.num_tokens);
        let metadata = format!("{}|{width}\n{num_tokens}\n{}", header.tokenizer.name, for_people(num_tokens));
        folder.link(shard.bin_path(), &name)?;
        folder.write(&format!("{name}.index"), &ends)?;
        folder.write(&format!("{name}.metadata"), metadata.as_bytes())?;
        if let Some(loss) = shard.loss() {
            folder.write(&format!("{name}.loss"), &mask_of_ranges(num_tokens, loss))?;
        }
    }
    Ok(())
}

/// Three significant digits and the unit of tokens, such as `1.23 GT`.
fn for_people(num_tokens: u64) -> String {
    let mut value = num_tokens as f64;
    let mut units = ["", "k", "M", "G", "T", "P"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value >= 999.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    let digits = if value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
    format!("{value:.digits$} {unit}T")
}

pub(super) fn read(path: &Path, import: &mut Import<'_>) -> Result<(), Error> {
    let beside = |suffix: &str| PathBuf::from(format!("{}.{suffix}", path.display()));
    let index_path = beside("index");
    let index = fs::read(&index_path).map_err(|error| Error::io(&index_path, error))?;
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let num_bytes = file.metadata().map_err(|error| Error::io(path, error))?.len();
    let width = width_of(&beside("metadata"), import.usual_width())?;
    let mask = match fs::read(beside("loss")) {
        Ok(mask) => Some(mask),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io(&beside("loss"), error)),
    };
    let num_tokens = num_bytes / width.num_bytes();
    if mask.as_ref().is_some_and(|mask| mask.len() as u64 != num_tokens) {
        return Err(damaged(&beside("loss"), format!("wanted {num_tokens} bytes, one for each token")));
    }
    let ends = index.chunks_exact(8).map(|end| end.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte)));
    let mut start = 0;
    for (number, end) in ends.enumerate() {
        if end < start || end > num_tokens {
            return Err(damaged(&index_path, format!("document {number} ends at token {end} of {num_tokens}")));
        }
        let loss = mask.as_ref().map(|mask| ranges_of_mask(&mask[start as usize..end as usize]));
        let bytes = start * width.num_bytes()..end * width.num_bytes();
        import.push(path, &file, &[bytes], width, loss.as_deref())?;
        start = end;
    }
    if start * width.num_bytes() != num_bytes || !index.len().is_multiple_of(8) {
        return Err(damaged(&index_path, format!("its documents end at token {start}; the token file has {num_bytes} bytes")));
    }
    Ok(())
}

/// Bytes per token as the metadata state them; what the vocabulary needs where there are none.
fn width_of(path: &Path, usual: Width) -> Result<Width, Error> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(usual) };
    match text.lines().next().and_then(|line| line.rsplit('|').next()).map(str::trim) {
        Some("2") => Ok(Width::U16),
        Some("4") => Ok(Width::U32),
        _ => Err(damaged(path, "its first line does not end with `|2` or `|4`, the bytes per token")),
    }
}
