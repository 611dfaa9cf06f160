//! Shingles: a text as a set of hashed n-grams of words or characters.
//!
//! A word is a run of letters, digits and combining marks, as Unicode has them; scripts that put no spaces between words (Han, Hiragana,
//! Thai and others) give one word per letter. Words are lower-cased and composed (NFC), soft hyphens and joiners inside them are dropped,
//! and white space only separates. With `punctuation = "ignore"`, the default, punctuation separates too and is otherwise not seen, since
//! it is where converters differ most (quotes, dashes, hyphenation, list marks); with `"keep"` each mark is a word of its own.
//!
//! Numbers are never folded. A full stop, comma or other decimal mark between digits belongs to the number (`7.35` is neither `735` nor
//! `7` and `35`), and so does one that leads it (`.5`), and a minus sign that follows no letter or digit (`-2.5`).
//!
//! A text with fewer units than n has one shingle, its whole normalised text. A text without any unit has none, and is like no other.

use super::{fold, mix};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// What a shingle is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    Word,
    /// Characters of the normalised text: its words with one space between each two.
    Character,
}

/// What is folded before shingles are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Normalisation {
    pub lower_case: bool,
    pub punctuation: Punctuation,
}

impl Default for Normalisation {
    fn default() -> Self {
        Self { lower_case: true, punctuation: Punctuation::Ignore }
    }
}

/// Whether punctuation takes part in shingles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Punctuation {
    /// Punctuation separates words and is otherwise not seen.
    Ignore,
    /// Each mark is a word.
    Keep,
}

/// Makes shingles of texts, with buffers that are used again.
#[derive(Debug, Clone)]
pub struct Shingler {
    unit: Unit,
    n: usize,
    normalisation: Normalisation,
    units: Vec<u64>,
    word: String,
    text: String,
    /// Base to the power n, modulo [`PRIME`].
    leading: u64,
}

impl Shingler {
    /// A shingler of `n`-grams; `n` of 0 is taken as 1.
    pub fn new(unit: Unit, n: usize, normalisation: Normalisation) -> Self {
        let n = n.max(1);
        let leading = (0..n).fold(1, |power, _| multiply(power, BASE));
        Self { unit, n, normalisation, units: Vec::new(), word: String::new(), text: String::new(), leading }
    }

    /// The shingler of a stage's settings.
    pub fn of(config: &super::NearDuplicatesConfig) -> Self {
        Self::new(config.unit, config.n, config.normalisation)
    }

    /// Writes the hashes of `text`'s shingles to `out`, in order and with repeats; what `out` held is dropped.
    pub fn shingles(&mut self, text: &str, out: &mut Vec<u64>) {
        out.clear();
        self.units.clear();
        match self.unit {
            Unit::Word => scan(text, self.normalisation, &mut self.word, &mut Hashes { units: &mut self.units }),
            Unit::Character => {
                self.text.clear();
                scan(text, self.normalisation, &mut self.word, &mut Normalised { text: &mut self.text });
                self.units.extend(self.text.chars().map(|c| reduce(mix(u64::from(u32::from(c)) + 1))));
            }
        }
        roll(&self.units, self.n, self.leading, out);
    }

    /// Writes the set of `text`'s shingles to `out`, sorted and without repeats; what `out` held is dropped.
    pub fn set(&mut self, text: &str, out: &mut Vec<u64>) {
        self.shingles(text, out);
        out.sort_unstable();
        out.dedup();
    }

    /// Bytes of memory the buffers hold.
    pub fn memory_bytes(&self) -> usize {
        self.units.capacity() * size_of::<u64>() + self.word.capacity() + self.text.capacity()
    }
}

/// The text as shingles see it: its normalised words with one space between each two.
pub fn normalise(text: &str, normalisation: Normalisation) -> String {
    let mut out = String::with_capacity(text.len());
    scan(text, normalisation, &mut String::new(), &mut Normalised { text: &mut out });
    out
}

