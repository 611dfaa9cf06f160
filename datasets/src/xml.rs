//! XML for every reader: a pull reader over a byte slice, and a builder that renders what is read as text.
//!
//! The reader knows local names only, so an unbound prefix is as good as a bound one; it needs no DTD, and it expands no entity
//! that a document declares itself. The builder folds white space and decides where lines and paragraphs end, so that the formats
//! render alike.

mod grid;

pub(crate) use grid::Grid;

use crate::entities;
use crate::limits::Limits;
use crate::{Document, Reject, Section};
use memchr::{memchr, memchr2, memchr3, memmem};
use std::borrow::Cow;

/// Pulls events from one XML document in memory. It copies nothing but what a character reference stands for.
pub struct Reader<'a> {
    text: &'a str,
    /// Bytes of the byte-order mark in front of `text`.
    base: usize,
    at: usize,
    /// The names of the open elements, prefixes included.
    open: Vec<&'a [u8]>,
    /// The element opened last was `<x/>`: its end is due.
    empty: bool,
    depth_max: usize,
    unknown_entities: u64,
    failed: Option<Reject>,
}

/// What a [`Reader`] meets. An empty element gives `Start` and then `End`; CDATA and character references are `Text`.
#[derive(Debug)]
pub enum Event<'a> {
    Start(Element<'a>),
    /// The local name.
    End(&'a [u8]),
    Text(Cow<'a, str>),
    Eof,
}

/// A start tag.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    name: &'a [u8],
    /// What stands between the name and the end of the tag.
    attributes: &'a [u8],
}

impl<'a> Element<'a> {
    /// Returns the name without its prefix.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// Returns the value of the first attribute of that local name, its entities resolved.
    pub fn attribute(&self, local_name: &[u8]) -> Option<Cow<'a, str>> {
        self.attributes().find(|(name, _)| *name == local_name).map(|(_, value)| unescape(value))
    }

    /// Iterates over local names and raw values; stops where the tag is not well-formed.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.attributes }
    }
}

/// The attributes of an [`Element`].
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a [u8], &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.trim_ascii_start();
        let equals = rest.iter().position(|&byte| byte == b'=')?;
        let name = rest[..equals].trim_ascii_end();
        let value = rest[equals + 1..].trim_ascii_start();
        let quote = *value.first().filter(|&&byte| byte == b'"' || byte == b'\'')?;
        let length = value[1..].iter().position(|&byte| byte == quote)?;
        self.rest = &value[length + 2..];
        Some((local_name(name), std::str::from_utf8(&value[1..=length]).ok()?))
    }
}

impl<'a> Reader<'a> {
    /// Starts at the first byte; a UTF-8 byte-order mark is skipped. See [`transcode`] for other encodings.
    pub fn new(bytes: &'a [u8], limits: &Limits) -> Self {
        let base = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let (text, failed) = match std::str::from_utf8(&bytes[base..]) {
            Ok(text) => (text, None),
            Err(error) => ("", Some(Reject::new("invalid-utf8", base + error.valid_up_to(), "not UTF-8; convert the file to UTF-8"))),
        };
        Self { text, base, at: 0, open: Vec::new(), empty: false, depth_max: limits.depth_max, unknown_entities: 0, failed }
    }

