//! Markdown to text: headings become sections; link targets, images' addresses, comments and marks of emphasis go.
//!
//! One pass over lines, one over the letters of each paragraph; nothing nests, so that no input is deep. Not a renderer: what it does not
//! know stays as it stands.

use crate::Document;
use crate::fields::{close_sections, heading};

/// Fills title, text and sections of `document` from Markdown; the first heading of the document is its title and is not repeated in the text
/// when nothing but other metadata stands before it.
pub(crate) fn convert(source: &str, document: &mut Document) {
    let body = front_matter(source, document);
    let source = without_comments(body);
    let mut state = Converter { document, paragraph: String::new(), kind: Kind::Paragraph, pending: String::new(), contents: false };
    let mut fence: Option<(char, usize)> = None;
    for line in source.split('\n') {
        let line = line.trim_end_matches('\r');
        let trimmed = line.trim();
        if let Some((mark, length)) = fence {
            let closing = trimmed.len() >= length && !trimmed.is_empty() && trimmed.chars().all(|letter| letter == mark);
            if closing {
                fence = None;
                state.flush();
            } else {
                state.verbatim(line);
            }
        } else if let Some(opened) = opens_fence(trimmed) {
            state.flush();
            fence = Some(opened);
        } else {
            state.line(line, trimmed);
        }
    }
    state.flush();
    close_sections(document);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Paragraph,
    List,
    Table,
    Verbatim,
}

struct Converter<'a> {
    document: &'a mut Document,
    /// The block being gathered, already converted where its lines stand for themselves.
    paragraph: String,
    kind: Kind,
    /// Source of the current line or item, which further lines continue.
    pending: String,
    /// Every item of the list so far is a link to a place in the same document.
    contents: bool,
}

