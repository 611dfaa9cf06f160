//! Memory-mapped token shards: opened and checked at once, read without a copy.
//!
//! [`ShardSet::open`] maps every shard of a folder and checks what costs no pass over the tokens: names, versions, lengths, the sidecars'
//! checksums, that the shards belong together and are what the caller expects, and that every piece lies in its file.
//! [`ShardSet::verify`] also hashes the token files.

use crate::mix::MixConfig;
use crate::sidecar::Row;
use arrow::array::{Array, AsArray, ListArray, PrimitiveArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::{Buffer, MutableBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, SchemaRef, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::FileDecoder;
use memmap2::Mmap;
use osler_schemas::SchemaError;
use osler_schemas::shard::{self, ChecksumError, Dtype, Header, HeaderError, Sealed};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use xxhash_rust::xxh3::xxh3_128;

#[cfg(target_endian = "big")]
compile_error!("shards are little-endian and are read without conversion");

/// A folder of token shards.
#[derive(Debug)]
pub struct ShardSet {
    shards: Vec<Shard>,
    /// Shard `i` holds the chunks `[chunk_ends[i - 1], chunk_ends[i])`.
    chunk_ends: Vec<u64>,
}

/// What the caller needs the shards to be; `None` takes what is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expectations {
    /// XXH3-128 of the `tokenizer.json`.
    pub tokenizer_xxh3: Option<u128>,
    pub context_length: Option<u32>,
    /// Whether every token is read and compared with the sidecars' hashes, as [`ShardSet::verify`] does.
    pub verify_contents: bool,
}

/// One chunk, borrowed from the mapped files.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    shard: &'a Shard,
    /// Position of the chunk in its shard.
    index: usize,
    /// Cumulative lengths of the pieces, from 0 to the tokens in use.
    pub cu_seqlens: &'a [u32],
    /// First token of every piece in the shard's file.
    starts: &'a [u64],
    /// Source of every piece: a position in [`Chunk::source_names`].
    pub sources: &'a [u32],
    /// Tokens missing at the end; fill them with the tokenizer's `pad_id`.
    pub num_padding: u32,
}

/// Token ids as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens<'a> {
    U16(&'a [u16]),
    U32(&'a [u32]),
}

/// A shard that cannot be used: what is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    #[error("{path}: cannot be read")]
    Io { path: PathBuf, source: io::Error },
    #[error("{directory}: no token shards; `part-00000.meta.arrow` is missing")]
    Empty { directory: PathBuf },
    #[error("{path}: the set is incomplete: {problem}; tokenise again")]
    Incomplete { path: PathBuf, problem: String },
    #[error("{path}: not a sidecar of token shards")]
    Sidecar { path: PathBuf, source: ArrowError },
    #[error("{path}: {source}; the file is damaged, tokenise again")]
    Checksum { path: PathBuf, source: ChecksumError },
    #[error("{path}")]
    Schema { path: PathBuf, source: SchemaError },
    #[error("{path}")]
    Header { path: PathBuf, source: HeaderError },
    #[error("{path}: {what}: wanted {wanted}, got {got}")]
    Mismatch { path: PathBuf, what: &'static str, wanted: String, got: String },
    #[error("{path}: {problem}; the file is damaged, tokenise again")]
    Damaged { path: PathBuf, problem: String },
}

/// Totals of a set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub num_shards: u64,
    pub num_documents: u64,
    pub num_tokens: u64,
    pub num_chunks: u64,
    pub num_padding: u64,
    /// Tokens that no chunk covers.
    pub num_tail_tokens: u64,
    /// Tokens by source.
    pub source_tokens: BTreeMap<String, u64>,
}

impl ShardSet {
    /// Maps and checks all shards in `directory`.
    ///
    /// # Errors
    /// [`ShardError`] says which file is wrong, in what, and what to do.
    pub fn open(directory: &Path, expected: &Expectations) -> Result<Self, ShardError> {
        let set = Self::open_any_packing(directory)?;
        for shard in &set.shards {
            shard.check_expected(expected)?;
            shard.check_same_set(set.header())?;
        }
        if expected.verify_contents {
            set.verify()?;
        }
        Ok(set)
    }

