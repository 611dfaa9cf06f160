//! Measures what near-duplicate detection finds against the exact Jaccard similarity of all pairs, on real and on planted data, and ends
//! with an error when a bar is missed. `make quality` runs it; `docs/benchmarks.md` has its tables.
//!
//! The truth does not come from the code under test: shingles are strings, cut from the normalised text, and every pair that has one in
//! common is compared by lists of the documents that hold each shingle.

#[path = "near_texts/texts.rs"]
mod texts;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::UInt64Type;
use osler_corpus::near_duplicates::NearDuplicatesConfig;
use osler_corpus::near_duplicates::banding::{Bandings, candidate_probability};
use osler_corpus::near_duplicates::candidates::Candidates;
use osler_corpus::near_duplicates::shingle::{Shingler, normalise};
use osler_corpus::near_duplicates::signature::{Family, estimate};
use osler_corpus::near_duplicates::sketch::Sketcher;
use osler_corpus::near_duplicates::verify::jaccard;
use osler_corpus::operator::Operator;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Similarity from which two documents are near-duplicates, and that from which the bar for recall holds.
const THRESHOLD: f64 = 0.85;
const RECALL_FROM: f64 = 0.86;
const RECALL_BAR: f64 = 0.995;
const BIAS_BAR: f64 = 0.001;
/// Standard errors by which a spread may miss its theory.
const DEVIATIONS: f64 = 4.0;
/// How unlikely a bin may be, if the curve is right. A thousand bins are looked at.
const CHANCE_BAR: f64 = 1e-5;
/// Similarity from which pairs are looked at, and the bins they fall into.
const FLOOR: f64 = 0.5;
const BINS: usize = 51;

const FAMILIES: [Family; 2] = [Family::FastSimilaritySketch, Family::Minhash];

fn main() -> Result<(), Box<dyn Error>> {
    let data = std::env::args().nth(1).ok_or("name the folder of real documents")?;
    let samples = samples(Path::new(&data))?;
    let mut missed = Vec::new();
    let mut pooled = [Deviations::default(); FAMILIES.len()];
    for sample in &samples {
        println!("## {}: {} documents, {} pairs from {FLOOR} on\n", sample.name, sample.texts.len(), sample.truth.len());
        println!("{ESTIMATOR_HEAD}");
        for (family, all) in FAMILIES.into_iter().zip(&mut pooled) {
            let deviations = deviations(sample, family)?;
            missed.extend(deviations.judge(family).map(|problem| format!("{}, {problem}", sample.name)));
            all.extend(&deviations);
        }
        println!();
        let mut curves = Vec::new();
        println!(
            "| family | banding | candidates | pairs ≥ 0.85 | precision | recall ≥ 0.85 | recall ≥ 0.86 | expected | chance of the oddest bin |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for family in FAMILIES {
            for (name, preset, short_shingles) in [
                ("m42", "m42", 2_000),
                ("m42, full signatures only", "m42", 0),
                ("m42-literal", "m42-literal", 0),
                ("m42-transposed", "m42-transposed", 0),
                ("lee2021", "lee2021", 0),
                ("auto", "auto", 0),
            ] {
                let bandings = Bandings::named(preset).ok_or("no such preset")?;
                let config = NearDuplicatesConfig { family, bandings, short_shingles, ..NearDuplicatesConfig::default() };
                let found = measure(sample, &config)?;
                println!("| {} | {name} | {} |", family_name(family), found.row());
                missed.extend(found.missed(preset).map(|bar| format!("{}, {}, {name}: {bar}", sample.name, family_name(family))));
                if name.starts_with("m42") && !name.contains('-') {
                    curves.push((format!("{}, {name}", family_name(family)), found.bins));
                }
            }
        }
        print_curves(&curves);
    }
    println!("## all pairs\n\n{ESTIMATOR_HEAD}");
    for (family, all) in FAMILIES.into_iter().zip(&pooled) {
        missed.extend(all.judge(family).map(|problem| format!("all pairs, {problem}")));
    }
    println!();
    match missed.as_slice() {
        [] => println!("every bar is reached"),
        missed => return Err(format!("{} bars are missed:\n{}", missed.len(), missed.join("\n")).into()),
    }
    Ok(())
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::FastSimilaritySketch => "fast-similarity-sketch",
        Family::Minhash => "minhash",
    }
}

