//! JSON Lines: one object per line, such as SlimPajama's `{"text": …, "meta": {…}}`.
//!
//! Streams: one line is held at a time, and one that is too large is skipped without being held. Only mapped fields are built; the rest
//! of a line is checked and passed over.

use crate::fields::{self, Mapping};
use crate::json::{Selection, record};
use crate::{Document, Emit, Limits, Reject};
use memchr::memchr;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead};
use std::ops::ControlFlow;

/// How JSON Lines files are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Which field of an object becomes which field of the document.
    pub fields: fields::Settings,
}

/// Reads a file line by line; empty lines are passed over and are no records.
///
/// # Errors
///
/// The stream breaks.
pub fn read(
    input: &mut dyn BufRead,
    settings: &Settings,
    limits: &Limits,
    document: &mut Document,
    emit: &mut Emit<'_>,
) -> io::Result<ControlFlow<()>> {
    let mapping = Mapping::new(&settings.fields);
    let selection = Selection::new(&mapping);
    let (mut line, mut position, mut number) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let start: u64 = position;
        let Some(whole) = read_line(input, &mut line, limits.record_bytes_max, &mut position)? else {
            return Ok(ControlFlow::Continue(()));
        };
        let bytes = if start == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
        if whole && bytes.trim_ascii().is_empty() {
            continue;
        }
        let flow = if whole {
            record(bytes, start + (line.len() - bytes.len()) as u64, None, number, &mapping, &selection, document, emit)
        } else {
            let detail = limits.too_large("the line");
            emit(Err(Reject { record: Some(number), reason: "record-too-large", byte: start, detail }))
        };
        if flow.is_break() {
            return Ok(flow);
        }
        number += 1;
    }
}

/// Reads up to and without the next line break; `Some(false)` where the line was too long and is passed over, `None` at the end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>, bytes_max: usize, position: &mut u64) -> io::Result<Option<bool>> {
    let (mut whole, start) = (true, *position);
    loop {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Ok((*position > start).then_some(whole));
        }
        let end = memchr(b'\n', available);
        let content = &available[..end.unwrap_or(available.len())];
        whole &= line.len() + content.len() <= bytes_max;
        if whole {
            line.extend_from_slice(content);
        } else {
            line.clear();
        }
        let taken = content.len() + usize::from(end.is_some());
        input.consume(taken);
        *position += taken as u64;
        if end.is_some() {
            return Ok(Some(whole));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    fn run(bytes: &[u8], settings: &Settings, limits: &Limits) -> Vec<Result<Document, (&'static str, u64)>> {
        let mut out = Vec::new();
        let mut input = BufReader::with_capacity(16, bytes);
        let flow = read(&mut input, settings, limits, &mut Document::default(), &mut |found| {
            out.push(found.cloned().map_err(|reject| (reject.reason, reject.byte)));
            ControlFlow::Continue(())
        });
        assert!(flow.unwrap().is_continue());
        out
    }

    #[test]
    fn lines() {
        let deep = format!("{{\"text\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let cases: Vec<(&[u8], Result<&str, (&'static str, u64)>)> = vec![
            (b"{\"text\":\"a\\u00e9\\nb\",\"meta\":{\"redpajama_set_name\":\"C4\"}}", Ok("aé\nb")),
            (b"\xef\xbb\xbf{\"text\":[\"one\"]}", Ok("one")),
            (b"{\"text\":\"x\"", Err(("json-malformed", 11))),
            (b"{\"text\":null}", Err(("no-text", 0))),
            (b"{\"meta\":1}", Err(("no-text", 0))),
            (b"[1]", Err(("no-text", 0))),
            (b"{\"text\":\"\xff\"}", Err(("invalid-utf8", 9))),
            (b"{\"text\":\"\\ud800\"}", Err(("json-malformed", 16))),
            (b"{\"text\":\"a\"} {}", Err(("json-malformed", 14))),
        ];
        for (line, expected) in cases {
            let found = run(line, &Settings::default(), &Limits::default());
            assert_eq!(found.len(), 1);
            assert_eq!(
                found[0].as_ref().map(|document| document.text.as_str()).map_err(|error| *error),
                expected,
                "{}",
                line.escape_ascii()
            );
        }
        let found = run(deep.as_bytes(), &Settings::default(), &Limits::default());
        assert_eq!(found[0].as_ref().unwrap_err().0, "too-deep");
    }

    #[test]
    fn empty_lines_are_no_records_and_too_large_ones_are_skipped() {
        let mut bytes = b"{\"text\":\"a\"}\r\n\r\n{\"text\":\"".to_vec();
        bytes.resize(1 << 20, b'x');
        bytes.extend(b"\"}\n{\"text\":\"b\"}");
        let found = run(&bytes, &Settings::default(), &Limits { record_bytes_max: 1000, ..Limits::default() });
        let found: Vec<_> = found.into_iter().map(|found| found.map(|document| (document.record, document.text))).collect();
        assert_eq!(found, [Ok((Some(0), "a".to_owned())), Err(("record-too-large", 16)), Ok((Some(2), "b".to_owned()))]);
    }

    #[test]
    fn mapped_fields() {
        let settings: Settings = toml::from_str(
            r#"
            [fields]
            text = ["body", "answer"]
            sections = true
            title = "name"
            id = "key"
            id_scheme = "set"
            identifiers = { doi = ["doi", "DOI"], pmcid = "pmc" }
            language = "lang"
            published = "meta.date"
            metadata = "*"
            "#,
        )
        .unwrap();
        let line = r#"{"body":["one","two"],"answer":["three"],"name":[" A  b "],"key":7,"DOI":["https://doi.org/10.1/AbC"],"pmc":"123","lang":"deu",
            "meta":{"date":"2015 Mar 21","source":{"set":"x"}},"tags":["a","b"]}"#
            .replace('\n', " ");
        let document = run(line.as_bytes(), &settings, &Limits::default()).remove(0).unwrap();
        assert_eq!(document.text, "body\n\none\n\ntwo\n\nanswer\n\nthree");
        let sections: Vec<_> =
            document.sections.iter().map(|section| (section.title.as_str(), &document.text[section.start..section.end])).collect();
        assert_eq!(sections, [("body", "body\n\none\n\ntwo"), ("answer", "answer\n\nthree")]);
        assert_eq!(document.title.as_deref(), Some("A b"));
        assert_eq!(document.identifiers, ["set:7", "doi:10.1/abc", "pmcid:PMC123"]);
        assert_eq!((document.language.as_deref(), document.published.as_deref()), (Some("de"), Some("2015-03-21")));
        let metadata: Vec<_> = document.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(metadata, [("meta.source.set", "x"), ("tags", "a; b")]);
        assert_eq!(toml::from_str::<Settings>(&toml::to_string(&settings).unwrap()).unwrap(), settings);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(prop::sample::select(b"{}[]\":,text\\u0d\n\xff1".to_vec()), 0..200)) {
            run(&bytes, &Settings::default(), &Limits { record_bytes_max: 64, ..Limits::default() });
        }
    }
}
