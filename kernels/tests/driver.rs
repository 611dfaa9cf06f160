//! The driver's side of a GPU: on a machine that has one, on it; elsewhere on a stand-in for CUDA's libraries (`stand_in/cuda.cpp`), which
//! shows that calls are made in order and with the right arguments, and nothing of speed. Needs NVRTC as `compile.rs` does, and a C++
//! compiler.

mod common;

use common::nvrtc;
use osler_kernels::cuda::driver::{Driver, Options, find};
use osler_kernels::cuda::nccl::{Id, Nccl};
use osler_kernels::cuda::{
    Argument, Aside, Command, Gpu, Launch, Launcher, MatrixBox, Operand, OutputKind, Product, TensorMap, Transfer, float_from_bf16,
    float_to_bf16,
};
use osler_kernels::operations::Needs;
use osler_kernels::{KernelError, Memory, Operations};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::LazyLock;

/// Where CUDA's libraries are: NVRTC as `tests/kernels/install` brings it and, without a GPU, the stand-in, which is then open.
static LIBRARIES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
    let compiler = nvrtc();
    if find(0).is_ok() {
        return vec![compiler];
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand-in");
    std::fs::create_dir_all(&folder).expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand_in/cuda.cpp");
    let driver = build(&folder, "libcuda.so.1", &["-std=c++17", "-O1"], &source);
    // What is allocated is known to one of the two: the other library is but a name for it.
    build(&folder, "libcublasLt.so.13", &["-Wl,--no-as-needed", "-x", "none"], &driver);
    build(&folder, "libnccl.so.2", &["-std=c++17", "-O1"], &source.with_file_name("nccl.cpp"));
    // SAFETY: the library was just built; its initialisers fill a map.
    let opened = unsafe { libloading::Library::new(&driver) };
    std::mem::forget(opened.expect("the stand-in"));
    vec![folder, compiler]
});

/// Builds a library where another process may be at it, too.
fn build(folder: &Path, name: &str, flags: &[&str], source: &Path) -> PathBuf {
    let (path, partial) = (folder.join(name), folder.join(format!("{name}.{}", std::process::id())));
    let mut compiler = process::Command::new("c++");
    compiler.args(["-shared", "-fPIC"]).arg(format!("-Wl,-soname,{name}")).args(flags).arg(source).arg("-o").arg(&partial);
    assert!(compiler.status().expect("a C++ compiler, called c++").success());
    std::fs::rename(&partial, &path).expect("the stand-in");
    path
}

/// Cubins of all tests and runs, `tests/kernels/check` included.
fn shared_cache() -> PathBuf {
    nvrtc().join("cubins")
}

fn open(cache: &Path) -> Driver {
    match Driver::open(&Options { ordinal: 0, libraries: &LIBRARIES, cache: Some(cache), ..Options::default() }) {
        Ok(driver) => driver,
        Err(error) => panic!("{error}\nfor tests: tests/kernels/install"),
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn bf16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&value| float_to_bf16(value).to_le_bytes()).collect()
}

/// Small numbers that bf16 holds exactly, as it does products and short sums of them.
fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|at| ((at * 7 + seed * 5) % 11) as f32 - 5.0).collect()
}

fn memory(driver: &Driver, bytes: &[u8]) -> <Driver as Launcher>::Memory {
    let memory = driver.allocate(bytes.len()).unwrap_or_else(|error| panic!("{error}"));
    driver.write(driver.address(&memory), bytes).unwrap_or_else(|error| panic!("{error}"));
    memory
}

fn floats(driver: &Driver, memory: &<Driver as Launcher>::Memory, kind: OutputKind, len: usize) -> Vec<f32> {
    let size = if kind == OutputKind::Stored { 2 } else { 4 };
    let mut bytes = vec![0; len * size];
    driver.read(driver.address(memory), &mut bytes).unwrap_or_else(|error| panic!("{error}"));
    let float = |bytes: &[u8]| match *bytes {
        [a, b] => float_from_bf16(u16::from_le_bytes([a, b])),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        _ => f32::NAN,
    };
    bytes.chunks_exact(size).map(float).collect()
}

