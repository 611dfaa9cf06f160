//! The compiler of kernels and its cache. Needs NVRTC and no GPU: `tests/kernels/install` brings it, `tests/run` and `make kernels-check` do so.

mod common;

use common::nvrtc;
use osler_kernels::KernelError;
use osler_kernels::cuda::architecture::Architecture;
use osler_kernels::cuda::compile::{Compiler, Cubin, Origin, Source};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

const PLAIN: Source<'static> = Source {
    name: "scale.cu",
    text: r#"
#include "index.cuh"
extern "C" __global__ void scale(float* values, float factor, long long len) {
    __shared__ float block[64];
    long long at = thread_index();
    block[threadIdx.x % 64] = at < len ? values[at] : 0.0f;
    __syncthreads();
    if (at < len) values[at] = block[(threadIdx.x + 1) % 64] / factor;
}
"#,
    headers: &[("index.cuh", "__device__ inline long long thread_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }\n")],
    fast_math: false,
};

/// A product of 16 x 16 by 16 x 8 on tensor cores.
const MMA: Source<'static> = Source {
    name: "product.cu",
    text: r#"
extern "C" __global__ void product(const unsigned* a, const unsigned* b, float* c) {
    float d0 = 0, d1 = 0, d2 = 0, d3 = 0;
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
        : "r"(a[threadIdx.x]), "r"(a[32 + threadIdx.x]), "r"(a[64 + threadIdx.x]), "r"(a[96 + threadIdx.x]), "r"(b[threadIdx.x]),
          "r"(b[32 + threadIdx.x]));
    c[threadIdx.x] = d0 + d1 + d2 + d3;
}
"#,
    headers: &[],
    fast_math: false,
};

/// A product of warpgroups, which only sm_90a has.
const WGMMA: Source<'static> = Source {
    name: "warpgroup.cu",
    text: r#"
extern "C" __global__ void warpgroup(unsigned long long a, unsigned long long b, float* c) {
    float d0 = 0, d1 = 0, d2 = 0, d3 = 0;
    asm volatile("wgmma.fence.sync.aligned;");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
        : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3) : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;");
    asm volatile("wgmma.wait_group.sync.aligned 0;");
    c[threadIdx.x] = d0 + d1 + d2 + d3;
}
"#,
    headers: &[],
    fast_math: false,
};

fn compiler(cache: Option<&Path>) -> Compiler {
    match Compiler::open(&[nvrtc()], cache.map(Path::to_path_buf)) {
        Ok(compiler) => compiler,
        Err(error) => panic!("{error}\nfor tests: tests/kernels/install"),
    }
}

/// The files of a cache.
fn entries(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache).into_iter().flatten().map(|entry| entry.map(|entry| entry.path()).unwrap_or_default()).collect()
}

fn is_elf(cubin: &Cubin) -> bool {
    cubin.bytes.starts_with(b"\x7fELF")
}

#[test]
fn the_second_compilation_is_read_from_the_cache() {
    let root = tempfile::tempdir().unwrap();
    let cache = root.path().join("cubins");
    let begun = Instant::now();
    let first = compiler(Some(&cache)).compile(&PLAIN, Architecture::SM_80).unwrap();
    let (compiled, begun) = (begun.elapsed(), Instant::now());
    let second = compiler(Some(&cache)).compile(&PLAIN, Architecture::SM_80).unwrap();
    println!("compiled in {compiled:?}, read in {:?}", begun.elapsed());
    assert_eq!((&first.origin, &second.origin), (&Origin::Compiled, &Origin::Cache));
    assert!(is_elf(&first));
    assert!(first.bytes == second.bytes);
    assert_eq!(first.resources, second.resources);
    let [scale] = &first.resources[..] else { panic!("{:?}", first.resources) };
    assert_eq!((scale.kernel.as_str(), scale.shared_bytes, scale.barriers, scale.spill_stores_bytes), ("scale", 256, 1, 0));
    assert!((1..=255).contains(&scale.registers), "{scale:?}");
    let other = compiler(Some(&cache)).compile(&PLAIN, Architecture::SM_90A).unwrap();
    assert_eq!(other.origin, Origin::Compiled);
    let fast = compiler(Some(&cache)).compile(&Source { fast_math: true, ..PLAIN }, Architecture::SM_80).unwrap();
    assert_eq!(fast.origin, Origin::Compiled);
    assert!(fast.bytes != first.bytes);
    assert_eq!(entries(&cache).len(), 3);
}

