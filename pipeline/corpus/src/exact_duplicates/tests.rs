use super::windows::ClassRun;
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;

fn config(passes: &[usize]) -> ExactDuplicatesConfig {
    ExactDuplicatesConfig { passes: passes.to_vec(), removed_share_max: 1.0, ..ExactDuplicatesConfig::default() }
}

fn run(config: &ExactDuplicatesConfig, texts: &[impl AsRef<str>]) -> Outcome {
    let mut stage = ExactDuplicates::new(config.clone()).unwrap();
    for (ordinal, text) in texts.iter().enumerate() {
        // Gaps between ordinals: they are names, not indices.
        stage.push_document(ordinal as u64 * 3 + 1, ordinal as u32 % 2, text.as_ref()).unwrap();
    }
    stage.finish().unwrap()
}

fn left(outcome: &Outcome) -> Vec<&str> {
    outcome.texts().map(|(_, text)| text).collect()
}

/// Removed bytes by document, of one pass.
fn flags(texts: &[impl AsRef<str>], spans: &[RemovedSpan]) -> Vec<Vec<bool>> {
    let mut flags: Vec<Vec<bool>> = texts.iter().map(|text| vec![false; text.as_ref().len()]).collect();
    for span in spans {
        let document = (span.ordinal as usize - 1) / 3;
        flags[document][span.span.start as usize..span.span.end as usize].fill(true);
    }
    flags
}

/// Where windows begin that are removed, by document, straight from the rule: every window is compared with every other.
fn oracle_windows(texts: &[impl AsRef<str>], length: usize, keep: Keep) -> Vec<Vec<usize>> {
    let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_ref().as_bytes()).collect();
    let mut kept: Vec<Vec<bool>> = Vec::new();
    let mut removed = Vec::new();
    for (document, text) in texts.iter().enumerate() {
        kept.push(vec![true; text.len()]);
        let mut starts = Vec::new();
        for start in 0..(text.len() + 1).saturating_sub(length) {
            let window = &text[start..start + length];
            let goes = match keep {
                Keep::First => (0..=document).any(|other| {
                    let ends = if other == document { start } else { texts[other].len() };
                    (length..=ends)
                        .any(|end| texts[other][end - length..end] == *window && kept[other][end - length..end].iter().all(|kept| *kept))
                }),
                Keep::None => texts.iter().enumerate().any(|(other, text)| {
                    text.windows(length).enumerate().any(|(place, found)| found == window && (other, place) != (document, start))
                }),
            };
            if goes {
                kept[document][start..start + length].fill(false);
                starts.push(start);
            }
        }
        removed.push(starts);
    }
    removed
}

/// Removed bytes: whole characters, each in one removed window, less partial words where asked.
fn oracle(texts: &[impl AsRef<str>], length: usize, keep: Keep, boundary: Boundary) -> Vec<Vec<bool>> {
    let windows = oracle_windows(texts, length, keep);
    texts.iter().zip(windows).map(|(text, starts)| oracle_flags(text.as_ref(), &starts, length, boundary)).collect()
}

fn oracle_flags(text: &str, starts: &[usize], length: usize, boundary: Boundary) -> Vec<bool> {
    let mut flags = vec![false; text.len()];
    for (offset, character) in text.char_indices() {
        let end = offset + character.len_utf8();
        if starts.iter().any(|start| *start <= offset && end <= start + length) {
            flags[offset..end].fill(true);
        }
    }
    if boundary == Boundary::Character {
        return flags;
    }
    // A removed character is given back while a character beside it that is kept stands in the same word, and so on along the cut: from
    // the left end first, then from the right.
    let characters: Vec<(usize, char)> = text.char_indices().collect();
    let give_back = |flags: &mut Vec<bool>, pair: (usize, usize), given: &mut bool| {
        let ((near, near_char), (far, far_char)) = (characters[pair.0], characters[pair.1]);
        let starts_here = !flags[near] && (*given || pair.0.abs_diff(pair.1) == 1);
        if starts_here && flags[far] && !near_char.is_whitespace() && !far_char.is_whitespace() {
            flags[far..far + far_char.len_utf8()].fill(false);
            *given = true;
        }
    };
    for index in 1..characters.len() {
        give_back(&mut flags, (index - 1, index), &mut false);
    }
    for index in (1..characters.len()).rev() {
        give_back(&mut flags, (index, index - 1), &mut false);
    }
    flags
}

