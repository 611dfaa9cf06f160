//! OLMo's token files: `NAME.npy`, token ids and, despite the name, no header; `NAME.csv.gz`, one line per document: start and end in
//! tokens, id, source, line in the source. A mask of one byte per token (`NAME.mask`), where not every token counts.
//!
//! The files do not state the type of an id: it is in the trainer's settings.

use super::{Folder, Import, Width, damaged, mask_of_ranges, ranges_of_mask};
use crate::error::Error;
use crate::shards::ShardSet;
use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Last part of a mask's name.
const MASK_EXTENSION: &str = ".mask";

pub(super) fn export(set: &ShardSet, folder: &mut Folder) -> Result<(), Error> {
    let mut number = 0u64;
    for shard in set.shards() {
        let name = format!("part-{:05}", shard.header().shard);
        // No time and no name inside, so that equal shards give equal bytes.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
        let gzip_error = |error| Error::io(Path::new(&name), error);
        for document in shard.documents() {
            let end = document.start + document.len;
            writeln!(gzip, "{},{end},{},{},{number}", document.start, quoted(document.doc_id), quoted(document.source))
                .map_err(gzip_error)?;
            number += 1;
        }
        folder.link(shard.bin_path(), &format!("{name}.npy"))?;
        folder.write(&format!("{name}.csv.gz"), &gzip.finish().map_err(gzip_error)?)?;
        if let Some(loss) = shard.loss() {
            folder.write(&format!("{name}{MASK_EXTENSION}"), &mask_of_ranges(shard.header().num_tokens, loss))?;
        }
    }
    Ok(())
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_string() }
}

pub(super) fn read(path: &Path, import: &mut Import<'_>) -> Result<(), Error> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let num_bytes = file.metadata().map_err(|error| Error::io(path, error))?.len();
    let width = import.usual_width();
    if !num_bytes.is_multiple_of(width.num_bytes()) {
        return Err(damaged(path, format!("{num_bytes} bytes are no whole number of ids of {} bytes", width.num_bytes())));
    }
    let num_tokens = num_bytes / width.num_bytes();
    let documents = match File::open(path.with_extension("csv.gz")) {
        Ok(csv) => from_csv(&path.with_extension("csv.gz"), csv, num_tokens)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => by_eos(path, &file, num_tokens, width, import)?,
        Err(error) => return Err(Error::io(&path.with_extension("csv.gz"), error)),
    };
    let mask_path = PathBuf::from(format!("{}{MASK_EXTENSION}", path.with_extension("").display()));
    let mask = fs::read(&mask_path).ok();
    if mask.as_ref().is_some_and(|mask| mask.len() as u64 != num_tokens) {
        return Err(damaged(&mask_path, format!("wanted {num_tokens} bytes, one for each token")));
    }
    for document in documents {
        let loss = mask.as_ref().map(|mask| ranges_of_mask(&mask[document.start as usize..document.end as usize]));
        let bytes = document.start * width.num_bytes()..document.end * width.num_bytes();
        import.push(path, &file, &[bytes], width, loss.as_deref())?;
    }
    Ok(())
}

fn from_csv(path: &Path, csv: File, num_tokens: u64) -> Result<Vec<Range<u64>>, Error> {
    let mut documents: Vec<Range<u64>> = Vec::new();
    for (number, line) in BufReader::new(GzDecoder::new(BufReader::new(csv))).lines().enumerate() {
        let line = line.map_err(|error| Error::io(path, error))?;
        let mut fields = line.split(',').map(|field| field.trim().parse::<u64>().ok());
        let range = fields.next().flatten().zip(fields.next().flatten());
        let before = documents.last().map_or(0, |range| range.end);
        match range.filter(|&(start, end)| start == before && start <= end && end <= num_tokens) {
            Some((start, end)) => documents.push(start..end),
            None => {
                let problem = format!("line {}: wanted a start of {before} and an end of at most {num_tokens}", number + 1);
                return Err(damaged(path, problem));
            }
        }
    }
    Ok(documents)
}

/// Documents of a file without boundaries: each ends with the end-of-document token.
fn by_eos(path: &Path, file: &File, num_tokens: u64, width: Width, import: &Import<'_>) -> Result<Vec<Range<u64>>, Error> {
    const TOKENS: u64 = 1 << 18;
    let eos = import.writer.tokenizer().eos_id;
    let (mut documents, mut start, mut bytes) = (Vec::new(), 0, Vec::new());
    for first in (0..num_tokens).step_by(TOKENS as usize) {
        let count = TOKENS.min(num_tokens - first);
        bytes.resize((count * width.num_bytes()) as usize, 0);
        file.read_exact_at(&mut bytes, first * width.num_bytes()).map_err(|error| Error::io(path, error))?;
        for (at, id) in (first..).zip(bytes.chunks_exact(width.num_bytes() as usize)) {
            if id.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte)) == u64::from(eos) {
                documents.push(start..at + 1);
                start = at + 1;
            }
        }
    }
    if start < num_tokens {
        documents.push(start..num_tokens);
    }
    Ok(documents)
}
