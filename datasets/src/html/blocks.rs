//! Cuts a page into blocks of text.

use super::page::Metadata;
use crate::scan;
use html5gum::emitters::ForwardingEmitter;
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Emitter, Reader, Span, Tokenizer};
use std::convert::Infallible;

/// A page as a row of blocks.
#[derive(Default)]
pub(super) struct Page {
    /// The blocks' text, back to back.
    pub text: String,
    pub blocks: Vec<Block>,
    pub tables: Vec<Table>,
    pub metadata: Metadata,
}

/// A run of text between two block-level tags.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub start: usize,
    pub end: usize,
    pub kind: Kind,
    /// Letters, and those of them within links.
    pub letters: usize,
    pub link_letters: usize,
    /// The outermost list around the block, from 1; 0 is none.
    pub list: u32,
    /// The innermost table around the block, from 1, with row and cell; 0 is none.
    pub table: u32,
    pub row: u32,
    pub cell: u32,
    pub in_main: bool,
    pub in_article: bool,
    pub in_form: bool,
    pub keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Paragraph,
    Heading(u8),
    /// The first block of a list item, and those that follow in it.
    Item,
    ItemMore,
    Preformatted,
}

/// What is known of a table once the page is read.
#[derive(Debug, Default, Clone)]
pub(super) struct Table {
    pub rows: u32,
    pub cells_max: u32,
    /// Holds a table or headings, or says that it is for presentation.
    pub layout: bool,
}

impl Table {
    /// Whether the table holds data; one that only places things on the page has one column, nests or has headings.
    pub fn is_data(&self) -> bool {
        !self.layout && self.cells_max >= 2
    }
}

/// Tags that matter; all others are inline or of no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Inline,
    Block,
    Span,
    Paragraph,
    Heading,
    Link,
    List,
    Item,
    Table,
    Row,
    Cell,
    Preformatted,
    Main,
    Article,
    Form,
    Edge,
    /// Never content: scripts, navigation, controls.
    Skip,
    Break,
    Superscript,
    Rule,
    Title,
    Meta,
    LinkElement,
    Html,
    Void,
}

const TAGS: usize = Tag::Void as usize + 1;

impl Tag {
    fn new(name: &[u8]) -> Self {
        match name {
            b"p" => Self::Paragraph,
            b"a" => Self::Link,
            b"span" | b"font" => Self::Span,
            b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" => Self::Heading,
            b"ul" | b"ol" | b"dl" | b"menu" => Self::List,
            b"li" | b"dt" | b"dd" => Self::Item,
            b"table" => Self::Table,
            b"tr" => Self::Row,
            b"td" | b"th" => Self::Cell,
            b"pre" | b"listing" | b"xmp" => Self::Preformatted,
            b"main" => Self::Main,
            b"article" => Self::Article,
            b"form" => Self::Form,
            b"header" | b"footer" | b"aside" => Self::Edge,
            b"nav" | b"script" | b"style" | b"noscript" | b"template" | b"svg" | b"canvas" | b"iframe" | b"object" | b"select"
            | b"button" | b"textarea" | b"datalist" | b"audio" | b"video" | b"map" | b"dialog" | b"annotation" | b"annotation-xml"
            | b"noframes" | b"rp" => Self::Skip,
            b"br" => Self::Break,
            b"hr" => Self::Rule,
            b"sup" => Self::Superscript,
            b"title" => Self::Title,
            b"meta" => Self::Meta,
            b"link" => Self::LinkElement,
            b"html" | b"body" => Self::Html,
            b"img" | b"input" | b"source" | b"wbr" | b"area" | b"base" | b"col" | b"embed" | b"param" | b"track" => Self::Void,
            b"div" | b"section" | b"blockquote" | b"figure" | b"figcaption" | b"caption" | b"address" | b"details" | b"summary"
            | b"fieldset" | b"legend" | b"center" | b"head" | b"thead" | b"tbody" | b"tfoot" | b"hgroup" | b"search" | b"frameset" => {
                Self::Block
            }
            _ => Self::Inline,
        }
    }

