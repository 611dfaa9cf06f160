//! The proof, after the fact, that a pass lost nothing.

use super::text::TextArena;
use super::{RemovedSpan, STAGE};
use crate::operator::Error;

/// Checks that spans are sorted, disjoint, whole characters and within their documents, and that every copy named holds the same bytes,
/// lies in one document, and has no byte in a span itself. `arena` is the text as the pass saw it.
///
/// # Errors
/// [`Error::Data`] with the ordinal and byte of the first span that fails.
pub fn verify(arena: &TextArena, spans: &[RemovedSpan]) -> Result<(), Error> {
    let mut previous: Option<&RemovedSpan> = None;
    for span in spans {
        let fail = |what: &str| Error::Data {
            operator: STAGE,
            problem: format!(
                "the span at byte {} of document {} {what}; nothing was cut: this is a fault of the program, please report it",
                span.span.start, span.ordinal
            ),
        };
        let before = previous.replace(span);
        if before.is_some_and(|before| before.ordinal > span.ordinal || before.ordinal == span.ordinal && before.span.end > span.span.start)
        {
            return Err(fail("is out of order"));
        }
        let slice = |ordinal: u64, start: u64, end: u64| {
            let text = arena.text(arena.index_of(ordinal)?);
            text.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
        };
        let Some(removed) = slice(span.ordinal, span.span.start, span.span.end).filter(|removed| !removed.is_empty()) else {
            return Err(fail("does not fit its text"));
        };
        let Some((ordinal, start)) = span.partner else { continue };
        let end = start.saturating_add(span.span.len());
        if slice(ordinal, start, end) != Some(removed) {
            return Err(fail("differs from its copy"));
        }
        // The first span of the partner that ends behind the copy's start.
        let next = spans.partition_point(|other| (other.ordinal, other.span.end) <= (ordinal, start));
        if spans.get(next).is_some_and(|other| other.ordinal == ordinal && other.span.start < end) {
            return Err(fail("has a copy that is removed too"));
        }
    }
    Ok(())
}
