//! A layer with experts, in parts and as a whole.

use super::{Amount, Clock, Row};
use osler_kernels::operations::{DispatchShape, Gradient, LinearShape, RouteShape};
use osler_kernels::{KernelError, Operations};
use serde_json::json;

/// Measures the layer: of so many rows, hidden and inner numbers.
///
/// # Errors
/// Those of the device.
pub fn measure<O: Operations>(
    clock: &Clock<'_, O>,
    shape: RouteShape,
    [hidden, inner]: [usize; 2],
    give: &mut dyn FnMut(Row),
) -> Result<(), KernelError> {
    let (ops, RouteShape { rows, experts, top_k }) = (clock.ops, shape);
    let mut layer = Layer::new(clock, shape, hidden, inner)?;
    // Once, so that each part has what the one before leaves.
    layer.run(ops)?;
    let routing = clock.seconds(|| layer.send(ops).and_then(|()| layer.gather(ops)))?;
    let forward = clock.seconds(|| layer.forward(ops))?;
    let routing_back = clock.seconds(|| layer.send_back(ops).and_then(|()| layer.gather_back(ops)))?;
    let backward = clock.seconds(|| layer.backward(ops))?;
    let whole = clock.seconds(|| layer.run(ops))?;
    let choices = rows * top_k;
    let operations = 6.0 * (choices * hidden) as f64 * inner as f64;
    let ends = ops.read_index(&layer.segments)?.split_off(1);
    let case = format!("{rows} rows, {top_k} of {experts}, {hidden} x {inner}");
    let times = [
        ("experts forward", forward, operations),
        ("experts backward", backward, 2.0 * operations),
        ("layer with experts, both ways", whole, 3.0 * operations),
    ];
    for (what, seconds, operations) in times {
        let peer = json!({
            "kind": "experts", "what": what, "rows": rows, "experts": experts, "top_k": top_k, "hidden": hidden, "inner": inner, "ends": ends,
        });
        give(Row { what, case: case.clone(), seconds, amount: Amount::Operations(operations), peer });
    }
    // Forward, rows of tokens and of choices are read and written; backward, what experts gave is read too. The router reads tokens, and
    // its backward pass reads them and adds to their gradients.
    let bytes = (2 * (2 * (2 * choices + 2 * rows) + choices + rows + 4 * rows + 3 * experts) * hidden) as f64;
    let case = format!("{case}; {:.1} % of the layer", 100.0 * (routing + routing_back) / whole);
    let peer = json!({ "kind": "routing", "rows": rows, "experts": experts, "top_k": top_k, "hidden": hidden });
    give(Row { what: "routing, both ways", case, seconds: routing + routing_back, amount: Amount::Bytes(bytes), peer });
    Ok(())
}

/// A layer's buffers. Gradients go to buffers of their own, and what is added to is written anew before, so that running again changes nothing.
struct Layer<O: Operations> {
    shape: RouteShape,
    moves: DispatchShape,
    /// Of the router, of the experts' first two matrices, and of their last.
    shapes: [LinearShape; 3],
    router: O::Stored,
    gate_weight: O::Stored,
    up_weight: O::Stored,
    down_weight: O::Stored,
    input: O::Stored,
    logits: O::Stored,
    probabilities: O::Exact,
    shares: O::Exact,
    chosen: O::Index,
    slots: O::Index,
    sources: O::Index,
    segments: O::Index,
    statistics: O::Exact,
    balance: O::Exact,
    sent: O::Stored,
    gate: O::Stored,
    up: O::Stored,
    product: O::Stored,
    returned: O::Stored,
    output: O::Stored,
    grad: O::Stored,
    returned_grad: O::Stored,
    shares_grad: O::Exact,
    balance_grad: O::Exact,
    product_grad: O::Stored,
    gate_grad: O::Stored,
    up_grad: O::Stored,
    sent_grad: O::Stored,
    input_grad: O::Stored,
    logits_grad: O::Stored,
    router_grad: Gradient<O>,
    weight_grad: Gradient<O>,
}

