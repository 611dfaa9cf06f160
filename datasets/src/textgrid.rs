//! Praat TextGrid transcripts: what was said, a line for each interval.
//!
//! Reads the long and the short text format, in UTF-8 or UTF-16. As in Praat, only free-standing numbers, quoted strings and flags count;
//! whatever else stands between them is a comment. Where several tiers have words, they are put in order of time and each line names its tier.

use crate::emit::Emit;
use crate::xml::transcode;
use crate::{Document, Reject};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// How transcripts are written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What stands for words that the transcriber could not make out (`<UNIN/>`, `<INAUDIBLE_SPEECH/>`); default `[inaudible]`, so that a dose
    /// that was not heard does not vanish from its sentence. Empty: nothing. Intervals with nothing else are left out.
    pub inaudible: String,
    /// Whether each line begins with the name of its tier: `several` (default) where more than one tier has words, `always` or `never`.
    pub speakers: Speakers,
}

/// When lines name their tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speakers {
    #[default]
    Several,
    Always,
    Never,
}

impl Default for Settings {
    fn default() -> Self {
        Self { inaudible: "[inaudible]".into(), speakers: Speakers::default() }
    }
}

/// An interval in which something was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Seconds from the start of the recording.
    pub start: f64,
    /// The tier's name.
    pub speaker: String,
    pub text: String,
}

/// Reads a transcript.
///
/// Rejects: `no-text`, `textgrid-malformed`, `textgrid-truncated`, `invalid-utf8`, `invalid-utf16`.
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    document.clear();
    let turns = match turns(bytes, settings) {
        Ok(turns) if turns.is_empty() => return emit(Err(Reject::new("no-text", 0, "a transcript without words"))),
        Ok(turns) => turns,
        Err(reject) => return emit(Err(reject)),
    };
    let several = turns.iter().any(|turn| turn.speaker != turns[0].speaker);
    let named = match settings.speakers {
        Speakers::Several => several,
        Speakers::Always => true,
        Speakers::Never => false,
    };
    for turn in &turns {
        if !document.text.is_empty() {
            document.text.push('\n');
        }
        if named && !turn.speaker.is_empty() {
            document.text.push_str(&turn.speaker);
            document.text.push_str(": ");
        }
        document.text.push_str(&turn.text);
    }
    if !several && !turns[0].speaker.is_empty() {
        document.metadata.insert("tier".into(), turns[0].speaker.clone());
    }
    emit(Ok(&*document))
}

/// Returns all that was said in order of time, for callers that join the recordings of one conversation.
///
/// # Errors
/// As the rejects of [`parse`], but for `no-text`.
pub fn turns(bytes: &[u8], settings: &Settings) -> Result<Vec<Turn>, Reject> {
    let bytes = transcode(bytes)?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Reject::new("invalid-utf8", error.valid_up_to(), "not UTF-8; convert the file to UTF-8"))?;
    let mut values = Values { text, at: 0 };
    if !matches!(values.string()?, kind if kind.starts_with("ooTextFile")) || values.string()? != "TextGrid" {
        return Err(Reject::new("textgrid-malformed", 0, "not a TextGrid in text format"));
    }
    values.number()?;
    values.number()?;
    if !values.flag()? {
        return Ok(Vec::new());
    }
    let mut turns = Vec::new();
    for _ in 0..values.count()? {
        tier(&mut values, settings, &mut turns)?;
    }
    turns.sort_by(|a, b| a.start.total_cmp(&b.start));
    Ok(turns)
}

fn tier(values: &mut Values<'_>, settings: &Settings, turns: &mut Vec<Turn>) -> Result<(), Reject> {
    // Class and name come in either order.
    let (first, second) = (values.string()?, values.string()?);
    let is_class = |word: &str| word == "IntervalTier" || word == "TextTier";
    let (class, name) = if is_class(&first) { (first, second) } else { (second, first) };
    if !is_class(&class) {
        return Err(Reject::new("textgrid-malformed", values.at, "a tier that is neither an IntervalTier nor a TextTier"));
    }
    let name = name.trim().to_owned();
    values.number()?;
    values.number()?;
    for _ in 0..values.count()? {
        let start = values.number()?;
        if class == "IntervalTier" {
            values.number()?;
        }
        let words = values.string()?;
        if let Some(text) = spoken(&words, &settings.inaudible) {
            turns.push(Turn { start, speaker: name.clone(), text });
        }
    }
    Ok(())
}

