//! Every folder of real documents, read through as a recipe would: nothing is lost, nothing is rejected without a reason.

use crate::*;
use osler_datasets::license::Verdict;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The shipped recipe over the folders of real documents.
const RECIPE: &str = include_str!("../../recipes/shared-data.toml");

/// Source, files, fewest documents, rejects by reason, documents without an allowed licence.
const EXPECTED: &[(&str, usize, usize, &[(&str, usize)], usize)] = &[
    ("jats-craft", 41, 41, &[], 0),
    ("jats-elife-misc", 26, 26, &[], 0),
    ("jats-epmc", 247, 247, &[], 0),
    ("jats-epmc-nonmedical", 26, 26, &[], 0),
    ("jats-plos", 66, 66, &[], 0),
    ("jats-scielo", 28, 60, &[], 0),
    ("jats-variants", 42, 42, &[], 0),
    ("bmc-trials", 43, 43, &[], 0),
    ("pubmed", 21, 43, &[("no-text", 79)], 0),
    ("openstax", 535, 535, &[], 0),
    ("medquad", 960, 939, &[("no-text", 21)], 0),
    ("rki", 18, 18, &[], 0),
    ("rki-english", 2, 2, &[], 0),
    ("mtsamples-fr", 90, 90, &[], 0),
    ("mtsamples", 1, 2224, &[], 0),
    ("mts-dialog", 2, 3603, &[], 0),
    ("aci-bench", 2, 87, &[], 0),
    ("germediq", 1, 4524, &[], 0),
    ("pubmedqa", 1, 1000, &[], 0),
    ("epmc-abstracts", 1, 400, &[], 0),
    ("primock57-notes", 45, 45, &[], 0),
    ("primock57-transcripts", 90, 90, &[], 0),
];

/// Licences of the articles, as counted by the people who chose them; the statements are those of six publishers and three archives.
const LICENSES: &[(&str, &[(&str, usize)])] = &[
    ("jats-craft", &[("CC-BY", 23), ("CC-BY-2.0", 18)]),
    ("jats-elife-misc", &[("CC-BY-3.0", 6), ("CC-BY-4.0", 20)]),
    ("jats-epmc", &[("CC-BY", 49), ("CC-BY-2.5", 1), ("CC-BY-3.0", 12), ("CC-BY-4.0", 183), ("CC0-1.0", 2)]),
    ("jats-epmc-nonmedical", &[("CC-BY-4.0", 26)]),
    ("jats-plos", &[("CC-BY", 39), ("CC-BY-4.0", 26), ("CC0-1.0", 1)]),
    ("bmc-trials", &[("CC-BY-4.0", 43)]),
];

fn shared_data() -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data"));
    let found = folder.is_dir();
    if !found {
        eprintln!("SKIPPED: the real documents are not at {}", folder.display());
    }
    found.then_some(folder)
}

#[derive(serde::Deserialize)]
struct Recipe {
    source: Vec<SourceConfig>,
}

#[derive(Debug, Default)]
struct Tally {
    num_files: usize,
    num_documents: usize,
    num_bytes: usize,
    rejects: BTreeMap<&'static str, usize>,
    not_allowed: usize,
    licenses: BTreeMap<Option<String>, usize>,
    languages: BTreeMap<Option<String>, usize>,
}

fn tally(source: &SourceConfig, stores: &Stores) -> Tally {
    let files = list_now(source, stores).unwrap();
    let mut tally = Tally { num_files: files.len(), ..Tally::default() };
    for file in &files {
        let summary = read_file(source, file, stores, &Limits::default(), &mut |found| {
            match found {
                Ok(document) => {
                    check(source, file, document);
                    let (license, verdict) = source.judge_license(document.license.as_deref());
                    tally.num_documents += 1;
                    tally.num_bytes += document.text.len();
                    tally.not_allowed += usize::from(verdict != Verdict::Allowed);
                    *tally.licenses.entry(license).or_default() += 1;
                    *tally.languages.entry(document.language.clone()).or_default() += 1;
                }
                Err(reject) => {
                    eprintln!("{} {}: {reject:?}", source.name, file.path);
                    *tally.rejects.entry(reject.reason).or_default() += 1;
                }
            }
            ControlFlow::Continue(())
        });
        let summary = summary.unwrap_or_else(|error| panic!("{}", full(&error)));
        assert_eq!((summary.num_bytes, summary.hash.len()), (file.num_bytes, 32), "{}", file.path);
    }
    tally
}