/// Documents with the truth about them.
struct Sample {
    name: &'static str,
    /// Whether pairs are independent of each other, so that the binomial error of a bin is that of the curve.
    independent: bool,
    texts: Vec<String>,
    /// Pairs with a similarity of [`FLOOR`] or more.
    truth: Vec<(usize, usize, f64)>,
    /// Distinct shingles of each document.
    sizes: Vec<usize>,
}

impl Sample {
    fn new(name: &'static str, independent: bool, mut texts: Vec<String>) -> Self {
        // Exact copies collapse before sketching, so there are none here.
        let mut seen = HashSet::new();
        texts.retain(|text| !text.trim().is_empty() && seen.insert(xxh3_128(text.as_bytes())));
        let (truth, sizes) = all_pairs(&texts);
        Self { name, independent, texts, truth, sizes }
    }
}

fn samples(data: &Path) -> Result<Vec<Sample>, Box<dyn Error>> {
    let notes = texts::column(&data.join("mtsamples/mtsamples.csv"), "transcription")?;
    let mut articles = Vec::new();
    for folder in ["jats_variants", "jats_plos", "jats_epmc", "bmc_trials_xml", "jats_scielo"] {
        articles.extend(texts::articles(&data.join(folder))?);
    }
    let mut dialogues = texts::column(&data.join("mts_dialog/MTS-Dialog-TrainingSet.csv"), "dialogue")?;
    dialogues.extend(texts::column(&data.join("mts_dialog/MTS-Dialog-Augmented-TrainingSet-1-En-FR-EN-2402-Pairs.csv"), "dialogue")?);
    Ok(vec![
        Sample::new("planted pairs, short (about 300 shingles)", true, planted(&notes, 304, 60)),
        Sample::new("planted pairs, long (about 2,500 shingles)", true, planted(&articles, 2_504, 20)),
        Sample::new("clinical notes (mtsamples)", false, notes),
        Sample::new("articles and their versions (JATS)", false, articles),
        Sample::new("dialogues and their translations there and back", false, dialogues),
    ])
}

/// `per_bin` pairs for each bin: words of a real text, and the same with a run of words replaced (or, every other time, its end cut off)
/// so that the similarity comes out at the bin's place.
fn planted(originals: &[String], num_words: usize, per_bin: usize) -> Vec<String> {
    let words: Vec<&str> = originals.iter().flat_map(|text| text.split_whitespace()).collect();
    let mut out = Vec::new();
    for trial in 0..(BINS - 1) * per_bin {
        let random = |salt: u64| xxh3_64(&[trial as u64, salt].map(u64::to_le_bytes).concat());
        let wanted = FLOOR + (trial as f64 + 0.5) / ((BINS - 1) * per_bin) as f64 * (1.0 - FLOOR);
        let start = random(0) as usize % (words.len() - num_words);
        let mut original: Vec<String> = words[start..start + num_words].iter().map(|word| word.to_string()).collect();
        // The words of this pair are no other pair's: two windows of one text may overlap.
        original.iter_mut().step_by(3).for_each(|word| word.push_str(&format!("q{trial}")));
        let shingles = (num_words - 4) as f64;
        out.push(original.join(" "));
        if trial % 2 == 0 {
            out.push(original[..((shingles * wanted).round() as usize + 4).min(num_words - 1)].join(" "));
        } else {
            let lost = (shingles * (1.0 - wanted) / (1.0 + wanted)).round() as usize;
            let replaced = lost.saturating_sub(4).max(1);
            let at = random(1) as usize % (num_words - replaced + 1);
            original[at..at + replaced].iter_mut().enumerate().for_each(|(index, word)| *word = format!("new{trial}x{index}"));
            out.push(original.join(" "));
        }
    }
    out
}