fn check(texts: &[String], length: usize, keep: Keep, boundary: Boundary) -> Result<(), TestCaseError> {
    let config = ExactDuplicatesConfig { keep, boundary, ..config(&[length]) };
    let outcome = run(&config, texts);
    let full = run(&ExactDuplicatesConfig { engine: Engine::SuffixArray, ..config }, texts);
    prop_assert_eq!((&outcome.passes, &outcome.sources), (&full.passes, &full.sources));
    prop_assert_eq!(flags(texts, &outcome.passes[0]), oracle(texts, length, keep, boundary));
    prop_assert!(outcome.passes[0].iter().all(|span| span.partner.is_some() == (keep == Keep::First)));
    let covered: u64 = outcome.sources.values().map(|source| source.covered_bytes[0]).sum();
    let windows = oracle_windows(texts, length, keep);
    let wanted: usize = texts
        .iter()
        .zip(&windows)
        .map(|(text, starts)| (0..text.len()).filter(|byte| starts.iter().any(|start| (*start..start + length).contains(byte))).count())
        .sum();
    prop_assert_eq!(covered, wanted as u64);
    check_one_by_one(texts, length)
}

/// Windows decided one by one.
struct OneByOne<'a, C>(&'a C);

impl<C: WindowClasses> WindowClasses for OneByOne<'_, C> {
    fn runs(&self) -> impl Iterator<Item = ClassRun> {
        self.0.runs().flat_map(|run| (0..run.len).map(move |at| ClassRun { first: run.first + at, len: 1, class: run.class + at }))
    }
}

/// Deciding the windows of a run together makes no difference, not to a span nor to where its copy is said to be.
fn check_one_by_one(texts: &[String], length: usize) -> Result<(), TestCaseError> {
    let mut arena = TextArena::default();
    for (ordinal, text) in texts.iter().enumerate() {
        arena.push(ordinal as u64, 0, text).unwrap();
    }
    let resources = Resources::default();
    let classes = SparseClasses::find(&arena, length, &resources).unwrap();
    let together = keep_first::keep_first(&arena, &classes, length, &resources).unwrap();
    prop_assert_eq!(together, keep_first::keep_first(&arena, &OneByOne(&classes), length, &resources).unwrap());
    prop_assert_eq!(keep_first::keep_none(&arena, &classes, length), keep_first::keep_none(&arena, &OneByOne(&classes), length));
    Ok(())
}

const ENGINES: [Engine; 2] = [Engine::SparseSuffixArray, Engine::SuffixArray];

/// Every removed window stands in a text that is left; texts are ASCII, the cut is by character.
fn check_nothing_lost(texts: &[String], length: usize) -> Result<(), TestCaseError> {
    let outcome = run(&config(&[length]), texts);
    let left = left(&outcome);
    for (text, starts) in texts.iter().zip(oracle_windows(texts, length, Keep::First)) {
        for start in starts {
            let window = &text[start..start + length];
            prop_assert!(left.iter().any(|left| left.contains(window)), "{window:?} is lost from {texts:?}");
        }
    }
    Ok(())
}