impl Converter<'_> {
    fn line(&mut self, line: &str, trimmed: &str) {
        let mut trimmed = trimmed;
        while let Some(quoted) = trimmed.strip_prefix('>') {
            trimmed = quoted.trim_start();
        }
        if trimmed.is_empty() {
            // A list goes on after an empty line; a paragraph does not.
            self.finish_line();
            if self.kind != Kind::List {
                self.flush();
            }
        } else if let Some((level, title)) = atx(trimmed) {
            self.flush();
            self.section(level, title);
        } else if self.kind == Kind::Paragraph && !self.pending.is_empty() && underline(trimmed).is_some() {
            let title = std::mem::take(&mut self.pending);
            self.flush();
            self.section(underline(trimmed).unwrap_or(1), &title);
        } else if rule(trimmed) || definition(trimmed) {
            self.flush();
        } else if trimmed.starts_with('|') || self.kind == Kind::Table && trimmed.contains('|') {
            self.row(trimmed);
        } else if let Some(item) = item(trimmed) {
            self.item(item);
        } else if self.kind == Kind::List && !line.starts_with([' ', '\t']) && self.pending.is_empty() {
            self.flush();
            self.continued(line, trimmed);
        } else {
            if self.kind == Kind::Table {
                self.flush();
            }
            self.continued(line, trimmed);
        }
    }

    /// Adds a line of running text to what stands before; two spaces or a backslash at its end break the line.
    fn continued(&mut self, line: &str, trimmed: &str) {
        self.contents = false;
        if !self.pending.is_empty() && !self.pending.ends_with('\n') {
            self.pending.push(' ');
        }
        let broken = line.ends_with("  ") || trimmed.ends_with('\\');
        self.pending.push_str(trimmed.strip_suffix('\\').unwrap_or(trimmed));
        if broken {
            self.pending.push('\n');
        }
    }

    fn item(&mut self, (mark, text): (&str, &str)) {
        self.finish_line();
        if self.kind != Kind::List {
            self.flush();
            self.kind = Kind::List;
            self.contents = true;
        }
        self.contents &= links_within(text);
        self.pending.push_str(mark);
        self.pending.push_str(text);
    }

    fn row(&mut self, trimmed: &str) {
        if self.kind != Kind::Table {
            self.flush();
            self.kind = Kind::Table;
        }
        let inner = trimmed.strip_prefix('|').unwrap_or(trimmed);
        let inner = inner.strip_suffix('|').unwrap_or(inner);
        if inner.chars().all(|letter| matches!(letter, '-' | ':' | '|' | ' ' | '\t')) {
            return;
        }
        let mut row = String::new();
        for (number, cell) in cells(inner).into_iter().enumerate() {
            if number > 0 {
                row.push_str(" | ");
            }
            let mut text = String::new();
            inline(cell.trim(), &mut text);
            row.push_str(&text.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        let row = row.trim_end();
        if !row.is_empty() {
            push_line(&mut self.paragraph, row);
        }
    }

    fn verbatim(&mut self, line: &str) {
        self.kind = Kind::Verbatim;
        if !(self.paragraph.is_empty() && line.trim().is_empty()) {
            push_line(&mut self.paragraph, line.trim_end());
        }
    }

    fn section(&mut self, level: u32, source: &str) {
        let mut title = String::new();
        inline(source, &mut title);
        let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
        if title.is_empty() {
            return;
        }
        if self.document.title.is_none() && self.document.sections.is_empty() {
            self.document.title = Some(title);
        } else {
            heading(self.document, &title, level);
        }
    }

    /// Converts the pending source to lines of the block.
    fn finish_line(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut text = String::new();
        inline(self.pending.trim_end(), &mut text);
        self.pending.clear();
        for line in text.lines() {
            let folded = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if !folded.is_empty() && folded != "-" {
                push_line(&mut self.paragraph, &folded);
            }
        }
    }

    fn flush(&mut self) {
        self.finish_line();
        // A list of nothing but links into the document is its table of contents.
        let contents = self.kind == Kind::List && self.contents;
        let block = if contents { "" } else { self.paragraph.trim_end() };
        if !block.is_empty() {
            if !self.document.text.is_empty() {
                self.document.text.push_str("\n\n");
            }
            // Empty lines separate paragraphs, so code must have none.
            let mut first = true;
            for line in block.split('\n').filter(|line| !line.is_empty()) {
                if !std::mem::take(&mut first) {
                    self.document.text.push('\n');
                }
                self.document.text.push_str(line);
            }
        }
        self.paragraph.clear();
        self.kind = Kind::Paragraph;
    }
}

/// Reads `title`, `lang` and `license` from a YAML block at the start, and gives what follows it.
fn front_matter<'a>(source: &'a str, document: &mut Document) -> &'a str {
    let Some(rest) = source.strip_prefix("---\n").or_else(|| source.strip_prefix("---\r\n")) else { return source };
    let mut at = 0;
    let mut fields = Vec::new();
    for line in rest.split_inclusive('\n') {
        at += line.len();
        let line = line.trim_end();
        if line == "---" || line == "..." {
            for (key, value) in fields {
                let value: &str = value;
                let value = value.trim().trim_matches(['"', '\'']).to_owned();
                match key {
                    _ if value.is_empty() => {}
                    "title" => document.title = Some(value),
                    "lang" | "language" => document.language = crate::fields::language(&value),
                    "license" | "licence" => document.license = Some(value),
                    _ => {}
                }
            }
            return &rest[at..];
        }
        match line.split_once(':') {
            Some((key, value)) => fields.push((key, value)),
            None if line.is_empty() || line.starts_with([' ', '-', '#']) => {}
            None => return source,
        }
    }
    source
}

/// Cuts HTML comments; one that never ends is text.
fn without_comments(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("<!--") {
        let Some(length) = rest[start..].find("-->") else { break };
        out.push_str(&rest[..start]);
        rest = &rest[start + length + 3..];
    }
    out.push_str(rest);
    out
}

fn opens_fence(trimmed: &str) -> Option<(char, usize)> {
    let mark = trimmed.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let length = trimmed.chars().take_while(|letter| *letter == mark).count();
    (length >= 3 && !trimmed[length..].contains(mark)).then_some((mark, length))
}

fn atx(trimmed: &str) -> Option<(u32, &str)> {
    let level = trimmed.bytes().take_while(|byte| *byte == b'#').count();
    let rest = &trimmed[level..];
    let spaced = rest.is_empty() || rest.starts_with([' ', '\t']);
    ((1..=6).contains(&level) && spaced).then(|| (level as u32, rest.trim().trim_end_matches('#').trim_end()))
}

