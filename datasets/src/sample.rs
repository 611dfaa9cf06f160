//! The embedded sample source: a seeded generator of medical articles in JATS XML with planted duplicates, repeats and bad records.
//!
//! Every article is a pure function of the settings and its number: any of them can be made alone, on any platform, to the same bytes.
//! [`truth`] tells what was planted, so that a run over the sample can be checked. The articles are nonsense in a plausible form: nothing
//! in them is medical advice, and no person in them exists. DOIs use the prefix 10.5555, which is set aside for tests.

mod article;
mod grammar;
mod jats;
mod plan;
mod prng;
mod vocabulary;

use article::{Article, Kind};
use jats::{Front, Habit};
use plan::{Plan, Role};
use prng::Prng;
use serde::{Deserialize, Serialize};

pub use article::Revision;

/// Settings of the generator. Shares are of `articles`; what is left over are articles with nothing planted but repeats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Files in all; default 400, about 7 MB.
    pub articles: u64,
    /// Seed of everything; default 42.
    pub seed: u64,
    /// Only the files of one collection; default all.
    pub collection: Collection,
    /// Share of edited copies of other articles, at the similarities of [`TARGETS`]; default 0.13.
    pub near_duplicate_share: f64,
    /// Share of files whose text is that of another file; default 0.04.
    pub exact_copy_share: f64,
    /// Share of the other articles in which each of the repeated passages stands; default 0.3.
    pub repeat_share: f64,
    /// Share of bad records, of the kinds of [`Fault`] in turn; default 0.05.
    pub bad_record_share: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            articles: 400,
            seed: 42,
            collection: Collection::All,
            near_duplicate_share: 0.13,
            exact_copy_share: 0.04,
            repeat_share: 0.3,
            bad_record_share: 0.05,
        }
    }
}

/// The parts of the sample; a recipe may take each as a source of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Collection {
    /// Every file.
    #[default]
    All,
    /// Research articles and letters.
    Journals,
    /// Case reports.
    CaseReports,
    /// Earlier versions of articles, under DOIs of their own, and articles that are only here.
    Preprints,
}

impl Collection {
    /// The folder of the collection's files; empty for [`Collection::All`].
    pub fn folder(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Journals => "journals",
            Self::CaseReports => "case-reports",
            Self::Preprints => "preprints",
        }
    }
}

/// A virtual file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleFile {
    /// Path below the source's root, such as `journals/0000017.xml`.
    pub path: String,
    pub bytes: Vec<u8>,
}

/// Word 5-gram similarities of planted copies with their originals, family by family; those of at least 0.85 are near-duplicates at the
/// published threshold.
pub const TARGETS: &[&[f64]] = &[&[0.95], &[0.80], &[0.90], &[0.70], &[0.99, 0.93], &[0.60], &[0.88], &[0.50], &[0.97, 0.95, 0.92, 0.90]];

/// Similarity from which the truth calls a pair a near-duplicate: the published threshold.
pub const THRESHOLD: f64 = 0.85;

/// Planted passages. Each is found once per holder, with different bytes on both sides of it.
pub const PASSAGES: &[&str] = &[
    "This article is distributed under the terms of an open licence, which permits unrestricted use, distribution and reproduction in any \
     medium, provided that you give appropriate credit to the original authors and the source, provide a link to the licence, and indicate \
     if changes were made. The data that support the findings of this study are available from the corresponding author on reasonable \
     request; unless otherwise stated, the public domain waiver applies to the data made available in this article.",
    " were drawn into citrate tubes, kept on ice for no longer than thirty minutes, spun at room temperature for ten minutes, divided into \
     aliquots of half a millilitre, frozen at once, and thawed a single time before the assay, which was run twice by reader ",
    " were kept in the dark until the day of analysis, and their code was broken only after visit number ",
    " were kept in the dark until the day of analysis, and no label was seen by any reader of the panel ",
];

/// The name of a way in which a record is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An end tag that closes nothing.
    Malformed,
    /// The file stops in the middle.
    Truncated,
    /// No abstract, no body.
    NoText,
    /// A body of some ten words.
    TooShort,
    /// No licence stated.
    LicenseMissing,
    /// A non-commercial licence.
    LicenseNonCommercial,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
    /// Elements nested 600 deep.
    TooDeep,
    /// An entity bomb in the DTD. It must not be expanded; the record itself stays.
    EntityBomb,
}

