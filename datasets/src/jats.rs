//! JATS and the NLM article formats before it: PMC, Europe PMC, PLOS, eLife, SciELO and others, with or without a wrapper, a
//! namespace or a DTD.
//!
//! An `article` gives one document. Its translations (`sub-article`, `trans-abstract`) are documents of their own language; peer
//! review (decision letters, replies) is left out unless asked for. Their identifiers are those they state, and the article's with
//! `#` and their own id or language behind.

mod flow;
mod formula;
mod front;

pub(crate) use flow::{Flow, Kind, bmc};
pub(crate) use front::{Date, identifier, month};

use crate::emit::Emit;
use crate::limits::Limits;
use crate::xml::{self, Element, Event, Reader};
use crate::{Document, Reject};
use front::{Abstract, Front, abstract_title, language};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// What of an article becomes text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Abstracts of every kind in the article's language; default true.
    pub abstracts: bool,
    /// The body; default true.
    pub body: bool,
    /// The cells and feet of tables; default true.
    pub tables: bool,
    /// Labels and captions of figures, tables, boxes and files; default true.
    pub captions: bool,
    /// Lists, of definitions too; default true.
    pub lists: bool,
    /// Footnotes, and notes behind the text (conflicts of interest, data availability); default true. Author notes are never text.
    pub footnotes: bool,
    /// Formulas: TeX, else MathML on one line, else their text; default true.
    pub formulas: bool,
    /// The bibliography; default false.
    pub references: bool,
    /// Acknowledgements; default true.
    pub acknowledgements: bool,
    /// Which sub-articles are documents; default `translations`.
    pub sub_articles: SubArticles,
    /// What becomes of abstracts in another language; default `documents`.
    pub translated_abstracts: TranslatedAbstracts,
}

/// Which of an article's sub-articles are documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubArticles {
    /// Translations only.
    #[default]
    Translations,
    /// Decision letters, reviews, replies and comments too.
    All,
    None,
}

/// What becomes of an abstract in another language than the article's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TranslatedAbstracts {
    /// A document of its own language.
    #[default]
    Documents,
    /// A section of the article.
    Sections,
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            abstracts: true,
            body: true,
            tables: true,
            captions: true,
            lists: true,
            footnotes: true,
            formulas: true,
            references: false,
            acknowledgements: true,
            sub_articles: SubArticles::default(),
            translated_abstracts: TranslatedAbstracts::default(),
        }
    }
}

/// Reads every article in `bytes` with the default [`Limits`]; see [`parse_within`].
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    parse_within(bytes, settings, &Limits::default(), document, emit)
}

/// Reads every article in `bytes` and hands over its documents: the article, its translated abstracts, its sub-articles.
///
/// Rejects: those of [`Reader::next`], `no-article` where there is none, `no-text` for an article without any.
pub fn parse_within(bytes: &[u8], settings: &Settings, limits: &Limits, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    let bytes = match xml::transcode(bytes) {
        Ok(bytes) => bytes,
        Err(reject) => return emit(Err(reject)),
    };
    let mut parser = Parser { settings, flow: Flow::new(settings, flow::jats), titles: Flow::new(settings, flow::jats) };
    let mut reader = Reader::new(&bytes, limits);
    parser.flow.builder.reserve(bytes.len() / 2);
    let (mut articles, mut wrapped) = (0, false);
    loop {
        match reader.next() {
            Ok(Event::Start(element)) if element.name() == b"article" => {
                let record = (wrapped && reader.depth() > 1).then_some(articles);
                articles += 1;
                match parser.article(0, &mut reader, &element) {
                    Ok(article) => parser.emit(&reader, &article, None, record, document, emit)?,
                    Err(mut reject) => {
                        reject.record = record;
                        return emit(Err(reject));
                    }
                }
            }
            Ok(Event::Start(element)) => wrapped |= element.name() != b"article",
            Ok(Event::End(_) | Event::Text(_)) => {}
            Ok(Event::Eof) if articles == 0 => {
                return emit(Err(Reject::new("no-article", 0, "no <article> element; is the format right?")));
            }
            Ok(Event::Eof) => return ControlFlow::Continue(()),
            Err(reject) => return emit(Err(reject)),
        }
    }
}

