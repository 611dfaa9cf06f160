//! Writes generated texts with planted repeats, of any size, and a table of what was planted: `tests/scale/run` holds a run against it.
//!
//! `scale_texts near NUM_DOCUMENTS FOLDER`, `scale_texts exact NUM_BYTES FOLDER`. The same arguments give the same bytes.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::{Path, PathBuf};

/// Files that documents are dealt to.
const NUM_FILES: usize = 64;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, size, folder] = arguments.as_slice() else { return Err(usage()) };
    let size = size.parse().map_err(|_| usage())?;
    let words = words();
    match kind.as_str() {
        "near" => near(size, Output::new(folder)?, &words),
        "exact" => exact(size, Output::new(folder)?, &words),
        _ => Err(usage()),
    }
}

fn usage() -> std::io::Error {
    std::io::Error::other("usage: scale_texts near NUM_DOCUMENTS FOLDER | scale_texts exact NUM_BYTES FOLDER")
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// Made-up words, so many that five in a row never come twice by chance.
fn words() -> Vec<String> {
    let mut random = Random(1);
    let syllables: Vec<String> = "bcdfghklmnprstvz".chars().flat_map(|c| "aeiou".chars().map(move |v| format!("{c}{v}"))).collect();
    let mut words = std::collections::BTreeSet::new();
    while words.len() < 1 << 16 {
        let count = 2 + random.below(3);
        words.insert((0..count).map(|_| syllables[random.below(syllables.len())].as_str()).collect::<String>());
    }
    words.into_iter().collect()
}

fn text<'a>(random: &mut Random, num_words: usize, words: &'a [String]) -> Vec<&'a str> {
    (0..num_words).map(|_| words[random.below(words.len())].as_str()).collect()
}

/// JSON Lines in several files, and the table of what was planted.
struct Output {
    files: Vec<BufWriter<File>>,
    planted: BufWriter<File>,
    num_documents: usize,
    line: String,
}

impl Output {
    fn new(folder: &str) -> Result<Self> {
        let folder = Path::new(folder);
        std::fs::create_dir_all(folder.join("texts"))?;
        let create = |path: PathBuf| File::create(path).map(|file| BufWriter::with_capacity(1 << 16, file));
        let files = (0..NUM_FILES).map(|index| create(folder.join(format!("texts/{index:02}.jsonl")))).collect::<Result<_>>()?;
        Ok(Self { files, planted: create(folder.join("planted.csv"))?, num_documents: 0, line: String::new() })
    }

    /// Writes a document, whose text needs no escapes, and gives its number.
    fn document(&mut self, text: &str) -> Result<usize> {
        let number = self.num_documents;
        self.line.clear();
        let _ = writeln!(self.line, "{{\"id\":\"{number}\",\"text\":\"{text}\"}}");
        // Scattered, so that what was planted together is read far apart.
        let file = (number.wrapping_mul(0x9E37_79B9) >> 7) % NUM_FILES;
        self.files[file].write_all(self.line.as_bytes())?;
        self.num_documents += 1;
        Ok(number)
    }

    fn finish(mut self) -> Result<()> {
        self.files.iter_mut().chain([&mut self.planted]).try_for_each(Write::flush)
    }
}

/// Distinct shingles of a document of which a pair is planted.
const NUM_SHINGLES: usize = 100;

/// Words at the end that the two documents of a pair do not share: of 100 shingles each, 100 - k are shared.
const CHANGED: [usize; 8] = [1, 3, 5, 6, 7, 8, 9, 12];

