//! Takes removed spans out of texts, and keeps sections pointing at what is left of them.

use super::{ExactDuplicatesConfig, STAGE};
use crate::operator::{Error, Operator, Sink, give};
use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray, StringBuilder, StructArray, UInt32Array, UInt64Array, UInt64Builder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, SchemaRef, UInt32Type, UInt64Type};
use osler_schemas::span::{Span, well_formed};
use osler_schemas::{SchemaError, document, expect};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The operator: documents in, the same documents without their removed spans out. Works on any schema with the columns `ordinal`, `text`,
/// `sections`, `num_bytes` and `num_words`, which it brings up to date; the others pass unchanged. A document may be left without text:
/// dropping it is the length filter's business.
pub struct Cut {
    schema: SchemaRef,
    spans: SpanTable,
    join: String,
}

impl Cut {
    /// Cuts batches of [`document::ordered_schema`].
    pub fn new(config: &ExactDuplicatesConfig, spans: SpanTable) -> Self {
        Self::with_schema(config, spans, document::ordered_schema())
    }

    /// Cuts batches of another schema that has the columns named above.
    pub fn with_schema(config: &ExactDuplicatesConfig, spans: SpanTable, schema: SchemaRef) -> Self {
        Self { schema, spans, join: config.join.clone() }
    }
}

impl Operator for Cut {
    fn name(&self) -> &'static str {
        "cut-exact-duplicates"
    }

    fn output_schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn push(&mut self, batch: RecordBatch, out: &mut dyn Sink) -> Result<(), Error> {
        let batch = cut_batch(&self.spans, &self.join, batch)?;
        give(out, batch)
    }

    fn finish(&mut self, _out: &mut dyn Sink) -> Result<(), Error> {
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.spans.memory_bytes()
    }
}

/// What every pass removes from every document.
#[derive(Debug, Default)]
pub struct SpanTable {
    /// By pass: the ordinal and what goes, sorted; touching spans are one.
    passes: BTreeMap<u32, Vec<(u64, Span)>>,
}

impl SpanTable {
    /// Reads batches of [`osler_schemas::span::schema`], in any order.
    ///
    /// # Errors
    /// [`Error::Schema`] when a batch is not of that schema; [`Error::Data`] when spans of one document and pass overlap.
    pub fn new<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<Self, Error> {
        let schema = |source| Error::Schema { operator: STAGE, source };
        let mut passes: BTreeMap<u32, Vec<(u64, Span)>> = BTreeMap::new();
        for batch in batches {
            let column = |name| expect::u64(batch, name).map_err(schema);
            let (ordinals, starts, ends) = (column("ordinal")?, column("start")?, column("end")?);
            let numbers = expect::u32(batch, "pass").map_err(schema)?;
            for row in 0..batch.num_rows() {
                let span = Span { start: starts.value(row), end: ends.value(row) };
                passes.entry(numbers.value(row)).or_default().push((ordinals.value(row), span));
            }
        }
        for (pass, spans) in &mut passes {
            spans.sort_unstable();
            if let Some(pair) = spans.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].1.end > pair[1].1.start) {
                return Err(misfit(*pass, pair[1].0, pair[1].1));
            }
            spans.dedup_by(|next, previous| {
                let touch = previous.0 == next.0 && previous.1.end == next.1.start;
                if touch {
                    previous.1.end = next.1.end;
                }
                touch
            });
            spans.shrink_to_fit();
        }
        Ok(Self { passes })
    }

    /// The spans of one document, pass by pass; passes that leave it alone are left out.
    pub fn of(&self, ordinal: u64) -> impl Iterator<Item = (u32, &[(u64, Span)])> {
        self.passes.iter().filter_map(move |(pass, spans)| {
            let first = spans.partition_point(|(other, _)| *other < ordinal);
            let spans = &spans[first..];
            let spans = &spans[..spans.partition_point(|(other, _)| *other == ordinal)];
            (!spans.is_empty()).then_some((*pass, spans))
        })
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        self.passes.values().map(|spans| spans.capacity() * size_of::<(u64, Span)>()).sum()
    }
}

fn misfit(pass: u32, ordinal: u64, span: Span) -> Error {
    let Span { start, end } = span;
    Error::Data {
        operator: STAGE,
        problem: format!(
            "bytes {start} to {end} of document {ordinal}, to be cut after pass {pass}, overlap another span or do not fit the text; \
             the documents are not those the spans were found in: run exact duplicates again"
        ),
    }
}

