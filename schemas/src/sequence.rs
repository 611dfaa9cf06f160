//! Packed sequences: chunks of the token stream, each of one context length, and the pieces of documents in them.

use crate::versioned;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use std::sync::{Arc, LazyLock};

/// Version of [`document_tokens_schema`].
pub const VERSION: u32 = 1;

/// One row per document after tokenisation: its ids, end-of-document token included.
pub fn document_tokens_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "document-tokens",
            VERSION,
            vec![
                Field::new("doc_id", DataType::Utf8, false),
                Field::new("source", DataType::Utf8, false),
                Field::new("input_ids", DataType::List(Arc::new(Field::new_list_field(DataType::UInt32, false))), false),
            ],
        )
    });
    SCHEMA.clone()
}

/// One piece of a document inside a chunk: the tokens `[start, start + len)` of the shard's stream, from token `offset` of the document.
/// `document` is a position among the shard's documents, `source` among its sources.
pub fn piece_fields() -> Fields {
    Fields::from(vec![
        Field::new("document", DataType::UInt64, false),
        Field::new("offset", DataType::UInt64, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("len", DataType::UInt32, false),
        Field::new("source", DataType::UInt32, false),
    ])
}
