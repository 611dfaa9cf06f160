//! What stands in front of an article: title, identifiers, dates, licence, and where its abstracts are.

use super::flow::Flow;
use crate::xml::{Element, Event, Reader};
use crate::{Document, Reject};

/// The front matter of an article or of a part of it.
#[derive(Debug, Default)]
pub(crate) struct Front {
    pub title: Option<String>,
    /// Titles in other languages, by language.
    pub titles: Vec<(Option<String>, String)>,
    pub identifiers: Vec<String>,
    pub journal: Option<String>,
    pub published: Option<Date>,
    pub subjects: Vec<String>,
    pub keywords: Vec<String>,
    pub license: License,
    /// Byte ranges of the abstracts in the article's language, and of those in others.
    pub abstracts: Vec<Abstract>,
}

#[derive(Debug)]
pub(crate) struct Abstract {
    pub start: usize,
    pub end: usize,
    pub language: Option<String>,
    pub translated: bool,
}

/// The ways in which an article states its licence, best first.
#[derive(Debug, Default)]
pub(crate) struct License {
    /// An address at creativecommons.org.
    commons: Option<String>,
    /// Any other address.
    address: Option<String>,
    /// The paragraph.
    words: Option<String>,
    /// The copyright statement, which older articles use for it.
    statement: Option<String>,
}

impl License {
    fn address(&mut self, address: &str) {
        let address = address.trim();
        let commons = address.contains("creativecommons.org");
        let kept = if commons { &mut self.commons } else { &mut self.address };
        if kept.is_none() && !address.is_empty() {
            *kept = Some(address.to_owned());
        }
    }

    /// Returns the statement to keep.
    pub fn stated(&self) -> Option<String> {
        let statement = self.statement.as_ref().filter(|statement| {
            let statement = statement.to_lowercase();
            ["licen", "creative commons", "open access", "open-access", "public domain"].iter().any(|words| statement.contains(words))
        });
        self.commons.as_ref().or(self.words.as_ref()).or(statement).or(self.address.as_ref()).cloned()
    }
}

/// A date as exact as stated; `0` where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    pub year: u16,
    pub month: u8,
    pub day: u8,
}

impl Date {
    /// Reads `2015`, `2015-03`, `2015-03-21`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let year = parts.next().and_then(|part| part.trim().parse().ok()).filter(|year| (1000..=2999).contains(year))?;
        let month = parts.next().and_then(month).unwrap_or(0);
        let day = parts.next().and_then(|part| part.get(..2)?.parse().ok()).filter(|day| month > 0 && (1..=31).contains(day)).unwrap_or(0);
        Some(Self { year, month, day })
    }

    /// Returns the earlier, and of dates that agree as far as they go, the more exact.
    pub fn earliest(self, other: Self) -> Self {
        let exact = |date: Self| u8::from(date.month > 0) + u8::from(date.day > 0);
        let order = self.year.cmp(&other.year).then_with(|| match (self.month, other.month) {
            (0, _) | (_, 0) => std::cmp::Ordering::Equal,
            (one, two) => one.cmp(&two).then_with(|| match (self.day, other.day) {
                (0, _) | (_, 0) => std::cmp::Ordering::Equal,
                (one, two) => one.cmp(&two),
            }),
        });
        match order.then_with(|| exact(other).cmp(&exact(self))) {
            std::cmp::Ordering::Greater => other,
            _ => self,
        }
    }

    /// Writes ISO 8601.
    pub fn iso(self) -> String {
        let Self { year, month, day } = self;
        match (month, day) {
            (0, _) => format!("{year:04}"),
            (_, 0) => format!("{year:04}-{month:02}"),
            _ => format!("{year:04}-{month:02}-{day:02}"),
        }
    }
}

/// Reads a month: a number or an English name, possibly cut short.
pub(crate) fn month(text: &str) -> Option<u8> {
    const NAMES: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let text = text.trim();
    let number = text.parse().ok().or_else(|| {
        let head = text.get(..3)?.to_ascii_lowercase();
        NAMES.iter().position(|name| *name == head).map(|index| index as u8 + 1)
    })?;
    (1..=12).contains(&number).then_some(number)
}