impl<O: Operations> Layer<O> {
    fn new(clock: &Clock<'_, O>, shape: RouteShape, hidden: usize, inner: usize) -> Result<Self, KernelError> {
        let (ops, RouteShape { rows, experts, top_k }) = (clock.ops, shape);
        let (choices, matrix) = (rows * top_k, experts * hidden * inner);
        let linear = |rows, inputs, outputs| LinearShape { rows, inputs, outputs };
        Ok(Self {
            shape,
            moves: DispatchShape { rows, top_k, hidden },
            shapes: [linear(rows, hidden, experts), linear(choices, hidden, inner), linear(choices, inner, hidden)],
            router: clock.stored(experts * hidden)?,
            gate_weight: clock.stored(matrix)?,
            up_weight: clock.stored(matrix)?,
            down_weight: clock.stored(matrix)?,
            input: clock.stored(rows * hidden)?,
            logits: ops.new_stored(rows * experts)?,
            probabilities: ops.new_exact(rows * experts)?,
            shares: ops.new_exact(choices)?,
            chosen: ops.new_index(choices)?,
            slots: ops.new_index(choices)?,
            sources: ops.new_index(choices)?,
            segments: ops.new_index(experts + 1)?,
            statistics: ops.new_exact(2 * experts)?,
            balance: ops.new_exact(1)?,
            sent: ops.new_stored(choices * hidden)?,
            gate: ops.new_stored(choices * inner)?,
            up: ops.new_stored(choices * inner)?,
            product: ops.new_stored(choices * inner)?,
            returned: ops.new_stored(choices * hidden)?,
            output: ops.new_stored(rows * hidden)?,
            grad: clock.stored(rows * hidden)?,
            returned_grad: ops.new_stored(choices * hidden)?,
            shares_grad: ops.new_exact(choices)?,
            balance_grad: ops.new_exact(experts)?,
            product_grad: ops.new_stored(choices * inner)?,
            gate_grad: ops.new_stored(choices * inner)?,
            up_grad: ops.new_stored(choices * inner)?,
            sent_grad: ops.new_stored(choices * hidden)?,
            input_grad: ops.new_stored(rows * hidden)?,
            logits_grad: ops.new_stored(rows * experts)?,
            router_grad: Gradient::new(ops, experts * hidden, false)?,
            weight_grad: Gradient::new(ops, matrix, false)?,
        })
    }

    /// All of it, both ways.
    fn run(&mut self, ops: &O) -> Result<(), KernelError> {
        self.send(ops)?;
        self.forward(ops)?;
        self.gather(ops)?;
        self.send_back(ops)?;
        self.backward(ops)?;
        self.gather_back(ops)
    }

    /// Rows to their experts.
    fn send(&mut self, ops: &O) -> Result<(), KernelError> {
        ops.linear_forward(self.shapes[0], &self.input, &self.router, None, &mut self.logits)?;
        ops.route_forward(self.shape, &self.logits, &mut self.probabilities, &mut self.chosen, &mut self.shares)?;
        ops.zero_exact(&mut self.statistics)?;
        ops.balance_add(self.shape, &self.probabilities, &self.chosen, &mut self.statistics)?;
        ops.balance_loss(self.shape, 1, 0.02, &self.statistics, &mut self.balance, &mut self.balance_grad)?;
        ops.dispatch(self.shape, &self.chosen, &mut self.slots, &mut self.sources, &mut self.segments)?;
        ops.permute_forward(self.moves, &self.sources, &self.input, &mut self.sent)
    }

    /// The experts themselves.
    fn forward(&mut self, ops: &O) -> Result<(), KernelError> {
        let [_, wide, narrow] = self.shapes;
        ops.grouped_linear_forward(wide, &self.segments, &self.sent, &self.gate_weight, &mut self.gate)?;
        ops.grouped_linear_forward(wide, &self.segments, &self.sent, &self.up_weight, &mut self.up)?;
        ops.swiglu_forward(&self.gate, &self.up, &mut self.product)?;
        ops.grouped_linear_forward(narrow, &self.segments, &self.product, &self.down_weight, &mut self.returned)
    }

    fn gather(&mut self, ops: &O) -> Result<(), KernelError> {
        ops.combine_forward(self.moves, &self.slots, &self.shares, &self.returned, &mut self.output)
    }

    fn send_back(&mut self, ops: &O) -> Result<(), KernelError> {
        let Self { moves, slots, sources, shares, returned, grad, returned_grad, shares_grad, .. } = self;
        ops.combine_backward(*moves, slots, sources, shares, returned, grad, returned_grad, shares_grad)
    }

    fn backward(&mut self, ops: &O) -> Result<(), KernelError> {
        let [_, wide, narrow] = self.shapes;
        ops.grouped_linear_backward_input(narrow, &self.segments, &self.returned_grad, &self.down_weight, false, &mut self.product_grad)?;
        ops.grouped_linear_backward_weight(narrow, &self.segments, &self.returned_grad, &self.product, false, &mut self.weight_grad)?;
        ops.swiglu_backward(&self.gate, &self.up, &self.product_grad, &mut self.gate_grad, &mut self.up_grad)?;
        for (weight, grad, add) in [(&self.gate_weight, &self.gate_grad, false), (&self.up_weight, &self.up_grad, true)] {
            ops.grouped_linear_backward_input(wide, &self.segments, grad, weight, add, &mut self.sent_grad)?;
            ops.grouped_linear_backward_weight(wide, &self.segments, grad, &self.sent, false, &mut self.weight_grad)?;
        }
        Ok(())
    }

    fn gather_back(&mut self, ops: &O) -> Result<(), KernelError> {
        let router = self.shapes[0];
        ops.permute_backward(self.moves, &self.slots, &self.sent_grad, &mut self.input_grad)?;
        let Self { shape, probabilities, chosen, shares_grad, balance_grad, logits_grad, .. } = self;
        ops.route_backward(*shape, probabilities, chosen, shares_grad, balance_grad, logits_grad)?;
        ops.linear_backward_weight(router, &self.logits_grad, &self.input, false, &mut self.router_grad, None)?;
        ops.linear_backward_input(router, &self.logits_grad, &self.router, true, &mut self.input_grad)
    }
}
