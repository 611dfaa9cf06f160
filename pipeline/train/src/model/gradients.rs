//! Gradients of weights: of all parameters, of those that are at hand in a pass, or of those that one rank holds.

use super::{ModelError, Parameters};
use osler_kernels::{Memory, Operations};

/// Gradients of parameters, by their places in the list of [`Parameters`].
#[derive(Debug)]
pub struct Gradients<O: Memory> {
    /// In order of the list, but that layers may share theirs.
    pub buffers: Vec<O::Exact>,
    /// The buffer of each parameter.
    places: Vec<Option<usize>>,
}

impl<O: Memory> Gradients<O> {
    /// Zeros for every parameter.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough memory, as for the two below.
    pub fn new(ops: &O, parameters: &Parameters) -> Result<Self, ModelError> {
        Self::of_part(ops, parameters, |_| true)
    }

    /// Zeros for the parameters that `holds` names.
    ///
    /// # Errors
    /// [`ModelError::Kernel`].
    pub fn of_part(ops: &O, parameters: &Parameters, holds: impl Fn(usize) -> bool) -> Result<Self, ModelError> {
        let mut grads = Self { buffers: Vec::new(), places: Vec::new() };
        for (at, parameter) in parameters.list.iter().enumerate() {
            grads.places.push(holds(at).then_some(grads.buffers.len()));
            if holds(at) {
                grads.buffers.push(ops.new_exact(parameter.len())?);
            }
        }
        Ok(grads)
    }

    /// Zeros for a pass whose gradients are taken layer by layer: all layers have one set of buffers, which has to be zero again when the
    /// next layer comes.
    ///
    /// # Errors
    /// [`ModelError::Kernel`].
    pub fn of_pass(ops: &O, parameters: &Parameters) -> Result<Self, ModelError> {
        let first = parameters.layers.first().map_or(0..0, |layer| layer.parameters());
        let later = |at: usize| at >= first.end && at < parameters.norm;
        let mut grads = Self::of_part(ops, parameters, |at| !later(at))?;
        for at in (0..parameters.list.len()).filter(|&at| later(at)) {
            grads.places[at] = grads.places[first.start + (at - first.start) % first.len()];
        }
        Ok(grads)
    }

    /// The gradient of a parameter, if there is a buffer for it.
    pub fn get(&self, parameter: usize) -> Option<&O::Exact> {
        self.buffers.get((*self.places.get(parameter)?)?)
    }

    /// The gradient of a parameter, if there is a buffer for it.
    pub fn get_mut(&mut self, parameter: usize) -> Option<&mut O::Exact> {
        self.buffers.get_mut((*self.places.get(parameter)?)?)
    }

    /// The gradient of a parameter that has one, as all have in a pass.
    pub(super) fn at(&mut self, parameter: usize) -> &mut O::Exact {
        &mut self.buffers[self.places[parameter].unwrap_or(usize::MAX)]
    }

    /// The gradients at `first` and, if there is one, at `second`, which follows it.
    pub(super) fn pair(&mut self, first: usize, second: Option<usize>) -> (&mut O::Exact, Option<&mut O::Exact>) {
        let place = self.places[first].unwrap_or(usize::MAX);
        match second {
            Some(_) => {
                let (left, right) = self.buffers.split_at_mut(place + 1);
                (&mut left[place], right.first_mut())
            }
            None => (&mut self.buffers[place], None),
        }
    }
}

impl<O: Operations> Gradients<O> {
    /// Sets all to zero.
    ///
    /// # Errors
    /// Those of the device.
    pub fn clear(&mut self, ops: &O) -> Result<(), ModelError> {
        Ok(self.buffers.iter_mut().try_for_each(|buffer| ops.zero_exact(buffer))?)
    }

    /// Norm of all gradients together.
    ///
    /// # Errors
    /// Those of the device.
    pub fn norm(&self, ops: &O) -> Result<f64, ModelError> {
        let squares = ops.sums_of_squares(&self.buffers.iter().collect::<Vec<_>>())?;
        Ok(squares.into_iter().fold(0.0, |sum, squares| sum + squares).sqrt())
    }
}
