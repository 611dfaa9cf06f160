//! JSON files: an array of records, an object of records by key, or one record.
//!
//! Streams: a scanner frames each record's bytes without building them, so that memory is bounded by one record, a broken record is
//! rejected alone, and only mapped fields are ever built.

use crate::fields::{self, Mapping, Row};
use crate::text::skip_mark;
use crate::{Document, Emit, Limits, Reject};
use memchr::memchr2;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::io::{self, BufRead};
use std::ops::ControlFlow;

/// How JSON files are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the records are: a path of object keys separated by dots to an array; a path that ends in `*` takes every value of the object
    /// there, its key readable as the column `@key`. Default empty: the file is an array of records, or one record, or several in a row.
    pub records: String,
    /// Which field of an object becomes which field of the document.
    pub fields: fields::Settings,
}

/// The column that reads a record's key where records are values of an object.
pub const KEY: &str = "@key";

/// Deepest nesting that a record may have: serde_json's own bound.
const DEPTH_MAX: usize = 127;

/// Reads a file record by record. A file broken in its structure gives a reject where it breaks, after the records before it.
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
    let mut scanner = Scanner { input, position: 0, bytes_max: limits.record_bytes_max, buffer: Vec::new() };
    let mut number = 0;
    let found = scanner.records(settings, limits, &mut |frame, key, start| {
        number += 1;
        match frame {
            Frame::Whole(bytes) => record(bytes, start, key, number - 1, &mapping, &selection, document, emit),
            Frame::TooLarge => {
                let detail = limits.too_large("the record");
                emit(Err(Reject { record: Some(number - 1), reason: "record-too-large", byte: start, detail }))
            }
            Frame::TooDeep => {
                let detail = format!("the record nests deeper than {} levels", limits.depth_max.min(DEPTH_MAX));
                emit(Err(Reject { record: Some(number - 1), reason: "too-deep", byte: start, detail }))
            }
        }
    });
    match found {
        Ok(flow) => Ok(flow),
        Err(Broken::Stream(error)) => Err(error),
        Err(Broken::Syntax(reason, detail)) => {
            Ok(emit(Err(Reject { record: Some(number), reason, byte: scanner.position, detail: detail.to_owned() })))
        }
    }
}

/// The fields of a record that are built.
pub(crate) struct Selection {
    /// First keys of the mapped paths, and whole paths, for keys that hold dots; `None` takes all.
    keys: Option<HashSet<String>>,
    /// The paths, for telling what is not mapped.
    paths: Vec<String>,
}

impl Selection {
    pub(crate) fn new(mapping: &Mapping) -> Self {
        let paths = mapping.columns().to_vec();
        let first = |path: &String| [path.split('.').next().unwrap_or_default().to_owned(), path.clone()];
        Self { keys: (!mapping.takes_others()).then(|| paths.iter().flat_map(first).collect()), paths }
    }
}

