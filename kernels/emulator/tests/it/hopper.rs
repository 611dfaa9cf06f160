//! Hopper's primitives in the emulator (`src/probes_hopper.cu`): right results, and each mistake seen for what it is.

use osler_emulator::{Allocation, Emulator, Order};
use osler_kernel_cases::numbers;
use osler_kernels::cuda::{Argument, Command, Launch, Launcher, MatrixBox, float_from_bf16, float_to_bf16};

const DEVICE: Emulator = Emulator { order: Order::Forward, wgmma: true, ends: None, place: None };

fn bf16(values: &[f32]) -> Allocation {
    let bytes: Vec<u8> = values.iter().flat_map(|&value| float_to_bf16(value).to_le_bytes()).collect();
    let memory = DEVICE.allocate(bytes.len()).unwrap();
    DEVICE.write(DEVICE.address(&memory), &bytes).unwrap();
    memory
}

fn read_floats(memory: &Allocation, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    DEVICE.read(DEVICE.address(memory), &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

fn read_bf16(memory: &Allocation, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 2 * count];
    DEVICE.read(DEVICE.address(memory), &mut bytes).unwrap();
    bytes.chunks_exact(2).map(|pair| float_from_bf16(u16::from_le_bytes(pair.try_into().unwrap()))).collect()
}

fn map(memory: &Allocation, rows: usize, columns: usize, box_rows: usize) -> Argument {
    let matrix = MatrixBox { address: DEVICE.address(memory), rows, columns, row_bytes: 2 * columns, box_rows };
    Argument::TensorMap(DEVICE.tensor_map(&matrix).unwrap())
}

fn run(kernel: &'static str, threads: u32, shared_bytes: u32, arguments: &[Argument]) -> Result<(), String> {
    run_in(Order::Forward, kernel, threads, shared_bytes, arguments)
}

fn run_in(order: Order, kernel: &'static str, threads: u32, shared_bytes: u32, arguments: &[Argument]) -> Result<(), String> {
    Emulator { order, ..DEVICE }
        .run(&Command::Launch(Launch { kernel, grid: [1, 1, 1], threads, shared_bytes }, arguments.to_vec()))
        .map_err(|error| error.to_string())
}

#[track_caller]
fn expect_product(got: &[f32], columns: usize, inner: usize, left: impl Fn(usize, usize) -> f32, right: impl Fn(usize, usize) -> f32) {
    for (at, got) in got.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        let wanted: f32 = (0..inner).map(|inner| left(row, inner) * right(inner, column)).sum();
        assert!((got - wanted).abs() < 1e-4, "({row}, {column}): {got} {wanted}");
    }
}

/// The product of two tiles, with a mistake (0: none).
fn wgmma(mistake: u32) -> Result<Vec<f32>, String> {
    wgmma_in(Order::Forward, mistake)
}

fn wgmma_in(order: Order, mistake: u32) -> Result<Vec<f32>, String> {
    let (left, right) = (bf16(&numbers(4096, 1)), bf16(&numbers(4096, 2)));
    let product = DEVICE.allocate(4 * 4096).unwrap();
    let arguments = [Argument::Pointer(DEVICE.address(&product)), map(&left, 64, 64, 64), map(&right, 64, 64, 64), Argument::U32(mistake)];
    run_in(order, "probe_wgmma", 128, 2 * 64 * 128, &arguments)?;
    Ok(read_floats(&product, 4096))
}

#[test]
fn wgmma_multiplies_what_tma_loads() {
    let (left, right) = (numbers(4096, 1), numbers(4096, 2));
    // The first number of each row on the left, as far as its 128-byte swizzle leaves it there, is cleared by threads.
    let cleared = |row: usize, inner: usize| inner / 8 == row % 8 && inner.is_multiple_of(8);
    let left_at = |row: usize, inner: usize| if cleared(row, inner) { 0.0 } else { left[row * 64 + inner] };
    expect_product(&wgmma(0).unwrap(), 64, 64, left_at, |inner, column| right[column * 64 + inner]);
    // Without a fence, products see what was there before.
    expect_product(&wgmma(6).unwrap(), 64, 64, |row, inner| left[row * 64 + inner], |inner, column| right[column * 64 + inner]);
}

#[test]
fn early_reads_are_poison() {
    assert!(wgmma(1).unwrap().iter().all(|x| x.is_nan()), "an accumulator before wait_group");
    assert!(wgmma(2).unwrap().iter().all(|x| x.is_nan()), "shared memory before the barrier");
}

/// One order makes products as late as they may be, the other as early: what is not there from start to end shows in one of them.
#[test]
fn operands_must_stay() {
    let right = wgmma(0).unwrap();
    assert_eq!(wgmma_in(Order::Backward, 0).unwrap(), right);
    assert!(wgmma_in(Order::Backward, 7).unwrap() == right && wgmma(7).unwrap().iter().all(|x| *x == 0.0));
}

#[test]
fn mistakes_are_named() {
    let error = wgmma(3).unwrap_err();
    assert!(error.contains("deadlock; 128 threads (0 to 127) wait for the mbarrier at shared address"), "{error}");
    assert!(wgmma(4).unwrap_err().contains("wgmma without a wgmma.fence"));
    assert!(wgmma(5).unwrap_err().contains("an accumulator was written while its product was in flight"));
}

