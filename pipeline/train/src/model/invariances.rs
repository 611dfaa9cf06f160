//! What must not change the result.

use super::tests::golden_folder;
use super::*;
use crate::optimiser::{MomentKind, Optimiser, Settings};
use osler_kernels::Cpu;
use osler_kernels::cpu::Number;
use osler_kernels::operations::Gradient;
use serde_json::json;

const KINDS: [&str; 4] = ["mistral", "mixtral", "qwen2", "qwen3"];

/// A golden config with some keys changed.
fn config(kind: &str, changes: &[(&str, serde_json::Value)]) -> Config {
    let mut source = Config::read(&golden_folder(kind).join("config.json")).unwrap().source;
    source.extend(changes.iter().map(|(key, value)| (key.to_string(), value.clone())));
    source.insert("initializer_range".to_string(), json!(0.3));
    Config::from_json(source).unwrap()
}

/// Tokens without a pattern.
fn document(len: usize, salt: u64) -> Vec<u32> {
    let mut random = crate::random::Random::new(salt, "document");
    (0..len).map(|_| (random.bits() % 40) as u32).collect()
}

fn batch(documents: &[Vec<u32>]) -> Batch {
    let mut batch = Batch::default();
    documents.iter().for_each(|document| batch.push(document));
    batch
}

/// Losses of rows and gradients of passes over these batches, added up.
fn passes<F: Number>(ops: &Cpu<F>, model: &Model<Cpu<F>>, batches: &[Batch]) -> (Vec<f32>, Vec<Vec<F>>) {
    let targets: usize = batches.iter().map(Batch::num_targets).sum();
    let mut grads = Gradients::new(ops, &model.parameters).unwrap();
    let mut losses = Vec::new();
    for batch in batches {
        let mut work = Workspace::new(ops, &model.config, batch.len()).unwrap();
        losses.extend(model.forward_backward(ops, batch, 1.0 / targets as f64, &mut work, &mut grads).unwrap().rows);
    }
    (losses, exact(grads))
}

/// Gradients in f32.
fn exact<F: Number>(grads: Gradients<Cpu<F>>) -> Vec<Vec<F>> {
    let numbers = |gradient: Gradient<Cpu<F>>| match gradient {
        Gradient::Exact(numbers) => numbers,
        Gradient::Stored(_) => panic!("asked for f32"),
    };
    grads.buffers.into_iter().map(numbers).collect()
}

#[track_caller]
fn close(name: &str, got: &[f32], wanted: &[f32], tolerance: f32) {
    let largest = wanted.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    assert_eq!(got.len(), wanted.len(), "{name}");
    for (at, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((got - wanted).abs() <= tolerance * largest, "{name}[{at}]: got {got}, wanted {wanted}");
    }
}

/// Documents in one pass, and one pass for each: packing leaks nothing, and accumulation weighs by tokens. Without the balance loss,
/// which is
/// of a pass.
#[test]
fn packed_documents_are_separate_documents() {
    let ops = Cpu::<f32>::new(2).unwrap();
    for kind in KINDS {
        let model = Model::random(&ops, config(kind, &[("router_aux_loss_coef", json!(0.0))]), 1).unwrap();
        let documents = [document(20, 1), document(1, 2), document(30, 3), document(7, 4)];
        let (losses, grads) = passes(&ops, &model, &[batch(&documents)]);
        let separate: Vec<Batch> = documents.iter().map(|document| batch(std::slice::from_ref(document))).collect();
        let (wanted, wanted_grads) = passes(&ops, &model, &separate);
        close(kind, &losses, &wanted, 1e-5);
        for ((parameter, got), wanted) in model.parameters.list.iter().zip(&grads).zip(&wanted_grads) {
            close(&format!("{kind} {}", parameter.names[0]), got, wanted, 1e-5);
        }
        // And they are not one text.
        let (joined, _) = passes(&ops, &model, &[batch(&[documents.concat()])]);
        assert!(joined[22..].iter().zip(&losses[22..]).any(|(joined, separate)| (joined - separate).abs() > 1e-3));
    }
}

