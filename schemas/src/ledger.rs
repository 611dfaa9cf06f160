//! The ledger: one row for everything removed, with its reason and partner, and never any of its text.

use crate::versioned;
use arrow::datatypes::{DataType, Field, SchemaRef};
use std::sync::LazyLock;

/// Version of [`schema`].
pub const VERSION: u32 = 1;

/// The rows of `ledger/part-*.parquet`.
///
/// Spans are UTF-8 byte offsets `[span_start, span_end)` in the document's text as the stage saw it; a row without a span removed the
/// whole record. `partner_id` is the document that stands for the removed one, or that holds the kept copy of the span, which begins
/// there at byte `partner_start`. `score` is the exact Jaccard similarity for near-duplicates.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "ledger",
            VERSION,
            vec![
                Field::new("doc_id", DataType::Utf8, false),
                Field::new("source", DataType::Utf8, false),
                Field::new("origin", DataType::Utf8, false),
                Field::new("stage", DataType::Utf8, false),
                Field::new("reason", DataType::Utf8, false),
                Field::new("detail", DataType::Utf8, true),
                Field::new("partner_id", DataType::Utf8, true),
                Field::new("partner_start", DataType::UInt64, true),
                Field::new("score", DataType::Float64, true),
                Field::new("span_start", DataType::UInt64, true),
                Field::new("span_end", DataType::UInt64, true),
            ],
        )
    });
    SCHEMA.clone()
}