/// The prime 2⁶¹ − 1.
const PRIME: u64 = (1 << 61) - 1;

/// Base of the rolling polynomial (Karp and Rabin 1987), an arbitrary number below [`PRIME`].
const BASE: u64 = mix(0x6f73_6c65_7273_6e67) >> 4;

/// `x` modulo [`PRIME`], for `x` below 2⁶⁴.
#[inline(always)]
const fn reduce(x: u64) -> u64 {
    let sum = (x & PRIME) + (x >> 61);
    if sum >= PRIME { sum - PRIME } else { sum }
}

/// `a × b` modulo [`PRIME`], for `a` and `b` below it.
#[inline(always)]
const fn multiply(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    let sum = (product as u64 & PRIME) + (product >> 61) as u64;
    if sum >= PRIME { sum - PRIME } else { sum }
}

/// Hashes every run of `n` units as a polynomial in [`BASE`], from one run to the next; fewer than `n` units are one run.
fn roll(units: &[u64], n: usize, leading: u64, out: &mut Vec<u64>) {
    if units.is_empty() {
        return;
    }
    let (first, rest) = units.split_at(n.min(units.len()));
    let mut hash = first.iter().fold(0, |hash, unit| reduce(multiply(hash, BASE) + unit));
    // The number of units takes part, so that a short text is no prefix of a longer one.
    let length = mix(first.len() as u64);
    out.reserve(rest.len() + 1);
    out.push(mix(hash ^ length));
    out.extend(rest.iter().zip(units).map(|(entering, leaving)| {
        // Only the product with `hash` waits for the last shingle, so `hash` is left a few bits above 2⁶¹ on that path.
        let change = entering + (PRIME - multiply(*leaving, leading));
        let product = u128::from(hash) * u128::from(BASE);
        let sum = (product as u64 & PRIME) + (product >> 61) as u64 + change;
        hash = (sum & PRIME) + (sum >> 61);
        mix(reduce(hash) ^ length)
    }));
}

/// Takes the words of a text, in order.
trait Words {
    /// A word of ASCII letters and digits (and decimal marks between digits), `text[start..end]`, with upper case to be folded or not.
    fn ascii(&mut self, text: &[u8], start: usize, end: usize, lower_case: bool, prefix: Prefix);

    /// A normalised word of any kind.
    fn other(&mut self, word: &str, prefix: Prefix);
}

/// What leads a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    minus: bool,
    point: bool,
}

const NO_PREFIX: Prefix = Prefix { minus: false, point: false };

struct Hashes<'a> {
    units: &'a mut Vec<u64>,
}

impl Words for Hashes<'_> {
    #[inline(always)]
    fn ascii(&mut self, text: &[u8], start: usize, end: usize, lower_case: bool, prefix: Prefix) {
        self.units.push(hash_word(text, start, end, lower_case, prefix));
    }

    fn other(&mut self, word: &str, prefix: Prefix) {
        self.units.push(hash_word(word.as_bytes(), 0, word.len(), false, prefix));
    }
}

struct Normalised<'a> {
    text: &'a mut String,
}

impl Normalised<'_> {
    fn separate(&mut self, prefix: Prefix) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        if prefix.minus {
            self.text.push('-');
        }
        if prefix.point {
            self.text.push('.');
        }
    }
}

impl Words for Normalised<'_> {
    fn ascii(&mut self, text: &[u8], start: usize, end: usize, lower_case: bool, prefix: Prefix) {
        self.separate(prefix);
        self.text.extend(text[start..end].iter().map(|byte| char::from(if lower_case { byte.to_ascii_lowercase() } else { *byte })));
    }

    fn other(&mut self, word: &str, prefix: Prefix) {
        self.separate(prefix);
        self.text.push_str(word);
    }
}

