//! Lists of commands that a device takes as one: what is replayed, and that it changes nothing.

use crate::common::watched;
use osler_kernel_cases::model::Step;
use osler_kernel_cases::{exact, read_exact, read_stored, stored};
use osler_kernels::operations::{AdamState, AdamW, Gradient};
use osler_kernels::{KernelError, Memory, Operations};

/// The host decides nothing in a pass, not even with experts: from the fourth on it is one replay, whatever its tokens are and how many targets it
/// has, and so are the norm and the optimiser's step, whatever its rate.
#[test]
fn passes_are_replayed_to_the_same_bits() {
    for (kind, copies) in [("mistral", 1), ("mixtral", 2), ("qwen3", 1)] {
        let step = Step::for_hopper(kind);
        let passes = |records: bool| {
            let (gpu, asked_for) = watched(records, true);
            let mut asked = Vec::new();
            let results = step.several(&gpu, 5, || asked.push(asked_for.take_counts()));
            // Of each step, the pass, and then squares and optimiser.
            let parts = |part: usize| asked.chunks(3).map(|step| step[part]).collect::<Vec<_>>();
            (results, parts(1), parts(2))
        };
        let ((wanted, plain, _), (got, asked, stepped)) = (passes(false), passes(true));
        assert!(got == wanted, "{kind}: a replay gives other bits");
        let commands = asked[0][0];
        assert!(commands > 50, "{commands} commands of a pass");
        // In the first, scratch memory moves as it grows. What is run by itself is what the host is told: losses or a norm, and their end.
        assert_eq!(asked[0], [commands, 0, 0], "{kind}");
        assert_eq!(
            (asked[3..].to_vec(), stepped[3..].to_vec()),
            (vec![[copies + 1, 0, 1]; 2], vec![[1, 0, 1]; 2]),
            "{kind}: {asked:?} {stepped:?}"
        );
        assert!(plain.iter().all(|&[runs, _, replays]| runs == commands && replays == 0), "{kind}: {plain:?}");
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

/// A number that kernels read from the device is written before what is listed, unless that reads the one that was there.
#[test]
fn a_constant_is_written_ahead_of_a_list() {
    let (gpu, asked) = watched(true, false);
    let norm = gpu.new_norm(0, 1.0).unwrap();
    let grad = Gradient::Exact(exact(&gpu, &[1.0; 3]));
    let step = |weight: &mut _, state: &mut _, learning_rate: f64| {
        let settings = AdamW { learning_rate, beta1: 0.0, beta2: 0.0, epsilon: 1e-8, weight_decay: 0.0, step: 1 };
        gpu.adamw(&settings, &norm, &grad, state, weight)
    };
    let (mut weight, mut state) = (stored(&gpu, &[0.0; 3]), AdamState::new(&gpu, 3, false).unwrap());
    // The rate of each list's steps is another than that of the list before: its first step has it written ahead of all that is listed.
    for rate in [0.5, 0.25] {
        asked.take_counts();
        gpu.as_one(|| {
            (0..8).try_for_each(|_| step(&mut weight, &mut state, rate))?;
            assert_eq!(asked.take_counts(), [0; 3], "nothing has begun");
            Ok::<_, KernelError>(())
        })
        .unwrap();
        asked.take_counts();
    }
    assert_eq!(read_stored(&gpu, &weight, 3), [-6.0; 3]);
    // Within a list, those before are to have theirs first.
    gpu.as_one(|| {
        step(&mut weight, &mut state, 2.0)?;
        step(&mut weight, &mut state, 0.5)?;
        assert_eq!(asked.take_counts(), [1, 0, 0], "the first has begun");
        Ok::<_, KernelError>(())
    })
    .unwrap();
    assert_eq!(read_stored(&gpu, &weight, 3), [-8.5; 3]);
}
