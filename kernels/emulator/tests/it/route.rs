//! `cuda/route.cu`, `cuda/sort.cu` and `cuda/dispatch.cu` against their CPU twins.

use crate::common::*;
use osler_emulator::Emulator;
use osler_kernels::cuda::Gpu;
use osler_kernels::operations::{DispatchShape, RouteShape};
use osler_kernels::{Memory, Operations};

/// What the logits are like.
#[derive(Debug, Clone, Copy)]
enum Logits {
    Mixed,
    /// Three values only, so that most choices are ties.
    Ties,
    /// The last expert is everyone's first choice.
    OneExpert,
    /// Nothing but what is not a number in every third row.
    Broken,
}

impl Logits {
    fn values(self, shape: RouteShape) -> Vec<f32> {
        let mut values = numbers(shape.rows * shape.experts, 1);
        for (at, value) in values.iter_mut().enumerate() {
            let (row, expert) = (at / shape.experts, at % shape.experts);
            *value = match self {
                Self::Mixed => *value * 4.0,
                Self::Ties => (*value * 1.4).round(),
                Self::OneExpert => *value + if expert + 1 == shape.experts { 20.0 } else { 0.0 },
                Self::Broken => {
                    if row % 3 == 1 {
                        f32::NAN
                    } else {
                        *value
                    }
                }
            };
        }
        values
    }
}

/// Softmax, choice, balance and their gradients.
struct Route {
    shape: RouteShape,
    logits: Logits,
}

impl Work for Route {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let RouteShape { rows, experts, top_k } = self.shape;
        let logits = stored(device, &self.logits.values(self.shape));
        let mut probabilities = device.new_exact(rows * experts).unwrap();
        let mut weights = device.new_exact(rows * top_k).unwrap();
        let mut chosen = device.new_index(rows * top_k).unwrap();
        device.route_forward(self.shape, &logits, &mut probabilities, &mut chosen, &mut weights).unwrap();
        let mut statistics = exact(device, &vec![1.0; 2 * experts]);
        device.balance_add(self.shape, &probabilities, &chosen, &mut statistics).unwrap();
        let (mut loss, mut balance_grad) = (device.new_exact(1).unwrap(), device.new_exact(experts).unwrap());
        device.balance_loss(self.shape, 2, 0.5, &statistics, &mut loss, &mut balance_grad).unwrap();
        let weights_grad = exact(device, &numbers(rows * top_k, 2));
        let mut logits_grad = device.new_stored(rows * experts).unwrap();
        device.route_backward(self.shape, &probabilities, &chosen, &weights_grad, &balance_grad, &mut logits_grad).unwrap();
        vec![
            read_index(device, &chosen),
            read_exact(device, &probabilities, rows * experts),
            read_exact(device, &weights, rows * top_k),
            read_exact(device, &statistics, 2 * experts),
            read_exact(device, &loss, 1),
            read_exact(device, &balance_grad, experts),
            read_stored(device, &logits_grad, rows * experts),
        ]
    }
}

#[test]
fn routing_agrees_with_its_twin() {
    let shapes = [(1, 1, 1), (13, 8, 2), (300, 8, 1), (9, 33, 3), (20, 64, 8), (11, 256, 8), (5, 4, 4)];
    for (rows, experts, top_k) in shapes {
        for logits in [Logits::Mixed, Logits::Ties, Logits::OneExpert, Logits::Broken] {
            let shape = RouteShape { rows, experts, top_k };
            let (got, wanted) = both(&Route { shape, logits });
            let name = |what: &str| format!("{shape:?}, {logits:?}: {what}");
            assert!(got[0] == wanted[0], "{}", name("chosen"));
            let tight = Tolerance { relative: 4e-6, absolute: 1e-7 };
            close(&name("probabilities"), &got[1], &wanted[1], tight);
            close(&name("weights"), &got[2], &wanted[2], tight);
            // Sums over 300 rows.
            close(&name("statistics"), &got[3], &wanted[3], Tolerance { relative: 1e-5, absolute: 1e-6 });
            close(&name("loss"), &got[4], &wanted[4], Tolerance { relative: 2e-5, absolute: 1e-7 });
            close(&name("balance_grad"), &got[5], &wanted[5], tight);
            // Differences of numbers of about one, rounded; where a single expert is chosen they cancel to noise.
            close(&name("logits_grad"), &got[6], &wanted[6], Tolerance { relative: 1.0 / 128.0, absolute: 2e-6 });
        }
    }
}

