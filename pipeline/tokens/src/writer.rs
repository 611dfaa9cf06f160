//! Writes token shards: `part-NNNNN.bin` and its sidecar `part-NNNNN.meta.arrow`.
//!
//! A shard ends before the document that would take it over the size wanted, so a document is never cut by a file, with one exception:
//! where the tail is carried, the last tokens that do not fill a chunk open the next shard instead. A chunk never spans two shards. Bytes
//! depend on the documents and the settings alone. A file gets its final name when it is complete and on disk, tokens before sidecar.

use crate::error::Error;
use crate::mix::{MixConfig, PartUse, warnings};
use crate::pack::{PackConfig, Plan, Tail};
use crate::sidecar::{self, Row};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use osler_schemas::document::rounded_length;
use osler_schemas::expect;
use osler_schemas::sequence::document_tokens_schema;
use osler_schemas::shard::{self, Dtype, Header, TokenizerIdentity};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const FLUSH_BYTES: usize = 1 << 20;

/// Size of a shard unless the user wants another.
pub const DEFAULT_SHARD_BYTES: u64 = 1 << 30;
/// Largest size wanted: keeps every list of the sidecar within its 32-bit offsets.
pub const MAX_SHARD_BYTES: u64 = 1 << 32;

/// Writes one set of shards into a folder.
pub struct ShardWriter {
    directory: PathBuf,
    tokenizer: TokenizerIdentity,
    dtype: Dtype,
    pack: PackConfig,
    mix: MixConfig,
    shard_bytes: u64,
    sources: Vec<String>,
    source_index: HashMap<String, u32>,
    current: Current,
    summary: Summary,
}

/// One document to write.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    pub doc_id: &'a str,
    pub source: &'a str,
    /// Token ids, the end-of-document token last.
    pub ids: &'a [u32],
    /// Ranges of `ids` that count in the loss, sorted and disjoint; `None`: all of them.
    pub loss: Option<&'a [Range<u64>]>,
}

/// What a set holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    pub shards: Vec<WrittenShard>,
    pub num_documents: u64,
    pub num_tokens: u64,
    pub num_chunks: u64,
    pub num_padding: u64,
    /// Tokens in the files that no chunk covers.
    pub num_tail_tokens: u64,
    /// Tokens by source.
    pub source_tokens: BTreeMap<String, u64>,
    /// Documents by their number of tokens, as [`rounded_length`].
    pub document_tokens: BTreeMap<u64, u64>,
    /// Chunks of every part of the mix.
    pub part_chunks: Vec<u64>,
    /// The parts of the mix as they will be given.
    pub parts: Vec<PartUse>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// One shard's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenShard {
    pub bin: PathBuf,
    pub sidecar: PathBuf,
    pub num_tokens: u64,
    pub num_chunks: u64,
    pub bin_xxh3: u128,
    pub sidecar_xxh3: u128,
}

/// The shard being written.
#[derive(Default)]
struct Current {
    file: Option<File>,
    hasher: Xxh3,
    /// Encoded ids not yet in the file.
    buffer: Vec<u8>,
    written_bytes: u64,
    rows: Vec<Row>,
    loss: Vec<Range<u64>>,
    num_tokens: u64,
}

