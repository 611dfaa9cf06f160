//! The table of what is compiled for a device: one unit per file of `kernels/cuda`.

/// One translation unit. Its text needs no header and no include path.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    pub name: &'static str,
    /// `ptx.cuh`, what several units share, and the kernels' file.
    pub source: &'static str,
    /// Names by which the driver finds the kernels.
    pub kernels: &'static [&'static str],
    /// Whether it is for Hopper alone (`sm_90a`): wgmma, TMA, setmaxnreg.
    pub needs_wgmma: bool,
    /// What the compile check builds it for; the lowest is the least that it runs on.
    pub architectures: &'static [&'static str],
}

macro_rules! unit {
    ($name:literal $(after $shared:literal)*, [$($kernel:literal),* $(,)?]) => {
        unit!($name $(after $shared)*, [$($kernel),*], needs_wgmma: false, architectures: &["sm_80", "sm_90a"])
    };
    (hopper $name:literal $(after $shared:literal)*, [$($kernel:literal),* $(,)?]) => {
        unit!($name after "ptx_hopper.cuh" $(after $shared)*, [$($kernel),*], needs_wgmma: true, architectures: &["sm_90a"])
    };
    ($name:literal $(after $shared:literal)*, [$($kernel:literal),*], needs_wgmma: $wgmma:literal, architectures: $architectures:expr) => {
        Unit {
            name: $name,
            // Messages and profilers name the file and its line.
            source: concat!(
                "#line 1 \"ptx.cuh\"\n",
                include_str!("../../cuda/ptx.cuh"),
                $("\n#line 1 \"", $shared, "\"\n", include_str!(concat!("../../cuda/", $shared)),)*
                "\n#line 1 \"",
                $name,
                ".cu\"\n",
                include_str!(concat!("../../cuda/", $name, ".cu")),
            ),
            kernels: &[$($kernel),*],
            needs_wgmma: $wgmma,
            architectures: $architectures,
        }
    };
}

/// Every unit.
pub const UNITS: &[Unit] = &[
    unit!("attention_backward" after "tiles.cuh" after "attention.cuh", ["attention_delta", "attention_backward_keys_32", "attention_backward_keys_64", "attention_backward_keys_80", "attention_backward_keys_96", "attention_backward_keys_128", "attention_backward_keys_256", "attention_backward_queries_32", "attention_backward_queries_64", "attention_backward_queries_80", "attention_backward_queries_96", "attention_backward_queries_128", "attention_backward_queries_256"]),
    unit!("attention_forward" after "tiles.cuh" after "attention.cuh", ["attention_forward_32", "attention_forward_64", "attention_forward_80", "attention_forward_96", "attention_forward_128", "attention_forward_256"]),
    unit!(
        hopper "attention_backward_hopper" after "tiles.cuh" after "attention.cuh" after "tiles_hopper.cuh" after "attention_hopper.cuh"
            after "attention_backward_hopper.cuh",
        [
            "attention_backward_hopper_64",
            "attention_backward_hopper_80",
            "attention_backward_hopper_96",
            "attention_backward_hopper_128",
            "attention_query_slopes_hopper_64",
            "attention_query_slopes_hopper_80",
            "attention_query_slopes_hopper_96",
            "attention_query_slopes_hopper_128",
        ]
    ),
    unit!(
        hopper "attention_backward_wide_hopper" after "tiles.cuh" after "attention.cuh" after "tiles_hopper.cuh"
            after "attention_hopper.cuh" after "attention_backward_hopper.cuh",
        ["attention_backward_hopper_256", "attention_query_slopes_hopper_256"]
    ),
    unit!(
        hopper "attention_forward_hopper" after "tiles.cuh" after "attention.cuh" after "tiles_hopper.cuh" after "attention_hopper.cuh",
        [
            "attention_forward_hopper_64",
            "attention_forward_hopper_80",
            "attention_forward_hopper_96",
            "attention_forward_hopper_128",
            "attention_forward_hopper_256",
        ]
    ),
    unit!("dispatch", ["permute_forward", "combine_forward", "combine_backward"]),
    unit!("embedding", ["embedding_forward", "embedding_backward"]),
    unit!("grouped" after "tiles.cuh" after "grouped.cuh", ["grouped_forward", "grouped_backward_input", "grouped_backward_weight", "grouped_backward_weight_stored"]),
    unit!(
        hopper "grouped_hopper" after "tiles_hopper.cuh" after "grouped.cuh",
        ["grouped_forward_hopper", "grouped_backward_input_hopper", "grouped_backward_weight_hopper", "grouped_backward_weight_stored_hopper"]
    ),
    unit!("board", ["tell", "end_telling"]),
    unit!("head_loss", ["cross_entropy"]),
    unit!(
        "optimiser",
        [
            "square_partials",
            "square_partials_stored",
            "sum_doubles",
            "clip",
            "add",
            "adamw",
            "adamw_stored",
            "adamw_blockwise",
            "adamw_blockwise_stored",
        ]
    ),
    unit!("rmsnorm", ["rmsnorm_forward", "rmsnorm_backward"]),
    unit!("rotary", ["rotary_forward", "rotary_backward"]),
    unit!("route", ["route_forward", "route_backward", "balance_partials", "balance_loss"]),
    unit!("sort", ["sort_count", "sort_offsets", "sort_scatter"]),
    unit!("sums", ["column_partials", "add_partials", "add_in_order"]),
    unit!("swiglu", ["swiglu_forward", "swiglu_backward"]),
];

/// Dynamic shared memory that a kernel is launched with, in bytes; `None` where it has none, or where it depends on the model's sizes.
pub fn launch_shared_bytes(kernel: &str) -> Option<u32> {
    super::attention::shared_bytes().chain(super::grouped::shared_bytes()).find(|(name, _)| *name == kernel).map(|(_, bytes)| bytes)
}

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