    /// Returns the next event. After `Eof` comes `Eof`, after an error the same error.
    ///
    /// # Errors
    /// `invalid-utf8`, `too-deep`, `xml-malformed` and `xml-truncated`, with the byte.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Event<'a>, Reject> {
        loop {
            let step = match self.rest().first() {
                _ if self.empty || self.failed.is_some() => self.markup()?,
                Some(b'<') | None => self.markup()?,
                Some(b'&') => self.reference(),
                Some(_) => {
                    let length = memchr2(b'<', b'&', self.rest()).unwrap_or(self.rest().len());
                    Step::Event(Event::Text(Cow::Borrowed(self.take(length))))
                }
            };
            if let Step::Event(event) = step {
                return Ok(event);
            }
        }
    }

    /// Skips to behind the end of the element whose `Start` came last.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn skip_element(&mut self) -> Result<(), Reject> {
        let outside = self.open.len().saturating_sub(1);
        while self.open.len() > outside {
            if !self.empty {
                self.at += memchr(b'<', self.rest()).unwrap_or(self.rest().len());
            }
            if let Step::Event(Event::Eof) = self.markup()? {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many bytes are consumed.
    pub fn position(&self) -> usize {
        self.base + self.at
    }

    /// Returns how many elements are open; after a `Start` that element counts, after its `End` it does not.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Returns how many references to entities were dropped because nothing says what they stand for.
    pub fn unknown_entities(&self) -> u64 {
        self.unknown_entities
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// Consumes `length` bytes, which end at a character's boundary.
    fn take(&mut self, length: usize) -> &'a str {
        let taken = &self.text[self.at..self.at + length];
        self.at += length;
        taken
    }

    /// Reads what begins with `<`, the end that an empty element owes, or the end of the file.
    fn markup(&mut self) -> Result<Step<'a>, Reject> {
        if let Some(reject) = &self.failed {
            return Err(reject.clone());
        }
        if std::mem::take(&mut self.empty) {
            return Ok(Step::Event(Event::End(self.open.pop().map_or(b"", local_name))));
        }
        let rest = self.rest();
        match rest {
            [] if self.open.is_empty() => Ok(Step::Event(Event::Eof)),
            [] => {
                let detail = format!("the file ends inside {} open elements; fetch it again", self.open.len());
                Err(self.fail("xml-truncated", detail))
            }
            [b'<', b'/', ..] => self.end_tag(rest),
            [b'<', b'?', ..] => self.skip_to(rest, b"?>"),
            [b'<', b'!', b'-', b'-', after @ ..] => self.skip_to(after, b"-->"),
            [b'<', b'!', b'[', b'C', b'D', b'A', b'T', b'A', b'[', after @ ..] => match memmem::find(after, b"]]>") {
                Some(length) => {
                    self.at += 9;
                    let text = self.take(length);
                    self.at += 3;
                    Ok(Step::Event(Event::Text(Cow::Borrowed(text))))
                }
                None => Err(self.cut()),
            },
            [b'<', b'!', after @ ..] if after.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"DOCTYPE")) => match doctype(rest) {
                Some(length) => {
                    self.at += length;
                    Ok(Step::Skipped)
                }
                None => Err(self.cut()),
            },
            [b'<', b'!', after @ ..] if [&b"--"[..], b"[CDATA[", b"DOCTYPE"].iter().any(|word| word.starts_with(after)) => Err(self.cut()),
            [b'<', b'!', ..] => Err(self.fail("xml-malformed", "`<!` begins neither a comment, CDATA nor DOCTYPE")),
            _ => self.start_tag(rest),
        }
    }

    /// Skips to behind `close`, which is looked for in `after`, a tail of the rest.
    fn skip_to(&mut self, after: &[u8], close: &[u8]) -> Result<Step<'a>, Reject> {
        match memmem::find(after, close) {
            Some(length) => {
                self.at = self.text.len() - after.len() + length + close.len();
                Ok(Step::Skipped)
            }
            None => Err(self.cut()),
        }
    }

    fn end_tag(&mut self, rest: &'a [u8]) -> Result<Step<'a>, Reject> {
        let Some(length) = memchr(b'>', rest) else { return Err(self.cut()) };
        let name = rest[2..length].trim_ascii_end();
        match self.open.last() {
            Some(&open) if open == name => {
                self.open.pop();
                self.at += length + 1;
                Ok(Step::Event(Event::End(local_name(name))))
            }
            Some(_) => Err(self.fail("xml-malformed", "an end tag does not match the open element")),
            None => Err(self.fail("xml-malformed", "an end tag without an open element")),
        }
    }

    fn start_tag(&mut self, rest: &'a [u8]) -> Result<Step<'a>, Reject> {
        let Some(length) = tag_length(rest) else { return Err(self.cut()) };
        let tag = &rest[1..length];
        let (tag, empty) = tag.strip_suffix(b"/").map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_at(tag.iter().position(u8::is_ascii_whitespace).unwrap_or(tag.len()));
        let local = local_name(name);
        if !local.first().is_some_and(|&byte| byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80) {
            return Err(self.fail("xml-malformed", "a tag without a name; a `<` in text must be written `&lt;`"));
        }
        if self.open.len() >= self.depth_max {
            let detail = format!("more than {} elements open at once; raise depth_max if the file is sound", self.depth_max);
            return Err(self.fail("too-deep", detail));
        }
        self.open.push(name);
        self.empty = empty;
        self.at += length + 1;
        Ok(Step::Event(Event::Start(Element { name: local, attributes })))
    }

    /// Reads what begins with `&`. One that begins no reference is text.
    fn reference(&mut self) -> Step<'a> {
        let rest = self.rest();
        let length = memchr3(b';', b'&', b'<', &rest[1..]).map_or(rest.len(), |length| length + 1);
        if rest.get(length) != Some(&b';') {
            return Step::Event(Event::Text(Cow::Borrowed(self.take(length))));
        }
        let reference = self.take(length + 1);
        match resolve(&reference[1..length]) {
            Some(text) => Step::Event(Event::Text(text)),
            None => {
                self.unknown_entities += 1;
                Step::Skipped
            }
        }
    }

    #[cold]
    fn cut(&mut self) -> Reject {
        self.fail("xml-truncated", "the file ends inside a tag, comment, CDATA or DOCTYPE; fetch it again")
    }

    #[cold]
    fn fail(&mut self, reason: &'static str, detail: impl Into<String>) -> Reject {
        let reject = Reject::new(reason, self.position(), detail);
        self.failed = Some(reject.clone());
        reject
    }
}

