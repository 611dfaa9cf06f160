//! A step of a small model of each kind, through the trainer itself: every operation, each on what the one before made.

use crate::ranks::Course;
use crate::{Tolerance, Visitor, Work, close, numbers, read_gradient, read_stored};
use osler_kernels::Operations;
use osler_kernels::operations::IGNORED;
use osler_train::TrainError;
use osler_train::model::{Batch, Config, GradientKind, Gradients, Model, Parameters, Recompute, Workspace};
use osler_train::optimiser::{MomentKind, Optimiser, Settings};
use osler_train::ranks::Alone;
use osler_train::trainer::Source;
use serde_json::{Value, json};

/// The cases that an emulator can run.
pub fn visit(visitor: &mut impl Visitor) {
    let step = |kind, recompute| Step { kind, recompute, gradients: GradientKind::F32, for_hopper: false, layers: 2 };
    for kind in ["mistral", "mixtral", "qwen2", "qwen3"] {
        visitor.visit(&step(kind, Recompute::None));
    }
    visitor.visit(&step("mixtral", Recompute::Layer));
    for kind in ["mixtral", "qwen2"] {
        visitor.visit(&Step { gradients: GradientKind::Bf16, ..step(kind, Recompute::None) });
    }
    visitor.visit(&Step::for_hopper("mixtral"));
    visitor.visit(&Step { gradients: GradientKind::Bf16, ..Step::for_hopper("mixtral") });
    visitor.visit(&Steps { kind: "mistral", passes: 1 });
    visitor.visit(&Steps { kind: "mixtral", passes: 2 });
}

const VOCABULARY: usize = 50;

/// A step of one kind of model.
#[derive(Debug)]
pub struct Step {
    kind: &'static str,
    recompute: Recompute,
    gradients: GradientKind,
    /// Whether heads and experts have the sizes of kernels for Hopper.
    for_hopper: bool,
    layers: usize,
}

impl Step {
    /// A step that takes Hopper's kernels where there are two.
    pub fn for_hopper(kind: &'static str) -> Self {
        Self { kind, recompute: Recompute::None, gradients: GradientKind::F32, for_hopper: true, layers: 2 }
    }

    /// The same with so many layers.
    pub fn with_layers(self, layers: usize) -> Self {
        Self { layers, ..self }
    }

    /// Losses, gradients and weights after so many steps, each on another batch of as many rows. `after` is told
    /// when gradients are clear, when the pass ends, and when the step does.
    pub fn several<O: Operations>(&self, device: &O, count: u32, mut after: impl FnMut()) -> Vec<Vec<f32>> {
        let mut model = self.model(device);
        let mut work = Workspace::with_recompute(device, &model.config, Self::batch(0).len(), self.recompute).unwrap();
        let mut grads = Gradients::new(device, &model.parameters).unwrap();
        let mut optimiser = Optimiser::new(device, &model, Settings::default()).unwrap();
        let mut results = Vec::new();
        for step in 0..count {
            let batch = Self::batch(step as usize);
            grads.clear();
            after();
            let scale = 1.0 / batch.num_targets() as f64;
            results.push(model.forward_backward(device, &batch, scale, &mut work, &mut grads).unwrap().rows);
            after();
            optimiser.step(device, 0.01, &mut grads, &mut model).unwrap();
            after();
        }
        let weights = model.weights.iter().zip(&model.parameters.list);
        results.extend(weights.map(|(weight, parameter)| read_stored(device, weight, parameter.len())));
        results
    }

