//! CNXML, the modules of OpenStax textbooks: prose, notes, exercises, captions, tables, equations and glossary of one `<document>`.
//!
//! References inside a book have no words of their own (`<link target-id="…"/>`); they read as the kind of thing they point to, since its
//! number depends on the book. The labels of enumerated items stay, because exercises and their solutions refer to them.

mod formula;

pub(crate) use formula::{math, script};

use crate::emit::Emit;
use crate::limits::Limits;
use crate::xml::{Element, Event, Grid, Reader, TextBuilder, transcode};
use crate::{Document, Reject};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// What of a module goes to the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The module's abstract (learning objectives); default yes.
    pub abstracts: bool,
    /// Titles and captions of figures; default yes.
    pub captions: bool,
    /// The words that stand for an image for those who cannot see it; default no.
    pub alt_text: bool,
    /// Tables; default yes.
    pub tables: bool,
    /// Exercises; default yes.
    pub exercises: bool,
    /// The exercises' solutions; default yes.
    pub solutions: bool,
    /// The glossary, an entry a paragraph; default yes.
    pub glossary: bool,
    /// Footnotes, after the paragraph, list, table or figure that has them; default yes.
    pub footnotes: bool,
    /// Sections of references and of the contributors; default no.
    pub references: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            abstracts: true,
            captions: true,
            alt_text: false,
            tables: true,
            exercises: true,
            solutions: true,
            glossary: true,
            footnotes: true,
            references: false,
        }
    }
}

/// Reads a module.
///
/// Rejects: `no-text`, and those of [`crate::xml::Reader`] and [`transcode`].
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    match fill(bytes, settings, document) {
        Ok(()) => emit(Ok(&*document)),
        Err(reject) => emit(Err(reject)),
    }
}

fn fill(bytes: &[u8], settings: &Settings, document: &mut Document) -> Result<(), Reject> {
    document.clear();
    let bytes = transcode(bytes)?;
    let mut text = TextBuilder::new();
    // Takes the document's buffers over.
    text.finish(document);
    let mut module = Module {
        bytes: &bytes,
        reader: Reader::new(&bytes, &Limits::default()),
        settings,
        text,
        language: None,
        footnotes: Vec::new(),
        blocks: 0,
        after_reference: false,
        emptied: None,
        targets: None,
    };
    module.document(document)?;
    if module.text.is_empty() {
        return Err(Reject::new("no-text", 0, "a module without text"));
    }
    module.text.finish(document);
    document.language = module.language;
    Ok(())
}

struct Module<'a> {
    bytes: &'a [u8],
    reader: Reader<'a>,
    settings: &'a Settings,
    text: TextBuilder,
    language: Option<String>,
    footnotes: Vec<String>,
    /// Paragraphs, lists, tables and figures that are open.
    blocks: usize,
    /// Whether the last words stand for a reference, which a letter may follow: Figure b.
    after_reference: bool,
    /// Length of the text where a reference that has no words stands in parentheses.
    emptied: Option<usize>,
    /// The kind of element by id, once a reference needs it.
    targets: Option<HashMap<Vec<u8>, Kind>>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Figure,
    Table,
    Other,
}

impl<'a> Module<'a> {
    fn document(&mut self, document: &mut Document) -> Result<(), Reject> {
        loop {
            match self.reader.next()? {
                Event::Eof => return Ok(()),
                Event::Start(element) => match element.name() {
                    b"document" => {
                        self.language = language_of(element);
                        if let Some(id) = element.attribute(b"module-id") {
                            document.metadata.insert("module_id".into(), id.into_owned());
                        }
                    }
                    b"title" => {
                        let title = words(&mut self.reader)?;
                        document.title = Some(title).filter(|title| !title.is_empty());
                    }
                    b"metadata" => self.metadata(document)?,
                    b"content" => self.children()?,
                    b"glossary" if self.settings.glossary => self.children()?,
                    _ => self.reader.skip_element()?,
                },
                _ => {}
            }
        }
    }

