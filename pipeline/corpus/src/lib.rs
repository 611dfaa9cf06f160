//! What happens to documents: the operators of the corpus pipeline and the algorithms inside them. Knows Arrow, and no engine.

pub mod exact_duplicates;
pub mod length_filter;
pub mod near_duplicates;
pub mod operator;
pub mod tokenize;
pub mod train_tokenizer;

pub use operator::{Error, Operator, Sink};