#[test]
fn memory_is_zero_and_is_copied_to_the_byte() {
    let driver = open(&shared_cache());
    assert!(driver.found().memory_bytes > 0 && driver.not_kept().is_none(), "{:?}", driver.found());
    let (free, total) = driver.memory_bytes().unwrap();
    assert!(free <= total && total > 0);
    let first = driver.allocate(300).unwrap();
    assert!(driver.address(&first).is_multiple_of(256));
    let mut seen = vec![1; 300];
    driver.read(driver.address(&first), &mut seen).unwrap();
    assert_eq!(seen, vec![0; 300]);
    let text: Vec<u8> = (0..100).collect();
    driver.write(driver.address(&first) + 150, &text).unwrap();
    let second = driver.allocate(400).unwrap();
    driver.run(&Command::Copy { from: driver.address(&first), to: driver.address(&second) + 100, bytes: 260 }).unwrap();
    driver.read(driver.address(&second) + 240, &mut seen[..120]).unwrap();
    assert_eq!((&seen[..10], &seen[10..110], &seen[110..120]), (&[0; 10][..], &text[..], &[0; 10][..]));
    driver.run(&Command::Clear { address: driver.address(&second), bytes: 400 }).unwrap();
    driver.read(driver.address(&second) + 250, &mut seen[..100]).unwrap();
    assert_eq!(seen[..100], [0; 100]);
    let (gpu, bytes) = (Gpu::new(open(&shared_cache())), 1 << 46);
    let needs = |buffers: u64| Needs { buffers, ..Needs::default() };
    assert!(matches!(gpu.reserve(needs(bytes as u64)), Err(KernelError::Memory { bytes: wanted }) if wanted == bytes));
    gpu.reserve(Needs { scratch: 300, staging: 100, ..needs(1 << 20) }).unwrap();
    // Constants and staging take a piece each, scratch two.
    let free = (1 << 20) + 400 - 4 * 256;
    assert_eq!(gpu.free_bytes(), free);
    let cut = gpu.new_exact(1000).unwrap();
    assert_eq!(gpu.free_bytes(), free - 4096);
    // A piece of it holds zeros, whatever was there before.
    let mut seen = vec![1.0; 1000];
    gpu.write_exact(&mut gpu.new_exact(1000).unwrap(), 0, &seen).unwrap();
    gpu.read_exact(&gpu.new_exact(1000).unwrap(), 0, &mut seen).unwrap();
    assert_eq!(seen, [0.0; 1000]);
    drop(cut);
    assert_eq!(gpu.free_bytes(), free);
    let empty = driver.allocate(0).unwrap();
    driver.read(driver.address(&empty), &mut []).unwrap();
    assert!(matches!(driver.allocate(1 << 46), Err(KernelError::Memory { bytes }) if bytes == 1 << 46));
    driver.synchronize().unwrap();
    // More than one piece, and more pieces than are under way at a time.
    let long: Vec<u8> = (0..(20 << 20) + 7).map(|at: usize| (at % 251) as u8).collect();
    let held = driver.allocate(long.len() + 1).unwrap();
    driver.write(driver.address(&held) + 1, &long).unwrap();
    let mut seen = vec![1; long.len() + 1];
    driver.read(driver.address(&held), &mut seen).unwrap();
    assert!(seen[0] == 0 && seen[1..] == long[..]);
}

#[test]
fn kernels_are_launched_with_their_arguments_and_no_others() {
    let driver = open(&shared_cache());
    let (partials, output) = (memory(&driver, &bytes(&numbers(15, 1))), memory(&driver, &bytes(&numbers(5, 2))));
    let launch = Launch { kernel: "add_partials", grid: [1, 1, 1], threads: 256, shared_bytes: 0 };
    let arguments =
        [Argument::Pointer(driver.address(&output)), Argument::Pointer(driver.address(&partials)), Argument::U32(3), Argument::U64(5)];
    // From another thread, which has not used the device before.
    std::thread::scope(|scope| scope.spawn(|| driver.run(&Command::Launch(launch, arguments.to_vec()))).join().unwrap()).unwrap();
    let (added, before) = (numbers(15, 1), numbers(5, 2));
    let wanted: Vec<f32> = (0..5).map(|column| before[column] + (0..3).map(|row| added[row * 5 + column]).sum::<f32>()).collect();
    assert_eq!(floats(&driver, &output, OutputKind::Exact, 5), wanted);
    let [first, second, parts, columns] = arguments;
    for wrong in [&[first, second, parts][..], &[first, second, parts, parts], &[first, second, parts, columns, columns], &[]] {
        let error = driver.run(&Command::Launch(launch, wrong.to_vec())).unwrap_err().to_string();
        assert!(error.contains("add_partials: parameters of [8, 8, 4, 8] bytes are given ["), "{error}");
    }
    let error = driver.run(&Command::Launch(Launch { kernel: "nothing", ..launch }, arguments.to_vec())).unwrap_err().to_string();
    assert!(error.contains("no kernel `nothing` is loaded for sm_"), "{error}");
}

