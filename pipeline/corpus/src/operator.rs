//! What an operator is: a small synchronous thing that takes batches and gives batches.
//!
//! The engine owns threads, files, memory and cancellation; an operator owns its algorithm, which is a free function beside it that can
//! be tested and benched alone.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use osler_schemas::SchemaError;
use std::ops::ControlFlow;

/// One step of a chain.
pub trait Operator: Send {
    /// The name users see in plans, progress and reports.
    fn name(&self) -> &'static str;

    /// Schema of every batch this operator gives out.
    fn output_schema(&self) -> SchemaRef;

    /// Takes one batch, and gives what it can to `out`.
    ///
    /// # Errors
    /// [`Error`] when the batch is not what the operator needs, or `out` is closed.
    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error>;

    /// Gives what is left; a blocking operator gives everything here.
    ///
    /// # Errors
    /// As for [`Operator::push`].
    fn finish(&mut self, out: &mut dyn Sink) -> Result<(), Error>;

    /// Bytes of memory the operator holds now; the engine reserves them from the budget.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Where an operator's batches go.
pub trait Sink {
    /// Takes one batch. `Break` means that nobody wants more: the operator returns [`Error::Closed`].
    fn push(&mut self, batch: RecordBatch) -> ControlFlow<()>;
}

impl Sink for Vec<RecordBatch> {
    fn push(&mut self, batch: RecordBatch) -> ControlFlow<()> {
        Vec::push(self, batch);
        ControlFlow::Continue(())
    }
}

/// Gives `batch` to `out`.
///
/// # Errors
/// [`Error::Closed`] when nobody wants more.
pub fn give(out: &mut dyn Sink, batch: RecordBatch) -> Result<(), Error> {
    match out.push(batch) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Closed),
    }
}

/// Why an operator stopped. No variant carries document text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The consumer went away; not a fault.
    #[error("nobody reads the output any more")]
    Closed,
    /// A setting that cannot work.
    #[error("{operator}: `{setting}` {problem}")]
    Config { operator: &'static str, setting: &'static str, problem: String },
    /// A batch of the wrong shape.
    #[error("{operator}")]
    Schema { operator: &'static str, source: SchemaError },
    /// The data is such that going on would do harm; says what and what to do.
    #[error("{operator}: {problem}")]
    Data { operator: &'static str, problem: String },
    /// A file the operator needs could not be read or written.
    #[error("{operator}: {path}")]
    Io { operator: &'static str, path: String, source: std::io::Error },
    /// A batch could not be built.
    #[error("{operator}: building a batch")]
    Arrow { operator: &'static str, source: ArrowError },
}
