//! The trainer: models with their forward and backward passes, the optimiser, the training loop, and the shards it reads.

pub mod model;
pub mod optimiser;
pub mod random;
pub mod schedule;
pub mod trainer;

pub use model::{Config, Model, ModelError};
pub use osler_tokens::loader::{Loader, LoaderError, Share, State};
pub use osler_tokens::{Chunk, Expectations, Order, ShardError, ShardSet, Tokens};
