//! Token shards: packed, mixed, written, read, packed again, and exchanged with other tools.
//!
//! The token stream is written once ([`ShardWriter`]); which tokens make which chunk ([`pack`]) and which chunks a run is given in what
//! order ([`mix`], [`order`]) are plans beside it, so that both can change without a token being moved ([`repack()`]). [`ShardSet`] is
//! the reader, [`Loader`] gives a trainer its batches, [`exchange`] the formats of other trainers, [`schedule`] the arithmetic between tokens and training steps.

mod error;
pub mod exchange;
pub mod loader;
pub mod mix;
pub mod order;
pub mod pack;
mod repack;
pub mod schedule;
pub mod shards;
mod sidecar;
pub mod stream;
pub mod writer;

pub use error::Error;
pub use loader::Loader;
pub use mix::MixConfig;
pub use order::Order;
pub use pack::PackConfig;
pub use repack::repack;
pub use schedule::Schedule;
pub use shards::{Chunk, Expectations, ShardError, ShardSet, Tokens};
pub use writer::{Document, ShardWriter, Summary};
