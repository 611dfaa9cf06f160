//! Training steps of a 22 M-parameter Mistral at 512 tokens on random text, f32: forward, backward, clipping and AdamW. Does a step per
//! line of its input, and prints the milliseconds it took; `tests/bench/train_step.py` does the same in PyTorch.
//!
//! `step_speed [THREADS] [none|elementwise|feed-forward|layer]`

use osler_kernels::Cpu;
use osler_train::model::{Batch, Config, Gradients, Model, Recompute, Workspace};
use osler_train::optimiser::{Optimiser, Settings};
use osler_train::random::Random;
use serde_json::json;
use std::time::Instant;

const ROWS: usize = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |at: usize| std::env::args().nth(at);
    let threads = argument(1).map_or(Ok(1), |threads| threads.parse())?;
    let recompute = argument(2).unwrap_or_else(|| "none".into());
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
    for line in std::io::stdin().lines() {
        line?;
        let begun = Instant::now();
        grads.clear();
        let scale = 1.0 / batch.num_targets() as f64;
        let loss = model.forward_backward(&ops, &batch, scale, &mut work, &mut grads)?.sum() * scale;
        optimiser.step(&ops, 1e-4, &mut grads, &mut model)?;
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        println!("{}", json!({ "milliseconds": milliseconds, "peak_megabytes": peak_kilobytes() / 1000, "loss": loss }));
    }
    Ok(())
}

/// Most memory that the process held, where the system tells.
fn peak_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
