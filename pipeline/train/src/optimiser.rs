//! AdamW over all parameters, with clipping by the norm of all gradients.

use crate::model::{GradientKind, Gradients, KeptLosses, Model, ModelError, Parameter, Parameters};
use osler_kernels::operations::{AdamState, AdamW};
use osler_kernels::{Memory, Operations};
use serde::{Deserialize, Serialize};

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
    pub moments: MomentKind,
    pub gradients: GradientKind,
}

/// How moments are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentKind {
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// 8 bits each with a scale for every 256 ([`osler_kernels::blockwise`]): 2.03 bytes per weight where f32 takes 8.
    #[serde(rename = "8-bit")]
    EightBit,
}

impl MomentKind {
    /// Whether those of a parameter of `len` weights are of 8 bits. Small ones stay f32, as in bitsandbytes: norms and biases together are
    /// next to nothing, and each matters much.
    pub fn is_blockwise(self, len: usize) -> bool {
        self == Self::EightBit && len >= BLOCKWISE_WEIGHTS_MIN
    }
}

/// Weights of the smallest parameter whose moments may be of 8 bits.
const BLOCKWISE_WEIGHTS_MIN: usize = 4096;

impl Default for Settings {
    fn default() -> Self {
        let (moments, gradients) = (MomentKind::F32, GradientKind::F32);
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip: Some(1.0), moments, gradients }
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
    /// Squares of all parameters' gradients, and their norm.
    pub norm: O::Norm,
}

impl<O: Memory> Optimiser<O> {
    /// The state before the first step of the parameters that `holds` names: only those are stepped.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough.
    pub fn of_part(memory: &O, parameters: &Parameters, settings: Settings, holds: impl Fn(usize) -> bool) -> Result<Self, ModelError> {
        let state = |(at, parameter): (usize, &Parameter)| {
            let len = parameter.len();
            let state = holds(at).then(|| AdamState::new(memory, len, settings.moments.is_blockwise(len)));
            Ok(state.transpose()?)
        };
        let states = parameters.list.iter().enumerate().map(state).collect::<Result<_, ModelError>>()?;
        let norm = memory.new_norm(parameters.list.len(), settings.clip.unwrap_or(f64::INFINITY))?;
        Ok(Self { settings, step: 0, states, norm })
    }
}

impl<O: Operations> Optimiser<O> {
    /// The state before the first step: moments of zero, and master weights that are the stored ones.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] when there is not enough memory.
    pub fn new(ops: &O, model: &Model<O>, settings: Settings) -> Result<Self, ModelError> {
        Self::of_part(ops, &model.parameters, settings, |_| true)
    }

    /// One step of one rank, and the norm of the gradients before clipping; weights and moments stay as they are where that is not finite. Waits
    /// for the device.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] of the device.
    pub fn step(&mut self, ops: &O, learning_rate: f64, grads: &mut Gradients<O>, model: &mut Model<O>) -> Result<f64, ModelError> {
        ops.as_one(|| {
            self.squares(ops, grads)?;
            ops.clip(&mut self.norm)?;
            self.take(ops, learning_rate, grads, model)
        })?;
        let mut board = ops.new_board(0)?;
        ops.end_telling(Some(&self.norm), &mut board)?;
        let norm = ops.told(&mut board, &mut [])?;
        if !norm.is_finite() {
            // It was none, and does not count.
            self.step -= 1;
        }
        Ok(norm)
    }

    /// Starts the squares of the gradients that are held.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] of the device.
    pub fn squares(&mut self, ops: &O, grads: &mut Gradients<O>) -> Result<(), ModelError> {
        grads.squares(ops, &mut self.norm)
    }

    /// Clips and takes the next step, once all squares are there. Before it the device tells what is kept of passes, and the norm, which the host may
    /// wait for while the device is at the step.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] of the device; also where there is no room for what is kept.
    pub fn finish(
        &mut self,
        ops: &O,
        learning_rate: f64,
        kept: &mut KeptLosses<O>,
        grads: &Gradients<O>,
        model: &mut Model<O>,
    ) -> Result<(), ModelError> {
        ops.clip(&mut self.norm)?;
        kept.end(ops, Some(&self.norm))?;
        self.take(ops, learning_rate, grads, model)
    }

    /// Takes the next step down the gradients of the parameters that are held, times the factor of the norm, which is there. Does not wait for
    /// the device.
    fn take(&mut self, ops: &O, learning_rate: f64, grads: &Gradients<O>, model: &mut Model<O>) -> Result<(), ModelError> {
        self.step += 1;
        let Settings { beta1, beta2, epsilon, weight_decay, .. } = self.settings;
        let settings = AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, step: self.step };
        let parameters = model.parameters.list.iter().zip(&mut model.weights);
        let (states, norm) = (&mut self.states, &self.norm);
        ops.as_one(|| {
            for (at, ((parameter, weight), state)) in parameters.zip(states).enumerate() {
                let (Some(grad), Some(state)) = (grads.get(at), state) else { continue };
                let settings = AdamW { weight_decay: if parameter.decays() { weight_decay } else { 0.0 }, ..settings };
                ops.adamw(&settings, norm, grad, state, weight)?;
            }
            Ok(())
        })
    }
}
