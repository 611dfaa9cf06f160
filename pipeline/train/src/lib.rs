//! The trainer: the memory-mapped loader of token shards, models with their forward and backward passes, and the optimiser.

pub mod model;
pub mod optimiser;
pub mod order;
pub mod random;
pub mod schedule;
pub mod shards;
pub mod trainer;

pub use model::{Batch, Config, Model, ModelError};
pub use shards::{Chunk, Expectations, ShardError, ShardSet, Tokens};