/// Finds the `>` that ends the tag at the start of `rest`: one within quotes does not.
fn tag_length(rest: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr3(b'>', b'"', b'\'', &rest[at..])?;
        if rest[at] == b'>' {
            return Some(at);
        }
        at += 2 + memchr(rest[at], &rest[at + 1..])?;
    }
}

/// Finds the length of the DOCTYPE at the start of `rest`, its internal subset included.
fn doctype(rest: &[u8]) -> Option<usize> {
    let mut at = 2;
    let mut open = 0_usize;
    loop {
        let tail = rest.get(at..)?;
        at += match tail {
            [b'<', b'!', b'-', b'-', after @ ..] => 4 + memmem::find(after, b"-->")? + 3,
            [b'<', b'?', after @ ..] => 2 + memmem::find(after, b"?>")? + 2,
            [quote @ (b'"' | b'\''), after @ ..] => 2 + memchr(*quote, after)?,
            [b'[' | b'<', ..] => {
                open += 1;
                1
            }
            [b'>', ..] if open == 0 => return Some(at + 1),
            [b']' | b'>', ..] => {
                open = open.saturating_sub(1);
                1
            }
            [] => return None,
            _ => 1,
        };
    }
}

enum Step<'a> {
    Event(Event<'a>),
    Skipped,
}

fn local_name(name: &[u8]) -> &[u8] {
    memchr(b':', name).map_or(name, |colon| &name[colon + 1..])
}

/// Resolves what stands between `&` and `;`. `None` for an unknown name or a number that is no character.
fn resolve(reference: &str) -> Option<Cow<'static, str>> {
    let Some(number) = reference.strip_prefix('#') else {
        return match reference {
            "amp" => Some("&"),
            "lt" => Some("<"),
            "gt" => Some(">"),
            "quot" => Some("\""),
            "apos" => Some("'"),
            name => entities::lookup(name),
        }
        .map(Cow::Borrowed);
    };
    let code = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => number.parse().ok()?,
    };
    let character = char::from_u32(code).filter(|&character| character != '\0')?;
    Some(match character {
        '\u{a0}' => Cow::Borrowed("\u{a0}"),
        '\u{2009}' => Cow::Borrowed("\u{2009}"),
        '\u{2013}' => Cow::Borrowed("\u{2013}"),
        character => Cow::Owned(character.into()),
    })
}

