//! XML for every reader: a pull reader over a byte slice, and a builder that renders what is read as text.
//!
//! The reader knows local names only, so an unbound prefix is as good as a bound one; it needs no DTD, and it expands no entity
//! that a document declares itself. The builder folds white space and decides where lines and paragraphs end, so that the formats
//! render alike.

mod builder;
mod grid;

pub use builder::TextBuilder;
pub(crate) use grid::Grid;

use crate::entities;
use crate::limits::Limits;
use crate::{Reject, scan};
use memchr::{memchr, memmem};
use std::borrow::Cow;
use std::ops::Deref;

/// Pulls events from one XML document in memory. It copies nothing but what a character reference stands for.
pub struct Reader<'a> {
    text: &'a str,
    /// Bytes of the byte-order mark in front of `text`.
    base: usize,
    at: usize,
    open: Vec<Open>,
    due: Due,
    depth_max: usize,
    unknown_entities: u64,
    failure: Option<Reject>,
}

/// The name of an open element, as a place in the text.
#[derive(Clone, Copy)]
struct Open {
    start: usize,
    local: usize,
    end: usize,
}

/// What comes next whatever the text says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// The element opened last was `<x/>`: its end.
    End,
    /// The error that stays.
    Failure,
}

/// What a [`Reader`] meets. An empty element gives `Start` and then `End`; CDATA and character references are `Text`.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Start(Element<'a>),
    /// The local name.
    End(&'a [u8]),
    Text(Text<'a>),
    Eof,
}

/// The text of an event: a piece of the document, or the character of a reference.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a>(Content<'a>);

#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    Piece(&'a str),
    /// As UTF-8.
    Character {
        bytes: [u8; 4],
        length: u8,
    },
}

impl Deref for Text<'_> {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        match &self.0 {
            Content::Piece(piece) => piece,
            Content::Character { bytes, length } => std::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default(),
        }
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(piece: &'a str) -> Self {
        Self(Content::Piece(piece))
    }
}

impl From<char> for Text<'_> {
    fn from(character: char) -> Self {
        let mut bytes = [0; 4];
        let length = character.encode_utf8(&mut bytes).len() as u8;
        Self(Content::Character { bytes, length })
    }
}

/// A start tag.
#[derive(Debug, Clone, Copy)]
pub struct Element<'a> {
    name: &'a [u8],
    /// What stands between the name and the end of the tag.
    attributes: &'a str,
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
    rest: &'a str,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a [u8], &'a str);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.rest.as_bytes();
        let equals = scan::byte(bytes, 0, b'=')?;
        let mut from = equals + 1;
        while bytes.get(from)?.is_ascii_whitespace() {
            from += 1;
        }
        let quote = Some(bytes[from]).filter(|&byte| byte == b'"' || byte == b'\'')?;
        let end = scan::byte(bytes, from + 1, quote)?;
        let value = &self.rest[from + 1..end];
        self.rest = &self.rest[end + 1..];
        let name = bytes[..equals].trim_ascii();
        let colon = name.iter().position(|&byte| byte == b':');
        Some((colon.map_or(name, |colon| &name[colon + 1..]), value))
    }
}

impl<'a> Reader<'a> {
    /// Starts at the first byte; a UTF-8 byte-order mark is skipped. See [`transcode`] for other encodings.
    pub fn new(bytes: &'a [u8], limits: &Limits) -> Self {
        let base = if bytes.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let (text, failure) = match simdutf8::compat::from_utf8(&bytes[base..]) {
            Ok(text) => (text, None),
            Err(error) => ("", Some(Reject::new("invalid-utf8", base + error.valid_up_to(), "not UTF-8; convert the file to UTF-8"))),
        };
        let due = if failure.is_some() { Due::Failure } else { Due::Nothing };
        Self { text, base, at: 0, open: Vec::new(), due, depth_max: limits.depth_max, unknown_entities: 0, failure }
    }

    /// Returns a reader of the bytes `[start, end)`, as [`Reader::position`] counts them, which this one found to be whole elements. It
    /// counts its own positions from `start`.
    pub fn part(&self, start: usize, end: usize) -> Self {
        let text = start.checked_sub(self.base).and_then(|start| self.text.get(start..end - self.base)).unwrap_or_default();
        Self { text, base: 0, at: 0, open: Vec::new(), due: Due::Nothing, depth_max: usize::MAX, unknown_entities: 0, failure: None }
    }

