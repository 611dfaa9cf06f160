//! CSV with a named text column, such as MIMIC-III NOTEEVENTS or MTSamples.
//!
//! Streams: one record is held at a time, and one that is too large is skipped without being held. Quoted fields may span lines. A row whose
//! number of fields differs from the header's is rejected, not patched up; so is a record whose quote never closes.

use crate::fields::{self, Mapping, Names, Row};
use crate::text::skip_mark;
use crate::{Document, Emit, Limits, Reject};
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead};
use std::ops::ControlFlow;

/// How CSV files are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The character between fields, ASCII. Default `,`.
    pub delimiter: char,
    /// The character around fields, ASCII; doubled it stands for itself. Default `"`.
    pub quote: char,
    /// Names of the columns of files that have no header row. Default none: the first row is the header.
    pub names: Vec<String>,
    /// Which column becomes which field.
    pub fields: fields::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self { delimiter: ',', quote: '"', names: Vec::new(), fields: fields::Settings::default() }
    }
}

/// Reads a file record by record; the header is no record.
///
/// # Errors
///
/// The stream breaks, or the file lacks a mapped column (with the nearest name that it has; a first row that may be data is not quoted).
pub fn read(
    input: &mut dyn BufRead,
    settings: &Settings,
    limits: &Limits,
    document: &mut Document,
    emit: &mut Emit<'_>,
) -> io::Result<ControlFlow<()>> {
    let mut records = Records::new(settings, limits)?;
    let mut mapping = Mapping::new(&settings.fields);
    let mut names = settings.names.clone();
    if names.is_empty() {
        match records.next(input)? {
            Record::End => return Ok(ControlFlow::Continue(())),
            Record::Whole => {}
            Record::TooLarge | Record::Open => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the header row never ends; is the quote character right?"));
            }
        }
        for field in 0..records.fields() {
            let name = std::str::from_utf8(records.field(field));
            names.push(name.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the header row is not UTF-8"))?.trim().to_owned());
        }
    }
    let known = if settings.names.is_empty() { Names::MayBeData } else { Names::Known };
    mapping.resolve(&names, known, &|wanted| names.iter().any(|name| name == wanted))?;
    // Where each mapped column is in a row; an alternative that the file lacks is nowhere.
    let places: Vec<Option<usize>> = mapping.columns().iter().map(|column| names.iter().position(|name| name == column)).collect();
    let mut number = 0;
    loop {
        let reject = match records.next(input)? {
            Record::End => return Ok(ControlFlow::Continue(())),
            Record::TooLarge => Some(("record-too-large", format!("{}; or is a quote left open?", limits.too_large("a row")))),
            Record::Open => Some(("csv-open-quote", "a quote that opens in this row is never closed".to_owned())),
            Record::Whole if records.fields() != names.len() => {
                Some(("csv-field-count", format!("the row has {} fields, the header {}", records.fields(), names.len())))
            }
            Record::Whole => match std::str::from_utf8(records.bytes()) {
                Err(_) => Some(("invalid-utf8", "the row is not UTF-8".to_owned())),
                Ok(text) => {
                    let row = CsvRow { text, ends: &records.ends[..records.fields], places: &places };
                    if mapping.fill(&row, document) { None } else { Some(("no-text", "the text column is empty".to_owned())) }
                }
            },
        };
        let flow = match reject {
            None => {
                document.record = Some(number);
                emit(Ok(&*document))
            }
            Some((reason, detail)) => emit(Err(Reject { record: Some(number), reason, byte: records.start, detail })),
        };
        if flow.is_break() {
            return Ok(flow);
        }
        number += 1;
    }
}

struct CsvRow<'a> {
    text: &'a str,
    ends: &'a [usize],
    places: &'a [Option<usize>],
}

impl Row for CsvRow<'_> {
    fn values(&self, column: usize, each: &mut dyn FnMut(&str)) {
        let Some(place) = self.places.get(column).copied().flatten() else { return };
        let start = place.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        let range = start.zip(self.ends.get(place).copied());
        // A row is checked as a whole; a field could still end within a character if the row glues two broken halves together.
        if let Some(value) = range.and_then(|(start, end)| self.text.get(start..end)).filter(|value| !value.is_empty()) {
            each(value);
        }
    }
}

