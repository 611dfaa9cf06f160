//! MedQuAD: questions and answers of US consumer-health sites, one topic a file.
//!
//! The answers lost their markup when the collection was made: lists stand in a line as `   - item    - item`, paragraphs are runs of spaces
//! or lines of nothing but indentation. Both are undone. Answers that were removed for copyright leave nothing to read.

use crate::emit::Emit;
use crate::limits::Limits;
use crate::xml::{Element, Event, Reader, TextBuilder, transcode};
use crate::{Document, Reject};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// How a file becomes documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `document` (default): the file's topic is the title, each question a section title. `pair`: a document for each question, which is its
    /// title; the answer is its text.
    pub unit: Unit,
}

/// What one document is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    #[default]
    Document,
    Pair,
}

/// Reads a file.
///
/// Rejects: `no-text` (no answer, or in unit `pair` each question without one), and those of [`crate::xml::Reader`] and [`transcode`].
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    document.clear();
    let file = match transcode(bytes).and_then(|bytes| read(&bytes)) {
        Ok(file) => file,
        Err(reject) => return emit(Err(reject)),
    };
    if settings.unit == Unit::Pair {
        return emit_pairs(&file, document, emit);
    }
    let mut text = TextBuilder::new();
    text.finish(document);
    for pair in file.pairs.iter().filter(|pair| !pair.answer.trim().is_empty()) {
        text.heading(1, &pair.question);
        render(&pair.answer, &mut text);
    }
    if text.is_empty() {
        return emit(Err(Reject::new("no-text", 0, "a file without answers")));
    }
    file.describe(document);
    document.title = Some(file.focus.clone()).filter(|focus| !focus.is_empty());
    text.finish(document);
    emit(Ok(&*document))
}

fn emit_pairs(file: &File, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    for (index, pair) in file.pairs.iter().enumerate() {
        document.clear();
        if pair.answer.trim().is_empty() {
            let reject = Reject::new("no-text", pair.byte, "a question without an answer");
            emit(Err(Reject { record: Some(index as u64), ..reject }))?;
            continue;
        }
        let mut text = TextBuilder::new();
        text.finish(document);
        render(&pair.answer, &mut text);
        file.describe(document);
        text.finish(document);
        document.record = Some(index as u64);
        document.title = Some(pair.question.clone()).filter(|question| !question.is_empty());
        document.identifiers.clear();
        if !pair.id.is_empty() {
            document.identifiers.push(format!("medquad:{}/{}", file.source, pair.id));
        }
        for (key, value) in [("focus", &file.focus), ("question_type", &pair.kind)] {
            if !value.is_empty() {
                document.metadata.insert(key.into(), value.clone());
            }
        }
        emit(Ok(&*document))?;
    }
    if file.pairs.is_empty() {
        return emit(Err(Reject::new("no-text", 0, "a file without questions")));
    }
    ControlFlow::Continue(())
}

#[derive(Default)]
struct File {
    id: String,
    source: String,
    url: String,
    focus: String,
    concepts: Vec<String>,
    semantic_types: Vec<String>,
    semantic_group: String,
    synonyms: Vec<String>,
    category: String,
    pairs: Vec<Pair>,
}

#[derive(Default)]
struct Pair {
    byte: usize,
    id: String,
    kind: String,
    question: String,
    answer: String,
}

impl File {
    fn describe(&self, document: &mut Document) {
        document.language = Some("en".into());
        if !self.id.is_empty() {
            document.identifiers.push(format!("medquad:{}/{}", self.source, self.id));
        }
        let fields = [
            ("source", self.source.clone()),
            ("url", self.url.clone()),
            ("umls_cui", self.concepts.join("; ")),
            ("umls_semantic_types", self.semantic_types.join("; ")),
            ("umls_semantic_group", self.semantic_group.clone()),
            ("synonyms", self.synonyms.join("; ")),
            ("category", self.category.clone()),
        ];
        document.metadata.extend(fields.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.to_owned(), value)));
    }
}

