//! The second half of a layer: a gated network, or experts that each token is routed to.

use super::activations::{Balance, LayerActivations, Workspace};
use super::parameters::Layer;
use super::{Experts, Gradients, Model, ModelError};
use osler_kernels::Operations;
use osler_kernels::operations::{DispatchShape, LinearShape, RouteShape};

impl<O: Operations> Model<O> {
    /// From the norm of the middle of the layer to `output`.
    pub(super) fn feed_forward(
        &self,
        ops: &O,
        layer: &Layer,
        saved: &mut LayerActivations<O>,
        output: &mut O::Stored,
        balance: Option<&mut Balance<O>>,
    ) -> Result<(), ModelError> {
        self.feed_forward_inner(ops, layer, saved, balance)?;
        match (&saved.routes, self.config.experts) {
            (Some(routes), Some(experts)) => {
                let moves = self.moves(experts, saved.rows);
                Ok(ops.combine_forward(moves, &routes.slots, &routes.weights, &routes.returned, output)?)
            }
            _ => Ok(ops.linear_forward(self.shapes(saved.rows).1, &saved.active, &self.weights[layer.down], None, output)?),
        }
    }

    /// All of it that is kept for the way back.
    pub(super) fn feed_forward_inner(
        &self,
        ops: &O,
        layer: &Layer,
        saved: &mut LayerActivations<O>,
        balance: Option<&mut Balance<O>>,
    ) -> Result<(), ModelError> {
        if let (Some(router), Some(experts)) = (layer.router, self.config.experts) {
            return self.experts(ops, layer, (router, experts), saved, balance);
        }
        let weights = &self.weights;
        let wide = self.shapes(saved.rows).0;
        ops.linear_forward(wide, &saved.middle_normed, &weights[layer.gate], None, &mut saved.gate)?;
        ops.linear_forward(wide, &saved.middle_normed, &weights[layer.up], None, &mut saved.up)?;
        Ok(ops.swiglu_forward(&saved.gate, &saved.up, &mut saved.active)?)
    }

    /// Takes `work.grad` from the stream after the layer to the stream in its middle.
    pub(super) fn feed_forward_backward(
        &self,
        ops: &O,
        layer: &Layer,
        at: usize,
        work: &mut Workspace<O>,
        grads: &mut Gradients<O>,
    ) -> Result<(), ModelError> {
        if let (Some(router), Some(experts)) = (layer.router, self.config.experts) {
            self.experts_backward(ops, layer, (router, experts), at, work, grads)?;
        } else {
            let (saved, scratch, weights) = (&work.layers[at], &mut work.scratch, &self.weights);
            let (wide, narrow) = self.shapes(saved.rows);
            ops.linear_backward_input(narrow, &work.grad, &weights[layer.down], false, &mut scratch.active)?;
            let (add, down_grad) = grads.product(layer.down);
            ops.linear_backward_weight(narrow, &work.grad, &saved.active, add, down_grad, None)?;
            ops.swiglu_backward(&saved.gate, &saved.up, &scratch.active, &mut scratch.gate, &mut scratch.up)?;
            for (weight, grad, add) in [(layer.gate, &scratch.gate, false), (layer.up, &scratch.up, true)] {
                ops.linear_backward_input(wide, grad, &weights[weight], add, &mut work.normed_grad)?;
                let (add, weight_grad) = grads.product(weight);
                ops.linear_backward_weight(wide, grad, &saved.middle_normed, add, weight_grad, None)?;
            }
        }
        let (saved, norm) = (&work.layers[at], layer.feed_forward_norm);
        let (input, scale, grad) = (&saved.middle, &saved.middle_scale, &mut work.grad);
        Ok(ops.rmsnorm_backward(input, &self.weights[norm], scale, &work.normed_grad, grad, grads.at(ops, norm)?)?)
    }

