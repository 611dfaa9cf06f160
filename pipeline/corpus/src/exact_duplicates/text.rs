//! All documents of a run in one text, so that one index sees every repeat: in memory, or in a file that is mapped.

use super::cut::OffsetMap;
use super::resources::{Queue, Resources, io, scratch_file};
use super::{RemovedSpan, STAGE};
use crate::operator::Error;
use memmap2::Mmap;
use osler_schemas::span::Span;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::PathBuf;

/// Documents one behind the other without separators, and after a cut with blanks where text is gone. Nothing outside reads it as one string:
/// a window or span always lies in one document.
#[derive(Debug, Default)]
pub struct TextArena {
    text: Text,
    documents: Vec<Document>,
}

#[derive(Debug)]
enum Text {
    Memory(String),
    /// A file of our own without a name, which nobody else can open. It holds whole strings only.
    Mapped(Mmap),
}

impl Default for Text {
    fn default() -> Self {
        Self::Memory(String::new())
    }
}

#[derive(Debug, Clone, Copy)]
struct Document {
    ordinal: u64,
    source_index: u32,
    end: usize,
    /// Where the next one begins: what lies before it and behind `end` was cut.
    next: usize,
}

/// How a text is read for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    InOrder,
    /// Here and there: a page that is not in memory is read alone, where reading ahead would read megabytes for each.
    Anywhere,
}

/// Takes documents into a [`TextArena`]: into memory, and into a file once there are more than fit.
#[derive(Debug, Default)]
pub struct ArenaWriter {
    arena: TextArena,
    /// Bytes of text in memory at most.
    memory_bytes: usize,
    scratch: Option<PathBuf>,
    file: Option<BufWriter<File>>,
    num_bytes: usize,
}

impl ArenaWriter {
    /// A writer that keeps to what `resources` allow for text.
    pub fn new(resources: &Resources) -> Self {
        Self { memory_bytes: resources.text_bytes(), scratch: resources.scratch.clone(), ..Self::default() }
    }

    /// Adds a document behind the last one.
    ///
    /// # Errors
    /// [`Error::Data`] when memory for it cannot be had, [`Error::Io`] when the file cannot be written.
    pub fn push(&mut self, ordinal: u64, source_index: u32, text: &str) -> Result<(), Error> {
        self.num_bytes += text.len();
        let Some(folder) = self.scratch.as_ref().filter(|_| self.num_bytes > self.memory_bytes) else {
            return self.arena.push(ordinal, source_index, text);
        };
        let failed = |source| io(folder, source);
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = BufWriter::with_capacity(1 << 20, scratch_file(folder)?);
                file.write_all(self.arena.bytes()).map_err(failed)?;
                self.arena.text = Text::default();
                none.insert(file)
            }
        };
        file.write_all(text.as_bytes()).map_err(failed)?;
        let end = self.num_bytes;
        self.arena.document(Document { ordinal, source_index, end, next: end })
    }

    /// The documents.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written or mapped.
    pub fn finish(mut self) -> Result<TextArena, Error> {
        if let (Some(file), Some(folder)) = (self.file, &self.scratch) {
            let failed = |source| io(folder, source);
            let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
            // SAFETY: the file is ours, was removed from its folder when it was made, and is not written any more: nothing changes the mapping.
            self.arena.text = Text::Mapped(unsafe { Mmap::map(&file) }.map_err(failed)?);
        }
        Ok(self.arena)
    }

    /// Bytes of text taken.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        self.arena.memory_bytes()
    }
}

impl TextArena {
    /// Adds a document behind the last one.
    ///
    /// # Errors
    /// [`Error::Data`] when memory for it cannot be had, or the text is in a file.
    pub fn push(&mut self, ordinal: u64, source_index: u32, text: &str) -> Result<(), Error> {
        let Text::Memory(all) = &mut self.text else {
            return Err(Error::Data { operator: STAGE, problem: "a text that is mapped takes no more documents".to_string() });
        };
        if all.capacity() - all.len() < text.len() {
            // An eighth more at a time: doubling would hold up to twice the corpus.
            let additional = text.len().max(all.len() / 8).max(1 << 16);
            all.try_reserve_exact(additional).map_err(|_| out_of_memory(all.len() as u64 + additional as u64))?;
        }
        all.push_str(text);
        let end = all.len();
        self.document(Document { ordinal, source_index, end, next: end })
    }

    fn document(&mut self, document: Document) -> Result<(), Error> {
        self.documents.try_reserve(1).map_err(|_| out_of_memory(self.memory_bytes() as u64))?;
        self.documents.push(document);
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

    /// The bytes of all documents, and of blanks where text was cut.
    pub fn bytes(&self) -> &[u8] {
        match &self.text {
            Text::Memory(text) => text.as_bytes(),
            Text::Mapped(text) => text,
        }
    }

    /// Tells the system how the text will be read, if it is in a file.
    pub(super) fn advise(&self, access: Access) {
        #[cfg(unix)]
        if let Text::Mapped(text) = &self.text {
            let advice = match access {
                Access::InOrder => memmap2::Advice::Normal,
                Access::Anywhere => memmap2::Advice::Random,
            };
            // Only speed depends on it.
            let _ = text.advise(advice);
        }
        #[cfg(not(unix))]
        let _ = access;
    }

    /// Where document `index` lies in [`TextArena::bytes`].
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 { 0 } else { self.documents[index - 1].next };
        start..self.documents[index].end
    }