/// Pairs at known Jaccard similarity, exact copies, one cluster around a hub, and one boilerplate that many strangers begin with.
/// `planted.csv`: kind, group, document, changed words.
fn near(num_documents: usize, mut output: Output, words: &[String]) -> Result<()> {
    let mut random = Random(2);
    writeln!(output.planted, "kind,group,document,changed")?;
    let num_pairs = num_documents / 1000;
    let hub = text(&mut random, NUM_SHINGLES + 4, words);
    let boilerplate = text(&mut random, 86, words);
    let mut group = 0;
    for turn in 0..num_pairs {
        for changed in CHANGED {
            let base = text(&mut random, NUM_SHINGLES + 4, words);
            let copy = with_end(&base, changed, &mut random, words);
            plant(&mut output, "pair", group, changed, &[base, copy])?;
            group += 1;
        }
        let count = 60 + random.below(40);
        let copy = text(&mut random, count, words);
        plant(&mut output, "copy", group, 0, &[copy.clone(), copy])?;
        group += 1;
        // A two-hundredth of all documents is around the hub, a hundredth begins with the boilerplate.
        for _ in 0..5 {
            let member = with_end(&hub, 2, &mut random, words);
            plant(&mut output, "hub", usize::MAX >> 1, 2, &[member])?;
        }
        for _ in 0..10 {
            let stranger = [boilerplate.clone(), text(&mut random, NUM_SHINGLES + 4 - boilerplate.len(), words)].concat();
            plant(&mut output, "boilerplate", group, 0, &[stranger])?;
            group += 1;
        }
        while output.num_documents < (turn + 1) * num_documents / num_pairs {
            let count = 40 + random.below(80);
            let text = text(&mut random, count, words).join(" ");
            output.document(&text)?;
        }
    }
    output.finish()
}

fn with_end<'a>(base: &[&'a str], changed: usize, random: &mut Random, words: &'a [String]) -> Vec<&'a str> {
    let mut copy = base[..base.len() - changed].to_vec();
    copy.extend(text(random, changed, words));
    // By chance the first changed word can be the one it replaces, which would leave the two more alike than is noted.
    while copy[base.len() - changed] == base[base.len() - changed] {
        copy[base.len() - changed] = &words[random.below(words.len())];
    }
    copy
}

fn plant(output: &mut Output, kind: &str, group: usize, changed: usize, texts: &[Vec<&str>]) -> Result<()> {
    for text in texts {
        let number = output.document(&text.join(" "))?;
        writeln!(output.planted, "{kind},{group},{number},{changed}")?;
    }
    Ok(())
}

/// Lengths of the repeats planted twice each, around the thresholds of 100 and 400 bytes.
fn lengths() -> impl Iterator<Item = usize> {
    (90..=110).chain(390..=410).chain([150, 200, 300, 1_000, 5_000])
}

/// Bytes of the repeat that is larger than most documents.
const LARGE_BYTES: usize = 1 << 20;

/// Bytes of a document, on average.
const DOCUMENT_BYTES: usize = 18_285;

/// Documents with repeats of many lengths, two of each, a paragraph that ends every document, and a repeat of a megabyte.
/// `planted.csv`: repeat, document, first byte, length.
fn exact(num_bytes: usize, mut output: Output, words: &[String]) -> Result<()> {
    let mut random = Random(3);
    writeln!(output.planted, "repeat,document,start,length")?;
    let num_documents = (num_bytes / DOCUMENT_BYTES).max(1000);
    let licence = text(&mut random, 110, words).join(" ");
    let lengths: Vec<usize> = lengths().collect();
    let fragment = |repeat: usize, length: usize| {
        let mut text = text(&mut Random(repeat as u64 ^ 0xFEED), length / 4 + 1, words).join(" ");
        text.truncate(length);
        text
    };
    // Repeat r is planted in document 7 r and in one half the corpus further on.
    let num_repeats = num_documents / 20;
    for number in 0..num_documents {
        let mut text = text(&mut random, 2_250, words).join(" ");
        let half = num_documents / 2;
        let (place, open, close) = if number < half { (number, '(', ')') } else { (number - half, '[', ']') };
        if place % 7 == 0 && place / 7 < num_repeats {
            let repeat = place / 7;
            let length = lengths[repeat % lengths.len()];
            insert(&mut output, &mut text, repeat, &fragment(repeat, length), (open, close))?;
        }
        if place == 3 {
            insert(&mut output, &mut text, num_repeats, &fragment(num_repeats, LARGE_BYTES), (open, close))?;
        }
        let _ = write!(text, " {number:016x} {licence}");
        writeln!(output.planted, "licence,{number},{},{}", text.len() - licence.len(), licence.len())?;
        output.document(&text)?;
    }
    output.finish()
}

/// Puts a fragment in the middle of a text, between brackets of which the other occurrence has others: nothing around it is equal.
fn insert(output: &mut Output, text: &mut String, repeat: usize, fragment: &str, (open, close): (char, char)) -> Result<()> {
    let middle = text.len() / 2;
    writeln!(output.planted, "{repeat},{},{},{}", output.num_documents, middle + 1, fragment.len())?;
    text.insert_str(middle, &format!("{open}{fragment}{close}"));
    Ok(())
}
