//! The proof, after the fact, that a pass lost nothing.

use super::resources::{Queue, Resources};
use super::text::TextArena;
use super::{RemovedSpan, STAGE};
use crate::operator::Error;

/// Checks that spans are sorted, disjoint, whole characters and within their documents, and that every copy named holds the same bytes,
/// lies in one document, and has no byte in a span itself. `arena` is the text as the pass saw it.
///
/// # Errors
/// [`Error::Data`] with the ordinal and byte of the first span that fails.
pub fn verify(arena: &TextArena, spans: &[RemovedSpan], resources: &Resources) -> Result<(), Error> {
    let indices = Queue::new(0..spans.len());
    // Spans are taken in order, so no thread passes the first fault by.
    let faults = resources.on_threads(|| {
        loop {
            let mine = indices.take(CHUNK_SPANS);
            if mine.is_empty() {
                return Ok(None);
            }
            if let Some(fault) = mine.into_iter().find_map(|index| check(arena, spans, index).err().map(|fault| (index, fault))) {
                return Ok(Some(fault));
            }
        }
    })?;
    faults.into_iter().flatten().min_by_key(|(index, _)| *index).map_or(Ok(()), |(_, fault)| Err(fault))
}

/// Spans that a thread takes at a time.
const CHUNK_SPANS: usize = 256;

fn check(arena: &TextArena, spans: &[RemovedSpan], index: usize) -> Result<(), Error> {
    let span = &spans[index];
    let fail = |what: &str| Error::Data {
        operator: STAGE,
        problem: format!(
            "the span at byte {} of document {} {what}; nothing was cut: this is a fault of the program, please report it",
            span.span.start, span.ordinal
        ),
    };
    let before = index.checked_sub(1).map(|before| &spans[before]);
    if before.is_some_and(|before| before.ordinal > span.ordinal || before.ordinal == span.ordinal && before.span.end > span.span.start) {
        return Err(fail("is out of order"));
    }
    let slice = |ordinal: u64, start: u64, end: u64| {
        let text = arena.text(arena.index_of(ordinal)?);
        text.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    };
    let Some(removed) = slice(span.ordinal, span.span.start, span.span.end).filter(|removed| !removed.is_empty()) else {
        return Err(fail("does not fit its text"));
    };
    let Some((ordinal, start)) = span.partner else { return Ok(()) };
    let end = start.saturating_add(span.span.len());
    if slice(ordinal, start, end) != Some(removed) {
        return Err(fail("differs from its copy"));
    }
    // The first span of the partner that ends behind the copy's start.
    let next = spans.partition_point(|other| (other.ordinal, other.span.end) <= (ordinal, start));
    if spans.get(next).is_some_and(|other| other.ordinal == ordinal && other.span.start < end) {
        return Err(fail("has a copy that is removed too"));
    }
    Ok(())
}
