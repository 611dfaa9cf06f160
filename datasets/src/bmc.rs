//! BioMed Central's own article XML (root `art`): front matter `fm`, body `bdy`, back matter `bm`.

use crate::emit::Emit;
use crate::jats::{Date, Flow, Kind, bmc, identifier, month};
use crate::limits::Limits;
use crate::xml::{self, Element, Event, Reader};
use crate::{Document, Reject, jats};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// What of an article becomes text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The abstract; default true.
    pub abstracts: bool,
    /// The body; default true.
    pub body: bool,
    /// The cells and feet of tables; default true.
    pub tables: bool,
    /// Captions of figures, tables and files; default true.
    pub captions: bool,
    /// Lists; default true.
    pub lists: bool,
    /// Footnotes; default true.
    pub footnotes: bool,
    /// Formulas; default true.
    pub formulas: bool,
    /// Acknowledgements; default true.
    pub acknowledgements: bool,
    /// The language given to documents, for the format states none; default `en`.
    pub language: Option<String>,
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
            acknowledgements: true,
            language: Some("en".to_owned()),
        }
    }
}

/// Reads the article in `bytes` with the default [`Limits`]; see [`parse_within`].
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    parse_within(bytes, settings, &Limits::default(), document, emit)
}

/// Reads the articles in `bytes` and hands over a document for each.
///
/// Rejects: those of [`Reader::next`], `no-article` where there is none, `no-text` for an article without any.
pub fn parse_within(bytes: &[u8], settings: &Settings, limits: &Limits, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    let bytes = match xml::transcode(bytes) {
        Ok(bytes) => bytes,
        Err(reject) => return emit(Err(reject)),
    };
    let rendering = jats::Settings {
        tables: settings.tables,
        captions: settings.captions,
        lists: settings.lists,
        footnotes: settings.footnotes,
        formulas: settings.formulas,
        ..jats::Settings::default()
    };
    let mut flow = Flow::new(&rendering, bmc);
    let mut titles = Flow::new(&rendering, bmc);
    let mut reader = Reader::new(&bytes, limits);
    flow.builder.reserve(bytes.len() / 2);
    let (mut articles, mut wrapped) = (0, false);
    loop {
        match reader.next() {
            Ok(Event::Start(element)) if element.name() == b"art" => {
                document.clear();
                document.record = wrapped.then_some(articles);
                articles += 1;
                let start = reader.position();
                let mut article = Article { settings, flow: &mut flow, titles: &mut titles, document };
                let outcome = article.read(&mut reader);
                let record = document.record;
                if let Err(mut reject) = outcome {
                    reject.record = record;
                    return emit(Err(reject));
                }
                if document.text.is_empty() {
                    let mut reject = Reject::new("no-text", start, "no abstract and no body, or the settings leave nothing of them");
                    reject.record = record;
                    emit(Err(reject))?;
                } else {
                    emit(Ok(document))?;
                }
            }
            Ok(Event::Start(_)) => wrapped = true,
            Ok(Event::End(_) | Event::Text(_)) => {}
            Ok(Event::Eof) if articles == 0 => return emit(Err(Reject::new("no-article", 0, "no <art> element; is the format right?"))),
            Ok(Event::Eof) => return ControlFlow::Continue(()),
            Err(reject) => return emit(Err(reject)),
        }
    }
}

/// The article being read.
struct Article<'p, 's> {
    settings: &'p Settings,
    flow: &'p mut Flow<'s>,
    titles: &'p mut Flow<'s>,
    document: &'p mut Document,
}

impl Article<'_, '_> {
    /// Reads an `art` whose `Start` came last.
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Reject> {
        self.flow.clear();
        self.document.language.clone_from(&self.settings.language);
        let outside = reader.depth().saturating_sub(1);
        while reader.depth() > outside {
            let Event::Start(element) = reader.next()? else { continue };
            match element.name() {
                b"ui" => {
                    let text = self.titles.inline_text(reader)?;
                    self.identify("publisher-id", &text);
                }
                b"fm" => self.front(reader)?,
                b"bdy" if self.settings.body => self.flow.content(reader, Kind::Block)?,
                b"bm" => self.back(reader)?,
                _ => reader.skip_element()?,
            }
        }
        self.flow.builder.finish(self.document);
        Ok(())
    }

    fn identify(&mut self, kind: &str, text: &str) {
        let found = identifier(kind, text).filter(|found| !self.document.identifiers.contains(found));
        self.document.identifiers.extend(found);
    }

    fn note(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let noted = self.document.metadata.entry(key.to_owned()).or_default();
        if !noted.is_empty() {
            noted.push_str("; ");
        }
        noted.push_str(value);
    }

