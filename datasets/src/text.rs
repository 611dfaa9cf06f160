//! Plain text, textbooks and Markdown.
//!
//! A file is one document or is cut at form feeds or at a delimiter line. Lines stay as they are unless `unwrap_lines` joins them.
//! The textbook cleaning follows a published recipe for 18 medical textbooks: drop empty lines, concatenate lines of fewer than five tokens
//! into the subsequent line, remove punctuation; each step is off by default and a token is a run of non-space characters.

use crate::{Document, Emit, Reject, markdown};
use memchr::memchr3;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::{self, BufRead};
use std::ops::ControlFlow;

/// How text files are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is one document: the `file`, a part between `form-feed` characters, or a part between lines equal to `delimiter`. Default `file`.
    pub unit: Unit,
    /// The line that separates documents when `unit = "delimiter"`, compared without surrounding spaces. Default empty: an empty line.
    pub delimiter: String,
    /// Whether lines of a paragraph are joined, a hyphen at a line's end before a small letter removed with the break. Default false.
    pub unwrap_lines: bool,
    /// Whether empty lines are dropped, so that every line is its own. Default false.
    pub drop_blank: bool,
    /// Lines with fewer tokens than this are joined to the line that follows; 0 joins none. Default 0.
    pub join_short: usize,
    /// Which punctuation is removed. Default `keep`.
    pub punctuation: Punctuation,
    /// Whether the text is Markdown: headings become sections, marks and link targets go. Default false.
    pub markdown: bool,
}

/// What is one document in a text file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// The file.
    #[default]
    File,
    /// Each part between form-feed characters (U+000C), as page breaks in extracted textbooks.
    FormFeed,
    /// Each part between delimiter lines.
    Delimiter,
}

/// What becomes of white space in text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whitespace {
    /// Lines and their indentation stay; spaces at line ends go and several empty lines become one.
    #[default]
    Keep,
    /// Each paragraph becomes one line with single spaces.
    Fold,
}

/// Which punctuation is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Punctuation {
    /// None.
    #[default]
    Keep,
    /// Every character that is neither alphanumeric nor white space: `pH 7.35` becomes `pH 735`. Destroys doses.
    Literal,
    /// As `literal`, but signs that belong to a number or unit stay (`7.35`, `1,000`, `50%`, `mg/dL`, `-3`, `IL-6`, `p<0.05`), and a sign
    /// between two words leaves a space.
    ClinicalSafe,
}

/// Reads one file.
pub fn parse(bytes: &[u8], settings: &Settings, document: &mut Document, emit: &mut Emit<'_>) -> ControlFlow<()> {
    let text = match decode(bytes) {
        Ok(text) => text,
        Err(reject) => return emit(Err(reject)),
    };
    if settings.unit == Unit::File {
        return part(&text, 0, None, settings, document, emit);
    }
    let mut record = 0;
    for (start, end) in (Parts { text: &text, settings, at: Some(0) }) {
        if text[start..end].trim().is_empty() {
            continue;
        }
        part(&text[start..end], start, Some(record), settings, document, emit)?;
        record += 1;
    }
    if record == 0 { emit(Err(Reject::new("no-text", 0, "the file has no text"))) } else { ControlFlow::Continue(()) }
}

/// Byte ranges of the documents of a file.
struct Parts<'a> {
    text: &'a str,
    settings: &'a Settings,
    at: Option<usize>,
}

impl Iterator for Parts<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let start = self.at?;
        let rest = &self.text[start..];
        let cut = if self.settings.unit == Unit::FormFeed {
            rest.find('\u{c}').map(|at| (at, at + 1))
        } else {
            let wanted = self.settings.delimiter.trim();
            let mut at = 0;
            rest.split_inclusive('\n').find_map(|line| {
                let range = (at, at + line.len());
                at = range.1;
                (line.trim() == wanted).then_some(range)
            })
        };
        self.at = cut.map(|(_, after)| start + after);
        Some((start, cut.map_or(self.text.len(), |(before, _)| start + before)))
    }
}

