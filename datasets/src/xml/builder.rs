//! Running text out of pieces: white space folded, breaks decided, sections kept.

use crate::{Document, Section, scan};

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

    /// Makes room for `num_bytes` more of text.
    pub fn reserve(&mut self, num_bytes: usize) {
        self.text.reserve(num_bytes);
    }

    /// Appends text of the running line: white space (Unicode's) becomes one space.
    pub fn inline(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let (mut start, mut at) = (0, 0);
        loop {
            // A single space between words is copied with them, one in front of them is not.
            if bytes.get(start) != Some(&b' ') || at > start {
                at = scan::fold_end(bytes, at);
            }
            let Some(&byte) = bytes.get(at) else { break };
            let character = if byte.is_ascii() { char::from(byte) } else { text[at..].chars().next().unwrap_or_default() };
            at += character.len_utf8();
            if character.is_whitespace() {
                self.append(&text[start..at - character.len_utf8()]);
                self.space();
                // Indentation comes in long runs.
                at += bytes[at..].iter().take_while(|&&byte| matches!(byte, 9..=13 | b' ')).count();
                start = at;
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
