//! Gradients of weights: of all parameters, of those that are at hand in a pass, or of those that one rank holds.

use super::{ModelError, Parameters};
use osler_kernels::operations::Gradient;
use osler_kernels::{KernelError, Memory, Operations};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How the gradients of a layer's matrices are kept until the optimiser's step; all others are f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GradientKind {
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// Half the memory. Each pass that adds to them rounds.
    #[serde(rename = "bf16")]
    Bf16,
}

/// What is added to by more than products is always f32.
const NOT_EXACT: KernelError = KernelError::Value { kernel: "gradients", argument: "gradient", wanted: "f32 here" };

/// Gradients of parameters, by their places in the list of [`Parameters`].
#[derive(Debug)]
pub struct Gradients<O: Memory> {
    /// In order of the list, but that layers may share theirs. After a pass they hold its gradients.
    pub buffers: Vec<Gradient<O>>,
    /// The buffer of each parameter.
    places: Vec<Option<usize>>,
    /// Buffers that count as zero, whatever they hold: a product overwrites them, and what adds has them cleared first.
    empty: Vec<bool>,
}

/// Whether a product adds to a weight's gradient, that gradient, and its bias's.
pub(super) type Pair<'a, O> = (bool, &'a mut Gradient<O>, Option<&'a mut <O as Memory>::Exact>);

impl<O: Memory> Gradients<O> {
    /// Zeros for every parameter.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough memory, as for the two below.
    pub fn new(ops: &O, parameters: &Parameters) -> Result<Self, ModelError> {
        Self::of_part(ops, parameters, |_| true)
    }

    /// Zeros for the parameters that `holds` names, in f32.
    ///
    /// # Errors
    /// [`ModelError::Kernel`].
    pub fn of_part(ops: &O, parameters: &Parameters, holds: impl Fn(usize) -> bool) -> Result<Self, ModelError> {
        Self::of_kind(ops, parameters, GradientKind::F32, holds)
    }

    /// The same, those of layers' matrices of this kind.
    ///
    /// # Errors
    /// [`ModelError::Kernel`].
    pub fn of_kind(ops: &O, parameters: &Parameters, kind: GradientKind, holds: impl Fn(usize) -> bool) -> Result<Self, ModelError> {
        let mut grads = Self { buffers: Vec::new(), places: Vec::new(), empty: Vec::new() };
        let outside = |at: usize| parameters.before_layers().contains(&at) || parameters.after_layers().contains(&at);
        for (at, parameter) in parameters.list.iter().enumerate() {
            grads.places.push(holds(at).then_some(grads.buffers.len()));
            if holds(at) {
                // Products alone make those, one for each pass. A head's are added to block by block.
                let is_stored = kind == GradientKind::Bf16 && parameter.decays() && !outside(at);
                grads.buffers.push(Gradient::new(ops, parameter.len(), is_stored)?);
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
    pub fn get(&self, parameter: usize) -> Option<&Gradient<O>> {
        self.buffers.get((*self.places.get(parameter)?)?)
    }

    /// The gradients of parameters of which no two share a buffer, if there are buffers of f32 for them: what they hold, or are given, counts.
    pub fn several(&mut self, parameters: Range<usize>) -> Vec<Option<&mut O::Exact>> {
        let mut buffers: Vec<_> = self.buffers.iter_mut().map(Some).collect();
        let (places, empty) = (&self.places, &mut self.empty);
        let mut one = |parameter: usize| {
            let place = (*places.get(parameter)?)?;
            let gradient = buffers[place].take()?.exact()?;
            empty[place] = false;
            Some(gradient)
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
    pub(super) fn product(&mut self, parameter: usize) -> (bool, &mut Gradient<O>) {
        let place = self.place(parameter);
        (!std::mem::replace(&mut self.empty[place], false), &mut self.buffers[place])
    }

    /// The same of one that is f32.
    pub(super) fn exact_product(&mut self, parameter: usize) -> Result<(bool, &mut O::Exact), ModelError> {
        let (add, gradient) = self.product(parameter);
        Ok((add, gradient.exact().ok_or(NOT_EXACT)?))
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
        Ok(self.buffers[place].exact().ok_or(NOT_EXACT)?)
    }

    /// The gradient at `weight` for a product, and that at `bias`, if there is one, which follows it.
    pub(super) fn pair(&mut self, ops: &O, weight: usize, bias: Option<usize>) -> Result<Pair<'_, O>, ModelError> {
        let place = self.place(weight);
        if bias.is_some() {
            self.settle_one(ops, place + 1)?;
        }
        let add = !std::mem::replace(&mut self.empty[place], false);
        let (left, right) = self.buffers.split_at_mut(place + 1);
        let bias = bias.and(right.first_mut()).map(|bias| bias.exact().ok_or(NOT_EXACT)).transpose()?;
        Ok((add, &mut left[place], bias))
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
            match &mut self.buffers[place] {
                Gradient::Exact(gradient) => ops.zero_exact(gradient)?,
                Gradient::Stored(gradient) => ops.zero_stored(gradient)?,
            }
        }
        Ok(())
    }

    /// Squares of the gradients that are held, each at its parameter's place.
    ///
    /// # Errors
    /// Those of the device.
    pub fn squares(&mut self, ops: &O, norm: &mut O::Norm) -> Result<(), ModelError> {
        (0..self.buffers.len()).try_for_each(|place| self.settle_one(ops, place))?;
        let held: Vec<_> = (0..self.places.len()).filter_map(|at| Some((at, self.get(at)?))).collect();
        Ok(ops.squares(&held, norm)?)
    }
}
