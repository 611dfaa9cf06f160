//! What the stage may use: threads, memory, and disk for what does not fit. None of it changes the result.

use super::STAGE;
use crate::operator::Error;
use memmap2::MmapMut;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Threads, memory and disk of a run.
#[derive(Clone)]
pub struct Resources {
    pub threads: usize,
    /// Memory for text and index together, which the sparse engine keeps to where there is a `scratch` folder.
    pub memory_bytes: u64,
    /// An existing folder for what does not fit in memory; files in it have no name, and go with the process.
    pub scratch: Option<PathBuf>,
    /// Asked now and then; once it says yes, the stage ends with [`Error::Closed`].
    pub should_stop: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Default for Resources {
    /// One thread, and all in memory.
    fn default() -> Self {
        Self { threads: 1, memory_bytes: u64::MAX, scratch: None, should_stop: Arc::new(|| false) }
    }
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { threads, memory_bytes, scratch, .. } = self;
        f.debug_struct("Resources").field("threads", threads).field("memory_bytes", memory_bytes).field("scratch", scratch).finish()
    }
}

impl Resources {
    /// # Errors
    /// [`Error::Closed`] when the run should stop.
    pub(super) fn go_on(&self) -> Result<(), Error> {
        if (self.should_stop)() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Bytes of text that stay in memory; more go to a file.
    pub(super) fn text_bytes(&self) -> usize {
        let share = if self.scratch.is_some() { self.memory_bytes / 3 } else { u64::MAX };
        usize::try_from(share).unwrap_or(usize::MAX)
    }

    /// Bytes of the index that stay in memory.
    pub(super) fn index_bytes(&self) -> u64 {
        if self.scratch.is_some() { self.memory_bytes / 3 } else { u64::MAX }
    }

    /// Runs `work` on every thread, and gives what each came to.
    pub(super) fn on_threads<T: Send>(&self, work: impl Fn() -> Result<T, Error> + Sync) -> Result<Vec<T>, Error> {
        if self.threads <= 1 {
            return work().map(|result| vec![result]);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(&work)).collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            results.collect()
        })
    }
}

/// Work that threads share: each takes some of it at a time, in order.
#[derive(Debug)]
pub(super) struct Queue<I>(Mutex<I>);

impl<I: Iterator> Queue<I> {
    pub(super) fn new(work: impl IntoIterator<IntoIter = I>) -> Self {
        Self(Mutex::new(work.into_iter()))
    }

    /// The next `count`; none where all is taken.
    pub(super) fn take(&self, count: usize) -> Vec<I::Item> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_ref().take(count).collect()
    }
}

/// A file without a name in `folder`, open for reading and writing.
pub(super) fn scratch_file(folder: &Path) -> Result<File, Error> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let path = folder.join(format!("exact-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(|source| io(&path, source))?;
    // The space is given back when the file is closed, however the process ends.
    std::fs::remove_file(&path).map_err(|source| io(&path, source))?;
    Ok(file)
}

/// Zeros in a file without a name in `folder`, mapped for reading and writing.
pub(super) fn scratch_map(folder: &Path, num_bytes: u64) -> Result<MmapMut, Error> {
    let file = scratch_file(folder)?;
    file.set_len(num_bytes).map_err(|source| io(folder, source))?;
    // SAFETY: the file is ours, and was removed from its folder when it was made: nothing else changes the mapping.
    unsafe { MmapMut::map_mut(&file) }.map_err(|source| io(folder, source))
}

pub(super) fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { operator: STAGE, path: path.display().to_string(), source }
}

/// A scratch file that several threads append to and read from.
#[derive(Debug)]
pub(super) struct SpillFile {
    folder: PathBuf,
    file: Mutex<(File, u64)>,
}

impl SpillFile {
    pub(super) fn new(folder: &Path) -> Result<Self, Error> {
        Ok(Self { folder: folder.to_path_buf(), file: Mutex::new((scratch_file(folder)?, 0)) })
    }

    /// Appends `bytes`, and says where they begin.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<u64, Error> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, end) = &mut *guard;
        let start = *end;
        file.seek(SeekFrom::Start(start)).and_then(|_| file.write_all(bytes)).map_err(|source| io(&self.folder, source))?;
        *end += bytes.len() as u64;
        Ok(start)
    }

    /// Fills `bytes` from `start` on.
    pub(super) fn read(&self, start: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = &mut guard.0;
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(bytes)).map_err(|source| io(&self.folder, source))
    }
}
