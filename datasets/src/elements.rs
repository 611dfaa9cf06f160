//! Cuts an XML dump into its records while it streams: one `<PubmedArticle>` or `<page>` at a time, in memory bounded by the largest record.
//!
//! Only what framing needs is understood: comments, CDATA, processing instructions, declarations and the record's own tags. What is inside a
//! record is left to its parser, so a malformed record costs itself and not its neighbours. Records of one name do not nest: one that opens
//! inside another means that the first was cut off. Those of different names may; the outermost counts.

use crate::Reject;
use crate::emit::Emit;
use crate::limits::Limits;
use memchr::{memchr, memchr2, memmem};
use std::io::{self, BufRead};
use std::ops::ControlFlow;

/// How much is read before scanning goes on.
const READ_BYTES: usize = 64 << 10;
/// A tag name longer than this is no record's.
const NAME_BYTES_MAX: usize = 256;
/// How much of the root's start tag is kept, for its attributes.
const ROOT_BYTES_MAX: usize = 4 << 10;
/// `<![CDATA[`, the longest opener to be told apart.
const OPENER_BYTES: usize = 9;

/// One framed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// From `<` of its start tag to `>` of its end tag.
    pub bytes: &'a [u8],
    /// Byte of the stream at which it starts.
    pub byte: u64,
    /// Its number in the stream, from 0; records that were rejected count too.
    pub record: u64,
    /// The start tag of the root (its first 4 KiB); empty where the root is the record.
    pub root_tag: &'a [u8],
}

/// Yields the records of an XML stream in order.
pub struct Elements<R> {
    input: R,
    names: &'static [&'static str],
    limits: Limits,
    read_bytes: usize,
    /// The bytes of the stream from `base` on that are still needed.
    buffer: Vec<u8>,
    base: u64,
    /// Where scanning goes on, in `buffer`.
    scan: usize,
    state: State,
    open: Option<Open>,
    records: u64,
    root: Root,
    root_tag: Vec<u8>,
    exhausted: bool,
    ended: bool,
}

/// What the scanner is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    Comment,
    Cdata,
    Instruction,
    Declaration { quote: Option<u8> },
    Tag { quote: Option<u8>, kind: Kind },
}

/// Why a tag is read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RecordStart,
    RecordEnd,
    RootStart,
    Other,
}

/// The record under way: which of the names, and its first byte in the stream.
#[derive(Debug, Clone, Copy)]
struct Open {
    name: usize,
    byte: u64,
    too_large: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Unseen,
    Open,
    Closed,
}

/// What a step of the scanner found.
enum Step {
    /// More of the stream is needed.
    More,
    /// Nothing to report yet.
    Go,
    /// The record that started at this byte is complete.
    Complete(Open),
    /// The record was cut off by the start of another.
    CutOff(Open),
}