    /// The text of document `index`.
    pub fn text(&self, index: usize) -> &str {
        match &self.text {
            Text::Memory(text) => &text[self.range(index)],
            // SAFETY: a document's range holds the bytes of the string that was pushed for it; see `Text::Mapped`.
            Text::Mapped(text) => unsafe { std::str::from_utf8_unchecked(&text[self.range(index)]) },
        }
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

    /// Index of the document in which the byte at `position` lies, or lay before it was cut; [`TextArena::len`] behind the end.
    pub fn document_at(&self, position: usize) -> usize {
        self.documents.partition_point(|document| document.next <= position)
    }

    /// Whether a character begins, or the text ends, at `position`.
    pub(super) fn is_char_boundary(&self, position: usize) -> bool {
        // Bytes that go on with a character are 0b10xxxxxx.
        self.bytes().get(position).is_none_or(|byte| byte & 0xC0 != 0x80)
    }

    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.text, Text::Memory(_))
    }

    /// Takes `spans`, which are those of [`super::verify`], out of documents where they lie, with `join` where a cut has text on both sides.
    /// No span may be shorter than that. Other documents are not written, and all are checked for
    /// being text at the end.
    ///
    /// # Errors
    /// [`Error::Data`] when the text is not in memory, or a span is of no document or divides a character.
    pub(super) fn cut_in_place(&mut self, spans: &[RemovedSpan], join: &str, resources: &Resources) -> Result<(), Error> {
        let fault = || {
            let problem = "texts cannot be cut where they lie: this is a fault of the program, please report it";
            Error::Data { operator: STAGE, problem: problem.to_string() }
        };
        let Text::Memory(text) = std::mem::take(&mut self.text) else { return Err(fault()) };
        let mut bytes = text.into_bytes();
        let mut changed = Vec::new();
        let (mut rest, mut documents, mut place) = (bytes.as_mut_slice(), self.documents.as_mut_slice(), 0);
        for own in spans.chunk_by(|left, right| left.ordinal == right.ordinal) {
            let index = documents.binary_search_by_key(&own[0].ordinal, |document| document.ordinal).map_err(|_| fault())?;
            let (before, from) = std::mem::take(&mut documents).split_at_mut(index);
            let Some((document, behind)) = from.split_first_mut() else { return Err(fault()) };
            let start = before.last().map_or(place, |last| last.next);
            let (_, from_start) = std::mem::take(&mut rest).split_at_mut(start - place);
            let (bytes, others) = from_start.split_at_mut(document.next - start);
            (rest, documents, place) = (others, behind, document.next);
            changed.push((start, document, bytes, own));
        }
        let changed = Queue::new(changed);
        resources.on_threads(|| {
            loop {
                let mine = changed.take(CUT_DOCUMENTS);
                if mine.is_empty() {
                    return Ok(());
                }
                for (start, document, bytes, spans) in mine {
                    let spans: Vec<Span> = spans.iter().map(|span| span.span).collect();
                    let map = OffsetMap::new(document.end - start, &spans, join.len());
                    for (old, new) in map.kept() {
                        if new > 0 {
                            bytes[new - join.len()..new].copy_from_slice(join.as_bytes());
                        }
                        bytes.copy_within(old, new);
                    }
                    bytes[map.num_bytes()..].fill(b' ');
                    document.end = start + map.num_bytes();
                }
            }
        })?;
        self.text = Text::Memory(String::from_utf8(bytes).map_err(|_| fault())?);
        Ok(())
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        let text = if let Text::Memory(text) = &self.text { text.capacity() } else { 0 };
        text + self.documents.capacity() * size_of::<Document>()
    }
}

/// Documents that a thread cuts at a time.
const CUT_DOCUMENTS: usize = 16;

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
        let scratch = tempfile::tempdir().unwrap();
        // Room for nine, six and three bytes: the text stays, moves into the file half-way, and is there from the first document on.
        for memory_bytes in [u64::MAX, 9, 6, 3, 0] {
            let resources = Resources { memory_bytes, scratch: Some(scratch.path().to_path_buf()), ..Resources::default() };
            let mut writer = ArenaWriter::new(&resources);
            for (ordinal, text) in [(3, ""), (5, "ab"), (6, ""), (9, "é")] {
                writer.push(ordinal, 1, text).unwrap();
            }
            assert_eq!(writer.num_bytes(), 4);
            check(&writer.finish().unwrap());
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        let nowhere = Resources { memory_bytes: 0, scratch: Some(scratch.path().join("none")), ..Resources::default() };
        assert!(matches!(ArenaWriter::new(&nowhere).push(1, 0, "a"), Err(Error::Io { .. })));
    }

    fn check(arena: &TextArena) {
        assert_eq!(arena.bytes(), "abé".as_bytes());
        assert_eq!((0..5).map(|position| arena.is_char_boundary(position)).collect::<Vec<_>>(), [true, true, true, false, true]);
        assert_eq!((0..4).map(|index| arena.text(index)).collect::<Vec<_>>(), ["", "ab", "", "é"]);
        assert_eq!((0..6).map(|position| arena.document_at(position)).collect::<Vec<_>>(), [1, 1, 3, 3, 4, 4]);
        assert_eq!([3, 4, 9].map(|ordinal| arena.index_of(ordinal)), [Some(0), None, Some(3)]);
    }
}