    /// Whether the tag opens an element that is followed to its end.
    fn is_followed(self) -> bool {
        !matches!(
            self,
            Self::Inline | Self::Break | Self::Superscript | Self::Rule | Self::Meta | Self::LinkElement | Self::Html | Self::Void
        )
    }

    /// Whether the tag ends the block before it.
    fn cuts(self) -> bool {
        !matches!(
            self,
            Self::Inline
                | Self::Span
                | Self::Link
                | Self::Break
                | Self::Superscript
                | Self::Meta
                | Self::LinkElement
                | Self::Void
                | Self::Skip
                | Self::Title
        )
    }
}

/// An open element: its tag, whether it hides what it holds, and for headings the level.
#[derive(Clone, Copy)]
struct Open {
    tag: Tag,
    hides: bool,
}

/// The attributes of the tag being read that matter.
#[derive(Default)]
pub(super) struct Attributes {
    pub key: String,
    pub content: String,
    pub rel: String,
    pub href: String,
    pub lang: String,
    role: String,
    hidden: bool,
    current: Current,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Current {
    #[default]
    Other,
    Key,
    Content,
    Rel,
    Href,
    Lang,
    Role,
    Class,
    Style,
    AriaHidden,
}

struct Extractor {
    page: Page,
    tag: Tag,
    level: u8,
    attributes: Attributes,
    stack: Vec<Open>,
    /// How many elements of each tag are open.
    open: [u32; TAGS],
    hiding: u32,
    heading: u8,
    lists: u32,
    tables: Vec<Place>,
    /// The next block is the first of a list item.
    item: bool,
    block: Option<Block>,
    space: bool,
    breaks: u32,
    /// A superscript began and nothing of it was read yet.
    superscript: bool,
}

/// Where in a table the page is.
#[derive(Clone, Copy)]
struct Place {
    table: u32,
    row: u32,
    cell: u32,
}

impl Page {
    /// Reads a page; never fails, as every input is HTML.
    pub fn read(source: &str) -> Self {
        let mut extractor = Extractor {
            page: Self::default(),
            tag: Tag::Inline,
            level: 0,
            attributes: Attributes::default(),
            stack: Vec::new(),
            open: [0; TAGS],
            hiding: 0,
            heading: 0,
            lists: 0,
            tables: Vec::new(),
            item: false,
            block: None,
            space: false,
            breaks: 0,
            superscript: false,
        };
        let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: Span<()>| -> Option<Infallible> {
            extractor.event(event);
            None
        });
        emitter.naively_switch_states(true);
        // Reading from memory cannot fail.
        let Ok(()) = Tokenizer::new_with_emitter(Source { rest: source.as_bytes() }, Silent(emitter)).finish();
        extractor.cut();
        extractor.page
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub fn keep_all(&mut self) {
        self.blocks.iter_mut().for_each(|block| block.keep = true);
    }
}

/// Leaves out the tokenizer's errors, for which it would look at every byte once more: every page has some.
struct Silent<E>(E);

impl<E: Emitter> ForwardingEmitter for Silent<E> {
    type Token = E::Token;

    fn inner(&mut self) -> &mut impl Emitter<Token = E::Token> {
        &mut self.0
    }

    fn should_emit_errors(&mut self) -> bool {
        false
    }
}

/// Gives the tokenizer runs as long as they are, found 16 bytes at a time.
struct Source<'a> {
    rest: &'a [u8],
}