    /// Opens a set of which a repacking may have been interrupted: shards may differ in what a sidecar alone decides.
    pub(crate) fn open_any_packing(directory: &Path) -> Result<Self, ShardError> {
        let shards = open_all(directory, &shard_numbers(directory)?)?;
        let Some(last) = shards.last() else { return Err(ShardError::Empty { directory: directory.to_path_buf() }) };
        if !last.header.last {
            return Err(ShardError::Incomplete { path: last.sidecar_path.clone(), problem: "the shards after it are missing".into() });
        }
        if let Some(early) = shards.iter().rev().skip(1).find(|shard| shard.header.last) {
            let problem = "it says it is the last, and it is not".into();
            return Err(ShardError::Damaged { path: early.sidecar_path.clone(), problem });
        }
        let chunk_ends = shards.iter().scan(0, |end, shard| {
            *end += shard.num_chunks() as u64;
            Some(*end)
        });
        Ok(Self { chunk_ends: chunk_ends.collect(), shards })
    }

    /// Header of the first shard; the others differ only in their own counts and hashes.
    pub fn header(&self) -> &Header {
        &self.shards[0].header
    }

    /// Number of chunks in all shards.
    pub fn num_chunks(&self) -> u64 {
        self.chunk_ends.last().copied().unwrap_or(0)
    }

    /// Chunk `index`; `None` from [`Self::num_chunks`] on.
    pub fn chunk(&self, index: u64) -> Option<Chunk<'_>> {
        let (shard, index) = self.place(index)?;
        shard.chunk(index)
    }

    /// The shard that holds chunk `index`, and the chunk's number in it.
    fn place(&self, index: u64) -> Option<(&Shard, usize)> {
        let number = self.chunk_ends.partition_point(|&end| end <= index);
        let before = if number == 0 { 0 } else { self.chunk_ends[number - 1] };
        Some((self.shards.get(number)?, (index - before) as usize))
    }

    /// Brings what [`Self::chunk`] will read of the sidecar into the cache, without waiting for it.
    pub(crate) fn prefetch_rows(&self, index: u64) {
        let Some((shard, index)) = self.place(index) else { return };
        let Chunks { pieces, cu_seqlens, padding, .. } = &shard.chunks;
        prefetch(pieces.value_offsets().get(index));
        prefetch(cu_seqlens.value_offsets().get(index));
        prefetch(padding.values().get(index));
    }

    /// The shards, in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Names of all sources of the set; every shard's own list is the beginning of it.
    pub fn source_names(&self) -> &StringArray {
        &self.shards[self.shards.len() - 1].sources
    }

    /// The part of a mix that each chunk belongs to, in order.
    pub(crate) fn chunk_parts(&self, mix: &MixConfig) -> impl Iterator<Item = Option<usize>> {
        self.shards.iter().flat_map(move |shard| {
            let parts: Vec<Option<usize>> = shard.sources.iter().map(|name| mix.part_of(name.unwrap_or_default())).collect();
            (0..shard.num_chunks()).map(move |index| {
                let first = shard.chunk(index)?.sources.first().copied()?;
                parts.get(first as usize).copied().flatten()
            })
        })
    }

    /// Totals, from the sidecars alone.
    pub fn summary(&self) -> Summary {
        let mut summary = Summary { num_shards: self.shards.len() as u64, num_chunks: self.num_chunks(), ..Summary::default() };
        for shard in &self.shards {
            summary.num_tokens += shard.header.num_tokens;
            summary.num_tail_tokens += shard.header.num_tail_tokens;
            summary.num_padding += shard.chunks.padding.values().iter().map(|&padding| u64::from(padding)).sum::<u64>();
            let documents = &shard.documents;
            // A document carried on from the shard before was counted there.
            summary.num_documents += documents.offset.values().iter().filter(|&&offset| offset == 0).count() as u64;
            for (&source, &len) in documents.source.values().iter().zip(documents.len.values()) {
                let name = shard.sources.value(source as usize);
                match summary.source_tokens.get_mut(name) {
                    Some(tokens) => *tokens += len,
                    None => drop(summary.source_tokens.insert(name.to_string(), len)),
                }
            }
        }
        summary
    }

    /// Reads every token: compares each file's hash with its sidecar's and every id with the vocabulary.
    ///
    /// # Errors
    /// [`ShardError::Damaged`] names the first file that differs.
    pub fn verify(&self) -> Result<(), ShardError> {
        self.shards.iter().try_for_each(Shard::verify)
    }
}