fn underline(trimmed: &str) -> Option<u32> {
    let all = |mark: u8| trimmed.len() >= 2 && trimmed.bytes().all(|byte| byte == mark);
    if all(b'=') { Some(1) } else { all(b'-').then_some(2) }
}

fn rule(trimmed: &str) -> bool {
    let mark = trimmed.chars().next();
    let marks = trimmed.chars().filter(|letter| Some(*letter) == mark).count();
    matches!(mark, Some('-' | '*' | '_')) && marks >= 3 && trimmed.chars().all(|letter| Some(letter) == mark || letter == ' ')
}

/// Whether a line defines the target of a reference link: `[name]: https://…`; a footnote `[^1]: text` has content.
fn definition(trimmed: &str) -> bool {
    let Some((name, target)) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once("]:")) else { return false };
    let target = target.trim();
    !name.starts_with('^') && (target.starts_with(['<', '/', '#']) || target.contains("://")) && !target.contains(". ")
}

/// The mark and text of a list item; bullets become `- `, numbers stay.
fn item(trimmed: &str) -> Option<(&str, &str)> {
    if let Some(rest) = trimmed.strip_prefix(['-', '*', '+']) {
        return rest.starts_with([' ', '\t']).then(|| ("- ", rest.trim_start()));
    }
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let rest = trimmed[digits..].strip_prefix(['.', ')'])?;
    ((1..=9).contains(&digits) && rest.starts_with([' ', '\t'])).then_some(("", trimmed))
}

/// Whether a list item is one link to a place in the same document and nothing else.
fn links_within(item: &str) -> bool {
    let link = item.trim_end().strip_suffix(')').and_then(|link| link.rsplit_once("](#"));
    link.is_some_and(|(text, target)| text.starts_with('[') && !text.contains("](") && !target.contains([')', ' ']))
}

/// Splits a table row at `|` that no backslash escapes.
fn cells(row: &str) -> Vec<&str> {
    let mut cells = Vec::new();
    let (mut from, mut escaped) = (0, false);
    for (at, byte) in row.bytes().enumerate() {
        if byte == b'|' && !escaped {
            cells.push(&row[from..at]);
            from = at + 1;
        }
        escaped = byte == b'\\' && !escaped;
    }
    cells.push(&row[from..]);
    cells
}

fn push_line(out: &mut String, line: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(line);
}

/// Appends the text of inline Markdown: escapes resolved, emphasis and code marks, link targets and HTML tags gone.
fn inline(source: &str, out: &mut String) {
    let bytes = source.as_bytes();
    let closers = Closers::new(bytes);
    // Starts of the targets of links whose texts are being read, and where they end.
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    let mut from = 0;
    while at < bytes.len() {
        let next = match bytes[at] {
            b'\\' if bytes.get(at + 1).is_some_and(u8::is_ascii_punctuation) => {
                out.push_str(&source[from..at]);
                from = at + 1;
                at += 2;
                continue;
            }
            b'!' if bytes.get(at + 1) == Some(&b'[') && closers.link(bytes, at + 1).is_some() => at + 1,
            b'[' => match closers.link(bytes, at) {
                Some(cut) => {
                    cuts.push(cut);
                    at + 1
                }
                None => at,
            },
            b']' => match cuts.last() {
                Some(&(start, end)) if start == at => {
                    cuts.pop();
                    end
                }
                _ => at,
            },
            b'*' | b'_' | b'`' | b'~' => mark(bytes, at),
            b'<' => tag(source, at, out, &mut from),
            b'&' => entity(source, at, out, &mut from),
            _ => at,
        };
        if next == at {
            at += 1;
        } else {
            if from <= at {
                out.push_str(&source[from..at]);
            }
            from = next;
            at = next;
        }
    }
    out.push_str(&source[from.min(source.len())..]);
}

/// For each `[` its `]`, so that finding a link's end costs no search.
struct Closers {
    pairs: Vec<(usize, usize)>,
}