impl ShardWriter {
    /// Opens a set in `directory`, which is made if it is not there; shards of an earlier set in it are removed.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting that cannot work, [`Error::Io`] when the folder cannot be made or cleared.
    pub fn create(directory: &Path, tokenizer: TokenizerIdentity, pack: PackConfig, shard_bytes: u64) -> Result<Self, Error> {
        let config = |setting, problem: String| Error::Setting { setting, problem };
        pack.check().map_err(|error| config("pack", error.to_string()))?;
        let dtype = tokenizer.dtype();
        let chunk_bytes = u64::from(pack.context_length) * dtype.num_bytes();
        if !(chunk_bytes..=MAX_SHARD_BYTES).contains(&shard_bytes) {
            let problem = format!("must be between one chunk ({chunk_bytes} bytes) and {MAX_SHARD_BYTES}, got {shard_bytes}");
            return Err(config("shard_bytes", problem));
        }
        fs::create_dir_all(directory).map_err(|error| Error::io(directory, error))?;
        clear(directory).map_err(|error| Error::io(directory, error))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            tokenizer,
            dtype,
            pack,
            mix: MixConfig::default(),
            shard_bytes,
            sources: Vec::new(),
            source_index: HashMap::new(),
            current: Current::default(),
            summary: Summary::default(),
        })
    }

    /// Packs each part of a mix by itself, and leaves what no part names out of the chunks. Tails cannot be carried then.
    ///
    /// # Errors
    /// [`Error::Mix`] for a mix that cannot be.
    pub fn with_mix(mut self, mix: MixConfig) -> Result<Self, Error> {
        mix.check()?;
        if !mix.is_empty() && self.pack.carries() {
            self.pack.tail = Tail::Drop;
        }
        self.mix = mix;
        Ok(self)
    }

    /// The tokenizer that made the ids.
    pub fn tokenizer(&self) -> &TokenizerIdentity {
        &self.tokenizer
    }

    /// Appends the documents of a batch of [`document_tokens_schema`].
    ///
    /// # Errors
    /// As for [`Self::push`], and [`Error::Schema`] for a batch of another shape.
    pub fn push_batch(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        expect::schema(batch.schema_ref(), &document_tokens_schema())?;
        let doc_ids = expect::utf8(batch, "doc_id")?;
        let sources = expect::utf8(batch, "source")?;
        let lists = expect::list(batch, "input_ids")?;
        let ids = lists.values().as_primitive::<UInt32Type>().values();
        for row in 0..batch.num_rows() {
            let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
            self.push(Document { doc_id: doc_ids.value(row), source: sources.value(row), ids: &ids[range], loss: None })?;
        }
        Ok(())
    }

    /// Appends one document.
    ///
    /// # Errors
    /// [`Error::Data`] for an id outside the vocabulary or loss ranges outside the document, [`Error::Io`] when a file cannot be written.
    pub fn push(&mut self, document: Document<'_>) -> Result<(), Error> {
        let Document { doc_id, source, ids, loss } = document;
        let vocab_size = self.tokenizer.vocab_size;
        if let Some(position) = ids.iter().position(|&id| id >= vocab_size) {
            let id = ids[position];
            return Err(data(format!("document {doc_id}, token {position}: id {id} is not in the vocabulary of {vocab_size}")));
        }
        let len = ids.len() as u64;
        if let Some(ranges) = loss {
            let ordered = ranges.windows(2).all(|pair| pair[0].end <= pair[1].start);
            if !ordered || ranges.iter().any(|range| range.start >= range.end || range.end > len) {
                return Err(data(format!("document {doc_id}: loss ranges must be sorted, disjoint and within its {len} tokens")));
            }
        }
        let bytes_after = (self.current.num_tokens + len) * self.dtype.num_bytes();
        // A shard that carries its tail needs a chunk of its own, or it would be empty.
        let least = if self.pack.carries() { u64::from(self.pack.context_length) } else { 1 };
        if self.current.num_tokens >= least && bytes_after > self.shard_bytes {
            self.close_shard(false)?;
        }
        let source_index = self.source(source);
        let start = self.current.num_tokens;
        self.current.rows.push(Row { doc_id: doc_id.into(), source: source_index, offset: 0, start, len });
        self.current.num_tokens += len;
        match loss {
            None => self.current.add_loss(start..start + len),
            Some(ranges) => {
                ranges.iter().for_each(|range| self.current.add_loss(start + range.start..start + range.end));
            }
        }
        self.summary.add_document(source, 0, len);
        self.encode(ids)
    }

    /// Writes what is left and gives the totals. A set of no documents is one empty shard.
    ///
    /// # Errors
    /// As for [`Self::push`], and [`Error::Mix`] where a part is short of its budget.
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.close_shard(true)?;
        let mut summary = std::mem::take(&mut self.summary);
        summary.resolve(&self.mix, self.pack.context_length)?;
        Ok(summary)
    }

    fn source(&mut self, name: &str) -> u32 {
        if let Some(&index) = self.source_index.get(name) {
            return index;
        }
        let index = self.sources.len() as u32;
        self.sources.push(name.to_string());
        self.source_index.insert(name.to_string(), index);
        index
    }

    fn encode(&mut self, ids: &[u32]) -> Result<(), Error> {
        for part in ids.chunks(FLUSH_BYTES / 4) {
            match self.dtype {
                Dtype::U16 => self.current.buffer.extend(part.iter().flat_map(|&id| (id as u16).to_le_bytes())),
                Dtype::U32 => self.current.buffer.extend(part.iter().flat_map(|&id| id.to_le_bytes())),
            }
            if self.current.buffer.len() >= FLUSH_BYTES {
                self.flush(self.current.buffer.len() - self.held_back_bytes())?;
            }
        }
        Ok(())
    }

    /// Bytes at the end of the buffer that may have to open the next shard.
    fn held_back_bytes(&self) -> usize {
        if !self.pack.carries() {
            return 0;
        }
        let chunk_bytes = u64::from(self.pack.context_length) * self.dtype.num_bytes();
        // Only whole chunks are ever flushed, so what is left over in the buffer is what is left over in the shard.
        (self.current.buffer.len() as u64 % chunk_bytes) as usize
    }

    fn flush(&mut self, num_bytes: usize) -> Result<(), Error> {
        let path = self.temporary(&shard::bin_name(self.number()));
        let current = &mut self.current;
        let bytes = &current.buffer[..num_bytes];
        let mut write = || -> io::Result<File> {
            let mut file = match current.file.take() {
                Some(file) => file,
                None => File::create(&path)?,
            };
            file.write_all(bytes)?;
            Ok(file)
        };
        current.file = Some(write().map_err(|error| Error::io(&path, error))?);
        current.hasher.update(bytes);
        current.written_bytes += num_bytes as u64;
        current.buffer.drain(..num_bytes);
        Ok(())
    }

    fn number(&self) -> u32 {
        self.summary.shards.len() as u32
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.directory.join(format!(".{name}.tmp"))
    }

    fn close_shard(&mut self, last: bool) -> Result<(), Error> {
        let held_back = if last { 0 } else { self.held_back_bytes() };
        self.flush(self.current.buffer.len() - held_back)?;
        let next = self.current.split_off(self.current.written_bytes / self.dtype.num_bytes());
        let plan = sidecar::plan(&self.current.rows, &self.sources, &self.pack, &self.mix)?;
        let number = self.number();
        let header = Header {
            dtype: self.dtype,
            shard: number,
            last,
            num_tokens: self.current.num_tokens,
            num_tail_tokens: plan.num_tail_tokens,
            bin_xxh3: self.current.hasher.digest128(),
            context_length: self.pack.context_length,
            packing: self.pack.to_string(),
            seed: self.pack.seed,
            mix: self.mix.to_json(),
            tokenizer: self.tokenizer.clone(),
        };
        let sidecar = sidecar::bytes(&header, &self.sources, &self.current.rows, Some(&self.current.loss), &plan)?;
        let bin_path = self.commit(&shard::bin_name(number), self.current.file.as_ref())?;
        let sidecar_name = shard::sidecar_name(number);
        let temporary = self.temporary(&sidecar_name);
        let written = File::create(&temporary).and_then(|mut file| file.write_all(&sidecar).map(|()| file));
        let file = written.map_err(|error| Error::io(&temporary, error))?;
        let sidecar_path = self.commit(&sidecar_name, Some(&file))?;
        let shard = WrittenShard {
            bin: bin_path,
            sidecar: sidecar_path,
            num_tokens: header.num_tokens,
            num_chunks: plan.len() as u64,
            bin_xxh3: header.bin_xxh3,
            sidecar_xxh3: xxhash_rust::xxh3::xxh3_128(&sidecar),
        };
        self.summary.add(shard, &plan, |document| part_of_row(&self.current.rows, &self.sources, &self.mix, document));
        self.current = next;
        Ok(())
    }

    /// Brings a temporary file to disk and gives it its name.
    fn commit(&self, name: &str, file: Option<&File>) -> Result<PathBuf, Error> {
        let (temporary, path) = (self.temporary(name), self.directory.join(name));
        let commit = || -> io::Result<()> {
            if let Some(file) = file {
                file.sync_all()?;
            }
            fs::rename(&temporary, &path)?;
            // The rename itself rests on disk only with its folder.
            File::open(&self.directory)?.sync_all()
        };
        commit().map_err(|error| Error::io(&path, error))?;
        Ok(path)
    }
}