/// `text` without `spans`, and `join` wherever a cut has kept text on both sides. `spans` are [`well_formed`] and on character boundaries;
/// touching ones are one cut.
pub fn cut(text: &str, spans: &[Span], join: &str) -> String {
    OffsetMap::new(text.len(), spans, join.len()).cut(text, join).into_owned()
}

/// Where the bytes of a text are after a cut.
#[derive(Debug, Clone)]
pub struct OffsetMap {
    /// What is kept, in order, never empty.
    kept: Vec<Kept>,
    num_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    old_start: usize,
    old_end: usize,
    new_start: usize,
}

impl OffsetMap {
    /// The map of [`cut`] on a text of `num_bytes` with a join of `join_bytes`.
    pub fn new(num_bytes: usize, spans: &[Span], join_bytes: usize) -> Self {
        let mut map = Self { kept: Vec::with_capacity(spans.len() + 1), num_bytes: 0 };
        let mut old_start = 0;
        let ends = spans.iter().map(|span| (span.start as usize, span.end as usize)).chain([(num_bytes, num_bytes)]);
        for (start, end) in ends {
            let old_end = start.min(num_bytes);
            if old_start < old_end {
                let new_start = if map.kept.is_empty() { 0 } else { map.num_bytes + join_bytes };
                map.kept.push(Kept { old_start, old_end, new_start });
                map.num_bytes = new_start + (old_end - old_start);
            }
            old_start = old_start.max(end);
        }
        map
    }

    /// What [`cut`] leaves of the text.
    pub(super) fn cut<'a>(&self, text: &'a str, join: &str) -> Cow<'a, str> {
        if self.kept.first().is_some_and(|kept| kept.old_end - kept.old_start == text.len()) {
            return Cow::Borrowed(text);
        }
        let mut left = String::with_capacity(self.num_bytes);
        for kept in &self.kept {
            if !left.is_empty() {
                left.push_str(join);
            }
            left.push_str(text.get(kept.old_start..kept.old_end).unwrap_or_default());
        }
        Cow::Owned(left)
    }

    /// What is kept, in order: where it was, and where it is.
    pub(super) fn kept(&self) -> impl Iterator<Item = (Range<usize>, usize)> {
        self.kept.iter().map(|kept| (kept.old_start..kept.old_end, kept.new_start))
    }

    /// Length of the cut text.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// Where the byte at `offset` is now; if it is gone, where the next one kept is, or the end.
    pub fn start(&self, offset: usize) -> usize {
        let next = self.kept.partition_point(|kept| kept.old_end <= offset);
        self.kept.get(next).map_or(self.num_bytes, |kept| kept.new_start + offset.max(kept.old_start) - kept.old_start)
    }

    /// The end of what is left of a range that ended at `offset`: behind the last byte kept before it.
    pub fn end(&self, offset: usize) -> usize {
        let next = self.kept.partition_point(|kept| kept.old_start < offset);
        let last = next.checked_sub(1).and_then(|last| self.kept.get(last));
        last.map_or(0, |kept| kept.new_start + offset.min(kept.old_end) - kept.old_start)
    }

    /// What is left of `[start, end)`; `None` if nothing is.
    pub fn range(&self, start: usize, end: usize) -> Option<(usize, usize)> {
        let (start, end) = (self.start(start), self.end(end));
        (start < end).then_some((start, end))
    }
}

/// A document after all passes: its text and the map of each pass.
struct Remainder {
    text: String,
    maps: Vec<OffsetMap>,
}

fn remainder(spans: &SpanTable, ordinal: u64, text: &str, join: &str) -> Result<Option<Remainder>, Error> {
    let mut remainder: Option<Remainder> = None;
    for (pass, rows) in spans.of(ordinal) {
        let spans: Vec<Span> = rows.iter().map(|(_, span)| *span).collect();
        let current = remainder.as_ref().map_or(text, |remainder| remainder.text.as_str());
        let whole = |span: &Span| current.is_char_boundary(span.start as usize) && current.is_char_boundary(span.end as usize);
        if !well_formed(&spans, current.len() as u64) || !spans.iter().all(whole) {
            let span = spans.iter().find(|span| span.end > current.len() as u64 || !whole(span)).unwrap_or(&spans[0]);
            return Err(misfit(pass, ordinal, *span));
        }
        let map = OffsetMap::new(current.len(), &spans, join.len());
        let text = cut(current, &spans, join);
        match &mut remainder {
            Some(remainder) => {
                remainder.text = text;
                remainder.maps.push(map);
            }
            None => remainder = Some(Remainder { text, maps: vec![map] }),
        }
    }
    Ok(remainder)
}