fn texts(alphabet: &'static str) -> impl Strategy<Value = Vec<String>> {
    // Blocks repeat whole, so that chains of overlapping repeats longer than a window are common.
    let block = prop::collection::vec(prop::sample::select(alphabet.chars().collect::<Vec<_>>()), 0..12);
    prop::collection::vec(block, 1..5).prop_flat_map(|blocks| {
        let document = prop::collection::vec(prop::sample::select(blocks), 0..8);
        prop::collection::vec(document.prop_map(|blocks| blocks.concat().into_iter().collect::<String>()), 0..6)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn ascii_equals_the_rule(texts in texts("ab"), length in 1_usize..14, keep in prop::sample::select(vec![Keep::First, Keep::None])) {
        check(&texts, length, keep, Boundary::Character)?;
        check_nothing_lost(&texts, length)?;
    }

    #[test]
    fn characters_stay_whole(texts in texts("aéè中🙂"), length in 1_usize..14, keep in prop::sample::select(vec![Keep::First, Keep::None])) {
        check(&texts, length, keep, Boundary::Character)?;
    }

    #[test]
    fn words_stay_whole(texts in texts("aé \u{a0}"), length in 1_usize..14, keep in prop::sample::select(vec![Keep::First, Keep::None])) {
        check(&texts, length, keep, Boundary::Word)?;
    }

    #[test]
    fn passes_follow_each_other(texts in texts("ab "), first in 4_usize..14, second in 1_usize..6) {
        let both = run(&config(&[first, second]), &texts);
        let once = run(&config(&[first]), &texts);
        let twice = run(&config(&[second]), &left(&once));
        prop_assert_eq!(left(&both), left(&twice));
        prop_assert_eq!(&both.passes[0], &once.passes[0]);
        prop_assert_eq!(&both.passes[1], &twice.passes[0]);
    }
}

/// Text without long repeats: letters drawn by a xorshift generator.
fn noise(seed: u64, len: usize) -> String {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let letters = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (b'a' + (state % 26) as u8) as char
    });
    letters.take(len).collect()
}

#[test]
fn planted_repeats_go_from_their_length_on() {
    let lengths = [80, 99, 100, 101, 250, 399, 400, 401, 1200];
    let mut first: Vec<String> = Vec::new();
    let mut second: Vec<String> = Vec::new();
    for (index, length) in lengths.into_iter().enumerate() {
        let seed = index as u64 + 1;
        let repeat = noise(seed, length);
        // Neighbours that differ make the repeat exactly as long as planted.
        first.push(format!("{}A{repeat}B{}", noise(seed + 100, 300), noise(seed + 200, 300)));
        second.push(format!("{}C{repeat}D{}", noise(seed + 300, 300), noise(seed + 400, 300)));
    }
    let texts: Vec<String> = first.into_iter().chain(second).collect();
    let outcome = run(&config(&[400, 100]), &texts);
    let lost = |pass: usize, index: usize| -> Vec<(u64, u64, Option<(u64, u64)>)> {
        let spans = outcome.passes[pass].iter().filter(|span| span.ordinal == index as u64 * 3 + 1);
        spans.map(|span| (span.span.start, span.span.len(), span.partner)).collect()
    };
    for (index, length) in lengths.into_iter().enumerate() {
        assert_eq!((lost(0, index), lost(1, index)), (vec![], vec![]), "the first {length} is kept");
        let wanted = vec![(301, length as u64, Some((index as u64 * 3 + 1, 301)))];
        let pass = if length >= 400 { 0 } else { 1 };
        let later = index + lengths.len();
        assert_eq!(lost(pass, later), if length >= 100 { wanted } else { vec![] }, "{length}");
        assert_eq!(lost(1 - pass, later), vec![], "{length}");
        let (head, tail) = texts[later].split_at(301);
        let tail = &tail[if length >= 100 { length } else { 0 }..];
        let join = if length >= 100 { "\n" } else { "" };
        assert_eq!(left(&outcome)[later], format!("{head}{join}{tail}"));
    }
}

#[test]
fn repeats_never_cross_documents() {
    let (left_half, right_half) = (noise(1, 60), noise(2, 60));
    let whole = format!("{left_half}{right_half}");
    // The 120 bytes of the third document also stand across the border of the first two, which is no occurrence.
    let outcome = run(&config(&[100]), &[left_half.as_str(), &right_half, &whole]);
    assert_eq!(outcome.passes[0], []);
    assert_eq!(left(&outcome), [left_half.as_str(), &right_half, &whole]);
}

#[test]
fn documents_at_the_ends_of_the_array() {
    let text = noise(3, 100);
    // Equal documents, empty ones first, between and last; the last window of the text and the last suffix of the array among them.
    let zees = "z".repeat(100);
    let outcome = run(&config(&[100]), &["", &text, &zees, "", &text, &zees, &zees[1..], ""]);
    assert_eq!(left(&outcome), ["", &text, &zees, "", "", "", &zees[1..], ""]);
    let partners: Vec<_> = outcome.passes[0].iter().map(|span| (span.ordinal, span.span.len(), span.partner)).collect();
    assert_eq!(partners, [(13, 100, Some((4, 0))), (16, 100, Some((7, 0)))]);
    assert_eq!(left(&run(&config(&[100]), &[""; 0])), [""; 0]);
    assert_eq!(left(&run(&config(&[100]), &["", ""])), ["", ""]);
}

