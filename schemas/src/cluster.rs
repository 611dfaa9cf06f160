//! Clusters: which document stands for which.

use crate::versioned;
use arrow::datatypes::{DataType, Field, SchemaRef};
use std::sync::LazyLock;

/// Version of [`schema`].
pub const VERSION: u32 = 1;

/// One row per member of a cluster of two or more documents, the keeper among them (`ordinal == keeper`, `jaccard` 1).
/// `partner` is the member that `jaccard` compares with: the keeper where the two were compared, else the most similar neighbour.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "clusters",
            VERSION,
            vec![
                Field::new("ordinal", DataType::UInt64, false),
                Field::new("keeper", DataType::UInt64, false),
                Field::new("partner", DataType::UInt64, false),
                Field::new("jaccard", DataType::Float64, false),
                // `exact-copy` or `near-duplicate`.
                Field::new("reason", DataType::Utf8, false),
            ],
        )
    });
    SCHEMA.clone()
}
