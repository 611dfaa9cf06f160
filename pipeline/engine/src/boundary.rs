//! Boundaries: where a stage's rows come to rest as Parquet, which is where a run that was stopped goes on.
//!
//! A table is written to `NAME.partial/` and renamed when whole; then a marker in `work/done/` says which recipe and inputs it stands
//! for. A crash leaves either no marker, and the stage runs again, or everything. Bytes do not depend on how rows came in batches: rows
//! are cut into blocks, row groups and parts by their number and text bytes alone.

use crate::error::Error;
use crate::tables::Table;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use osler_schemas::expect;
use osler_schemas::manifest::{Input, StageRow};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use xxhash_rust::xxh3::Xxh3;

/// Rows after which a block is encoded.
const BLOCK_ROWS: usize = 4096;
/// Text bytes after which a block is encoded and its row group closed: what a reader has to hold at once.
const ROW_GROUP_BYTES: usize = 16 << 20;
/// Rows after which a row group is closed.
const ROW_GROUP_ROWS: usize = 1 << 17;
/// Text bytes after which a new part is begun.
const PART_BYTES: usize = 512 << 20;

/// What stands in a stage's marker.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Hash of everything the stage's output depends on.
    pub fingerprint: String,
    /// The files, relative to the run's folder, with their sizes.
    pub files: Vec<(String, u64)>,
    /// Rows for the manifest; a boundary may stand for several stages.
    pub stages: Vec<StageRow>,
    /// Files read, for the stage that reads.
    pub inputs: Vec<Input>,
    /// What later stages and the report want to know.
    #[serde(default)]
    pub facts: serde_json::Value,
}

/// The run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    pub root: PathBuf,
}

impl RunFolder {
    /// A path below the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn marker(&self, stage: &str) -> PathBuf {
        self.root.join("work/done").join(format!("{stage}.json"))
    }

    /// The marker of a stage that is finished for this fingerprint, its files still there in full.
    pub fn finished(&self, stage: &str, fingerprint: &str) -> Option<Done> {
        self.done(stage).filter(|done| done.fingerprint == fingerprint)
    }

    /// The marker of a stage that is finished for whatever recipe, its files still there in full.
    pub fn done(&self, stage: &str) -> Option<Done> {
        let done: Done = serde_json::from_slice(&fs::read(self.marker(stage)).ok()?).ok()?;
        let intact = done.files.iter().all(|(name, size)| fs::metadata(self.path(name)).is_ok_and(|file| file.len() == *size));
        intact.then_some(done)
    }

    /// Removes a stage's marker and what an interrupted run left of its tables.
    ///
    /// # Errors
    /// When a leftover cannot be removed.
    pub fn begin(&self, stage: &str, tables: &[Table]) -> Result<(), Error> {
        remove(&self.marker(stage))?;
        for table in tables {
            remove(&self.partial(table.folder))?;
        }
        Ok(())
    }

    /// Notes that a stage is finished.
    ///
    /// # Errors
    /// When the marker cannot be written.
    pub fn finish(&self, stage: &str, done: &Done) -> Result<(), Error> {
        write_atomically(&self.marker(stage), &serde_json::to_vec_pretty(done).unwrap_or_default())
    }

    /// Puts a table written to `TABLE.partial/` in its place and gives its files with sizes and one hash over their bytes in name order.
    ///
    /// # Errors
    /// When files cannot be renamed or read.
    pub fn publish(&self, table: &Table) -> Result<(Vec<(String, u64)>, String), Error> {
        self.publish_folder(table.folder)
    }

    /// As [`RunFolder::publish`], for a folder whose files are no table.
    ///
    /// # Errors
    /// When files cannot be renamed or read.
    pub fn publish_folder(&self, name: &str) -> Result<(Vec<(String, u64)>, String), Error> {
        let (partial, place) = (self.partial(name), self.path(name));
        sync_folder(&partial)?;
        remove(&place)?;
        fs::rename(&partial, &place).map_err(|error| Error::io(&place, error))?;
        if let Some(parent) = place.parent() {
            sync_folder(parent)?;
        }
        self.files(name)
    }

    /// Where a folder of this name is written until it is whole.
    pub fn partial(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.partial"))
    }

    /// A folder's files, relative to the run's folder, with sizes, and one hash over their bytes in name order.
    ///
    /// # Errors
    /// When files cannot be read.
    pub fn files(&self, folder: &str) -> Result<(Vec<(String, u64)>, String), Error> {
        let place = self.path(folder);
        let mut files = Vec::new();
        for entry in fs::read_dir(&place).map_err(|error| Error::io(&place, error))? {
            let entry = entry.map_err(|error| Error::io(&place, error))?;
            let size = entry.metadata().map_err(|error| Error::io(&entry.path(), error))?.len();
            files.push((format!("{folder}/{}", entry.file_name().to_string_lossy()), size));
        }
        files.sort();
        let mut hasher = Xxh3::new();
        for (name, _) in &files {
            hash_file(&self.path(name), &mut hasher)?;
        }
        Ok((files, format!("{:032x}", hasher.digest128())))
    }
}

