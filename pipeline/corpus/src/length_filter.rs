//! Length filter: drops documents that are too short or too long to teach a model anything.
//!
//! The published pipeline has such a step and does not give its threshold; `min_words` is ours, and the report's histogram shows what
//! another choice would do.

use crate::operator::{Error, Operator, Sink, give};
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::SchemaRef;
use osler_schemas::expect;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// Name of the stage in counts and the ledger.
pub const STAGE: &str = "length-filter";

/// Bounds a document's text has to keep, inclusive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LengthFilterConfig {
    /// Fewest words (runs of characters between white space).
    pub min_words: u64,
    /// Fewest UTF-8 bytes.
    pub min_bytes: u64,
    /// Most UTF-8 bytes; 0 is no limit.
    pub max_bytes: u64,
}

impl Default for LengthFilterConfig {
    fn default() -> Self {
        Self { min_words: 20, min_bytes: 0, max_bytes: 0 }
    }
}

impl LengthFilterConfig {
    /// Why a text of this length is dropped, if it is.
    pub fn reason(&self, num_words: u64, num_bytes: u64) -> Option<&'static str> {
        if num_words < self.min_words || num_bytes < self.min_bytes {
            Some("too-short")
        } else if self.max_bytes > 0 && num_bytes > self.max_bytes {
            Some("too-long")
        } else {
            None
        }
    }
}

/// Where the filter stands, and so what it calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterStage {
    /// After parsing.
    LengthFilter,
    /// After exact duplicates were cut: what is left may be too short. A document that holds the kept copy of a span stays all the same,
    /// by its ordinal, or the span would stand nowhere.
    AfterCut { holders: HashSet<u64> },
}

impl FilterStage {
    /// The stage that counts and the ledger name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LengthFilter => STAGE,
            Self::AfterCut { .. } => crate::exact_duplicates::STAGE,
        }
    }
}

/// The operator: batches with the columns of [`osler_schemas::document::flow_schema`], and any others, in and out.
pub struct LengthFilter {
    config: LengthFilterConfig,
    stage: FilterStage,
    schema: SchemaRef,
}

impl LengthFilter {
    /// A filter at `stage` over batches of `schema`.
    pub fn new(config: LengthFilterConfig, stage: FilterStage, schema: SchemaRef) -> Self {
        Self { config, stage, schema }
    }
}

impl LengthFilter {
    fn reason(&self, num_words: u64, num_bytes: u64) -> Option<&'static str> {
        match (&self.stage, self.config.reason(num_words, num_bytes)) {
            (FilterStage::AfterCut { .. }, Some("too-short")) => Some("too-short-after-cut"),
            // A text without a word teaches nothing, whatever the bounds.
            (FilterStage::AfterCut { .. }, None) if num_words == 0 => Some("nothing-left"),
            (_, reason) => reason,
        }
    }
}

impl Operator for LengthFilter {
    fn name(&self) -> &'static str {
        self.stage.name()
    }

    fn output_schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let words = expect::u64(&batch, "num_words").map_err(schema)?;
        let bytes = expect::u64(&batch, "num_bytes").map_err(schema)?;
        let dropped = expect::utf8(&batch, "drop_reason").map_err(schema)?;
        let ordinals = match &self.stage {
            FilterStage::AfterCut { .. } => Some(expect::u64(&batch, "ordinal").map_err(schema)?),
            FilterStage::LengthFilter => None,
        };
        let stays = |row: usize| match (&self.stage, ordinals) {
            (FilterStage::AfterCut { holders }, Some(ordinals)) => holders.contains(&ordinals.value(row)),
            _ => false,
        };
        let asked = |row: usize| dropped.is_null(row) && !stays(row);
        let reasons: Vec<Option<&str>> =
            (0..batch.num_rows()).map(|row| if asked(row) { self.reason(words.value(row), bytes.value(row)) } else { None }).collect();
        let batch = mark_dropped(self.stage.name(), batch, &reasons)?;
        give(out, batch)
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<(), Error> {
        Ok(())
    }
}

/// Marks the rows that have a reason as dropped by `stage` and clears their text; other rows stay as they are.
///
/// # Errors
/// [`Error::Schema`] when the batch is not of [`document::flow_schema`].
pub fn mark_dropped(stage: &'static str, batch: RecordBatch, reasons: &[Option<&str>]) -> Result<RecordBatch, Error> {
    if reasons.iter().all(Option::is_none) {
        return Ok(batch);
    }
    let schema = |source| Error::Schema { operator: stage, source };
    let old = |name| expect::utf8(&batch, name).map_err(schema);
    let (text, stages, old_reasons) = (old("text")?, old("drop_stage")?, old("drop_reason")?);
    let kept_bytes = text.value_data().len();
    let mut new_text = StringBuilder::with_capacity(batch.num_rows(), kept_bytes);
    for (row, reason) in reasons.iter().enumerate() {
        new_text.append_value(if reason.is_some() { "" } else { text.value(row) });
    }
    let merged = |old: &StringArray, new: &dyn Fn(usize) -> Option<String>| -> ArrayRef {
        Arc::new(
            (0..old.len()).map(|row| new(row).or_else(|| old.is_valid(row).then(|| old.value(row).to_string()))).collect::<StringArray>(),
        )
    };
    let stage_column = merged(stages, &|row| reasons[row].map(|_| stage.to_string()));
    let reason_column = merged(old_reasons, &|row| reasons[row].map(str::to_string));
    let new_text: ArrayRef = Arc::new(new_text.finish());
    let mut columns = batch.columns().to_vec();
    for (name, column) in [("text", new_text), ("drop_stage", stage_column), ("drop_reason", reason_column)] {
        let index = batch.schema().index_of(name).map_err(|source| Error::Arrow { operator: stage, source })?;
        columns[index] = column;
    }
    RecordBatch::try_new(batch.schema(), columns).map_err(|source| Error::Arrow { operator: stage, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        let config = LengthFilterConfig { min_words: 3, min_bytes: 10, max_bytes: 20 };
        let check = |words, bytes, want| assert_eq!(config.reason(words, bytes), want, "{words} words, {bytes} bytes");
        check(3, 10, None);
        check(2, 10, Some("too-short"));
        check(3, 9, Some("too-short"));
        check(3, 20, None);
        check(3, 21, Some("too-long"));
        let unlimited = LengthFilterConfig { max_bytes: 0, ..config };
        assert_eq!(unlimited.reason(3, u64::MAX), None);
    }
}
