//! PubMed citation XML: title and abstract of each `<PubmedArticle>` and `<PubmedBookArticle>`, of a baseline file or a download.
//!
//! A labelled part of a structured abstract is a section. A citation without an abstract gives the reject `no-text`; deleted citations are
//! not records. The elements are those of NLM's PubMed DTD (and of the older MEDLINE one, whose records are bare `<MedlineCitation>`).

use crate::cnxml::{math, script};
use crate::elements::read_records;
use crate::emit::Emit;
use crate::limits::Limits;
use crate::xml::{Element, Event, Reader, TextBuilder};
use crate::{Document, Reject, license};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead};
use std::ops::ControlFlow;

const RECORDS: &[&str] = &["PubmedArticle", "PubmedBookArticle", "MedlineCitation"];

/// What of a citation is read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether each `<OtherAbstract>` (another language, plain language, a society's own) becomes a document of its own; default no.
    pub other_abstracts: bool,
}

/// Reads the citations of a stream one by one.
///
/// Rejects: `no-text`, those of [`crate::elements::Elements`], and those of [`crate::xml::Reader`].
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
    read_records(input, RECORDS, limits, emit, |record, emit| {
        let (mut wanted, mut others) = (0, 0);
        while wanted <= others {
            match fill(record.bytes, wanted, limits, document, &mut others) {
                Ok(()) => {
                    document.record = Some(record.record);
                    emit(Ok(&*document))?;
                }
                Err(reject) => emit(Err(record.place(reject)))?,
            }
            if !settings.other_abstracts {
                break;
            }
            wanted += 1;
        }
        ControlFlow::Continue(())
    })
}

/// Reads the citations of a file, or a single framed one, in memory.
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    // Reading from memory cannot fail.
    read(&mut &bytes[..], settings, &Limits::default(), document, emit).unwrap_or(ControlFlow::Continue(()))
}

/// What is gathered on the way and stored at the end.
#[derive(Default)]
struct Citation {
    pmid: Option<String>,
    dois: Vec<String>,
    pmcid: Option<String>,
    book_accession: Option<String>,
    title: Option<String>,
    vernacular_title: Option<String>,
    book_title: Option<String>,
    languages: Vec<String>,
    issue_date: Date,
    article_date: Date,
    mesh: String,
    keywords: String,
    publication_types: String,
    other_abstracts: usize,
    /// The language of the other abstract that is read.
    other_language: Option<String>,
}

/// Fills the document from a record; `wanted` 0 is the abstract, 1 the first other abstract, of which there are `others`.
fn fill(bytes: &[u8], wanted: usize, limits: &Limits, document: &mut Document, others: &mut usize) -> Result<(), Reject> {
    document.clear();
    let mut reader = Reader::new(bytes, limits);
    let mut text = TextBuilder::new();
    // Takes the document's buffers over.
    text.finish(document);
    let mut citation = Citation::default();
    let end = walk(&mut reader, wanted, &mut citation, &mut text, document);
    *others = citation.other_abstracts;
    end?;
    if text.is_empty() {
        return Err(Reject::new("no-text", 0, "a citation without an abstract"));
    }
    text.finish(document);
    if cut_truncation_mark(document) {
        document.metadata.insert("abstract_truncated".into(), "true".into());
    }
    citation.store(wanted, document);
    Ok(())
}