impl<R: BufRead> Elements<R> {
    /// Frames the elements called one of `names` (local names: a prefix is ignored).
    pub fn new(input: R, names: &'static [&'static str], limits: &Limits) -> Self {
        Self {
            input,
            names,
            limits: *limits,
            read_bytes: READ_BYTES,
            buffer: Vec::with_capacity(2 * READ_BYTES),
            base: 0,
            scan: 0,
            state: State::Text,
            open: None,
            records: 0,
            root: Root::Unseen,
            root_tag: Vec::new(),
            exhausted: false,
            ended: false,
        }
    }

    /// Returns the next record, or why it is none; `None` at the end of the stream.
    ///
    /// Rejects: `record-too-large`, `xml-truncated` (a record or the root cut off), `xml-malformed` (no element at all),
    /// `encoding-unsupported` (UTF-16).
    ///
    /// # Errors
    /// What the stream itself reports: a truncated gzip, a disk that fails.
    #[allow(clippy::should_implement_trait)] // The record borrows the buffer: no Iterator.
    pub fn next(&mut self) -> io::Result<Option<Result<Record<'_>, Reject>>> {
        while !self.ended {
            match self.step() {
                Step::Go => {}
                Step::More => {
                    if self.exhausted {
                        self.ended = true;
                        return Ok(self.end_of_stream().map(Err));
                    }
                    self.fill()?;
                    if self.base == 0 && (self.buffer.starts_with(&[0xFF, 0xFE]) || self.buffer.starts_with(&[0xFE, 0xFF])) {
                        self.ended = true;
                        return Ok(Some(Err(Reject::new("encoding-unsupported", 0, "the dump is UTF-16; convert it to UTF-8"))));
                    }
                }
                Step::CutOff(open) => {
                    let end = self.base + self.scan as u64;
                    return Ok(Some(Err(self.cut_off(open, end, "is not closed before the next one starts"))));
                }
                Step::Complete(open) => {
                    if self.base + self.scan as u64 - open.byte > self.limits.record_bytes_max as u64 {
                        return Ok(Some(Err(self.too_large(open))));
                    }
                    let start = (open.byte - self.base) as usize;
                    let record = self.records;
                    self.records += 1;
                    let bytes = &self.buffer[start..self.scan];
                    return Ok(Some(Ok(Record { bytes, byte: open.byte, record, root_tag: &self.root_tag })));
                }
            }
        }
        Ok(None)
    }

    fn reject(&mut self, open: Open, reason: &'static str, detail: String) -> Reject {
        let record = self.records;
        self.records += 1;
        Reject { record: Some(record), reason, byte: open.byte, detail }
    }

    fn too_large(&mut self, open: Open) -> Reject {
        let detail = self.limits.too_large(&format!("<{}>", self.names[open.name]));
        self.reject(open, "record-too-large", detail)
    }

    fn cut_off(&mut self, open: Open, end: u64, how: &str) -> Reject {
        if end - open.byte > self.limits.record_bytes_max as u64 {
            return self.too_large(open);
        }
        let detail = format!("<{}> {how}", self.names[open.name]);
        self.reject(open, "xml-truncated", detail)
    }

    fn end_of_stream(&mut self) -> Option<Reject> {
        let end = self.base + self.buffer.len() as u64;
        match (self.open.take(), self.root) {
            (Some(open), _) => Some(self.cut_off(open, end, "is cut off by the end of the file")),
            (None, Root::Open) => Some(Reject::new("xml-truncated", end as usize, "the file ends before its root element is closed")),
            (None, Root::Unseen) if self.records == 0 => Some(Reject::new("xml-malformed", 0, "no XML element in the file")),
            (None, _) => None,
        }
    }

    /// Drops what is no longer needed and appends the next bytes of the stream.
    fn fill(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.open
            && !open.too_large
            && self.base + self.scan as u64 - open.byte > self.limits.record_bytes_max as u64
        {
            open.too_large = true;
        }
        let keep = match self.open {
            Some(open) if !open.too_large => (open.byte - self.base) as usize,
            _ => self.scan,
        };
        self.buffer.drain(..keep);
        self.base += keep as u64;
        self.scan -= keep;
        let before = self.buffer.len();
        while self.buffer.len() - before < self.read_bytes {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                self.exhausted = true;
                break;
            }
            let length = chunk.len();
            self.buffer.extend_from_slice(chunk);
            self.input.consume(length);
        }
        Ok(())
    }

    fn step(&mut self) -> Step {
        match self.state {
            State::Text => self.text(),
            State::Comment => self.until(b"-->"),
            State::Cdata => self.until(b"]]>"),
            State::Instruction => self.until(b"?>"),
            State::Declaration { quote } => self.declaration(quote),
            State::Tag { quote, kind } => self.tag(quote, kind),
        }
    }

    /// Skips to the end of a comment, CDATA section or processing instruction.
    fn until(&mut self, end: &'static [u8]) -> Step {
        match memmem::find(&self.buffer[self.scan..], end) {
            Some(at) => {
                self.scan += at + end.len();
                self.state = State::Text;
                Step::Go
            }
            None => {
                self.scan = self.scan.max(self.buffer.len().saturating_sub(end.len() - 1));
                Step::More
            }
        }
    }

    /// Finds the next `<` and tells what it opens.
    fn text(&mut self) -> Step {
        let Some(at) = memchr(b'<', &self.buffer[self.scan..]) else {
            self.scan = self.buffer.len();
            return Step::More;
        };
        self.scan += at;
        let rest = &self.buffer[self.scan + 1..];
        if rest.len() < OPENER_BYTES && !self.exhausted {
            return Step::More;
        }
        let (skip, state) = if rest.starts_with(b"!--") {
            (4, State::Comment)
        } else if rest.starts_with(b"![CDATA[") {
            (9, State::Cdata)
        } else if rest.starts_with(b"!") {
            (2, State::Declaration { quote: None })
        } else if rest.starts_with(b"?") {
            (2, State::Instruction)
        } else {
            return self.tag_name();
        };
        self.scan += skip;
        self.state = state;
        Step::Go
    }

    /// Reads a tag's name, at `<`, and decides what the tag means.
    fn tag_name(&mut self) -> Step {
        let rest = &self.buffer[self.scan + 1..];
        let closing = rest.first() == Some(&b'/');
        let name_from = usize::from(closing);
        let window = &rest[name_from..rest.len().min(name_from + NAME_BYTES_MAX)];
        let length = window.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'/' | b'>' | b'<'));
        let length = match length {
            Some(length) => length,
            None if window.len() < NAME_BYTES_MAX && !self.exhausted => return Step::More,
            None => window.len(),
        };
        let name = &window[..length];
        let local = name.iter().position(|byte| *byte == b':').map_or(name, |colon| &name[colon + 1..]);
        let record = self.names.iter().position(|wanted| wanted.as_bytes() == local);
        let byte = self.base + self.scan as u64;
        let after_name = self.scan + 1 + name_from + length;

        let kind = match (record, closing, self.open) {
            (Some(name), false, None) => {
                self.open = Some(Open { name, byte, too_large: false });
                Kind::RecordStart
            }
            (Some(name), false, Some(open)) if open.name == name => {
                // The tag is looked at again, as a record's start.
                self.open = None;
                return Step::CutOff(open);
            }
            (Some(name), true, Some(open)) if open.name == name => Kind::RecordEnd,
            (None, false, None) if self.root != Root::Open && !name.is_empty() => {
                self.root = Root::Open;
                self.root_tag.clear();
                Kind::RootStart
            }
            (None, true, None) if self.root == Root::Open && self.is_root(name) => {
                self.root = Root::Closed;
                Kind::Other
            }
            _ => {
                // Inside a record no other tag matters; `<` cannot occur in an attribute, so the next one is found without parsing this one.
                self.scan += 1;
                return Step::Go;
            }
        };
        if kind == Kind::RootStart {
            self.root_tag.extend_from_slice(&self.buffer[self.scan..after_name]);
        }
        self.scan = after_name;
        self.state = State::Tag { quote: None, kind };
        Step::Go
    }

    fn is_root(&self, name: &[u8]) -> bool {
        let rest = self.root_tag.get(1..).unwrap_or_default();
        rest.starts_with(name)
            && rest.get(name.len()).is_none_or(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b':' | b'-' | b'_' | b'.'))
    }

    /// Reads a tag to its `>`, aware of quotes; a `<` ends a malformed one.
    fn tag(&mut self, quote: Option<u8>, kind: Kind) -> Step {
        let mut quote = quote;
        let from = self.scan;
        let step = loop {
            let rest = &self.buffer[self.scan..];
            let found = match quote {
                Some(quote) => memchr2(quote, b'<', rest),
                None => rest.iter().position(|byte| matches!(byte, b'>' | b'"' | b'\'' | b'<')),
            };
            let Some(at) = found else {
                self.scan = self.buffer.len();
                self.state = State::Tag { quote, kind };
                break Step::More;
            };
            let byte = rest[at];
            match (byte, quote) {
                (b'<', _) => {
                    self.scan += at;
                    self.state = State::Text;
                    break Step::Go;
                }
                (b'>', None) => {
                    let position = self.scan + at;
                    self.scan = position + 1;
                    self.state = State::Text;
                    let empty = position > 0 && self.buffer[position - 1] == b'/';
                    break self.tag_end(kind, empty);
                }
                (byte, Some(open)) if byte == open => quote = None,
                (byte, _) => quote = Some(byte),
            }
            self.scan += at + 1;
        };
        if kind == Kind::RootStart {
            let room = ROOT_BYTES_MAX.saturating_sub(self.root_tag.len());
            let end = self.scan.min(from + room);
            self.root_tag.extend_from_slice(&self.buffer[from..end]);
        }
        step
    }

    fn tag_end(&mut self, kind: Kind, empty: bool) -> Step {
        match (kind, empty) {
            (Kind::RecordEnd, _) | (Kind::RecordStart, true) => self.open.take().map_or(Step::Go, Step::Complete),
            (Kind::RootStart, true) => {
                self.root = Root::Closed;
                Step::Go
            }
            _ => Step::Go,
        }
    }

    /// Reads a `<!…>` declaration to its `>`; an internal subset's own declarations are met one by one.
    fn declaration(&mut self, quote: Option<u8>) -> Step {
        let mut quote = quote;
        loop {
            let rest = &self.buffer[self.scan..];
            let found = match quote {
                Some(quote) => memchr(quote, rest),
                None => rest.iter().position(|byte| matches!(byte, b'>' | b'[' | b'"' | b'\'')),
            };
            let Some(at) = found else {
                self.scan = self.buffer.len();
                self.state = State::Declaration { quote };
                return Step::More;
            };
            let byte = rest[at];
            self.scan += at + 1;
            match (byte, quote) {
                (b'>' | b'[', None) => {
                    self.state = State::Text;
                    return Step::Go;
                }
                (_, Some(_)) => quote = None,
                (byte, None) => quote = Some(byte),
            }
        }
    }
}