impl Closers {
    fn new(bytes: &[u8]) -> Self {
        let mut open = Vec::new();
        let mut pairs = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => at += 1,
                b'[' => open.push(at),
                b']' => pairs.extend(open.pop().map(|start| (start, at))),
                _ => {}
            }
            at += 1;
        }
        pairs.sort_unstable();
        Self { pairs }
    }

    /// Where the text of the link that opens at `open` ends, and where what follows its target starts.
    fn link(&self, bytes: &[u8], open: usize) -> Option<(usize, usize)> {
        /// Longest target looked for; keeps hostile input linear.
        const TARGET_BYTES_MAX: usize = 4096;
        let close = self.pairs[self.pairs.binary_search_by_key(&open, |pair| pair.0).ok()?].1;
        let (opening, closing) = match bytes.get(close + 1) {
            Some(b'(') => (b'(', b')'),
            Some(b'[') => (b'[', b']'),
            _ => return None,
        };
        let mut depth = 0;
        for (offset, byte) in bytes[close + 1..].iter().take(TARGET_BYTES_MAX).enumerate() {
            depth += i32::from(*byte == opening) - i32::from(*byte == closing);
            if depth == 0 {
                return Some((close, close + 1 + offset + 1));
            }
        }
        None
    }
}

/// Where a run of emphasis or code marks ends; the run stays where it is no mark: a lone `*` between spaces, `_` within a word, one `~`.
fn mark(bytes: &[u8], at: usize) -> usize {
    let letter = bytes[at];
    let end = at + bytes[at..].iter().take_while(|byte| **byte == letter).count();
    let before = at.checked_sub(1).map(|before| bytes[before]);
    let after = bytes.get(end).copied();
    let word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte >= 0x80);
    let space = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_whitespace());
    let plain = match letter {
        b'_' => word(before) && word(after) || end - at > 3,
        b'*' => {
            space(before) && space(after)
                || end - at > 3
                || before.is_some_and(|byte| byte.is_ascii_digit()) && after.is_some_and(|byte| byte.is_ascii_digit())
        }
        b'~' => end - at != 2,
        _ => false,
    };
    if plain { at } else { end }
}

/// Cuts an HTML tag (`<br>` breaks the line) or the brackets of an address.
fn tag(source: &str, at: usize, out: &mut String, from: &mut usize) -> usize {
    /// Longest tag looked for; keeps hostile input linear.
    const TAG_BYTES_MAX: usize = 1024;
    let bytes = source.as_bytes();
    let starts = bytes.get(at + 1).is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'/');
    let window = &bytes[at + 1..bytes.len().min(at + TAG_BYTES_MAX)];
    let Some(length) = window.iter().position(|byte| matches!(byte, b'<' | b'>')).filter(|length| starts && window[*length] == b'>') else {
        return at;
    };
    let inner = &source[at + 1..at + 1 + length];
    let end = at + length + 2;
    let address = !inner.contains(' ') && (inner.contains("://") || inner.contains('@'));
    let name = inner.trim_start_matches('/').split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
    if address {
        out.push_str(&source[*from..at]);
        out.push_str(inner);
        *from = end;
    } else if ["br", "p", "div", "li", "tr", "ul", "ol", "summary", "details", "h1", "h2", "h3", "h4"]
        .iter()
        .any(|block| block.eq_ignore_ascii_case(name))
    {
        out.push_str(&source[*from..at]);
        out.push('\n');
        *from = end;
    } else {
        return end;
    }
    end
}

/// Resolves an entity such as `&amp;` or `&#8203;`.
fn entity(source: &str, at: usize, out: &mut String, from: &mut usize) -> usize {
    /// Longest entity name of HTML, with its signs.
    const ENTITY_BYTES_MAX: usize = 34;
    let window = &source.as_bytes()[at..source.len().min(at + ENTITY_BYTES_MAX)];
    let length = window.iter().skip(1).take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'#').count();
    if length == 0 || window.get(length + 1) != Some(&b';') {
        return at;
    }
    out.push_str(&source[*from..at]);
    crate::html::resolve(&source[at..at + length + 2], out);
    *from = at + length + 2;
    *from
}