/// Whatever is computed again, losses and gradients have the same bits, and less is held.
#[test]
fn recomputing_changes_no_bit() {
    fn run<F: Number>(ops: &Cpu<F>, kind: &str, recompute: Recompute) -> (Losses, Vec<Vec<F>>) {
        let model = Model::random(ops, config(kind, &[]), 1).unwrap();
        let batch = batch(&[document(20, 1), document(1, 2), document(30, 3)]);
        let mut grads = Gradients::new(ops, &model.parameters).unwrap();
        let mut work = Workspace::with_recompute(ops, &model.config, batch.len(), recompute).unwrap();
        // Twice, since buffers have been swapped by then.
        model.forward_backward(ops, &batch, 0.02, &mut work, &mut grads).unwrap();
        let losses = model.forward_backward(ops, &batch, 0.02, &mut work, &mut grads).unwrap();
        (losses, exact(grads))
    }
    let (exact, rounded) = (Cpu::<f32>::new(2).unwrap(), Cpu::bf16(2).unwrap());
    for kind in KINDS {
        for ops in [&exact, &rounded] {
            let wanted = run(ops, kind, Recompute::None);
            for recompute in Recompute::ALL {
                assert!(run(ops, kind, recompute) == wanted, "{kind}, {}", recompute.name());
            }
        }
    }
}

#[test]
fn a_window_over_all_is_causal() {
    let ops = Cpu::<f32>::new(1).unwrap();
    let run = |window: serde_json::Value| {
        let model = Model::random(&ops, config("mistral", &[("sliding_window", window)]), 1).unwrap();
        passes(&ops, &model, &[batch(&[document(40, 1), document(20, 2)])])
    };
    let causal = run(json!(null));
    assert_eq!(run(json!(40)), causal);
    assert_eq!(run(json!(4000)), causal);
    assert_ne!(run(json!(38)).0, causal.0, "the last row of 40 that is asked for something does not see the first");
}

#[test]
fn experts_have_no_order() {
    let ops = Cpu::<f32>::new(1).unwrap();
    let mut model = Model::random(&ops, config("mixtral", &[]), 1).unwrap();
    let texts = [batch(&[document(60, 1)])];
    let (losses, mut grads) = passes(&ops, &model, &texts);
    // Expert e moves to place 3e + 1 modulo 8.
    let moved = |values: &[f32]| {
        let len = values.len() / 8;
        let mut moved = vec![0.0; values.len()];
        (0..8).for_each(|expert| {
            let place = (3 * expert + 1) % 8;
            moved[place * len..(place + 1) * len].copy_from_slice(&values[expert * len..(expert + 1) * len]);
        });
        moved
    };
    for layer in &model.parameters.layers {
        for at in [layer.router.unwrap(), layer.gate, layer.up, layer.down] {
            model.weights[at] = moved(&model.weights[at]);
            grads[at] = moved(&grads[at]);
        }
    }
    let (again, grads_again) = passes(&ops, &model, &texts);
    close("losses", &again, &losses, 1e-5);
    for ((parameter, got), wanted) in model.parameters.list.iter().zip(&grads_again).zip(&grads) {
        close(&parameter.names[0], got, wanted, 1e-5);
    }
}

#[test]
fn threads_do_not_matter() {
    for kind in KINDS {
        for open in [Cpu::<f32>::new, Cpu::bf16] {
            let run = |threads: usize| {
                let ops = open(threads).unwrap();
                let model = Model::random(&ops, config(kind, &[]), 1).unwrap();
                let mut long = batch(&[document(60, 1), document(64, 2)]);
                (3..6).for_each(|salt| long.push(&document(50, salt)));
                passes(&ops, &model, &[long])
            };
            let one = run(1);
            assert!(run(2) == one && run(5) == one, "{kind}");
        }
    }
}

/// The whole model against finite differences in f64, along a random direction in each parameter.
#[test]
fn gradients_match_slopes() {
    const STEP: f64 = 1e-5;
    let ops = Cpu::<f64>::new(2).unwrap();
    for kind in KINDS {
        let mut model = Model::random(&ops, config(kind, &[]), 1).unwrap();
        let text = batch(&[document(20, 1), document(9, 2)]);
        let targets = text.num_targets() as f64;
        let (_, grads) = passes(&ops, &model, std::slice::from_ref(&text));
        let mut work = Workspace::new(&ops, &model.config, text.len()).unwrap();
        for (at, grad) in grads.iter().enumerate() {
            let mut random = crate::random::Random::new(at as u64, kind);
            let direction: Vec<f64> = (0..model.parameters.list[at].len()).map(|_| random.normal()).collect();
            let start = model.weights[at].clone();
            let mut loss = |by: f64| {
                for ((weight, start), direction) in model.weights[at].iter_mut().zip(&start).zip(&direction) {
                    *weight = start + by * direction;
                }
                // In f64, since losses are handed out in f32.
                model.forward(&ops, &text, &mut work).unwrap();
                let balance = work.balance.as_ref().map_or(0.0, |balance| balance.loss[0]);
                work.losses.iter().sum::<f64>() / targets + balance
            };
            let slope = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            loss(0.0);
            let wanted: f64 = grad.iter().zip(&direction).map(|(grad, direction)| grad * direction).sum();
            let name = &model.parameters.list[at].names[0];
            assert!((slope - wanted).abs() < 1e-6 * (1.0 + wanted.abs()), "{kind} {name}: {slope} {wanted}");
        }
    }
}