    /// Layers of attention's smallest head; windows, experts, biases, norms of heads and tied embeddings as each kind has them.
    fn config(&self) -> Config {
        let mut config = json!({
            "model_type": self.kind, "hidden_act": "silu", "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 40,
            "num_hidden_layers": self.layers, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 80,
            "initializer_range": 0.15, "rope_theta": 100.0,
        });
        let more = match self.kind {
            "mistral" => json!({ "sliding_window": 25 }),
            "mixtral" => json!({ "num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02 }),
            "qwen2" => json!({ "tie_word_embeddings": true, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": Value::Null }),
            _ => json!({}),
        };
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        if let (Some(config), true) = (config.as_object_mut(), self.for_hopper) {
            config.insert("head_dim".into(), json!(64));
            config.insert("intermediate_size".into(), json!(64));
        }
        Config::from_json(config.as_object().cloned().unwrap_or_default()).unwrap()
    }

    /// Rows of each batch.
    pub const ROWS: usize = 70;

    /// Two documents; some rows are asked for nothing, in each batch one more.
    pub fn batch(salt: usize) -> Batch {
        let mut batch = Batch::default();
        for (len, step) in [(29 + salt, 7), (41 - salt, 11)] {
            batch.push(&(0..len).map(|at| ((at * at * step + salt) % VOCABULARY) as u32).collect::<Vec<_>>());
        }
        batch.targets[5..6 + salt].fill(IGNORED);
        batch
    }

    /// Its model, with weights that are the same each time.
    pub fn model<O: Operations>(&self, device: &O) -> Model<O> {
        let mut model = Model::random(device, self.config(), SEED).unwrap();
        for (salt, (parameter, weight)) in (1..).zip(model.parameters.list.iter().zip(&mut model.weights)) {
            // Norms and biases begin alike, and would hide a column that is taken for another.
            if parameter.shape.len() > 1 {
                continue;
            }
            let (start, factor) = if parameter.names.iter().any(|name| name.ends_with("bias")) { (0.0, 0.3) } else { (1.0, 0.1) };
            let values: Vec<f32> = numbers(parameter.len(), salt).iter().map(|x| start + factor * x).collect();
            device.write_stored(weight, 0, &values).unwrap();
        }
        model
    }
}

/// Weights for which no row's choice of experts hangs on the last bit of its logits.
const SEED: u64 = 1;

impl Work for Step {
    fn name(&self) -> String {
        let sizes = if self.for_hopper { ", sizes of Hopper's kernels" } else { "" };
        let gradients = if self.gradients == GradientKind::Bf16 { ", gradients of bf16" } else { "" };
        format!("a step of {}, recompute {}{gradients}{sizes}", self.kind, self.recompute.name())
    }

    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let (mut model, batch) = (self.model(device), Self::batch(0));
        let mut work = Workspace::with_recompute(device, &model.config, batch.len(), self.recompute).unwrap();
        let mut grads = Gradients::of_kind(device, &model.parameters, self.gradients, |_| true).unwrap();
        let scale = 1.0 / batch.num_targets() as f64;
        let losses = model.forward_backward(device, &batch, scale, &mut work, &mut grads).unwrap();
        let mut results = vec![losses.rows, vec![losses.balance as f32]];
        results
            .extend(grads.buffers.iter().zip(&model.parameters.list).map(|(grad, parameter)| read_gradient(device, grad, parameter.len())));
        // As large as gradients are, so that noise in a small one does not become a whole step.
        let settings = Settings { epsilon: 1e-3, ..Settings::default() };
        let mut optimiser = Optimiser::new(device, &model, settings).unwrap();
        optimiser.step(device, 0.01, &mut grads, &mut model).unwrap();
        results.extend(
            model.weights.iter().zip(&model.parameters.list).map(|(weight, parameter)| read_stored(device, weight, parameter.len())),
        );
        results
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        let parameters = self.model_parameters();
        let names = ["losses".to_string(), "balance".to_string()].into_iter();
        let names = names
            .chain(parameters.iter().map(|name| format!("gradient of {name}")))
            .chain(parameters.iter().map(|name| format!("{name} stepped")));
        let names: Vec<String> = names.collect();
        if (got.len(), wanted.len()) != (names.len(), names.len()) {
            return Err(format!("{} and {} results, wanted {}", got.len(), wanted.len(), names.len()));
        }
        for ((name, got), wanted) in names.iter().zip(got).zip(wanted) {
            let length = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let apart = length(&mut got.iter().zip(wanted).map(|(got, wanted)| got - wanted));
            let whole = length(&mut wanted.iter().copied());
            // Some forty stores one after the other, each up to half a unit (1/256) off, and at random.
            if got.len() != wanted.len() || apart.is_nan() || apart > 40f64.sqrt() / 512.0 * whole {
                return Err(format!("{name}: {apart} of {whole} apart"));
            }
        }
        Ok(())
    }
}

/// Steps of a run, in the arena that was planned for them: lists are recorded in the second and replayed from the third on.
#[derive(Debug)]
struct Steps {
    kind: &'static str,
    passes: u32,
}

impl Work for Steps {
    fn name(&self) -> String {
        format!("four steps of {}, passes of each: {}", self.kind, self.passes)
    }

    fn run<O: Operations>(&self, device: &O) -> Vec<Vec<f32>> {
        let course = Course { kind: self.kind, passes: self.passes };
        device.reserve(course.memory(1, MomentKind::F32, Recompute::None).unwrap().needs()).unwrap();
        let mut trainer = course.trainer(device, Box::new(Alone)).unwrap();
        trainer.make_room(device, Step::ROWS).unwrap();
        let steps = (0..4).map(|_| trainer.step(device, &Whole).unwrap());
        steps.map(|step| [step.loss, step.balance, step.norm].map(|value| value as f32).to_vec()).collect()
    }

    fn judge(&self, got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Result<(), String> {
        // A pass's stores are some forty, each up to half a unit (1/256) off; each step begins where the one before has ended.
        let tolerance = Tolerance { relative: 1.0 / 32.0, absolute: 1e-6 };
        got.iter().zip(wanted).zip(1..).try_for_each(|((got, wanted), step)| close(&format!("step {step}"), got, wanted, tolerance))
    }
}

/// Batches of a course that all have rows and targets.
#[derive(Debug)]
pub struct Whole;

impl Source for Whole {
    fn batch(&self, step: u64, pass: u32) -> Result<Batch, TrainError> {
        Ok(Step::batch((step as usize + pass as usize) % 20))
    }
}

impl Step {
    fn model_parameters(&self) -> Vec<String> {
        let parameters = Parameters::new(&self.config());
        parameters.list.into_iter().filter_map(|parameter| parameter.names.into_iter().next()).collect()
    }
}
