//! Rotary positions, the gated activation, embeddings, linear maps and the optimiser against their CPU twins.

use crate::common::Emulated;
use osler_emulator::Emulator;
use osler_kernel_cases::elementwise::visit;
use osler_kernel_cases::index;
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::{LinearShape, RotaryShape};
use osler_kernels::{Memory, Operations};

#[test]
fn elementwise_kernels_agree_with_their_twins() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn indices_out_of_range_are_refused() {
    let gpu = Gpu::new(Emulator::default());
    let (table, tokens) = (gpu.new_stored(16).unwrap(), index(&gpu, &[0, 2]));
    let error = gpu.embedding_forward(8, &tokens, &table, &mut gpu.new_stored(16).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "embedding: `tokens` must be below the size of the vocabulary");
    let shape = RotaryShape { rows: 1, heads: 1, head_dim: 6 };
    let (table, input) = (gpu.new_exact(6).unwrap(), gpu.new_stored(6).unwrap());
    let (mut output, mut scale) = (gpu.new_stored(6).unwrap(), gpu.new_exact(0).unwrap());
    assert!(gpu.rotary_forward(shape, &table, &index(&gpu, &[0]), &input, None, &mut output, &mut scale).is_err());
    let shape = RotaryShape { rows: 1, heads: 1, head_dim: 4 };
    assert!(gpu.rotary_forward(shape, &table, &index(&gpu, &[1]), &input, None, &mut output, &mut scale).is_err());
}

#[test]
fn segments_that_leave_rows_out_are_refused() {
    let gpu = Gpu::new(Emulator::default());
    let shape = LinearShape { rows: 10, inputs: 8, outputs: 8 };
    // A product for each of two experts, and one launch for seventeen.
    for experts in [2, 17] {
        let run = |segments: &[u32]| {
            let (input, weight) = (gpu.new_stored(80).unwrap(), gpu.new_stored(experts * 64).unwrap());
            gpu.grouped_linear_forward(shape, &index(&gpu, segments), &input, &weight, &mut gpu.new_stored(80).unwrap())
        };
        let segments = |first: u32, second: u32, last: u32| {
            let mut segments = vec![second; experts + 1];
            (segments[0], segments[experts]) = (first, last);
            segments
        };
        run(&segments(0, 4, 10)).unwrap();
        for wrong in [segments(3, 10, 10), segments(0, 4, 9), segments(0, 11, 10), segments(0, 10, u32::MAX)] {
            let error = run(&wrong).unwrap_err().to_string();
            assert_eq!(error, "linear: `segments` must be from 0 to the number of rows, never falling", "{wrong:?}");
        }
    }
}
