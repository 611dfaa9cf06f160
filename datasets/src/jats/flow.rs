//! The running text of an article: one pass over the elements of a body, abstract or float, rendered through a [`TextBuilder`].
//!
//! Figures, tables, boxes and notes that stand inside a paragraph are set behind it, so that no sentence is cut in two by where a
//! publisher anchors them.

use super::Settings;
use super::formula;
use crate::Reject;
use crate::xml::{Element, Event, Grid, Reader, TextBuilder};

/// What an element means to the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its text belongs to the line around it.
    Inline,
    /// Its text is a paragraph, or paragraphs.
    Block,
    Line,
    Skip,
    Break,
    Paragraph,
    Section,
    Abstract,
    Title,
    Label,
    Caption,
    List,
    Item,
    Term,
    Definition,
    TableWrap,
    Table,
    TableFoot,
    Row,
    Cell,
    Figure,
    Float,
    Media,
    Note,
    NoteGroup,
    Formula,
    Superscript,
    Reference,
    /// References one after the other, which the publisher sets in brackets.
    ReferenceGroup,
    Preformatted,
    References,
    Citation,
    Acknowledgement,
}

/// Renders content. One value serves many articles.
pub(crate) struct Flow<'s> {
    pub builder: TextBuilder,
    settings: &'s Settings,
    kind: fn(&[u8]) -> Kind,
    frames: Vec<Frame>,
    superscript: Superscript,
    reference: Reference,
    /// Where the text behind the last brackets set around a reference begins.
    bracketed_end: usize,
    /// An inline element began or ended since the last text.
    after_inline: bool,
    captions: usize,
    media: usize,
    paragraphs: usize,
    /// Title to give an abstract that brings none; taken when its first text block begins.
    untitled: Option<&'static str>,
    formula: formula::Formula,
    preformatted: String,
    /// Byte ranges of what stands behind the running paragraph.
    behind: Vec<(usize, usize)>,
    /// Byte ranges of the feet that stand inside the tables being read, each with how many frames are around its table.
    feet: Vec<(usize, usize, usize)>,
    /// Tables around the position, and the columns of the outermost: those inside are flattened into its cells.
    tables: usize,
    grid: Grid,
}

#[derive(Clone, Copy)]
struct Frame {
    kind: Kind,
    /// Of a row: a cell was met. Of a citation: it is made of fields without spaces between. Of a table's foot: it stands inside.
    flag: bool,
}

/// How the superscript being read is written, so that it does not melt into the number or word before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Superscript {
    Outside,
    /// Nothing of it read yet.
    Pending {
        reference: bool,
    },
    /// Only a sign, of which what follows tells whether it is a number's: 10⁻⁷, but CD4⁻.
    Sign(char),
    /// `[12]`: a reference to literature or a note.
    Bracketed,
    Plain,
}

/// How the reference being read is written, unless it is a superscript.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reference {
    Outside,
    /// Nothing of it read yet.
    Pending {
        group: bool,
    },
    Bracketed {
        group: bool,
    },
}

/// How far back an open bracket is looked for.
const BRACKET_CHARACTERS_MAX: usize = 200;

/// How deep floats inside floats are followed; deeper ones are set where they stand.
const BEHIND_DEPTH_MAX: usize = 8;

impl<'s> Flow<'s> {
    pub fn new(settings: &'s Settings, kind: fn(&[u8]) -> Kind) -> Self {
        Self {
            builder: TextBuilder::new(),
            settings,
            kind,
            frames: Vec::new(),
            superscript: Superscript::Outside,
            reference: Reference::Outside,
            bracketed_end: 0,
            after_inline: false,
            captions: 0,
            media: 0,
            paragraphs: 0,
            untitled: None,
            formula: formula::Formula::default(),
            preformatted: String::new(),
            behind: Vec::new(),
            feet: Vec::new(),
            tables: 0,
            grid: Grid::default(),
        }
    }