impl Summary {
    /// Counts `len` tokens of a document, which has `offset` before them that were counted already.
    pub(crate) fn add_document(&mut self, source: &str, offset: u64, len: u64) {
        if offset == 0 {
            self.num_documents += 1;
        } else if let Entry::Occupied(mut shorter) = self.document_tokens.entry(rounded_length(offset)) {
            *shorter.get_mut() -= 1;
            if *shorter.get() == 0 {
                shorter.remove();
            }
        }
        *self.document_tokens.entry(rounded_length(offset + len)).or_default() += 1;
        *self.source_tokens.entry(source.to_string()).or_default() += len;
    }

    pub(crate) fn add(&mut self, shard: WrittenShard, plan: &Plan, part_of: impl Fn(u64) -> Option<usize>) {
        self.num_tokens += shard.num_tokens;
        self.num_chunks += plan.len() as u64;
        self.num_padding += plan.num_padding;
        self.num_tail_tokens += plan.num_tail_tokens;
        self.shards.push(shard);
        for chunk in plan.chunks() {
            let Some(part) = chunk.first().and_then(|piece| part_of(piece.document)) else { continue };
            if self.part_chunks.len() <= part {
                self.part_chunks.resize(part + 1, 0);
            }
            self.part_chunks[part] += 1;
        }
    }