fn part(
    text: &str,
    start: usize,
    record: Option<u64>,
    settings: &Settings,
    document: &mut Document,
    emit: &mut Emit<'_>,
) -> ControlFlow<()> {
    document.clear();
    document.record = record;
    if settings.markdown {
        markdown::convert(text, document);
    } else {
        append(text, Whitespace::Keep, &mut document.text);
    }
    if !settings.markdown {
        clean(&mut document.text, settings);
    }
    if document.text.is_empty() {
        let detail = "no text is left";
        return emit(Err(Reject { record, ..Reject::new("no-text", start, detail) }));
    }
    emit(Ok(&*document))
}

/// Applies the textbook cleaning in the published order.
fn clean(text: &mut String, settings: &Settings) {
    if settings.unwrap_lines {
        *text = unwrap_lines(text);
    }
    if settings.drop_blank {
        *text = drop_blank(text);
    }
    if settings.join_short > 0 {
        *text = join_short(text, settings.join_short);
    }
    if settings.punctuation != Punctuation::Keep {
        *text = remove_punctuation(text, settings.punctuation);
    }
}

/// Joins the lines of each paragraph by a space; a hyphen between a letter and a small letter on the next line goes with the break.
pub fn unwrap_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = "";
    for line in text.lines() {
        let line = line.trim();
        let listed = line.starts_with(['-', '*', '•', '–']) && line.chars().nth(1).is_some_and(char::is_whitespace);
        if line.is_empty() {
            if !out.is_empty() && !out.ends_with("\n\n") {
                out.push_str("\n\n");
            }
        } else if previous.is_empty() {
            out.push_str(line);
        } else if listed {
            out.push('\n');
            out.push_str(line);
        } else {
            let mut ending = previous.chars().rev();
            let hyphenated = ending.next() == Some('-') && ending.next().is_some_and(char::is_alphabetic);
            if hyphenated && line.starts_with(char::is_lowercase) {
                out.pop();
            } else {
                out.push(' ');
            }
            out.push_str(line);
        }
        previous = line;
    }
    out.truncate(out.trim_end().len());
    out
}

/// Drops the empty lines.
pub fn drop_blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(line);
    }
    out
}

/// Joins every line of fewer than `tokens_min` white-space tokens to the line that follows; short lines chain, and an empty line ends
/// the chain.
pub fn join_short(text: &str, tokens_min: usize) -> String {
    let mut out = String::with_capacity(text.len());
    // Tokens of the line being built, counted no further than the minimum.
    let mut pending: Option<usize> = None;
    for (number, line) in text.lines().enumerate() {
        let tokens = line.split_whitespace().take(tokens_min).count();
        match pending {
            Some(held) if held < tokens_min && tokens > 0 => {
                out.push(' ');
                out.push_str(line.trim_start());
                // A chain ends at the first line that is long by itself or once the joined line is.
                pending = Some((held + tokens).min(tokens_min));
            }
            _ => {
                if number > 0 {
                    out.push('\n');
                }
                out.push_str(line);
                pending = (tokens > 0).then_some(tokens);
            }
        }
    }
    out
}

/// Removes punctuation and folds the spaces this leaves; lines stay.
pub fn remove_punctuation(text: &str, mode: Punctuation) -> String {
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let from = out.len();
        let mut before = None;
        let mut letters = line.chars().peekable();
        while let Some(letter) = letters.next() {
            let after = letters.peek().copied();
            if letter.is_alphanumeric() {
                out.push(letter);
            } else if letter.is_whitespace() {
                space(&mut out, from);
            } else if mode == Punctuation::ClinicalSafe {
                if belongs_to_number(before, letter, after) {
                    out.push(letter);
                } else if before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric) {
                    space(&mut out, from);
                }
            } else if mode == Punctuation::Keep {
                out.push(letter);
            }
            before = Some(letter);
        }
        out.truncate(from + out[from..].trim_end().len());
    }
    out
}

fn space(out: &mut String, from: usize) {
    if out.len() > from && !out.ends_with(' ') {
        out.push(' ');
    }
}

