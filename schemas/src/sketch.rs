//! Sketches: what near-duplicate detection keeps of a document, which is its band keys and never its signature.

use crate::versioned;
use arrow::datatypes::{DataType, Field, SchemaRef};
use std::sync::LazyLock;

/// Version of [`band_schema`], [`ordinal_schema`] and [`pair_schema`].
pub const VERSION: u32 = 1;

/// One row per band of a document: `key` hashes the band's number and its rows of the signature, so equal keys propose a pair.
pub fn band_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned("bands", VERSION, vec![Field::new("key", DataType::UInt64, false), Field::new("ordinal", DataType::UInt64, false)])
    });
    SCHEMA.clone()
}

/// One row per document that is passed over, by ordinal.
pub fn ordinal_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> =
        LazyLock::new(|| versioned("ordinals", VERSION, vec![Field::new("ordinal", DataType::UInt64, false)]));
    SCHEMA.clone()
}

/// One row per candidate pair, `left < right` by ordinal; `jaccard` is exact, over the shingle sets.
pub fn pair_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "pairs",
            VERSION,
            vec![
                Field::new("left", DataType::UInt64, false),
                Field::new("right", DataType::UInt64, false),
                Field::new("jaccard", DataType::Float64, false),
            ],
        )
    });
    SCHEMA.clone()
}
