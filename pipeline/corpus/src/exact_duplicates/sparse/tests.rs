use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn arena(texts: &[String]) -> TextArena {
    let mut arena = TextArena::default();
    for (ordinal, text) in texts.iter().enumerate() {
        arena.push(ordinal as u64, 0, text).unwrap();
    }
    arena
}

/// The sets of places with equal windows, two or more in each, by a map of windows.
fn wanted(texts: &[String], length: usize) -> Vec<Vec<usize>> {
    let mut groups: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let mut start = 0;
    for text in texts {
        for (offset, window) in text.as_bytes().windows(length).enumerate() {
            groups.entry(window).or_default().push(start + offset);
        }
        start += text.len();
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().filter(|group| group.len() > 1).collect();
    groups.sort();
    groups
}

fn found(classes: &SparseClasses) -> Vec<Vec<usize>> {
    let mut groups: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut next = 0;
    for run in classes.runs() {
        assert!(run.first >= next && run.len > 0, "{run:?} begins before {next}");
        next = run.first + run.len;
        for (position, class) in (run.first..next).zip(run.class..) {
            groups.entry(class).or_default().push(position);
        }
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.sort();
    groups
}

fn check(texts: &[String], length: usize, gram_bytes: usize) -> Result<(), TestCaseError> {
    let arena = arena(texts);
    let classes = SparseClasses::find_with_gram(&arena, length, gram_bytes, &Resources::default()).unwrap();
    prop_assert_eq!(found(&classes), wanted(texts, length));
    Ok(())
}

#[test]
fn threads_and_memory_change_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let text: String = (0..40_000).map(|index| format!("{:x} {}", index % 3000, if index % 7 == 0 { "----" } else { "" })).collect();
    let texts = [text.clone(), text[10_000..150_000].to_string(), "ab".repeat(9000), text, "ba".repeat(300)];
    let arena = arena(&texts);
    let wanted = wanted(&texts, 100);
    for (threads, memory_bytes) in [(1, u64::MAX), (2, u64::MAX), (5, 0), (1, 0), (3, 1 << 20)] {
        let resources = Resources { threads, memory_bytes, scratch: Some(scratch.path().to_path_buf()), ..Resources::default() };
        let classes = SparseClasses::find(&arena, 100, &resources).unwrap();
        assert!(found(&classes) == wanted, "{resources:?}");
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
    let resources = Resources { should_stop: std::sync::Arc::new(|| true), ..Resources::default() };
    assert!(matches!(SparseClasses::find(&arena, 100, &resources), Err(Error::Closed)));
}

#[test]
fn records_survive_the_disk() {
    let mut anchors = Vec::new();
    Sampler::new(10, 3).anchors(b"xyaaaaaaaaaaaaaaaaaaxyz12345", (1 << 40) + 7, |anchor| anchors.push(anchor));
    assert!(anchors.iter().any(Anchor::is_periodic) && anchors.len() > 2);
    for anchor in anchors {
        assert_eq!(<Anchor as partitions::Record>::from_bytes(&partitions::Record::to_bytes(anchor)), anchor);
    }
    let run = EqualRun { first: 1 << 50, leader: 1 << 33, len: u32::MAX };
    assert_eq!(<EqualRun as partitions::Record>::from_bytes(&partitions::Record::to_bytes(run)), run);
}

/// Documents of blocks that repeat, whole and in part, some of them periodic.
fn documents() -> impl Strategy<Value = Vec<String>> {
    let noise =
        prop::collection::vec(prop::sample::select(vec!['a', 'b']), 0..20).prop_map(|letters| letters.into_iter().collect::<String>());
    let periodic = ("[ab]{1,5}", 1_usize..30).prop_map(|(root, times)| root.repeat(times));
    let block = prop_oneof![noise, periodic];
    prop::collection::vec(block, 1..5).prop_flat_map(|blocks| {
        let part = (prop::sample::select(blocks), 0_usize..4, 0_usize..4).prop_map(|(block, before, behind)| {
            let end = block.len().saturating_sub(behind);
            block[before.min(end)..end].to_string()
        });
        let document = prop::collection::vec(part, 0..8);
        prop::collection::vec(document.prop_map(|parts| parts.concat()), 0..6)
    })
}

/// A length and the bytes of a gram for it.
fn lengths() -> impl Strategy<Value = (usize, usize)> {
    (1_usize..40).prop_flat_map(|length| (Just(length), 1..=length))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn classes_are_the_sets_of_equal_windows(texts in documents(), (length, gram_bytes) in lengths()) {
        check(&texts, length, gram_bytes)?;
    }

    #[test]
    fn hashed_groups_are_those_compared(texts in documents(), (length, gram_bytes) in lengths()) {
        let arena = arena(&texts);
        let mut anchors: HashMap<u64, Vec<Anchor>> = HashMap::new();
        let mut sampler = Sampler::new(length, gram_bytes);
        for piece in pieces(&arena, length) {
            let base = piece.start;
            sampler.anchors(&arena.bytes()[piece], base, |anchor| anchors.entry(anchor.key).or_default().push(anchor));
        }
        let windows = |runs: Vec<EqualRun>| -> HashMap<u64, u64> {
            runs.iter().flat_map(|run| (0..u64::from(run.len)).map(|index| (run.first + index, run.leader + index))).collect()
        };
        // Windows are gathered in memory, in a file, or not.
        let scratch = tempfile::tempdir().unwrap();
        let in_file = Resources { memory_bytes: 0, scratch: Some(scratch.path().to_path_buf()), ..Resources::default() };
        for group in anchors.values().filter(|group| !group[0].is_periodic()) {
            let run = |leaders_max: usize, gathered: usize, resources: &Resources| {
                let mut runs = Vec::new();
                let grouper = Grouper::with_leaders_max(arena.bytes(), length, leaders_max);
                grouper.gathering(Some(gathered), resources).group(group, &mut runs);
                windows(runs)
            };
            let compared = run(usize::MAX, usize::MAX, &Resources::default());
            for leaders_max in [0, 2] {
                prop_assert_eq!(&run(leaders_max, usize::MAX, &Resources::default()), &compared);
                prop_assert_eq!(&run(leaders_max, 0, &Resources::default()), &compared);
                prop_assert_eq!(&run(leaders_max, 0, &in_file), &compared);
            }
        }
    }

    /// Every window has one anchor, and windows that follow each other have anchors that follow each other.
    #[test]
    fn every_window_has_one_anchor(texts in documents(), (length, gram_bytes) in lengths()) {
        let mut sampler = Sampler::new(length, gram_bytes);
        for text in &texts {
            let mut next = 0;
            sampler.anchors(text.as_bytes(), 0, |anchor| {
                assert_eq!(anchor.first_window, next);
                assert!(anchor.num_windows() > 0);
                assert!(anchor.is_periodic() || anchor.offset as usize + 1 >= anchor.num_windows() && anchor.offset as usize + gram_bytes <= length);
                next += anchor.num_windows() as u64;
            });
            prop_assert_eq!(next as usize, (text.len() + 1).saturating_sub(length));
        }
    }
}

/// Periodic text and text where every hash is new have few anchors, and pieces give the anchors of the whole.
#[test]
fn anchors_are_sparse() {
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(100_000)
    .collect();
    let spaced: Vec<u8> = noise.iter().flat_map(|byte| b"    .    .   ".repeat(5).into_iter().chain([*byte])).take(100_000).collect();
    for (text, most) in [(noise, 3.5), (vec![b'a'; 100_000], 0.2), (b"abcdefg".repeat(14_000), 0.2), (spaced, 6.0)] {
        for length in [100, 400] {
            let mut anchors = Vec::new();
            Sampler::new(length, gram_bytes(length)).anchors(&text, 0, |anchor| anchors.push(anchor));
            let density = anchors.len() as f64 / text.len() as f64 * length as f64;
            assert!(density <= most, "{density} anchors in {length} bytes");
        }
    }
}

/// One document of more windows than a piece holds, with repeats across the places where pieces meet.
#[test]
fn pieces_meet() {
    let mut text: String = (0..30_000).map(|index| format!("{index:x} ")).collect();
    let repeat = text[PIECE_WINDOWS - 3000..PIECE_WINDOWS + 3000].to_string();
    text.push_str(&repeat);
    text.push_str(&"xyz".repeat(PIECE_WINDOWS));
    text.push_str(&repeat);
    check(&[text.clone(), text], 300, 100).unwrap();
}