#[test]
fn a_megabyte_of_one_period_keeps_little_more_than_a_window() {
    const MEGABYTE: usize = 1 << 20;
    let ones = "a".repeat(MEGABYTE);
    assert_eq!(left(&run(&config(&[400]), &[&ones])), [&ones[..400]]);
    assert_eq!(left(&run(&config(&[400, 100]), &[&ones])), [&ones[..100]]);
    let spans = run(&config(&[400]), &[&ones]).passes[0].len();
    assert!(spans <= MEGABYTE / 400 + 1, "{spans} spans");
    let periods = "abc".repeat(MEGABYTE / 3);
    let outcome = run(&config(&[400]), &[&periods]);
    // 400 leaves a rest of 1 by 3, so two more bytes are kept until a kept window of the right phase ends.
    assert_eq!(left(&outcome), [&periods[..402]]);
    for engine in ENGINES {
        // Runs of one root at several lengths and phases, and a period too long to be one.
        let texts = ["abc".repeat(200), "cab".repeat(150), format!("x{}y", "bca".repeat(170)), "a".repeat(450), noise(4, 70).repeat(40)];
        let outcome = run(&ExactDuplicatesConfig { engine, ..config(&[400]) }, &texts);
        let lens: Vec<usize> = left(&outcome).iter().map(|text| text.len()).collect();
        // No window of the first document ends before an equal one begins. Of the third "x", a line break and "y" are left; of the last,
        // 400 bytes and 20 more until a kept window of the right phase ends.
        assert_eq!(lens, [600, 0, 3, 450, 420], "{engine:?}");
    }
    let long = noise(5, MEGABYTE);
    let twice = run(&config(&[400, 100]), &[format!("{long}X{long}")]);
    assert_eq!(left(&twice), [format!("{long}X")]);
    assert_eq!(twice.passes[0].len(), 1, "one repeat is one span");
}

#[test]
fn cuts_fall_between_characters_at_both_ends() {
    // "é" is C3 A9 and "è" C3 A8, "ī" is C4 AB and "ԫ" D4 AB: neighbours share a byte with the repeat.
    let repeat = noise(6, 98);
    let outcome = run(&config(&[100]), &[format!("ī{repeat}éx"), format!("ԫ{repeat}èy")]);
    assert_eq!(outcome.sources[&1].covered_bytes, [100]);
    assert_eq!(outcome.sources[&1].removed_bytes, [98]);
    assert_eq!(left(&outcome)[1], "ԫ\nèy");
}

#[test]
fn words_given_back() {
    let repeat = noise(7, 100);
    let config = ExactDuplicatesConfig { boundary: Boundary::Word, ..config(&[90]) };
    let outcome = run(&config, &[format!("1half {repeat} fine2"), format!("3half {repeat} fine4")]);
    assert_eq!(left(&outcome)[1], "3half\nfine4");
}

#[test]
fn keep_none_takes_every_copy() {
    let repeat = noise(8, 100);
    let config = ExactDuplicatesConfig { keep: Keep::None, ..config(&[100]) };
    let outcome = run(&config, &[format!("A{repeat}B"), format!("C{repeat}D")]);
    assert_eq!(left(&outcome), ["A\nB", "C\nD"]);
}

#[test]
fn guard_names_source_and_share() {
    let repeat = noise(9, 900);
    let mut stage = ExactDuplicates::new(ExactDuplicatesConfig { removed_share_max: 0.5, ..config(&[400]) })
        .unwrap()
        .with_source_names(vec!["articles".to_string(), "notes".to_string()]);
    stage.push_document(0, 0, &repeat).unwrap();
    stage.push_document(1, 1, &format!("{repeat}{}", noise(10, 100))).unwrap();
    let error = stage.finish().unwrap_err().to_string();
    assert!(error.contains("source `notes` would lose 90.0 %"), "{error}");
    assert!(!error.contains(&repeat[..10]), "{error}");
}