/// Writes a table of one schema in parts. Rows are gathered here and encoded on a thread of their own.
pub struct TableWriter {
    schema: SchemaRef,
    text_column: Option<usize>,
    block: Vec<RecordBatch>,
    block_rows: usize,
    block_bytes: usize,
    encoder: Encoder,
}

impl TableWriter {
    /// Begins `TABLE.partial/`. A table without rows still gets one part, so that readers find its schema.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(folder: &RunFolder, table: &Table) -> Result<Self, Error> {
        let (folder, schema) = (folder.partial(table.folder), (table.schema)());
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        let text_column = schema.index_of("text").ok();
        let encoder = Encoder::spawn(Parts::new(folder, schema.clone(), text_column.is_some())?);
        Ok(Self { schema, text_column, block: Vec::new(), block_rows: 0, block_bytes: 0, encoder })
    }

    /// Adds the rows of `batch`, of whose columns the table's are taken by name.
    ///
    /// # Errors
    /// When a column is missing or of another type, or the disk did not take rows given before.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let columns = expect::columns(batch, &self.schema).map_err(|error| Error::Internal(format!("a table's rows: {error}")))?;
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| Error::Internal(error.to_string()))?;
        let text = self.text_column.map(|index| batch.column(index).as_string::<i32>().clone());
        let mut start = 0;
        for row in 0..batch.num_rows() {
            self.block_rows += 1;
            self.block_bytes += text.as_ref().map_or(0, |text| text.value_length(row) as usize);
            if self.block_rows == BLOCK_ROWS || self.block_bytes >= ROW_GROUP_BYTES {
                self.block.push(batch.slice(start, row + 1 - start));
                start = row + 1;
                self.write_block()?;
            }
        }
        if start < batch.num_rows() {
            self.block.push(batch.slice(start, batch.num_rows() - start));
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<(), Error> {
        let rows = concat_batches(&self.schema, &self.block).map_err(|error| Error::Internal(error.to_string()))?;
        self.block.clear();
        let num_bytes = std::mem::take(&mut self.block_bytes);
        self.block_rows = 0;
        self.encoder.send(Some(Block { rows, num_bytes }))
    }

    /// Writes what is left; the table is whole but still under its partial name.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(mut self) -> Result<(), Error> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        self.encoder.send(None)?;
        self.encoder.outcome()
    }
}

/// Rows that are encoded in one go, and their bytes of text.
struct Block {
    rows: RecordBatch,
    num_bytes: usize,
}

