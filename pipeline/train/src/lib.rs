//! The trainer. For now: the memory-mapped loader of token shards.

pub mod order;
pub mod shards;

pub use shards::{Chunk, Expectations, ShardError, ShardSet, Tokens};