/// What must hold of every document, whatever its source.
fn check(source: &SourceConfig, file: &FileEntry, document: &Document) {
    let place = || format!("{} {} {:?}", source.name, file.path, document.record);
    assert!(!document.text.trim().is_empty(), "{}", place());
    assert!(!document.text.contains('\r') && !document.text.starts_with('\u{feff}'), "{}", place());
    assert!(!document.text.starts_with(char::is_whitespace) && !document.text.ends_with(char::is_whitespace), "{}", place());
    for section in &document.sections {
        assert!(section.start <= section.end && document.text.get(section.start..section.end).is_some(), "{}: {section:?}", place());
    }
    for identifier in &document.identifiers {
        assert!(
            identifier.split_once(':').is_some_and(|(scheme, value)| !scheme.is_empty() && !value.is_empty()),
            "{}: {identifier}",
            place()
        );
    }
    if let Some(published) = &document.published {
        let rest = published.trim_start_matches(|character: char| character.is_ascii_digit() || character == '-');
        assert!(published.len() >= 4 && rest.is_empty(), "{}: {published}", place());
    }
}

#[test]
fn every_folder_of_real_documents_is_accounted_for() {
    if shared_data().is_none() {
        return;
    }
    let stores = stores(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/recipes")));
    let recipe: Recipe = toml::from_str(RECIPE).unwrap();
    assert_eq!(recipe.source.len(), EXPECTED.len());
    let mut faults = Vec::new();
    for source in &recipe.source {
        let expected = EXPECTED.iter().find(|(name, ..)| *name == source.name);
        let (name, num_files, documents_min, rejects, not_allowed) = expected.unwrap_or_else(|| panic!("{} is not expected", source.name));
        source.validate().unwrap();
        let start = std::time::Instant::now();
        let found = tally(source, &stores);
        eprintln!("{name}: {:.0} ms {found:?}", start.elapsed().as_secs_f64() * 1e3);
        if let Some((_, licenses)) = LICENSES.iter().find(|(name, _)| *name == source.name) {
            let licenses: BTreeMap<Option<String>, usize> = licenses.iter().map(|(id, count)| (Some(id.to_string()), *count)).collect();
            assert_eq!(found.licenses, licenses, "{name}");
        }
        let rejects: BTreeMap<&'static str, usize> = rejects.iter().copied().collect();
        if found.num_files != *num_files
            || found.num_documents < *documents_min
            || found.rejects != rejects
            || found.not_allowed != *not_allowed
        {
            faults.push(format!("{name}: {found:?}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_sample_is_read_like_any_source() {
    let source = SourceConfig::new("sample", Format::Sample, Vec::new());
    source.validate().unwrap();
    let stores = stores(Path::new("."));
    let files = list_now(&source, &stores).unwrap();
    assert_eq!(files.len(), 400);
    assert!(files.is_sorted_by(|left, right| left.path < right.path));
    let mut outcome = Tally::default();
    for file in &files {
        let (documents, rejects, summary) = read_all(&source, file, &stores);
        assert_eq!(summary.unwrap().num_bytes, file.num_bytes);
        assert_eq!(documents.len() + rejects.len(), 1, "{}", file.path);
        outcome.num_documents += documents.len();
        for reject in rejects {
            *outcome.rejects.entry(reject.reason).or_default() += 1;
        }
        for document in documents {
            outcome.not_allowed += usize::from(source.judge_license(document.license.as_deref()).1 != Verdict::Allowed);
        }
    }
    assert_eq!(outcome.num_documents + outcome.rejects.values().sum::<usize>(), 400);
    assert!(!outcome.rejects.is_empty() && outcome.not_allowed > 0, "{outcome:?}");
}
