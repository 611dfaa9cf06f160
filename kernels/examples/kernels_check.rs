//! Compiles every kernel for every architecture it is meant for, without a GPU, and holds what each takes of the chip against a table.
//!
//! `kernels_check NVRTC_FOLDER NVDISASM CACHE TABLE [--bless]`: prints the table, and what differs from the one in the file; `--bless` writes it.
//! `tests/kernels/check` calls it.

use osler_kernels::KernelError;
use osler_kernels::cuda::architecture::Architecture;
use osler_kernels::cuda::compile::{Compiler, Resources, Source};
use osler_kernels::cuda::units::{UNITS, Unit, launch_shared_bytes};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;
use std::{env, fs};

/// Registers are those of this compiler.
const NVRTC: (i32, i32) = (13, 0);

const HEAD: &str = "unit\tkernel\tarchitecture\tregisters\tstack_bytes\tspill_stores_bytes\tspill_loads_bytes\tstatic_shared_bytes\tlaunch_shared_bytes\t\
     barriers\tHMMA\tHGMMA";

fn main() -> ExitCode {
    match check() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it should be.
fn check() -> Result<bool, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let ([folder, disassembler, cache, path], bless) = match &arguments[..] {
        [folder, disassembler, cache, path] => ([folder, disassembler, cache, path], false),
        [folder, disassembler, cache, path, flag] if flag == "--bless" => ([folder, disassembler, cache, path], true),
        _ => return Err("usage: kernels_check NVRTC_FOLDER NVDISASM CACHE TABLE [--bless]".into()),
    };
    let compiler = Compiler::open(&[PathBuf::from(folder)], Some(PathBuf::from(cache)))?;
    if compiler.version() != NVRTC {
        let (found, wanted) = (compiler.version(), NVRTC);
        return Err(format!("NVRTC is of version {found:?}, and the table is for {wanted:?}: is another one on the library path?").into());
    }
    let begun = Instant::now();
    let builds: Vec<(&Unit, &str)> = UNITS.iter().flat_map(|unit| unit.architectures.iter().map(move |name| (unit, *name))).collect();
    let built: Vec<Built> =
        builds.par_iter().map(|(unit, name)| build(unit, name.parse()?, &compiler, Path::new(disassembler))).collect::<Result<_, _>>()?;
    let mut faults: Vec<String> = built.iter().flat_map(|built| built.faults.clone()).collect();
    let lines: Vec<String> = std::iter::once(HEAD.to_string()).chain(built.into_iter().flat_map(|built| built.rows)).collect();
    let table = lines.join("\n") + "\n";
    print!("{}", aligned(&lines));
    println!("{} kernels compiled in {:.1} s", lines.len() - 1, begun.elapsed().as_secs_f64());
    if bless && faults.is_empty() {
        fs::write(path, &table)?;
        println!("{path} is written");
    } else {
        faults.extend(differences(&fs::read_to_string(path).unwrap_or_default(), &table, path));
    }
    faults.iter().for_each(|fault| eprintln!("fault: {fault}"));
    Ok(faults.is_empty())
}

/// What became of a unit: rows of the table, a kernel each, and what is wrong.
#[derive(Debug, Default)]
struct Built {
    rows: Vec<String>,
    faults: Vec<String>,
}

/// Instructions of a kernel that multiply on tensor cores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Products {
    /// By a warp: HMMA.
    warp: usize,
    /// By a warpgroup: HGMMA.
    warpgroup: usize,
}

fn build(unit: &Unit, architecture: Architecture, compiler: &Compiler, disassembler: &Path) -> Result<Built, KernelError> {
    let cubin = match compiler.compile(&Source::from(unit), architecture) {
        Ok(cubin) => cubin,
        Err(error @ KernelError::Compile { .. }) => return Ok(Built { rows: Vec::new(), faults: vec![error.to_string()] }),
        Err(error) => return Err(error),
    };
    // The compiler makes no tensor-core instruction of its own accord, and the disassembler takes longer to start than the rest.
    let products = if unit.needs_wgmma || calls_tensor_cores(unit) {
        match disassemble(&format!("{}-{architecture}", unit.name), &cubin.bytes, disassembler) {
            Ok(text) => tensor_products(&text),
            Err(fault) => return Ok(Built { rows: Vec::new(), faults: vec![fault] }),
        }
    } else {
        BTreeMap::new()
    };
    let mut faults = faults(unit, architecture, &cubin.resources, &products);
    faults.extend(serialised(unit.name, &cubin.log));
    let mut rows: Vec<String> = cubin
        .resources
        .iter()
        .map(|taken| {
            let Resources { kernel, registers, stack_bytes, spill_stores_bytes, spill_loads_bytes, shared_bytes, barriers } = taken;
            let Products { warp, warpgroup } = products.get(kernel).copied().unwrap_or_default();
            let spills = format!("{spill_stores_bytes}\t{spill_loads_bytes}");
            let shared = format!("{shared_bytes}\t{}", launch_shared_bytes(kernel).map_or("-".into(), |bytes| bytes.to_string()));
            let name = unit.name;
            format!("{name}\t{kernel}\t{architecture}\t{registers}\t{stack_bytes}\t{spills}\t{shared}\t{barriers}\t{warp}\t{warpgroup}")
        })
        .collect();
    rows.sort();
    Ok(Built { rows, faults })
}

