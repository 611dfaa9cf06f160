//! Token files of other trainers: written from shards, and read into shards.
//!
//! One file per format. Megatron, datatrove and OLMo read the same bytes as Osler's token files, so an export of these is a second name
//! (a hard link) for every token file and the sidecars of that format. MDS, litData and NumPy want chunks of one length behind headers
//! of their own, so their exports are copies of the packed chunks.

mod datatrove;
mod litdata;
mod mds;
mod megatron;
mod npy;
mod olmo;

use crate::error::Error;
use crate::shards::ShardSet;
use crate::writer::{Document, ShardWriter};
use osler_schemas::shard::Dtype;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// A format that shards are exported to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Megatron,
    Datatrove,
    Olmo,
    Mds,
    Litdata,
    Npy,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Megatron, Self::Datatrove, Self::Olmo, Self::Mds, Self::Litdata, Self::Npy];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Megatron => "megatron",
            Self::Datatrove => "datatrove",
            Self::Olmo => "olmo",
            Self::Mds => "mds",
            Self::Litdata => "litdata",
            Self::Npy => "npy",
        }
    }
}

/// What an export made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    pub num_files: u64,
    /// Bytes of token files that got a second name, without a copy.
    pub linked_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

/// Writes the set into `destination`, which must not exist yet, whole or not at all.
///
/// # Errors
/// [`Error::Setting`] when `destination` is there, [`Error::Io`] when a file cannot be written, [`Error::Data`] for a set that the format
/// cannot hold.
pub fn export(set: &ShardSet, format: Format, destination: &Path) -> Result<Exported, Error> {
    if fs::symlink_metadata(destination).is_ok() {
        let problem = format!("{} is there already; remove it or name another folder", destination.display());
        return Err(Error::Setting { setting: "to", problem });
    }
    let name = destination.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = destination.with_file_name(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|error| Error::io(&partial, error))?;
    }
    fs::create_dir_all(&partial).map_err(|error| Error::io(&partial, error))?;
    let mut folder = Folder { path: partial.clone(), exported: Exported::default() };
    let outcome = match format {
        Format::Megatron => megatron::export(set, &mut folder),
        Format::Datatrove => datatrove::export(set, &mut folder),
        Format::Olmo => olmo::export(set, &mut folder),
        Format::Mds => mds::export(set, &mut folder),
        Format::Litdata => litdata::export(set, &mut folder),
        Format::Npy => npy::export(set, &mut folder),
    };
    let renamed = outcome.and_then(|()| fs::rename(&partial, destination).map_err(|error| Error::io(destination, error)));
    if let Err(error) = renamed {
        // The error at hand says more than one about a leftover would.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    Ok(folder.exported)
}

/// What an import took in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    pub num_files: u64,
    pub num_documents: u64,
    pub num_tokens: u64,
    /// Documents that do not end with the tokenizer's end-of-document token; they are taken as they are.
    pub num_without_eos: u64,
}

/// Appends the documents of other tools' token files to `writer`, as documents of `source`.
///
/// `paths` are token files or folders of them, in order; files of a folder are taken by name. A document's id is the XXH3-128 of the
/// source's name and its token ids.
///
/// # Errors
/// [`Error::Data`] names the file, and the document or byte, that cannot be; [`Error::Setting`] for a format that is not imported.
pub fn import(format: Format, paths: &[PathBuf], source: &str, writer: &mut ShardWriter) -> Result<Imported, Error> {
    let (extension, read): (&str, Reader) = match format {
        Format::Megatron => ("bin", megatron::read),
        Format::Datatrove => ("ds", datatrove::read),
        Format::Olmo => ("npy", olmo::read),
        other => {
            let problem = format!("`{}` holds packed chunks, not documents; import megatron, datatrove or olmo", other.name());
            return Err(Error::Setting { setting: "format", problem });
        }
    };
    let mut import = Import { writer, source: source.to_string(), imported: Imported::default(), bytes: Vec::new(), ids: Vec::new() };
    for path in token_files(paths, extension)? {
        read(&path, &mut import)?;
        import.imported.num_files += 1;
    }
    Ok(import.imported)
}

type Reader = fn(&Path, &mut Import<'_>) -> Result<(), Error>;

fn token_files(paths: &[PathBuf], extension: &str) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
        let entries: Vec<PathBuf> = entries.map_err(|error| Error::io(path, error))?;
        let mut found: Vec<PathBuf> = entries.into_iter().filter(|file| file.extension().is_some_and(|found| found == extension)).collect();
        if found.is_empty() {
            return Err(Error::Data(format!("{}: holds no file that ends with .{extension}", path.display())));
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// Where documents of another tool go.
struct Import<'a> {
    writer: &'a mut ShardWriter,
    source: String,
    imported: Imported,
    bytes: Vec<u8>,
    ids: Vec<u32>,
}

/// Width of one id in a foreign file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    U16,
    U32,
    U64,
}

impl Width {
    fn num_bytes(self) -> u64 {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
            Self::U64 => 8,
        }
    }
}

impl From<Dtype> for Width {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::U16 => Self::U16,
            Dtype::U32 => Self::U32,
        }
    }
}

