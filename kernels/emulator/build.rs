//! Compiles every kernel of `kernels/cuda` as C++ for the host, with the emulator's headers in place of CUDA.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let cuda = root.join("../cuda");
    for path in ["include", "src", "../cuda"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).flag("-ftree-vectorize").flag("-g1").define("OSLER_EMULATOR", None);
    build.include(root.join("include")).include(&cuda);
    // Kernels are full of pragmas for another compiler; their warnings are that compiler's to give.
    build.flag("-Wno-unknown-pragmas").warnings(false);
    // Finds accesses outside buffers and names the kernel's line.
    if env::var_os("CARGO_FEATURE_ADDRESS_SANITIZER").is_some() {
        build.flag("-fsanitize=address").flag("-fno-omit-frame-pointer");
        // rustc links without the compiler's own libraries; what runs the tests must load this one first (tests/kernels/sanitize).
        println!("cargo:rustc-link-lib=dylib=asan");
    }
    // Nothing asks for a symbol of the units that enter kernels into the table, so the linker must be told to keep them.
    build.link_lib_modifier("+whole-archive");
    build.file(root.join("src/launch.cpp"));
    let mut names: Vec<PathBuf> =
        fs::read_dir(&cuda).expect("kernels/cuda is there").map(|entry| entry.expect("readable").path()).collect();
    names.extend(["src/probes.cu", "src/probes_hopper.cu"].map(|path| root.join(path)));
    names.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    names.sort();
    for path in names {
        build.file(unit(&path, &out));
    }
    if let Err(error) = build.try_compile("osler_emulator") {
        panic!("the CUDA emulator needs a C++20 compiler (g++ 10 or later, clang 12 or later; set CXX to choose): {error}");
    }
}

/// A C++ file that compiles one file of kernels and enters each into the table of kernels.
fn unit(path: &Path, out: &Path) -> PathBuf {
    let source = fs::read_to_string(path).expect("readable");
    let stem = path.file_stem().expect("a file").to_string_lossy().into_owned();
    // As in the table of units: what several of them share is put before them.
    let shared: &[&str] = match (stem.split('_').next(), stem.ends_with("_hopper")) {
        (Some("attention"), true) if stem.starts_with("attention_backward") => {
            &["tiles.cuh", "attention.cuh", "tiles_hopper.cuh", "attention_hopper.cuh", "attention_backward_hopper.cuh"]
        }
        (Some("attention"), true) => &["tiles.cuh", "attention.cuh", "tiles_hopper.cuh", "attention_hopper.cuh"],
        (Some("attention"), false) => &["tiles.cuh", "attention.cuh"],
        (Some("grouped"), true) => &["tiles_hopper.cuh", "grouped.cuh"],
        (Some("grouped"), false) => &["tiles.cuh", "grouped.cuh"],
        _ => &[],
    };
    let shared: String = shared.iter().map(|name| format!("#include \"{name}\"\n")).collect();
    // Units are compiled one by one for a device, so that each may have a function of the same name; here they are linked.
    let mut text = format!("#include \"ptx.cuh\"\nnamespace {{\n{shared}#include \"{}\"\n", path.display());
    // `KERNEL(name, threads)(` is how every kernel begins.
    for head in source.lines().filter_map(|line| line.strip_prefix("KERNEL(")) {
        let (name, rest) = head.split_once(", ").expect("KERNEL(name, threads)");
        let (threads, _) = rest.split_once(')').expect("KERNEL(name, threads)");
        writeln!(text, "static emulator::Registration {name}_entry(\"{name}\", {threads}, {name});").expect("to a string");
    }
    text.push_str("}\n");
    let file = out.join(format!("{stem}.cpp"));
    if fs::read_to_string(&file).ok().as_deref() != Some(&text) {
        fs::write(&file, text).expect("the folder of this build can be written");
    }
    file
}