    /// Reads `<metadata>`; its abstract is text.
    fn metadata(&mut self, document: &mut Document) -> Result<(), Reject> {
        let outside = self.reader.depth() - 1;
        let (mut subjects, mut keywords) = (Vec::new(), Vec::new());
        while self.reader.depth() > outside {
            let element = match self.reader.next()? {
                Event::Start(element) => element,
                Event::Eof => break,
                _ => continue,
            };
            match element.name() {
                b"abstract" if self.settings.abstracts => self.paragraph()?,
                b"license" => {
                    let url = element.attribute(b"url").map(|url| url.into_owned());
                    let name = words(&mut self.reader)?;
                    document.license = url.or(Some(name)).filter(|license| !license.is_empty());
                }
                b"subject" => subjects.push(words(&mut self.reader)?),
                b"keyword" => keywords.push(words(&mut self.reader)?),
                b"subjectlist" | b"keywordlist" => {}
                name @ (b"title" | b"content-id" | b"language" | b"uuid" | b"created" | b"revised" | b"repository" | b"content-url"
                | b"version") => {
                    let value = words(&mut self.reader)?;
                    self.field(name, value, document);
                }
                _ => self.reader.skip_element()?,
            }
        }
        for (key, values) in [("subjects", subjects), ("keywords", keywords)] {
            if !values.is_empty() {
                document.metadata.insert(key.into(), values.join("; "));
            }
        }
        Ok(())
    }

    fn field(&mut self, name: &[u8], value: String, document: &mut Document) {
        if value.is_empty() {
            return;
        }
        match name {
            b"title" if document.title.is_none() => document.title = Some(value),
            b"title" => {}
            b"content-id" => document.identifiers.push(format!("cnxml:{value}")),
            b"language" => self.language = self.language.take().or(Some(value.to_ascii_lowercase())),
            b"revised" => document.published = iso_day(&value).or(document.published.take()),
            b"created" if document.published.is_none() => document.published = iso_day(&value),
            b"created" => {}
            name => {
                let key = String::from_utf8_lossy(name).replace('-', "_");
                document.metadata.insert(key, value);
            }
        }
    }

    /// Walks what is inside the element whose start came last.
    fn children(&mut self) -> Result<(), Reject> {
        let outside = self.reader.depth() - 1;
        while self.reader.depth() > outside {
            match self.reader.next()? {
                Event::Text(text) => self.inline(&text),
                Event::Start(element) => self.element(element)?,
                Event::End(_) => {}
                Event::Eof => break,
            }
        }
        Ok(())
    }

    fn inline(&mut self, text: &str) {
        if std::mem::take(&mut self.after_reference) && text.starts_with(char::is_alphanumeric) {
            self.text.space();
        }
        let rest = text.trim_start().strip_prefix(')').filter(|_| self.emptied == Some(self.text.len()));
        match rest {
            Some(rest) if self.text.take_back("(") => {
                if rest.starts_with(['.', ',', ';', ':', ')']) {
                    self.text.unspace();
                }
                self.text.inline(rest);
            }
            _ => self.text.inline(text),
        }
        if !text.trim().is_empty() {
            self.emptied = None;
        }
    }

