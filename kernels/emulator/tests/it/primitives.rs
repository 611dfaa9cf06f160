//! The emulator's own primitives, one small kernel each (`src/probes.cu`): right results, and each mistake seen for what it is.

use osler_emulator::{Allocation, Emulator, Order};
use osler_kernel_cases::numbers;
use osler_kernels::cuda::{Argument, Command, Launch, Launcher, float_from_bf16, float_to_bf16};

const DEVICE: Emulator = Emulator { order: Order::Forward, wgmma: true, ends: None, place: None };

fn memory(bytes: Vec<u8>) -> Allocation {
    let memory = DEVICE.allocate(bytes.len()).unwrap();
    DEVICE.write(DEVICE.address(&memory), &bytes).unwrap();
    memory
}

fn bf16(values: &[f32]) -> Allocation {
    memory(values.iter().flat_map(|&value| float_to_bf16(value).to_le_bytes()).collect())
}

fn floats(values: &[f32]) -> Allocation {
    memory(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn words(memory: &Allocation, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * count];
    DEVICE.read(DEVICE.address(memory), &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn read_floats(memory: &Allocation, count: usize) -> Vec<f32> {
    words(memory, count).into_iter().map(f32::from_bits).collect()
}

fn launch(order: Order, kernel: &'static str, threads: u32, shared_bytes: u32, arguments: &[Argument]) -> Result<(), String> {
    let launch = Launch { kernel, grid: [1, 1, 1], threads, shared_bytes };
    Emulator { order, ..DEVICE }.run(&Command::Launch(launch, arguments.to_vec())).map_err(|error| error.to_string())
}

/// Runs a kernel that writes `count` words to its first argument.
fn probe(kernel: &'static str, threads: u32, shared_bytes: u32, count: usize, inputs: &[&Allocation]) -> Result<Allocation, String> {
    let output = floats(&vec![0.0; count]);
    let arguments: Vec<Argument> =
        [&output].into_iter().chain(inputs.iter().copied()).map(|memory| Argument::Pointer(DEVICE.address(memory))).collect();
    launch(Order::Forward, kernel, threads, shared_bytes, &arguments)?;
    Ok(output)
}

#[test]
fn mma_and_ldmatrix_make_a_plain_product() {
    let (left, right) = (numbers(256, 1), numbers(128, 2));
    let output = probe("probe_product", 32, 768, 128, &[&bf16(&left), &bf16(&right)]).unwrap();
    for (at, got) in read_floats(&output, 128).into_iter().enumerate() {
        let wanted: f32 = (0..16).map(|inner| left[at / 8 * 16 + inner] * right[inner * 8 + at % 8]).sum();
        assert!((got - wanted).abs() < 1e-4, "{at}: {got} {wanted}");
    }
}

/// Threads of the host that come when others have ended may lie where those had their blocks' stacks: a sanitizer is to know that memory as theirs.
#[test]
fn blocks_that_were_given_up_leave_nothing_behind() {
    let run = || assert!(probe("probe_given_up", 1024, 0, 2, &[]).unwrap_err().contains("deadlock; 1 threads (0 to 0) have ended"));
    for _ in 0..3 {
        let together = std::sync::Barrier::new(4);
        std::thread::scope(|scope| scope.spawn(run).join().unwrap());
        std::thread::scope(|scope| {
            let begin = || {
                together.wait();
                run();
            };
            (0..4).for_each(|_| drop(scope.spawn(begin)));
        });
    }
}

#[test]
fn stmatrix_stores_what_ldmatrix_loads() {
    let source = numbers(256, 1);
    let output = probe("probe_matrix_store", 32, 0, 128, &[&bf16(&source)]).unwrap();
    let got: Vec<f32> = words(&output, 128).into_iter().flat_map(|word| [word as u16, (word >> 16) as u16]).map(float_from_bf16).collect();
    assert_eq!(got, source);
}

#[test]
fn a_copy_lands_when_its_group_is_waited_for() {
    let output = probe("probe_copy", 32, 32, 5, &[&floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])]).unwrap();
    let seen = read_floats(&output, 5);
    assert!(seen[0].is_nan() && seen[2].is_nan(), "{seen:?}");
    assert_eq!((seen[1], seen[3], seen[4]), (1.0, 5.0, 0.0));
}

#[test]
fn lanes_exchange_values() {
    let seen = words(&probe("probe_shuffles", 32, 0, 256, &[]).unwrap(), 256);
    for lane in 0..32u32 {
        let at = |form: u32| seen[(32 * form + lane) as usize];
        assert_eq!(at(0), lane ^ 5);
        assert_eq!(at(1), if lane < 3 { lane } else { lane - 3 });
        assert_eq!(at(2), if lane % 8 + 3 < 8 { lane + 3 } else { lane });
        assert_eq!(at(3), lane / 8 * 8 + 1);
        assert_eq!(at(4), (0..32).filter(|lane| lane % 3 == 0).map(|lane| 1 << lane).sum::<u32>());
        assert_eq!(at(5), 0x10001 << (lane % 16));
        assert_eq!(at(6), 6);
        let first_set = if lane == 0 { 0 } else { lane.trailing_zeros() + 1 };
        assert_eq!(at(7), lane.count_ones() + 100 * lane.leading_zeros() + 10_000 * first_set);
    }
}

#[test]
fn atomics_add_up_and_static_memory_is_poisoned() {
    let seen = words(&probe("probe_atomics", 64, 0, 3, &[]).unwrap(), 3);
    assert_eq!(seen, [u32::MAX, 63 * 32, 63]);
}

#[test]
fn named_barriers_order_warps() {
    for order in [Order::Forward, Order::Backward] {
        let output = floats(&[0.0]);
        launch(order, "probe_named_barriers", 64, 0, &[Argument::Pointer(DEVICE.address(&output))]).unwrap();
        assert_eq!(words(&output, 1), [7]);
    }
}

#[test]
fn a_missing_barrier_shows() {
    for order in [Order::Forward, Order::Backward] {
        for careless in [0, 1] {
            let output = floats(&[0.0; 64]);
            launch(order, "probe_race", 64, 0, &[Argument::Pointer(DEVICE.address(&output)), Argument::U32(careless)]).unwrap();
            assert_eq!(read_floats(&output, 64).iter().any(|seen| seen.is_nan()), careless == 1);
        }
    }
}

#[test]
fn a_deadlock_names_who_waits_where() {
    let error = probe("probe_deadlock", 64, 0, 1, &[]).unwrap_err();
    assert!(error.starts_with("the device failed: probe_deadlock: block (0, 0, 0): deadlock"), "{error}");
    assert!(error.contains("1 threads (63 to 63) have ended") && error.contains("63 threads (0 to 62) wait for __syncthreads"), "{error}");
    assert!(error.contains("probes.cu:"), "{error}");
    let error = probe("probe_divergence", 32, 0, 2, &[]).unwrap_err();
    assert!(error.contains("lanes of one warp do different things together: __ballot_sync and __shfl_sync"), "{error}");
}

#[test]
fn bad_addresses_are_refused() {
    let error = probe("probe_misaligned", 32, 512, 32, &[]).unwrap_err();
    assert!(error.contains("thread 1: ldmatrix: shared address not aligned to 16"), "{error}");
    let error = probe("probe_outside", 32, 256, 32, &[]).unwrap_err();
    assert!(error.contains("thread 16: ldmatrix: not in shared memory, or past its end"), "{error}");
}

#[test]
fn launches_are_checked() {
    let output = floats(&[0.0; 64]);
    let pointer = Argument::Pointer(DEVICE.address(&output));
    let error = |kernel, threads, shared, arguments: &[Argument]| launch(Order::Forward, kernel, threads, shared, arguments).unwrap_err();
    assert!(error("probe_nothing", 32, 0, &[]).contains("no such kernel"));
    assert!(error("probe_race", 64, 0, &[pointer]).contains("the kernel has 2 parameters, given 1"));
    assert!(error("probe_race", 64, 0, &[pointer, Argument::F32(1.0)]).contains("argument 1 is of another kind"));
    assert!(error("probe_race", 96, 0, &[pointer, Argument::U32(0)]).contains("compiled for at most 64 threads"));
    assert!(error("probe_race", 48, 0, &[pointer, Argument::U32(0)]).contains("in whole warps"));
    // A Hopper has more than devices of capability 8.6.
    let arguments = [pointer, Argument::U32(0)];
    assert!(error("probe_race", 64, (227 << 10) + 16, &arguments).contains("more shared memory"));
    let launch =
        |shared_bytes| Command::Launch(Launch { kernel: "probe_race", grid: [1, 1, 1], threads: 64, shared_bytes }, arguments.to_vec());
    let older = Emulator { wgmma: false, ..DEVICE };
    assert!(older.run(&launch((99 << 10) + 16)).unwrap_err().to_string().contains("more shared memory"));
    DEVICE.run(&launch((99 << 10) + 16)).unwrap();
}
