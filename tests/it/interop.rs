//! Other tools read a run's files unchanged: pyarrow, DuckDB, Polars and pandas the Parquet, numpy and pyarrow the shards.

use crate::support::{Scratch, sample, succeed};
use std::process::Command;

const SCRIPT: &str = include_str!("interop.py");

#[test]
fn pyarrow_duckdb_polars_pandas_and_numpy_read_a_run() {
    let python = std::env::var("OSLER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_string());
    let packages = "import pyarrow, duckdb, polars, pandas, numpy";
    if !Command::new(&python).args(["-c", packages]).output().is_ok_and(|output| output.status.success()) {
        assert!(std::env::var("CI").is_err(), "CI must have {packages}: tests/run installs them");
        eprintln!("SKIPPED: {python} lacks a package ({packages}); `make test` installs them");
        return;
    }
    let scratch = Scratch::new("interop");
    let out = scratch.path("out");
    succeed(&mut sample(&out, 200));
    let output = succeed(Command::new(&python).arg("-c").arg(SCRIPT).arg(&out));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("all readers agree"), "{said}");
}