/// Every pair with a similarity of [`FLOOR`] or more, and the number of distinct shingles of each text.
fn all_pairs(texts: &[String]) -> (Vec<(usize, usize, f64)>, Vec<usize>) {
    let config = NearDuplicatesConfig::default();
    let mut holders: HashMap<u128, Vec<u32>> = HashMap::new();
    let mut sizes = vec![0; texts.len()];
    for (document, text) in (0..).zip(texts) {
        let normalised = normalise(text, config.normalisation);
        let words: Vec<&str> = normalised.split(' ').filter(|word| !word.is_empty()).collect();
        for shingle in words.windows(config.n.min(words.len()).max(1)) {
            let list = holders.entry(xxh3_128(shingle.join(" ").as_bytes())).or_default();
            if list.last() != Some(&document) {
                list.push(document);
                sizes[document as usize] += 1;
            }
        }
    }
    let mut lists: Vec<Vec<(u32, u32)>> = vec![Vec::new(); texts.len()];
    let holders: Vec<Vec<u32>> = holders.into_values().filter(|list| list.len() > 1).collect();
    for (shingle, list) in (0..).zip(&holders) {
        list.iter().enumerate().for_each(|(place, document)| lists[*document as usize].push((shingle, place as u32)));
    }
    let mut pairs = Vec::new();
    let mut common = vec![0_usize; texts.len()];
    for (left, list) in lists.iter().enumerate() {
        let mut met = Vec::new();
        for (shingle, place) in list {
            for right in &holders[*shingle as usize][*place as usize + 1..] {
                let right = *right as usize;
                if common[right] == 0 {
                    met.push(right);
                }
                common[right] += 1;
            }
        }
        for right in met {
            let jaccard = common[right] as f64 / (sizes[left] + sizes[right] - common[right]) as f64;
            if jaccard >= FLOOR {
                pairs.push((left, right, jaccard));
            }
            common[right] = 0;
        }
    }
    (pairs, sizes)
}

/// Pairs of one bin: how many there are, how many the curve expects, how many became candidates.
#[derive(Clone, Default)]
struct Bin {
    num_pairs: usize,
    expected: f64,
    found: usize,
    /// Probability of each number of candidates among the pairs so far.
    distribution: Vec<f64>,
}

impl Bin {
    /// A pair that becomes a candidate with some probability.
    fn add(&mut self, probability: f64, found: bool) {
        self.num_pairs += 1;
        self.expected += probability;
        self.found += usize::from(found);
        let before = if self.distribution.is_empty() { vec![1.0] } else { std::mem::take(&mut self.distribution) };
        let of = |count: usize| before.get(count).copied().unwrap_or(0.0);
        let one_more = |count: usize| count.checked_sub(1).map_or(0.0, of) * probability;
        self.distribution = (0..=before.len()).map(|count| of(count) * (1.0 - probability) + one_more(count)).collect();
    }

    /// Probability of what was found or something more extreme on the same side, twice for the two sides.
    fn chance(&self) -> f64 {
        let (below, above) = self.distribution.split_at(self.found.min(self.distribution.len()));
        let here = above.first().copied().unwrap_or(1.0);
        let (below, above) = (below.iter().sum::<f64>() + here, above.iter().sum::<f64>());
        if self.num_pairs == 0 { 1.0 } else { (2.0 * below.min(above)).min(1.0) }
    }
}

struct Found {
    independent: bool,
    num_candidates: usize,
    num_true: usize,
    precision: f64,
    recall: f64,
    recall_above: f64,
    expected_above: f64,
    bins: Vec<Bin>,
}

impl Found {
    fn worst(&self) -> f64 {
        self.bins.iter().map(Bin::chance).fold(1.0, f64::min)
    }

    fn row(&self) -> String {
        format!(
            "{} | {} | {:.3} | {:.4} | {:.4} | {:.4} | {:.1e}",
            self.num_candidates,
            self.num_true,
            self.precision,
            self.recall,
            self.recall_above,
            self.expected_above,
            self.worst()
        )
    }