impl<'a> Chunk<'a> {
    /// Brings the beginning of what the pieces are made of into the cache, without waiting for it.
    pub(crate) fn prefetch_pieces(&self) {
        prefetch(self.cu_seqlens.first());
        prefetch(self.starts.first());
        prefetch(self.sources.first());
    }

    /// Brings the beginning of each page that a chunk lying together covers into the cache, without waiting for it.
    pub(crate) fn prefetch_tokens(&self) {
        const PAGE_BYTES: usize = 4096;
        let start = self.starts.first().copied().unwrap_or(0);
        let tokens = self.shard.tokens().slice(start, self.num_tokens() as u64);
        tokens.iter().flat_map(|tokens| tokens.bytes().iter().step_by(PAGE_BYTES)).for_each(|byte| prefetch(Some(byte)));
    }

    /// Number of pieces.
    pub fn num_pieces(&self) -> usize {
        self.starts.len()
    }

    /// Tokens in use, without padding.
    pub fn num_tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&end| end as usize)
    }

    /// The tokens of piece `index`, straight from the file.
    pub fn piece(&self, index: usize) -> Option<Tokens<'a>> {
        let len = self.cu_seqlens.get(index + 1)? - self.cu_seqlens.get(index)?;
        self.shard.tokens().slice(*self.starts.get(index)?, u64::from(len))
    }

    /// All tokens in use as one slice where they lie together in the file, as they do under `concat`.
    pub fn contiguous(&self) -> Option<Tokens<'a>> {
        let together = self.starts.windows(2).zip(self.cu_seqlens.windows(2));
        let first = *self.starts.first()?;
        let whole = together.into_iter().all(|(starts, ends)| starts[1] - starts[0] == u64::from(ends[1] - ends[0]));
        if whole { self.shard.tokens().slice(first, self.num_tokens() as u64) } else { None }
    }

    /// Copies the chunk into `out`, one context length of ids, padding included. Longer `out` is left as it is behind; a shorter one takes
    /// what fits.
    pub fn copy_into(&self, out: &mut [u32]) {
        let mut rest = out;
        let parts = self.contiguous().map_or(self.num_pieces(), |_| 1);
        for index in 0..parts {
            let tokens = if parts == 1 { self.contiguous() } else { self.piece(index) };
            let Some(tokens) = tokens else { continue };
            let len = tokens.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(len);
            match tokens {
                Tokens::U16(ids) => head.iter_mut().zip(ids).for_each(|(to, &id)| *to = u32::from(id)),
                Tokens::U32(ids) => head.copy_from_slice(&ids[..len]),
            }
            rest = tail;
        }
        let padding = rest.len().min(self.num_padding as usize);
        rest[..padding].fill(self.shard.header.tokenizer.pad_id);
    }

    /// Bytes of a copy of the chunk, padding included.
    pub fn num_bytes(&self) -> usize {
        (u64::from(self.shard.header.context_length) * self.shard.header.dtype.num_bytes()) as usize
    }

    /// Copies the chunk as it is stored, little-endian and of the shard's type, into `out`, one context length, padding included. Longer
    /// `out` is left as it is behind; a shorter one takes what fits.
    pub fn copy_bytes_into(&self, out: &mut [u8]) {
        let mut rest = out;
        let whole = self.contiguous();
        let parts = if whole.is_some() { 1 } else { self.num_pieces() };
        for index in 0..parts {
            let Some(tokens) = whole.or_else(|| self.piece(index)) else { continue };
            let bytes = tokens.bytes();
            let len = bytes.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(len);
            head.copy_from_slice(&bytes[..len]);
            rest = tail;
        }
        let pad = self.shard.header.tokenizer.pad_id.to_le_bytes();
        let width = self.shard.header.dtype.num_bytes() as usize;
        for id in rest.chunks_exact_mut(width).take(self.num_padding as usize) {
            id.copy_from_slice(&pad[..width]);
        }
    }

    /// Ranges of the chunk's positions whose tokens count in the loss, sorted and disjoint; padding never does.
    pub fn loss(&self) -> Vec<Range<u32>> {
        let mut ranges = Vec::new();
        self.extend_loss(0, &mut ranges);
        ranges
    }

    /// Appends [`Self::loss`] of the chunk where it begins at position `base`; a range that goes on where the last one ended becomes one with it.
    pub fn extend_loss(&self, base: u32, ranges: &mut Vec<Range<u32>>) {
        let mut extend = |range: Range<u32>| match ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == base + range.start => last.end = base + range.end,
            _ => ranges.push(base + range.start..base + range.end),
        };
        let Some((starts, lens)) = &self.shard.loss else { return extend(0..self.num_tokens() as u32) };
        let (starts, lens) = (starts.values(), lens.values());
        for (&start, ends) in self.starts.iter().zip(self.cu_seqlens.windows(2)) {
            let end = start + u64::from(ends[1] - ends[0]);
            let first = starts.partition_point(|&span| span <= start).saturating_sub(1);
            for (&span, &len) in starts[first..].iter().zip(&lens[first..]).take_while(|(span, _)| **span < end) {
                let (from, to) = (span.max(start), (span + len).min(end));
                if from < to {
                    extend(ends[0] + (from - start) as u32..ends[0] + (to - start) as u32);
                }
            }
        }
    }

    /// Documents of the pieces: ids in the corpus.
    pub fn doc_id(&self, piece: usize) -> Option<&'a str> {
        let offsets = self.shard.chunks.pieces.value_offsets();
        let row = *offsets.get(self.index)? as usize + piece;
        let document = *self.shard.chunks.piece_document.values().get(row)?;
        let ids = &self.shard.documents.doc_id;
        (document < ids.len() as u64).then(|| ids.value(document as usize))
    }

    /// Names that [`Chunk::sources`] are positions in.
    pub fn source_names(&self) -> &'a StringArray {
        &self.shard.sources
    }
}