/// Resolves the transcriber's tags and folds white space. `None` where nothing was understood.
fn spoken(words: &str, inaudible: &str) -> Option<String> {
    let mut text = String::with_capacity(words.len());
    let mut understood = false;
    let mut rest = words;
    while let Some(at) = rest.find('<') {
        understood |= push_folded(&mut text, &rest[..at]);
        let tag = &rest[at + 1..];
        let length = tag.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/'))).unwrap_or(tag.len());
        if length == 0 || !tag[length..].starts_with('>') {
            understood |= push_folded(&mut text, "<");
            rest = tag;
            continue;
        }
        // `<UNSURE>` and `</UNSURE>` go, and what they hold stays.
        if tag[..length].ends_with('/') {
            push_folded(&mut text, inaudible);
        }
        rest = &tag[length + 1..];
    }
    understood |= push_folded(&mut text, rest);
    text.truncate(text.trim_end().len());
    understood.then_some(text)
}

/// Appends with white space folded; says whether there was anything that can be said.
fn push_folded(text: &mut String, words: &str) -> bool {
    let mut understood = false;
    for character in words.chars() {
        if character.is_whitespace() {
            if !text.is_empty() && !text.ends_with(' ') {
                text.push(' ');
            }
        } else {
            text.push(character);
            understood |= character.is_alphanumeric();
        }
    }
    understood
}

/// The free-standing values of the file.
struct Values<'a> {
    text: &'a str,
    at: usize,
}