/// Hashes `text[start..end]` eight bytes at a time; below [`PRIME`]. What lies after the word may be loaded, and is masked out.
#[inline(always)]
fn hash_word(text: &[u8], start: usize, end: usize, lower_case: bool, prefix: Prefix) -> u64 {
    const SEED: u64 = mix(0x776f_7264);
    const FACTOR: u64 = mix(0x6861_7368) | 1;
    // ASCII letters differ from their lower case in the bit 0x20, and digits, '.' and ',' have it set already.
    let case: u64 = if lower_case { 0x2020_2020_2020_2020 } else { 0 };
    let mut hash = SEED ^ (end - start) as u64;
    if prefix != NO_PREFIX {
        hash ^= mix(1 + u64::from(prefix.minus) + 2 * u64::from(prefix.point));
    }
    let mut at = start;
    while at < end {
        let chunk = match text[at..].first_chunk::<8>() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => text[at..end].iter().rev().fold(0, |chunk, byte| chunk << 8 | u64::from(*byte)),
        };
        let mask = if end - at >= 8 { u64::MAX } else { (1 << (8 * (end - at))) - 1 };
        hash = fold(hash ^ ((chunk | case) & mask), FACTOR);
        at += 8;
    }
    reduce(hash)
}

/// Classes of bytes.
const SEPARATOR: u8 = 0;
const MARK: u8 = 1;
const ALPHANUMERIC: u8 = 2;
const BEYOND_ASCII: u8 = 3;

static CLASS: [u8; 256] = {
    let mut class = [SEPARATOR; 256];
    let mut byte = 0;
    while byte < 256 {
        class[byte] = match byte as u8 {
            b if b.is_ascii_alphanumeric() => ALPHANUMERIC,
            b if b.is_ascii_punctuation() => MARK,
            128.. => BEYOND_ASCII,
            _ => SEPARATOR,
        };
        byte += 1;
    }
    class
};

/// Gives the words of `text` to `words`.
#[inline(always)]
fn scan(text: &str, normalisation: Normalisation, buffer: &mut String, words: &mut impl Words) {
    let bytes = text.as_bytes();
    let keep = normalisation.punctuation == Punctuation::Keep;
    let mut at = 0;
    while at < bytes.len() {
        match CLASS[usize::from(bytes[at])] {
            SEPARATOR => at += 1,
            MARK => {
                if keep {
                    words.ascii(bytes, at, at + 1, false, NO_PREFIX);
                }
                at += 1;
            }
            ALPHANUMERIC => {
                let end = ascii_end(bytes, at);
                let prefix = if bytes[at].is_ascii_digit() && !keep { number_prefix(text, at) } else { NO_PREFIX };
                if bytes.get(end).is_some_and(|byte| !byte.is_ascii()) && text[end..].chars().next().is_some_and(goes_on) {
                    at = scan_beyond_ascii(text, at, prefix, normalisation, buffer, words);
                } else {
                    words.ascii(bytes, at, end, normalisation.lower_case, prefix);
                    at = end;
                }
            }
            _ => at = scan_beyond_ascii(text, at, NO_PREFIX, normalisation, buffer, words),
        }
    }
}

/// End of the ASCII word that begins at `start`.
#[inline(always)]
fn ascii_end(bytes: &[u8], start: usize) -> usize {
    let mut end = start;
    loop {
        // Most words are shorter than eight bytes: their end is found without a branch that depends on their length.
        while let Some(chunk) = bytes[end..].first_chunk::<8>() {
            let length = alphanumeric_length(u64::from_le_bytes(*chunk));
            end += length;
            if length < 8 {
                break;
            }
        }
        while end < bytes.len() && CLASS[usize::from(bytes[end])] == ALPHANUMERIC {
            end += 1;
        }
        let decimal = matches!(bytes.get(end), Some(b'.' | b','))
            && bytes[end - 1].is_ascii_digit()
            && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
        if !decimal {
            return end;
        }
        end += 1;
    }
}

