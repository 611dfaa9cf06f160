//! `cuda/route.cu`, `cuda/sort.cu` and `cuda/dispatch.cu` against their CPU twins.

use crate::common::Emulated;
use osler_emulator::Emulator;
use osler_kernel_cases::index;
use osler_kernel_cases::route::visit;
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::RouteShape;
use osler_kernels::{Memory, Operations};

#[test]
fn routing_agrees_with_its_twin() {
    visit(&mut Emulated { wgmma: false });
}

#[test]
fn shapes_are_checked() {
    let gpu = Gpu::new(Emulator::default());
    let run = |shape: RouteShape| {
        let logits = gpu.new_stored(shape.rows * shape.experts).unwrap();
        let mut probabilities = gpu.new_exact(shape.rows * shape.experts).unwrap();
        let (mut chosen, mut weights) =
            (gpu.new_index(shape.rows * shape.top_k).unwrap(), gpu.new_exact(shape.rows * shape.top_k).unwrap());
        gpu.route_forward(shape, &logits, &mut probabilities, &mut chosen, &mut weights)
    };
    assert!(run(RouteShape { rows: 2, experts: 4, top_k: 5 }).is_err());
    let error = run(RouteShape { rows: 2, experts: 257, top_k: 1 }).unwrap_err();
    assert_eq!(error.to_string(), "route: `experts` must be at most 256 on a GPU");
    let shape = RouteShape { rows: 2, experts: 4, top_k: 1 };
    let [mut slots, mut sources] = [(); 2].map(|()| gpu.new_index(2).unwrap());
    let mut segments = gpu.new_index(5).unwrap();
    assert!(gpu.dispatch(shape, &index(&gpu, &[0, 4]), &mut slots, &mut sources, &mut segments).is_err());
}