/// Makes an identifier of what `pub-id-type` and the text beside it say; `None` for kinds that identify nothing outside.
pub(crate) fn identifier(kind: &str, text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    match kind {
        "doi" => {
            let doi = text.find("10.").map_or(text, |start| &text[start..]);
            Some(format!("doi:{}", doi.to_lowercase()))
        }
        "pmid" => Some(format!("pmid:{text}")),
        "pmcid" | "pmc" | "pmc-uid" => Some(format!("pmcid:PMC{}", text.trim_start_matches("PMC").trim_start_matches("pmc"))),
        "publisher-id" | "pii" => Some(format!("{kind}:{text}")),
        _ => None,
    }
}

/// Brings a language tag to lower case; `None` for an empty one.
pub(crate) fn language(tag: &str) -> Option<String> {
    let tag = tag.trim().to_ascii_lowercase().replace('_', "-");
    (!tag.is_empty()).then_some(tag)
}

impl Front {
    /// Reads a `front` or `front-stub` whose `Start` came last. `text` renders titles and keywords.
    pub fn read<'a>(&mut self, reader: &mut Reader<'a>, text: &mut Flow<'_>, article: Option<&str>) -> Result<(), Reject> {
        let outside = reader.depth().saturating_sub(1);
        let mut foreign_keywords = false;
        while reader.depth() > outside {
            let before = reader.position();
            let Event::Start(element) = reader.next()? else { continue };
            match element.name() {
                b"contrib-group"
                | b"aff"
                | b"author-notes"
                | b"related-article"
                | b"related-object"
                | b"product"
                | b"history"
                | b"funding-group"
                | b"custom-meta-group"
                | b"supplementary-material"
                | b"self-uri"
                | b"publisher"
                | b"notes"
                | b"pub-history"
                | b"alt-title"
                | b"counts" => reader.skip_element()?,
                b"abstract" | b"trans-abstract" => {
                    let language = element.attribute(b"lang").and_then(|tag| language(&tag));
                    let differs = matches!((language.as_deref(), article), (Some(one), Some(other)) if one != other);
                    let translated = element.name() == b"trans-abstract" || differs;
                    reader.skip_element()?;
                    self.abstracts.push(Abstract { start: before, end: reader.position(), language, translated });
                }
                b"journal-title" if self.journal.is_none() => self.journal = some(text.inline_text(reader)?),
                b"article-title" if self.title.is_none() => self.title = some(title(text.inline_text(reader)?)),
                b"trans-title-group" => self.translated_title(reader, text, &element)?,
                b"trans-title" => {
                    let tag = element.attribute(b"lang").and_then(|tag| language(&tag));
                    self.titles.push((tag, text.inline_text(reader)?));
                }
                b"article-id" => {
                    let kind = element.attribute(b"pub-id-type").unwrap_or_default();
                    let value = text.inline_text(reader)?;
                    self.identifiers.extend(identifier(&kind, &value).filter(|identifier| !self.identifiers.contains(identifier)));
                }
                b"subject" => self.subjects.extend(some(text.inline_text(reader)?)),
                b"kwd-group" => {
                    let tag = element.attribute(b"lang").and_then(|tag| language(&tag));
                    foreign_keywords = matches!((tag.as_deref(), article), (Some(one), Some(other)) if one != other);
                }
                b"kwd" => {
                    let keyword = some(text.inline_text(reader)?).filter(|keyword| !self.keywords.contains(keyword));
                    self.keywords.extend(keyword.filter(|_| !foreign_keywords));
                }
                b"pub-date" => self.date(reader, &element)?,
                b"license" => self.license(reader, text, &element)?,
                b"license_ref" => self.license.address(&text.inline_text(reader)?),
                b"copyright-statement" if self.license.statement.is_none() => {
                    self.license.statement = some(text.inline_text(reader)?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes what belongs to the document's own fields.
    pub fn describe(&self, document: &mut Document, article_type: Option<&str>) {
        document.title.clone_from(&self.title);
        document.identifiers.clone_from(&self.identifiers);
        document.license = self.license.stated();
        document.published = self.published.map(Date::iso);
        let mut note = |key: &str, value: String| {
            if !value.is_empty() {
                document.metadata.insert(key.to_owned(), value);
            }
        };
        note("journal", self.journal.clone().unwrap_or_default());
        note("article_type", article_type.unwrap_or_default().to_owned());
        note("keywords", self.keywords.join("; "));
        note("subjects", self.subjects.join("; "));
    }

    fn translated_title<'a>(&mut self, reader: &mut Reader<'a>, text: &mut Flow<'_>, group: &Element<'a>) -> Result<(), Reject> {
        let outside = reader.depth().saturating_sub(1);
        let tag = group.attribute(b"lang").and_then(|tag| language(&tag));
        while reader.depth() > outside {
            if let Event::Start(element) = reader.next()?
                && element.name() == b"trans-title"
            {
                let own = element.attribute(b"lang").and_then(|tag| language(&tag));
                let words = text.inline_text(reader)?;
                self.titles.push((own.or_else(|| tag.clone()), words));
            }
        }
        Ok(())
    }

    /// Keeps a date on which the article itself came out, not one of an archive or of its history.
    fn date(&mut self, reader: &mut Reader<'_>, element: &Element<'_>) -> Result<(), Reject> {
        let kind = element.attribute(b"pub-type").or_else(|| element.attribute(b"date-type")).unwrap_or_default().to_ascii_lowercase();
        if ["release", "hwp", "archival", "retract", "preprint", "embargo"].iter().any(|other| kind.contains(other)) {
            return reader.skip_element();
        }
        let stated = element.attribute(b"iso-8601-date").and_then(|text| Date::parse(&text));
        let outside = reader.depth().saturating_sub(1);
        let mut date = Date { year: 0, month: 0, day: 0 };
        let mut field: &[u8] = b"";
        while reader.depth() > outside {
            match reader.next()? {
                Event::Start(element) => field = element.name(),
                Event::End(_) => field = b"",
                Event::Text(text) => match field {
                    b"year" => date.year = text.trim().parse().unwrap_or(date.year),
                    b"month" => date.month = month(&text).unwrap_or(date.month),
                    b"day" => date.day = text.trim().parse().unwrap_or(date.day),
                    _ => {}
                },
                Event::Eof => break,
            }
        }
        if date.month == 0 || date.day > 31 {
            date.day = 0;
        }
        let read = stated.or(Some(date).filter(|date| (1000..=2999).contains(&date.year)));
        if let Some(date) = read {
            self.published = Some(self.published.map_or(date, |known| known.earliest(date)));
        }
        Ok(())
    }

    fn license<'a>(&mut self, reader: &mut Reader<'a>, text: &mut Flow<'_>, element: &Element<'a>) -> Result<(), Reject> {
        if let Some(address) = element.attribute(b"href") {
            self.license.address(&address);
        }
        let start = reader.position();
        reader.skip_element()?;
        // The addresses inside come first in rank, the words are there for when there are none.
        let mut links = reader.part(start, reader.position());
        let mut words = String::new();
        while let Ok(event) = links.next() {
            match event {
                Event::Start(element) if element.name() == b"license_ref" => {
                    if let Ok(Event::Text(address)) = links.next() {
                        self.license.address(&address);
                    }
                }
                Event::Start(element) => {
                    if let Some(address) = element.attribute(b"href").filter(|address| address.contains("creativecommons.org")) {
                        self.license.address(&address);
                    }
                }
                Event::Text(text) => words.push_str(&text),
                Event::End(_) => {}
                Event::Eof => break,
            }
        }
        text.clear();
        text.builder.inline(&words);
        let words = std::mem::take(&mut words);
        if let Some(at) = words.find("creativecommons.org/") {
            let address: String =
                words[at..].chars().take_while(|c| !c.is_whitespace() && !matches!(c, ')' | ']' | ',' | ';' | '"')).collect();
            self.license.address(&format!("https://{}", address.trim_end_matches('.')));
        }
        if self.license.words.is_none() {
            self.license.words = some(text.builder.text().to_owned());
        }
        text.clear();
        Ok(())
    }
}

/// Drops the marks of footnotes that some titles end with.
fn title(mut title: String) -> String {
    while title.ends_with(['*', '†', '‡', ' ', '\u{2009}']) {
        title.pop();
    }
    title
}

fn some(text: String) -> Option<String> {
    let trimmed = text.trim();
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

/// Returns the heading of an abstract that has none, in its language.
pub(crate) fn abstract_title(language: Option<&str>) -> &'static str {
    match language.map(|tag| tag.split('-').next().unwrap_or_default()) {
        Some("pt") => "Resumo",
        Some("es") => "Resumen",
        Some("fr") => "Résumé",
        Some("de") => "Zusammenfassung",
        Some("it") => "Riassunto",
        _ => "Abstract",
    }
}