#[test]
fn wrong_settings_and_orders_are_refused() {
    for (config, setting) in [
        (config(&[100, 0]), "passes"),
        (config(&[400, 1 << 40]), "passes"),
        (ExactDuplicatesConfig { removed_share_max: f64::NAN, ..config(&[100]) }, "removed_share_max"),
        (ExactDuplicatesConfig { removed_share_max: 1.5, ..config(&[100]) }, "removed_share_max"),
    ] {
        let error = ExactDuplicates::new(config).unwrap_err().to_string();
        assert!(error.contains(setting), "{error}");
    }
    let mut stage = ExactDuplicates::new(config(&[100])).unwrap();
    stage.push_document(5, 0, "a").unwrap();
    assert!(stage.push_document(5, 0, "b").unwrap_err().to_string().contains("document 5 came after document 5"));
    assert!(serde_json::from_str::<ExactDuplicatesConfig>(r#"{"pases": [1]}"#).is_err());
    let parsed: ExactDuplicatesConfig = serde_json::from_str(r#"{"keep": "none", "boundary": "word", "engine": "suffix-array"}"#).unwrap();
    assert_eq!((parsed.keep, parsed.boundary, parsed.passes), (Keep::None, Boundary::Word, vec![400, 100]));
    assert_eq!((parsed.engine, ExactDuplicatesConfig::default().engine), (Engine::SuffixArray, Engine::SparseSuffixArray));
    let off = ExactDuplicatesConfig { enabled: false, ..config(&[1]) };
    assert_eq!(left(&run(&off, &["aaaa"])), ["aaaa"]);
}

#[test]
fn verify_sees_every_fault() {
    let mut arena = TextArena::default();
    arena.push(1, 0, "abcdé").unwrap();
    arena.push(2, 0, "abcdé").unwrap();
    let span = |ordinal, start, end, partner| RemovedSpan { ordinal, span: Span { start, end }, partner };
    let check = |spans: &[RemovedSpan], want: &str| match verify(&arena, spans, &Resources::default()) {
        Ok(()) => assert_eq!(want, ""),
        Err(error) => assert!(!want.is_empty() && error.to_string().contains(want), "{error}"),
    };
    check(&[span(2, 0, 6, Some((1, 0)))], "");
    check(&[span(2, 0, 2, Some((1, 0))), span(2, 2, 4, Some((1, 2)))], "");
    check(&[span(2, 0, 2, Some((1, 0))), span(2, 1, 4, Some((1, 1)))], "out of order");
    check(&[span(2, 0, 2, None), span(1, 0, 2, None)], "out of order");
    check(&[span(2, 0, 5, Some((1, 0)))], "does not fit");
    check(&[span(2, 4, 9, None)], "does not fit");
    check(&[span(2, 3, 3, None)], "does not fit");
    check(&[span(3, 0, 1, None)], "does not fit");
    check(&[span(2, 0, 2, Some((1, 1)))], "differs");
    check(&[span(2, 0, 2, Some((1, u64::MAX)))], "differs");
    check(&[span(2, 0, 2, Some((7, 0)))], "differs");
    check(&[span(1, 1, 2, Some((2, 1))), span(2, 0, 2, Some((1, 0)))], "removed too");
    check(&[span(2, 0, 2, Some((2, 0)))], "removed too");
}

#[test]
fn operators_find_and_cut() {
    let repeat = noise(11, 500);
    let texts = [format!("A{repeat}B"), format!("C{repeat}D")];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ordinal", Arc::new(UInt64Array::from(vec![4, 9]))),
        ("source_index", Arc::new(UInt32Array::from(vec![0, 1]))),
        ("text", Arc::new(arrow::array::StringArray::from_iter_values(&texts))),
    ];
    let mut find = FindExactDuplicates::new(config(&[400, 100]), Vec::new()).unwrap();
    let mut out: Vec<RecordBatch> = Vec::new();
    find.push(RecordBatch::try_from_iter(columns).unwrap(), &mut out).unwrap();
    assert!(find.memory_bytes() > 1000);
    find.finish(&mut out).unwrap();
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].schema(), span::schema());
    let number = |name| expect::u64(&out[0], name).unwrap().value(0);
    assert_eq!(["ordinal", "start", "end", "partner", "partner_start"].map(number), [9, 1, 501, 4, 1]);
    assert_eq!(find.sources()[&1].removed_bytes, [500, 0]);
    let table = SpanTable::new(&out).unwrap();
    assert_eq!(table.of(9).collect::<Vec<_>>(), [(0, &[(9, Span { start: 1, end: 501 })][..])]);
    assert_eq!(table.of(4).count(), 0);
}