    /// Forgets what is unfinished.
    pub fn clear(&mut self) {
        self.builder.clear();
        self.frames.clear();
        self.behind.clear();
        self.feet.clear();
        self.tables = 0;
        (self.superscript, self.reference, self.bracketed_end) = (Superscript::Outside, Reference::Outside, 0);
        (self.captions, self.media, self.paragraphs, self.untitled) = (0, 0, 0, None);
    }

    /// Renders an abstract whose `Start` came last; `title` stands above it unless it has its own.
    pub fn content_titled<'a>(&mut self, reader: &mut Reader<'a>, title: &'static str) -> Result<(), Reject> {
        self.builder.begin_section();
        self.untitled = Some(title);
        let done = self.content(reader, Kind::Abstract);
        self.untitled = None;
        self.builder.end_section();
        done
    }

    /// Renders `element`, whose `Start` came last, to its end.
    pub fn element<'a>(&mut self, reader: &mut Reader<'a>, element: Element<'a>) -> Result<(), Reject> {
        let outside = self.frames.len();
        self.start(reader, element, 0, BEHIND_DEPTH_MAX)?;
        self.pump(reader, outside, 0)
    }

    /// Renders the inside of the element whose `Start` came last.
    pub fn content<'a>(&mut self, reader: &mut Reader<'a>, kind: Kind) -> Result<(), Reject> {
        let outside = self.frames.len();
        self.frames.push(Frame { kind, flag: false });
        self.pump(reader, outside, 0)
    }

    /// Renders the inside of the element whose `Start` came last, as one line, and returns it.
    pub fn inline_text<'a>(&mut self, reader: &mut Reader<'a>) -> Result<String, Reject> {
        self.clear();
        self.content(reader, Kind::Inline)?;
        let text = self.builder.text().replace("\n\n", " ").replace('\n', " ");
        self.builder.clear();
        Ok(text)
    }

    /// Reads until `outside` frames are left; `depth` counts the floats inside floats.
    fn pump<'a>(&mut self, reader: &mut Reader<'a>, outside: usize, depth: usize) -> Result<(), Reject> {
        while self.frames.len() > outside {
            let before = reader.position();
            match reader.next()? {
                Event::Text(text) => self.text(&text),
                Event::Start(element) => self.start(reader, element, before, depth)?,
                Event::End(_) => self.end(reader, depth)?,
                Event::Eof => break,
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if self.frames.last().is_some_and(|frame| frame.kind == Kind::Preformatted) {
            self.preformatted.push_str(text);
            return;
        }
        if self.superscript != Superscript::Outside && self.superscript_text(text) {
            return;
        }
        if matches!(self.reference, Reference::Pending { .. }) && self.reference_text(text) {
            return;
        }
        let text = self.tightened(text);
        self.builder.inline(text);
    }

    /// Drops the space that pretty-printing puts between an inline element and the punctuation that clings to it.
    fn tightened<'t>(&mut self, text: &'t str) -> &'t str {
        let blanks = text.bytes().take_while(|byte| matches!(byte, 9..=13 | b' ')).count();
        let rest = &text[blanks..];
        let rest = if rest.as_bytes().first().is_none_or(u8::is_ascii) { rest } else { rest.trim_start() };
        if !std::mem::replace(&mut self.after_inline, rest.is_empty()) {
            return text;
        }
        let closes = match rest.as_bytes() {
            [] => return text,
            [b',' | b')' | b']', ..] => true,
            // `.05` is a number, `. The` ends a sentence.
            [b'.', after @ ..] => !after.first().is_some_and(u8::is_ascii_digit),
            _ => rest.starts_with('”'),
        };
        if !closes && !self.builder.text().ends_with(['(', '[', '“']) {
            return text;
        }
        self.builder.unspace();
        rest
    }

    /// Decides at its first text how a superscript is written; returns whether the text is held back.
    fn superscript_text(&mut self, text: &str) -> bool {
        let mut characters = text.trim_start().chars();
        let Some(first) = characters.next() else { return false };
        let second = characters.next();
        match self.superscript {
            Superscript::Pending { reference: true } if !matches!(first, '[' | '(') => {
                self.builder.inline("[");
                self.superscript = Superscript::Bracketed;
            }
            // An entity is a text of its own.
            Superscript::Pending { .. } if is_sign(first) && second.is_none() => {
                if text.starts_with(char::is_whitespace) {
                    self.builder.space();
                }
                self.superscript = Superscript::Sign(first);
                return true;
            }
            Superscript::Pending { .. } => {
                let power = match first {
                    '0'..='9' => true,
                    sign if is_sign(sign) => second.is_some_and(|second| second.is_ascii_digit()),
                    letter => letter.is_ascii_alphabetic() && second.is_none(),
                };
                self.superscript = Superscript::Plain;
                if power {
                    self.power();
                }
            }
            Superscript::Sign(_) => self.release_sign(first.is_ascii_digit()),
            Superscript::Outside | Superscript::Bracketed | Superscript::Plain => {}
        }
        false
    }

    /// Marks what follows as an exponent where it would melt into the number before it.
    fn power(&mut self) {
        if self.builder.touching().is_some_and(|before| before.is_ascii_digit() || before == ')') {
            self.builder.inline("^");
        }
    }

    /// Writes the sign that a superscript began with and that was held back.
    fn release_sign(&mut self, power: bool) {
        let Superscript::Sign(sign) = self.superscript else { return };
        if power {
            self.power();
        }
        self.builder.inline(sign.encode_utf8(&mut [0; 4]));
        self.superscript = Superscript::Plain;
    }

    /// Decides at its first text whether a reference stands in brackets: a group wherever it brings none, another where it would melt
    /// into the word before it. Returns whether the text is only the space that pretty-printing puts into a group.
    fn reference_text(&mut self, text: &str) -> bool {
        let Reference::Pending { group } = self.reference else { return false };
        let Some(first) = text.trim_start().chars().next() else { return group };
        let touches = !text.starts_with(char::is_whitespace) && self.builder.touching().is_some_and(char::is_alphanumeric);
        let goes_on = self.bracketed_end > 0
            && self.builder.text().get(self.bracketed_end..).is_some_and(|between| matches!(between.trim(), "," | ";" | "-" | "–" | "‐"));
        let melts = first.is_alphanumeric() && (touches || goes_on);
        if matches!(first, '[' | '(') || if group { self.in_brackets() } else { !melts } {
            self.reference = Reference::Outside;
        } else {
            self.builder.inline("[");
            self.reference = Reference::Bracketed { group };
        }
        false
    }

    /// Whether what stands before opens a bracket, or a square one is still open.
    fn in_brackets(&self) -> bool {
        let text = self.builder.text();
        let mut before = text.chars().rev().take(BRACKET_CHARACTERS_MAX);
        text.ends_with('(') || before.find(|character| matches!(character, '[' | ']' | '\n')) == Some('[')
    }

    /// Ends a reference, of a group or not.
    fn end_reference(&mut self, of_group: bool) {
        match self.reference {
            Reference::Bracketed { group } if group == of_group => {
                self.builder.unspace();
                self.builder.inline("]");
                self.bracketed_end = self.builder.len();
            }
            Reference::Pending { group } if group == of_group => {}
            _ => return,
        }
        self.reference = Reference::Outside;
    }

    fn start<'a>(&mut self, reader: &mut Reader<'a>, element: Element<'a>, before: usize, depth: usize) -> Result<(), Reject> {
        let kind = (self.kind)(element.name());
        let parent = self.frames.last().copied().unwrap_or(Frame { kind: Kind::Block, flag: false });
        // The default title says the same.
        let repeats = kind == Kind::Label && parent.kind == Kind::Abstract && self.untitled.is_some();
        if repeats || self.dropped(kind, parent.kind) {
            return reader.skip_element();
        }
        if !matches!(kind, Kind::Inline | Kind::Reference | Kind::ReferenceGroup) {
            self.release_sign(false);
        }
        if depth < BEHIND_DEPTH_MAX && self.stands_behind(kind, parent.kind) {
            reader.skip_element()?;
            if kind == Kind::TableFoot {
                self.feet.push((before, reader.position(), self.frames.len() - 1));
            } else {
                self.builder.space();
                self.behind.push((before, reader.position()));
            }
            return Ok(());
        }
        if self.untitled.is_some() && !matches!(kind, Kind::Label | Kind::Inline | Kind::Line) {
            let title = self.untitled.take().unwrap_or_default();
            if kind != Kind::Title {
                self.builder.begin_title();
                self.builder.inline(title);
                self.builder.end_title();
            }
        }
        self.after_inline = matches!(kind, Kind::Inline | Kind::Reference | Kind::ReferenceGroup | Kind::Superscript);
        let mut frame = Frame { kind, flag: false };
        match kind {
            Kind::Formula => return self.formula(reader, &element),
            Kind::Break | Kind::Line => self.builder.line(),
            Kind::Inline => self.open_inline(&element, parent),
            Kind::Skip | Kind::Definition => {}
            Kind::Paragraph => {
                self.open_paragraph();
                if self.media > 0 && self.captions > 0 {
                    return self.media_paragraph(reader, frame);
                }
            }
            Kind::Section | Kind::Abstract | Kind::Acknowledgement | Kind::NoteGroup | Kind::References => self.builder.begin_section(),
            Kind::Title => self.open_title(parent.kind),
            Kind::Label => self.open_label(parent.kind),
            Kind::Caption => self.captions += 1,
            Kind::List => self.builder.begin_list(),
            Kind::Item => self.builder.item(),
            Kind::Term => self.builder.space(),
            Kind::Table => self.open_table(),
            Kind::Row => self.open_row(),
            Kind::Cell => self.open_cell(&element),
            Kind::Media => self.media += 1,
            Kind::Superscript => self.open_superscript(parent.kind),
            Kind::Reference | Kind::ReferenceGroup => self.open_reference(&element, kind == Kind::ReferenceGroup),
            Kind::Preformatted => self.preformatted.clear(),
            Kind::Citation => {
                frame.flag = element.name() != b"mixed-citation";
                self.builder.paragraph();
            }
            Kind::TableFoot if parent.kind == Kind::Table => {
                self.builder.end_table();
                frame.flag = true;
            }
            Kind::Block | Kind::TableWrap | Kind::TableFoot | Kind::Figure | Kind::Float | Kind::Note => self.builder.paragraph(),
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Whether it is set behind the table or the paragraph around it.
    fn stands_behind(&self, kind: Kind, parent: Kind) -> bool {
        match kind {
            Kind::TableFoot => parent == Kind::Table,
            Kind::Figure | Kind::TableWrap | Kind::Float | Kind::Note | Kind::Media => self.paragraphs > 0,
            _ => false,
        }
    }

    /// Whether the settings leave it out.
    fn dropped(&self, kind: Kind, parent: Kind) -> bool {
        match kind {
            Kind::Skip => true,
            Kind::List => !self.settings.lists,
            Kind::Table | Kind::TableFoot => !self.settings.tables,
            Kind::Caption => !self.settings.captions,
            // A label tells nothing without its caption.
            Kind::Label => !self.settings.captions && matches!(parent, Kind::TableWrap | Kind::Figure | Kind::Float),
            Kind::Note | Kind::NoteGroup => !self.settings.footnotes,
            Kind::Formula => !self.settings.formulas,
            Kind::References => !self.settings.references,
            Kind::Acknowledgement => !self.settings.acknowledgements,
            _ => false,
        }
    }

    fn open_paragraph(&mut self) {
        if self.captions > 0 {
            self.builder.line()
        } else {
            self.builder.paragraph()
        }
        self.paragraphs += 1;
    }

    fn open_title(&mut self, parent: Kind) {
        match parent {
            Kind::Section | Kind::Abstract | Kind::Acknowledgement | Kind::NoteGroup | Kind::References => self.builder.begin_title(),
            Kind::Caption => self.builder.line(),
            _ => self.builder.paragraph(),
        }
    }

    fn open_label(&mut self, parent: Kind) {
        match parent {
            Kind::Section | Kind::Acknowledgement | Kind::NoteGroup | Kind::References => self.builder.begin_title(),
            Kind::Item => {}
            Kind::Inline | Kind::Paragraph => self.builder.space(),
            _ => self.builder.paragraph(),
        }
    }

    fn open_superscript(&mut self, parent: Kind) {
        let pending = matches!(self.reference, Reference::Pending { .. });
        if pending {
            self.reference = Reference::Outside;
        }
        self.superscript = Superscript::Pending { reference: pending || matches!(parent, Kind::Reference | Kind::ReferenceGroup) };
    }

    fn open_reference(&mut self, element: &Element<'_>, group: bool) {
        if let Superscript::Pending { reference } = &mut self.superscript {
            *reference = true;
        }
        if self.superscript != Superscript::Outside || self.reference != Reference::Outside {
            return;
        }
        if group || element.attribute(b"ref-type").is_some_and(|kind| matches!(&*kind, "bibr" | "fn" | "table-fn")) {
            self.reference = Reference::Pending { group };
        }
    }

    fn open_inline(&mut self, element: &Element<'_>, parent: Frame) {
        if parent.kind == Kind::Citation && parent.flag {
            self.builder.space();
        }
        if self.tables == 1 {
            match element.name() {
                b"colspec" => self.grid.specify(element),
                b"thead" | b"tbody" | b"tfoot" => self.grid.begin_group(),
                _ => {}
            }
        }
    }

    fn open_table(&mut self) {
        self.builder.begin_table();
        self.tables += 1;
        if self.tables == 1 {
            self.grid.clear();
        }
    }

    fn open_row(&mut self) {
        self.builder.row();
        if self.tables == 1 {
            self.grid.begin_row();
        }
    }

    fn open_cell(&mut self, element: &Element<'_>) {
        let Some(row) = self.frames.iter_mut().rev().take(3).find(|frame| frame.kind == Kind::Row) else { return };
        let follows = std::mem::replace(&mut row.flag, true);
        let borders = if self.tables == 1 { self.grid.cell(element) } else { usize::from(follows) };
        for _ in 0..borders {
            self.builder.cell();
        }
    }

    /// Drops the paragraph that some archives put under every file, and only that.
    fn media_paragraph<'a>(&mut self, reader: &mut Reader<'a>, frame: Frame) -> Result<(), Reject> {
        match reader.next()? {
            Event::Text(text) if text.trim_start().starts_with("Click here ") => {
                reader.skip_element()?;
                self.paragraphs -= 1;
            }
            Event::Text(text) => {
                self.frames.push(frame);
                self.text(&text);
            }
            Event::Start(element) => {
                self.frames.push(frame);
                // Depth at its most: nothing is set behind a paragraph that ends here anyway.
                self.start(reader, element, 0, BEHIND_DEPTH_MAX)?;
            }
            Event::End(_) | Event::Eof => self.paragraphs -= 1,
        }
        Ok(())
    }

    fn formula<'a>(&mut self, reader: &mut Reader<'a>, element: &Element<'a>) -> Result<(), Reject> {
        let display = element.name() == b"disp-formula" || element.name() == b"display-formula";
        self.formula.read(reader, element)?;
        if display && self.paragraphs == 0 {
            self.builder.paragraph();
        } else if display {
            self.builder.space();
        }
        self.builder.inline(self.formula.text());
        if !self.formula.label().is_empty() {
            self.builder.space();
            self.builder.inline(self.formula.label());
        }
        if display && self.paragraphs == 0 {
            self.builder.paragraph();
        } else if display {
            self.builder.space();
        }
        Ok(())
    }

    fn end(&mut self, reader: &Reader<'_>, depth: usize) -> Result<(), Reject> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        self.after_inline = matches!(frame.kind, Kind::Inline | Kind::Reference | Kind::ReferenceGroup | Kind::Superscript);
        let parent = self.frames.last().map_or(Kind::Block, |frame| frame.kind);
        match frame.kind {
            Kind::Paragraph => {
                if self.captions > 0 {
                    self.builder.line()
                } else {
                    self.builder.paragraph()
                }
                self.paragraphs = self.paragraphs.saturating_sub(1);
                if self.paragraphs == 0 && !self.behind.is_empty() {
                    return self.set_behind(reader, depth);
                }
            }
            Kind::Section | Kind::Acknowledgement | Kind::NoteGroup | Kind::References => self.builder.end_section(),
            Kind::Abstract => {}
            Kind::Title => match parent {
                Kind::Section | Kind::Abstract | Kind::Acknowledgement | Kind::NoteGroup | Kind::References => self.builder.end_title(),
                Kind::Caption => self.builder.line(),
                _ => self.builder.paragraph(),
            },
            Kind::Label => self.builder.join(),
            Kind::Caption => {
                self.captions = self.captions.saturating_sub(1);
                self.builder.paragraph();
            }
            Kind::List => self.builder.end_list(),
            Kind::Term => {
                self.builder.unspace();
                self.builder.inline(":");
                self.builder.join();
            }
            Kind::Table => {
                self.builder.end_table();
                self.tables = self.tables.saturating_sub(1);
                while let Some(&(start, end, _)) = self.feet.last().filter(|&&(.., around)| around >= self.frames.len()) {
                    self.feet.pop();
                    self.part(reader.part(start, end), depth)?;
                }
            }
            Kind::Media => {
                self.media = self.media.saturating_sub(1);
            }
            Kind::Reference | Kind::ReferenceGroup => self.end_reference(frame.kind == Kind::ReferenceGroup),
            Kind::Superscript => {
                self.release_sign(false);
                if self.superscript == Superscript::Bracketed {
                    self.builder.unspace();
                    self.builder.inline("]");
                }
                self.superscript = Superscript::Outside;
            }
            Kind::Preformatted => {
                let text = std::mem::take(&mut self.preformatted);
                self.builder.preformatted(&text);
                self.preformatted = text;
            }
            Kind::Item | Kind::Line => self.builder.line(),
            Kind::TableFoot if frame.flag => self.builder.begin_table(),
            Kind::Block | Kind::TableWrap | Kind::TableFoot | Kind::Figure | Kind::Float | Kind::Note | Kind::Citation => {
                self.builder.paragraph();
            }
            Kind::Inline | Kind::Skip | Kind::Break | Kind::Definition | Kind::Row | Kind::Cell | Kind::Formula => {}
        }
        Ok(())
    }

    /// Renders what was found inside the paragraph that just ended.
    fn set_behind(&mut self, reader: &Reader<'_>, depth: usize) -> Result<(), Reject> {
        let outer = std::mem::take(&mut self.captions);
        for (start, end) in std::mem::take(&mut self.behind) {
            self.part(reader.part(start, end), depth)?;
        }
        self.captions = outer;
        Ok(())
    }

    /// Renders elements that were passed over.
    fn part(&mut self, mut reader: Reader<'_>, depth: usize) -> Result<(), Reject> {
        loop {
            match reader.next()? {
                Event::Start(element) => {
                    let outside = self.frames.len();
                    let before = reader.position();
                    self.start(&mut reader, element, before, depth + 1)?;
                    self.pump(&mut reader, outside, depth + 1)?;
                }
                Event::Eof => return Ok(()),
                Event::Text(_) | Event::End(_) => {}
            }
        }
    }
}

