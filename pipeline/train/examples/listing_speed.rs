//! Milliseconds that the host takes to list a step of Mistral 7B for a GPU, and to find the lists among those that it knows: on paper, so without
//! a GPU. `cargo run --example listing_speed`

use osler_kernels::Operations;
use osler_kernels::cuda::{Gpu, Paper};
use osler_train::model::{Batch, Config, GradientKind, Gradients, KeptLosses, Model, ModelError, Workspace};
use osler_train::optimiser::{MomentKind, Optimiser, Settings};
use serde_json::json;
use std::time::Instant;

/// Tokens of the step, a pass.
const ROWS: usize = 4096;

fn main() -> Result<(), ModelError> {
    let config = json!({
        "model_type": "mistral", "hidden_act": "silu", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": ROWS,
    });
    let ops = Gpu::new(Paper::default());
    let mut model = Model::allocate(&ops, Config::from_json(config.as_object().cloned().unwrap_or_default())?)?;
    let settings = Settings { moments: MomentKind::EightBit, gradients: GradientKind::Bf16, ..Settings::default() };
    let mut batch = Batch::default();
    batch.push(&[7; ROWS]);
    let mut work = Workspace::new(&ops, &model.config, ROWS)?;
    let mut grads = Gradients::of_kind(&ops, &model.parameters, settings.gradients, |_| true)?;
    let (mut kept, mut optimiser) = (KeptLosses::new(), Optimiser::new(&ops, &model, settings)?);
    println!("{:>12} {:>16} {:>12}", "pass listed", "optimiser's too", "and started");
    for _ in 0..8 {
        let begun = Instant::now();
        let milliseconds = || begun.elapsed().as_secs_f64() * 1e3;
        let (mut pass, mut all) = (0.0, 0.0);
        grads.clear();
        kept.clear(&ops, std::iter::once(ROWS))?;
        ops.as_one(|| {
            let share = model.start_forward_backward(&ops, &batch, 1e-3, &mut work, &mut grads, &mut |_, _| Ok(()))?;
            kept.keep(&ops, &work, share)?;
            pass = milliseconds();
            optimiser.squares(&ops, &mut grads)?;
            optimiser.finish(&ops, 1e-4, &mut kept, &grads, &mut model)?;
            all = milliseconds();
            Ok::<_, ModelError>(())
        })?;
        println!("{pass:>12.2} {all:>16.2} {:>12.2}", milliseconds());
        kept.take(&ops)?;
    }
    Ok(())
}
