//! Wikipedia: the articles of a MediaWiki XML dump (`pages-articles`), or of a `Special:Export`.
//!
//! Pages outside the article namespace, redirects and pages that only tell names apart give rejects. Where a page holds several revisions the
//! last counts. The wikitext is rendered by [`crate::wikitext`].

use crate::elements::read_records;
use crate::emit::Emit;
use crate::limits::Limits;
use crate::wikitext;
use crate::xml::{Event, Reader};
use crate::{Document, Reject};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead};
use std::ops::ControlFlow;

const RECORDS: &[&str] = &["page"];

/// Which pages are read, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The namespaces whose pages are read; default `[0]`, articles.
    pub namespaces: Vec<i64>,
    /// Whether pages that only tell apart what has the same name are read; default no.
    pub disambiguations: bool,
    /// The language; default what the dump states.
    pub language: Option<String>,
    /// The licence of the text; default `CC-BY-SA-4.0`, Wikipedia's.
    pub license: String,
    pub wikitext: wikitext::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespaces: vec![0],
            disambiguations: false,
            language: None,
            license: "CC-BY-SA-4.0".into(),
            wikitext: wikitext::Settings::default(),
        }
    }
}

/// Reads the pages of a stream one by one.
///
/// Rejects: `namespace`, `redirect`, `disambiguation`, `not-wikitext`, `no-text`, those of [`crate::elements::Elements`], and those of
/// [`crate::xml::Reader`].
///
/// # Errors
/// What the stream itself reports.
pub fn read(
    input: &mut dyn BufRead,
    settings: &Settings,
    limits: &Limits,
    document: &mut Document,
    emit: &mut Emit<'_>,
) -> io::Result<ControlFlow<()>> {
    let mut stated = None;
    read_records(input, RECORDS, limits, emit, |record, emit| {
        let language = stated.get_or_insert_with(|| root_language(record.root_tag, limits));
        match fill(record.bytes, settings, language, limits, document) {
            Ok(()) => {
                document.record = Some(record.record);
                emit(Ok(&*document))
            }
            Err(reject) => emit(Err(record.place(reject))),
        }
    })
}

/// Reads the pages of a file, or a single framed one, in memory.
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    // Reading from memory cannot fail.
    read(&mut &bytes[..], settings, &Limits::default(), document, emit).unwrap_or(ControlFlow::Continue(()))
}

fn root_language(root_tag: &[u8], limits: &Limits) -> Option<String> {
    match Reader::new(root_tag, limits).next() {
        Ok(Event::Start(root)) => {
            root.attribute(b"lang").map(|language| language.to_ascii_lowercase()).filter(|language| !language.is_empty())
        }
        _ => None,
    }
}

#[derive(Default)]
struct Page {
    title: String,
    namespace: String,
    id: String,
    redirect: bool,
    revision: String,
    timestamp: String,
    model: String,
    text: String,
    /// Where the text begins, in the record.
    byte: usize,
}

fn fill(bytes: &[u8], settings: &Settings, language: &Option<String>, limits: &Limits, document: &mut Document) -> Result<(), Reject> {
    document.clear();
    let page = page(bytes, settings, limits)?;
    if !page.model.is_empty() && page.model != "wikitext" {
        return Err(Reject::new("not-wikitext", 0, "a page whose content model is not wikitext"));
    }
    let start: String = page.text.trim_start().chars().take(16).collect();
    let redirect =
        ["#redirect", "#weiterleitung", "#redirección", "#redirection", "#redirecionamento", "#patrz", "#rinvia", "#doorverwijzing"];
    if page.redirect || redirect.iter().any(|word| start.to_lowercase().starts_with(&word[..word.floor_char_boundary(16)])) {
        return Err(Reject::new("redirect", 0, "a page that redirects to another"));
    }
    if !settings.disambiguations && wikitext::is_disambiguation(&page.text) {
        return Err(Reject::new("disambiguation", 0, "a page that tells names apart"));
    }
    wikitext::render(&page.text, &settings.wikitext, document);
    if document.text.is_empty() {
        return Err(Reject::new("no-text", page.byte, "a page without text"));
    }
    document.title = Some(page.title).filter(|title| !title.is_empty());
    document.language = settings.language.clone().or_else(|| language.clone());
    document.license = Some(settings.license.clone()).filter(|license| !license.is_empty());
    if !page.id.is_empty() {
        let wiki = document.language.as_deref().unwrap_or("und");
        document.identifiers.push(format!("wikipedia:{wiki}:{}", page.id));
    }
    document.published = page.timestamp.get(..10).filter(|day| day.bytes().filter(|&byte| byte == b'-').count() == 2).map(str::to_owned);
    if !page.revision.is_empty() {
        document.metadata.insert("revision".into(), page.revision);
    }
    Ok(())
}

fn page(bytes: &[u8], settings: &Settings, limits: &Limits) -> Result<Page, Reject> {
    let mut reader = Reader::new(bytes, limits);
    let mut page = Page::default();
    loop {
        let element = match reader.next()? {
            Event::Start(element) => element,
            Event::Eof => return Ok(page),
            _ => continue,
        };
        // `<page>` holds its own id, `<revision>` another; contributors and the rest have more.
        match (reader.depth(), element.name()) {
            (2, b"title") => take(&mut reader, &mut page.title)?,
            (2, b"ns") => {
                take(&mut reader, &mut page.namespace)?;
                let namespace = page.namespace.trim().parse::<i64>().unwrap_or(0);
                if !settings.namespaces.contains(&namespace) {
                    return Err(Reject::new("namespace", 0, format!("a page of namespace {namespace}")));
                }
            }
            (2, b"id") => take(&mut reader, &mut page.id)?,
            (2, b"redirect") => page.redirect = true,
            (3, b"id") => take(&mut reader, &mut page.revision)?,
            (3, b"timestamp") => take(&mut reader, &mut page.timestamp)?,
            (3, b"model") => take(&mut reader, &mut page.model)?,
            (3, b"text") => {
                page.byte = reader.position();
                take(&mut reader, &mut page.text)?;
            }
            (1, _) | (2, b"revision") => {}
            _ => reader.skip_element()?,
        }
    }
}

