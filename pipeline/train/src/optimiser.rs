//! AdamW over all parameters, with clipping by the norm of all gradients.

use crate::model::{Gradients, Model, ModelError};
use osler_kernels::Operations;
use osler_kernels::operations::{AdamState, AdamW};

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
pub struct Optimiser<O: Operations> {
    pub settings: Settings,
    /// Steps taken.
    pub step: u64,
    pub states: Vec<AdamState<O::Exact>>,
}

impl<O: Operations> Optimiser<O> {
    /// A fresh state: moments of zero, and master weights where the device needs them.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough memory.
    pub fn new(ops: &O, model: &Model<O>, settings: Settings) -> Result<Self, ModelError> {
        let state = |(parameter, weight): (&crate::model::Parameter, &O::Stored)| {
            let len = parameter.len();
            let master = if ops.needs_master() { Some(master_of(ops, weight, len)?) } else { None };
            Ok(AdamState { first: ops.new_exact(len)?, second: ops.new_exact(len)?, master })
        };
        let states = model.parameters.list.iter().zip(&model.weights).map(state).collect::<Result<_, ModelError>>()?;
        Ok(Self { settings, step: 0, states })
    }

    /// One step down the gradients; gives their norm before clipping.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] of the device.
    pub fn step(&mut self, ops: &O, learning_rate: f64, grads: &Gradients<O>, model: &mut Model<O>) -> Result<f64, ModelError> {
        let Settings { beta1, beta2, epsilon, weight_decay, clip } = self.settings;
        let norm = grads.norm(ops)?;
        self.step += 1;
        let gradient_scale = clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        let settings = AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: self.step, gradient_scale };
        let parameters = model.parameters.list.iter().zip(&mut model.weights);
        for ((parameter, weight), (grad, state)) in parameters.zip(grads.0.iter().zip(&mut self.states)) {
            let settings = AdamW { weight_decay: if parameter.decays() { weight_decay } else { 0.0 }, ..settings };
            ops.adamw(&settings, grad, state, weight)?;
        }
        Ok(norm)
    }
}

fn master_of<O: Operations>(ops: &O, weight: &O::Stored, len: usize) -> Result<O::Exact, ModelError> {
    const BLOCK: usize = 1 << 16;
    let mut master = ops.new_exact(len)?;
    let mut values = vec![0.0; BLOCK.min(len)];
    for at in (0..len).step_by(BLOCK) {
        let values = &mut values[..BLOCK.min(len - at)];
        ops.read_stored(weight, at, values)?;
        ops.write_exact(&mut master, at, values)?;
    }
    Ok(master)
}