/// Reads any of the three shapes: `<Document>`, `<doc>` and `<DiseaseFile>` differ in the names of the same things.
fn read(bytes: &[u8]) -> Result<File, Reject> {
    let mut reader = Reader::new(bytes, &Limits::default());
    let mut file = File::default();
    loop {
        let byte = reader.position();
        let element = match reader.next()? {
            Event::Start(element) => element,
            Event::Eof => return Ok(file),
            _ => continue,
        };
        let attribute = |names: &[&[u8]]| attribute(element, names);
        match element.name().to_ascii_lowercase().as_slice() {
            b"document" | b"doc" | b"diseasefile" => {
                file.id = attribute(&[b"id", b"docid", b"fid"]);
                file.source = attribute(&[b"source", b"corpus"]);
                file.url = attribute(&[b"url"]);
            }
            b"focus" | b"doctitle-focus" => file.focus = words(&mut reader)?,
            b"cui" => push(&mut file.concepts, words(&mut reader)?),
            b"semantictype" => push(&mut file.semantic_types, words(&mut reader)?),
            b"semanticgroup" => file.semantic_group = words(&mut reader)?,
            b"synonym" => push(&mut file.synonyms, words(&mut reader)?),
            b"category" => file.category = words(&mut reader)?,
            b"qapair" | b"pair" => file.pairs.push(Pair { byte, ..Pair::default() }),
            b"question" => {
                let (id, kind) = (attribute(&[b"qid"]), attribute(&[b"qtype"]));
                let question = words(&mut reader)?;
                if let Some(pair) = file.pairs.last_mut() {
                    (pair.id, pair.kind, pair.question) = (id, kind, question);
                }
            }
            b"answer" => {
                let answer = raw(&mut reader)?;
                if let Some(pair) = file.pairs.last_mut() {
                    pair.answer = answer;
                }
            }
            _ => {}
        }
    }
}

fn push(list: &mut Vec<String>, value: String) {
    if !value.is_empty() {
        list.push(value);
    }
}

fn attribute(element: Element<'_>, names: &[&[u8]]) -> String {
    names.iter().find_map(|name| element.attribute(name)).map_or(String::new(), |value| value.trim().to_owned())
}

fn words(reader: &mut Reader<'_>) -> Result<String, Reject> {
    let mut text = TextBuilder::new();
    text.inline(&raw(reader)?);
    Ok(text.text().to_owned())
}

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

/// What a run of white space in an answer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    Space,
    Paragraph,
    Item,
}

/// Renders an answer with its lists and paragraphs restored.
fn render(answer: &str, text: &mut TextBuilder) {
    text.paragraph();
    let mut listed = false;
    let mut rest = answer;
    let mut before = None;
    let mut at_start = true;
    while !rest.is_empty() {
        let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        text.inline(&rest[..word]);
        before = rest[..word].chars().next_back().or(before);
        rest = &rest[word..];
        let after = rest.trim_start();
        let gap = &rest[..rest.len() - after.len()];
        at_start &= word == 0;
        match classify(gap, before, after, at_start) {
            Break::Space => text.space(),
            Break::Paragraph => {
                if std::mem::take(&mut listed) {
                    text.end_list();
                }
                text.paragraph();
            }
            Break::Item => {
                if !std::mem::replace(&mut listed, true) {
                    text.begin_list();
                }
                text.item();
                rest = after[1..].trim_start();
                at_start = false;
                continue;
            }
        }
        rest = after;
    }
    if listed {
        text.end_list();
    }
}