impl<'a> Tokens<'a> {
    /// The ids as they lie in the file: little-endian, two or four bytes each.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            // SAFETY: any initialised integer is as many initialised bytes, and bytes need no alignment; the length is the slice's own.
            Self::U16(ids) => unsafe { std::slice::from_raw_parts(ids.as_ptr().cast(), size_of_val(ids)) },
            // SAFETY: as above.
            Self::U32(ids) => unsafe { std::slice::from_raw_parts(ids.as_ptr().cast(), size_of_val(ids)) },
        }
    }

    /// The ids `[start, start + len)`; `None` where they are not there.
    pub fn slice(self, start: u64, len: u64) -> Option<Self> {
        let range = usize::try_from(start).ok()?..usize::try_from(start.checked_add(len)?).ok()?;
        Some(match self {
            Self::U16(ids) => Self::U16(ids.get(range)?),
            Self::U32(ids) => Self::U32(ids.get(range)?),
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::U16(ids) => ids.len(),
            Self::U32(ids) => ids.len(),
        }
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids.
    pub fn iter(&self) -> impl Iterator<Item = u32> + 'a {
        let (short, long): (&'a [u16], &'a [u32]) = match *self {
            Self::U16(ids) => (ids, &[]),
            Self::U32(ids) => (&[], ids),
        };
        short.iter().map(|&id| u32::from(id)).chain(long.iter().copied())
    }
}

/// Opens shards on all threads, since most of it is waiting for the system; the error is that of the first that has one.
fn open_all(directory: &Path, numbers: &[u32]) -> Result<Vec<Shard>, ShardError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let per_thread = numbers.len().div_ceil(threads).max(SHARDS_PER_THREAD_MIN);
    let open = |first: usize, numbers: &[u32]| {
        let mut shards = Vec::with_capacity(numbers.len());
        for (wanted, &number) in (first as u32..).zip(numbers) {
            if number != wanted {
                let path = directory.join(shard::sidecar_name(wanted));
                return Err(ShardError::Incomplete { path, problem: "this shard is missing".into() });
            }
            shards.push(Shard::open(directory, number)?);
        }
        Ok(shards)
    };
    thread::scope(|scope| {
        let mut parts = numbers.chunks(per_thread).enumerate().map(|(part, numbers)| move || open(part * per_thread, numbers));
        let own = parts.next();
        // A part that gets no thread is this thread's, too.
        let others: Vec<_> = parts.map(|work| (work, thread::Builder::new().spawn_scoped(scope, work).ok())).collect();
        let mut shards = own.map_or(Ok(Vec::new()), |work| work())?;
        for (work, thread) in others {
            shards.extend(thread.map_or_else(work, |thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))?);
        }
        Ok(shards)
    })
}