    fn front(&mut self, reader: &mut Reader<'_>) -> Result<(), Reject> {
        let outside = reader.depth().saturating_sub(1);
        let mut year = None;
        let mut exact = None;
        while reader.depth() > outside {
            let Event::Start(element) = reader.next()? else { continue };
            match element.name() {
                b"aug" | b"insg" | b"rec" | b"acc" | b"revrec" | b"revreq" | b"issn" | b"url" => reader.skip_element()?,
                b"abs" if self.settings.abstracts => {
                    self.flow.element(reader, element)?;
                    self.flow.builder.paragraph();
                }
                b"abs" => reader.skip_element()?,
                b"title" if self.document.title.is_none() => {
                    let text = self.titles.inline_text(reader)?;
                    self.document.title = (!text.is_empty()).then_some(text);
                }
                b"dochead" | b"source" | b"kwd" => {
                    let text = self.titles.inline_text(reader)?;
                    let key = match element.name() {
                        b"dochead" => "article_type",
                        b"source" => "journal",
                        _ => "keywords",
                    };
                    self.note(key, &text);
                }
                b"pubid" => {
                    let kind = match element.attribute(b"idtype").as_deref() {
                        Some("doi") => "doi",
                        Some("pmpid" | "pmid") => "pmid",
                        Some("pmcid") => "pmcid",
                        _ => "",
                    };
                    let text = self.titles.inline_text(reader)?;
                    self.identify(kind, &text);
                }
                b"pubdate" => year = Date::parse(&self.titles.inline_text(reader)?),
                b"pub" => exact = date(reader)?,
                b"cpyrt" => self.license(reader)?,
                _ => {}
            }
        }
        self.document.published = exact.or(year).map(Date::iso);
        Ok(())
    }

    /// Takes the first Creative Commons address of the copyright note, else the note's words.
    fn license(&mut self, reader: &mut Reader<'_>) -> Result<(), Reject> {
        let outside = reader.depth().saturating_sub(1);
        while reader.depth() > outside {
            let Event::Start(element) = reader.next()? else { continue };
            if element.name() != b"note" {
                continue;
            }
            let text = self.titles.inline_text(reader)?;
            let address = text.split(|character: char| character.is_whitespace() || matches!(character, '(' | ')' | ',' | ';'));
            let address = address.map(|word| word.trim_end_matches('.')).find(|word| word.contains("creativecommons.org"));
            let stated = address.map_or_else(|| text.clone(), str::to_owned);
            self.document.license = (!stated.is_empty()).then_some(stated);
        }
        Ok(())
    }

    fn back(&mut self, reader: &mut Reader<'_>) -> Result<(), Reject> {
        let outside = reader.depth().saturating_sub(1);
        while reader.depth() > outside {
            let Event::Start(element) = reader.next()? else { continue };
            match element.name() {
                b"ack" if !self.settings.acknowledgements => reader.skip_element()?,
                b"refgrp" => reader.skip_element()?,
                _ => self.flow.element(reader, element)?,
            }
        }
        Ok(())
    }
}

