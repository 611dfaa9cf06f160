//! Megatron's indexed datasets: `NAME.bin`, token ids, and `NAME.idx`, where sequences and documents lie.
//!
//! Little-endian: 9 bytes of magic, version (u64, 1), type (u8), sequences (u64), document entries (u64, documents + 1), lengths (i32 per
//! sequence), byte offsets (i64 per sequence), and the first sequence of each document (i64, the number of sequences at the end). Here a
//! document, or the part of one that lies in a file, is a sequence.

use super::{Folder, Import, Width, damaged};
use crate::error::Error;
use crate::shards::ShardSet;
use osler_schemas::shard::Dtype;
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;

const MAGIC: &[u8; 9] = b"MMIDIDX\x00\x00";
const VERSION: u64 = 1;
/// Codes of the types that hold token ids.
const INT32: u8 = 4;
const INT64: u8 = 5;
const UINT16: u8 = 8;

pub(super) fn export(set: &ShardSet, folder: &mut Folder) -> Result<(), Error> {
    for shard in set.shards() {
        let header = shard.header();
        let width = header.dtype.num_bytes();
        let name = format!("part-{:05}", header.shard);
        let documents: Vec<(u64, u64)> = shard.documents().map(|document| (document.start, document.len)).collect();
        let count = documents.len() as u64;
        let mut index = Vec::with_capacity(42 + documents.len() * 20);
        index.extend_from_slice(MAGIC);
        index.extend_from_slice(&VERSION.to_le_bytes());
        index.push(if header.dtype == Dtype::U16 { UINT16 } else { INT32 });
        index.extend_from_slice(&count.to_le_bytes());
        index.extend_from_slice(&(count + 1).to_le_bytes());
        for &(_, len) in &documents {
            let problem = || Error::Data(format!("{name}: a document has {len} tokens; Megatron's sequences hold fewer than 2^31"));
            index.extend_from_slice(&i32::try_from(len).map_err(|_| problem())?.to_le_bytes());
        }
        documents.iter().for_each(|(start, _)| index.extend_from_slice(&(start * width).to_le_bytes()));
        (0..=count).for_each(|document| index.extend_from_slice(&document.to_le_bytes()));
        folder.link(shard.bin_path(), &format!("{name}.bin"))?;
        folder.write(&format!("{name}.idx"), &index)?;
    }
    Ok(())
}

pub(super) fn read(path: &Path, import: &mut Import<'_>) -> Result<(), Error> {
    let index_path = path.with_extension("idx");
    let index = fs::read(&index_path).map_err(|error| Error::io(&index_path, error))?;
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let num_bytes = file.metadata().map_err(|error| Error::io(path, error))?.len();
    let Index { width, sequences, documents } = parse(&index, num_bytes).map_err(|problem| damaged(&index_path, problem))?;
    for document in documents.windows(2) {
        import.push(path, &file, &sequences[document[0]..document[1]], width, None)?;
    }
    Ok(())
}

struct Index {
    width: Width,
    /// Byte ranges of the token file.
    sequences: Vec<Range<u64>>,
    /// First sequence of every document, and the number of sequences.
    documents: Vec<usize>,
}

fn parse(index: &[u8], num_bytes: u64) -> Result<Index, String> {
    let mut rest = index.strip_prefix(MAGIC).ok_or("does not begin as an index of Megatron")?;
    let mut take = |count: u64, size: u64| -> Result<&[u8], String> {
        let len = count.checked_mul(size).and_then(|len| usize::try_from(len).ok()).filter(|&len| len <= rest.len());
        let (head, tail) = rest.split_at(len.ok_or("is shorter than its counts say")?);
        rest = tail;
        Ok(head)
    };
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    let version = number(take(1, 8)?);
    if version != VERSION {
        return Err(format!("version {version}; this program reads version {VERSION}"));
    }
    let width = match take(1, 1)? {
        [UINT16] => Width::U16,
        [INT32] => Width::U32,
        [INT64] => Width::U64,
        other => return Err(format!("type {other:?} holds no token ids")),
    };
    let (num_sequences, num_documents) = (number(take(1, 8)?), number(take(1, 8)?));
    let lengths = take(num_sequences, 4)?.chunks_exact(4).map(number);
    let starts = take(num_sequences, 8)?.chunks_exact(8).map(number);
    let range = |(sequence, (len, start)): (usize, (u64, u64))| {
        let end = len.checked_mul(width.num_bytes()).and_then(|len| start.checked_add(len));
        let end = end.filter(|&end| len < 1 << 31 && end <= num_bytes);
        end.map(|end| start..end).ok_or(format!("sequence {sequence} does not lie in the token file of {num_bytes} bytes"))
    };
    let sequences = lengths.zip(starts).enumerate().map(range).collect::<Result<Vec<_>, _>>()?;
    let documents: Vec<usize> = take(num_documents, 8)?.chunks_exact(8).map(|entry| number(entry) as usize).collect();
    if !documents.is_sorted() || documents.last().is_some_and(|&last| last > sequences.len()) {
        return Err("its documents are not in order or name sequences that are not there".into());
    }
    Ok(Index { width, sequences, documents })
}