    /// Returns the next event. After `Eof` comes `Eof`, after an error the same error.
    ///
    /// # Errors
    /// `invalid-utf8`, `too-deep`, `xml-malformed` and `xml-truncated`, with the byte.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Result<Event<'a>, Reject> {
        loop {
            if self.due != Due::Nothing {
                return self.owed();
            }
            match self.rest() {
                [b'<', b'/', ..] => return self.end_tag().map(Event::End),
                [b'<', b'!' | b'?', ..] => {
                    if let Some(text) = self.markup()? {
                        return Ok(Event::Text(text.into()));
                    }
                }
                [b'<', ..] => return self.start_tag().map(Event::Start),
                [b'&', ..] => {
                    if let Some(text) = self.reference() {
                        return Ok(Event::Text(text));
                    }
                }
                [_, ..] => {
                    let end = scan::text_end(self.text.as_bytes(), self.at);
                    return Ok(Event::Text(self.take(end).into()));
                }
                [] => return self.end_of_file(),
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
            if self.due != Due::Nothing {
                self.owed()?;
                continue;
            }
            self.at = scan::tag_start(self.text.as_bytes(), self.at);
            match self.rest() {
                [b'<', b'/', ..] => {
                    self.end_tag()?;
                }
                [b'<', b'!' | b'?', ..] => {
                    self.markup()?;
                }
                [b'<', ..] => {
                    self.start_tag()?;
                }
                _ => {
                    self.end_of_file()?;
                }
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

    /// Consumes the text up to `end`, a character's boundary.
    #[inline]
    fn take(&mut self, end: usize) -> &'a str {
        let taken = &self.text[self.at..end];
        self.at = end;
        taken
    }

    /// Gives what is due before the text goes on.
    fn owed(&mut self) -> Result<Event<'a>, Reject> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.due = Due::Nothing;
        Ok(Event::End(self.close()))
    }

    /// Closes the innermost element and returns its local name.
    #[inline]
    fn close(&mut self) -> &'a [u8] {
        self.open.pop().map_or(b"", |open| &self.text.as_bytes()[open.local..open.end])
    }

