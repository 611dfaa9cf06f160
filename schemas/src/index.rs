//! The index of a run: what near-duplicate detection needs of its documents to find them again in new ones, and no text.

use crate::versioned;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use std::sync::{Arc, LazyLock};

/// Version of [`band_schema`], [`document_schema`] and [`against_schema`].
pub const VERSION: u32 = 1;

/// Band keys, ascending, with at most 16 documents each.
pub fn band_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "index-bands",
            VERSION,
            vec![Field::new("band", DataType::UInt64, false), Field::new("document", DataType::UInt64, false)],
        )
    });
    SCHEMA.clone()
}

/// The documents that were compared, one of each group of exact copies.
pub fn document_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "index-documents",
            VERSION,
            vec![
                // Number within the index.
                Field::new("document", DataType::UInt64, false),
                Field::new("doc_id", DataType::Utf8, false),
                // The document that stands for it in its corpus; its own id where it stands for itself.
                Field::new("keeper_id", DataType::Utf8, false),
                // XXH3-128 of the text, as 32 hexadecimal digits.
                Field::new("content_hash", DataType::Utf8, false),
                Field::new("num_bytes", DataType::UInt64, false),
                // Hashes of the distinct shingles, ascending.
                Field::new("shingles", DataType::List(shingle_field()), false),
            ],
        )
    });
    SCHEMA.clone()
}

/// Element of `shingles`.
pub fn shingle_field() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::UInt64, false))
}

/// New documents that an index has already; `jaccard` is that of the partner.
pub fn against_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "against",
            VERSION,
            vec![
                Field::new("ordinal", DataType::UInt64, false),
                Field::new("partner_id", DataType::Utf8, false),
                Field::new("keeper_id", DataType::Utf8, false),
                Field::new("jaccard", DataType::Float64, false),
                // `exact-copy` or `near-duplicate`.
                Field::new("reason", DataType::Utf8, false),
            ],
        )
    });
    SCHEMA.clone()
}