fn walk(
    reader: &mut Reader<'_>,
    wanted: usize,
    citation: &mut Citation,
    text: &mut TextBuilder,
    document: &mut Document,
) -> Result<(), Reject> {
    loop {
        let element = match reader.next()? {
            Event::Eof => return Ok(()),
            Event::Start(element) => element,
            _ => continue,
        };
        match element.name() {
            b"AuthorList"
            | b"ReferenceList"
            | b"History"
            | b"CommentsCorrectionsList"
            | b"GrantList"
            | b"DataBankList"
            | b"InvestigatorList"
            | b"PersonalNameSubjectList"
            | b"ChemicalList"
            | b"SupplMeshList"
            | b"GeneSymbolList"
            | b"Sections"
            | b"ItemList"
            | b"Publisher"
            | b"DateCompleted"
            | b"DateRevised"
            | b"DateCreated"
            | b"ContributionDate"
            | b"BeginningDate"
            | b"EndingDate" => reader.skip_element()?,
            b"PMID" => keep_first(&mut citation.pmid, inline(reader)?),
            b"ArticleId" | b"ELocationID" => identifier(reader, element, citation)?,
            b"ArticleTitle" => keep_first(&mut citation.title, inline(reader)?),
            b"VernacularTitle" => keep_first(&mut citation.vernacular_title, inline(reader)?),
            b"BookTitle" => keep_first(&mut citation.book_title, inline(reader)?),
            b"Language" => {
                let language = language(&inline(reader)?);
                citation.languages.extend(language);
            }
            b"PubDate" => citation.issue_date = date(reader)?,
            b"ArticleDate" => citation.article_date = date(reader)?,
            b"Title" => {
                let journal = inline(reader)?;
                insert(document, "journal", journal);
            }
            b"ISSNLinking" | b"ISSN" => {
                let issn = inline(reader)?;
                insert(document, "issn", issn);
            }
            b"MeshHeading" => mesh_heading(reader, &mut citation.mesh)?,
            b"Keyword" => push_joined(&mut citation.keywords, &inline(reader)?),
            b"PublicationType" => push_joined(&mut citation.publication_types, &inline(reader)?),
            b"Abstract" if wanted == 0 => abstract_parts(reader, text, document)?,
            b"Abstract" => reader.skip_element()?,
            b"OtherAbstract" => {
                citation.other_abstracts += 1;
                if citation.other_abstracts == wanted {
                    citation.other_language = element.attribute(b"Language").and_then(|code| language(&code));
                    if let Some(kind) = element.attribute(b"Type") {
                        document.metadata.insert("abstract_type".into(), kind.into_owned());
                    }
                    abstract_parts(reader, text, document)?;
                } else {
                    reader.skip_element()?;
                }
            }
            _ => {}
        }
    }
}

impl Citation {
    fn store(self, wanted: usize, document: &mut Document) {
        let stated = self.languages.first().cloned();

        // NLM keeps `<Abstract>` for the English one; `<Language>` is that of the article.
        document.language = if wanted > 0 { self.other_language } else { stated.is_some().then(|| "en".to_owned()) };
        let usable = |title: &String| !title.is_empty() && title != "[Not Available]." && title != "Not Available";
        let vernacular = self.vernacular_title.filter(usable);
        let own_language = wanted > 0 && document.language.is_some() && document.language == stated;
        document.title = match (self.title.filter(usable), vernacular, own_language) {
            (_, Some(vernacular), true) | (None, Some(vernacular), _) => Some(vernacular),
            (Some(title), vernacular, _) => {
                insert(document, "vernacular_title", vernacular.unwrap_or_default());
                Some(title)
            }
            (None, None, _) => self.book_title.clone(),
        };
        document.identifiers.extend(self.pmid.filter(|id| !id.is_empty()).map(|id| format!("pmid:{id}")));
        for doi in self.dois {
            let identifier = format!("doi:{doi}");
            if !document.identifiers.contains(&identifier) {
                document.identifiers.push(identifier);
            }
        }
        document.identifiers.extend(self.pmcid.map(|id| format!("pmcid:{id}")));
        document.identifiers.extend(self.book_accession.map(|id| format!("bookaccession:{id}")));
        // The issue's date counts; that of the electronic article where it says the same more exactly.
        let exact = self.article_date.0.filter(|date| self.issue_date.0.as_ref().is_none_or(|issue| date.starts_with(issue.as_str())));
        document.published = exact.or(self.issue_date.0);
        insert(document, "book", self.book_title.unwrap_or_default());
        insert(document, "mesh", self.mesh);
        insert(document, "keywords", self.keywords);
        insert(document, "publication_types", self.publication_types);
        if stated.is_some_and(|language| language != "en") || self.languages.len() > 1 {
            insert(document, "article_language", self.languages.join("; "));
        }
    }
}