/// What a table that was written anew would not show.
fn faults(unit: &Unit, architecture: Architecture, resources: &[Resources], products: &BTreeMap<String, Products>) -> Vec<String> {
    let place = format!("{}.cu for {architecture}", unit.name);
    let mut faults = Vec::new();
    let found: BTreeSet<&str> = resources.iter().map(|taken| taken.kernel.as_str()).collect();
    let wanted: BTreeSet<&str> = unit.kernels.iter().copied().collect();
    if found != wanted {
        faults.push(format!("{place} has the kernels {found:?}, and the table of units says {wanted:?}"));
    }
    for kernel in unit.kernels.iter().filter(|kernel| !WITHOUT_PRODUCTS.contains(kernel)) {
        let Products { warp, warpgroup } = products.get(*kernel).copied().unwrap_or_default();
        if unit.needs_wgmma && warpgroup == 0 {
            faults.push(format!("{place}: {kernel} is meant to multiply by warpgroups, and has no HGMMA instruction"));
        }
        if !unit.needs_wgmma && calls_tensor_cores(unit) && warp == 0 {
            faults.push(format!("{place}: {kernel} is meant to multiply on tensor cores, and has no HMMA instruction"));
        }
    }
    faults
}

/// Kernels that multiply nothing, in units of others that do.
const WITHOUT_PRODUCTS: &[&str] = &[
    "attention_delta",
    "attention_query_slopes_hopper_64",
    "attention_query_slopes_hopper_80",
    "attention_query_slopes_hopper_96",
    "attention_query_slopes_hopper_128",
    "attention_query_slopes_hopper_256",
];

/// Whether a unit calls the product of a warp: in its own files, after that of the wrappers, which is the first.
fn calls_tensor_cores(unit: &Unit) -> bool {
    unit.source.split("#line 1 ").skip(2).any(|file| file.contains("mma_m16n8k16("))
}

/// Where the compiler says that it made one warpgroup product wait for another, which costs most of their speed.
fn serialised(name: &str, log: &str) -> Option<String> {
    let line = log.lines().find(|line| line.contains("wgmma") && line.contains("serialized"))?;
    Some(format!("{name}.cu: {}", line.trim()))
}

