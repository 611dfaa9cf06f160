//! All documents of a run in one text, so that one suffix array sees every repeat.

use super::STAGE;
use crate::operator::Error;
use std::ops::Range;

/// Documents end to end without separators. Nothing outside reads it as one string: a window or span always lies in one document.
#[derive(Debug, Default)]
pub struct TextArena {
    text: String,
    documents: Vec<Document>,
}

#[derive(Debug, Clone, Copy)]
struct Document {
    ordinal: u64,
    source_index: u32,
    end: usize,
}

impl TextArena {
    /// Adds a document behind the last one.
    ///
    /// # Errors
    /// [`Error::Data`] when memory for it cannot be had.
    pub fn push(&mut self, ordinal: u64, source_index: u32, text: &str) -> Result<(), Error> {
        if self.text.capacity() - self.text.len() < text.len() {
            // An eighth more at a time: doubling would hold up to twice the corpus.
            let additional = text.len().max(self.text.len() / 8).max(1 << 16);
            self.text.try_reserve_exact(additional).map_err(|_| out_of_memory(self.text.len() as u64 + additional as u64))?;
        }
        self.documents.try_reserve(1).map_err(|_| out_of_memory(self.memory_bytes() as u64))?;
        self.text.push_str(text);
        self.documents.push(Document { ordinal, source_index, end: self.text.len() });
        Ok(())
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// The bytes of all documents.
    pub fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Where document `index` lies in [`TextArena::bytes`].
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.documents[index - 1].end };
        start..self.documents[index].end
    }

    /// The text of document `index`.
    pub fn text(&self, index: usize) -> &str {
        &self.text[self.range(index)]
    }

    /// The ordinal that document `index` came with.
    pub fn ordinal(&self, index: usize) -> u64 {
        self.documents[index].ordinal
    }

    /// The source that document `index` came from.
    pub fn source_index(&self, index: usize) -> u32 {
        self.documents[index].source_index
    }

    /// Index of the document with this ordinal; documents must have come in the order of their ordinals.
    pub fn index_of(&self, ordinal: u64) -> Option<usize> {
        self.documents.binary_search_by_key(&ordinal, |document| document.ordinal).ok()
    }

    /// Index of the document in which the byte at `position` lies; [`TextArena::len`] behind the end.
    pub fn document_at(&self, position: usize) -> usize {
        self.documents.partition_point(|document| document.end <= position)
    }

    /// Whether a character begins, or the text ends, at `position`.
    pub(super) fn is_char_boundary(&self, position: usize) -> bool {
        self.text.is_char_boundary(position)
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        self.text.capacity() + self.documents.capacity() * size_of::<Document>()
    }
}

/// The error of an allocation that failed.
pub(super) fn out_of_memory(bytes: u64) -> Error {
    Error::Data {
        operator: STAGE,
        problem: format!("{bytes} bytes of memory cannot be had; give the machine more memory, or the run fewer documents"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_places() {
        let mut arena = TextArena::default();
        for (ordinal, text) in [(3, ""), (5, "ab"), (6, ""), (9, "é")] {
            arena.push(ordinal, 1, text).unwrap();
        }
        assert_eq!((0..4).map(|index| arena.text(index)).collect::<Vec<_>>(), ["", "ab", "", "é"]);
        assert_eq!((0..6).map(|position| arena.document_at(position)).collect::<Vec<_>>(), [1, 1, 3, 3, 4, 4]);
        assert_eq!([3, 4, 9].map(|ordinal| arena.index_of(ordinal)), [Some(0), None, Some(3)]);
    }
}