    fn experts(
        &self,
        ops: &O,
        layer: &Layer,
        (router, experts): (usize, Experts),
        saved: &mut LayerActivations<O>,
        balance: Option<&mut Balance<O>>,
    ) -> Result<(), ModelError> {
        let weights = &self.weights;
        let Some(routes) = &mut saved.routes else { return Ok(()) };
        let (route, moves) = (self.route_shape(experts, saved.rows), self.moves(experts, saved.rows));
        let (wide, narrow) = self.shapes(saved.rows * experts.top_k);
        ops.linear_forward(self.router_shape(experts, saved.rows), &saved.middle_normed, &weights[router], None, &mut routes.logits)?;
        ops.route_forward(route, &routes.logits, &mut routes.probabilities, &mut routes.chosen, &mut routes.weights)?;
        if let Some(balance) = balance {
            ops.balance_add(route, &routes.probabilities, &routes.chosen, &mut balance.statistics)?;
        }
        ops.dispatch(route, &routes.chosen, &mut routes.slots, &mut routes.sources, &mut routes.segments)?;
        ops.permute_forward(moves, &routes.sources, &saved.middle_normed, &mut routes.sent)?;
        ops.grouped_linear_forward(wide, &routes.segments, &routes.sent, &weights[layer.gate], &mut saved.gate)?;
        ops.grouped_linear_forward(wide, &routes.segments, &routes.sent, &weights[layer.up], &mut saved.up)?;
        ops.swiglu_forward(&saved.gate, &saved.up, &mut saved.active)?;
        Ok(ops.grouped_linear_forward(narrow, &routes.segments, &saved.active, &weights[layer.down], &mut routes.returned)?)
    }

    fn experts_backward(
        &self,
        ops: &O,
        layer: &Layer,
        (router, experts): (usize, Experts),
        at: usize,
        work: &mut Workspace<O>,
        grads: &mut Gradients<O>,
    ) -> Result<(), ModelError> {
        let (saved, scratch, weights) = (&work.layers[at], &mut work.scratch, &self.weights);
        let (Some(routes), Some(inner), Some(balance)) = (&saved.routes, &mut scratch.routes, &work.balance) else { return Ok(()) };
        let (route, moves) = (self.route_shape(experts, saved.rows), self.moves(experts, saved.rows));
        let (wide, narrow) = self.shapes(saved.rows * experts.top_k);
        let (slots, sources, segments) = (&routes.slots, &routes.sources, &routes.segments);
        let (returned, choice) = (&routes.returned, &routes.weights);
        ops.combine_backward(moves, slots, sources, choice, returned, &work.grad, &mut inner.slots, &mut inner.weights)?;
        ops.grouped_linear_backward_input(narrow, segments, &inner.slots, &weights[layer.down], false, &mut scratch.active)?;
        let (add, down_grad) = grads.product(layer.down);
        ops.grouped_linear_backward_weight(narrow, segments, &inner.slots, &saved.active, add, down_grad)?;
        ops.swiglu_backward(&saved.gate, &saved.up, &scratch.active, &mut scratch.gate, &mut scratch.up)?;
        for (weight, grad, add) in [(layer.gate, &scratch.gate, false), (layer.up, &scratch.up, true)] {
            ops.grouped_linear_backward_input(wide, segments, grad, &weights[weight], add, &mut inner.slots)?;
            let (add, weight_grad) = grads.product(weight);
            ops.grouped_linear_backward_weight(wide, segments, grad, &routes.sent, add, weight_grad)?;
        }
        ops.permute_backward(moves, slots, &inner.slots, &mut work.normed_grad)?;
        ops.route_backward(route, &routes.probabilities, &routes.chosen, &inner.weights, &balance.grad, &mut inner.logits)?;
        let shape = self.router_shape(experts, saved.rows);
        ops.linear_backward_input(shape, &inner.logits, &weights[router], true, &mut work.normed_grad)?;
        let (add, router_grad) = grads.product(router);
        Ok(ops.linear_backward_weight(shape, &inner.logits, &saved.middle_normed, add, router_grad, None)?)
    }

    pub(super) fn route_shape(&self, experts: Experts, rows: usize) -> RouteShape {
        RouteShape { rows, experts: experts.count, top_k: experts.top_k }
    }

    fn moves(&self, experts: Experts, rows: usize) -> DispatchShape {
        DispatchShape { rows, top_k: experts.top_k, hidden: self.config.hidden_size }
    }

    fn router_shape(&self, experts: Experts, rows: usize) -> LinearShape {
        LinearShape { rows, inputs: self.config.hidden_size, outputs: experts.count }
    }

    /// Into the wide middle of the network, and out of it.
    fn shapes(&self, rows: usize) -> (LinearShape, LinearShape) {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        (LinearShape { rows, inputs: hidden, outputs: inner }, LinearShape { rows, inputs: inner, outputs: hidden })
    }
}