/// The thread that encodes. It ends when it is told that nothing follows, or when its table is given up.
struct Encoder {
    blocks: Option<SyncSender<Option<Block>>>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Encoder {
    fn spawn(mut parts: Parts) -> Self {
        let (blocks, queue) = sync_channel::<Option<Block>>(1);
        let work = move || {
            while let Ok(next) = queue.recv() {
                let Some(block) = next else { return parts.close() };
                parts.write(&block)?;
            }
            Ok(())
        };
        Self { blocks: Some(blocks), thread: Some(std::thread::spawn(work)) }
    }

    fn send(&mut self, block: Option<Block>) -> Result<(), Error> {
        let sent = self.blocks.as_ref().is_some_and(|blocks| blocks.send(block).is_ok());
        // Nobody takes blocks any more once one could not be written.
        if sent { Ok(()) } else { self.outcome().and(Err(Error::Internal("a table was written to after its end".into()))) }
    }

    fn outcome(&mut self) -> Result<(), Error> {
        self.blocks = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(Error::Internal("the encoding of a table ended early".into())))
    }
}

impl Drop for Encoder {
    /// A table given up is not written to any more once this is over.
    fn drop(&mut self) {
        let _ = self.outcome();
    }
}

/// The files of a table.
struct Parts {
    folder: PathBuf,
    schema: SchemaRef,
    has_text: bool,
    writer: Option<ArrowWriter<File>>,
    part: usize,
    group_rows: usize,
    part_bytes: usize,
}

impl Parts {
    fn new(folder: PathBuf, schema: SchemaRef, has_text: bool) -> Result<Self, Error> {
        let mut parts = Self { folder, schema, has_text, writer: None, part: 0, group_rows: 0, part_bytes: 0 };
        parts.open()?;
        Ok(parts)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("part-{:05}.parquet", self.part))
    }

    fn open(&mut self) -> Result<(), Error> {
        let path = self.path();
        let file = File::create(&path).map_err(|error| Error::io(&path, error))?;
        self.writer =
            Some(ArrowWriter::try_new(file, self.schema.clone(), Some(properties())).map_err(|error| Error::parquet(&path, error))?);
        Ok(())
    }

    fn write(&mut self, block: &Block) -> Result<(), Error> {
        let path = self.path();
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        let fault = |error| Error::parquet(&path, error);
        writer.write(&block.rows).map_err(fault)?;
        self.group_rows += block.rows.num_rows();
        self.part_bytes += block.num_bytes;
        // Measured from the part's start, so that it depends on rows alone.
        if block.num_bytes >= ROW_GROUP_BYTES || self.group_rows >= ROW_GROUP_ROWS || self.has_text {
            writer.flush().map_err(fault)?;
            self.group_rows = 0;
        }
        if self.part_bytes >= PART_BYTES {
            self.close()?;
            self.part += 1;
            self.part_bytes = 0;
            self.open()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        let path = self.path();
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let file = writer.into_inner().map_err(|error| Error::parquet(&path, error))?;
        file.sync_all().map_err(|error| Error::io(&path, error))
    }
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_max_row_group_row_count(Some(usize::MAX))
        .set_created_by("osler".to_string())
        .build()
}

/// Encodes batches, all of one schema, as tables are, and gives the bytes they come to.
///
/// # Errors
/// When a batch cannot be encoded.
pub fn encoded_bytes(batches: &[RecordBatch]) -> Result<usize, Error> {
    let Some(first) = batches.first() else { return Ok(0) };
    let fault = |error| Error::parquet(Path::new("a sample"), error);
    let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), Some(properties())).map_err(fault)?;
    batches.iter().try_for_each(|batch| writer.write(batch)).map_err(fault)?;
    Ok(writer.into_inner().map_err(fault)?.len())
}

/// Writes a small file whole or not at all.
///
/// # Errors
/// When the disk does not take it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let fault = |error| Error::io(path, error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(fault)?;
    }
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial).map_err(fault)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fault)?;
    fs::rename(&partial, path).map_err(fault)?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| Error::io(path, error))
}

/// Removes a file or folder, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    let result = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(|error| Error::io(path, error))
}

fn hash_file(path: &Path, hasher: &mut Xxh3) -> Result<(), Error> {
    let mut file = File::open(path).map_err(|error| Error::io(path, error))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(|error| Error::io(path, error))?;
        if read == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..read]);
    }
}