/// The losses of so many steps, each of four texts in one, two or four passes, with something to learn: each token is the one before times three,
/// or any.
fn curve(ops: &Cpu<f32>, config: Config, settings: Settings, passes: usize, steps: u64) -> Vec<f64> {
    let mut model = Model::random(ops, Config { initializer_range: 0.1, ..config }, 1).unwrap();
    let mut optimiser = Optimiser::new(ops, &model, settings).unwrap();
    let mut grads = Gradients::of_kind(ops, &model.parameters, settings.gradients, |_| true).unwrap();
    let mut work = Workspace::new(ops, &model.config, 128 / passes).unwrap();
    let step = |step: u64| {
        let mut random = crate::random::Random::new(step, "text");
        let mut batches: Vec<Batch> = (0..passes).map(|_| Batch::default()).collect();
        for text in 0..4 {
            let mut token = 1;
            batches[text % passes].push(&std::array::from_fn::<u32, 32, _>(|_| {
                token = if random.uniform() < 0.5 { token * 3 % 40 } else { (random.bits() % 40) as u32 };
                token
            }));
        }
        grads.clear();
        let scale = 1.0 / batches.iter().map(Batch::num_targets).sum::<usize>() as f64;
        let mut pass = |batch: &Batch| model.forward_backward(ops, batch, scale, &mut work, &mut grads).unwrap().sum();
        let loss: f64 = batches.iter().map(&mut pass).sum();
        optimiser.step(ops, 3e-3, &mut grads, &mut model).unwrap();
        loss * scale
    };
    (0..steps).map(step).collect()
}

/// 50 steps within 1 %, in f32 and beside a master.
#[test]
fn moments_of_8_bits_learn_as_exact_ones_do() {
    for (open, kind) in [(Cpu::new as fn(usize) -> _, "mistral"), (Cpu::new, "mixtral"), (Cpu::bf16, "mistral")] {
        let ops: Cpu<f32> = open(2).unwrap();
        // The matrices of the feed-forward part are just large enough.
        let config = config(kind, &[("intermediate_size", json!(256))]);
        let with = |moments| curve(&ops, config.clone(), Settings { moments, ..Settings::default() }, 1, 50);
        let (exact, narrow) = (with(MomentKind::F32), with(MomentKind::EightBit));
        assert!(exact != narrow, "{kind}: no parameter is large enough");
        for (step, (exact, narrow)) in exact.iter().zip(&narrow).enumerate() {
            assert!((exact - narrow).abs() < 0.01 * exact, "{kind} step {step}: {exact} {narrow}");
        }
    }
}

/// 50 steps within 1 %.
#[test]
fn gradients_of_bf16_learn_as_exact_ones_do() {
    let ops = Cpu::bf16(2).unwrap();
    for kind in KINDS {
        for passes in [1, 4] {
            let with = |gradients| curve(&ops, config(kind, &[]), Settings { gradients, ..Settings::default() }, passes, 50);
            let (exact, rounded) = (with(GradientKind::F32), with(GradientKind::Bf16));
            assert!(exact != rounded, "{kind}: none is rounded");
            for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
                assert!((exact - rounded).abs() < 0.01 * exact, "{kind}, {passes} passes, step {step}: {exact} {rounded}");
            }
        }
    }
}

/// 200 steps in f32 and in bf16 mode.
#[test]
fn bf16_learns_as_f32_does() {
    let curve = |ops: Cpu<f32>, kind: &str| curve(&ops, config(kind, &[]), Settings::default(), 1, 200);
    for kind in ["mistral", "mixtral"] {
        let (exact, rounded) = (curve(Cpu::new(2).unwrap(), kind), curve(Cpu::bf16(2).unwrap(), kind));
        for (step, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
            assert!((exact - rounded).abs() < 0.02 * exact, "{kind} step {step}: {exact} {rounded}");
        }
        let (first, last) = (exact[..10].iter().sum::<f64>(), exact[190..].iter().sum::<f64>());
        assert!(last < 0.9 * first, "{kind} learns: {first} {last}");
    }
}
