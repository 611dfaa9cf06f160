//! Prints the logits that a saved model gives some tokens, f32 little-endian `[tokens, vocab_size]`, for comparison with another program's.
//!
//! `logits MODEL_DIRECTORY FIRST,SECOND,…`

use osler_kernels::Cpu;
use osler_train::model::{Batch, Workspace, read_weights};
use std::io::Write;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (directory, tokens) = arguments.next().zip(arguments.next()).ok_or("logits MODEL_DIRECTORY FIRST,SECOND,…")?;
    let tokens: Vec<u32> = tokens.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let ops = Cpu::<f32>::new(1)?;
    let model = read_weights(&ops, Path::new(&directory))?;
    let mut batch = Batch::default();
    batch.push(&tokens);
    let mut work = Workspace::new(&ops, &model.config, tokens.len())?;
    let bytes: Vec<u8> = model.logits(&ops, &batch, &mut work)?.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(std::io::stdout().write_all(&bytes)?)
}