/// How many of the eight bytes, from the lowest on, are ASCII letters or digits.
#[inline(always)]
fn alphanumeric_length(chunk: u64) -> usize {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    // Adding 128 − b to a byte below 128 sets its high bit if it is b or more, and carries into no other byte.
    const fn within(bytes: u64, first: u8, last: u8) -> u64 {
        (bytes + each(128 - first)) & !(bytes + each(127 - last))
    }
    let low = chunk & !HIGH;
    let word = (within(low | each(0x20), b'a', b'z') | within(low, b'0', b'9')) & !chunk & HIGH;
    ((word ^ HIGH).trailing_zeros() / 8) as usize
}

/// The decimal point and minus sign right before the digit at `start`, unless a letter or digit comes right before them.
fn number_prefix(text: &str, start: usize) -> Prefix {
    if text.as_bytes()[..start].last().is_none_or(|byte| byte.is_ascii() && !matches!(byte, b'.' | b'-')) {
        return NO_PREFIX;
    }
    let mut before = text[..start].chars().rev();
    let mut last = before.next();
    let point = matches!(last, Some('.' | '·'));
    if point {
        last = before.next();
    }
    // Typesetters write a minus sign, and some converters give an en dash for it.
    let minus = matches!(last, Some('-' | '\u{2212}' | '\u{2013}'));
    if minus {
        last = before.next();
    }
    if last.is_some_and(|c| c.is_alphanumeric() || is_combining_mark(c)) { NO_PREFIX } else { Prefix { minus, point } }
}

/// Whether a word goes on with `c`, a character beyond ASCII.
fn goes_on(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c) || is_dropped(c) || is_decimal_mark(c)
}

/// Characters that leave no trace: the soft hyphen, joiners, variation selectors, the byte order mark.
fn is_dropped(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// Marks that belong to a number when they stand between digits.
fn is_decimal_mark(c: char) -> bool {
    matches!(c, '.' | ',' | '·' | '\u{66b}' | '\u{66c}')
}

/// Letters of scripts written without spaces between words: each is a word.
fn stands_alone(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' // Thai, Lao
        | '\u{1000}'..='\u{109f}' // Myanmar
        | '\u{1780}'..='\u{17ff}' // Khmer
        | '\u{3005}'..='\u{3007}'
        | '\u{3040}'..='\u{30ff}' // Hiragana, Katakana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}') // Han
}

/// Gives the word or words of the run that begins at `start`, and the end of the run. A character that begins no word is passed over.
#[cold]
#[inline(never)]
fn scan_beyond_ascii(
    text: &str,
    start: usize,
    mut prefix: Prefix,
    normalisation: Normalisation,
    buffer: &mut String,
    words: &mut impl Words,
) -> usize {
    buffer.clear();
    let mut previous = ' ';
    let mut alone = false;
    let mut end = text.len();
    let mut chars = text[start..].char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        if c.is_alphanumeric() && !is_combining_mark(c) {
            if !buffer.is_empty() && (alone || stands_alone(c)) {
                emit(buffer, prefix, words);
                prefix = NO_PREFIX;
            }
            alone = stands_alone(c);
            push(c, normalisation.lower_case, buffer);
        } else if is_combining_mark(c) {
            // A mark without a letter to stand on is no word.
            if !buffer.is_empty() {
                buffer.push(c);
            }
        } else if is_decimal_mark(c) && previous.is_numeric() && chars.peek().is_some_and(|(_, next)| next.is_numeric()) {
            buffer.push(if c == '·' { '.' } else { c });
        } else if !is_dropped(c) {
            // The run's first character is passed over even if it begins no word, so that the scan goes on.
            let first = offset == 0;
            if first && normalisation.punctuation == Punctuation::Keep && !c.is_whitespace() && !c.is_control() {
                buffer.push(c);
            }
            end = start + offset + if first { c.len_utf8() } else { 0 };
            break;
        }
        if !is_dropped(c) {
            previous = c;
        }
    }
    if !buffer.is_empty() {
        emit(buffer, prefix, words);
    }
    end
}