impl Values<'_> {
    /// Goes to the next free-standing token that `wanted` accepts by its first character.
    fn find(&mut self, wanted: fn(u8) -> bool) -> Result<u8, Reject> {
        let bytes = self.text.as_bytes();
        let mut free = self.at == 0 || bytes[self.at - 1].is_ascii_whitespace();
        while let Some(&byte) = bytes.get(self.at) {
            if free && byte == b'!' {
                self.at += memchr::memchr(b'\n', &bytes[self.at..]).unwrap_or(bytes.len() - self.at);
            } else if free && wanted(byte) {
                return Ok(byte);
            } else {
                free = byte.is_ascii_whitespace();
                self.at += 1;
            }
        }
        Err(Reject::new("textgrid-truncated", self.at, "the file ends where a value is due"))
    }

    fn string(&mut self) -> Result<String, Reject> {
        self.find(|byte| byte == b'"')?;
        let start = self.at;
        let mut string = String::new();
        loop {
            let from = self.at + 1;
            let Some(length) = self.text[from..].find('"') else {
                return Err(Reject::new("textgrid-truncated", start, "a quoted text that does not end"));
            };
            string.push_str(&self.text[from..from + length]);
            self.at = from + length + 1;
            if !self.text[self.at..].starts_with('"') {
                return Ok(string);
            }
            string.push('"');
        }
    }

    fn number(&mut self) -> Result<f64, Reject> {
        loop {
            self.find(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.'))?;
            let start = self.at;
            let rest = &self.text[start..];
            let token = rest.split(|c: char| c.is_ascii_whitespace()).next().unwrap_or(rest);
            self.at += token.len();
            if let Ok(number) = token.parse() {
                return Ok(number);
            }
        }
    }

    /// Reads how many things follow. A count that is a lie ends with the file.
    fn count(&mut self) -> Result<u64, Reject> {
        let start = self.at;
        let number = self.number()?;
        if !(0.0..=1e9).contains(&number) {
            return Err(Reject::new("textgrid-malformed", start, "a number of tiers or intervals that cannot be"));
        }
        Ok(number as u64)
    }

    fn flag(&mut self) -> Result<bool, Reject> {
        self.find(|byte| byte == b'<')?;
        let exists = self.text[self.at..].starts_with("<exists>");
        self.at += 1;
        Ok(exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    const LONG: &str = "File type = \"ooTextFile\"\r\nObject class = \"TextGrid\"\r\n\r\nxmin = 0\r\nxmax = 9.5\r\ntiers? <exists> \r\nsize = 2\r\nitem []: \r\n\
        \titem [1]:\r\n\t\tclass = \"IntervalTier\"\r\n\t\tname = \"Doctor\"\r\n\t\txmin = 0 \r\n\t\txmax = 9.5\r\n\t\tintervals: size = 3\r\n\
        \t\tintervals [1]:\r\n\t\t\txmin = 0\r\n\t\t\txmax = 1.5\r\n\t\t\ttext = \"\"\r\n\
        \t\tintervals [2]:\r\n\t\t\txmin = 1.5\r\n\t\t\txmax = 2\r\n\t\t\ttext = \"Say \"\"ah\"\", <UNSURE>please</UNSURE>  take <UNIN/> mg if p < 5.\"\r\n\
        \t\tintervals [3]:\r\n\t\t\txmin = 4\r\n\t\t\txmax = 5\r\n\t\t\ttext = \"<UNIN/>\"\r\n\
        \titem [2]:\r\n\t\tname = \"Patient\"\r\n\t\tclass = \"TextTier\"\r\n\t\txmin = 0 \r\n\t\txmax = 9.5\r\n\t\tpoints: size = 1\r\n\
        \t\tpoints [1]:\r\n\t\t\tnumber = 0.5\r\n\t\t\tmark = \"Hi\"\r\n";

    fn read(bytes: &[u8], settings: &Settings) -> Result<Document, Reject> {
        let mut document = Document::default();
        let mut found = None;
        let _ = parse(bytes, settings, &mut document, &mut |result| {
            found = Some(result.cloned());
            ControlFlow::Continue(())
        });
        found.unwrap()
    }

    #[test]
    fn tiers_are_interleaved() {
        let document = read(LONG.as_bytes(), &Settings::default()).unwrap();
        assert_eq!(document.text, "Patient: Hi\nDoctor: Say \"ah\", please take [inaudible] mg if p < 5.");
        let plain = Settings { inaudible: String::new(), speakers: Speakers::Never };
        assert_eq!(read(LONG.as_bytes(), &plain).unwrap().text, "Hi\nSay \"ah\", please take mg if p < 5.");
    }

    #[test]
    fn short_format_and_utf16() {
        let short = "File type = \"ooTextFile short\"\n\"TextGrid\"\n\n0\n1\n<exists>\n1\n\"IntervalTier\"\n\"é\" ! a comment \"x\"\n0\n1\n1\n0\n1\n\"Ça va\"\n";
        let mut utf16 = vec![0xFE, 0xFF];
        utf16.extend(short.encode_utf16().flat_map(u16::to_be_bytes));
        for bytes in [short.as_bytes(), &utf16] {
            let document = read(bytes, &Settings::default()).unwrap();
            assert_eq!((document.text.as_str(), document.metadata["tier"].as_str()), ("Ça va", "é"));
        }
    }

    #[test]
    fn a_count_that_lies_ends_with_the_file() {
        let lie = LONG.replace("intervals: size = 3", "intervals: size = 999999999");
        assert!(["textgrid-truncated", "textgrid-malformed"].contains(&read(lie.as_bytes(), &Settings::default()).unwrap_err().reason));
        let lie = LONG.replace("size = 2", "size = -1");
        assert_eq!(read(lie.as_bytes(), &Settings::default()).unwrap_err().reason, "textgrid-malformed");
        assert_eq!(read(b"PK\x03\x04", &Settings::default()).unwrap_err().reason, "textgrid-truncated");
    }

    #[test]
    fn truncation_anywhere_is_a_reject() {
        let last = LONG.trim_end().len();
        for end in 0..last {
            assert!(read(&LONG.as_bytes()[..end], &Settings::default()).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn mutations_never_panic(changes in prop::collection::vec((0usize..LONG.len(), any::<u8>()), 1..6)) {
            let mut bytes = LONG.as_bytes().to_vec();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            let _ = read(&bytes, &Settings::default());
        }
    }

    #[test]
    fn real_transcripts() {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/primock57"));
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!("SKIPPED: {} is not there", folder.display());
            return;
        };
        let mut count = 0;
        for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "TextGrid")) {
            let document = read(&std::fs::read(&path).unwrap(), &Settings::default()).unwrap();
            assert!(!document.text.contains(['<', '\r']) && !document.text.contains("\n\n") && document.text.len() > 500, "{path:?}");
            count += 1;
        }
        assert_eq!(count, 90);
    }
}