/// Reads one record's bytes and emits its document or reject.
#[allow(clippy::too_many_arguments)]
pub(crate) fn record(
    bytes: &[u8],
    start: u64,
    key: Option<&str>,
    number: u64,
    mapping: &Mapping,
    selection: &Selection,
    document: &mut Document,
    emit: &mut Emit<'_>,
) -> ControlFlow<()> {
    let mut reject = |reason, byte: usize, detail: &str| {
        emit(Err(Reject { record: Some(number), reason, byte: start + byte as u64, detail: detail.to_owned() }))
    };
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return reject("invalid-utf8", error.valid_up_to(), "the record is not UTF-8"),
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = selection.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    match read {
        Ok(Some(object)) => {
            let row = JsonRow { object: &object, key, columns: mapping.columns(), paths: &selection.paths };
            if mapping.fill(&row, document) {
                document.record = Some(number);
                emit(Ok(&*document))
            } else {
                reject("no-text", 0, "the text field is missing or empty")
            }
        }
        Ok(None) => reject("no-text", 0, "the record is no object"),
        Err(error) => {
            let deep = error.to_string().starts_with("recursion limit");
            let byte = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>() + error.column();
            if deep {
                reject("too-deep", byte, "the record nests too deep")
            } else {
                reject("json-malformed", byte, "the record is not JSON")
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for &Selection {
    /// `None` where the record is no object.
    type Value = Option<Map<String, Value>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Selection {
    type Value = Option<Map<String, Value>>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<std::borrow::Cow<'de, str>>()? {
            if self.keys.as_ref().is_none_or(|keys| keys.contains(key.as_ref())) {
                object.insert(key.into_owned(), fields.next_value()?);
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Some(object))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        // A list of one object is the object.
        let first = match items.next_element_seed(self) {
            Ok(first) => first.flatten(),
            Err(error) => return Err(error),
        };
        let mut only = true;
        while items.next_element::<IgnoredAny>()?.is_some() {
            only = false;
        }
        Ok(first.filter(|_| only))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct JsonRow<'a> {
    object: &'a Map<String, Value>,
    key: Option<&'a str>,
    columns: &'a [String],
    paths: &'a [String],
}

impl Row for JsonRow<'_> {
    fn values(&self, column: usize, each: &mut dyn FnMut(&str)) {
        let Some(path) = self.columns.get(column) else { return };
        if path == KEY {
            self.key.into_iter().for_each(each);
        } else {
            descend(self.object, path, each);
        }
    }

    fn others(&self, each: &mut dyn FnMut(&str, &str)) {
        if let Some(key) = self.key.filter(|_| !self.paths.iter().any(|path| path == KEY)) {
            each(KEY, key);
        }
        let mut name = String::new();
        for (key, value) in self.object {
            name.clear();
            name.push_str(key);
            self.flatten(&mut name, value, each);
        }
    }
}

impl JsonRow<'_> {
    fn flatten(&self, name: &mut String, value: &Value, each: &mut dyn FnMut(&str, &str)) {
        if self.paths.iter().any(|path| path == name) {
            return;
        }
        match value {
            Value::Object(object) => {
                let length = name.len();
                for (key, value) in object {
                    name.push('.');
                    name.push_str(key);
                    self.flatten(name, value, each);
                    name.truncate(length);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.flatten(name, item, each)),
            scalar => leaf(scalar, &mut |text| each(name, text)),
        }
    }
}

/// Calls `each` with the scalars at `path`: a key that equals the rest of the path comes before a dot that descends.
fn descend(object: &Map<String, Value>, path: &str, each: &mut dyn FnMut(&str)) {
    if let Some(value) = object.get(path) {
        return leaf(value, each);
    }
    let Some((first, rest)) = path.split_once('.') else { return };
    fn into(value: &Value, rest: &str, each: &mut dyn FnMut(&str)) {
        match value {
            Value::Object(inner) => descend(inner, rest, each),
            Value::Array(items) => items.iter().for_each(|item| into(item, rest, each)),
            _ => {}
        }
    }
    if let Some(value) = object.get(first) {
        into(value, rest, each);
    }
}

fn leaf(value: &Value, each: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => each(text),
        Value::Number(number) => each(&number.to_string()),
        Value::Bool(truth) => each(if *truth { "true" } else { "false" }),
        Value::Array(items) => items.iter().for_each(|item| leaf(item, each)),
        Value::Null | Value::Object(_) => {}
    }
}

enum Frame<'a> {
    Whole(&'a [u8]),
    TooLarge,
    TooDeep,
}

enum Broken {
    Stream(io::Error),
    Syntax(&'static str, &'static str),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

type Take<'a> = dyn FnMut(Frame<'_>, Option<&str>, u64) -> ControlFlow<()> + 'a;

const TRUNCATED: Broken = Broken::Syntax("json-truncated", "the file ends within a value");

/// Finds where values start and end, without building them; depth is a counter, so that nothing recurses.
struct Scanner<'a> {
    input: &'a mut dyn BufRead,
    position: u64,
    bytes_max: usize,
    buffer: Vec<u8>,
}

impl Scanner<'_> {
    fn records(&mut self, settings: &Settings, limits: &Limits, take: &mut Take<'_>) -> Result<ControlFlow<()>, Broken> {
        self.position += skip_mark(self.input)?;
        let mut path: Vec<&str> = settings.records.split('.').filter(|part| !part.is_empty()).collect();
        let by_key = path.last() == Some(&"*");
        if by_key {
            path.pop();
        }
        if !path.is_empty() || by_key {
            return if self.find(&path)? { self.members(by_key, limits, take) } else { Ok(ControlFlow::Continue(())) };
        }
        while let Some(first) = self.peek()? {
            let flow = if first == b'[' { self.members(false, limits, take)? } else { self.member(None, limits, take)? };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Goes to the value at `path`.
    fn find(&mut self, path: &[&str]) -> Result<bool, Broken> {
        const ABSENT: Broken = Broken::Syntax("json-records-missing", "the file has nothing at the path that `records` names");
        'descend: for part in path {
            if self.peek()? != Some(b'{') {
                return Err(ABSENT);
            }
            self.advance(1);
            loop {
                match self.peek()? {
                    Some(b'"') => {}
                    Some(b',') => {
                        self.advance(1);
                        continue;
                    }
                    Some(b'}') => return Err(ABSENT),
                    Some(_) => return Err(Broken::Syntax("json-malformed", "an object's key is expected")),
                    None => return Err(TRUNCATED),
                }
                let key = self.key()?;
                if key.as_deref() == Some(*part) {
                    continue 'descend;
                }
                self.frame(0)?;
            }
        }
        Ok(true)
    }

    /// Takes every element of the array, or value of the object, that starts here; an object where an array is expected is one record.
    fn members(&mut self, by_key: bool, limits: &Limits, take: &mut Take<'_>) -> Result<ControlFlow<()>, Broken> {
        let close = match (self.peek()?, by_key) {
            (Some(b'['), false) => b']',
            (Some(b'{'), true) => b'}',
            (Some(b'{'), false) => return self.member(None, limits, take),
            (None, _) => return Err(TRUNCATED),
            _ => return Err(Broken::Syntax("json-malformed", "an array or object of records is expected here")),
        };
        self.advance(1);
        loop {
            match self.peek()? {
                None => return Err(TRUNCATED),
                Some(byte) if byte == close => {
                    self.advance(1);
                    return Ok(ControlFlow::Continue(()));
                }
                Some(b',') => {
                    self.advance(1);
                    continue;
                }
                Some(b'"') if by_key => {}
                Some(_) if by_key => return Err(Broken::Syntax("json-malformed", "an object's key is expected")),
                Some(b']' | b'}' | b':') => return Err(Broken::Syntax("json-malformed", "a bracket closes what it did not open")),
                Some(_) => {}
            }
            let key = if by_key { Some(self.key()?.unwrap_or_default()) } else { None };
            let flow = self.member(key.as_deref(), limits, take)?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
    }

    fn member(&mut self, key: Option<&str>, limits: &Limits, take: &mut Take<'_>) -> Result<ControlFlow<()>, Broken> {
        if self.peek()?.is_none() {
            return Err(TRUNCATED);
        }
        let start = self.position;
        let (whole, depth) = self.frame(self.bytes_max)?;
        let frame = if depth > limits.depth_max.min(DEPTH_MAX) {
            Frame::TooDeep
        } else if whole {
            Frame::Whole(&self.buffer)
        } else {
            Frame::TooLarge
        };
        Ok(take(frame, key, start))
    }

    /// Reads a key and the colon after it; `None` where it is too long or no text.
    fn key(&mut self) -> Result<Option<String>, Broken> {
        const KEY_BYTES_MAX: usize = 4096;
        let (whole, _) = self.frame(KEY_BYTES_MAX)?;
        let key = if whole { serde_json::from_slice(&self.buffer).ok() } else { None };
        match self.peek()? {
            Some(b':') => self.advance(1),
            Some(_) => return Err(Broken::Syntax("json-malformed", "a colon is expected after a key")),
            None => return Err(TRUNCATED),
        }
        Ok(key)
    }

    /// Passes over one value, kept in the buffer if it has at most `bytes_max` bytes; gives whether it was kept and its depth.
    fn frame(&mut self, bytes_max: usize) -> Result<(bool, usize), Broken> {
        self.peek()?;
        self.buffer.clear();
        let (mut whole, mut depth, mut deepest, mut in_string, mut escaped, mut started) = (true, 0usize, 0usize, false, false, false);
        loop {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                // A number or word may end with the file.
                return if depth == 0 && !in_string && started { Ok((whole, deepest)) } else { Err(TRUNCATED) };
            }
            let (mut at, mut done) = (0, false);
            while at < available.len() && !done {
                let byte = available[at];
                if escaped {
                    escaped = false;
                    at += 1;
                } else if in_string {
                    at += memchr2(b'"', b'\\', &available[at..]).unwrap_or(available.len() - at);
                    match available.get(at) {
                        Some(b'"') => (in_string, done, at) = (false, depth == 0, at + 1),
                        Some(_) => (escaped, at) = (true, at + 1),
                        None => {}
                    }
                } else {
                    match byte {
                        b'"' if depth == 0 && started => done = true,
                        b'"' => (in_string, at) = (true, at + 1),
                        b'{' | b'[' if depth == 0 && started => done = true,
                        b'{' | b'[' => (depth, at) = (depth + 1, at + 1),
                        b'}' | b']' if depth > 0 => (depth, done, at) = (depth - 1, depth == 1, at + 1),
                        b'}' | b']' | b',' | b':' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => done = true,
                        _ => at += 1,
                    }
                    deepest = deepest.max(depth);
                }
                started |= at > 0;
            }
            whole &= self.buffer.len() + at <= bytes_max;
            if whole {
                self.buffer.extend_from_slice(&available[..at]);
            } else {
                self.buffer.clear();
            }
            self.advance(at);
            if done {
                return if started { Ok((whole, deepest)) } else { Err(Broken::Syntax("json-malformed", "a value is expected here")) };
            }
        }
    }

    /// The next byte that is no white space, not taken.
    fn peek(&mut self) -> Result<Option<u8>, Broken> {
        loop {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                return Ok(None);
            }
            let blank = available.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let found = available.get(blank).copied();
            self.advance(blank);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.position += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    type Found = Vec<Result<Document, (&'static str, u64)>>;

    fn run(bytes: &[u8], settings: &str, limits: &Limits, buffer_bytes: usize) -> Found {
        let mut out = Vec::new();
        let settings: Settings = toml::from_str(settings).unwrap();
        let mut input = BufReader::with_capacity(buffer_bytes, bytes);
        let flow = read(&mut input, &settings, limits, &mut Document::default(), &mut |found| {
            out.push(found.cloned().map_err(|reject| (reject.reason, reject.byte)));
            ControlFlow::Continue(())
        });
        assert!(flow.unwrap().is_continue());
        out
    }

    fn texts(found: Found) -> Vec<Result<String, (&'static str, u64)>> {
        found.into_iter().map(|found| found.map(|document| document.text)).collect()
    }

    #[test]
    fn shapes() {
        let ok = |text: &str| Ok(text.to_owned());
        let cases: Vec<(&str, &[u8], Vec<Result<String, (&'static str, u64)>>)> = vec![
            ("", b"\xef\xbb\xbf[{\"text\":\"a]}\\\"\"} , {\"text\":[\"b\"]}]", vec![ok("a]}\""), ok("b")]),
            ("", b"{\"text\":\"a\"}", vec![ok("a")]),
            ("", b"{\"text\":\"a\"}\n{\"text\":\"b\"}", vec![ok("a"), ok("b")]),
            ("", b"[]", vec![]),
            ("", b"  ", vec![]),
            ("records='data.items'", b"{\"n\":[{}],\"data\":{\"items\":[{\"text\":\"a\"}],\"x\":1}}", vec![ok("a")]),
            ("records='data.items'", b"{\"data\":{\"item\":[]}}", vec![Err(("json-records-missing", 18))]),
            ("records='d.*'\nfields={text='@key'}", b"{\"d\":{\"k1\":{},\"k\\n2\":{\"text\":\"a\"}}}", vec![ok("k1"), ok("k\n2")]),
            ("", b"[1,\"x\",{\"text\":\"a\"}]", vec![Err(("no-text", 1)), Err(("no-text", 3)), ok("a")]),
            ("", b"[{\"text\":tru},{\"text\":\"a\"}]", vec![Err(("json-malformed", 13)), ok("a")]),
            ("", b"[{\"text\":\"a\"},{\"text\":\"b", vec![ok("a"), Err(("json-truncated", 24))]),
            ("", b"[{\"text\":\"a\"}", vec![ok("a"), Err(("json-truncated", 13))]),
            ("", b"]", vec![Err(("json-malformed", 0))]),
        ];
        for (settings, bytes, expected) in cases {
            for buffer in [1, 7, 4096] {
                assert_eq!(texts(run(bytes, settings, &Limits::default(), buffer)), expected, "{} with {settings}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn hostile_records_are_skipped() {
        let deep = format!("[{}{},{{\"text\":\"a\"}}]", "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert_eq!(texts(run(deep.as_bytes(), "", &Limits::default(), 4096)), [Err(("too-deep", 1)), Ok("a".to_owned())]);
        let large = format!("[{{\"text\":\"{}\"}},{{\"text\":\"a\"}}]", "x".repeat(10 << 20));
        let limits = Limits { record_bytes_max: 1000, ..Limits::default() };
        assert_eq!(texts(run(large.as_bytes(), "", &limits, 4096)), [Err(("record-too-large", 1)), Ok("a".to_owned())]);
        let open = format!("[{{\"text\":\"{}", "x".repeat(10 << 20));
        assert_eq!(texts(run(open.as_bytes(), "", &Limits::default(), 4096)), [Err(("json-truncated", open.len() as u64))]);
    }

    fn shared(path: &str, settings: &str) -> Option<Found> {
        let path = format!("{}/../../shared/data/{path}", env!("CARGO_MANIFEST_DIR"));
        let Ok(bytes) = std::fs::read(&path) else {
            eprintln!("SKIPPED: {path} is absent");
            return None;
        };
        Some(run(&bytes, settings, &Limits::default(), 1 << 16))
    }

    #[test]
    fn europe_pmc_lists_of_one() {
        let settings = "fields = { text = 'abstractText', title = 'title', license = 'license', language = 'language', markup = 'html', \
            published = 'firstPublicationDate', identifiers = { doi = ['doi', 'DOI'], pmid = 'pmid', pmcid = 'pmcid' }, \
            metadata = ['journalInfo.journal.title', 'keywordList.keyword'] }";
        let Some(found) = shared("epmc_search_json/eupmc_results.json", settings) else { return };
        assert_eq!(found.len(), 456);
        for document in found.into_iter().map(Result::unwrap) {
            assert!(document.title.is_some() && document.published.is_some());
            assert!(matches!(document.license.as_deref(), Some("cc by" | "cc0")));
            assert_eq!(document.language.as_deref(), Some("en"));
            assert!(document.identifiers.iter().any(|id| id.starts_with("pmcid:PMC")));
            assert!(!document.text.contains("<i>") && !document.text.contains("</"));
        }
    }

    #[test]
    fn pubmedqa_by_key() {
        let settings = "records = '*'\n[fields]\ntext = ['CONTEXTS', 'LONG_ANSWER']\nparagraph_titles = { CONTEXTS = 'LABELS' }\n\
            section_titles = { LONG_ANSWER = 'ANSWER' }\ntitle = 'QUESTION'\nidentifiers = { pmid = '@key' }";
        let Some(found) = shared("pubmedqa/ori_pqal.json", settings) else { return };
        assert_eq!(found.len(), 1000);
        let first = found[0].as_ref().unwrap();
        assert_eq!(first.identifiers, ["pmid:21645374"]);
        let titles: Vec<_> = first.sections.iter().map(|section| section.title.as_str()).collect();
        assert_eq!(titles, ["BACKGROUND", "RESULTS", "ANSWER"]);
        let Some(found) = shared("pubmedqa/test_ground_truth.json", settings) else { return };
        assert!(found.len() == 500 && found.iter().all(|found| matches!(found, Err(("no-text", _)))));
    }

    proptest! {
        #[test]
        fn never_panics_or_loops(bytes in prop::collection::vec(prop::sample::select(b"{}[]\":,text\\u0d \xff1".to_vec()), 0..200)) {
            for settings in ["", "records = '*'", "records = 't.e'"] {
                run(&bytes, settings, &Limits { record_bytes_max: 64, depth_max: 8 }, 5);
            }
        }

        #[test]
        fn frames_what_serde_reads(texts_in in prop::collection::vec("[a\"\\\\{}\\[\\], é\n]{1,8}", 0..6)) {
            let value = serde_json::json!(texts_in.iter().map(|text| serde_json::json!({"x": [text, {}], "text": text})).collect::<Vec<_>>());
            let found = texts(run(serde_json::to_string_pretty(&value).unwrap().as_bytes(), "", &Limits::default(), 3));
            let expected: Vec<_> = texts_in.iter().map(|text| {
                let mut out = String::new();
                crate::text::append(text, crate::text::Whitespace::Keep, &mut out);
                if out.is_empty() { None } else { Some(out) }
            }).collect();
            prop_assert_eq!(found.into_iter().map(Result::ok).collect::<Vec<_>>(), expected);
        }
    }
}