fn is_sign(character: char) -> bool {
    matches!(character, '+' | '-' | '−' | '–')
}

/// What the elements of JATS and of NLM before it mean.
pub(crate) fn jats(name: &[u8]) -> Kind {
    match name.len() {
        0..=4 => match name {
            b"p" => Kind::Paragraph,
            b"sup" => Kind::Superscript,
            b"xref" => Kind::Reference,
            b"td" | b"th" => Kind::Cell,
            b"tr" | b"row" => Kind::Row,
            b"sec" | b"app" => Kind::Section,
            b"fig" => Kind::Figure,
            b"list" => Kind::List,
            b"math" => Kind::Formula,
            b"fn" => Kind::Note,
            b"term" => Kind::Term,
            b"def" => Kind::Definition,
            b"code" => Kind::Preformatted,
            b"ack" => Kind::Acknowledgement,
            b"aff" | b"bio" => Kind::Skip,
            b"ref" => Kind::Citation,
            _ => Kind::Inline,
        },
        5 | 6 => match name {
            b"title" => Kind::Title,
            b"label" => Kind::Label,
            b"table" => Kind::Table,
            b"entry" => Kind::Cell,
            b"notes" => Kind::NoteGroup,
            b"break" => Kind::Break,
            b"media" => Kind::Media,
            b"array" => Kind::Table,
            b"speech" => Kind::Block,
            _ => Kind::Inline,
        },
        7 | 8 => match name {
            b"caption" => Kind::Caption,
            b"fn-group" => Kind::NoteGroup,
            b"def-list" => Kind::List,
            b"def-item" => Kind::Item,
            b"tex-math" => Kind::Formula,
            b"abstract" => Kind::Abstract,
            b"ref-list" => Kind::References,
            b"glossary" => Kind::Section,
            b"alt-text" | b"sec-meta" => Kind::Skip,
            b"question" | b"answer" => Kind::Block,
            b"citation" => Kind::Citation,
            _ => Kind::Inline,
        },
        9 | 10 => match name {
            b"list-item" => Kind::Item,
            b"fig-group" => Kind::Figure,
            b"boxed-text" => Kind::Float,
            b"disp-quote" | b"verse-group" => Kind::Block,
            b"statement" => Kind::Section,
            b"preformat" => Kind::Preformatted,
            b"verse-line" | b"term-head" | b"def-head" => Kind::Line,
            b"long-desc" | b"object-id" | b"index-term" | b"kwd-group" => Kind::Skip,
            b"table-wrap" => Kind::TableWrap,
            _ => Kind::Inline,
        },
        _ => match name {
            b"inline-formula" | b"disp-formula" => Kind::Formula,
            b"disp-formula-group" | b"sig-block" | b"attribution" => Kind::Block,
            b"table-wrap-foot" => Kind::TableFoot,
            b"table-wrap-group" => Kind::TableWrap,
            b"supplementary-material" => Kind::Float,
            b"mixed-citation" | b"element-citation" | b"nlm-citation" => Kind::Citation,
            b"permissions" | b"contrib-group" | b"author-notes" | b"related-article" | b"related-object" | b"processing-meta" => Kind::Skip,
            b"copyright-statement" | b"article-meta" | b"custom-meta-group" => Kind::Skip,
            _ => Kind::Inline,
        },
    }
}