/// Whether a sign is part of a number or of a unit, judged by its neighbours.
fn belongs_to_number(before: Option<char>, sign: char, after: Option<char>) -> bool {
    let digit = |letter: Option<char>| letter.is_some_and(char::is_numeric);
    let word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    match sign {
        '.' | ',' | ':' => digit(before) && digit(after) || sign == '.' && !word(before) && digit(after),
        '%' | '°' | '‰' => digit(before) || before == Some(' '),
        '/' => word(before) && word(after),
        '+' => digit(after) || word(before) && !word(after),
        '-' | '−' | '–' => digit(after) || digit(before) && word(after),
        '<' | '>' | '=' | '≤' | '≥' | '±' | '×' | '~' => digit(after) || after == Some(' ') || after == Some('='),
        _ => false,
    }
}

/// Appends text as paragraphs separated by one empty line, after an empty line where `out` has text: CRLF and CR become LF, spaces at
/// line ends and empty lines at both ends go.
pub(crate) fn append(text: &str, whitespace: Whitespace, out: &mut String) {
    let floor = out.len();
    let mut blank = floor > 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (line, length) = match memchr3(b'\n', b'\r', 0xc, rest.as_bytes()) {
            Some(end) => (&rest[..end], end + if rest[end..].starts_with("\r\n") { 2 } else { 1 }),
            None => (rest, rest.len()),
        };
        rest = &rest[length..];
        let kept = line.trim_end();
        if kept.is_empty() {
            blank = true;
            continue;
        }
        let started = out.len() > floor;
        if blank && (started || floor > 0) {
            out.push_str("\n\n");
        } else if started {
            out.push(if whitespace == Whitespace::Fold { ' ' } else { '\n' });
        }
        blank = false;
        match whitespace {
            Whitespace::Keep => out.push_str(kept),
            Whitespace::Fold => {
                for (number, word) in kept.split_whitespace().enumerate() {
                    if number > 0 {
                        out.push(' ');
                    }
                    out.push_str(word);
                }
            }
        }
    }
}

/// Reads bytes as UTF-8, or as UTF-16 where a byte order mark says so.
///
/// # Errors
///
/// `invalid-utf8` or `invalid-utf16` with the byte.
pub(crate) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Reject> {
    let wide = |pair: fn([u8; 2]) -> u16| {
        let units = bytes[2..].as_chunks::<2>().0.iter().map(|unit| pair(*unit));
        let mut out = String::with_capacity(bytes.len());
        let mut at = 2;
        for letter in char::decode_utf16(units) {
            let letter = letter.map_err(|_| Reject::new("invalid-utf16", at, "a surrogate stands alone"))?;
            at += 2 * letter.len_utf16();
            out.push(letter);
        }
        if bytes.len() % 2 == 1 {
            return Err(Reject::new("invalid-utf16", bytes.len() - 1, "the file ends within a character"));
        }
        Ok(Cow::Owned(out))
    };
    match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => {
            let (start, rest) = match bytes.strip_prefix(b"\xef\xbb\xbf") {
                Some(rest) => (3, rest),
                None => (0, bytes),
            };
            let text = std::str::from_utf8(rest);
            text.map(Cow::Borrowed).map_err(|error| Reject::new("invalid-utf8", start + error.valid_up_to(), "the text is not UTF-8"))
        }
    }
}