    #[cold]
    fn end_of_file(&mut self) -> Result<Event<'a>, Reject> {
        if self.open.is_empty() {
            return Ok(Event::Eof);
        }
        let detail = format!("the file ends inside {} open elements; fetch it again", self.open.len());
        Err(self.fail("xml-truncated", detail))
    }

    /// Reads what begins with `<!` or `<?`; only CDATA is text.
    #[cold]
    fn markup(&mut self) -> Result<Option<&'a str>, Reject> {
        let rest = self.rest();
        match rest {
            [b'<', b'?', ..] => self.skip_to(rest, b"?>")?,
            [b'<', b'!', b'-', b'-', after @ ..] => self.skip_to(after, b"-->")?,
            [b'<', b'!', b'[', b'C', b'D', b'A', b'T', b'A', b'[', after @ ..] => match memmem::find(after, b"]]>") {
                Some(length) => {
                    self.at += 9;
                    let text = self.take(self.at + length);
                    self.at += 3;
                    return Ok(Some(text));
                }
                None => return Err(self.cut()),
            },
            [b'<', b'!', after @ ..] if after.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"DOCTYPE")) => match doctype(rest) {
                Some(length) => self.at += length,
                None => return Err(self.cut()),
            },
            [b'<', b'!', after @ ..] if [&b"--"[..], b"[CDATA[", b"DOCTYPE"].iter().any(|word| word.starts_with(after)) => {
                return Err(self.cut());
            }
            _ => return Err(self.fail("xml-malformed", "`<!` begins neither a comment, CDATA nor DOCTYPE")),
        }
        Ok(None)
    }

    /// Skips to behind `close`, which is looked for in `after`, a tail of the rest.
    fn skip_to(&mut self, after: &[u8], close: &[u8]) -> Result<(), Reject> {
        let length = memmem::find(after, close).ok_or_else(|| self.cut())?;
        self.at = self.text.len() - after.len() + length + close.len();
        Ok(())
    }

    /// Reads an end tag and returns its local name.
    #[inline]
    fn end_tag(&mut self) -> Result<&'a [u8], Reject> {
        let bytes = self.text.as_bytes();
        if let Some(open) = self.open.last() {
            let (start, length) = (self.at + 2, open.end - open.start);
            if scan::same(bytes, open.start, start, length) == Some(true) && bytes.get(start + length) == Some(&b'>') {
                self.at = start + length + 1;
                return Ok(self.close());
            }
        }
        self.end_tag_checked()
    }

    /// As [`Self::end_tag`], for long names, tags near the end of the file, with white space or that do not match.
    #[cold]
    fn end_tag_checked(&mut self) -> Result<&'a [u8], Reject> {
        let (bytes, rest) = (self.text.as_bytes(), self.rest());
        let Some(length) = memchr(b'>', rest) else { return Err(self.cut()) };
        let name = rest[2..length].trim_ascii_end();
        match self.open.last() {
            Some(open) if &bytes[open.start..open.end] == name => {
                self.at += length + 1;
                Ok(self.close())
            }
            Some(_) => Err(self.fail("xml-malformed", "an end tag does not match the open element")),
            None => Err(self.fail("xml-malformed", "an end tag without an open element")),
        }
    }

    #[inline]
    fn start_tag(&mut self) -> Result<Element<'a>, Reject> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let Some(name) = scan::name(bytes, start) else { return self.start_tag_checked() };
        let end = match bytes[name.end] {
            b'>' => name.end,
            b' ' | b'\n' | b'\t' | b'\r' => match scan::tag_end(bytes, name.end) {
                Some(end) => end,
                None => return Err(self.cut()),
            },
            b'/' if bytes.get(name.end + 1) == Some(&b'>') => name.end + 1,
            _ => return self.start_tag_checked(),
        };
        self.enter(Open { start, local: name.local, end: name.end }, end)
    }

    /// As [`Self::start_tag`], for long names, tags near the end of the file and odd ones.
    #[cold]
    fn start_tag_checked(&mut self) -> Result<Element<'a>, Reject> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let Some(end) = scan::tag_end(bytes, start) else { return Err(self.cut()) };
        let tag = &bytes[start..end];
        let tag = tag.strip_suffix(b"/").unwrap_or(tag);
        let name = &tag[..tag.iter().position(u8::is_ascii_whitespace).unwrap_or(tag.len())];
        let local = start + memchr(b':', name).map_or(0, |colon| colon + 1);
        self.enter(Open { start, local, end: start + name.len() }, end)
    }

    /// Opens the element whose tag ends with the `>` at `end`.
    #[inline(always)]
    fn enter(&mut self, open: Open, end: usize) -> Result<Element<'a>, Reject> {
        let bytes = self.text.as_bytes();
        let name = &bytes[open.local..open.end];
        if !name.first().is_some_and(|&byte| byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80) {
            return Err(self.fail("xml-malformed", "a tag without a name; a `<` in text must be written `&lt;`"));
        }
        if self.open.len() >= self.depth_max {
            let detail = format!("more than {} elements open at once; raise depth_max if the file is sound", self.depth_max);
            return Err(self.fail("too-deep", detail));
        }
        let empty = bytes[end - 1] == b'/';
        if empty {
            self.due = Due::End;
        }
        self.open.push(open);
        self.at = end + 1;
        Ok(Element { name, attributes: &self.text[open.end..end - usize::from(empty)] })
    }

    /// Reads what begins with `&`. One that begins no reference is text; `None` for an unknown one.
    fn reference(&mut self) -> Option<Text<'a>> {
        let name = self.at + 1;
        let end = scan::reference_end(self.text.as_bytes(), name);
        if self.text.as_bytes().get(end) != Some(&b';') {
            return Some(self.take(end).into());
        }
        self.at = end + 1;
        let resolved = resolve(&self.text[name..end]);
        self.unknown_entities += u64::from(resolved.is_none());
        resolved
    }

    #[cold]
    fn cut(&mut self) -> Reject {
        self.fail("xml-truncated", "the file ends inside a tag, comment, CDATA or DOCTYPE; fetch it again")
    }

    #[cold]
    fn fail(&mut self, reason: &'static str, detail: impl Into<String>) -> Reject {
        let reject = Reject::new(reason, self.position(), detail);
        self.failure = Some(reject.clone());
        self.due = Due::Failure;
        reject
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

/// Resolves what stands between `&` and `;`. `None` for an unknown name or a number that is no character.
fn resolve(reference: &str) -> Option<Text<'static>> {
    if let Some(number) = reference.strip_prefix('#') {
        return numbered(number).map(Text::from);
    }
    match reference {
        "amp" => Some("&"),
        "lt" => Some("<"),
        "gt" => Some(">"),
        "quot" => Some("\""),
        "apos" => Some("'"),
        name => entities::lookup(name),
    }
    .map(Text::from)
}

/// Resolves a character's number, hexadecimal behind an `x`.
fn numbered(number: &str) -> Option<char> {
    let (digits, radix) = match number.as_bytes() {
        [b'x' | b'X', digits @ ..] => (digits, 16),
        digits => (digits, 10),
    };
    let mut code = 0_u32;
    for &digit in digits {
        code = code.checked_mul(radix)?.checked_add(char::from(digit).to_digit(radix)?)?;
    }
    // No digits are as little a character as U+0000 is one of XML.
    char::from_u32(code).filter(|&character| character != '\0')
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

#[cfg(test)]
mod tests;