/// Choices sent to experts and gathered again.
struct Dispatch {
    shape: RouteShape,
    hidden: usize,
    chosen: Vec<u32>,
}

impl Work for Dispatch {
    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let RouteShape { rows, experts, top_k } = self.shape;
        let (tokens, choices) = (rows * self.hidden, rows * top_k);
        let moves = DispatchShape { rows, top_k, hidden: self.hidden };
        let chosen = index(device, &self.chosen);
        let [mut slots, mut sources] = [(); 2].map(|()| device.new_index(choices).unwrap());
        let mut segments = device.new_index(experts + 1).unwrap();
        device.dispatch(self.shape, &chosen, &mut slots, &mut sources, &mut segments).unwrap();
        let (input, grad) = (stored(device, &numbers(tokens, 1)), stored(device, &numbers(tokens, 2)));
        let weights = exact(device, &numbers(choices, 3));
        let [mut sent, mut sent_grad] = [(); 2].map(|()| device.new_stored(choices * self.hidden).unwrap());
        let [mut gathered, mut input_grad] = [(); 2].map(|()| device.new_stored(tokens).unwrap());
        let mut weights_grad = device.new_exact(choices).unwrap();
        device.permute_forward(moves, &sources, &input, &mut sent).unwrap();
        device.combine_forward(moves, &slots, &weights, &sent, &mut gathered).unwrap();
        device.combine_backward(moves, &slots, &sources, &weights, &sent, &grad, &mut sent_grad, &mut weights_grad).unwrap();
        device.permute_backward(moves, &slots, &sent_grad, &mut input_grad).unwrap();
        let mut results = [&slots, &sources, &segments].map(|index| read_index(device, index)).to_vec();
        results.push(read_stored(device, &sent, choices * self.hidden));
        results.push(read_stored(device, &gathered, tokens));
        results.push(read_stored(device, &sent_grad, choices * self.hidden));
        results.push(read_exact(device, &weights_grad, choices));
        results.push(read_stored(device, &input_grad, tokens));
        results
    }
}

#[test]
fn dispatch_agrees_with_its_twin() {
    let mixed = |count: usize, experts: usize| (0..count).map(|at| (at * at * 13 % experts) as u32).collect::<Vec<_>>();
    // (rows, experts, choices, columns), and who is chosen: empty experts, one that has all, more choices than a block sorts.
    let cases = [
        (1, 1, 1, 8, vec![0]),
        (40, 8, 2, 24, mixed(80, 8)),
        (40, 8, 2, 8, vec![5; 80]),
        (33, 256, 3, 8, mixed(99, 256)),
        (7, 16, 8, 264, mixed(56, 3)),
        (1400, 5, 3, 8, mixed(4200, 5)),
        (0, 4, 2, 8, vec![]),
    ];
    for (rows, experts, top_k, hidden, chosen) in cases {
        let shape = RouteShape { rows, experts, top_k };
        let (got, wanted) = both(&Dispatch { shape, hidden, chosen });
        for (at, name) in ["slots", "sources", "segments", "sent"].into_iter().enumerate() {
            assert!(got[at] == wanted[at], "{shape:?}: {name}");
        }
        for (at, name) in [(4, "gathered"), (5, "sent_grad"), (7, "input_grad")] {
            // Up to eight terms of about one that may cancel, each exact in f32.
            close(&format!("{shape:?}: {name}"), &got[at], &wanted[at], Tolerance { relative: 1.0 / 128.0, absolute: 1e-5 });
        }
        close(&format!("{shape:?}: weights_grad"), &got[6], &wanted[6], Tolerance { relative: 2e-6, absolute: 2e-5 });
    }
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