fn insert(document: &mut Document, key: &str, value: String) {
    if !value.is_empty() {
        document.metadata.insert(key.to_owned(), value);
    }
}

fn keep_first(field: &mut Option<String>, value: String) {
    if field.is_none() && !value.is_empty() {
        *field = Some(value);
    }
}

fn push_joined(list: &mut String, item: &str) {
    if !item.is_empty() {
        if !list.is_empty() {
            list.push_str("; ");
        }
        list.push_str(item);
    }
}

/// Reads an `<ArticleId>` or `<ELocationID>`.
fn identifier(reader: &mut Reader<'_>, element: Element<'_>, citation: &mut Citation) -> Result<(), Reject> {
    let kind = element.attribute(b"IdType").or_else(|| element.attribute(b"EIdType")).unwrap_or_default().to_ascii_lowercase();
    let valid = element.attribute(b"ValidYN").is_none_or(|valid| valid != "N");
    let value = inline(reader)?;
    if value.is_empty() || !valid {
        return Ok(());
    }
    match kind.as_str() {
        "doi" => citation.dois.push(value.to_lowercase()),
        "pmc" | "pmcid" if citation.pmcid.is_none() => {
            let digits = value.trim_start_matches(['P', 'M', 'C', 'p', 'm', 'c']);
            citation.pmcid = Some(format!("PMC{digits}"));
        }
        "pubmed" => keep_first(&mut citation.pmid, value),
        "bookaccession" => keep_first(&mut citation.book_accession, value),
        _ => {}
    }
    Ok(())
}

