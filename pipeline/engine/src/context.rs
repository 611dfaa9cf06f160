//! What operators of one run share and a plan does not carry: opened stores, progress and cancellation.

use datafusion::error::{DataFusionError, Result};
use osler_corpus::tokenize::Tokenizer;
use osler_datasets::open::Stores;
use osler_schemas::manifest::Input;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Told what a run is doing; the command line draws it.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// A stage begins; `total_bytes` is what [`Progress::advance`] will add up to, 0 when unknown.
    fn start(&self, stage: &str, total_bytes: u64);
    /// Bytes done since the last call. Called from any thread.
    fn advance(&self, num_bytes: u64);
    /// The stage ends; `skipped` when an earlier run had finished it.
    fn finish(&self, stage: &str, skipped: bool);
}

/// Progress for those who want none.
#[derive(Debug)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _stage: &str, _total_bytes: u64) {}
    fn advance(&self, _num_bytes: u64) {}
    fn finish(&self, _stage: &str, _skipped: bool) {}
}

/// Shared by all operators of a run.
pub struct Context {
    pub stores: Arc<Stores>,
    pub progress: Arc<dyn Progress>,
    pub cancelled: Arc<AtomicBool>,
    inputs: Mutex<Vec<Input>>,
    /// Tokenizers that are loaded already, by the file that operators name.
    tokenizers: Mutex<BTreeMap<PathBuf, Arc<Tokenizer>>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Context {
    /// A context with no inputs read yet.
    pub fn new(stores: Arc<Stores>, progress: Arc<dyn Progress>, cancelled: Arc<AtomicBool>) -> Self {
        Self { stores, progress, cancelled, inputs: Mutex::default(), tokenizers: Mutex::default() }
    }

    /// Keeps a loaded tokenizer for the operators that name its file.
    pub(crate) fn keep_tokenizer(&self, file: &Path, tokenizer: Arc<Tokenizer>) {
        self.tokenizers.lock().unwrap_or_else(PoisonError::into_inner).insert(file.to_path_buf(), tokenizer);
    }

    /// The tokenizer of a file, where it is loaded already.
    pub(crate) fn tokenizer(&self, file: &Path) -> Option<Arc<Tokenizer>> {
        self.tokenizers.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned()
    }

    /// Notes a file that was read whole.
    pub(crate) fn read_input(&self, input: Input) {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).push(input);
    }

    /// The files read since the last call, sorted by source and path.
    pub(crate) fn take_inputs(&self) -> Vec<Input> {
        let mut inputs = std::mem::take(&mut *self.inputs.lock().unwrap_or_else(PoisonError::into_inner));
        inputs.sort_by(|left, right| (&left.source, &left.path).cmp(&(&right.source, &right.path)));
        inputs
    }

    pub(crate) fn advance(&self, num_bytes: u64) {
        if num_bytes > 0 {
            self.progress.advance(num_bytes);
        }
    }

    /// # Errors
    /// When somebody asked the run to stop.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(DataFusionError::External(Box::new(Cancelled)));
        }
        Ok(())
    }
}

/// The run was asked to stop; what is finished stays, and the same command goes on from there.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request; the same command goes on from here")]
pub struct Cancelled;
