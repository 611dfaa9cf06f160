//! Spans: byte ranges removed from documents by exact deduplication.

use crate::versioned;
use arrow::datatypes::{DataType, Field, SchemaRef};
use std::sync::LazyLock;

/// Version of [`schema`].
pub const VERSION: u32 = 1;

/// One row per removed span. Offsets are UTF-8 bytes `[start, end)` in the text as pass `pass` saw it; spans of one document and pass
/// are sorted and disjoint. The kept copy begins at `partner_start` of document `partner`, also as that pass saw it; null under
/// `keep = "none"`, where no copy is kept.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        versioned(
            "spans",
            VERSION,
            vec![
                Field::new("pass", DataType::UInt32, false),
                Field::new("ordinal", DataType::UInt64, false),
                Field::new("start", DataType::UInt64, false),
                Field::new("end", DataType::UInt64, false),
                Field::new("partner", DataType::UInt64, true),
                Field::new("partner_start", DataType::UInt64, true),
            ],
        )
    });
    SCHEMA.clone()
}

/// A half-open byte range `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether the span covers nothing.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Whether `spans` are sorted, disjoint, not empty, and within a text of `num_bytes`.
pub fn well_formed(spans: &[Span], num_bytes: u64) -> bool {
    let ordered = spans.windows(2).all(|pair| pair[0].end <= pair[1].start);
    ordered && spans.iter().all(|span| span.start < span.end && span.end <= num_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_wants_order_and_bounds() {
        let span = |start, end| Span { start, end };
        assert!(well_formed(&[span(0, 2), span(2, 3)], 3));
        assert!(!well_formed(&[span(0, 2), span(1, 3)], 3));
        assert!(!well_formed(&[span(1, 1)], 3));
        assert!(!well_formed(&[span(1, 4)], 3));
    }
}