/// Passes over a UTF-8 byte order mark at the start of a stream, whatever pieces the stream comes in; gives its length if it is there.
pub(crate) fn skip_mark(input: &mut dyn BufRead) -> io::Result<u64> {
    let mut length = 0;
    for (number, byte) in b"\xef\xbb\xbf".iter().enumerate() {
        let available = input.fill_buf()?;
        // A stream that shows less than the mark can only be looked at byte by byte.
        let whole = number > 0 || available.len() < 3 || available.starts_with(b"\xef\xbb\xbf");
        if !whole || available.first() != Some(byte) {
            break;
        }
        input.consume(1);
        length += 1;
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(bytes: &[u8], settings: &Settings) -> Vec<Result<Document, (&'static str, u64)>> {
        let mut out = Vec::new();
        let flow = parse(bytes, settings, &mut Document::default(), &mut |found| {
            out.push(found.cloned().map_err(|reject| (reject.reason, reject.byte)));
            ControlFlow::Continue(())
        });
        assert!(flow.is_continue());
        out
    }

    fn texts(bytes: &[u8], settings: &Settings) -> Vec<Result<String, (&'static str, u64)>> {
        run(bytes, settings).into_iter().map(|found| found.map(|document| document.text)).collect()
    }

    fn ok(text: &str) -> Result<String, (&'static str, u64)> {
        Ok(text.to_owned())
    }

    #[test]
    fn encodings_and_lines() {
        let cases: &[(&[u8], Result<String, (&'static str, u64)>)] = &[
            (b"\xef\xbb\xbf\r\n\r\n  a \r\nb\t\r\n\r\n\r\n\r\nc\r\n", ok("  a\nb\n\nc")),
            (b"a\rb\x0cc", ok("a\nb\nc")),
            (b"a\xff", Err(("invalid-utf8", 1))),
            (b"\xef\xbb\xbfa\xc3", Err(("invalid-utf8", 4))),
            (b"\xff\xfea\0\xe9\0", ok("aé")),
            (b"\xfe\xff\0a\0b", ok("ab")),
            (b"\xff\xfe\0\xd8", Err(("invalid-utf16", 2))),
            (b"\xff\xfea", Err(("invalid-utf16", 2))),
            (b" \n\r\n", Err(("no-text", 0))),
        ];
        for (bytes, expected) in cases {
            assert_eq!(&texts(bytes, &Settings::default()), std::slice::from_ref(expected), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn units() {
        let settings = Settings { unit: Unit::FormFeed, ..Default::default() };
        assert_eq!(texts(b"a\n\x0c \x0cb", &settings), [ok("a"), ok("b")]);
        let settings = Settings { unit: Unit::Delimiter, delimiter: "=====".into(), ..Default::default() };
        assert_eq!(texts(b"a\nb\n ===== \r\nc ===== d\n=====", &settings), [ok("a\nb"), ok("c ===== d")]);
    }

    #[test]
    fn textbook_cleaning() {
        assert_eq!(drop_blank("a\n\n \nb"), "a\nb");
        // A line of four tokens is joined, one of five is not; short lines chain.
        assert_eq!(join_short("one two three four\nnext line of five tokens\nend", 5), "one two three four next line of five tokens\nend");
        assert_eq!(join_short("one two three four five\nnext", 5), "one two three four five\nnext");
        assert_eq!(join_short("a\nb\nc d e f g\nh", 5), "a b c d e f g\nh");
        assert_eq!(join_short("a\n\nb c", 5), "a\n\nb c");
        assert_eq!(unwrap_lines("a hyphen-\nated word\nand more\n\nnext 7-\n8"), "a hyphenated word and more\n\nnext 7- 8");
        let settings = Settings { drop_blank: true, join_short: 5, punctuation: Punctuation::Literal, ..Default::default() };
        assert_eq!(texts(b"Title\n\nThe pH is 7.35 (arterial).\n", &settings), [ok("Title The pH is 735 arterial")]);
    }

    #[test]
    fn punctuation() {
        let cases = [
            ("pH 7.35", "pH 735", "pH 7.35"),
            ("1,000 mg/dL (50%); -3 mEq/L, well-known.", "1000 mgdL 50 3 mEqL wellknown", "1,000 mg/dL 50% -3 mEq/L well known"),
            ("IL-6, COVID-19: p<0.05 \u{2014} yes!", "IL6 COVID19 p005 yes", "IL-6 COVID-19 p<0.05 yes"),
        ];
        for (text, literal, safe) in cases {
            assert_eq!(remove_punctuation(text, Punctuation::Literal), literal);
            assert_eq!(remove_punctuation(text, Punctuation::ClinicalSafe), safe);
            assert_eq!(remove_punctuation(text, Punctuation::Keep), text);
        }
    }

    #[test]
    fn markdown() {
        let source = "<!-- HEADER -->\n# **Title** of *it*\n\nSome [text](https://x.org/a_(b) \"t\") with `code`, snake_case, 5 * 3 and Patient\\*innen  \nnext.\n\
            ![Figure 1](a.png)\n\n- [Contents](#a)\n\n## Part &amp; &sup1;\n\n| a | b |\n|---|:-:|\n| 1 | x\\|y |\n\n1. first\n2. second\n   more\n* third\n\n\
            ### Deep ###\n> quoted <br> <b>bold</b>\n\n```r\nx <- 1\n\ny  <- 2\n```\n\nUnder\n-----\nlast\n\n[1]: https://x.org\n";
        let document = run(source.as_bytes(), &Settings { markdown: true, ..Default::default() }).remove(0).unwrap();
        assert_eq!(document.title.as_deref(), Some("Title of it"));
        assert_eq!(
            document.text,
            "Some text with code, snake_case, 5 * 3 and Patient*innen\nnext. Figure 1\n\nPart & ¹\n\na | b\n1 | x|y\n\n1. first\n2. second more\n- third\n\n\
             Deep\n\nquoted\nbold\n\nx <- 1\ny  <- 2\n\nUnder\n\nlast"
        );
        let sections: Vec<_> = document.sections.iter().map(|section| (section.title.as_str(), section.level)).collect();
        assert_eq!(sections, [("Part & ¹", 2), ("Deep", 3), ("Under", 2)]);
        let part = &document.sections[0];
        assert!(document.text[part.start..part.end].ends_with("y  <- 2"));
    }

    #[test]
    fn a_table_of_contents_goes_and_a_list_with_links_stays() {
        for (source, expected) in [
            ("a\n\n- [One](#one)\n  - [Two](#two)\n\nb", "a\n\nb"),
            ("a\n\n- [One](#one)\n- Two\n\nb", "a\n\n- One\n- Two\n\nb"),
            ("- Two\n- [One](#one)", "- Two\n- One"),
            ("- [One](#one): more (b)\n- [Two](#two)", "- One: more (b)\n- Two"),
            ("- [One](#one)\n  goes on", "- One goes on"),
        ] {
            assert_eq!(texts(source.as_bytes(), &Settings { markdown: true, ..Default::default() }), [ok(expected)], "{source}");
        }
    }

    #[test]
    fn hostile_markdown_is_linear() {
        for unit in ["[", "![", "<", "<!--", "`", "*_", "[](", "> ", "|", "&", "\\", "- ", "#\n", "[a](", "<a "] {
            let text = unit.repeat((1 << 20) / unit.len());
            run(text.as_bytes(), &Settings { markdown: true, ..Default::default() });
        }
    }

    #[test]
    fn shared_folders() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
        for (name, end, markdown, count) in
            [("french_mtsamples", ".txt", false, 90), ("german_rki", "n.md", true, 20), ("german_rki", "e.md", true, 0)]
        {
            let Ok(files) = std::fs::read_dir(format!("{folder}/{name}")) else { return eprintln!("SKIPPED: {folder}/{name} is absent") };
            let mut documents = 0;
            for path in files.map(|file| file.unwrap().path()).filter(|path| path.to_string_lossy().ends_with(end)) {
                if path.ends_with("SOURCE.md") {
                    continue;
                }
                let document = run(&std::fs::read(&path).unwrap(), &Settings { markdown, ..Default::default() }).remove(0).unwrap();
                assert!(!markdown || document.title.is_some() && !document.text.contains("](http") && !document.text.contains("<!--"));
                documents += 1;
            }
            assert!(documents >= count.min(1), "{name}: {documents}");
        }
    }

    proptest! {
        #[test]
        fn settings_never_panic_and_lines_are_clean(text in "[a-cé1 .,%/<>\\[\\]()*_`#|&;!\n\r\t\u{c}-]{0,80}", markdown: bool, unwrap_lines: bool, drop_blank: bool, join_short in 0usize..4) {
            let settings = Settings { markdown, unwrap_lines, drop_blank, join_short, ..Default::default() };
            for found in run(text.as_bytes(), &settings) {
                let Ok(document) = found else { continue };
                prop_assert!(!document.text.contains("\n\n\n"));
                prop_assert!(document.text.lines().all(|line| line.trim_end() == line));
                prop_assert!(document.sections.iter().all(|section| document.text.get(section.start..section.end).is_some()));
            }
        }

        #[test]
        fn keep_is_idempotent(text in "[ab \n\r\t]{0,40}") {
            let (mut once, mut twice) = (String::new(), String::new());
            append(&text, Whitespace::Keep, &mut once);
            append(&once, Whitespace::Keep, &mut twice);
            prop_assert_eq!(once, twice);
        }
    }
}