#[test]
fn kernels_for_hopper_may_be_left_out() {
    let cache = shared_cache();
    let (hopper, older) = (open(&cache), |without_wgmma| Options { cache: Some(&cache), libraries: &LIBRARIES, ordinal: 0, without_wgmma });
    let older = Driver::open(&older(true)).unwrap();
    assert_eq!((hopper.has_wgmma(), older.has_wgmma()), (hopper.found().architecture.has_wgmma(), false));
    let launch = Launch { kernel: "grouped_forward_hopper", grid: [1, 1, 1], threads: 32, shared_bytes: 0 };
    let error = older.run(&Command::Launch(launch, Vec::new())).unwrap_err().to_string();
    assert!(error.contains("grouped_forward_hopper"), "{error}");
}

#[test]
fn a_list_is_recorded_and_replayed() {
    let driver = open(&shared_cache());
    let (addend, sum) = (memory(&driver, &bytes(&[1.0, 2.0])), memory(&driver, &bytes(&[10.0, 20.0, 30.0])));
    let [addend_address, sum_address] = [&addend, &sum].map(|memory| driver.address(memory));
    let launch = Launch { kernel: "add_partials", grid: [1, 1, 1], threads: 256, shared_bytes: 0 };
    let arguments = vec![Argument::Pointer(sum_address), Argument::Pointer(addend_address), Argument::U32(1), Argument::U64(2)];
    let commands = [
        Command::Launch(launch, arguments),
        Command::Copy { from: sum_address, to: sum_address + 8, bytes: 4 },
        Command::Clear { address: sum_address + 4, bytes: 4 },
    ];
    let recording = driver.record(&commands).unwrap();
    let seen = || floats(&driver, &sum, OutputKind::Exact, 3);
    assert_eq!(seen(), [10.0, 20.0, 30.0], "recording runs nothing");
    driver.replay(&recording).unwrap();
    assert_eq!(seen(), [11.0, 0.0, 11.0]);
    driver.replay(&recording).unwrap();
    assert_eq!(seen(), [12.0, 0.0, 12.0]);
    // A list that cannot be recorded leaves the stream as it was.
    let wrong = Command::Launch(launch, Vec::new());
    assert!(driver.record(&[wrong]).is_err());
    driver.run(&commands[2]).unwrap();
    drop(recording);
    driver.synchronize().unwrap();
}

/// Numbers come as they were, not as what came after left them: one by one, recorded, replayed, and after some that nobody asked for.
#[test]
fn the_host_is_told_what_is_there_on_the_way() {
    let gpu = Gpu::new(open(&shared_cache()));
    let (mut told, mut others, mut board) = (gpu.new_exact(4).unwrap(), gpu.new_exact(9).unwrap(), gpu.new_board(6).unwrap());
    for round in 0..5 {
        let wanted = numbers(4, round);
        if round == 4 {
            gpu.tell(&told, &mut board, 0).unwrap();
            gpu.end_telling(None, &mut board).unwrap();
        }
        gpu.write_exact(&mut told, 0, &wanted).unwrap();
        let listed = gpu.as_one(|| {
            gpu.tell(&told, &mut board, 2)?;
            gpu.end_telling(None, &mut board)?;
            gpu.zero_exact(&mut told)?;
            (0..8).try_for_each(|_| gpu.zero_exact(&mut others))
        });
        listed.unwrap();
        let mut seen = [1.0; 6];
        assert_eq!(gpu.told(&mut board, &mut seen), Ok(0.0));
        assert_eq!((&seen[..2], &seen[2..]), (&[0.0; 2][..], &wanted[..]), "{round}");
    }
    // Told once.
    assert_eq!(gpu.told(&mut board, &mut []), Err(KernelError::nothing_told()));
    // Given back when nothing is at it any more: the driver refuses it before, which the next call would say.
    gpu.end_telling(None, &mut board).unwrap();
    drop(board);
    gpu.launcher().synchronize().unwrap();
    assert!(matches!(gpu.new_board(usize::MAX), Err(KernelError::Memory { .. })));
    let mut elsewhere = [0; 9];
    assert!(gpu.launcher().told(elsewhere.as_mut_ptr() as u64, &mut []).unwrap_err().to_string().contains("is not where"));
}