    fn missed(&self, preset: &str) -> impl Iterator<Item = String> {
        let mut bars = Vec::new();
        if self.precision != 1.0 {
            bars.push(format!("precision {:.4}", self.precision));
        }
        // What the literal reading finds is what its curve says: next to nothing.
        if preset != "m42-literal" && self.recall_above < RECALL_BAR {
            bars.push(format!("recall {:.4} from {RECALL_FROM} on", self.recall_above));
        }
        // Pairs of one cluster share documents, and with them their luck.
        if self.independent && self.worst() < CHANCE_BAR {
            bars.push(format!("a bin would come about with probability {:.1e} if the curve were right", self.worst()));
        }
        bars.into_iter()
    }
}

/// Runs the stage over the sample, as the engine does, and holds it against the truth.
fn measure(sample: &Sample, config: &NearDuplicatesConfig) -> Result<Found, Box<dyn Error>> {
    let mut sketcher = Sketcher::new(config)?;
    let mut rows: Vec<(u64, u64)> = Vec::new();
    let mut keys = Vec::new();
    for (ordinal, text) in (0..).zip(&sample.texts) {
        keys.clear();
        sketcher.band_keys(text, &mut keys);
        rows.extend(keys.iter().map(|key| (*key, ordinal)));
    }
    rows.sort_unstable();
    let candidates = candidates(&rows)?;
    let mut shingler = Shingler::of(config);
    let sets: Vec<Vec<u64>> = sample
        .texts
        .iter()
        .map(|text| {
            let mut set = Vec::new();
            shingler.set(text, &mut set);
            set
        })
        .collect();
    let decided: HashSet<(usize, usize)> =
        candidates.iter().copied().filter(|(left, right)| jaccard(&sets[*left], &sets[*right]) >= THRESHOLD).collect();
    let (bandings, short) = (config.resolve()?, config.short());
    let probability = |left: usize, right: usize, jaccard: f64| {
        let (smaller, larger) = (sample.sizes[left].min(sample.sizes[right]), sample.sizes[left].max(sample.sizes[right]));
        let (by_short, by_full) = match short {
            Some(short) => (larger <= short.max_shingles, smaller >= short.min_long),
            None => (false, true),
        };
        let missed = |used: bool, bandings: &[_]| if used { 1.0 - candidate_probability(bandings, jaccard) } else { 1.0 };
        1.0 - missed(by_full, &bandings) * missed(by_short, &short.map_or_else(Vec::new, |short| vec![short.banding]))
    };
    let (mut bins, mut above) = (vec![Bin::default(); BINS], Bin::default());
    let (mut num_true, mut num_decided) = (0, 0);
    for (left, right, jaccard) in &sample.truth {
        let (found, probability) = (candidates.contains(&(*left, *right)), probability(*left, *right, *jaccard));
        bins[((jaccard - FLOOR) * 100.0 + 1e-9) as usize].add(probability, found);
        if *jaccard >= RECALL_FROM {
            above.add(probability, found);
        }
        if *jaccard >= THRESHOLD {
            num_true += 1;
            num_decided += usize::from(decided.contains(&(*left, *right)));
        }
    }
    let ratio = |part: usize, whole: usize| if whole == 0 { 1.0 } else { part as f64 / whole as f64 };
    Ok(Found {
        independent: sample.independent,
        num_candidates: candidates.len(),
        num_true,
        precision: ratio(num_decided, decided.len()),
        recall: ratio(num_decided, num_true),
        recall_above: ratio(above.found, above.num_pairs),
        expected_above: if above.num_pairs == 0 { 1.0 } else { above.expected / above.num_pairs as f64 },
        bins,
    })
}