/// Replaces `field` by the text of the element whose start came last.
fn take(reader: &mut Reader<'_>, field: &mut String) -> Result<(), Reject> {
    field.clear();
    let outside = reader.depth() - 1;
    while reader.depth() > outside {
        match reader.next()? {
            Event::Text(text) => field.push_str(&text),
            Event::Eof => break,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DUMP: &str = r#"<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">
  <siteinfo><sitename>Wikipedia</sitename><dbname>enwiki</dbname><namespaces><namespace key="0" case="first-letter" /></namespaces></siteinfo>
  <page><title>Asthma</title><ns>0</ns><id>44905</id>
    <revision><id>1</id><timestamp>2020-01-01T00:00:00Z</timestamp><contributor><username>A</username><id>9</id></contributor><model>wikitext</model>
      <text bytes="3" xml:space="preserve">Old</text></revision>
    <revision><id>2</id><parentid>1</parentid><timestamp>2024-05-06T07:08:09Z</timestamp><contributor><ip>::1</ip></contributor><model>wikitext</model>
      <format>text/x-wiki</format><text bytes="9" xml:space="preserve">{{Short description|Disease}}
'''Asthma''' is a [[disease]] of the airways.&lt;ref&gt;Cite&lt;/ref&gt; p &amp;lt; 0.05

== Signs ==
* [[wheeze]]
== References ==
{{reflist}}</text><sha1>x</sha1></revision></page>
  <page><title>Talk:Asthma</title><ns>1</ns><id>2</id><revision><id>3</id><text>talk</text></revision></page>
  <page><title>Astma</title><ns>0</ns><id>3</id><redirect title="Asthma" /><revision><id>4</id><text>#REDIRECT [[Asthma]]</text></revision></page>
  <page><title>MI</title><ns>0</ns><id>4</id><revision><id>5</id><text>May be: {{disambiguation}}</text></revision></page>
  <page><title>A.js</title><ns>0</ns><id>5</id><revision><id>6</id><model>javascript</model><text>x</text></revision></page>
  <page><title>E</title><ns>0</ns><id>6</id><revision><id>7</id><text /></revision></page>
</mediawiki>"#;

    fn read_all(bytes: &[u8]) -> Vec<Result<Document, Reject>> {
        let mut document = Document::default();
        let mut found = Vec::new();
        let _ = parse(bytes, &Settings::default(), &mut document, &mut |result| {
            found.push(result.cloned());
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn reads_a_dump() {
        let found = read_all(DUMP.as_bytes());
        let document = found[0].as_ref().unwrap();
        assert_eq!(document.title.as_deref(), Some("Asthma"));
        assert_eq!(document.text, "Asthma is a disease of the airways. p < 0.05\n\nSigns\n\n- wheeze");
        assert_eq!((document.language.as_deref(), document.published.as_deref()), (Some("en"), Some("2024-05-06")));
        assert_eq!((document.identifiers[0].as_str(), document.metadata["revision"].as_str()), ("wikipedia:en:44905", "2"));
        assert_eq!((document.license.as_deref(), document.record), (Some("CC-BY-SA-4.0"), Some(0)));
        let reasons: Vec<_> =
            found[1..].iter().map(|found| found.as_ref().unwrap_err()).map(|reject| (reject.reason, reject.record)).collect();
        let wanted = [("namespace", 1), ("redirect", 2), ("disambiguation", 3), ("not-wikitext", 4), ("no-text", 5)];
        assert_eq!(reasons, wanted.map(|(reason, record)| (reason, Some(record))));
    }

    #[test]
    fn a_page_alone_is_read() {
        let (start, end) = (DUMP.find("<page>").unwrap(), DUMP.find("</page>").unwrap() + 7);
        let found = read_all(&DUMP.as_bytes()[start..end]);
        assert_eq!(found[0].as_ref().unwrap().identifiers, ["wikipedia:und:44905"]);
    }

    #[test]
    fn truncation_anywhere_is_told() {
        for end in 0..DUMP.len() - 1 {
            let found = read_all(&DUMP.as_bytes()[..end]);
            assert!(
                matches!(found.last(), Some(Err(last)) if ["xml-truncated", "xml-malformed"].contains(&last.reason)),
                "{end}: {found:?}"
            );
        }
    }

    #[test]
    fn breaking_off_stops() {
        let mut count = 0;
        let flow = parse(DUMP.as_bytes(), &Settings::default(), &mut Document::default(), &mut |_| {
            count += 1;
            ControlFlow::Break(())
        });
        assert!(flow.is_break() && count == 1);
    }

    proptest! {
        #[test]
        fn mutations_never_panic(changes in prop::collection::vec((0usize..DUMP.len(), any::<u8>()), 1..6)) {
            let mut bytes = DUMP.as_bytes().to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = read_all(&bytes);
        }
    }
}
