//! AdamW over all parameters, with clipping by the norm of all gradients.

use crate::model::{Gradients, Model, ModelError, Parameter, Parameters};
use osler_kernels::operations::{AdamState, AdamW};
use osler_kernels::{Memory, Operations};

/// What does not change from step to step. The defaults are those of the source paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// For matrices, embeddings included; norms and biases do not decay.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; larger ones are scaled down to it.
    pub clip: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip: Some(1.0) }
    }
}

/// AdamW with its state.
#[derive(Debug)]
pub struct Optimiser<O: Memory> {
    pub settings: Settings,
    /// Steps taken.
    pub step: u64,
    /// By parameter; none for one that another rank steps.
    pub states: Vec<Option<AdamState<O>>>,
}

impl<O: Memory> Optimiser<O> {
    /// The memory of a state of the parameters that `holds` names, zero all over.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough.
    pub fn allocate(memory: &O, parameters: &Parameters, settings: Settings, holds: impl Fn(usize) -> bool) -> Result<Self, ModelError> {
        let state = |(at, parameter): (usize, &Parameter)| {
            let len = parameter.len();
            if !holds(at) {
                return Ok(None);
            }
            let rest = if memory.needs_master() { Some(memory.new_rest(len)?) } else { None };
            Ok(Some(AdamState { first: memory.new_exact(len)?, second: memory.new_exact(len)?, rest }))
        };
        let states = parameters.list.iter().enumerate().map(state).collect::<Result<_, ModelError>>()?;
        Ok(Self { settings, step: 0, states })
    }
}

impl<O: Operations> Optimiser<O> {
    /// A fresh state: moments of zero, and master weights where the device needs them.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough memory.
    pub fn new(ops: &O, model: &Model<O>, settings: Settings) -> Result<Self, ModelError> {
        Self::of_part(ops, model, settings, |_| true)
    }

    /// The same of the parameters that `holds` names: only those are stepped.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_part(ops: &O, model: &Model<O>, settings: Settings, holds: impl Fn(usize) -> bool) -> Result<Self, ModelError> {
        // Master weights are the stored ones, to begin with: they lack nothing.
        Self::allocate(ops, &model.parameters, settings, holds)
    }

    /// One step down the gradients, whose norm together is `norm`, of the parameters that are held.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] of the device.
    pub fn step(&mut self, ops: &O, learning_rate: f64, norm: f64, grads: &Gradients<O>, model: &mut Model<O>) -> Result<(), ModelError> {
        let Settings { beta1, beta2, epsilon, weight_decay, clip } = self.settings;
        self.step += 1;
        let gradient_scale = clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        let settings = AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: self.step, gradient_scale };
        let parameters = model.parameters.list.iter().zip(&mut model.weights);
        for (at, ((parameter, weight), state)) in parameters.zip(&mut self.states).enumerate() {
            let (Some(grad), Some(state)) = (grads.get(at), state) else { continue };
            let settings = AdamW { weight_decay: if parameter.decays() { weight_decay } else { 0.0 }, ..settings };
            ops.adamw(&settings, grad, state, weight)?;
        }
        Ok(())
    }
}
