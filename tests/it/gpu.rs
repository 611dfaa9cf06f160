//! The program for machines with a GPU, as far as one without can see: `tests/gpu/run` on a chip is the rest.

use crate::support::{fail, succeed};
use osler_kernels::cuda::driver::find;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn run(what: &str) -> Command {
    let mut command = Command::new(root().join("tests/gpu/run"));
    // Whatever PyTorch has to say of a GPU is not wanted here.
    command.arg(what).env("OSLER_GPU", program()).env("CUDA_VISIBLE_DEVICES", "");
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn program() -> PathBuf {
    let test = std::env::current_exe().expect("path of this test");
    let program = test.parent().and_then(Path::parent).expect("target folder").join("examples/osler-gpu");
    assert!(program.is_file(), "{} is not built: run `cargo build --example osler-gpu` first, or `make test`", program.display());
    program
}

#[test]
fn without_a_gpu_it_says_so_in_one_line() {
    if find(0).is_ok() {
        println!("SKIPPED: there is a GPU here; make test-gpu");
        return;
    }
    for what in ["test", "bench"] {
        let (code, said) = fail(&mut run(what));
        assert_eq!((code, said.lines().count(), said.starts_with("error: ")), (2, 1, true), "{what}: {said}");
    }
}

#[test]
fn the_table_of_a_gpu_has_a_row_a_line() {
    let Some(python) = std::env::var_os("OSLER_TEST_PYTHON") else {
        println!("SKIPPED: OSLER_TEST_PYTHON is not set; make test");
        return;
    };
    let lines = r#"{"what":"product forward","case":"8 x 4 x 2","seconds":0.002,"bytes":null,"operations":1e12,"tokens":null,"share":0.5,"peak":989.4e12,"formula":"MFU","peer":{"kind":"product"}}
{"what":"copy","case":"8 x 4","seconds":0.001,"bytes":3e9,"operations":null,"tokens":null,"share":null,"peak":989.4e12,"formula":"MFU","peer":null}
{"what":"training step","case":"one","seconds":0.5,"bytes":null,"operations":1e14,"tokens":4096.0,"share":0.2,"peak":989.4e12,"formula":"MFU","peer":{"kind":"step"}}
"#;
    let mut table = Command::new(python)
        .arg(root().join("tests/gpu/bench.py"))
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    table.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("lines are taken");
    let output = table.wait_with_output().expect("an end");
    assert!(output.status.success());
    let output = String::from_utf8(output.stdout).expect("text");
    assert!(output.contains("\nMFU \n") && output.contains("| of 989 TFLOP/s |"), "{output}");
    assert!(output.contains("| product forward | 8 x 4 x 2 | 2.000 | 500 TFLOP/s | 50.0% |  |  |"), "{output}");
    assert!(output.contains("| copy | 8 x 4 | 1.000 | 3000 GB/s |  |  |  |"), "{output}");
    assert!(output.contains("| training step | one | 500.000 | 8,192 tokens/s, 200 TFLOP/s | 20.0% |  |  |"), "{output}");
}

#[test]
fn the_program_is_small_enough_to_be_carried() {
    let built = succeed(&mut run("build"));
    assert_eq!(String::from_utf8_lossy(&built.stdout).trim(), program().display().to_string());
}
