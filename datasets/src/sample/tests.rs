use super::*;
use std::collections::{BTreeMap, HashMap, HashSet};

fn sample() -> BTreeMap<String, Vec<u8>> {
    generate(&Settings::default()).map(|file| (file.path, file.bytes)).collect()
}

/// Text between tags, white space folded: close to what a reader gives, and independent of it.
fn body_text(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).replace("\r\n", "\n");
    for cell in ["th", "td"] {
        text = text.replace(&format!("</{cell}><{cell}>"), " | ");
    }
    for (entity, letter) in [("&plusmn;", "±"), ("&micro;", "µ"), ("&eacute;", "é"), ("&ndash;", "–")] {
        text = text.replace(entity, letter);
    }
    let part = |open: &str, close: &str| {
        text.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map(|(inner, _)| inner.to_string()).unwrap_or_default()
    };
    let mut out = String::new();
    let mut inside = false;
    for letter in (part("<abstract>", "</abstract>") + "\n\n" + &part("<body>", "</body>")).chars() {
        match letter {
            '<' => inside = true,
            '>' => inside = false,
            '\n' if !inside => out.push(' '),
            _ if !inside => out.push(letter),
            _ => {}
        }
    }
    out
}

#[test]
fn default_sample_has_the_size_and_the_number_of_files_stated() {
    let files = sample();
    assert_eq!(files.len(), 400);
    let num_bytes: usize = files.values().map(Vec::len).sum();
    assert!((4_000_000..8_000_000).contains(&num_bytes), "{num_bytes}");
}

#[test]
fn bytes_are_the_same_everywhere_and_change_with_the_seed() {
    let digest = |settings: &Settings| {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for file in generate(settings) {
            hasher.update(file.path.as_bytes());
            hasher.update(&file.bytes);
        }
        hasher.digest()
    };
    let settings = Settings { articles: 60, ..Settings::default() };
    assert_eq!(digest(&settings), DIGEST_OF_60, "the sample changed; if that was meant, state the new digest");
    assert_ne!(digest(&settings), digest(&Settings { seed: 43, ..settings.clone() }));
}

const DIGEST_OF_60: u64 = 10_871_175_593_205_148_105;

#[test]
fn collections_divide_the_files_among_them() {
    let settings = Settings { articles: 80, ..Settings::default() };
    let all: Vec<SampleFile> = generate(&settings).collect();
    let mut parts = Vec::new();
    for collection in [Collection::CaseReports, Collection::Journals, Collection::Preprints] {
        let part: Vec<SampleFile> = generate(&Settings { collection, ..settings.clone() }).collect();
        assert!(part.len() >= 10 && part.iter().all(|file| file.path.starts_with(collection.folder())));
        parts.extend(part);
    }
    assert_eq!(parts, all);
    assert!(all.windows(2).all(|pair| pair[0].path < pair[1].path));
}

#[test]
fn near_duplicates_have_their_similarity_and_dois_of_their_own() {
    let files = sample();
    let truth = truth(&Settings::default());
    assert_eq!(truth.near_duplicates.len(), 52);
    for pair in &truth.near_duplicates {
        assert!((pair.jaccard - pair.target).abs() < 0.006, "{pair:?}");
        assert_eq!(pair.merges, pair.jaccard >= THRESHOLD);
        assert_ne!(pair.original_doi, pair.copy_doi);
        for (path, doi) in [(&pair.original, &pair.original_doi), (&pair.copy, &pair.copy_doi)] {
            assert!(String::from_utf8_lossy(&files[path]).contains(&format!(">{doi}<")), "{path}");
        }
        let grams = |path: &String| article::shingles(&[body_text(&files[path])]);
        let found = article::jaccard(&grams(&pair.original), &grams(&pair.copy));
        assert!((found - pair.jaccard).abs() < 0.01, "{pair:?}: {found} in the XML");
    }
    let merging = truth.near_duplicates.iter().filter(|pair| pair.merges).count();
    assert!(merging > 25 && truth.near_duplicates.len() - merging > 12);
}