    fn element(&mut self, element: Element<'a>) -> Result<(), Reject> {
        match element.name() {
            b"section" if !self.settings.references && is_apparatus(element) => self.reader.skip_element(),
            b"section" => {
                self.text.begin_section();
                self.children()?;
                self.text.end_section();
                Ok(())
            }
            b"list" => self.list(element),
            b"table" if self.settings.tables => self.table(),
            b"figure" if self.settings.captions => self.block(),
            b"media" => self.media(element),
            b"exercise" if !self.settings.exercises => self.reader.skip_element(),
            b"solution" if !self.settings.solutions => self.reader.skip_element(),
            b"table" | b"figure" | b"metadata" | b"image" | b"iframe" => self.reader.skip_element(),
            b"footnote" => self.footnote(),
            b"definition" => self.definition(),
            b"math" => math(&mut self.reader, &mut self.text),
            b"sup" => script(&mut self.reader, &mut self.text),
            b"link" => self.link(element),
            b"newline" => {
                self.text.line();
                self.reader.skip_element()
            }
            b"space" => {
                self.text.space();
                self.reader.skip_element()
            }
            b"code" | b"preformat"
                if element.attribute(b"display").is_some_and(|display| display == "block") || element.name() == b"preformat" =>
            {
                let code = raw(&mut self.reader)?;
                self.text.preformatted(&code);
                Ok(())
            }
            b"quote" if element.attribute(b"display").is_some_and(|display| display == "inline") => self.children(),
            b"title" => self.title(),
            b"para" | b"quote" | b"equation" | b"caption" | b"label" => self.block(),
            b"note" | b"exercise" | b"problem" | b"solution" | b"commentary" | b"example" | b"rule" | b"statement" | b"proof"
            | b"subfigure" | b"div" | b"seealso" | b"injection" => self.paragraph(),
            _ => self.children(),
        }
    }

    /// Walks a container: what is inside is set off, but is not a paragraph itself.
    fn paragraph(&mut self) -> Result<(), Reject> {
        self.text.paragraph();
        self.children()?;
        self.text.paragraph();
        Ok(())
    }

    /// Walks something after which footnotes may stand.
    fn block(&mut self) -> Result<(), Reject> {
        self.blocks += 1;
        self.paragraph()?;
        self.end_block();
        Ok(())
    }

    fn end_block(&mut self) {
        self.blocks -= 1;
        if self.blocks == 0 {
            for note in self.footnotes.drain(..) {
                self.text.paragraph();
                self.text.inline(&note);
                self.text.paragraph();
            }
        }
    }

    /// A title directly in a section is the section's; any other is a paragraph.
    fn title(&mut self) -> Result<(), Reject> {
        if self.blocks == 0 {
            self.text.begin_title();
            self.children()?;
            self.text.end_title();
            Ok(())
        } else {
            self.paragraph()
        }
    }

    fn list(&mut self, list: Element<'a>) -> Result<(), Reject> {
        let mut number = list
            .attribute(b"list-type")
            .is_some_and(|kind| kind == "enumerated")
            .then(|| list.attribute(b"start-value").and_then(|start| start.trim().parse().ok()).unwrap_or(1_u32));
        let style = list.attribute(b"number-style").unwrap_or_default().into_owned();
        let suffix = list.attribute(b"mark-suffix").unwrap_or(".".into()).into_owned();
        let outside = self.reader.depth() - 1;
        self.blocks += 1;
        self.text.begin_list();
        while self.reader.depth() > outside {
            match self.reader.next()? {
                Event::Start(element) if element.name() == b"item" => {
                    self.text.item();
                    if let Some(number) = &mut number {
                        self.text.inline(&label(*number, &style));
                        self.text.inline(&suffix);
                        self.text.space();
                        *number = number.saturating_add(1);
                    }
                    self.children()?;
                }
                Event::Start(element) if element.name() == b"title" => {
                    self.children()?;
                    self.text.line();
                }
                Event::Start(element) => self.element(element)?,
                Event::Text(text) => self.text.inline(&text),
                Event::End(_) => {}
                Event::Eof => break,
            }
        }
        self.text.end_list();
        self.end_block();
        Ok(())
    }

