//! The table of what is compiled for a device: one unit per file of `kernels/cuda`.

/// One translation unit. Its text needs no header and no include path.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    pub name: &'static str,
    /// `ptx.cuh` and the kernels' file.
    pub source: &'static str,
    /// Names by which the driver finds the kernels.
    pub kernels: &'static [&'static str],
    /// Whether it is for Hopper alone (`sm_90a`): wgmma, TMA, setmaxnreg.
    pub needs_wgmma: bool,
    /// What the compile check builds it for; the lowest is the least that it runs on.
    pub architectures: &'static [&'static str],
}

macro_rules! unit {
    ($name:literal, [$($kernel:literal),* $(,)?]) => {
        Unit {
            name: $name,
            source: concat!(include_str!("../../cuda/ptx.cuh"), include_str!(concat!("../../cuda/", $name, ".cu"))),
            kernels: &[$($kernel),*],
            needs_wgmma: false,
            architectures: &["sm_80", "sm_90a"],
        }
    };
}

/// Every unit.
pub const UNITS: &[Unit] = &[
    unit!("embedding", ["embedding_forward", "embedding_backward"]),
    unit!("optimiser", ["square_partials", "sum_doubles", "adamw"]),
    unit!("rmsnorm", ["rmsnorm_forward", "rmsnorm_backward"]),
    unit!("rotary", ["rotary_forward", "rotary_backward"]),
    unit!("sort", ["sort_count", "sort_offsets", "sort_scatter"]),
    unit!("sums", ["column_partials", "add_partials"]),
    unit!("swiglu", ["swiglu_forward", "swiglu_backward"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    #[test]
    fn the_table_names_every_file_and_every_kernel() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: BTreeSet<String> = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(files, UNITS.iter().map(|unit| unit.name.to_string()).collect());
        for unit in UNITS {
            let heads = unit.source.lines().filter_map(|line| line.strip_prefix("KERNEL("));
            let kernels: Vec<&str> = heads.map(|head| head.split(',').next().unwrap()).collect();
            assert_eq!(kernels, unit.kernels, "{}", unit.name);
            assert_eq!(unit.needs_wgmma, !unit.architectures.contains(&"sm_80"), "{}", unit.name);
        }
    }
}