/// What the elements of BioMed Central's own XML mean.
pub(crate) fn bmc(name: &[u8]) -> Kind {
    match name {
        b"p" => Kind::Paragraph,
        b"sup" => Kind::Superscript,
        b"abbr" | b"figr" | b"tblr" | b"supplr" => Kind::Reference,
        b"abbrgrp" => Kind::ReferenceGroup,
        b"sec" | b"ack" => Kind::Section,
        b"st" | b"title" => Kind::Title,
        b"fig" => Kind::Figure,
        b"table" | b"tbl" => Kind::TableWrap,
        b"tgroup" | b"tblbdy" => Kind::Table,
        b"row" | b"r" => Kind::Row,
        b"entry" | b"c" => Kind::Cell,
        b"tfoot" | b"tblfn" => Kind::TableFoot,
        b"caption" | b"text" => Kind::Caption,
        b"suppl" => Kind::Float,
        b"display-formula" | b"inline-formula" | b"math" | b"m" => Kind::Formula,
        b"list" | b"ulist" | b"olist" | b"ul" | b"ol" => Kind::List,
        b"li" | b"item" => Kind::Item,
        b"fn" => Kind::Note,
        b"br" => Kind::Break,
        b"graphic" | b"file" | b"refgrp" => Kind::Skip,
        _ => Kind::Inline,
    }
}