impl Record<'_> {
    /// Places a reject of the record, whose byte counts from the record's start, in the stream.
    pub fn place(&self, reject: Reject) -> Reject {
        Reject { record: Some(self.record), byte: self.byte + reject.byte, ..reject }
    }
}

/// Streams the records called one of `names` through `read`, which emits what they hold; the rejects of framing are emitted here.
///
/// # Errors
/// What the stream itself reports.
pub fn read_records(
    input: &mut dyn BufRead,
    names: &'static [&'static str],
    limits: &Limits,
    emit: &mut Emit<'_>,
    mut read: impl FnMut(Record<'_>, &mut Emit<'_>) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let mut elements = Elements::new(input, names, limits);
    loop {
        let flow = match elements.next()? {
            None => return Ok(ControlFlow::Continue(())),
            Some(Err(reject)) => emit(Err(reject)),
            Some(Ok(record)) => read(record, emit),
        };
        if flow.is_break() {
            return Ok(flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{BufReader, Read};

    const NAMES: &[&str] = &["page", "article"];

    /// Gives the bytes in pieces of `step`, so that every token is cut everywhere.
    struct Pieces<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let length = self.bytes.len().min(self.step).min(to.len());
            to[..length].copy_from_slice(&self.bytes[..length]);
            self.bytes = &self.bytes[length..];
            Ok(length)
        }
    }

    fn frame(bytes: &[u8], record_bytes_max: usize) -> Vec<Result<(Vec<u8>, u64, u64), (&'static str, Option<u64>, u64)>> {
        let limits = Limits { record_bytes_max, ..Limits::default() };
        let mut elements = Elements::new(bytes, NAMES, &limits);
        let mut found = Vec::new();
        while let Some(next) = elements.next().unwrap() {
            found.push(match next {
                Ok(record) => {
                    let at = record.byte as usize;
                    assert_eq!(record.bytes, &bytes[at..at + record.bytes.len()]);
                    Ok((record.bytes.to_vec(), record.byte, record.record))
                }
                Err(reject) => Err((reject.reason, reject.record, reject.byte)),
            });
        }
        found
    }

    #[test]
    fn frames_records() {
        let xml = br#"<?xml version="1.0"?><!DOCTYPE s [<!ENTITY e "<page>x</page>"> <!-- <page> -->]>
<s a=">"><!-- <page></page> --><page id="1">a</page><q/><page id="2>" b='"'><![CDATA[</page>]]><pages></pages></page ><page/>
<x:article>t<!-- </x:article> --></x:article></s>"#;
        let found: Vec<_> = frame(xml, 1000).into_iter().map(|r| String::from_utf8(r.unwrap().0).unwrap()).collect();
        assert_eq!(
            found,
            [
                r#"<page id="1">a</page>"#,
                r#"<page id="2>" b='"'><![CDATA[</page>]]><pages></pages></page >"#,
                "<page/>",
                "<x:article>t<!-- </x:article> --></x:article>"
            ]
        );
    }

    #[test]
    fn root_may_be_the_record() {
        assert_eq!(frame(b"<?xml version='1.0'?>\n<page>x</page>\n", 1000), [Ok((b"<page>x</page>".to_vec(), 22, 0))]);
    }

    #[test]
    fn record_knows_the_root_tag() {
        let mut elements = Elements::new(&b"<wiki xml:lang=\"pl\"><page/></wiki>"[..], NAMES, &Limits::default());
        assert_eq!(elements.next().unwrap().unwrap().unwrap().root_tag, b"<wiki xml:lang=\"pl\">");
    }

    #[test]
    fn truncated_record_costs_itself_alone() {
        assert_eq!(
            frame(b"<s><page>a<b><page>c</page><page>d", 1000),
            [Err(("xml-truncated", Some(0), 3)), Ok((b"<page>c</page>".to_vec(), 13, 1)), Err(("xml-truncated", Some(2), 27))]
        );
    }

    #[test]
    fn stream_without_its_end_is_told() {
        assert_eq!(frame(b"<s><page/>", 99).last(), Some(&Err(("xml-truncated", None, 10))));
        assert_eq!(frame(b"", 99), [Err(("xml-malformed", None, 0))]);
        assert_eq!(frame(b"no markup", 99), [Err(("xml-malformed", None, 0))]);
        assert_eq!(frame(b"\xFF\xFE<\0", 99), [Err(("encoding-unsupported", None, 0))]);
        assert_eq!(frame(b"<s/>", 99), []);
    }

    #[test]
    fn too_large_is_skipped_without_being_held() {
        let mut xml = b"<s><page>1</page><page>".to_vec();
        xml.resize(xml.len() + (8 << 20), b'x');
        xml.extend_from_slice(b"</page><page>3</page></s>");
        let limits = Limits { record_bytes_max: 1000, ..Limits::default() };
        let mut elements = Elements::new(&xml[..], NAMES, &limits);
        assert_eq!(elements.next().unwrap().unwrap().unwrap().bytes, b"<page>1</page>");
        let reject = elements.next().unwrap().unwrap().unwrap_err();
        assert_eq!((reject.reason, reject.record, reject.byte), ("record-too-large", Some(1), 17));
        assert_eq!(elements.next().unwrap().unwrap().unwrap().bytes, b"<page>3</page>");
        assert!(elements.next().unwrap().is_none());
        // The slice gives all it has at once; a real stream gives pieces, and only those are held.
        let mut elements = Elements::new(BufReader::new(&xml[..]), NAMES, &limits);
        while elements.next().unwrap().is_some() {}
        assert!(elements.buffer.capacity() <= 8 * READ_BYTES, "{}", elements.buffer.capacity());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(tokens in prop::collection::vec(prop::sample::select(vec![
            "<page>", "</page>", "<page a='>'/>", "<!--", "-->", "<![CDATA[", "]]>", "<?", "?>", "<!D [", "]>", "\"", "'", "<", ">", "/", "<s>", "</s>", "é", "text",
            "<article", "</article>", "<pages>",
        ]), 0..40), step in 1usize..9) {
            let xml = tokens.concat().into_bytes();
            let whole = frame(&xml, 60);
            let limits = Limits { record_bytes_max: 60, ..Limits::default() };
            let mut elements = Elements::new(BufReader::with_capacity(step, Pieces { bytes: &xml, step }), NAMES, &limits);
            elements.read_bytes = step;
            let mut found = Vec::new();
            while let Some(next) = elements.next().unwrap() {
                found.push(match next {
                    Ok(record) => Ok((record.bytes.to_vec(), record.byte, record.record)),
                    Err(reject) => Err((reject.reason, reject.record, reject.byte)),
                });
            }
            prop_assert_eq!(found, whole);
        }
    }
}
