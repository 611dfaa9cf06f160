//! Times training steps of a 22 M-parameter Mistral at 512 tokens on random text, f32: forward, backward, clipping and AdamW. Prints the
//! fastest of some steps. `tests/bench/train_step.py` times the same in PyTorch.
//!
//! `step_speed [THREADS] [STEPS] [none|elementwise|feed-forward|layer]`

use osler_kernels::Cpu;
use osler_train::model::{Batch, Config, Gradients, Model, Recompute, Workspace};
use osler_train::optimiser::{Optimiser, Settings};
use osler_train::random::Random;
use serde_json::json;
use std::time::Instant;

const ROWS: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |at: usize| std::env::args().nth(at).and_then(|text| text.parse::<usize>().ok());
    let (threads, steps) = (argument(1).unwrap_or(1), argument(2).unwrap_or(5));
    let recompute = std::env::args().nth(3).unwrap_or_else(|| "none".into());
    let recompute = Recompute::ALL.into_iter().find(|policy| policy.name() == recompute).ok_or("no such policy")?;
    let config = json!({
        "model_type": "mistral", "hidden_act": "silu", "vocab_size": 12000, "hidden_size": 384, "intermediate_size": 1024,
        "num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512,
    });
    let ops = Cpu::<f32>::new(threads)?;
    let mut model = Model::random(&ops, Config::from_json(config.as_object().cloned().unwrap_or_default())?, 1)?;
    let mut random = Random::new(1, "text");
    let mut batch = Batch::default();
    batch.push(&(0..ROWS).map(|_| (random.bits() % 12_000) as u32).collect::<Vec<_>>());
    let mut work = Workspace::with_recompute(&ops, &model.config, ROWS, recompute)?;
    let mut grads = Gradients::new(&ops, &model.parameters)?;
    let mut optimiser = Optimiser::new(&ops, &model, Settings::default())?;
    let mut best = f64::INFINITY;
    let mut loss = 0.0;
    for _ in 0..=steps {
        let begun = Instant::now();
        grads.clear(&ops)?;
        let scale = 1.0 / batch.num_targets() as f64;
        loss = model.forward_backward(&ops, &batch, scale, &mut work, &mut grads)?.sum() * scale;
        optimiser.step(&ops, 1e-4, grads.norm(&ops)?, &grads, &mut model)?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    let weights = model.parameters.num_weights();
    // Six operations per weight and token, the embedding's look-up apart.
    let operations = 6.0 * (weights - 12_000 * 384) as f64 * ROWS as f64;
    println!(
        "{weights} weights, {threads} threads, recompute {}: {:.1} ms a step, {:.0} tokens/s, {:.1} GFLOP/s in matrix products, at most {} MB \
         resident, loss {loss:.3}",
        recompute.name(),
        best * 1e3,
        ROWS as f64 / best,
        operations / best * 1e-9,
        peak_kilobytes() / 1000
    );
    Ok(())
}

/// Most memory that the process held, where the system tells.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