struct Parser<'s> {
    settings: &'s Settings,
    flow: Flow<'s>,
    /// Renders titles and other single lines.
    titles: Flow<'s>,
}

/// An article or sub-article as read: its text waits in the parser's flow.
struct Article {
    kind: Option<String>,
    id: Option<String>,
    language: Option<String>,
    front: Front,
    /// Byte where it begins, and byte ranges of the sub-articles inside.
    start: usize,
    parts: Vec<(usize, usize)>,
}

/// How often sub-articles may stand in one another.
const PARTS_DEPTH_MAX: usize = 4;

impl Parser<'_> {
    /// Reads the article whose `Start` came last, and renders its text. `base` is the place in the file that the reader counts from.
    fn article<'a>(&mut self, base: usize, reader: &mut Reader<'a>, element: &Element<'a>) -> Result<Article, Reject> {
        self.flow.clear();
        let outside = reader.depth().saturating_sub(1);
        let mut article = Article {
            kind: element.attribute(b"article-type").map(|kind| kind.into_owned()),
            id: element.attribute(b"id").map(|id| id.into_owned()),
            language: element.attribute(b"lang").and_then(|tag| language(&tag)),
            front: Front::default(),
            start: base + reader.position(),
            parts: Vec::new(),
        };
        while reader.depth() > outside {
            let before = reader.position();
            let Event::Start(element) = reader.next()? else { continue };
            match element.name() {
                b"front" | b"front-stub" => {
                    article.front.read(reader, &mut self.titles, article.language.as_deref())?;
                    self.abstracts(reader, &article)?;
                }
                b"body" if self.settings.body => self.flow.content(reader, Kind::Block)?,
                b"back" | b"floats-group" | b"floats-wrap" => self.flow.content(reader, Kind::Block)?,
                b"sub-article" | b"response" => {
                    reader.skip_element()?;
                    article.parts.push((before, reader.position()));
                }
                _ => reader.skip_element()?,
            }
        }
        Ok(article)
    }

    /// Renders the abstracts that belong to the article's own text.
    fn abstracts(&mut self, reader: &Reader<'_>, article: &Article) -> Result<(), Reject> {
        let sections = self.settings.translated_abstracts == TranslatedAbstracts::Sections;
        for part in article.front.abstracts.iter().filter(|part| !part.translated || sections) {
            if self.settings.abstracts {
                self.abstract_text(reader, part, part.language.as_deref().or(article.language.as_deref()))?;
            }
        }
        Ok(())
    }

    fn abstract_text(&mut self, reader: &Reader<'_>, part: &Abstract, language: Option<&str>) -> Result<(), Reject> {
        let mut reader = reader.part(part.start, part.end);
        loop {
            match reader.next()? {
                Event::Start(_) => self.flow.content_titled(&mut reader, abstract_title(language))?,
                Event::Eof => return Ok(()),
                Event::Text(_) | Event::End(_) => {}
            }
        }
    }

    /// Hands over the article whose text waits, then its translated abstracts and its parts.
    fn emit(
        &mut self,
        reader: &Reader<'_>,
        article: &Article,
        parent: Option<&Document>,
        record: Option<u64>,
        document: &mut Document,
        emit: &mut Emit<'_>,
    ) -> ControlFlow<()> {
        self.fill(article, parent, record, document);
        if document.text.is_empty() {
            let mut reject = Reject::new("no-text", article.start, "no abstract and no body, or the settings leave nothing of them");
            reject.record = record;
            emit(Err(reject))?;
        } else {
            emit(Ok(document))?;
        }
        if article.parts.is_empty() && !article.front.abstracts.iter().any(|part| part.translated) {
            return ControlFlow::Continue(());
        }
        document.text.clear();
        document.sections.clear();
        let main = document.clone();
        self.emit_abstracts(reader, article, &main, document, emit)?;
        self.emit_parts(reader, article, &main, document, emit)
    }

    fn fill(&mut self, article: &Article, parent: Option<&Document>, record: Option<u64>, document: &mut Document) {
        document.clear();
        article.front.describe(document, article.kind.as_deref());
        document.record = record;
        document.language.clone_from(&article.language);
        if let Some(parent) = parent {
            let suffix = article.id.as_deref().or(article.language.as_deref()).or(article.kind.as_deref()).unwrap_or("part");
            inherit(document, parent, suffix);
            document.metadata.insert("part".to_owned(), article.kind.clone().unwrap_or_else(|| "sub-article".to_owned()));
        }
        self.flow.builder.finish(document);
    }

    fn emit_abstracts(
        &mut self,
        reader: &Reader<'_>,
        article: &Article,
        main: &Document,
        document: &mut Document,
        emit: &mut Emit<'_>,
    ) -> ControlFlow<()> {
        if self.settings.translated_abstracts != TranslatedAbstracts::Documents || !self.settings.abstracts {
            return ControlFlow::Continue(());
        }
        for part in article.front.abstracts.iter().filter(|part| part.translated) {
            self.flow.clear();
            if let Err(reject) = self.abstract_text(reader, part, part.language.as_deref()) {
                emit(Err(reject))?;
                continue;
            }
            document.clear();
            document.record = main.record;
            document.language.clone_from(&part.language);
            document.title = article.front.titles.iter().find(|(tag, _)| *tag == part.language).map(|(_, title)| title.clone());
            let suffix = format!("abstract-{}", part.language.as_deref().unwrap_or("translated"));
            inherit(document, main, &suffix);
            document.metadata.insert("part".to_owned(), "abstract".to_owned());
            self.flow.builder.finish(document);
            if !document.text.is_empty() {
                emit(Ok(document))?;
            }
        }
        ControlFlow::Continue(())
    }

    fn emit_parts(
        &mut self,
        reader: &Reader<'_>,
        article: &Article,
        main: &Document,
        document: &mut Document,
        emit: &mut Emit<'_>,
    ) -> ControlFlow<()> {
        // Breadth first, so that what stands inside a part needs no recursion.
        let mut parts: Vec<_> = article.parts.iter().map(|&(start, end)| (start, end, 0)).collect();
        let mut next = 0;
        while let Some(&(start, end, depth)) = parts.get(next) {
            next += 1;
            let mut inner = reader.part(start, end);
            let part = loop {
                match inner.next() {
                    Ok(Event::Start(element)) if self.wanted(&element) => {
                        break Some(self.article(start, &mut inner, &element));
                    }
                    Ok(Event::Start(_) | Event::Eof) => break None,
                    Ok(Event::Text(_) | Event::End(_)) => {}
                    Err(reject) => break Some(Err(reject)),
                }
            };
            match part {
                Some(Ok(part)) => {
                    if depth < PARTS_DEPTH_MAX {
                        parts.extend(part.parts.iter().map(|&(from, to)| (start + from, start + to, depth + 1)));
                    }
                    self.fill(&part, Some(main), main.record, document);
                    if !document.text.is_empty() {
                        emit(Ok(document))?;
                    }
                }
                Some(Err(mut reject)) => {
                    reject.byte += start as u64;
                    emit(Err(reject))?;
                }
                None => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn wanted(&self, element: &Element<'_>) -> bool {
        match self.settings.sub_articles {
            SubArticles::None => false,
            SubArticles::All => true,
            SubArticles::Translations => element.attribute(b"article-type").is_some_and(|kind| kind.eq_ignore_ascii_case("translation")),
        }
    }
}

/// Gives a part what its article states and it does not.
fn inherit(document: &mut Document, parent: &Document, suffix: &str) {
    document.identifiers.extend(parent.identifiers.iter().map(|identifier| format!("{identifier}#{suffix}")));
    if document.license.is_none() {
        document.license.clone_from(&parent.license);
    }
    if document.published.is_none() {
        document.published.clone_from(&parent.published);
    }
    if let Some(journal) = parent.metadata.get("journal") {
        document.metadata.entry("journal".to_owned()).or_insert_with(|| journal.clone());
    }
}

#[cfg(test)]
mod tests;