/// Fewer are opened faster than a thread is started.
const SHARDS_PER_THREAD_MIN: usize = 64;

fn shard_numbers(directory: &Path) -> Result<Vec<u32>, ShardError> {
    let io = |source| ShardError::Io { path: directory.to_path_buf(), source };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        numbers.extend(name.to_str().and_then(shard::parse_sidecar_name));
    }
    numbers.sort_unstable();
    if numbers.is_empty() { Err(ShardError::Empty { directory: directory.to_path_buf() }) } else { Ok(numbers) }
}

/// One mapped shard.
#[derive(Debug)]
pub struct Shard {
    bin_path: PathBuf,
    sidecar_path: PathBuf,
    header: Header,
    tokens: MappedTokens,
    sources: StringArray,
    documents: Documents,
    chunks: Chunks,
    /// Starts and lengths of the spans that count in the loss; none: all tokens.
    loss: Option<(PrimitiveArray<UInt64Type>, PrimitiveArray<UInt64Type>)>,
}

/// One document of a shard, or the part of it that lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentView<'a> {
    pub doc_id: &'a str,
    pub source: &'a str,
    /// Position in the document of its first token here.
    pub offset: u64,
    /// Position in the file of that token.
    pub start: u64,
    pub len: u64,
}

#[derive(Debug)]
struct Documents {
    doc_id: StringArray,
    source: PrimitiveArray<UInt32Type>,
    offset: PrimitiveArray<UInt64Type>,
    start: PrimitiveArray<UInt64Type>,
    len: PrimitiveArray<UInt64Type>,
}

#[derive(Debug)]
struct Chunks {
    cu_seqlens: ListArray,
    cu_seqlen_values: PrimitiveArray<UInt32Type>,
    pieces: ListArray,
    piece_document: PrimitiveArray<UInt64Type>,
    piece_start: PrimitiveArray<UInt64Type>,
    piece_len: PrimitiveArray<UInt32Type>,
    piece_source: PrimitiveArray<UInt32Type>,
    padding: PrimitiveArray<UInt32Type>,
}

#[derive(Debug)]
enum MappedTokens {
    U16(ScalarBuffer<u16>),
    U32(ScalarBuffer<u32>),
}

impl MappedTokens {
    fn all(&self) -> Tokens<'_> {
        match self {
            Self::U16(ids) => Tokens::U16(ids),
            Self::U32(ids) => Tokens::U32(ids),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::U16(ids) => ids.inner().as_slice(),
            Self::U32(ids) => ids.inner().as_slice(),
        }
    }

    fn max(&self) -> Option<u32> {
        match self {
            Self::U16(ids) => ids.iter().max().map(|&id| u32::from(id)),
            Self::U32(ids) => ids.iter().max().copied(),
        }
    }
}

impl Shard {
    /// What its sidecar says of it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Path of its token file.
    pub fn bin_path(&self) -> &Path {
        &self.bin_path
    }

    /// Names of the sources.
    pub fn source_names(&self) -> &StringArray {
        &self.sources
    }