impl Reader for Source<'_> {
    type Error = Infallible;

    #[inline(always)]
    fn read_byte(&mut self) -> Result<Option<u8>, Infallible> {
        let Some((&byte, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        Ok(Some(byte))
    }

    #[inline(always)]
    fn read_until<'b>(&'b mut self, needle: &[u8], _: &'b mut [u8; 4]) -> Result<Option<&'b [u8]>, Infallible> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (run, rest) = self.rest.split_at(scan::any_of(self.rest, 0, needle).max(1));
        self.rest = rest;
        Ok(Some(run))
    }

    fn try_read_string(&mut self, wanted: &[u8], case_sensitive: bool) -> Result<bool, Infallible> {
        let Some((start, rest)) = self.rest.split_at_checked(wanted.len()) else { return Ok(false) };
        let equal = start == wanted || (!case_sensitive && start.eq_ignore_ascii_case(wanted));
        if equal {
            self.rest = rest;
        }
        Ok(equal)
    }
}

impl Extractor {
    fn event(&mut self, event: CallbackEvent<'_>) {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                self.tag = Tag::new(name);
                self.level = name.get(1).map_or(0, |digit| digit.wrapping_sub(b'0'));
                self.attributes.clear();
            }
            CallbackEvent::AttributeName { name } => self.attributes.name(name),
            CallbackEvent::AttributeValue { value } => self.attributes.value(value),
            CallbackEvent::CloseStartTag { .. } => self.start(),
            CallbackEvent::EndTag { name } => self.end(Tag::new(name)),
            CallbackEvent::String { value } => {
                if let Ok(text) = std::str::from_utf8(value) {
                    self.text(text);
                }
            }
            CallbackEvent::Comment { .. } | CallbackEvent::Doctype { .. } | CallbackEvent::Error(_) => {}
        }
    }

    fn start(&mut self) {
        let tag = self.tag;
        match tag {
            Tag::Break if self.hiding == 0 => self.breaks += 1,
            Tag::Superscript => self.superscript = true,
            Tag::Meta => return self.page.metadata.meta(&self.attributes.key, &self.attributes.content),
            Tag::LinkElement => return self.page.metadata.link(&self.attributes),
            Tag::Html => self.page.metadata.language(&self.attributes.lang),
            Tag::Main => self.unhide(),
            // A link, paragraph or heading does not nest: its start ends the one that was left open.
            Tag::Link | Tag::Paragraph | Tag::Heading if self.stack.last().is_some_and(|open| open.tag == tag) => self.end(tag),
            _ => {}
        }
        if tag == Tag::Link {
            self.page.metadata.link(&self.attributes);
        }
        if tag.cuts() {
            self.cut();
        }
        if !tag.is_followed() {
            return;
        }
        let within_content = self.open[Tag::Main as usize] > 0 || self.open[Tag::Article as usize] > 0;
        let hides = match tag {
            Tag::Skip => true,
            Tag::Edge => !within_content,
            Tag::Main | Tag::Article => false,
            _ => self.attributes.hidden || is_furniture(&self.attributes.role),
        };
        if tag != Tag::Main && self.attributes.role == "main" {
            // A landmark by role counts as the element.
            self.push(Tag::Main, false);
            return;
        }
        self.push(tag, hides);
    }

    fn push(&mut self, tag: Tag, hides: bool) {
        self.stack.push(Open { tag, hides });
        self.open[tag as usize] += 1;
        self.hiding += u32::from(hides);
        match tag {
            Tag::Heading => {
                self.heading = self.level;
                if let (Some(place), 1..=3) = (self.tables.last(), self.level) {
                    self.page.tables[place.table as usize - 1].layout = true;
                }
            }
            Tag::List if self.open[Tag::List as usize] == 1 => self.lists += 1,
            Tag::Item => self.item = true,
            Tag::Table => {
                if let Some(place) = self.tables.last() {
                    self.page.tables[place.table as usize - 1].layout = true;
                }
                let layout = matches!(self.attributes.role.as_str(), "presentation" | "none");
                self.page.tables.push(Table { layout, ..Table::default() });
                self.tables.push(Place { table: self.page.tables.len() as u32, row: 0, cell: 0 });
            }
            Tag::Row => {
                if let Some(place) = self.tables.last_mut() {
                    (place.row, place.cell) = (place.row + 1, 0);
                    self.page.tables[place.table as usize - 1].rows = place.row;
                }
            }
            Tag::Cell => {
                if let Some(place) = self.tables.last_mut() {
                    place.cell += 1;
                    let table = &mut self.page.tables[place.table as usize - 1];
                    table.cells_max = table.cells_max.max(place.cell);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: Tag) {
        self.superscript &= tag != Tag::Superscript;
        if tag.cuts() {
            self.cut();
        }
        // `role="main"` was pushed as a landmark, so an end tag that finds no element of its own may be its end.
        let wanted = if self.open[tag as usize] == 0 && tag == Tag::Block { Tag::Main } else { tag };
        if !tag.is_followed() || self.open[wanted as usize] == 0 {
            return;
        }
        while let Some(open) = self.stack.pop() {
            self.popped(open);
            if open.tag == wanted {
                break;
            }
        }
    }

    fn popped(&mut self, open: Open) {
        self.open[open.tag as usize] -= 1;
        self.hiding -= u32::from(open.hides);
        match open.tag {
            Tag::Heading => self.heading = 0,
            Tag::Item => self.item = false,
            Tag::Table => {
                self.tables.pop();
            }
            _ => {}
        }
    }

    /// Ends what hides: the main element is never within it, however the page is nested.
    fn unhide(&mut self) {
        while self.hiding > 0 {
            let Some(open) = self.stack.pop() else { break };
            self.popped(open);
        }
    }

    fn text(&mut self, text: &str) {
        if self.open[Tag::Title as usize] > 0 && self.hiding == 0 {
            return self.page.metadata.title(text);
        }
        if self.hiding > 0 {
            return;
        }
        if self.open[Tag::Preformatted as usize] > 0 {
            return self.preformatted(text);
        }
        self.space |= text.starts_with(char::is_whitespace);
        for word in text.split_whitespace() {
            self.word(word);
            self.space = true;
        }
        self.space = text.ends_with(char::is_whitespace) || self.space && text.trim().is_empty();
    }

    fn word(&mut self, word: &str) {
        let superscript = std::mem::take(&mut self.superscript);
        let breaks = std::mem::take(&mut self.breaks);
        if breaks > 1 && self.heading == 0 {
            self.cut();
        }
        self.open_block(Kind::Paragraph);
        let Some(block) = &mut self.block else { return };
        let started = self.page.text.len() > block.start;
        if started && breaks == 1 && self.heading == 0 && block.table == 0 {
            self.page.text.push('\n');
        } else if started && (self.space || breaks > 0) {
            self.page.text.push(' ');
            block.letters += 1;
        } else if started && superscript && is_exponent(word) && self.page.text.ends_with(|before: char| before.is_ascii_digit()) {
            self.page.text.push('^');
        }
        let letters = word.chars().count();
        block.letters += letters;
        if self.open[Tag::Link as usize] > 0 {
            block.link_letters += letters;
        }
        self.page.text.push_str(word);
    }

    fn preformatted(&mut self, text: &str) {
        for (number, line) in text.split('\n').enumerate() {
            let kept = line.trim_end();
            if number > 0 {
                self.breaks += 1;
            }
            if kept.is_empty() {
                continue;
            }
            self.open_block(Kind::Preformatted);
            let Some(block) = &mut self.block else { return };
            if std::mem::take(&mut self.breaks) > 0 && self.page.text.len() > block.start {
                self.page.text.push('\n');
            } else if line.len() > kept.len() {
                self.space = true;
            }
            block.letters += kept.chars().count();
            self.page.text.push_str(kept);
        }
    }

    fn open_block(&mut self, kind: Kind) {
        if self.block.is_some() {
            return;
        }
        let (start, lists) = (self.page.text.len(), self.open[Tag::List as usize]);
        let kind = match kind {
            _ if self.heading > 0 => Kind::Heading(self.heading),
            _ if self.open[Tag::Item as usize] > 0 && lists > 0 => {
                if std::mem::take(&mut self.item) {
                    Kind::Item
                } else {
                    Kind::ItemMore
                }
            }
            kind => kind,
        };
        let Place { table, row, cell } = self.tables.last().copied().unwrap_or(Place { table: 0, row: 0, cell: 0 });
        self.block = Some(Block {
            start,
            end: start,
            kind,
            letters: 0,
            link_letters: 0,
            list: if lists > 0 { self.lists } else { 0 },
            table: if cell > 0 { table } else { 0 },
            row,
            cell,
            in_main: self.open[Tag::Main as usize] > 0,
            in_article: self.open[Tag::Article as usize] > 0,
            in_form: self.open[Tag::Form as usize] > 0,
            keep: false,
        });
        self.space = false;
    }

    fn cut(&mut self) {
        (self.space, self.breaks) = (false, 0);
        if let Some(mut block) = self.block.take() {
            block.end = self.page.text.len();
            self.page.blocks.push(block);
        }
    }
}

/// Whether a superscript after a digit would turn the number into another: 10⁶⁰, 10⁻³, but not Ca²⁺.
fn is_exponent(word: &str) -> bool {
    word.strip_prefix(['-', '+', '−', '–']).unwrap_or(word).starts_with(|digit: char| digit.is_ascii_digit())
}

/// Whether an ARIA landmark role names what surrounds content.
fn is_furniture(role: &str) -> bool {
    matches!(
        role,
        "navigation" | "banner" | "contentinfo" | "search" | "menu" | "menubar" | "dialog" | "alertdialog" | "toolbar" | "tablist"
    )
}

impl Attributes {
    /// Longest attribute value that is looked at.
    const BYTES_MAX: usize = 4096;

    fn clear(&mut self) {
        for field in [&mut self.key, &mut self.content, &mut self.rel, &mut self.href, &mut self.lang, &mut self.role] {
            field.clear();
        }
        (self.hidden, self.current) = (false, Current::Other);
    }

    fn name(&mut self, name: &[u8]) {
        self.current = match name {
            b"name" | b"property" | b"itemprop" | b"http-equiv" => Current::Key,
            b"content" => Current::Content,
            b"rel" => Current::Rel,
            b"href" => Current::Href,
            b"lang" | b"xml:lang" => Current::Lang,
            b"role" => Current::Role,
            b"class" | b"id" => Current::Class,
            b"style" => Current::Style,
            b"aria-hidden" => Current::AriaHidden,
            b"hidden" => {
                self.hidden = true;
                Current::Other
            }
            _ => Current::Other,
        };
    }

    fn value(&mut self, value: &[u8]) {
        if value.len() > Self::BYTES_MAX {
            return;
        }
        let Ok(text) = std::str::from_utf8(value) else { return };
        let field = match self.current {
            Current::Key => &mut self.key,
            Current::Content => &mut self.content,
            Current::Rel => &mut self.rel,
            Current::Href => &mut self.href,
            Current::Lang => &mut self.lang,
            Current::Role => &mut self.role,
            Current::AriaHidden | Current::Other => return,
            Current::Class => {
                // Long and free of links, consent banners and trails would otherwise pass for prose.
                self.hidden |= text.split_ascii_whitespace().any(|name| {
                    let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
                    ["cookie", "breadcrumb", "onetrust", "gdpr", "skip-link", "sr-only", "visually-hidden", "screen-reader"]
                        .iter()
                        .any(|prefix| starts(prefix))
                });
                return;
            }
            Current::Style => {
                let folded: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
                self.hidden |= folded.to_ascii_lowercase().contains("display:none");
                return;
            }
        };
        if field.is_empty() {
            field.push_str(text.trim());
        }
    }
}