    fn table(&mut self) -> Result<(), Reject> {
        let outside = self.reader.depth() - 1;
        self.blocks += 1;
        self.text.paragraph();
        let mut rows = false;
        let mut grid = Grid::default();
        while self.reader.depth() > outside {
            match self.reader.next()? {
                Event::Start(element) => match element.name() {
                    b"tgroup" => grid.clear(),
                    b"thead" | b"tbody" | b"tfoot" | b"entrytbl" => {
                        grid.begin_group();
                        if !rows {
                            self.text.begin_table();
                            rows = true;
                        }
                    }
                    b"colspec" | b"spanspec" => {
                        if element.name() == b"colspec" {
                            grid.specify(&element);
                        }
                        self.reader.skip_element()?;
                    }
                    b"row" => {
                        grid.begin_row();
                        self.text.row();
                    }
                    b"entry" => {
                        for _ in 0..grid.cell(&element) {
                            self.text.cell();
                        }
                        self.children()?;
                    }
                    b"caption" if rows => {
                        self.text.end_table();
                        rows = false;
                        self.children()?;
                    }
                    _ => self.paragraph()?,
                },
                Event::Text(text) => self.text.inline(&text),
                Event::End(_) => {}
                Event::Eof => break,
            }
        }
        if rows {
            self.text.end_table();
        }
        self.text.paragraph();
        self.end_block();
        Ok(())
    }

    fn media(&mut self, media: Element<'a>) -> Result<(), Reject> {
        if self.settings.alt_text
            && let Some(alt) = media.attribute(b"alt")
        {
            self.text.paragraph();
            self.text.inline(&alt);
            self.text.paragraph();
        }
        self.reader.skip_element()
    }

    fn footnote(&mut self) -> Result<(), Reject> {
        if !self.settings.footnotes {
            return self.reader.skip_element();
        }
        let around = std::mem::take(&mut self.text);
        let result = self.children();
        let note = std::mem::replace(&mut self.text, around);
        result?;
        if !note.is_empty() {
            self.footnotes.push(note.text().to_owned());
        }
        if self.blocks == 0 {
            self.blocks = 1;
            self.end_block();
        }
        Ok(())
    }

    /// Renders `term: meaning`.
    fn definition(&mut self) -> Result<(), Reject> {
        let outside = self.reader.depth() - 1;
        self.blocks += 1;
        self.text.paragraph();
        let mut meanings = 0;
        while self.reader.depth() > outside {
            match self.reader.next()? {
                Event::Start(element) if element.name() == b"meaning" => {
                    if meanings == 0 {
                        self.text.inline(": ");
                    }
                    self.meaning(meanings > 0)?;
                    meanings += 1;
                }
                Event::Start(element) => self.element(element)?,
                Event::Text(text) if text.trim().is_empty() => {}
                Event::Text(text) => self.text.inline(&text),
                Event::End(_) => {}
                Event::Eof => break,
            }
        }
        self.text.paragraph();
        self.end_block();
        Ok(())
    }

    /// The first paragraph of a meaning goes on the line of its term.
    fn meaning(&mut self, own_line: bool) -> Result<(), Reject> {
        let outside = self.reader.depth() - 1;
        let mut first = !own_line;
        if own_line {
            self.text.line();
        }
        while self.reader.depth() > outside {
            match self.reader.next()? {
                Event::Start(element) if element.name() == b"para" && first => {
                    first = false;
                    self.children()?;
                }
                Event::Start(element) => self.element(element)?,
                Event::Text(text) => self.text.inline(&text),
                Event::End(_) => {}
                Event::Eof => break,
            }
        }
        Ok(())
    }

    fn link(&mut self, link: Element<'a>) -> Result<(), Reject> {
        let before = self.text.len();
        self.children()?;
        if self.text.len() > before {
            return Ok(());
        }
        match link.attribute(b"target-id").and_then(|target| self.reference_word(&target)) {
            Some(word) => {
                self.text.inline(word);
                self.after_reference = true;
            }
            None if self.text.touching() == Some('(') => self.emptied = Some(before),
            None => {}
        }
        Ok(())
    }

