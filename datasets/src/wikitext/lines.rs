//! The second pass: lines. Headings, lists, tables and paragraphs.

use super::{BREAK, FRAMES_MAX, LITERAL, Settings};
use crate::xml::TextBuilder;

/// A table that is open: whether it is shown, and whether its row has no cell yet.
#[derive(Debug, Clone, Copy)]
struct Table {
    shown: bool,
    row_start: bool,
}

/// Renders the lines that the first pass gave.
pub(super) fn render(resolved: &str, settings: &Settings, text: &mut TextBuilder) {
    let mut lines = Lines { settings, text, list: false, tables: Vec::new(), dropped: None, pending: Vec::new() };
    for line in resolved.split('\n') {
        lines.line(line);
    }
    lines.end_blocks();
}

struct Lines<'a> {
    settings: &'a Settings,
    text: &'a mut TextBuilder,
    list: bool,
    tables: Vec<Table>,
    /// The level of the section that is left out.
    dropped: Option<u32>,
    /// Headings whose sections have no text so far.
    pending: Vec<(u32, String)>,
}

impl Lines<'_> {
    fn line(&mut self, line: &str) {
        let trimmed = line.trim();
        if let Some((level, title)) = heading(trimmed) {
            return self.heading(level, title);
        }
        if self.dropped.is_some() {
            return;
        }
        if trimmed.starts_with("{|") || (trimmed.starts_with(':') && trimmed.trim_start_matches(':').trim_start().starts_with("{|")) {
            return self.begin_table(trimmed);
        }
        if let Some(table) = self.tables.last() {
            return self.table_line(trimmed, table.shown);
        }
        match trimmed.bytes().next() {
            None => self.end_blocks(),
            Some(b'*' | b'#' | b':' | b';') => self.item(trimmed),
            Some(b'-') if trimmed.starts_with("----") => self.end_blocks(),
            _ => {
                if self.list {
                    self.end_blocks();
                }
                self.words(line);
                self.text.space();
            }
        }
    }

    /// Ends the list or paragraph.
    fn end_blocks(&mut self) {
        if std::mem::take(&mut self.list) {
            self.text.end_list();
        }
        self.text.paragraph();
    }

    fn heading(&mut self, level: u32, title: &str) {
        while let Some(table) = self.tables.pop() {
            if table.shown {
                self.text.end_table();
            }
        }
        self.end_blocks();
        // Only the title of a section with text is written.
        while self.pending.last().is_some_and(|(pending, _)| *pending >= level) {
            self.pending.pop();
        }
        if self.dropped.is_some_and(|dropped| level > dropped) {
            return;
        }
        let title = title.replace([LITERAL, BREAK], "");
        let title = title.trim();
        self.dropped = self.settings.drop_sections.contains(&title.to_lowercase()).then_some(level);
        if self.dropped.is_none() && !title.is_empty() {
            self.pending.push((level, title.to_owned()));
        }
    }

    /// Appends the words of a line, after the headings that are due.
    fn words(&mut self, words: &str) {
        if words.trim_matches(|c: char| c.is_whitespace() || c == LITERAL || c == BREAK).is_empty() {
            return;
        }
        self.flush_headings();
        if words.contains(BREAK) {
            let words = words.trim_start_matches(LITERAL).replace(LITERAL, "");
            return self.text.preformatted(&words.replace(BREAK, "\n"));
        }
        for part in words.split(LITERAL) {
            self.text.inline(part);
        }
    }

    fn item(&mut self, line: &str) {
        let marks = line.bytes().take_while(|byte| matches!(byte, b'*' | b'#' | b':' | b';')).count();
        let (marks, words) = line.split_at(marks);
        let words = words.trim();
        if words.is_empty() {
            return;
        }
        if marks.ends_with(['*', '#']) {
            self.open_list();
            self.text.item();
            self.words(words);
        } else if marks.ends_with(';') {
            self.end_blocks();
            self.words(words);
            self.text.line();
        } else {
            // An indented line; inside a list it belongs to the item.
            self.text.line();
            self.words(words);
            self.text.line();
        }
    }

    fn open_list(&mut self) {
        if !self.list {
            self.flush_headings();
            self.text.begin_list();
            self.list = true;
        }
    }

    fn flush_headings(&mut self) {
        for (level, title) in self.pending.drain(..) {
            // The page's own sections are of level 2.
            self.text.heading(level.saturating_sub(1).max(1), &title);
        }
    }

    fn begin_table(&mut self, line: &str) {
        let navigation =
            ["navbox", "metadata", "ambox", "sidebar", "vertical-navbox", "toccolours", "noprint"].iter().any(|class| line.contains(class));
        let shown = self.settings.tables && !navigation && self.tables.iter().all(|table| table.shown);
        if self.tables.is_empty() {
            self.end_blocks();
        }
        // The frames of a page can be stacked at will; deeper tables are flattened into the one around.
        if self.tables.len() < FRAMES_MAX {
            self.tables.push(Table { shown, row_start: true });
            if shown {
                self.flush_headings();
                self.text.begin_table();
            }
        }
    }

    fn table_line(&mut self, line: &str, shown: bool) {
        if let Some(rest) = line.strip_prefix("|}") {
            self.tables.pop();
            if shown {
                self.text.end_table();
            }
            if self.tables.is_empty() {
                self.end_blocks();
                self.words(rest.trim());
            }
            return;
        }
        if !shown {
            return;
        }
        if line.starts_with("|-") {
            self.row();
        } else if let Some(caption) = line.strip_prefix("|+") {
            self.row();
            self.words(content(caption));
            self.row();
        } else if let Some(cells) = line.strip_prefix('!') {
            for cell in cells.split("!!").flat_map(|cells| cells.split("||")) {
                self.cell(content(cell));
            }
        } else if let Some(cells) = line.strip_prefix('|') {
            for cell in cells.split("||") {
                self.cell(content(cell));
            }
        } else {
            self.text.space();
            self.words(line.trim_start_matches(['*', '#', ':', ';']));
        }
    }

    fn row(&mut self) {
        self.text.row();
        if let Some(table) = self.tables.last_mut() {
            table.row_start = true;
        }
    }

    fn cell(&mut self, words: &str) {
        if let Some(table) = self.tables.last_mut()
            && !std::mem::replace(&mut table.row_start, false)
        {
            self.text.cell();
        }
        self.words(words);
    }
}

/// Takes the attributes of a cell off: `style="x" | content`.
fn content(cell: &str) -> &str {
    match cell.split_once('|') {
        Some((attributes, content)) if attributes.contains('=') || attributes.trim().is_empty() => content.trim(),
        _ => cell.trim(),
    }
}

/// Reads `== Title ==`; the level is the lesser number of marks.
fn heading(line: &str) -> Option<(u32, &str)> {
    let before = line.bytes().take_while(|&byte| byte == b'=').count();
    if before == 0 || line.len() <= 2 * before.min(1) {
        return None;
    }
    let after = line.bytes().rev().take_while(|&byte| byte == b'=').count();
    let level = before.min(after).min(6);
    if level == 0 || line.len() <= 2 * level {
        return None;
    }
    Some((level as u32, line[level..line.len() - level].trim()))
}