fn disassemble(name: &str, cubin: &[u8], disassembler: &Path) -> Result<String, String> {
    let file = env::temp_dir().join(format!("osler-{}-{name}.cubin", std::process::id()));
    let output = fs::write(&file, cubin).and_then(|()| Command::new(disassembler).arg("-c").arg(&file).output());
    let _ = fs::remove_file(&file);
    let output = output.map_err(|error| format!("{}: {error}", disassembler.display()))?;
    if !output.status.success() {
        return Err(format!("{} fails: {}", disassembler.display(), String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// By kernel, counted in a disassembly.
fn tensor_products(text: &str) -> BTreeMap<String, Products> {
    let (mut found, mut kernel) = (BTreeMap::<String, Products>::new(), "");
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|name| name.strip_suffix(':')) {
            kernel = name;
        }
        // The operation stands after its address and perhaps a predicate, with its shape and types after dots.
        let mut words = line.split_whitespace().map(|word| word.split('.').next().unwrap_or_default());
        let products = found.entry(kernel.to_string()).or_default();
        match words.find(|word| matches!(*word, "HMMA" | "HGMMA")) {
            Some("HMMA") => products.warp += 1,
            Some(_) => products.warpgroup += 1,
            None => {}
        }
    }
    found
}

/// What is in one table and not in the other.
fn differences(before: &str, now: &str, path: &str) -> Vec<String> {
    let only = |these: &str, those: &str, sign: char| -> Vec<String> {
        these.lines().filter(|line| !those.lines().any(|other| other == *line)).map(|line| format!("{sign} {line}")).collect()
    };
    let lines = [only(before, now, '-'), only(now, before, '+')].concat();
    if lines.is_empty() {
        return Vec::new();
    }
    vec![format!("{path} says otherwise; if that is meant: make kernels-check ARGS=--bless\n{}", lines.join("\n"))]
}

/// For people: columns under each other.
fn aligned(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or_default()).map(width).collect();
    let line = |row: &Vec<&str>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as nvdisasm 13.2 writes them.
    const TEXT: &str = "//--------------------- .text.forward --------------------------
	.section	.text.forward,\"ax\",@progbits
.text.forward:
        /*0080*/                   HMMA.16816.F32.BF16 R4, R4, R8, RZ ;
        /*0090*/              @!P0 HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
        /*00a0*/                   HFMA2.MMA R3, -RZ, RZ, 0, 0 ;
.text.backward:
        /*0100*/                   HGMMA.64x8x16.F32.BF16 R24, gdesc[UR4], !UPT, gsb0 ;
";

    const UNIT: Unit = Unit {
        name: "attention",
        source: "#line 1 \"ptx.cuh\"\nmma_m16n8k16(\n#line 1 \"attention.cu\"\n",
        kernels: &["forward"],
        needs_wgmma: false,
        architectures: &["sm_90a"],
    };

    fn found(unit: &Unit, kernel: &str, products: Products) -> Vec<String> {
        let resources = [Resources { kernel: kernel.into(), ..Resources::default() }];
        faults(unit, Architecture::SM_90A, &resources, &BTreeMap::from([(kernel.to_string(), products)]))
    }

    #[test]
    fn instructions_are_counted_by_kernel() {
        let found = tensor_products(TEXT);
        assert_eq!(found["forward"], Products { warp: 2, warpgroup: 0 });
        assert_eq!(found["backward"], Products { warp: 0, warpgroup: 1 });
    }

    #[test]
    fn what_is_meant_for_tensor_cores_must_use_them() {
        let (none, warp, warpgroup) = (Products::default(), Products { warp: 1, warpgroup: 0 }, Products { warp: 0, warpgroup: 1 });
        assert!(found(&UNIT, "forward", none).is_empty());
        let by_warp = Unit { source: "#line 1 \"ptx.cuh\"\n#line 1 \"a.cu\"\n    mma_m16n8k16(sum, a, b);", ..UNIT };
        assert!(found(&by_warp, "forward", warp).is_empty());
        assert!(found(&by_warp, "forward", none)[0].contains("no HMMA"));
        let by_warpgroup = Unit { needs_wgmma: true, ..UNIT };
        assert!(found(&by_warpgroup, "forward", warpgroup).is_empty());
        assert!(found(&by_warpgroup, "forward", warp)[0].contains("no HGMMA"));
        assert!(found(&UNIT, "other", none)[0].contains("has the kernels {\"other\"}"));
        let kernels: Vec<&str> = UNITS.iter().flat_map(|unit| unit.kernels).copied().collect();
        assert!(WITHOUT_PRODUCTS.iter().all(|kernel| kernels.contains(kernel)));
    }

    #[test]
    fn a_kernel_without_products_is_not_covered_by_another() {
        let unit = Unit { needs_wgmma: true, kernels: &["one", "other", "attention_delta"], ..UNIT };
        let resources = unit.kernels.iter().map(|&kernel| Resources { kernel: kernel.into(), ..Resources::default() }).collect::<Vec<_>>();
        let products = BTreeMap::from([("one".to_string(), Products { warp: 0, warpgroup: 3 })]);
        let faults = faults(&unit, Architecture::SM_90A, &resources, &products);
        assert!(faults.len() == 1 && faults[0].contains(": other is meant"), "{faults:?}");
    }

    #[test]
    fn products_that_wait_for_each_other_are_a_fault() {
        let log = "ptxas info    : 0 bytes gmem\nptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are \
                   serialized due to non wgmma instructions defining accumulator registers in function 'forward'\n";
        assert!(serialised("attention", log).is_some_and(|fault| fault.starts_with("attention.cu: ptxas info    : (C7510)")));
        assert_eq!(serialised("attention", "ptxas info    : 0 bytes gmem\n"), None);
    }

    #[test]
    fn differences_are_shown_line_by_line() {
        assert!(differences("a\nb\n", "a\nb\n", "t").is_empty());
        let [shown] = &differences("a\nb\n", "a\nc\n", "t")[..] else { panic!("one fault") };
        assert!(shown.starts_with("t says otherwise") && shown.ends_with("\n- b\n+ c"), "{shown}");
    }
}
