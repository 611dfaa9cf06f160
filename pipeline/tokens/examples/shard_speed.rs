//! Measures the loader: `shard_speed FOLDER` in a folder for scratch files. Prints GB/s of batches filled in the order of the seed from the
//! page cache, of a plain copy of the same chunks, and the seconds to open 10,000 shards.

use osler_schemas::shard::TokenizerIdentity;
use osler_tokens::loader::{Filler, Share, State};
use osler_tokens::pack::{Method, PackConfig, Tail};
use osler_tokens::writer::{Document, ShardWriter};
use osler_tokens::{Expectations, Order, ShardSet};
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

const CONTEXT: u32 = 8192;
const CHUNKS_PER_BATCH: u32 = 8;
const NUM_SHARDS: u64 = 10_000;

fn write(
    directory: &Path,
    vocab_size: u32,
    context_length: u32,
    shard_bytes: u64,
    documents: u64,
    len: usize,
) -> Result<(), osler_tokens::Error> {
    let tokenizer = TokenizerIdentity { name: "speed".into(), xxh3: 1, vocab_size, eos_id: 2, bos_id: None, pad_id: 2 };
    let pack = PackConfig { context_length, method: Method::Concat, tail: Tail::Carry, seed: 1 };
    let mut writer = ShardWriter::create(directory, tokenizer, pack, shard_bytes)?;
    for number in 0..documents {
        let ids: Vec<u32> = (0..len as u64).map(|at| ((number * 7919 + at * 31) % u64::from(vocab_size)) as u32).collect();
        writer.push(Document { doc_id: &format!("{number:032x}"), source: "s", ids: &ids, loss: None })?;
    }
    writer.finish().map(drop)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = std::env::args().nth(1).ok_or("shard_speed FOLDER")?;
    let scratch = Path::new(&scratch);
    for vocab_size in [32_000, 150_000] {
        let directory = scratch.join(format!("speed-{vocab_size}"));
        write(&directory, vocab_size, CONTEXT, 1 << 28, 100_000, 2500)?;
        speed(&directory, vocab_size)?;
        std::fs::remove_dir_all(&directory)?;
    }
    let directory = scratch.join("many");
    write(&directory, 32_000, 512, 1024, NUM_SHARDS, 512)?;
    let mut best = f64::INFINITY;
    let mut num_shards = 0;
    for _ in 0..3 {
        let start = Instant::now();
        num_shards = ShardSet::open(&directory, &Expectations::default())?.shards().len();
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("opening {num_shards} shards: {best:.3} s");
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn speed(directory: &Path, vocab_size: u32) -> Result<(), Box<dyn std::error::Error>> {
    let set = ShardSet::open(directory, &Expectations::default())?;
    let order = Order::of(&set)?;
    let share = Share { rank: 0, world: 1, chunks_per_batch: CHUNKS_PER_BATCH, epochs: 1 };
    let chunk_bytes = set.chunk(0).map_or(0, |chunk| chunk.num_bytes());
    let num_bytes = (order.chunks_per_epoch() * chunk_bytes as u64) as f64;
    let (mut filled, mut copied) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..5 {
        let mut buffer = vec![0u8; chunk_bytes * CHUNKS_PER_BATCH as usize];
        let start = Instant::now();
        let mut filler = Filler::new(&set, &order, share, State { seed: order.seed(), ..State::default() });
        while filler.state().epoch < 1 {
            buffer = black_box(filler.fill(buffer)).buffer;
        }
        filled = filled.min(start.elapsed().as_secs_f64());
        let slices: Vec<&[u8]> =
            (0..order.chunks_per_epoch()).filter_map(|at| set.chunk(order.at(0, at)?)?.contiguous().map(|tokens| tokens.bytes())).collect();
        let start = Instant::now();
        for (index, slice) in slices.iter().enumerate() {
            let at = index % CHUNKS_PER_BATCH as usize * chunk_bytes;
            buffer[at..at + chunk_bytes].copy_from_slice(slice);
            black_box(&mut buffer);
        }
        copied = copied.min(start.elapsed().as_secs_f64());
    }
    let rate = |seconds: f64| num_bytes / seconds / 1e9;
    println!(
        "vocabulary {vocab_size}: batches {:.2} GB/s, plain copy {:.2} GB/s, {:.0} %",
        rate(filled),
        rate(copied),
        100.0 * copied / filled
    );
    Ok(())
}