#[test]
fn a_damaged_entry_is_compiled_again() {
    let root = tempfile::tempdir().unwrap();
    let compiler = compiler(Some(root.path()));
    let first = compiler.compile(&PLAIN, Architecture::SM_80).unwrap();
    let [entry] = &entries(root.path())[..] else { panic!("one entry") };
    let whole = fs::read(entry).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    for damaged in [&whole[..whole.len() / 2], &[], &flipped] {
        fs::write(entry, damaged).unwrap();
        let again = compiler.compile(&PLAIN, Architecture::SM_80).unwrap();
        assert_eq!(again.origin, Origin::Compiled);
        assert!(again.bytes == first.bytes);
        assert!(fs::read(entry).unwrap() == whole);
    }
    assert_eq!(compiler.compile(&PLAIN, Architecture::SM_80).unwrap().origin, Origin::Cache);
}

#[test]
fn a_cache_that_cannot_be_written_costs_time_alone() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let cubin = compiler(Some(&file.join("cubins"))).compile(&PLAIN, Architecture::SM_80).unwrap();
    assert!(is_elf(&cubin));
    assert!(matches!(&cubin.origin, Origin::NotKept(reason) if reason.contains("file/cubins")), "{:?}", cubin.origin);
    let unkept = compiler(None).compile(&PLAIN, Architecture::SM_80).unwrap();
    assert_eq!(unkept.origin, Origin::Compiled);
    assert!(unkept.bytes == cubin.bytes);
}

#[test]
fn an_error_has_the_log_with_file_and_line() {
    let root = tempfile::tempdir().unwrap();
    let wrong = Source { text: "extern \"C\" __global__ void wrong(float* x) {\n    x[0] = unknown;\n}\n", name: "wrong.cu", ..MMA };
    let error = compiler(Some(root.path())).compile(&wrong, Architecture::SM_80).unwrap_err();
    let KernelError::Compile { source_name, architecture, log } = &error else { panic!("{error:?}") };
    assert_eq!((source_name.as_str(), architecture.as_str()), ("wrong.cu", "sm_80"));
    assert!(log.contains("wrong.cu(2)") && log.contains("unknown"), "{log}");
    assert!(entries(root.path()).is_empty(), "what does not compile is not kept");
    let absent = Source { text: "#include \"absent.cuh\"\n", ..wrong };
    let error = compiler(None).compile(&absent, Architecture::SM_80).unwrap_err().to_string();
    assert!(error.starts_with("wrong.cu does not compile for sm_80:\n") && error.contains("absent.cuh"), "{error}");
    let zero = compiler(None).compile(&Source { text: "\0", ..wrong }, Architecture::SM_80).unwrap_err().to_string();
    assert!(zero.contains("zero byte"), "{zero}");
}

#[test]
fn tensor_cores_are_compiled_for_where_they_are() {
    let compiler = compiler(None);
    assert!(compiler.version() >= (13, 0));
    for architecture in [Architecture::SM_80, Architecture::SM_90A] {
        let cubin = compiler.compile(&MMA, architecture).unwrap();
        assert_eq!(cubin.resources.iter().map(|taken| taken.kernel.as_str()).collect::<Vec<_>>(), ["product"]);
    }
    assert!(is_elf(&compiler.compile(&WGMMA, Architecture::SM_90A).unwrap()));
    let error = compiler.compile(&WGMMA, Architecture::SM_80).unwrap_err().to_string();
    assert!(error.contains("wgmma"), "{error}");
}

/// Many at once, as when a device is opened: entries are whole whoever writes them.
#[test]
fn compilers_share_a_cache() {
    let root = tempfile::tempdir().unwrap();
    let cubins: Vec<Cubin> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| compiler(Some(root.path())).compile(&MMA, Architecture::SM_90A).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(cubins.iter().all(|cubin| cubin.bytes == cubins[0].bytes));
    assert_eq!(entries(root.path()).len(), 1);
    assert_eq!(compiler(Some(root.path())).compile(&MMA, Architecture::SM_90A).unwrap().origin, Origin::Cache);
}