#[test]
fn exact_copies_are_exact() {
    let files = sample();
    let copies = truth(&Settings::default()).exact_copies;
    assert_eq!(copies.len(), 16);
    for copy in copies {
        assert_ne!(copy.original, copy.copy);
        assert_eq!(files[&copy.original] == files[&copy.copy], copy.same_file);
        assert_eq!(body_text(&files[&copy.original]), body_text(&files[&copy.copy]));
    }
}

#[test]
fn passages_stand_once_per_holder_between_different_bytes() {
    let files = sample();
    let truth = truth(&Settings::default());
    let lengths: Vec<usize> = truth.passages.iter().map(|passage| passage.text.len()).collect();
    assert!(lengths[0] >= 400);
    assert_eq!(lengths[1..], [254, 100, 99]);
    let texts: BTreeMap<&String, String> = files.iter().map(|(path, bytes)| (path, body_text(bytes))).collect();
    for (index, passage) in truth.passages.iter().enumerate() {
        assert!(passage.holders.len() >= 30, "{}", passage.holders.len());
        let holders: HashSet<&String> = passage.holders.iter().collect();
        let mut around = HashSet::new();
        for (path, text) in &texts {
            let parts: Vec<&str> = text.split(passage.text).collect();
            assert_eq!(parts.len() == 2, holders.contains(path), "{path}");
            if parts.len() == 2 && index > 0 {
                assert!(around.insert(parts[0].chars().last()) | around.insert(parts[1].chars().next()), "{path}");
            }
        }
        assert_eq!(around.len(), if index > 0 { passage.holders.len() } else { 0 });
    }
}

#[test]
fn faults_are_what_they_say() {
    let files = sample();
    let bad = truth(&Settings::default()).bad_records;
    assert_eq!(bad.len(), 20);
    for record in &bad {
        let bytes = &files[&record.path];
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(std::str::from_utf8(bytes).is_err(), record.fault == Fault::InvalidUtf8);
        assert_eq!(text.contains("</article>"), record.fault != Fault::Truncated);
        assert_eq!(text.contains("by-nc"), record.fault == Fault::LicenseNonCommercial);
        if record.fault != Fault::Truncated {
            assert_eq!(!text.contains("<license"), record.fault == Fault::LicenseMissing);
        }
        assert_eq!(text.contains("<!ENTITY"), record.fault == Fault::EntityBomb);
        let words = body_text(bytes).split_whitespace().count();
        match record.fault {
            Fault::NoText => assert_eq!(words, 0),
            Fault::TooShort => assert!((5..50).contains(&words)),
            _ => assert!(bytes.len() > 2_000),
        }
    }
    assert_eq!(Fault::ALL.iter().filter(|fault| bad.iter().any(|record| record.fault == **fault)).count(), Fault::ALL.len());
}

/// Share of text bytes covered by 100-byte windows that stand in an unrelated article as well, where nothing is planted.
#[test]
fn unrelated_articles_share_little_by_chance() {
    let settings = Settings {
        articles: 250,
        near_duplicate_share: 0.0,
        exact_copy_share: 0.0,
        repeat_share: 0.0,
        bad_record_share: 0.0,
        ..Settings::default()
    };
    let texts: Vec<String> = generate(&settings).map(|file| body_text(&file.bytes)).collect();
    let mut first: HashMap<&[u8], usize> = HashMap::new();
    let (mut shared, mut total) = (0, 0);
    for (index, text) in texts.iter().enumerate() {
        let mut covered_to = 0;
        total += text.len();
        for (start, window) in text.as_bytes().windows(100).enumerate() {
            if *first.entry(window).or_insert(index) != index {
                shared += start + 100 - covered_to.max(start);
                covered_to = start + 100;
            }
        }
    }
    assert!(total > 2_000_000);
    assert!((shared as f64) < 0.01 * total as f64, "{shared} of {total} bytes");
}