/// Tells what the white space `gap` between the character `before` and the text `after` stands for. The thresholds are the collection's own:
/// items are two or more spaces and a hyphen apart, paragraphs three or more spaces, or a line that ends at a sentence or is followed by deep
/// indentation or an empty one.
fn classify(gap: &str, before: Option<char>, after: &str, at_start: bool) -> Break {
    let mut next = after.chars();
    let (first, second) = (next.next(), next.next());
    let lines = gap.matches('\n').count();
    if first == Some('-') && second.is_some_and(char::is_whitespace) && (gap.len() >= 2 || lines > 0 || at_start) {
        return Break::Item;
    }
    let ends_sentence = before.is_some_and(|c| matches!(c, '.' | '?' | '!' | ':' | ';' | ')' | '"'));
    let begins = first.is_some_and(|c| !c.is_lowercase());
    let indented = gap.rsplit('\n').next().is_some_and(|indent| indent.len() >= 8 || indent.contains('\t'));
    match lines {
        0 if gap.len() >= 4 && begins => Break::Paragraph,
        0 if gap.len() >= 3 && begins && ends_sentence => Break::Paragraph,
        0 => Break::Space,
        1 if indented || (ends_sentence && begins) => Break::Paragraph,
        1 => Break::Space,
        _ => Break::Paragraph,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    const FILE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Document id="0000001_1" source="CancerGov" url="https://example.org/x">
<Focus>Leukemia</Focus>
<FocusAnnotations><UMLS><CUIs><CUI>C1</CUI><CUI>C2</CUI></CUIs><SemanticTypes><SemanticType>T191</SemanticType></SemanticTypes>
<SemanticGroup>Disorders</SemanticGroup></UMLS><Synonyms><Synonym>ALL</Synonym></Synonyms></FocusAnnotations>
<QAPairs><QAPair pid="1"><Question qid="1-1" qtype="information">What is  Leukemia ?</Question><Answer>Key Points
                    - A cancer.    -  It&apos;s bad.        These are  signs. They matter.
                
Second
                </Answer></QAPair>
<QAPair pid="2"><Question qid="1-2" qtype="causes">Why?</Question><Answer></Answer></QAPair></QAPairs></Document>"#;

    fn read_all(bytes: &[u8], unit: Unit) -> Vec<Result<Document, Reject>> {
        let mut document = Document::default();
        let mut found = Vec::new();
        let _ = parse(bytes, &Settings { unit }, &mut document, &mut |result| {
            found.push(result.cloned());
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn a_file_is_a_document() {
        let found = read_all(FILE.as_bytes(), Unit::Document);
        let [Ok(document)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(document.title.as_deref(), Some("Leukemia"));
        assert_eq!(
            document.text,
            "What is Leukemia ?\n\nKey Points\n\n- A cancer.\n- It's bad.\n\nThese are signs. They matter.\n\nSecond"
        );
        assert_eq!(document.sections.len(), 1);
        assert_eq!(document.identifiers, ["medquad:CancerGov/0000001_1"]);
        assert_eq!(document.metadata["umls_cui"], "C1; C2");
        assert_eq!(document.metadata["synonyms"], "ALL");
    }

    #[test]
    fn or_a_question_is() {
        let found = read_all(FILE.as_bytes(), Unit::Pair);
        let [Ok(document), Err(reject)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(document.title.as_deref(), Some("What is Leukemia ?"));
        assert!(document.text.starts_with("Key Points\n\n- A cancer."));
        assert_eq!(document.identifiers, ["medquad:CancerGov/1-1"]);
        assert_eq!((reject.reason, reject.record), ("no-text", Some(1)));
    }

    #[test]
    fn white_space_means_what_the_page_meant() {
        use Break::*;
        let cases = [
            ("  ", Some('.'), "Next", Space),
            ("   ", Some('.'), "Next", Paragraph),
            ("   ", Some('a'), "Next", Space),
            ("    ", Some('a'), "Next", Paragraph),
            ("    ", Some('a'), "next", Space),
            ("  ", Some('.'), "- item", Item),
            (" ", Some('5'), "- 6", Space),
            (" ", Some('5'), "-6", Space),
            ("\n", Some('a'), "next", Space),
            ("\n", Some('.'), "Next", Paragraph),
            ("\n                ", Some('a'), "next", Paragraph),
            ("\n  \n", Some('a'), "next", Paragraph),
        ];
        for (gap, before, after, wanted) in cases {
            assert_eq!(classify(gap, before, after, false), wanted, "{gap:?} {before:?} {after:?}");
        }
    }

    #[test]
    fn truncation_anywhere_is_a_reject() {
        for end in 0..FILE.len() - 1 {
            let found = read_all(&FILE.as_bytes()[..end], Unit::Document);
            assert!(matches!(&found[..], [Err(_)]), "{end}");
        }
    }

    proptest! {
        #[test]
        fn mutations_never_panic(changes in prop::collection::vec((0usize..FILE.len(), any::<u8>()), 1..6)) {
            let mut bytes = FILE.as_bytes().to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = read_all(&bytes, Unit::Document);
            let _ = read_all(&bytes, Unit::Pair);
        }

        #[test]
        fn no_word_is_lost(answer in "[-a-zA-Z.: \n\t]{0,80}") {
            let mut text = TextBuilder::new();
            render(&answer, &mut text);
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect::<String>();
            prop_assert_eq!(letters(text.text()), letters(&answer));
        }
    }

    #[test]
    fn real_files() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/medquad_xml"));
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!("SKIPPED: {} is not there", folder.display());
            return;
        };
        let (mut documents, mut empty, mut answers) = (0, 0, 0);
        for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "xml")) {
            let bytes = std::fs::read(&path).unwrap();
            match &read_all(&bytes, Unit::Document)[..] {
                [Ok(document)] => {
                    documents += 1;
                    assert!(!document.text.contains("  ") && !document.text.contains("\n\n\n"), "{path:?}");
                }
                [Err(reject)] if reject.reason == "no-text" => empty += 1,
                other => panic!("{path:?}: {other:?}"),
            }
            answers += read_all(&bytes, Unit::Pair).iter().filter(|found| found.is_ok()).count();
        }
        assert_eq!((documents, empty, answers), (939, 21, 5058));
    }
}
