//! Why shards were not written, packed again or exchanged.

use crate::mix::MixError;
use crate::shards::ShardError;
use arrow::error::ArrowError;
use osler_schemas::SchemaError;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong, where, and how to mend it. No variant carries document text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work.
    #[error("`{setting}`: {problem}")]
    Setting { setting: &'static str, problem: String },
    /// A document or file that is not what it has to be.
    #[error("{0}")]
    Data(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("a batch of token ids is not what it has to be: {0}")]
    Schema(#[from] SchemaError),
    #[error("a sidecar cannot be built: {0}")]
    Arrow(#[from] ArrowError),
    #[error(transparent)]
    Shard(#[from] ShardError),
    #[error(transparent)]
    Mix(#[from] MixError),
}

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