/// Reads `Descriptor/qualifier/qualifier`.
fn mesh_heading(reader: &mut Reader<'_>, mesh: &mut String) -> Result<(), Reject> {
    let outside = reader.depth() - 1;
    let mut heading = String::new();
    while reader.depth() > outside {
        match reader.next()? {
            Event::Start(element) if matches!(element.name(), b"DescriptorName" | b"QualifierName") => {
                if !heading.is_empty() {
                    heading.push('/');
                }
                heading.push_str(&inline(reader)?);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    push_joined(mesh, &heading);
    Ok(())
}

/// Takes a copyright notice for the licence only where it names one: whose the text is says nothing of its use.
fn copyright(notice: String, document: &mut Document) {
    if license::normalize(&notice).is_some() {
        document.license = Some(notice);
    } else if !notice.is_empty() {
        document.metadata.insert("copyright".into(), notice);
    }
}

/// Reads the parts of an abstract; a label is a section's title.
fn abstract_parts(reader: &mut Reader<'_>, text: &mut TextBuilder, document: &mut Document) -> Result<(), Reject> {
    let outside = reader.depth() - 1;
    while reader.depth() > outside {
        match reader.next()? {
            Event::Start(element) => match element.name() {
                b"AbstractText" => {
                    match element.attribute(b"Label") {
                        Some(label) if !label.trim().is_empty() && !label.eq_ignore_ascii_case("UNLABELLED") => text.heading(1, &label),
                        _ => text.paragraph(),
                    }
                    inline_into(reader, text)?;
                    text.paragraph();
                }
                b"CopyrightInformation" => copyright(inline(reader)?, document),
                _ => reader.skip_element()?,
            },
            Event::Text(words) => text.inline(&words),
            Event::End(_) => {}
            Event::Eof => break,
        }
    }
    Ok(())
}

/// Reads the words of the element whose start came last.
fn inline(reader: &mut Reader<'_>) -> Result<String, Reject> {
    let mut text = TextBuilder::new();
    inline_into(reader, &mut text)?;
    Ok(text.text().to_owned())
}

fn inline_into(reader: &mut Reader<'_>, text: &mut TextBuilder) -> Result<(), Reject> {
    let outside = reader.depth() - 1;
    while reader.depth() > outside {
        match reader.next()? {
            Event::Text(words) => text.inline(&words),
            Event::Start(element) => match element.name() {
                b"math" => math(reader, text)?,
                b"sup" => script(reader, text)?,
                _ => {}
            },
            Event::End(b"p" | b"DispFormula" | b"br") => text.space(),
            Event::End(_) => {}
            Event::Eof => break,
        }
    }
    Ok(())
}

/// An ISO 8601 date, as exact as stated.
#[derive(Default)]
struct Date(Option<String>);

/// Reads a `<PubDate>` or `<ArticleDate>`: year, month by name or number, day; or a `<MedlineDate>` such as `1998 Dec-1999 Jan`.
fn date(reader: &mut Reader<'_>) -> Result<Date, Reject> {
    let outside = reader.depth() - 1;
    let (mut year, mut month, mut day, mut medline) = (String::new(), String::new(), String::new(), String::new());
    while reader.depth() > outside {
        match reader.next()? {
            Event::Start(element) => match element.name() {
                b"Year" => year = inline(reader)?,
                b"Month" => month = inline(reader)?,
                b"Day" => day = inline(reader)?,
                b"MedlineDate" => medline = inline(reader)?,
                _ => reader.skip_element()?,
            },
            Event::Eof => break,
            _ => {}
        }
    }
    if year.is_empty() {
        return Ok(Date(medline_date(&medline)));
    }
    Ok(Date(iso_date(&year, &month, &day)))
}

fn iso_date(year: &str, month: &str, day: &str) -> Option<String> {
    let year: u16 = year.parse().ok().filter(|year| (1000..=2999).contains(year))?;
    let Some(month) = month_number(month) else { return Some(format!("{year:04}")) };
    match day.parse::<u8>() {
        Ok(day @ 1..=31) => Some(format!("{year:04}-{month:02}-{day:02}")),
        _ => Some(format!("{year:04}-{month:02}")),
    }
}

fn month_number(month: &str) -> Option<u8> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    if let Ok(number) = month.parse::<u8>() {
        return (1..=12).contains(&number).then_some(number);
    }
    let start = month.get(..3)?.to_ascii_lowercase();
    MONTHS.iter().position(|name| *name == start).map(|index| index as u8 + 1)
}

/// Reads the beginning of a period: `2019 Sep/Oct`, `1998 Dec-1999 Jan`, `2000 Spring`, `1975-1976`, `Fall 2017`.
fn medline_date(text: &str) -> Option<String> {
    let mut words = text.split(|c: char| c.is_whitespace() || matches!(c, '-' | '/' | ',')).filter(|word| !word.is_empty());
    let year = words.find(|word| word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_digit()))?;
    let month = words.next().filter(|word| !word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default();
    // A day only where nothing says that the period goes on into another month.
    let day = words.next().filter(|word| word.len() <= 2).unwrap_or_default();
    iso_date(year, month, day)
}

/// MEDLINE once cut abstracts and said so at their end. Cuts the note, and says whether there was one.
fn cut_truncation_mark(document: &mut Document) -> bool {
    const MARK: &str = "(ABSTRACT TRUNCATED";
    let Some(at) = document.text.rfind(MARK) else { return false };
    let rest = &document.text[at + MARK.len()..];
    if !rest.trim_end().ends_with(')') || rest.len() > 20 {
        return false;
    }
    document.text.truncate(document.text[..at].trim_end().len());
    let end = document.text.len();
    for section in &mut document.sections {
        section.end = section.end.min(end);
        section.start = section.start.min(end);
    }
    !document.text.is_empty()
}

/// Turns a code of ISO 639-2 (bibliographic or terminological), as MEDLINE uses, into that of ISO 639-1 where there is one. `None` for codes
/// that name no language.
pub fn language(code: &str) -> Option<String> {
    let code = code.trim().to_ascii_lowercase();
    if code.is_empty() || matches!(code.as_str(), "und" | "mul" | "zxx" | "mis" | "unknown") {
        return None;
    }
    Some(LANGUAGES.iter().find(|(long, _)| *long == code).map_or(code, |(_, short)| (*short).to_owned()))
}

#[rustfmt::skip]
const LANGUAGES: [(&str, &str); 76] = [
    ("eng", "en"), ("ger", "de"), ("deu", "de"), ("fre", "fr"), ("fra", "fr"), ("spa", "es"), ("ita", "it"), ("jpn", "ja"), ("rus", "ru"),
    ("chi", "zh"), ("zho", "zh"), ("por", "pt"), ("pol", "pl"), ("dut", "nl"), ("nld", "nl"), ("swe", "sv"), ("dan", "da"), ("nor", "no"),
    ("nob", "nb"), ("fin", "fi"), ("cze", "cs"), ("ces", "cs"), ("slo", "sk"), ("slk", "sk"), ("slv", "sl"), ("hun", "hu"), ("rum", "ro"),
    ("ron", "ro"), ("bul", "bg"), ("ukr", "uk"), ("srp", "sr"), ("scc", "sr"), ("hrv", "hr"), ("scr", "hr"), ("bos", "bs"), ("mac", "mk"),
    ("mkd", "mk"), ("gre", "el"), ("ell", "el"), ("tur", "tr"), ("ara", "ar"), ("heb", "he"), ("per", "fa"), ("fas", "fa"), ("hin", "hi"),
    ("ben", "bn"), ("tam", "ta"), ("tel", "te"), ("mal", "ml"), ("kor", "ko"), ("vie", "vi"), ("tha", "th"), ("ind", "id"), ("may", "ms"),
    ("msa", "ms"), ("cat", "ca"), ("baq", "eu"), ("eus", "eu"), ("glg", "gl"), ("lit", "lt"), ("lav", "lv"), ("est", "et"), ("ice", "is"),
    ("isl", "is"), ("gle", "ga"), ("wel", "cy"), ("cym", "cy"), ("alb", "sq"), ("sqi", "sq"), ("arm", "hy"), ("geo", "ka"), ("afr", "af"),
    ("lat", "la"), ("epo", "eo"), ("swa", "sw"), ("urd", "ur"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    const SET: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE PubmedArticleSet SYSTEM "http://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_190101.dtd">
<PubmedArticleSet><PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="1">1</PMID><DateRevised><Year>2001</Year></DateRevised>
<Article PubModel="Print"><Journal><ISSN>1234-5678</ISSN><JournalIssue><PubDate><MedlineDate>1998 Dec-1999 Jan</MedlineDate></PubDate></JournalIssue>
<Title>Lancet</Title></Journal><ArticleTitle>[On <i>E. coli</i> &amp; H<sub>2</sub>O].</ArticleTitle>
<ELocationID EIdType="doi" ValidYN="Y">10.1000/ABC</ELocationID>
<Abstract><AbstractText Label="METHODS &amp; AIMS" NlmCategory="METHODS">At 10<sup>-3</sup> M; n=5.</AbstractText><AbstractText Label="UNLABELLED">Rest.</AbstractText>
<CopyrightInformation>© 1998 X.</CopyrightInformation></Abstract><AuthorList><Author><LastName>Doe</LastName></Author></AuthorList>
<Language>ger</Language><PublicationTypeList><PublicationType UI="D016428">Journal Article</PublicationType></PublicationTypeList>
<VernacularTitle>Über E. coli</VernacularTitle></Article>
<MeshHeadingList><MeshHeading><DescriptorName>Humans</DescriptorName></MeshHeading><MeshHeading><DescriptorName>Asthma</DescriptorName>
<QualifierName>blood</QualifierName></MeshHeading></MeshHeadingList>
<OtherAbstract Type="Publisher" Language="ger"><AbstractText>Auf Deutsch.</AbstractText></OtherAbstract>
<CommentsCorrectionsList><CommentsCorrections><PMID>99</PMID></CommentsCorrections></CommentsCorrectionsList></MedlineCitation>
<PubmedData><ArticleIdList><ArticleId IdType="pubmed">1</ArticleId><ArticleId IdType="doi">10.1000/abc</ArticleId><ArticleId IdType="pmc">PMC7</ArticleId></ArticleIdList>
<ReferenceList><Reference><ArticleIdList><ArticleId IdType="doi">10.9/no</ArticleId></ArticleIdList></Reference></ReferenceList></PubmedData></PubmedArticle>
<PubmedArticle><MedlineCitation><PMID>2</PMID><Article><ArticleTitle>Bare.</ArticleTitle></Article></MedlineCitation></PubmedArticle>
<PubmedBookArticle><BookDocument><PMID>3</PMID><ArticleIdList><ArticleId IdType="bookaccession">NBK1</ArticleId></ArticleIdList><Book><BookTitle>GeneReviews</BookTitle>
<PubDate><Year>1993</Year></PubDate></Book><ArticleTitle>Gene X</ArticleTitle><Language>eng</Language><Abstract><AbstractText>Long. (ABSTRACT TRUNCATED AT 250 WORDS)</AbstractText></Abstract></BookDocument></PubmedBookArticle>
<DeleteCitation><PMID>4</PMID></DeleteCitation></PubmedArticleSet>"#;

    fn read_all(bytes: &[u8], other_abstracts: bool) -> Vec<Result<Document, Reject>> {
        let mut document = Document::default();
        let mut found = Vec::new();
        let _ = parse(bytes, &Settings { other_abstracts }, &mut document, &mut |result| {
            found.push(result.cloned());
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn reads_a_set() {
        let found = read_all(SET.as_bytes(), false);
        let [Ok(first), Err(bare), Ok(book)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(first.record, Some(0));
        assert_eq!(first.title.as_deref(), Some("[On E. coli & H2O]."));
        assert_eq!(first.text, "METHODS & AIMS\n\nAt 10^-3 M; n=5.\n\nRest.");
        assert_eq!(first.identifiers, ["pmid:1", "doi:10.1000/abc", "pmcid:PMC7"]);
        assert_eq!((first.language.as_deref(), first.published.as_deref()), (Some("en"), Some("1998-12")));
        assert_eq!(first.license, None);
        assert_eq!(first.sections[0].title, "METHODS & AIMS");
        for (key, value) in [
            ("copyright", "© 1998 X."),
            ("journal", "Lancet"),
            ("mesh", "Humans; Asthma/blood"),
            ("publication_types", "Journal Article"),
            ("article_language", "de"),
            ("vernacular_title", "Über E. coli"),
        ] {
            assert_eq!(first.metadata[key], value);
        }
        assert_eq!((bare.reason, bare.record), ("no-text", Some(1)));
        assert_eq!(bare.byte as usize, SET.rfind("<PubmedArticle>").unwrap());
        assert_eq!((book.text.as_str(), book.title.as_deref()), ("Long.", Some("Gene X")));
        assert_eq!(
            (book.identifiers.as_slice(), book.published.as_deref()),
            (&["pmid:3".to_owned(), "bookaccession:NBK1".to_owned()][..], Some("1993"))
        );
    }

    #[test]
    fn other_abstracts_are_documents_of_their_language() {
        let found = read_all(SET.as_bytes(), true);
        let Ok(other) = &found[1] else { panic!("{found:?}") };
        assert_eq!(
            (other.text.as_str(), other.language.as_deref(), other.title.as_deref()),
            ("Auf Deutsch.", Some("de"), Some("Über E. coli"))
        );
        assert_eq!((found.len(), other.record), (4, Some(0)));
    }

    #[test]
    fn a_copyright_notice_that_names_a_licence_is_one() {
        let notice = "© 2020 Y. Distributed under CC BY-NC 4.0.";
        let found = read_all(SET.replace("© 1998 X.", notice).as_bytes(), false);
        let Ok(first) = &found[0] else { panic!("{found:?}") };
        assert_eq!((first.license.as_deref(), first.metadata.get("copyright")), (Some(notice), None));
    }

    #[test]
    fn medline_citations_without_a_wrapper() {
        let xml = SET.replace("<PubmedArticle>", "").replace("</PubmedArticle>", "").replace("PubmedArticleSet", "MedlineCitationSet");
        assert_eq!(read_all(xml.as_bytes(), false).iter().filter(|found| found.is_ok()).count(), 2);
    }

    #[test]
    fn dates() {
        let cases = [
            ("1998 Dec-1999 Jan", Some("1998-12")),
            ("2019 Sep/Oct", Some("2019-09")),
            ("2000 Spring", Some("2000")),
            ("Fall 2017", Some("2017")),
            ("1975-1976", Some("1975")),
            ("1998 Jul 4-10", Some("1998-07-04")),
            ("unknown", None),
        ];
        for (text, date) in cases {
            assert_eq!(medline_date(text).as_deref(), date, "{text}");
        }
        assert_eq!(iso_date("2015", "13", "1").as_deref(), Some("2015"));
        assert_eq!(iso_date("2015", "Sept", "").as_deref(), Some("2015-09"));
    }

    #[test]
    fn languages() {
        let codes = ["eng", "GER", "fra", "und", "", "ain"].map(language);
        assert_eq!(codes, [Some("en".into()), Some("de".into()), Some("fr".into()), None, None, Some("ain".into())]);
    }

    #[test]
    fn a_bomb_is_not_set_off() {
        let mut bomb = "<!DOCTYPE s [<!ENTITY a0 \"lol\">".to_owned();
        for level in 1..20 {
            bomb += &format!("<!ENTITY a{level} \"{}\">", format!("&a{};", level - 1).repeat(10));
        }
        bomb += "]><s><PubmedArticle><Abstract><AbstractText>x&a19;y</AbstractText></Abstract></PubmedArticle></s>";
        let found = read_all(bomb.as_bytes(), false);
        assert_eq!(found[0].as_ref().unwrap().text, "xy");
    }

    #[test]
    fn truncation_anywhere_is_told() {
        for end in 0..SET.len() - 1 {
            let found = read_all(&SET.as_bytes()[..end], false);
            let Some(Err(last)) = found.last() else { panic!("{end}: {found:?}") };
            assert!(["xml-truncated", "xml-malformed"].contains(&last.reason), "{end}: {last:?}");
        }
    }

    proptest! {
        #[test]
        fn mutations_never_panic(changes in prop::collection::vec((0usize..SET.len(), any::<u8>()), 1..6)) {
            let mut bytes = SET.as_bytes().to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = read_all(&bytes, true);
        }
    }

    #[test]
    fn real_citations() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/pubmed_xml"));
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!("SKIPPED: {} is not there", folder.display());
            return;
        };
        let (mut documents, mut rejects) = (0, 0);
        for path in entries.map(|entry| entry.unwrap().path()) {
            let bytes = std::fs::read(&path).unwrap();
            let bytes = match path.extension().and_then(|kind| kind.to_str()) {
                Some("xml") => bytes,
                Some("gz") => {
                    let mut unpacked = Vec::new();
                    io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut unpacked).unwrap();
                    unpacked
                }
                _ => continue,
            };
            for found in read_all(&bytes, false) {
                match found {
                    Ok(document) => {
                        assert!(
                            document.identifiers[0].starts_with("pmid:") && document.title.is_some() && document.published.is_some(),
                            "{path:?}"
                        );
                        documents += 1;
                    }
                    Err(reject) => {
                        assert_eq!(reject.reason, "no-text", "{path:?}");
                        rejects += 1;
                    }
                }
            }
        }
        // One of the 44 abstracts is an empty element.
        assert_eq!((documents, rejects), (43, 79));
    }
}
