//! Rotary positions, the gated activation, embeddings, linear maps and the optimiser against their CPU twins.

use crate::common::Emulated;
use osler_emulator::Emulator;
use osler_kernel_cases::elementwise::visit;
use osler_kernel_cases::{gradient, index, numbers, read_gradient, read_stored, stored};
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::{LinearShape, RotaryShape};
use osler_kernels::{Memory, Operations};

#[test]
fn elementwise_kernels_agree_with_their_twins() {
    visit(&mut Emulated { wgmma: false });
    visit(&mut Emulated { wgmma: true });
}

/// A tile of one expert brings rows of the next, which must not count, whatever they are.
#[test]
fn what_one_expert_has_does_not_reach_another() {
    for (experts, wgmma) in [(3, true), (17, false)] {
        let gpu = Gpu::new(Emulator { wgmma, ..Emulator::default() });
        let shape = LinearShape { rows: 30, inputs: 64, outputs: 64 };
        let mut bounds = vec![30; experts + 1];
        bounds[..3].copy_from_slice(&[0, 10, 20]);
        let (segments, weight) = (index(&gpu, &bounds), stored(&gpu, &numbers(experts * 4096, 1)));
        let run = |of_the_second: f32| {
            let mut rows = numbers(30 * 64, 2);
            rows[10 * 64..20 * 64].fill(of_the_second);
            let rows = stored(&gpu, &rows);
            let [mut output, mut input_grad] = [(); 2].map(|()| gpu.new_stored(30 * 64).unwrap());
            let mut weight_grad = gradient(&gpu, &vec![f32::NAN; experts * 4096], false);
            gpu.grouped_linear_forward(shape, &segments, &rows, &weight, &mut output).unwrap();
            gpu.grouped_linear_backward_input(shape, &segments, &rows, &weight, false, &mut input_grad).unwrap();
            gpu.grouped_linear_backward_weight(shape, &segments, &rows, &rows, false, &mut weight_grad).unwrap();
            let (output, input_grad) = (read_stored(&gpu, &output, 30 * 64), read_stored(&gpu, &input_grad, 30 * 64));
            let weight_grad = read_gradient(&gpu, &weight_grad, 3 * 4096);
            let parts = [(&output, 640), (&input_grad, 640), (&weight_grad, 4096)];
            let (others, own): (Vec<_>, Vec<_>) =
                parts.iter().map(|(all, each)| ([&all[..*each], &all[2 * each..]].concat(), all[*each])).unzip();
            (others, own)
        };
        let ((others, own), (beside_nan, nan)) = (run(1.0), run(f32::NAN));
        assert_eq!(others, beside_nan, "wgmma {wgmma}");
        assert!(own.iter().all(|x| x.is_finite()) && nan.iter().all(|x| x.is_nan()), "{own:?} {nan:?}");
    }
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
