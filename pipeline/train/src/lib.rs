//! The trainer. For now: the batches it reads, from the loader of token shards.

pub use osler_tokens::loader::{Batch, Loader, LoaderError, Share, State};
pub use osler_tokens::{Chunk, Expectations, Order, ShardError, ShardSet, Tokens};
