//! `cuda/route.cu`, `cuda/sort.cu` and `cuda/dispatch.cu`.

use crate::{Tolerance, Visitor, Work, close, equal, exact, index, numbers, read_exact, read_index, read_stored, spoil, stored};
use osler_kernels::Operations;
use osler_kernels::operations::{DispatchShape, RouteShape};

/// The cases that an emulator can run.
pub fn visit(visitor: &mut impl Visitor) {
    for (rows, experts, top_k) in [(1, 1, 1), (13, 8, 2), (300, 8, 1), (9, 33, 3), (20, 64, 8), (11, 256, 8), (5, 4, 4)] {
        for logits in [Logits::Mixed, Logits::Ties, Logits::OneExpert, Logits::Broken, Logits::Spoilt] {
            visitor.visit(&Route { shape: RouteShape { rows, experts, top_k }, logits });
        }
    }
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
        visitor.visit(&Dispatch { shape: RouteShape { rows, experts, top_k }, hidden, chosen, is_spoilt: false });
    }
    visitor.visit(&Dispatch { shape: RouteShape { rows: 40, experts: 8, top_k: 2 }, hidden: 24, chosen: mixed(80, 8), is_spoilt: true });
}

/// Cases of sizes that models have.
pub fn visit_large(visitor: &mut impl Visitor) {
    visitor.visit(&Route { shape: RouteShape { rows: 4096, experts: 8, top_k: 2 }, logits: Logits::Mixed });
    let chosen = (0..4096 * 2).map(|at| (at * 7 / 3 % 8) as u32).collect();
    visitor.visit(&Dispatch { shape: RouteShape { rows: 4096, experts: 8, top_k: 2 }, hidden: 4096, chosen, is_spoilt: false });
    let chosen = (0..2048 * 8).map(|at| (at * 11 % 128) as u32).collect();
    visitor.visit(&Dispatch { shape: RouteShape { rows: 2048, experts: 128, top_k: 8 }, hidden: 2048, chosen, is_spoilt: false });
}

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
    /// In each row one that is infinite, or one that is not a number, or one that is minus infinity.
    Spoilt,
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
                Self::Spoilt if row % shape.experts != expert => *value,
                Self::Spoilt => [f32::INFINITY, f32::NAN, f32::NEG_INFINITY][row % 3],
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

    fn name(&self) -> String {
        let RouteShape { rows, experts, top_k } = self.shape;
        format!("route, {rows} rows, {top_k} of {experts}, {:?} logits", self.logits)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        equal("chosen", &got[0], &wanted[0])?;
        let tight = Tolerance { relative: 4e-6, absolute: 1e-7 };
        close("probabilities", &got[1], &wanted[1], tight)?;
        close("weights", &got[2], &wanted[2], tight)?;
        // Sums over 300 rows.
        close("statistics", &got[3], &wanted[3], Tolerance { relative: 1e-5, absolute: 1e-6 })?;
        close("loss", &got[4], &wanted[4], Tolerance { relative: 2e-5, absolute: 1e-7 })?;
        close("balance_grad", &got[5], &wanted[5], tight)?;
        if !wanted[4][0].is_finite() && !wanted[5].iter().all(|grad| grad.is_nan()) {
            return Err("a balance loss that is no number has gradients that are some".into());
        }
        // Differences of numbers of about one, rounded; where a single expert is chosen they cancel to noise.
        close("logits_grad", &got[6], &wanted[6], Tolerance { relative: 1.0 / 128.0, absolute: 2e-6 })
    }
}

/// Choices sent to experts and gathered again.
struct Dispatch {
    shape: RouteShape,
    hidden: usize,
    chosen: Vec<u32>,
    /// Whether rows, weights and gradients have a number that is infinite, and another one that is none.
    is_spoilt: bool,
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
        let [mut input, mut grad, mut weights] = [(tokens, 1), (tokens, 2), (choices, 3)].map(|(count, salt)| numbers(count, salt));
        if self.is_spoilt {
            spoil(&mut input, 3, 7 * self.hidden);
            spoil(&mut grad, 20 * self.hidden + 5, 30 * self.hidden + 1);
            spoil(&mut weights, 26, 75);
        }
        let (input, grad, weights) = (stored(device, &input), stored(device, &grad), exact(device, &weights));
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

    fn name(&self) -> String {
        let RouteShape { rows, experts, top_k } = self.shape;
        format!("dispatch, {rows} rows of {}, {top_k} of {experts}, spoilt {}", self.hidden, self.is_spoilt)
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        ["slots", "sources", "segments", "sent"].into_iter().enumerate().try_for_each(|(at, name)| equal(name, &got[at], &wanted[at]))?;
        for (at, name) in [(4, "gathered"), (5, "sent_grad"), (7, "input_grad")] {
            // Up to eight terms of about one that may cancel, each exact in f32.
            close(name, &got[at], &wanted[at], Tolerance { relative: 1.0 / 128.0, absolute: 1e-5 })?;
        }
        let dot = Tolerance::of_sums(Tolerance { relative: 2e-6, absolute: 2e-5 }, self.hidden, 264);
        close("weights_grad", &got[6], &wanted[6], dot)
    }
}