    /// All its tokens.
    pub fn tokens(&self) -> Tokens<'_> {
        self.tokens.all()
    }

    /// Its documents, in file order; they lie back to back and cover the file.
    pub fn documents(&self) -> impl Iterator<Item = DocumentView<'_>> {
        let documents = &self.documents;
        (0..documents.len.len()).map(|row| DocumentView {
            doc_id: documents.doc_id.value(row),
            source: self.sources.value(documents.source.value(row) as usize),
            offset: documents.offset.value(row),
            start: documents.start.value(row),
            len: documents.len.value(row),
        })
    }

    /// Its documents as a sidecar's writer takes them.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.documents().zip(self.documents.source.values()).map(|(document, &source)| Row {
            doc_id: document.doc_id.into(),
            source,
            offset: document.offset,
            start: document.start,
            len: document.len,
        })
    }

    /// Spans of the file that count in the loss, sorted and disjoint; `None`: all tokens.
    pub fn loss(&self) -> Option<impl Iterator<Item = Range<u64>> + '_> {
        let (starts, lens) = self.loss.as_ref()?;
        Some(starts.values().iter().zip(lens.values()).map(|(&start, &len)| start..start + len))
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> {
        (0..self.num_chunks()).filter_map(|index| self.chunk(index))
    }

    fn open(directory: &Path, number: u32) -> Result<Self, ShardError> {
        let sidecar_path = directory.join(shard::sidecar_name(number));
        let bin_path = directory.join(shard::bin_name(number));
        let batch = read_sidecar(&map(&sidecar_path)?).map_err(|error| error.at(&sidecar_path))?;
        let header = Header::from_metadata(batch.schema_ref().metadata())
            .map_err(|source| ShardError::Header { path: sidecar_path.clone(), source })?;
        let tokens = map(&bin_path)?;
        let wanted = header.num_tokens.saturating_mul(header.dtype.num_bytes());
        if tokens.len() as u64 != wanted {
            let (wanted, got) = (format!("{wanted} bytes"), format!("{} bytes", tokens.len()));
            return Err(ShardError::Mismatch { path: bin_path, what: "length", wanted, got });
        }
        let len = header.num_tokens as usize;
        // A mapping begins on a page, and what is read in a buffer of Arrow's: both are aligned for either type.
        let tokens = match header.dtype {
            Dtype::U16 => MappedTokens::U16(ScalarBuffer::new(tokens, 0, len)),
            Dtype::U32 => MappedTokens::U32(ScalarBuffer::new(tokens, 0, len)),
        };
        let damaged = |problem: &str| ShardError::Damaged { path: sidecar_path.clone(), problem: problem.to_string() };
        let columns = Columns(&batch);
        let sources = columns.list("sources").and_then(|list| list.as_string_opt::<i32>().cloned());
        let (((sources, documents), chunks), loss) = sources
            .zip(columns.documents())
            .zip(columns.chunks())
            .zip(columns.loss())
            .ok_or_else(|| damaged("a column is not what the schema says"))?;
        let shard = Self { bin_path, header, tokens, sources, documents, chunks, loss, sidecar_path: sidecar_path.clone() };
        shard.check(number).map_err(|problem| damaged(&problem))?;
        Ok(shard)
    }

    /// Number of its chunks.
    pub fn num_chunks(&self) -> usize {
        self.chunks.padding.len()
    }

    fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        let range = |list: &ListArray| Some(*list.value_offsets().get(index)? as usize..*list.value_offsets().get(index + 1)? as usize);
        let pieces = range(&self.chunks.pieces)?;
        Some(Chunk {
            shard: self,
            cu_seqlens: self.chunks.cu_seqlen_values.values().get(range(&self.chunks.cu_seqlens)?)?,
            starts: self.chunks.piece_start.values().get(pieces.clone())?,
            sources: self.chunks.piece_source.values().get(pieces)?,
            num_padding: *self.chunks.padding.values().get(index)?,
            index,
        })
    }

    /// Checks all that later reads rely on. Documents must lie back to back, and every chunk's pieces in the file.
    fn check(&self, number: u32) -> Result<(), String> {
        if self.header.shard != number {
            return Err(format!("it says it is shard {}", self.header.shard));
        }
        let num_sources = self.sources.len();
        let mut end = 0u64;
        let documents = &self.documents;
        for ((row, (&start, &len)), &source) in
            documents.start.values().iter().zip(documents.len.values()).enumerate().zip(documents.source.values())
        {
            if start != end || source as usize >= num_sources {
                return Err(format!("document {row} does not follow the one before, or has no source"));
            }
            end = end.checked_add(len).ok_or_else(|| format!("document {row} is too long"))?;
        }
        if end != self.header.num_tokens {
            return Err(format!("its documents end at token {end} of {}", self.header.num_tokens));
        }
        let mut counted = 0;
        for (span, range) in self.loss().into_iter().flatten().enumerate() {
            if range.start < counted || range.is_empty() || range.end > self.header.num_tokens {
                return Err(format!("loss span {span} does not follow the one before, or is not in the file"));
            }
            counted = range.end;
        }
        for index in 0..self.num_chunks() {
            self.check_chunk(index).ok_or_else(|| format!("chunk {index} does not fit its pieces"))?;
        }
        Ok(())
    }

    fn check_chunk(&self, index: usize) -> Option<()> {
        let chunk = self.chunk(index)?;
        let offsets = self.chunks.pieces.value_offsets();
        let lens = self.chunks.piece_len.values().get(*offsets.get(index)? as usize..*offsets.get(index + 1)? as usize)?;
        let mut used = 0u32;
        let mut fits = chunk.cu_seqlens.first() == Some(&0) && chunk.cu_seqlens.len() == lens.len() + 1;
        for (piece, &len) in lens.iter().enumerate() {
            used = used.checked_add(len)?;
            fits &= chunk.cu_seqlens.get(piece + 1) == Some(&used);
            fits &= chunk.starts.get(piece)?.checked_add(u64::from(len))? <= self.header.num_tokens;
            fits &= (*chunk.sources.get(piece)? as usize) < self.sources.len();
        }
        (fits && used.checked_add(chunk.num_padding)? == self.header.context_length).then_some(())
    }

    fn check_expected(&self, expected: &Expectations) -> Result<(), ShardError> {
        if let Some(wanted) = expected.tokenizer_xxh3.filter(|&wanted| wanted != self.header.tokenizer.xxh3) {
            let got = format!("{:032x} (`{}`)", self.header.tokenizer.xxh3, self.header.tokenizer.name);
            return Err(self.mismatch("hash of tokenizer.json", format!("{wanted:032x}"), got));
        }
        if let Some(wanted) = expected.context_length.filter(|&wanted| wanted != self.header.context_length) {
            return Err(self.mismatch("context length", wanted.to_string(), self.header.context_length.to_string()));
        }
        Ok(())
    }

    fn check_same_set(&self, first: &Header) -> Result<(), ShardError> {
        let key = |header: &Header| {
            let tokenizer = &header.tokenizer;
            let mix = header.mix.as_deref().unwrap_or("no mix");
            format!("{} {} {} {} {mix} {tokenizer:?}", header.dtype, header.context_length, header.packing, header.seed)
        };
        if key(&self.header) == key(first) { Ok(()) } else { Err(self.mismatch("settings", key(first), key(&self.header))) }
    }

    fn mismatch(&self, what: &'static str, wanted: String, got: String) -> ShardError {
        ShardError::Mismatch { path: self.sidecar_path.clone(), what, wanted, got }
    }

    fn verify(&self) -> Result<(), ShardError> {
        let damaged = |problem| Err(ShardError::Damaged { path: self.bin_path.clone(), problem });
        let hash = xxh3_128(self.tokens.bytes());
        if hash != self.header.bin_xxh3 {
            return damaged(format!("hash: wanted {:032x}, got {hash:032x}", self.header.bin_xxh3));
        }
        match self.tokens.max() {
            Some(id) if id >= self.header.tokenizer.vocab_size => {
                damaged(format!("id {id} is not in the vocabulary of {}", self.header.tokenizer.vocab_size))
            }
            _ => Ok(()),
        }
    }
}