#[test]
fn what_is_aside_is_waited_for() {
    let driver = open(&shared_cache());
    let (addend, sum) = (memory(&driver, &bytes(&[1.0, 2.0])), memory(&driver, &bytes(&[10.0, 20.0])));
    let launch = Launch { kernel: "add_partials", grid: [1, 1, 1], threads: 256, shared_bytes: 0 };
    let add = Command::Launch(
        launch,
        vec![Argument::Pointer(driver.address(&sum)), Argument::Pointer(driver.address(&addend)), Argument::U32(1), Argument::U64(2)],
    );
    let seen = || floats(&driver, &sum, OutputKind::Exact, 2);
    let is_late = driver.found().name == "Stand-in";
    for round in 1..3 {
        let mark = driver.aside(&[Aside::Run(add.clone()), Aside::Run(add.clone())]).unwrap();
        if is_late {
            assert_eq!(seen(), [10.0 + 3.0 * (round - 1) as f32, 20.0 + 6.0 * (round - 1) as f32], "nothing has waited");
        }
        driver.wait(mark).unwrap();
        driver.run(&add).unwrap();
        assert_eq!(seen(), [10.0 + 3.0 * round as f32, 20.0 + 6.0 * round as f32]);
    }
    let clear = Command::Clear { address: driver.address(&sum), bytes: 8 };
    assert!(driver.aside(&[Aside::Run(clear)]).unwrap_err().to_string().contains("kernels and transfers alone"));
}

#[test]
fn a_tensor_map_describes_its_matrix() {
    let driver = open(&shared_cache());
    if !driver.has_wgmma() {
        return;
    }
    let held = driver.allocate(100 * 256).unwrap();
    let matrix = MatrixBox { address: driver.address(&held), rows: 100, columns: 96, row_bytes: 256, box_rows: 64 };
    let TensorMap(words) = driver.tensor_map(&matrix).unwrap();
    if driver.found().name == "Stand-in" {
        assert_eq!(words[..7], [matrix.address, 96, 100, 256, 64, 64, 0]);
    }
    for wrong in [MatrixBox { box_rows: 257, ..matrix }, MatrixBox { row_bytes: 200, ..matrix }, MatrixBox { box_rows: 1 << 40, ..matrix }]
    {
        assert!(driver.tensor_map(&wrong).is_err(), "{wrong:?}");
    }
}