/// The candidate pairs of sorted band keys.
fn candidates(rows: &[(u64, u64)]) -> Result<HashSet<(usize, usize)>, Box<dyn Error>> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    let mut batches = Vec::new();
    let mut operator = Candidates::new();
    operator.push(RecordBatch::try_new(osler_schemas::sketch::band_schema(), columns)?, &mut batches)?;
    operator.finish(&mut batches)?;
    let column = |batch: &RecordBatch, at: usize| batch.column(at).as_primitive::<UInt64Type>().clone();
    let pairs = batches.iter().flat_map(|batch| {
        let (left, right) = (column(batch, 0), column(batch, 1));
        (0..batch.num_rows()).map(move |row| (left.value(row) as usize, right.value(row) as usize)).collect::<Vec<_>>()
    });
    Ok(pairs.collect())
}

/// How far estimates from 9,000 slots lie from the truth.
#[derive(Default, Clone, Copy)]
struct Deviations {
    num_pairs: usize,
    sum: f64,
    squares: f64,
    /// Of a mean of 9,000 independent slots, summed over the pairs.
    variance: f64,
}

impl Deviations {
    fn add(&mut self, estimate: f64, truth: f64) {
        let error = estimate - truth;
        self.num_pairs += 1;
        self.sum += error;
        self.squares += error * error;
        self.variance += truth * (1.0 - truth) / 9_000.0;
    }

    fn extend(&mut self, other: &Self) {
        self.num_pairs += other.num_pairs;
        self.sum += other.sum;
        self.squares += other.squares;
        self.variance += other.variance;
    }

    /// Prints a row of the table, and says what is wrong with it. A bias is held against the bar where there are pairs enough for an
    /// estimator without any to stay below it; a handful of pairs is not, and counts in the row of all pairs.
    fn judge(&self, family: Family) -> Option<String> {
        let n = self.num_pairs.max(1) as f64;
        let (bias, spread, theory) = (self.sum / n, (self.squares / n).sqrt(), (self.variance / n).sqrt());
        println!("| {} | {} | {bias:+.5} | {spread:.5} | {theory:.5} |", family_name(family), self.num_pairs);
        let is_judged = DEVIATIONS * theory / n.sqrt() < BIAS_BAR;
        let is_wrong = (is_judged && bias.abs() >= BIAS_BAR) || spread > theory * (1.0 + DEVIATIONS / (2.0 * n).sqrt());
        is_wrong.then(|| format!("{}: bias {bias:+.5}, spread {spread:.5}, theory {theory:.5}", family_name(family)))
    }
}

const ESTIMATOR_HEAD: &str = "| family | pairs | bias of the estimate | spread | theory |\n|---|---|---|---|---|";

/// The deviations over the sample's pairs.
fn deviations(sample: &Sample, family: Family) -> Result<Deviations, Box<dyn Error>> {
    let mut signatures: HashMap<usize, Vec<u32>> = HashMap::new();
    let mut sketcher = Sketcher::new(&NearDuplicatesConfig { family, ..NearDuplicatesConfig::default() })?;
    let mut deviations = Deviations::default();
    for (left, right, truth) in sample.truth.iter().filter(|pair| pair.2 < 1.0) {
        for document in [*left, *right] {
            signatures.entry(document).or_insert_with(|| sketcher.signature(&sample.texts[document]).to_vec());
        }
        deviations.add(estimate(&signatures[left], &signatures[right]), *truth);
    }
    Ok(deviations)
}

fn print_curves(curves: &[(String, Vec<Bin>)]) {
    print!("\n| Jaccard | pairs |");
    curves.iter().for_each(|(name, _)| print!(" {name}: predicted, found |"));
    println!("\n|---|---|{}", "---|".repeat(curves.len()));
    for bin in 0..BINS {
        let Some(first) = curves.first().map(|(_, bins)| &bins[bin]).filter(|first| first.num_pairs > 0) else { continue };
        print!("| {:.2} | {} |", FLOOR + bin as f64 / 100.0, first.num_pairs);
        for (_, bins) in curves {
            let n = bins[bin].num_pairs as f64;
            print!(" {:.3}, {:.3} |", bins[bin].expected / n, bins[bin].found as f64 / n);
        }
        println!();
    }
    println!();
}
