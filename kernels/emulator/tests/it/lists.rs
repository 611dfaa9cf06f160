//! Lists of commands that a device takes as one: what is replayed, and that it changes nothing.

use crate::common::watched;
use osler_kernel_cases::model::Step;
use osler_kernel_cases::{exact, read_exact};
use osler_kernels::{KernelError, Memory, Operations};

/// The host decides nothing in a pass, not even with experts: from the fourth on it is a replay for each number that is written between, whatever
/// its tokens are and how many targets it has.
#[test]
fn passes_are_replayed_to_the_same_bits() {
    for (kind, lists) in [("mistral", 2), ("mixtral", 3), ("qwen3", 2)] {
        let step = Step::for_hopper(kind);
        let passes = |records: bool| {
            let (gpu, asked_for) = watched(records, true);
            let mut asked = Vec::new();
            let results = step.several(&gpu, 5, || asked.push(asked_for.take_counts()));
            // Of each step, the pass, and then norm and optimiser.
            let parts = |part: usize| asked.chunks(3).map(|step| step[part]).collect::<Vec<_>>();
            (results, parts(1), parts(2))
        };
        let ((wanted, plain, _), (got, asked, stepped)) = (passes(false), passes(true));
        assert!(got == wanted, "{kind}: a replay gives other bits");
        let commands = asked[0][0];
        assert!(commands > 50, "{commands} commands of a pass");
        // In the first, scratch memory moves as it grows. Some lists are too short to be recorded.
        assert_eq!(asked[0], [commands, 0, 0], "{kind}");
        let [short, none, replays] = asked[4];
        assert!(asked[3] == asked[4] && short < 16 && none == 0 && (1..=lists).contains(&replays), "{kind}: {asked:?}");
        assert!(plain.iter().all(|&[runs, _, replays]| runs == commands && replays == 0), "{kind}: {plain:?}");
        // Rates differ in every step, and are on the device; what precedes them is too short to be recorded.
        let [short, none, replays] = stepped[4];
        assert!(stepped[3] == stepped[4] && short < 8 && none == 0 && replays == 2, "{kind}: {stepped:?}");
    }
}

/// What was listed before it is not begun, and what follows is not listed.
#[test]
fn a_panic_closes_the_list() {
    let (gpu, asked) = watched(true, false);
    let (one, sum) = (exact(&gpu, &[1.0; 3]), std::sync::Mutex::new(exact(&gpu, &[0.0; 3])));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        gpu.as_one(|| {
            gpu.add_exact(&one, &mut sum.lock().unwrap())?;
            if asked.take_counts() == [0; 3] {
                panic!("on purpose");
            }
            Ok::<_, KernelError>(())
        })
    }));
    assert!(panicked.is_err());
    sum.clear_poison();
    let mut sum = sum.into_inner().unwrap();
    gpu.add_exact(&one, &mut sum).unwrap();
    assert_eq!((asked.take_counts(), read_exact(&gpu, &sum, 3)), ([1, 0, 0], vec![1.0; 3]), "what follows is not listed");
}

#[test]
fn reading_divides_a_list_and_short_ones_run_as_they_are() {
    let (gpu, asked) = watched(true, false);
    let (one, mut sum) = (exact(&gpu, &[1.0; 3]), exact(&gpu, &[0.0; 3]));
    for round in 0..3 {
        let seen = gpu.as_one(|| {
            (0..10).try_for_each(|_| gpu.add_exact(&one, &mut sum))?;
            assert_eq!(asked.take_counts(), [0; 3], "nothing has begun");
            let seen = read_exact(&gpu, &sum, 3);
            gpu.add_exact(&one, &mut sum)?;
            // One within another is part of it.
            gpu.as_one(|| gpu.add_exact(&one, &mut sum))?;
            Ok::<_, KernelError>(seen)
        });
        assert_eq!(seen.unwrap(), [12.0 * round as f32 + 10.0; 3]);
        // The two after the reading are not worth a recording.
        assert_eq!(asked.take_counts(), [[12, 0, 0], [2, 1, 1], [2, 0, 1]][round]);
    }
    assert_eq!(read_exact(&gpu, &sum, 3), [36.0; 3]);
}

#[test]
fn memory_outlives_what_was_listed() {
    let (gpu, _) = watched(true, false);
    let mut sum = gpu.new_exact(1000).unwrap();
    let done = gpu.as_one(|| {
        let addend = exact(&gpu, &[1.0; 1000]);
        gpu.add_exact(&addend, &mut sum)?;
        drop(addend);
        // Where it lay, unless it is still held.
        let other = gpu.new_exact(1000)?;
        drop(other);
        Ok::<_, KernelError>(())
    });
    done.unwrap();
    assert_eq!(read_exact(&gpu, &sum, 1000), [1.0; 1000]);
}

#[test]
fn a_list_whose_work_fails_is_not_begun() {
    let (gpu, asked) = watched(true, false);
    let (one, mut sum) = (exact(&gpu, &[1.0; 3]), exact(&gpu, &[0.0; 3]));
    let failed = gpu.as_one(|| {
        gpu.add_exact(&one, &mut sum)?;
        Err::<(), _>(KernelError::Launch("on purpose".into()))
    });
    assert_eq!(failed.unwrap_err(), KernelError::Launch("on purpose".into()));
    gpu.add_exact(&one, &mut sum).unwrap();
    assert_eq!((read_exact(&gpu, &sum, 3), asked.take_counts()), (vec![1.0; 3], [1, 0, 0]));
}

/// The one that was not used for the longest time makes room.
#[test]
fn so_many_lists_are_known_and_no_more() {
    let (gpu, asked) = watched(true, false);
    let one = exact(&gpu, &[1.0; 3]);
    let mut sums: Vec<_> = (0..258).map(|_| exact(&gpu, &[0.0; 3])).collect();
    let mut list = |at: usize| {
        gpu.as_one(|| (0..8).try_for_each(|_| gpu.add_exact(&one, &mut sums[at]))).unwrap();
        asked.take_counts()
    };
    (0..256).for_each(|at| assert_eq!(list(at), [8, 0, 0]));
    assert_eq!((list(0), list(0)), ([0, 1, 1], [0, 0, 1]), "the last that was used");
    assert_eq!((list(256), list(257)), ([8, 0, 0], [8, 0, 0]));
    // Two had to go: the second and the third.
    assert_eq!((list(0), list(3), list(1)), ([0, 0, 1], [0, 1, 1], [8, 0, 0]));
}