/// `[3, 16] · [16, 8]` in every way that operands can lie, stored and exact, with a bias and added to.
#[test]
fn products_are_those_of_the_definition() {
    let root = tempfile::tempdir().unwrap();
    drop(open(&shared_cache()));
    for entry in std::fs::read_dir(shared_cache()).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "cubin") {
            std::fs::copy(entry.path(), root.path().join(entry.file_name())).unwrap();
        }
    }
    let cubins = std::fs::read_dir(root.path()).unwrap().count();
    let driver = open(root.path());
    const SIZES: [usize; 3] = [3, 8, 16];
    let [rows, columns, inner] = SIZES;
    let (left, right, bias) = (numbers(rows * inner, 1), numbers(inner * columns, 2), numbers(columns, 3));
    let before = numbers(rows * columns, 4);
    let [left_memory, right_memory, bias_memory] = [&left, &right, &bias].map(|values| memory(&driver, &bf16(values)));
    for case in 0..32 {
        let on = |bit: usize| case >> bit & 1 == 1;
        let kind = if on(2) { OutputKind::Stored } else { OutputKind::Exact };
        // A bias comes with stored outputs alone.
        let biased = on(3) && kind == OutputKind::Stored;
        let output = memory(&driver, &if kind == OutputKind::Stored { bf16(&before) } else { bytes(&before) });
        let product = Product {
            rows,
            columns,
            inner,
            left: Operand { address: driver.address(&left_memory), transposed: on(0) },
            right: Operand { address: driver.address(&right_memory), transposed: on(1) },
            bias: biased.then(|| driver.address(&bias_memory)),
            add: on(4),
            output: driver.address(&output),
            output_kind: kind,
        };
        driver.run(&Command::Multiply(product)).unwrap();
        let wanted = |row: usize, column: usize| {
            let left_at = |at: usize| left[if on(0) { at * rows + row } else { row * inner + at }];
            let right_at = |at: usize| right[if on(1) { column * inner + at } else { at * columns + column }];
            let sum: f32 = (0..inner).map(|at| left_at(at) * right_at(at)).sum();
            let sum = sum + if biased { bias[column] } else { 0.0 } + if on(4) { before[row * columns + column] } else { 0.0 };
            if kind == OutputKind::Stored { float_from_bf16(float_to_bf16(sum)) } else { sum }
        };
        let wanted: Vec<f32> = (0..rows * columns).map(|at| wanted(at / columns, at % columns)).collect();
        assert_eq!(floats(&driver, &output, kind, rows * columns), wanted, "{product:?}");
        // Nothing to sum.
        let empty = Product { inner: 0, ..product };
        if biased {
            assert!(driver.run(&Command::Multiply(empty)).is_err());
        } else {
            driver.run(&Command::Multiply(empty)).unwrap();
            let wanted = if on(4) { wanted } else { vec![0.0; rows * columns] };
            assert_eq!(floats(&driver, &output, kind, rows * columns), wanted);
        }
        driver.run(&Command::Multiply(Product { rows: 0, ..product })).unwrap();
    }
    // Choices are kept, and the next run reads them.
    let kept = |extension: &str| {
        let files = std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect::<Vec<_>>()
    };
    let [choices] = &kept("tsv")[..] else { panic!("{:?}", kept("tsv")) };
    let text = std::fs::read_to_string(choices).unwrap();
    assert!(text.lines().count() >= 24, "{text}");
    let again = open(root.path());
    again.synchronize().unwrap();
    // Nothing was compiled again, either.
    assert_eq!((kept("cubin").len(), std::fs::read_to_string(choices).unwrap()), (cubins, text.clone()));
    assert_eq!((again.choices(), again.kind()), (text.clone(), driver.kind()));
    // One that follows others takes theirs, and keeps nothing.
    let line = text.lines().next().unwrap();
    again.follow(line);
    assert_eq!(again.choices(), format!("{line}\n"));
    let output = memory(&again, &[0; 2 * 3 * 8]);
    let [left_memory, right_memory] = [&left, &right].map(|values| memory(&again, &bf16(values)));
    let [left, right] = [&left_memory, &right_memory].map(|held| Operand { address: again.address(held), transposed: false });
    let output_kind = OutputKind::Stored;
    let odd = Product { rows, columns, inner, left, right, bias: None, add: false, output: again.address(&output), output_kind };
    again.run(&Command::Multiply(odd)).unwrap();
    assert_eq!((again.choices(), std::fs::read_to_string(choices).unwrap()), (format!("{line}\n"), text));
}