/// Replaces the entities of an attribute's value; unknown ones are dropped, a lone `&` stays.
fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('&') {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.find([';', '&']).filter(|&end| rest.as_bytes()[end] == b';') {
            Some(end) => {
                out.push_str(resolve(&rest[..end]).as_deref().unwrap_or_default());
                rest = &rest[end + 1..];
            }
            None => out.push('&'),
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Turns UTF-16 with a byte-order mark, and declared ISO 8859-1, Windows-1252, into UTF-8; all else is returned as it is.
///
/// # Errors
/// `invalid-utf16` where a surrogate stands alone or half a unit is left over.
pub fn transcode(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Reject> {
    let unit: fn([u8; 2]) -> u16 = match bytes {
        [0xFF, 0xFE, ..] => u16::from_le_bytes,
        [0xFE, 0xFF, ..] => u16::from_be_bytes,
        _ if declares_latin(bytes) => {
            let text: String = bytes.iter().map(|&byte| windows_1252(byte)).collect();
            return Ok(Cow::Owned(text.into_bytes()));
        }
        _ => return Ok(Cow::Borrowed(bytes)),
    };
    let (units, rest) = bytes[2..].as_chunks::<2>();
    let mut text = String::with_capacity(bytes.len());
    for (index, decoded) in char::decode_utf16(units.iter().map(|&pair| unit(pair))).enumerate() {
        let character = decoded.map_err(|_| Reject::new("invalid-utf16", 2 + 2 * index, "a surrogate without its partner"))?;
        text.push(character);
    }
    if !rest.is_empty() {
        return Err(Reject::new("invalid-utf16", bytes.len(), "an odd number of bytes; the file is cut off"));
    }
    Ok(Cow::Owned(text.into_bytes()))
}

/// Whether the XML declaration names a one-byte Latin encoding.
fn declares_latin(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(128)];
    let Some(declaration) = head.strip_prefix(b"<?xml").and_then(|rest| rest.split(|&byte| byte == b'>').next()) else { return false };
    let declaration = declaration.to_ascii_lowercase();
    [&b"iso-8859-1\""[..], b"iso-8859-1'", b"windows-1252", b"latin1", b"latin-1"]
        .iter()
        .any(|name| declaration.windows(name.len()).any(|window| window == *name))
}

/// Decodes a byte of Windows-1252, which is ISO 8859-1 with the control characters 0x80 to 0x9F replaced.
fn windows_1252(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•',
        '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9F => HIGH[usize::from(byte) - 0x80],
        byte => char::from(byte),
    }
}

/// Renders what a reader finds as text: white space folded, paragraphs one empty line apart, list items as `- item`, table rows as
/// lines of cells joined by ` | `. A break takes effect only before the next text, so nothing empty and no trailing space remains.
#[derive(Debug, Default)]
pub struct TextBuilder {
    text: String,
    sections: Vec<Section>,
    /// The sections around the position; `None` for one that has no title (yet).
    open: Vec<Option<usize>>,
    title_start: Option<usize>,
    gap: Gap,
    /// The next break is only a space.
    joined: bool,
    /// `- ` is due before the next text.
    item: bool,
    lists: usize,
    tables: usize,
    /// Cell separators due before the next text.
    cells: usize,
}

/// What separates the next text from the last, weakest first.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    #[default]
    None,
    Space,
    Line,
    Paragraph,
}

impl TextBuilder {
    /// Returns an empty builder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties the builder and keeps its buffers.
    pub fn clear(&mut self) {
        let (mut text, mut sections, mut open) =
            (std::mem::take(&mut self.text), std::mem::take(&mut self.sections), std::mem::take(&mut self.open));
        text.clear();
        sections.clear();
        open.clear();
        *self = Self { text, sections, open, ..Self::default() };
    }