fn cut_batch(spans: &SpanTable, join: &str, batch: RecordBatch) -> Result<RecordBatch, Error> {
    let schema = |source| Error::Schema { operator: STAGE, source };
    let ordinals = expect::u64(&batch, "ordinal").map_err(schema)?;
    let texts = expect::utf8(&batch, "text").map_err(schema)?;
    let remainders: Vec<Option<Remainder>> =
        (0..batch.num_rows()).map(|row| remainder(spans, ordinals.value(row), texts.value(row), join)).collect::<Result<_, _>>()?;
    if remainders.iter().all(Option::is_none) {
        return Ok(batch);
    }
    let (old_bytes, old_words) = (expect::u64(&batch, "num_bytes").map_err(schema)?, expect::u64(&batch, "num_words").map_err(schema)?);
    let mut text = StringBuilder::with_capacity(batch.num_rows(), texts.value_data().len());
    let mut num_bytes = UInt64Builder::with_capacity(batch.num_rows());
    let mut num_words = UInt64Builder::with_capacity(batch.num_rows());
    for (row, remainder) in remainders.iter().enumerate() {
        let left = remainder.as_ref().map_or(texts.value(row), |remainder| remainder.text.as_str());
        text.append_value(left);
        num_bytes.append_value(remainder.as_ref().map_or(old_bytes.value(row), |_| left.len() as u64));
        num_words.append_value(remainder.as_ref().map_or(old_words.value(row), |_| document::num_words(left)));
    }
    let sections = remap_sections(&batch, &remainders)?;
    let mut columns = batch.columns().to_vec();
    let new: [(&str, ArrayRef); 4] = [
        ("text", Arc::new(text.finish())),
        ("num_bytes", Arc::new(num_bytes.finish())),
        ("num_words", Arc::new(num_words.finish())),
        ("sections", sections),
    ];
    for (name, column) in new {
        let index = batch.schema().index_of(name).map_err(|source| Error::Arrow { operator: STAGE, source })?;
        columns[index] = column;
    }
    RecordBatch::try_new(batch.schema(), columns).map_err(|source| Error::Arrow { operator: STAGE, source })
}

/// The `sections` column after the cut. A section with nothing left is dropped; one that lost its title keeps it in `title`.
fn remap_sections(batch: &RecordBatch, remainders: &[Option<Remainder>]) -> Result<ArrayRef, Error> {
    let lists = expect::list(batch, "sections").map_err(|source| Error::Schema { operator: STAGE, source })?;
    let wanted = document::sections_type();
    let DataType::List(item) = lists.data_type() else { return Err(wrong_sections(&wanted, lists.data_type())) };
    if !lists.data_type().equals_datatype(&wanted) {
        return Err(wrong_sections(&wanted, lists.data_type()));
    }
    let old = lists.values().as_struct();
    let (titles, levels) = (old.column(0).as_string::<i32>(), old.column(1).as_primitive::<UInt32Type>());
    let (starts, ends) = (old.column(2).as_primitive::<UInt64Type>(), old.column(3).as_primitive::<UInt64Type>());
    let (mut lengths, mut rows) = (Vec::with_capacity(remainders.len()), Vec::with_capacity(old.len()));
    for (document, remainder) in remainders.iter().enumerate() {
        let (first, last) = (lists.value_offsets()[document] as usize, lists.value_offsets()[document + 1] as usize);
        let before = rows.len();
        for row in first..last {
            let range = Some((starts.value(row) as usize, ends.value(row) as usize));
            let maps = remainder.as_ref().map_or(&[][..], |remainder| &remainder.maps);
            if let Some((start, end)) = maps.iter().fold(range, |range, map| range.and_then(|(start, end)| map.range(start, end))) {
                rows.push((row, start as u64, end as u64));
            }
        }
        lengths.push(rows.len() - before);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(row, ..)| titles.value(*row)))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(row, ..)| levels.value(*row)))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, start, _)| *start))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(.., end)| *end))),
    ];
    let arrow = |source| Error::Arrow { operator: STAGE, source };
    let fields = old.fields().clone();
    let values = StructArray::try_new(fields, columns, None).map_err(arrow)?;
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(item.clone(), offsets, Arc::new(values), lists.nulls().cloned()).map_err(arrow)?))
}

fn wrong_sections(wanted: &DataType, got: &DataType) -> Error {
    let source = SchemaError::Type { column: "sections".to_string(), wanted: wanted.to_string(), got: got.to_string() };
    Error::Schema { operator: STAGE, source }
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