    /// Checks that the mix can be had, and notes how.
    pub(crate) fn resolve(&mut self, mix: &MixConfig, context_length: u32) -> Result<(), Error> {
        self.parts = mix.resolve(&self.part_chunks, context_length)?;
        self.warnings = warnings(mix, &self.parts);
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        for name in [shard::bin_name(self.number()), shard::sidecar_name(self.number())] {
            // Nothing can be done about a temporary file that stays; the next set removes it.
            let _ = fs::remove_file(self.temporary(&name));
        }
    }
}

impl Current {
    fn add_loss(&mut self, range: Range<u64>) {
        match self.loss.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.loss.push(range),
        }
    }

    /// Keeps the first `at` tokens and gives the next shard, which begins with the rest.
    fn split_off(&mut self, at: u64) -> Self {
        let mut next = Self { buffer: std::mem::take(&mut self.buffer), num_tokens: self.num_tokens - at, ..Self::default() };
        let first = self.rows.partition_point(|row| row.start + row.len <= at);
        for row in self.rows.split_off(first) {
            let kept = at.saturating_sub(row.start);
            next.rows.push(Row { start: row.start + kept - at, offset: row.offset + kept, len: row.len - kept, ..row.clone() });
            if kept > 0 {
                self.rows.push(Row { len: kept, ..row });
            }
        }
        let first = self.loss.partition_point(|range| range.end <= at);
        for range in self.loss.split_off(first) {
            next.add_loss(range.start.max(at) - at..range.end - at);
            self.add_loss(range.start..at.max(range.start));
        }
        self.num_tokens = at;
        next
    }
}

/// Removes the shards of an earlier set, sidecars first: a set without its sidecars is no set.
fn clear(directory: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let plain = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")).unwrap_or(name);
        if shard::parse_sidecar_name(plain).is_some() {
            found.push((0, name.to_string()));
        } else if shard::parse_bin_name(plain).is_some() {
            found.push((1, name.to_string()));
        }
    }
    found.sort();
    found.iter().try_for_each(|(_, name)| fs::remove_file(directory.join(name)))
}

/// The part of the mix that a row belongs to.
pub(crate) fn part_of_row(rows: &[Row], sources: &[String], mix: &MixConfig, row: u64) -> Option<usize> {
    let row = rows.get(usize::try_from(row).ok()?)?;
    mix.part_of(sources.get(row.source as usize)?)
}