enum Record {
    Whole,
    TooLarge,
    /// The file ended within a quoted field.
    Open,
    End,
}

/// The records of a stream, one at a time in reused buffers.
struct Records {
    reader: Reader,
    /// The fields of the record, unquoted, back to back.
    output: Vec<u8>,
    ends: Vec<usize>,
    written: usize,
    fields: usize,
    /// Bytes of the file taken so far, and where the current record starts.
    position: u64,
    start: u64,
    bytes_max: usize,
    fresh: bool,
}

/// Most fields a row may have.
const FIELDS_MAX: usize = 1 << 16;

impl Records {
    fn new(settings: &Settings, limits: &Limits) -> io::Result<Self> {
        let byte = |name: &str, letter: char| {
            let error = || io::Error::new(io::ErrorKind::InvalidInput, format!("csv.{name} must be one ASCII character"));
            u8::try_from(letter).ok().filter(u8::is_ascii).ok_or_else(error)
        };
        let reader = ReaderBuilder::new().delimiter(byte("delimiter", settings.delimiter)?).quote(byte("quote", settings.quote)?).build();
        Ok(Self {
            reader,
            output: vec![0; 1 << 16],
            ends: vec![0; 64],
            written: 0,
            fields: 0,
            position: 0,
            start: 0,
            bytes_max: limits.record_bytes_max,
            fresh: true,
        })
    }

    fn fields(&self) -> usize {
        self.fields
    }

    fn bytes(&self) -> &[u8] {
        &self.output[..self.ends[..self.fields].last().copied().unwrap_or(0)]
    }

    fn field(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.output[start..self.ends[number]]
    }