/// NCCL of the stand-in; that of the machine where it has a GPU. Ranks are then on one device, which NCCL takes for one rank alone.
fn nccl() -> Option<(Nccl, usize)> {
    let ranks = if find(0).is_ok_and(|found| found.name == "Stand-in") { 2 } else { 1 };
    match Nccl::open(&LIBRARIES) {
        Ok(nccl) => Some((nccl, ranks)),
        Err(error) if ranks == 1 => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn join(
    driver: &Driver,
    nccl: Nccl,
    id: Id,
    place: (usize, usize),
) -> Result<std::sync::Arc<osler_kernels::cuda::nccl::Connection>, KernelError> {
    driver.join(nccl, id, place, || Ok(()))
}

/// Transfers, and then all that comes after them.
fn exchange(driver: &Driver, transfers: &[Transfer]) -> Result<(), KernelError> {
    driver.wait(driver.aside(&[Aside::Exchange(transfers.to_vec())])?)
}

#[test]
fn devices_of_several_ranks_reach_each_other() {
    LazyLock::force(&LIBRARIES);
    let Some((nccl, ranks)) = nccl() else { return };
    let id = nccl.new_id().unwrap();
    let run = |rank: usize| {
        let driver = open(&shared_cache());
        let alone = exchange(&driver, &[Transfer::Broadcast { root: 0, address: 0, bytes: 0 }]).unwrap_err().to_string();
        assert!(alone.contains("was not joined with"), "{alone}");
        let connection = join(&driver, Nccl::open(&LIBRARIES).unwrap(), id, (rank, ranks)).unwrap();
        let own = memory(&driver, &[[1, 2, 3, 4].map(|byte| byte + 10 * rank as u8), [9; 4]].concat());
        let got = memory(&driver, &[0; 8]);
        let (address, staging, other) = (driver.address(&own), driver.address(&got), (rank + 1) % ranks);
        // The first that is sent is the first that is received, and of another length.
        let transfers = [
            Transfer::Send { to: other, address, bytes: 2 },
            Transfer::Receive { from: other, address: staging + 1, bytes: 2 },
            Transfer::Send { to: other, address: address + 2, bytes: 1 },
            Transfer::Receive { from: other, address: staging + 4, bytes: 1 },
        ];
        exchange(&driver, &transfers).unwrap();
        let roots = [ranks - 1, 0];
        let broadcasts = roots.map(|root| Transfer::Broadcast { root, address: address + 4 * (root as u64), bytes: 3 });
        exchange(&driver, &broadcasts).unwrap();
        let mut seen = [[0; 8]; 2];
        driver.read(driver.address(&got), &mut seen[0]).unwrap();
        driver.read(driver.address(&own), &mut seen[1]).unwrap();
        let from = 10 * other as u8;
        assert_eq!(seen[0], [0, 1 + from, 2 + from, 0, 3 + from, 0, 0, 0], "rank {rank}");
        assert_eq!(seen[1][..4], [1, 2, 3, 4 + 10 * rank as u8], "rank {rank}");
        let error = exchange(&driver, &[Transfer::Send { to: ranks, address, bytes: 1 }]).unwrap_err().to_string();
        assert!(error.contains("numbers that go to other ranks: invalid argument"), "{error}");
        assert!(!connection.is_given_up());
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..ranks).map(|rank| scope.spawn(move || run(rank))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let wrong = join(&open(&shared_cache()), nccl, id, (ranks, ranks)).unwrap_err().to_string();
    assert!(
        wrong.contains(&format!("rank {ranks} of {ranks} does not reach the other ranks' devices by NCCL: invalid argument")),
        "{wrong}"
    );
    assert!(!wrong.contains('\n'));
}

/// Where ranks wait for one that never comes: while they join, and after it.
#[test]
fn nobody_waits_for_a_rank_that_is_gone() {
    LazyLock::force(&LIBRARIES);
    let Some((nccl, 2)) = nccl() else { return };
    let driver = open(&shared_cache());
    let asked = std::cell::Cell::new(0);
    let wait = || {
        asked.set(asked.get() + 1);
        if asked.get() < 3 { Ok(()) } else { Err(KernelError::Cuda("rank 1 is gone".into())) }
    };
    let error = driver.join(Nccl::open(&LIBRARIES).unwrap(), nccl.new_id().unwrap(), (0, 2), wait).unwrap_err();
    assert_eq!((error, asked.get()), (KernelError::Cuda("rank 1 is gone".into()), 3));
    let id = nccl.new_id().unwrap();
    let held = memory(&driver, &[0; 4]);
    let transfer = [Transfer::Receive { from: 1, address: driver.address(&held), bytes: 4 }];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let other = open(&shared_cache());
            let connection = join(&other, Nccl::open(&LIBRARIES).unwrap(), id, (1, 2)).unwrap();
            connection.give_up();
            assert!(connection.is_given_up());
        });
        let connection = join(&driver, nccl, id, (0, 2)).unwrap();
        let waits = scope.spawn(|| exchange(&driver, &transfer).unwrap_err().to_string());
        let begun = std::time::Instant::now();
        connection.give_up();
        connection.give_up();
        let error = waits.join().unwrap();
        assert!(error.contains("given up") || error.contains("remote process exited"), "{error}");
        assert!(exchange(&driver, &transfer).unwrap_err().to_string().contains("was given up"));
        // What is read now may be anything.
        assert!(driver.read(driver.address(&held), &mut [0; 4]).unwrap_err().to_string().contains("was given up"));
        assert!(begun.elapsed() < std::time::Duration::from_secs(60));
    });
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    LazyLock::force(&LIBRARIES);
    let error = find(99).unwrap_err().to_string();
    assert!(error.contains("none with the number 99"), "{error}");
}
