//! Why a run stopped: the user's input, recipe, data or disk (exit code 2), a request to stop, or a fault of ours (exit code 3).

use crate::context::Cancelled;
use crate::recipe::RecipeError;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use osler_corpus::operator;
use parquet::errors::ParquetError;
use std::path::{Path, PathBuf};

/// Everything that can end a run early. No variant carries document text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Input, data or settings that the user can mend.
    #[error("{0}")]
    User(String),
    #[error("{}: {}", path.display(), source)]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: {}", path.display(), source)]
    Parquet { path: PathBuf, source: ParquetError },
    #[error("{}: {}", path.display(), source)]
    Arrow { path: PathBuf, source: ArrowError },
    #[error("stopped on request; the same command goes on from here")]
    Cancelled,
    /// Broken records passed `max_rejected`.
    #[error("{count} broken records, more than `max_rejected` = {limit} allows; most of them: {most}")]
    TooManyRejected { count: u64, limit: u64, most: String },
    /// A check of our own failed.
    #[error("this is a fault of Osler, please report it: {0}")]
    Internal(String),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(crate) fn parquet(path: &Path, source: ParquetError) -> Self {
        Self::Parquet { path: path.to_path_buf(), source }
    }

    pub(crate) fn arrow(path: &Path, source: ArrowError) -> Self {
        Self::Arrow { path: path.to_path_buf(), source }
    }

    /// Exit code of the program: 2 for what the user can mend, 3 for a fault of ours, 130 for a request to stop.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Internal(_) | Self::Arrow { .. } => 3,
            Self::Cancelled => 130,
            _ => 2,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("the disk is full: free space, then run the same command again; it goes on where it stopped".into())
            }
            Self::Parquet { source, .. } if source.to_string().contains("os error 28") => {
                Some("the disk is full: free space, then run the same command again; it goes on where it stopped".into())
            }
            _ => None,
        }
    }
}

impl From<osler_tokens::Error> for Error {
    fn from(error: osler_tokens::Error) -> Self {
        match error {
            osler_tokens::Error::Io { path, source } => Self::Io { path, source },
            osler_tokens::Error::Schema(_) | osler_tokens::Error::Arrow(_) => Self::Internal(error.to_string()),
            other => Self::User(crate::parse::chain(&other)),
        }
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::classify(&error)
    }
}

impl Error {
    /// Whose fault it is, and what to say. Messages of computations are not passed on where they may quote values.
    fn classify(error: &DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => {
                if inner.is::<Cancelled>() {
                    return Self::Cancelled;
                }
                match inner.downcast_ref::<operator::Error>() {
                    Some(operator::Error::Closed) => Self::Cancelled,
                    Some(operator::Error::Data { operator, problem }) => Self::User(format!("{operator}: {problem}")),
                    Some(operator::Error::Io { operator, path, source }) => Self::User(format!("{operator}: {path}: {source}")),
                    Some(error @ operator::Error::Config { .. }) => Self::User(error.to_string()),
                    Some(error) => Self::Internal(crate::parse::chain(error)),
                    None => Self::Internal(inner.to_string()),
                }
            }
            DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => Self::classify(inner),
            DataFusionError::Shared(inner) => Self::classify(inner),
            other if other.to_string().contains("os error 28") => Self::User(format!("the disk is full: {}", other.strip_backtrace())),
            DataFusionError::ResourcesExhausted(message) => {
                Self::User(format!("the memory budget does not suffice; raise `memory` or lower `threads` ({message})"))
            }
            DataFusionError::IoError(source) => Self::User(format!("reading or spilling: {source}")),
            DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
                ArrowError::DivideByZero => Self::User("an SQL expression divides by zero".into()),
                ArrowError::CastError(_) | ArrowError::ParseError(_) | ArrowError::ComputeError(_) | ArrowError::ArithmeticOverflow(_) => {
                    Self::User(
                        "an SQL expression cannot be computed for some row: a cast, a number out of range, or a malformed value".into(),
                    )
                }
                other => Self::Internal(other.to_string()),
            },
            DataFusionError::SQL(..) | DataFusionError::SchemaError(..) | DataFusionError::Plan(_) | DataFusionError::NotImplemented(_) => {
                Self::User(error.strip_backtrace())
            }
            DataFusionError::Execution(_) => Self::User("an SQL expression cannot be computed for some row".into()),
            other => Self::Internal(other.strip_backtrace()),
        }
    }
}