    fn next(&mut self, input: &mut dyn BufRead) -> io::Result<Record> {
        (self.written, self.fields) = (0, 0);
        let (mut too_large, mut ending) = (false, 0);
        self.start = self.position;
        if std::mem::take(&mut self.fresh) {
            self.skip_mark(input)?;
        }
        loop {
            let available = if ending == 0 { input.fill_buf()? } else { &[] };
            if available.is_empty() {
                ending += 1;
            }
            // At the end of the file one line break is added: a record that it does not complete is within quotes.
            let chunk = if ending == 1 { b"\n" } else { available };
            let (result, read, written, fields) =
                self.reader.read_record(chunk, &mut self.output[self.written..], &mut self.ends[self.fields..]);
            if self.written == 0 && self.fields == 0 && !too_large && ending == 0 && written == 0 && fields == 0 {
                // Line breaks between records belong to none.
                self.start = self.position + chunk[..read].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count() as u64;
            }
            if ending == 0 {
                input.consume(read);
                self.position += read as u64;
            }
            self.written += written;
            self.fields += fields;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => too_large |= !self.grow(result, too_large),
                ReadRecordResult::Record if too_large => return Ok(Record::TooLarge),
                ReadRecordResult::Record if ending >= 2 => return Ok(Record::Open),
                ReadRecordResult::Record => return Ok(Record::Whole),
                ReadRecordResult::End => return Ok(Record::End),
            }
            if too_large {
                (self.written, self.fields) = (0, 0);
            }
        }
    }

    /// Makes room for more of the record; false where it is too large to be held.
    fn grow(&mut self, result: ReadRecordResult, too_large: bool) -> bool {
        let full = match result {
            ReadRecordResult::OutputFull => self.output.len() >= self.bytes_max.max(1),
            _ => self.ends.len() >= FIELDS_MAX,
        };
        if too_large || full {
            return false;
        }
        if result == ReadRecordResult::OutputFull {
            self.output.resize((self.output.len() * 2).min(self.bytes_max), 0);
        } else {
            self.ends.resize(self.ends.len() * 2, 0);
        }
        true
    }

    fn skip_mark(&mut self, input: &mut dyn BufRead) -> io::Result<()> {
        let available = input.fill_buf()?;
        if available.starts_with(&[0xff, 0xfe]) || available.starts_with(&[0xfe, 0xff]) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is UTF-16; convert it to UTF-8"));
        }
        self.position += skip_mark(input)?;
        self.start = self.position;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    fn settings(text: &str) -> Settings {
        Settings { fields: fields::Settings { text: text.into(), ..Default::default() }, ..Default::default() }
    }

    /// Texts and reject reasons in order, read through a buffer of `buffer_bytes`.
    fn run(
        bytes: &[u8],
        settings: &Settings,
        limits: &Limits,
        buffer_bytes: usize,
    ) -> io::Result<Vec<Result<String, (&'static str, u64)>>> {
        let mut out = Vec::new();
        let mut input = BufReader::with_capacity(buffer_bytes, bytes);
        let flow = read(&mut input, settings, limits, &mut Document::default(), &mut |found| {
            out.push(found.map(|document| document.text.clone()).map_err(|reject| (reject.reason, reject.byte)));
            ControlFlow::Continue(())
        })?;
        assert!(flow.is_continue());
        Ok(out)
    }

    fn ok(text: &str) -> Result<String, (&'static str, u64)> {
        Ok(text.to_owned())
    }

    /// The first row of a file without a header is a record.
    #[test]
    fn a_first_row_that_may_be_data_is_not_quoted() {
        let error = |bytes: &[u8]| run(bytes, &settings("text"), &Limits::default(), 64).unwrap_err().to_string();
        let headless = error(b"0,Mr. John Doe was seen\n1,again\n");
        assert!(headless.contains("has 2 fields") && headless.contains("`names`") && !headless.contains("John"), "{headless}");
        assert!(error(b"id,texts\n").contains("did you mean \"texts\"?"));
        let named = Settings { names: vec!["id".into(), "note".into()], ..settings("text") };
        let named = run(b"0,x\n", &named, &Limits::default(), 64).unwrap_err().to_string();
        assert!(named.contains("it has \"id\", \"note\""), "{named}");
    }

    #[test]
    fn quirks() {
        let cases: &[(&str, &[u8], Vec<Result<String, (&'static str, u64)>>)] = &[
            ("mark and CRLF", b"\xef\xbb\xbftext,b\r\nx,1\r\ny,2\r\n", vec![ok("x"), ok("y")]),
            ("lines and doubled quotes", b"b,text\n1,\"one\r\n\r\n\r\n\"\"two\"\"  \r\nthree\"\n", vec![ok("one\n\n\"two\"\nthree")]),
            ("no break at the end", b"text\nlast", vec![ok("last")]),
            ("empty text", b"a,text\n1,\n2,\" \"\n3,x\n", vec![Err(("no-text", 7)), Err(("no-text", 10)), ok("x")]),
            ("ragged", b"a,text\n1\n1,x\n1,y,z\n", vec![Err(("csv-field-count", 7)), ok("x"), Err(("csv-field-count", 13))]),
            ("not UTF-8", b"text\n\xff\xfe\nx\n", vec![Err(("invalid-utf8", 5)), ok("x")]),
            ("open quote", b"text\nx\n\"open\nx\nx\n", vec![ok("x"), Err(("csv-open-quote", 7))]),
            ("header alone", b"text\n", vec![]),
            ("empty", b"", vec![]),
        ];
        for (name, bytes, expected) in cases {
            for buffer in [1, 8, 64, 4096] {
                assert_eq!(&run(bytes, &settings("text"), &Limits::default(), buffer).unwrap(), expected, "{name}, buffer of {buffer}");
            }
        }
    }

    #[test]
    fn missing_column_names_the_nearest() {
        let error = run(b"id,transcription\n", &settings("transcripton"), &Limits::default(), 64).unwrap_err().to_string();
        assert!(error.contains("\"transcription\""), "{error}");
        let error = run(b"id;text\n", &settings("body"), &Limits::default(), 64).unwrap_err().to_string();
        assert!(error.contains("delimiter"), "{error}");
    }

    #[test]
    fn too_large_rows_are_skipped_in_bounded_memory() {
        let limits = Limits { record_bytes_max: 1 << 16, ..Limits::default() };
        let mut bytes = b"text\nfirst\n\"".to_vec();
        bytes.resize(10 << 20, b'x');
        bytes.extend(b"\"\nlast\n");
        let found = run(&bytes, &settings("text"), &limits, 4096).unwrap();
        assert_eq!(found, vec![ok("first"), Err(("record-too-large", 11)), ok("last")]);
        let mut records = Records::new(&settings("text"), &limits).unwrap();
        let mut input = &bytes[..];
        while !matches!(records.next(&mut input).unwrap(), Record::End) {}
        assert!(records.output.capacity() <= 1 << 17, "{}", records.output.capacity());
    }

    #[test]
    fn open_quote_over_ten_megabytes() {
        let mut bytes = b"a,text\n1,x\n2,\"".to_vec();
        bytes.extend(b"word, and\n".repeat(1 << 20));
        let found = run(&bytes, &settings("text"), &Limits::default(), 1 << 16).unwrap();
        assert_eq!(found, vec![ok("x"), Err(("csv-open-quote", 11))]);
    }

    #[test]
    fn many_fields() {
        let mut bytes = b"text\nx\n".to_vec();
        bytes.extend(b",".repeat(1 << 20));
        bytes.extend(b"\nlast\n");
        let found = run(&bytes, &settings("text"), &Limits::default(), 1 << 16).unwrap();
        assert_eq!(found, vec![ok("x"), Err(("record-too-large", 7)), ok("last")]);
    }

    #[test]
    fn mtsamples() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/mtsamples/mtsamples.csv");
        let Ok(file) = std::fs::File::open(path) else { return eprintln!("SKIPPED: {path} is absent") };
        let settings: Settings = toml::from_str(
            r#"fields = { text = "transcription", title = "sample_name", id = "", id_scheme = "mtsamples", metadata = ["medical_specialty", "keywords"] }"#,
        )
        .unwrap();
        let (mut documents, mut titles, mut specialties) = (0, 0, 0);
        let flow = read(&mut BufReader::new(file), &settings, &Limits::default(), &mut Document::default(), &mut |found| {
            let document = found.expect("every row has text");
            assert_eq!(document.identifiers, [format!("mtsamples:{documents}")]);
            documents += 1;
            titles += usize::from(document.title.is_some());
            specialties += usize::from(document.metadata.contains_key("medical_specialty"));
            ControlFlow::Continue(())
        });
        assert!(flow.unwrap().is_continue());
        assert_eq!((documents, titles, specialties), (2224, 2224, 2224));
    }

    proptest! {
        #[test]
        fn agrees_with_what_was_written(rows in prop::collection::vec(prop::collection::vec("[a-c\",\r\n é]{0,6}", 2..3), 0..8)) {
            let mut bytes = b"id,text\n".to_vec();
            let mut expected = Vec::new();
            for row in &rows {
                let quoted: Vec<String> = row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
                bytes.extend(quoted.join(",").bytes().chain(*b"\n"));
                let mut text = String::new();
                crate::text::append(&row[1], crate::text::Whitespace::Keep, &mut text);
                expected.push(if text.is_empty() { Err("no-text") } else { Ok(text) });
            }
            let found = run(&bytes, &settings("text"), &Limits::default(), 16).unwrap();
            let found: Vec<_> = found.into_iter().map(|found| found.map_err(|(reason, _)| reason)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(prop::sample::select(b"text,\"\r\n\xff\xc3;x".to_vec()), 0..200), limit in 1usize..64) {
            let limits = Limits { record_bytes_max: limit, ..Limits::default() };
            let _ = run(&bytes, &settings("text"), &limits, 8);
            let _ = run(&[b"text,x\n", &bytes[..]].concat(), &settings("text"), &limits, 8);
        }
    }
}