fn data(problem: String) -> Error {
    Error::Data(problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Method;
    use arrow::array::Array;
    use arrow::datatypes::UInt64Type;
    use arrow::ipc::reader::FileReader;
    use std::io::Cursor;

    fn identity(vocab_size: u32) -> TokenizerIdentity {
        TokenizerIdentity { name: "test".into(), xxh3: 1, vocab_size, eos_id: 0, bos_id: None, pad_id: 0 }
    }

    fn pack(context_length: u32, method: Method, tail: Tail) -> PackConfig {
        PackConfig { context_length, method, tail, seed: 5 }
    }

    fn write(directory: &Path, vocab_size: u32, pack: PackConfig, shard_bytes: u64, documents: &[Vec<u32>]) -> Summary {
        let mut writer = ShardWriter::create(directory, identity(vocab_size), pack, shard_bytes).unwrap();
        for (number, ids) in documents.iter().enumerate() {
            let source = if number % 2 == 0 { "even" } else { "odd" };
            writer.push(Document { doc_id: &format!("d{number}"), source, ids, loss: None }).unwrap();
        }
        writer.finish().unwrap()
    }

    fn documents(lengths: &[usize]) -> Vec<Vec<u32>> {
        let mut next = 0;
        let mut take = |len: usize| {
            (0..len)
                .map(|_| {
                    next += 1;
                    next
                })
                .collect()
        };
        lengths.iter().map(|&len| take(len)).collect()
    }

    fn read(summary: &Summary) -> Vec<(Vec<u8>, Header, RecordBatch)> {
        let open = |shard: &WrittenShard| {
            let mut reader = FileReader::try_new(Cursor::new(fs::read(&shard.sidecar).unwrap()), None).unwrap();
            shard::expect(&reader.schema()).unwrap();
            let header = Header::from_metadata(reader.schema().metadata()).unwrap();
            let batch = reader.next().unwrap().unwrap();
            assert!(reader.next().is_none() && batch.num_rows() == 1);
            (fs::read(&shard.bin).unwrap(), header, batch)
        };
        summary.shards.iter().map(open).collect()
    }

    fn ids_in(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks(2).map(|pair| u32::from(u16::from_le_bytes([pair[0], pair[1]]))).collect()
    }

    #[test]
    fn carried_tails_give_the_same_chunks_whatever_the_shard_size() {
        let directory = tempfile::tempdir().unwrap();
        let documents = documents(&[5, 1, 0, 11, 7, 3, 2, 9]);
        let all: Vec<u32> = documents.concat();
        for shard_bytes in [8, 20, 32, 1 << 20] {
            let summary = write(directory.path(), 100, pack(4, Method::Concat, Tail::Carry), shard_bytes, &documents);
            let shards = read(&summary);
            let bytes: Vec<u8> = shards.iter().flat_map(|(bytes, _, _)| bytes.clone()).collect();
            assert_eq!(ids_in(&bytes), all, "{shard_bytes}");
            assert_eq!((summary.num_chunks, summary.num_tail_tokens, summary.num_padding), (9, 2, 0), "{shard_bytes}");
            assert_eq!((summary.num_documents, summary.num_tokens), (8, 38));
            assert_eq!(summary.source_tokens, BTreeMap::from([("even".into(), 14), ("odd".into(), 24)]));
            let (last, others) = shards.split_last().unwrap();
            assert!(last.1.last && others.iter().all(|(bytes, header, _)| !header.last && bytes.len() % 8 == 0 && !bytes.is_empty()));
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2 * shards.len(), "nothing else, nothing of the set before");
        }
    }

    #[test]
    fn shards_end_with_documents_where_nothing_is_carried() {
        let directory = tempfile::tempdir().unwrap();
        let documents = documents(&[5, 1, 11, 7, 3]);
        for (method, tail) in [(Method::Concat, Tail::Pad), (Method::Concat, Tail::Drop), (Method::BestFit, Tail::Carry)] {
            let summary = write(directory.path(), 100, pack(4, method, tail), 24, &documents);
            let tokens: Vec<u64> = summary.shards.iter().map(|shard| shard.num_tokens).collect();
            assert_eq!(tokens, [6, 11, 10], "{method:?}");
            let room = summary.num_chunks * 4;
            assert_eq!(room + summary.num_tail_tokens, summary.num_tokens + summary.num_padding, "{method:?} {tail:?}");
        }
    }

    #[test]
    fn type_follows_the_vocabulary() {
        let directory = tempfile::tempdir().unwrap();
        for (vocab_size, num_bytes) in [(65_535, 2), (65_536, 4)] {
            let summary = write(directory.path(), vocab_size, pack(2, Method::Concat, Tail::Pad), 1 << 20, &[vec![vocab_size - 1, 1]]);
            let bytes = fs::read(&summary.shards[0].bin).unwrap();
            assert_eq!(bytes.len(), 2 * num_bytes);
            assert_eq!(bytes[..num_bytes], (vocab_size - 1).to_le_bytes()[..num_bytes]);
        }
        let mut writer = ShardWriter::create(directory.path(), identity(65_536), PackConfig::default(), 1 << 20).unwrap();
        let error = writer.push(Document { doc_id: "d", source: "s", ids: &[1, 65_536], loss: None }).unwrap_err().to_string();
        assert_eq!(error, "document d, token 1: id 65536 is not in the vocabulary of 65536");
    }

    #[test]
    fn loss_ranges_move_with_their_tokens() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::create(directory.path(), identity(100), pack(4, Method::Concat, Tail::Carry), 12).unwrap();
        let ids = [7; 6];
        writer.push(Document { doc_id: "a", source: "s", ids: &ids, loss: Some(&[1..2, 3..6]) }).unwrap();
        writer.push(Document { doc_id: "b", source: "s", ids: &ids, loss: None }).unwrap();
        writer.push(Document { doc_id: "c", source: "s", ids: &ids, loss: Some(&[]) }).unwrap();
        assert!(writer.push(Document { doc_id: "d", source: "s", ids: &ids, loss: Some(&[4..7]) }).is_err());
        let summary = writer.finish().unwrap();
        let mut counted = Vec::new();
        let mut before = 0;
        for (_, header, batch) in read(&summary) {
            let loss = expect::list(&batch, "loss").unwrap();
            if loss.is_null(0) {
                counted.extend(before..before + header.num_tokens);
            } else {
                let spans = loss.value(0);
                let column = |at: usize| spans.as_struct().column(at).as_primitive::<UInt64Type>().values().to_vec();
                counted.extend(column(0).iter().zip(column(1)).flat_map(|(start, len)| before + start..before + start + len));
            }
            before += header.num_tokens;
        }
        assert_eq!(counted, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn bytes_depend_on_documents_alone_and_an_abandoned_set_leaves_nothing() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let documents = documents(&[50, 3, 0, 20]);
        let config = || pack(8, Method::BestFit, Tail::Pad);
        let hashes = |directory: &Path| -> Vec<(u128, u128)> {
            let summary = write(directory, 100, config(), 120, &documents);
            summary.shards.iter().map(|shard| (shard.bin_xxh3, shard.sidecar_xxh3)).collect()
        };
        assert_eq!(hashes(first.path()), hashes(second.path()));
        let mut writer = ShardWriter::create(first.path(), identity(100), config(), 1 << 20).unwrap();
        let ids = vec![1; FLUSH_BYTES];
        writer.push(Document { doc_id: "a", source: "s", ids: &ids, loss: None }).unwrap();
        assert_eq!(fs::read_dir(first.path()).unwrap().count(), 1, "tokens go to a temporary file as they come");
        drop(writer);
        assert_eq!(fs::read_dir(first.path()).unwrap().count(), 0);
    }

    #[test]
    fn settings_are_checked_and_an_empty_set_is_one_empty_shard() {
        let directory = tempfile::tempdir().unwrap();
        let create = |pack, shard_bytes| ShardWriter::create(directory.path(), identity(100), pack, shard_bytes).map(|_| ());
        assert!(create(pack(1, Method::Concat, Tail::Pad), 1 << 20).is_err());
        assert!(create(pack(8, Method::Concat, Tail::Pad), 15).is_err());
        let summary = write(directory.path(), 100, PackConfig::default(), 1 << 20, &[]);
        assert_eq!(summary.shards.len(), 1);
        assert_eq!(fs::read(&summary.shards[0].bin).unwrap().len(), 0);
    }
}