/// Reads the `date` inside the element whose `Start` came last.
fn date(reader: &mut Reader<'_>) -> Result<Option<Date>, Reject> {
    let outside = reader.depth().saturating_sub(1);
    let mut date = Date { year: 0, month: 0, day: 0 };
    let mut field: &[u8] = b"";
    while reader.depth() > outside {
        match reader.next()? {
            Event::Start(element) => field = Element::name(&element),
            Event::End(_) => field = b"",
            Event::Text(text) => match field {
                b"year" => date.year = text.trim().parse().unwrap_or(0),
                b"month" => date.month = month(&text).unwrap_or(0),
                b"day" => date.day = text.trim().parse().ok().filter(|day| (1..=31).contains(day)).unwrap_or(0),
                _ => {}
            },
            Event::Eof => break,
        }
    }
    Ok((1000..=2999).contains(&date.year).then_some(date))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARTICLE: &str = r#"<art><ui>1-2</ui><fm><dochead>Research</dochead><bibl><title><p>A trial</p></title><aug><au><snm>Secret</snm></au></aug>
<source>Trials</source><pubdate>2015</pubdate><xrefbib><pubid idtype="doi">10.1/X</pubid></xrefbib></bibl>
<history><rec><date><year>2014</year></date></rec><pub><date><day>12</day><month>2</month><year>2015</year></date></pub></history>
<cpyrt><note>Free (<url>http://creativecommons.org/licenses/by/4.0</url>), and so on.</note></cpyrt><kwdg><kwd>k</kwd></kwdg>
<abs><sec><st><p>Abstract</p></st><sec><st><p>Aims</p></st><p>Short.</p></sec></sec></abs></fm>
<bdy><sec><st><p>Methods</p></st><p>See <tblr tid="T1">1</tblr> [<abbrgrp><abbr bid="B1">2</abbr></abbrgrp>], 10<sup>3</sup>.</p>
<table id="T1"><title><p>Table 1</p></title><caption><p><b>Doses</b></p></caption><tgroup><thead><row><entry><p>Drug</p></entry><entry><p>mg</p></entry></row></thead>
<tbody><row><entry><p>A</p></entry><entry><p>5</p></entry></row></tbody><tfoot><p>Oral.</p></tfoot></tgroup></table></sec></bdy>
<bm><ack><sec><st><p>Thanks</p></st><p>All.</p></sec></ack><refgrp><bibl id="B1"><title><p>Gone</p></title></bibl></refgrp></bm></art>"#;

    fn read(xml: &[u8]) -> Vec<Result<Document, Reject>> {
        let mut found = Vec::new();
        let _ = parse(xml, &Settings::default(), &mut Document::default(), &mut |item| {
            found.push(item.cloned());
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn an_article() {
        let found = read(ARTICLE.as_bytes());
        let document = found[0].as_ref().unwrap();
        assert_eq!(
            document.text,
            "Abstract\n\nAims\n\nShort.\n\nMethods\n\nSee 1 [2], 10^3.\n\nTable 1\n\nDoses\n\nDrug | mg\nA | 5\n\nOral.\n\nThanks\n\nAll."
        );
        assert_eq!(document.title.as_deref(), Some("A trial"));
        assert_eq!(document.identifiers, ["publisher-id:1-2", "doi:10.1/x"]);
        assert_eq!(document.published.as_deref(), Some("2015-02-12"));
        assert_eq!(document.license.as_deref(), Some("http://creativecommons.org/licenses/by/4.0"));
        assert_eq!(document.metadata["keywords"], "k");
        assert_eq!(document.sections.iter().map(|section| section.level).collect::<Vec<_>>(), [1, 2, 1, 1]);
    }

    #[test]
    fn citations_stand_in_brackets_and_feet_below_their_table() {
        let abbr = |number: u32| format!("<abbr bid=\"B{number}\">{number}</abbr>");
        for (body, expected) in [
            (format!("<p>VSCs <abbrgrp>\n {}, {}\n </abbrgrp>.</p>", abbr(4), abbr(5)), "VSCs [4, 5]."),
            (format!("<p>a <abbrgrp>\n {}</abbrgrp>-<abbrgrp>\n {}\n</abbrgrp>, b</p>", abbr(1), abbr(3)), "a [1]-[3], b"),
            (format!("<p>a [<abbrgrp>{}</abbrgrp>, <abbrgrp>{}</abbrgrp>] (<abbrgrp>{0}</abbrgrp>)</p>", abbr(1), abbr(3)), "a [1, 3] (1)"),
            (format!("<p>a<sup><abbrgrp>{}</abbrgrp></sup> b<abbrgrp><sup>{}</sup></abbrgrp></p>", abbr(1), abbr(2)), "a[1] b[2]"),
            (
                "<table><tgroup><thead><row><entry>A</entry><entry>B</entry></row></thead><tfoot><p>Foot.</p></tfoot>\
                 <tbody><row><entry>1</entry><entry>2</entry></row></tbody></tgroup></table><p>x</p>"
                    .to_owned(),
                "A | B\n1 | 2\n\nFoot.\n\nx",
            ),
        ] {
            let found = read(format!("<art><bdy>{body}</bdy></art>").as_bytes());
            assert_eq!(found[0].as_ref().unwrap().text, expected, "{body}");
        }
    }

    #[test]
    fn a_file_cut_at_any_byte_is_rejected() {
        for length in 0..ARTICLE.len() {
            assert!(matches!(read(&ARTICLE.as_bytes()[..length]).as_slice(), [Err(_)]), "cut at {length}");
        }
    }

    #[test]
    fn every_shared_article_is_read() {
        let Ok(entries) = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/bmc_trials_xml")) else {
            eprintln!("SKIPPED: no bmc_trials_xml beside the repository");
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "xml")) {
            let found = read(&std::fs::read(&path).unwrap());
            let [Ok(document)] = found.as_slice() else { panic!("{}: {} items", path.display(), found.len()) };
            assert!(document.text.len() > 1000 && document.title.is_some() && document.license.is_some(), "{}", path.display());
        }
    }
}