impl Import<'_> {
    /// Type of a file that does not state one: what the vocabulary needs.
    fn usual_width(&self) -> Width {
        self.writer.tokenizer().dtype().into()
    }

    /// Appends one document, which is `bytes` (ranges in bytes) of `file`, one after the other.
    fn push(&mut self, path: &Path, file: &File, parts: &[Range<u64>], width: Width, loss: Option<&[Range<u64>]>) -> Result<(), Error> {
        self.ids.clear();
        for part in parts {
            self.bytes.resize((part.end - part.start) as usize, 0);
            file.read_exact_at(&mut self.bytes, part.start).map_err(|error| Error::io(path, error))?;
            match width {
                Width::U16 => self.ids.extend(self.bytes.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]])))),
                Width::U32 => self.ids.extend(self.bytes.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))),
                // An id that does not fit is outside any vocabulary, which the writer says.
                Width::U64 => self.ids.extend(self.bytes.chunks_exact(8).map(|id| {
                    let id: [u8; 8] = id.try_into().unwrap_or([0xff; 8]);
                    u32::try_from(u64::from_le_bytes(id)).unwrap_or(u32::MAX)
                })),
            }
        }
        if self.ids.is_empty() {
            return Ok(());
        }
        let mut hasher = Xxh3::new();
        hasher.update(self.source.as_bytes());
        hasher.update(&[0]);
        self.ids.iter().for_each(|id| hasher.update(&id.to_le_bytes()));
        let doc_id = format!("{:032x}", hasher.digest128());
        let number = self.imported.num_documents;
        self.imported.num_documents += 1;
        self.imported.num_tokens += self.ids.len() as u64;
        self.imported.num_without_eos += u64::from(self.ids.last() != Some(&self.writer.tokenizer().eos_id));
        let document = Document { doc_id: &doc_id, source: &self.source, ids: &self.ids, loss };
        self.writer.push(document).map_err(|error| match error {
            Error::Data(problem) => Error::Data(format!("{}, document {number} of the import: {problem}", path.display())),
            other => other,
        })
    }
}

/// The folder an export is written to.
struct Folder {
    path: PathBuf,
    exported: Exported,
}

impl Folder {
    /// Gives a token file a second name; a copy where the file system has no links.
    fn link(&mut self, from: &Path, name: &str) -> Result<(), Error> {
        let to = self.path.join(name);
        self.exported.num_files += 1;
        if fs::hard_link(from, &to).is_ok() {
            self.exported.linked_bytes += fs::metadata(&to).map_err(|error| Error::io(&to, error))?.len();
        } else {
            self.exported.written_bytes += fs::copy(from, &to).map_err(|error| Error::io(&to, error))?;
        }
        Ok(())
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut file = self.create(name)?;
        file.write(bytes)?;
        self.close(file)
    }

    fn create(&self, name: &str) -> Result<Output, Error> {
        let path = self.path.join(name);
        let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
        Ok(Output { writer: BufWriter::with_capacity(1 << 20, file), path, num_bytes: 0 })
    }

    fn close(&mut self, output: Output) -> Result<(), Error> {
        let Output { writer, path, num_bytes } = output;
        let file = writer.into_inner().map_err(|error| Error::io(&path, error.into_error()))?;
        file.sync_all().map_err(|error| Error::io(&path, error))?;
        self.exported.num_files += 1;
        self.exported.written_bytes += num_bytes;
        Ok(())
    }
}

/// A file of an export.
struct Output {
    writer: BufWriter<File>,
    path: PathBuf,
    num_bytes: u64,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.num_bytes += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(|error| Error::io(&self.path, error))
    }
}

/// Bytes of a chunk file that MDS and litData write by default.
const CHUNK_FILE_BYTES: u64 = 1 << 26;

/// Chunks that go into one file of a format whose files begin with 32-bit offsets.
fn chunks_per_file(set: &ShardSet) -> u64 {
    let header = set.header();
    let chunk_bytes = u64::from(header.context_length) * header.dtype.num_bytes() + 4;
    (CHUNK_FILE_BYTES / chunk_bytes).max(1)
}

/// Consecutive chunks with the number of their file.
fn chunk_files(set: &ShardSet) -> impl Iterator<Item = (u64, Range<u64>)> {
    let (num_chunks, step) = (set.num_chunks(), chunks_per_file(set));
    (0..num_chunks.div_ceil(step)).map(move |file| (file, file * step..((file + 1) * step).min(num_chunks)))
}

fn damaged(path: &Path, problem: impl Into<String>) -> Error {
    Error::Data(format!("{}: {}; the file is damaged or of another format", path.display(), problem.into()))
}

/// Ranges `[start, end)` of a mask of one byte per token.
fn ranges_of_mask(mask: &[u8]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (at, _) in (0..).zip(mask).filter(|(_, counts)| **counts != 0) {
        match ranges.last_mut() {
            Some(last) if last.end == at => last.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}

/// A mask of one byte per token.
fn mask_of_ranges(num_tokens: u64, ranges: impl Iterator<Item = Range<u64>>) -> Vec<u8> {
    let mut mask = vec![0; num_tokens as usize];
    for range in ranges {
        mask[range.start as usize..range.end as usize].fill(1);
    }
    mask
}

#[cfg(test)]
mod tests;