    /// Appends text of the running line: white space (Unicode's) becomes one space.
    pub fn inline(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let (mut start, mut at) = (0, 0);
        while at < bytes.len() {
            match CLASS[usize::from(bytes[at])] {
                Class::Plain => at += 1,
                Class::Space => {
                    // A single space between words is copied with them.
                    if bytes[at] == b' ' && at > start && bytes.get(at + 1).is_some_and(|&next| CLASS[usize::from(next)] == Class::Plain) {
                        at += 2;
                        continue;
                    }
                    self.append(&text[start..at]);
                    self.space();
                    at += 1;
                    start = at;
                }
                Class::Lead => match text[at..].chars().next() {
                    Some(character) if character.is_whitespace() => {
                        self.append(&text[start..at]);
                        self.space();
                        at += character.len_utf8();
                        start = at;
                    }
                    character => at += character.map_or(1, char::len_utf8),
                },
            }
        }
        self.append(&text[start..]);
    }

    /// Appends text whose line breaks and spaces count, as a paragraph of its own. Blank lines inside and trailing spaces go.
    pub fn preformatted(&mut self, text: &str) {
        self.paragraph();
        for line in text.lines() {
            let line = line.trim_end();
            if line.trim_start().is_empty() {
                continue;
            }
            self.append(line);
            self.line();
        }
        self.paragraph();
    }

    /// Separates the next text by a space, if nothing stronger does.
    pub fn space(&mut self) {
        self.gap = self.gap.max(Gap::Space);
    }

    /// Takes back a space that is due, and only that.
    pub fn unspace(&mut self) {
        if self.gap == Gap::Space && !self.joined && self.cells == 0 {
            self.gap = Gap::None;
        }
    }

    /// Takes back `text` and the space before it if they were written last; a space is due instead. Returns whether it did.
    pub(crate) fn take_back(&mut self, text: &str) -> bool {
        let Some(before) = self.text.strip_suffix(text).and_then(|before| before.strip_suffix(' ')).map(str::len) else { return false };
        if self.touching().is_none() {
            return false;
        }
        self.text.truncate(before);
        self.space();
        true
    }

    /// Starts a new line; in a table's cell, a space.
    pub fn line(&mut self) {
        self.gap = self.gap.max(if self.tables > 0 || self.joined { Gap::Space } else { Gap::Line });
    }

    /// Starts a new paragraph; in a list item a line, in a table's cell a space.
    pub fn paragraph(&mut self) {
        let gap = match (self.tables, self.lists) {
            _ if self.joined => Gap::Space,
            (0, 0) => Gap::Paragraph,
            (0, _) => Gap::Line,
            _ => Gap::Space,
        };
        self.gap = self.gap.max(gap);
    }

    /// Puts what follows behind what was just written, a space between, whatever breaks are asked for before it: for a label.
    pub fn join(&mut self) {
        if !self.text.is_empty() && self.gap <= Gap::Space && self.cells == 0 && !self.item {
            self.gap = Gap::Space;
            self.joined = true;
        }
    }

    /// Begins a list; lists nest.
    pub fn begin_list(&mut self) {
        self.paragraph();
        self.lists += 1;
    }

    /// Begins an item of the list.
    pub fn item(&mut self) {
        self.joined = false;
        self.line();
        self.item = self.tables == 0;
    }

    /// Ends the innermost list.
    pub fn end_list(&mut self) {
        self.item = false;
        self.lists = self.lists.saturating_sub(1);
        self.paragraph();
    }

    /// Begins a table; one inside a cell is flattened into it.
    pub fn begin_table(&mut self) {
        self.paragraph();
        self.tables += 1;
    }

    /// Begins a row.
    pub fn row(&mut self) {
        if self.tables == 1 {
            self.joined = false;
            self.gap = self.gap.max(Gap::Line);
            self.cells = 0;
        } else {
            self.space();
        }
    }

    /// Separates the cell that follows from the one before; the first cell of a row needs none.
    pub fn cell(&mut self) {
        if self.tables == 1 {
            self.cells += 1;
        } else {
            self.space();
        }
    }

    /// Ends the innermost table.
    pub fn end_table(&mut self) {
        self.tables = self.tables.saturating_sub(1);
        if self.tables == 0 {
            self.cells = 0;
        }
        self.paragraph();
    }

