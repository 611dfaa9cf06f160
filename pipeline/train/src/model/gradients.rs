//! Gradients of weights: of all parameters, of those that are at hand in a pass, or of those that one rank holds.

use super::{ModelError, Parameters};
use osler_kernels::{Memory, Operations};
use std::ops::Range;

/// Gradients of parameters, by their places in the list of [`Parameters`].
#[derive(Debug)]
pub struct Gradients<O: Memory> {
    /// In order of the list, but that layers may share theirs. After a pass they hold its gradients.
    pub buffers: Vec<O::Exact>,
    /// The buffer of each parameter.
    places: Vec<Option<usize>>,
    /// Buffers that count as zero, whatever they hold: a product overwrites them, and what adds has them cleared first.
    empty: Vec<bool>,
}

/// Whether a product adds to a weight's gradient, that gradient, and its bias's.
pub(super) type Pair<'a, O> = (bool, &'a mut <O as Memory>::Exact, Option<&'a mut <O as Memory>::Exact>);

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
        let mut grads = Self { buffers: Vec::new(), places: Vec::new(), empty: Vec::new() };
        for (at, parameter) in parameters.list.iter().enumerate() {
            grads.places.push(holds(at).then_some(grads.buffers.len()));
            if holds(at) {
                grads.buffers.push(ops.new_exact(parameter.len())?);
                grads.empty.push(true);
            }
        }
        Ok(grads)
    }

    /// Zeros for a pass whose gradients are taken layer by layer: the layers take turns with so many sets of buffers, which have to be
    /// [cleared](Self::clear_one) when the next layer comes to them.
    ///
    /// # Errors
    /// [`ModelError::Kernel`].
    pub fn of_pass(ops: &O, parameters: &Parameters, sets: usize) -> Result<Self, ModelError> {
        let first = parameters.layers.first().map_or(0..0, |layer| layer.parameters());
        let shared = sets * first.len();
        let later = |at: usize| at >= first.start + shared && at < parameters.norm;
        let mut grads = Self::of_part(ops, parameters, |at| !later(at))?;
        for at in (0..parameters.list.len()).filter(|&at| later(at)) {
            grads.places[at] = grads.places[first.start + (at - first.start) % shared];
        }
        Ok(grads)
    }

    /// The gradient of a parameter, if there is a buffer for it.
    pub fn get(&self, parameter: usize) -> Option<&O::Exact> {
        self.buffers.get((*self.places.get(parameter)?)?)
    }

    /// The gradients of parameters of which no two share a buffer, if there are buffers for them: what they hold, or are given, counts.
    pub fn several(&mut self, parameters: Range<usize>) -> Vec<Option<&mut O::Exact>> {
        let mut buffers: Vec<_> = self.buffers.iter_mut().map(Some).collect();
        let (places, empty) = (&self.places, &mut self.empty);
        let mut one = |parameter: usize| {
            let place = (*places.get(parameter)?)?;
            empty[place] = false;
            buffers[place].take()
        };
        parameters.map(&mut one).collect()
    }

    /// Has all count as zero, until a pass has made them so: buffers still hold what they held.
    pub fn clear(&mut self) {
        self.empty.fill(true);
    }

    /// The same of one parameter.
    pub fn clear_one(&mut self, parameter: usize) {
        if let Some(&Some(place)) = self.places.get(parameter) {
            self.empty[place] = true;
        }
    }

    /// The gradient of a parameter that has one, as all have in a pass, for a product; and whether that adds to it.
    pub(super) fn product(&mut self, parameter: usize) -> (bool, &mut O::Exact) {
        let place = self.place(parameter);
        (!std::mem::replace(&mut self.empty[place], false), &mut self.buffers[place])
    }

    fn place(&self, parameter: usize) -> usize {
        self.places[parameter].unwrap_or(usize::MAX)
    }
}

impl<O: Operations> Gradients<O> {
    /// The gradient of a parameter that has one, for what adds to it.
    pub(super) fn at(&mut self, ops: &O, parameter: usize) -> Result<&mut O::Exact, ModelError> {
        let place = self.place(parameter);
        self.settle_one(ops, place)?;
        Ok(&mut self.buffers[place])
    }

    /// The gradient at `weight` for a product, and that at `bias`, if there is one, which follows it.
    pub(super) fn pair(&mut self, ops: &O, weight: usize, bias: Option<usize>) -> Result<Pair<'_, O>, ModelError> {
        let place = self.place(weight);
        if bias.is_some() {
            self.settle_one(ops, place + 1)?;
        }
        let add = !std::mem::replace(&mut self.empty[place], false);
        let (left, right) = self.buffers.split_at_mut(place + 1);
        Ok((add, &mut left[place], right.first_mut().filter(|_| bias.is_some())))
    }

    /// Makes zeros of what a pass has left out, of parameters whose gradients are to be read.
    pub(super) fn settle(&mut self, ops: &O, parameters: Range<usize>) -> Result<(), ModelError> {
        for parameter in parameters {
            if let Some(place) = self.places[parameter] {
                self.settle_one(ops, place)?;
            }
        }
        Ok(())
    }

    fn settle_one(&mut self, ops: &O, place: usize) -> Result<(), ModelError> {
        if std::mem::replace(&mut self.empty[place], false) {
            ops.zero_exact(&mut self.buffers[place])?;
        }
        Ok(())
    }

    /// Norm of all gradients together.
    ///
    /// # Errors
    /// Those of the device.
    pub fn norm(&mut self, ops: &O) -> Result<f64, ModelError> {
        (0..self.buffers.len()).try_for_each(|place| self.settle_one(ops, place))?;
        let squares = ops.sums_of_squares(&self.buffers.iter().collect::<Vec<_>>())?;
        Ok(squares.into_iter().fold(0.0, |sum, squares| sum + squares).sqrt())
    }
}