    /// Names the kind of thing that a reference points to.
    fn reference_word(&mut self, target: &str) -> Option<&'static str> {
        let kind = match self.target(target.as_bytes()) {
            Some(kind) => kind,
            // In another module; ids are named by what they are.
            None if target.to_ascii_lowercase().contains("fig") => Kind::Figure,
            None if target.to_ascii_lowercase().contains("tab") => Kind::Table,
            None => return None,
        };
        let polish = self.language.as_deref() == Some("pl");
        match kind {
            Kind::Figure if polish => Some("Ilustracja"),
            Kind::Figure => Some("Figure"),
            Kind::Table if polish => Some("Tabela"),
            Kind::Table => Some("Table"),
            Kind::Other => None,
        }
    }

    fn target(&mut self, id: &[u8]) -> Option<Kind> {
        let bytes = self.bytes;
        self.targets.get_or_insert_with(|| targets(bytes)).get(id).copied()
    }
}

/// Maps the ids of a module to what they name.
fn targets(bytes: &[u8]) -> HashMap<Vec<u8>, Kind> {
    let mut reader = Reader::new(bytes, &Limits::default());
    let mut targets = HashMap::new();
    // What is wrong with the file is reported where it is read.
    while let Ok(event) = reader.next() {
        match event {
            Event::Eof => break,
            Event::Start(element) => {
                let kind = match element.name() {
                    b"figure" | b"subfigure" => Kind::Figure,
                    b"table" => Kind::Table,
                    _ => Kind::Other,
                };
                if let Some(id) = element.attribute(b"id") {
                    targets.insert(id.into_owned().into_bytes(), kind);
                }
            }
            _ => {}
        }
    }
    targets
}

fn language_of(element: Element<'_>) -> Option<String> {
    element.attribute(b"lang").map(|language| language.to_ascii_lowercase()).filter(|language| !language.is_empty())
}

fn is_apparatus(section: Element<'_>) -> bool {
    section.attribute(b"class").is_some_and(|class| {
        class.split_whitespace().any(|name| matches!(name, "references" | "contrib-auth" | "sr-contrib-auth" | "bibliography"))
    })
}

/// Labels an item as its list's `number-style` says.
fn label(number: u32, style: &str) -> String {
    match style {
        "lower-alpha" | "upper-alpha" if (1..=26).contains(&number) => {
            let first = if style == "lower-alpha" { b'a' } else { b'A' };
            char::from(first + (number - 1) as u8).to_string()
        }
        "lower-roman" => roman(number).to_ascii_lowercase(),
        "upper-roman" => roman(number),
        _ => number.to_string(),
    }
}

fn roman(number: u32) -> String {
    const DIGITS: [(u32, &str); 9] = [(100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")];
    if number == 0 || number > 399 {
        return number.to_string();
    }
    let (mut rest, mut text) = (number, String::new());
    for (value, digits) in DIGITS {
        while rest >= value {
            text.push_str(digits);
            rest -= value;
        }
    }
    text
}

/// Takes the day of `2010/11/12 14:28:49 -0600` or `2010-11-12T14:28:49Z`.
fn iso_day(text: &str) -> Option<String> {
    let day = text.trim().get(..10)?.replace('/', "-");
    let shaped = day.bytes().enumerate().all(|(index, byte)| if matches!(index, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    shaped.then_some(day)
}

/// Reads the words of the element whose start came last.
fn words(reader: &mut Reader<'_>) -> Result<String, Reject> {
    let mut text = TextBuilder::new();
    let outside = reader.depth() - 1;
    while reader.depth() > outside {
        match reader.next()? {
            Event::Text(words) => text.inline(&words),
            Event::Start(element) if element.name() == b"math" => math(reader, &mut text)?,
            Event::Start(element) if element.name() == b"sup" => script(reader, &mut text)?,
            Event::Eof => break,
            _ => {}
        }
    }
    Ok(text.text().to_owned())
}

/// Reads the text of the element whose start came last as it is.
fn raw(reader: &mut Reader<'_>) -> Result<String, Reject> {
    let mut text = String::new();
    let outside = reader.depth() - 1;
    while reader.depth() > outside {
        match reader.next()? {
            Event::Text(words) => text.push_str(&words),
            Event::Eof => break,
            _ => {}
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