/// Typed views of the sidecar's one row.
struct Columns<'a>(&'a RecordBatch);

impl Columns<'_> {
    fn list(&self, name: &str) -> Option<arrow::array::ArrayRef> {
        let list: &ListArray = self.0.column_by_name(name)?.as_list_opt()?;
        (list.len() == 1 && list.is_valid(0)).then(|| list.value(0))
    }

    fn documents(&self) -> Option<Documents> {
        let list = self.list("documents")?;
        let rows = list.as_struct_opt()?;
        let (source, offset) = (primitive(rows, "source")?, primitive(rows, "offset")?);
        let doc_id = rows.column_by_name("doc_id")?.as_string_opt::<i32>()?.clone();
        Some(Documents { doc_id, source, offset, start: primitive(rows, "start")?, len: primitive(rows, "len")? })
    }

    /// Outer `None`: not what the schema says; inner: every token counts.
    fn loss(&self) -> Option<Option<(PrimitiveArray<UInt64Type>, PrimitiveArray<UInt64Type>)>> {
        let list: &ListArray = self.0.column_by_name("loss")?.as_list_opt()?;
        if list.len() == 1 && list.is_null(0) {
            return Some(None);
        }
        let list = self.list("loss")?;
        let rows = list.as_struct_opt()?;
        Some(Some((primitive(rows, "start")?, primitive(rows, "len")?)))
    }

    fn chunks(&self) -> Option<Chunks> {
        let list = self.list("chunks")?;
        let rows = list.as_struct_opt()?;
        let cu_seqlens: ListArray = rows.column_by_name("cu_seqlens")?.as_list_opt()?.clone();
        let pieces: ListArray = rows.column_by_name("pieces")?.as_list_opt()?.clone();
        let fields = pieces.values().as_struct_opt()?;
        Some(Chunks {
            cu_seqlen_values: cu_seqlens.values().as_primitive_opt()?.clone(),
            piece_document: primitive(fields, "document")?,
            piece_start: primitive(fields, "start")?,
            piece_len: primitive(fields, "len")?,
            piece_source: primitive(fields, "source")?,
            padding: primitive(rows, "num_padding")?,
            cu_seqlens,
            pieces,
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(rows: &StructArray, name: &str) -> Option<PrimitiveArray<T>> {
    Some(rows.column_by_name(name)?.as_primitive_opt::<T>()?.clone()).filter(|values| values.null_count() == 0)
}

/// Asks for the cache line of a value that will soon be read. Only speed depends on it.
fn prefetch<T>(value: Option<&T>) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = value {
        // SAFETY: a prefetch has no effect that a program can see, at whatever address; this one is a reference's.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// A file of fewer bytes is read rather than mapped: a mapping costs more than a copy of some pages.
const MAPPED_BYTES_MIN: u64 = 1 << 14;

fn map(path: &Path) -> Result<Buffer, ShardError> {
    let io = |source| ShardError::Io { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(io)?;
    let num_bytes = file.metadata().map_err(io)?.len();
    if num_bytes < MAPPED_BYTES_MIN {
        let mut bytes = MutableBuffer::from_len_zeroed(num_bytes as usize);
        file.read_exact(&mut bytes).map_err(io)?;
        return Ok(bytes.into());
    }
    // SAFETY: a mapping is sound while nobody truncates or writes the file. Shards are written under another name and renamed when
    // complete, and are never written again; a set is replaced by removing its files, which leaves mappings as they are.
    let mapping = unsafe { Mmap::map(&file) }.map_err(io)?;
    Ok(Buffer::from(bytes::Bytes::from_owner(mapping)))
}

enum SidecarError {
    Checksum(ChecksumError),
    Arrow(ArrowError),
    Schema(SchemaError),
}

impl SidecarError {
    fn at(self, path: &Path) -> ShardError {
        let path = path.to_path_buf();
        match self {
            Self::Checksum(source) => ShardError::Checksum { path, source },
            Self::Arrow(source) => ShardError::Sidecar { path, source },
            Self::Schema(source) => ShardError::Schema { path, source },
        }
    }
}

/// Decodes the one batch of a sidecar; its arrays lie in `file`.
fn read_sidecar(file: &Buffer) -> Result<RecordBatch, SidecarError> {
    let broken = |problem: &str| SidecarError::Arrow(ArrowError::ParseError(problem.to_string()));
    let Sealed { footer, footer_start } = shard::check_seal(file).map_err(SidecarError::Checksum)?;
    let schema: SchemaRef = Arc::new(fb_to_schema(footer.schema().ok_or_else(|| broken("no schema"))?));
    shard::expect(&schema).map_err(SidecarError::Schema)?;
    let blocks = footer.recordBatches().filter(|blocks| blocks.len() == 1).ok_or_else(|| broken("wanted one batch"))?;
    let block = blocks.get(0);
    let start = usize::try_from(block.offset()).map_err(|_| broken("batch offset"))?;
    let len = usize::try_from(block.bodyLength()).ok().zip(usize::try_from(block.metaDataLength()).ok());
    let len = len.and_then(|(body, metadata)| body.checked_add(metadata)).ok_or_else(|| broken("batch length"))?;
    if start.checked_add(len).is_none_or(|end| end > footer_start) {
        return Err(broken("batch outside the file"));
    }
    let decoder = FileDecoder::new(schema, footer.version()).with_require_alignment(true);
    let batch = decoder.read_record_batch(block, &file.slice_with_length(start, len)).map_err(SidecarError::Arrow)?;
    batch.filter(|batch| batch.num_rows() == 1).ok_or_else(|| broken("wanted one row"))
}

#[cfg(test)]
mod tests;