impl Fault {
    /// All faults, in the order in which they are planted.
    pub const ALL: &[Self] = &[
        Self::Malformed,
        Self::NoText,
        Self::TooShort,
        Self::LicenseNonCommercial,
        Self::InvalidUtf8,
        Self::TooDeep,
        Self::LicenseMissing,
        Self::Truncated,
        Self::EntityBomb,
    ];

    /// Whether a run drops the record.
    pub fn drops(self) -> bool {
        self != Self::EntityBomb
    }
}

/// What was planted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Truth {
    /// Files in all.
    pub num_files: u64,
    pub near_duplicates: Vec<Pair>,
    pub exact_copies: Vec<ExactCopy>,
    pub passages: Vec<Passage>,
    pub bad_records: Vec<BadRecord>,
}

/// An article and an edited copy of it, under different DOIs.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    pub original: String,
    pub copy: String,
    pub original_doi: String,
    pub copy_doi: String,
    /// The similarity asked for, one of [`TARGETS`].
    pub target: f64,
    /// The similarity reached: word 5-grams, lower-cased, of abstract and body with section titles, `- ` list items, ` | ` table rows and
    /// captions. A reader that leaves out tables or labels moves it, by about 0.02 at the lower end.
    pub jaccard: f64,
    /// Whether the two are one document at [`THRESHOLD`].
    pub merges: bool,
    pub revision: Revision,
}

/// Two files with the same text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactCopy {
    pub original: String,
    pub copy: String,
    /// The same DOI and the same bytes; else only the front matter differs.
    pub same_file: bool,
}

/// One of [`PASSAGES`] and the files it stands in, once each; none of them has a copy planted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    pub text: &'static str,
    pub holders: Vec<String>,
    /// Whether substring deduplication with passes of 400 and 100 bytes cuts all of it but the first.
    pub removed: bool,
}

/// A bad record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    pub path: String,
    pub fault: Fault,
}

/// The files of the collection, one at a time, in the order of their paths.
pub fn generate(settings: &Settings) -> impl Iterator<Item = SampleFile> + use<> {
    let settings = settings.clone();
    let plan = Plan::new(&settings);
    let folders = match settings.collection {
        Collection::All => vec![Collection::CaseReports, Collection::Journals, Collection::Preprints],
        one => vec![one],
    };
    let numbers = folders.into_iter().flat_map(move |folder| (0..plan.num_files).map(move |number| (folder, number)));
    numbers.filter_map(move |(folder, number)| {
        let role = plan.role(number);
        (plan.collection(role) == folder).then(|| SampleFile { path: plan.path(role), bytes: plan.bytes(role) })
    })
}

/// The file at `path`, as [`generate`] names and makes it; made alone.
pub fn file(settings: &Settings, path: &str) -> Option<SampleFile> {
    let plan = Plan::new(settings);
    let number: u64 = path.rsplit('/').next()?.strip_suffix(".xml")?.parse().ok()?;
    let role = (number < plan.num_files).then(|| plan.role(number))?;
    (plan.path(role) == path).then(|| SampleFile { path: path.to_string(), bytes: plan.bytes(role) })
}

/// What [`generate`] plants with these settings, whatever the collection. Makes every planted copy, and no other article.
pub fn truth(settings: &Settings) -> Truth {
    let plan = Plan::new(settings);
    let mut truth = Truth { num_files: plan.num_files, ..Truth::default() };
    for number in 0..plan.num_files {
        let role = plan.role(number);
        match role {
            Role::Original(_) => {}
            Role::Near { original, target, revision, .. } => {
                let source = Role::Original(original);
                let (_, jaccard) = plan.near_copy(role);
                truth.near_duplicates.push(Pair {
                    original: plan.path(source),
                    copy: plan.path(role),
                    original_doi: plan.doi(source),
                    copy_doi: plan.doi(role),
                    target,
                    jaccard,
                    merges: target >= THRESHOLD,
                    revision,
                });
            }
            Role::Copy { original, same_file, .. } => {
                truth.exact_copies.push(ExactCopy { original: plan.path(Role::Original(original)), copy: plan.path(role), same_file });
            }
            Role::Bad { fault, .. } => truth.bad_records.push(BadRecord { path: plan.path(role), fault }),
        }
    }
    truth.passages = PASSAGES.iter().map(|text| Passage { text, holders: Vec::new(), removed: text.len() >= 100 }).collect();
    for number in 0..plan.num_files {
        let Role::Original(index) = plan.role(number) else { continue };
        for (passage, ordinal) in truth.passages.iter_mut().zip(plan.planted(index)) {
            if ordinal.is_some() {
                passage.holders.push(plan.path(Role::Original(index)));
            }
        }
    }
    truth
}

#[cfg(test)]
mod tests;