/// What the suffix array finds in real text equals what a hash map of windows finds.
#[test]
fn real_text_equals_a_map_of_windows() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let texts = real_texts(&folder, 1 << 20);
    if texts.is_empty() {
        eprintln!("SKIPPED: no text below {}: the map of windows was not compared on real data", folder.display());
        return;
    }
    for (length, engine) in [100, 400].into_iter().flat_map(|length| ENGINES.map(|engine| (length, engine))) {
        let outcome = run(&ExactDuplicatesConfig { engine, ..config(&[length]) }, &texts);
        let mut kept_windows: HashMap<&[u8], ()> = HashMap::new();
        for (text, got) in texts.iter().zip(flags(&texts, &outcome.passes[0])) {
            let (mut starts, mut removed_until, mut num_kept) = (Vec::new(), 0, 0);
            for position in 0..text.len() {
                let window = text.as_bytes().get(position..position + length);
                if window.is_some_and(|window| kept_windows.contains_key(window)) {
                    starts.push(position);
                    removed_until = position + length;
                }
                num_kept = if position < removed_until { 0 } else { num_kept + 1 };
                if num_kept >= length {
                    kept_windows.insert(&text.as_bytes()[position + 1 - length..position + 1], ());
                }
            }
            let mut covered = vec![0_i32; text.len() + 1];
            for start in starts {
                // Whole characters of the window, as differences.
                let first = (start..).find(|offset| text.is_char_boundary(*offset)).unwrap();
                let last = (0..=start + length).rev().find(|offset| text.is_char_boundary(*offset)).unwrap();
                covered[first] += 1;
                covered[last] -= 1;
            }
            let mut depth = 0;
            let wanted: Vec<bool> = covered[..text.len()]
                .iter()
                .map(|change| {
                    depth += change;
                    depth > 0
                })
                .collect();
            assert!(got == wanted, "length {length}");
        }
    }
}

/// Both passes and both rules on real text: engines, threads, text in a file and index in a file make no difference.
#[test]
fn engines_agree_on_real_text() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let texts = real_texts(&folder, 12 << 20);
    if texts.is_empty() {
        eprintln!("SKIPPED: no text below {}: the engines were not compared on real data", folder.display());
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let some = |threads, memory_bytes| Resources { threads, memory_bytes, scratch: Some(scratch.path().into()), ..Resources::default() };
    for keep in [Keep::First, Keep::None] {
        let outcomes = [
            (Engine::SuffixArray, Resources::default()),
            (Engine::SparseSuffixArray, Resources::default()),
            (Engine::SparseSuffixArray, some(3, 0)),
            (Engine::SparseSuffixArray, some(2, 20 << 20)),
        ]
        .map(|(engine, resources)| {
            let config = ExactDuplicatesConfig { keep, engine, ..config(&[400, 100]) };
            let mut stage = ExactDuplicates::new(config).unwrap().with_resources(resources);
            for (ordinal, text) in texts.iter().enumerate() {
                stage.push_document(ordinal as u64, 0, text).unwrap();
            }
            stage.finish().unwrap()
        });
        assert!(outcomes[0].passes.iter().all(|spans| spans.len() > 100));
        for other in &outcomes[1..] {
            assert!(outcomes[0].passes == other.passes && outcomes[0].sources == other.sources, "{keep:?}");
            assert!(outcomes[0].texts().eq(other.texts()), "{keep:?}");
        }
    }
}

/// Texts of real files, tags and all: about `num_bytes` of what is readable as UTF-8.
fn real_texts(folder: &std::path::Path, num_bytes: usize) -> Vec<String> {
    let mut folders = vec![folder.to_path_buf()];
    let (mut texts, mut total) = (Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                folders.push(path);
            } else if total < num_bytes
                && path.metadata().is_ok_and(|metadata| metadata.len() < 1 << 18)
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                total += text.len();
                texts.push(text);
            }
        }
    }
    texts
}