fn push(c: char, lower_case: bool, buffer: &mut String) {
    if lower_case {
        // The final sigma is a form of the letter, not a letter.
        buffer.extend(c.to_lowercase().map(|c| if c == 'ς' { 'σ' } else { c }));
    } else {
        buffer.push(c);
    }
}

/// Gives the word in `buffer`, composed, and empties it.
fn emit(buffer: &mut String, prefix: Prefix, words: &mut impl Words) {
    // Below U+0300 every text is composed already.
    if buffer.chars().any(|c| c >= '\u{300}') {
        let composed: String = buffer.nfc().collect();
        *buffer = composed;
    }
    words.other(buffer, prefix);
    buffer.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn shown(text: &str) -> String {
        normalise(text, Normalisation::default())
    }

    fn set(text: &str, n: usize) -> Vec<u64> {
        let mut out = Vec::new();
        Shingler::new(Unit::Word, n, Normalisation::default()).set(text, &mut out);
        out
    }

    #[test]
    fn words_are_what_unicode_says() {
        for (text, wanted) in [
            ("", ""),
            (" \t\r\n", ""),
            ("...", ""),
            ("One  two\nTHREE.", "one two three"),
            ("pH 7.35, not 7,35 or 735; (12/80) end.", "ph 7.35 not 7,35 or 735 12 80 end"),
            ("1,000.50 mg. 5.", "1,000.50 mg 5"),
            ("T -2.5 \u{2212}2.5 COVID-19 5-10 .5 -.5 end.5 (-3)", "t -2.5 -2.5 covid 19 5 10 .5 -.5 end 5 -3"),
            ("7·35 µg", "7.35 µg"),
            ("École E\u{301}cole ECOLE", "école école ecole"),
            ("anti\u{ad}body a\u{200d}b \u{feff}x", "antibody ab x"),
            ("ΟΔΟΣ οδος", "οδοσ οδοσ"),
            ("patient’s “quoted” — dash…", "patient s quoted dash"),
            ("血圧は高い ok", "血 圧 は 高 い ok"),
            ("ab血c", "ab 血 c"),
            ("\u{301}x \u{301}", "x"),
            ("٧٫٣٥ 10²", "٧٫٣٥ 10²"),
            ("हिन्दी भाषा", "हिन्दी भाषा"),
            ("x\u{a0}y\u{200b}z", "x y z"),
            ("😀 smile😀", "smile"),
        ] {
            assert_eq!(shown(text), wanted, "{text:?}");
        }
        let keep = Normalisation { lower_case: false, punctuation: Punctuation::Keep };
        assert_eq!(normalise("Well-known, “pH” 7.3.", keep), "Well - known , “ pH ” 7.3 .");
    }

    #[test]
    fn numbers_are_never_folded() {
        let note = |value: &str| set(&format!("the potassium was {value} on the second day"), 3);
        let values = ["3.5", "3.6", "35", "3 5", "-3.5", ".35", "3,5", "5.3", "0", "3"];
        for (index, a) in values.iter().enumerate() {
            for b in &values[index + 1..] {
                assert_ne!(note(a), note(b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn short_texts_compare_whole() {
        assert_eq!(set("", 5), Vec::<u64>::new());
        assert_eq!(set("- . -", 5), Vec::<u64>::new());
        assert_eq!(set("one", 5).len(), 1);
        assert_eq!(set("One two", 5), set("one, TWO", 5));
        assert_ne!(set("one two", 5), set("two one", 5));
        assert_ne!(set("one", 5), set("one two", 5));
        assert_eq!(set("one two three four five", 5).len(), 1);
        assert_eq!(set("a b a b a b", 2).len(), 2);
    }

    #[test]
    fn a_long_word_is_hashed_whole() {
        let word = "a".repeat(100_000);
        assert_ne!(set(&word, 1), set(&word[1..], 1));
        let mut other = word.clone();
        other.replace_range(50_000..50_001, "b");
        assert_ne!(set(&word, 1), set(&other, 1));
        for length in 1..40 {
            let (lower, upper) = ("x".repeat(length), "X".repeat(length));
            assert_eq!(set(&lower, 1), set(&upper, 1));
            // The same word at the end of the text, before other text, and by way of the buffer.
            assert_eq!(set(&format!("{lower} {lower}"), 1), set(&format!("{lower}\u{ad}"), 1), "{length}");
        }
    }

    #[test]
    fn eight_bytes_are_classed_at_once() {
        for byte in 0..=255_u8 {
            for place in 0..8 {
                for around in [b'a', b'Z', b'0'] {
                    let mut chunk = [around; 8];
                    chunk[place] = byte;
                    let wanted = if byte.is_ascii_alphanumeric() { 8 } else { place };
                    assert_eq!(alphanumeric_length(u64::from_le_bytes(chunk)), wanted, "{byte} at {place}");
                }
            }
        }
        assert_eq!(alphanumeric_length(u64::from_le_bytes([0xff; 8])), 0);
    }

    /// n-grams of the normalised text's words, as strings.
    fn naive(text: &str, n: usize, normalisation: Normalisation) -> Vec<String> {
        let normalised = normalise(text, normalisation);
        let words: Vec<&str> = normalised.split(' ').filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Vec::new();
        }
        if words.len() < n { vec![words.join(" ")] } else { words.windows(n).map(|words| words.join(" ")).collect() }
    }

    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => "[a-dA-D]{1,3}",
            2 => "[0-9]{1,2}[.,][0-9]",
            1 => "[ -~]{0,4}",
            1 => "\\PC{0,4}",
            1 => prop::collection::vec(any::<char>(), 0..4).prop_map(String::from_iter),
            1 => prop::sample::select(["é", "e\u{301}", "血圧", "-", "\u{2212}", "·", "\u{ad}", "ß", "İ", "…"].to_vec()).prop_map(String::from),
        ];
        let separator = prop::sample::select(vec![" ", "", "  ", "\n", ", "]);
        prop::collection::vec((piece, separator), 0..40).prop_map(|parts| parts.into_iter().flat_map(|(a, b)| [a, b.to_string()]).collect())
    }

    proptest! {
        #[test]
        fn hashes_agree_with_strings(a in text(), b in text(), n in 1_usize..6, keep: bool, lower_case: bool) {
            let normalisation = Normalisation { lower_case, punctuation: if keep { Punctuation::Keep } else { Punctuation::Ignore } };
            let mut shingler = Shingler::new(Unit::Word, n, normalisation);
            let mut hashes = [Vec::new(), Vec::new()];
            let mut strings = [BTreeSet::new(), BTreeSet::new()];
            for (index, text) in [&a, &b].into_iter().enumerate() {
                let naive = naive(text, n, normalisation);
                shingler.shingles(text, &mut hashes[index]);
                prop_assert_eq!(hashes[index].len(), naive.len());
                strings[index] = naive.into_iter().collect();
                shingler.set(text, &mut hashes[index]);
                prop_assert_eq!(hashes[index].len(), strings[index].len());
            }
            let common = strings[0].intersection(&strings[1]).count();
            prop_assert_eq!(hashes[0].iter().filter(|hash| hashes[1].binary_search(hash).is_ok()).count(), common);
        }

        #[test]
        fn normalising_twice_changes_nothing(a in text()) {
            let once = shown(&a);
            prop_assert_eq!(shown(&once), once);
        }

        #[test]
        fn characters_agree_with_windows(a in text(), n in 1_usize..9) {
            let normalised: Vec<char> = shown(&a).chars().collect();
            let mut out = Vec::new();
            Shingler::new(Unit::Character, n, Normalisation::default()).set(&a, &mut out);
            let windows: BTreeSet<&[char]> = if normalised.len() < n { [&normalised[..]].into() } else { normalised.windows(n).collect() };
            prop_assert_eq!(out.len(), if normalised.is_empty() { 0 } else { windows.len() });
        }
    }
}