#[test]
fn transposed_operands_are_read_by_column() {
    let (left, right) = (numbers(4096, 1), numbers(8192, 2));
    let (left_memory, right_memory) = (bf16(&left), bf16(&right));
    let product = DEVICE.allocate(4 * 8192).unwrap();
    let arguments = [Argument::Pointer(DEVICE.address(&product)), map(&left_memory, 64, 64, 64), map(&right_memory, 64, 128, 64)];
    run("probe_wgmma_transposed", 128, 3 * 64 * 128, &arguments).unwrap();
    let got = read_floats(&product, 8192);
    expect_product(&got, 128, 64, |row, inner| left[inner * 64 + row], |inner, column| right[inner * 128 + column]);
}

#[test]
fn the_left_operand_may_be_in_registers() {
    let (left, right) = (numbers(1024, 1), numbers(1024, 2));
    let (left_memory, right_memory) = (bf16(&left), bf16(&right));
    let product = DEVICE.allocate(4 * 4096).unwrap();
    let pointers = [&product, &left_memory].map(|memory| Argument::Pointer(DEVICE.address(memory)));
    run("probe_wgmma_registers", 128, 16 * 128, &[pointers[0], pointers[1], map(&right_memory, 16, 64, 16)]).unwrap();
    let got = read_floats(&product, 4096);
    expect_product(&got, 64, 16, |row, inner| left[row * 16 + inner], |inner, column| right[inner * 64 + column]);
}

#[test]
fn boxes_are_cut_at_the_edge() {
    let source = numbers(12 * 40, 1);
    let (from, to) = (bf16(&source), bf16(&[0.0; 12 * 40]));
    let sums = DEVICE.allocate(128).unwrap();
    let arguments = [Argument::Pointer(DEVICE.address(&sums)), map(&from, 12, 40, 8), map(&to, 12, 40, 8), Argument::U32(6)];
    run("probe_stores", 32, 8 * 128, &arguments).unwrap();
    let got = read_bf16(&to, 12 * 40);
    assert_eq!((&got[..6 * 40], &got[6 * 40..]), (&[0.0; 240][..], &source[6 * 40..]));
    assert_eq!(read_floats(&sums, 32), (0..32).map(|at| at as f32).collect::<Vec<_>>());
}

#[test]
fn a_ring_of_boxes_goes_round() {
    let source = numbers(40 * 64, 1);
    let (from, copied) = (bf16(&source), bf16(&[0.0; 40]));
    run("probe_pipeline", 64, 2 * 8 * 128, &[Argument::Pointer(DEVICE.address(&copied)), map(&from, 40, 64, 8), Argument::U32(5)]).unwrap();
    assert_eq!(read_bf16(&copied, 40), source.iter().step_by(64).copied().collect::<Vec<_>>());
}

#[test]
fn a_box_that_nobody_waits_for_does_not_land() {
    let source = numbers(16 * 64, 1);
    let (from, seen) = (bf16(&source), bf16(&[0.0; 2]));
    for order in [Order::Forward, Order::Backward] {
        let launch = Launch { kernel: "probe_two_loads", grid: [1, 1, 1], threads: 32, shared_bytes: 2 * 8 * 128 };
        let arguments = [Argument::Pointer(DEVICE.address(&seen)), map(&from, 16, 64, 8)];
        Emulator { order, ..DEVICE }.run(&Command::Launch(launch, arguments.to_vec())).unwrap();
        let seen = read_bf16(&seen, 2);
        assert!(seen[0].is_nan() && seen[1] == source[8 * 64], "{seen:?}");
    }
}

/// Blocks that have begun take turns; to wait for one that has not is a deadlock.
#[test]
fn blocks_take_turns() {
    let run = |order, blocks: u32, takes: u32| {
        let [turns, number] = [(); 2].map(|()| DEVICE.allocate(16).unwrap());
        let launch = Launch { kernel: "probe_turns", grid: [blocks, 1, 1], threads: 32, shared_bytes: 16 };
        let pointers = [&turns, &number].map(|memory| Argument::Pointer(DEVICE.address(memory)));
        let command = Command::Launch(launch, vec![pointers[0], pointers[1], Argument::U32(takes)]);
        Emulator { order, ..DEVICE }.run(&command).map_err(|error| error.to_string()).map(|()| read_floats(&number, 1)[0])
    };
    let doubled = |blocks: u32| (0..2 * blocks).fold(0.0, |number, at| 2.0 * number + (at % blocks) as f32);
    // Three blocks have begun in the backward order; forwards, one, whose second turn comes after those of the others.
    assert_eq!([run(Order::Backward, 3, 0), run(Order::Backward, 3, 1)], [Ok(doubled(3)), Ok(doubled(3))]);
    assert_eq!(run(Order::Forward, 1, 0), Ok(doubled(1)));
    for (order, blocks, place) in [(Order::Forward, 2, "block (0, 0, 0)"), (Order::Backward, 5, "block (4, 0, 0)")] {
        let error = run(order, blocks, 0).unwrap_err();
        assert!(
            error.contains(place) && error.contains("deadlock of blocks") && error.contains("wait for the turn after so many:"),
            "{error}"
        );
    }
}