    /// Opens a section one level below the one around it. Without a title it leaves no trace.
    pub fn begin_section(&mut self) {
        self.joined = false;
        self.paragraph();
        self.open.push(None);
    }

    /// Begins the title of the innermost section. A label that was begun as a title and joined becomes its first words.
    pub fn begin_title(&mut self) {
        if self.title_start.is_none() || !self.joined {
            self.joined = false;
            self.paragraph();
            self.title_start = Some(self.text.len());
        }
    }

    /// Ends the title; an empty one, or one outside any section, gives no [`Section`].
    pub fn end_title(&mut self) {
        let start = self.title_start.take().unwrap_or(self.text.len());
        let start = start + self.text[start..].bytes().take_while(|&byte| byte == b'\n').count();
        if start < self.text.len() && self.open.last() == Some(&None) {
            let title = self.text[start..].replace('\n', " ");
            let level = self.open.iter().flatten().count() as u32 + 1;
            self.open.pop();
            self.open.push(Some(self.sections.len()));
            self.sections.push(Section { title, level, start, end: self.text.len() });
        }
        self.paragraph();
    }

    /// Ends the innermost section.
    pub fn end_section(&mut self) {
        self.paragraph();
        if let Some(section) = self.open.pop().flatten().and_then(|index| self.sections.get_mut(index)) {
            section.end = self.text.len();
        }
    }

    /// Starts a section by a heading of level `level` (from 1), as formats without nesting have it: ends those of that level and
    /// below, and takes `title` for the new one's.
    pub fn heading(&mut self, level: u32, title: &str) {
        while self.open.len() >= level.max(1) as usize {
            self.end_section();
        }
        while self.open.len() < (level.clamp(1, 32) as usize) - 1 {
            self.begin_section();
        }
        self.begin_section();
        self.begin_title();
        self.inline(title);
        self.end_title();
    }

    /// Returns how many bytes of text there are.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Returns whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Returns the text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the last character written if the next text would touch it.
    pub fn touching(&self) -> Option<char> {
        if self.gap == Gap::None && self.cells == 0 && !self.item { self.text.chars().next_back() } else { None }
    }

    /// Ends what is open, and exchanges text and sections with the document's; the builder is empty afterwards.
    pub fn finish(&mut self, document: &mut Document) {
        while !self.open.is_empty() {
            self.end_section();
        }
        std::mem::swap(&mut self.text, &mut document.text);
        std::mem::swap(&mut self.sections, &mut document.sections);
        self.clear();
    }

    /// Appends text as it is, behind the breaks that are due.
    fn append(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.gap != Gap::None || self.cells > 0 || self.item {
            self.separate();
        }
        self.text.push_str(text);
    }

    #[cold]
    fn separate(&mut self) {
        let line_start = self.text.is_empty() || self.gap >= Gap::Line;
        if !self.text.is_empty() {
            self.text.push_str(match self.gap {
                Gap::None => "",
                Gap::Space if self.cells > 0 => "",
                Gap::Space => " ",
                Gap::Line => "\n",
                Gap::Paragraph => "\n\n",
            });
        }
        for index in 0..self.cells {
            self.text.push_str(if index > 0 || line_start { "| " } else { " | " });
        }
        if self.item {
            self.text.push_str("- ");
        }
        (self.gap, self.joined, self.cells, self.item) = (Gap::None, false, 0, false);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Plain,
    Space,
    /// May begin a white-space character that is not ASCII.
    Lead,
}

/// By first byte: U+0085 and U+00A0 begin with C2, U+1680 with E1, U+2000 to U+205F with E2, U+3000 with E3.
const CLASS: [Class; 256] = {
    let mut class = [Class::Plain; 256];
    class[9] = Class::Space;
    class[10] = Class::Space;
    class[11] = Class::Space;
    class[12] = Class::Space;
    class[13] = Class::Space;
    class[32] = Class::Space;
    class[0xC2] = Class::Lead;
    class[0xE1] = Class::Lead;
    class[0xE2] = Class::Lead;
    class[0xE3] = Class::Lead;
    class
};

#[cfg(test)]
mod tests;
