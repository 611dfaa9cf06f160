//! Packing again: another context length, packing method or mix, from the same token files.
//!
//! Only sidecars are written. All of them are made, checked and brought to disk before the first takes its place; should that be
//! interrupted between two, the set is refused as one of mixed settings, and packing again mends it.

use crate::error::Error;
use crate::mix::MixConfig;
use crate::pack::{PackConfig, Tail};
use crate::shards::{Shard, ShardSet};
use crate::sidecar::{self, Row};
use crate::writer::{Summary, WrittenShard, part_of_row};
use osler_schemas::shard::{self, Header};
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Packs the shards in `directory` again. A tail can be carried only where every token file but the last holds whole chunks already;
/// otherwise each file's rest stays in no chunk and is counted.
///
/// # Errors
/// [`Error`]; the set is then as it was.
pub fn repack(directory: &Path, pack: &PackConfig, mix: &MixConfig) -> Result<Summary, Error> {
    pack.check().map_err(|error| Error::Setting { setting: "pack", problem: error.to_string() })?;
    mix.check()?;
    let set = ShardSet::open_any_packing(directory)?;
    let pack = packing_that_fits(&set, pack, mix);
    let mut summary = Summary::default();
    let mut written: Vec<(PathBuf, PathBuf)> = Vec::new();
    let outcome = (|| {
        for shard in set.shards() {
            written.push(write_sidecar(directory, shard, &pack, mix, &mut summary)?);
        }
        summary.resolve(mix, pack.context_length)
    })();
    if let Err(error) = outcome {
        for name in (0..set.shards().len() as u32).map(shard::sidecar_name) {
            // What stays under a temporary name is no part of the set.
            let _ = fs::remove_file(directory.join(format!(".{name}.tmp")));
        }
        return Err(error);
    }
    for (temporary, path) in &written {
        fs::rename(temporary, path).map_err(|error| Error::io(path, error))?;
    }
    File::open(directory).and_then(|folder| folder.sync_all()).map_err(|error| Error::io(directory, error))?;
    Ok(summary)
}

fn packing_that_fits(set: &ShardSet, pack: &PackConfig, mix: &MixConfig) -> PackConfig {
    let context = u64::from(pack.context_length);
    let whole = set.shards().iter().rev().skip(1).all(|shard| shard.header().num_tokens.is_multiple_of(context));
    let tail = if pack.carries() && (!whole || !mix.is_empty()) { Tail::Drop } else { pack.tail };
    PackConfig { tail, ..pack.clone() }
}

fn write_sidecar(
    directory: &Path,
    shard: &Shard,
    pack: &PackConfig,
    mix: &MixConfig,
    summary: &mut Summary,
) -> Result<(PathBuf, PathBuf), Error> {
    let sources: Vec<String> = shard.source_names().iter().map(|name| name.unwrap_or_default().to_string()).collect();
    let rows: Vec<Row> = shard.rows().collect();
    let loss: Option<Vec<Range<u64>>> = shard.loss().map(Iterator::collect);
    let plan = sidecar::plan(&rows, &sources, pack, mix)?;
    let header = Header {
        num_tail_tokens: plan.num_tail_tokens,
        context_length: pack.context_length,
        packing: pack.to_string(),
        seed: pack.seed,
        mix: mix.to_json(),
        ..shard.header().clone()
    };
    let bytes = sidecar::bytes(&header, &sources, &rows, loss.as_deref(), &plan)?;
    let name = shard::sidecar_name(header.shard);
    let temporary = directory.join(format!(".{name}.tmp"));
    let write = || File::create(&temporary).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    write().map_err(|error| Error::io(&temporary, error))?;
    for document in shard.documents() {
        summary.add_document(document.source, document.offset, document.len);
    }
    let path = directory.join(&name);
    let written = WrittenShard {
        bin: shard.bin_path().to_path_buf(),
        sidecar: path.clone(),
        num_tokens: header.num_tokens,
        num_chunks: plan.len() as u64,
        bin_xxh3: header.bin_xxh3,
        sidecar_xxh3: xxhash_rust::xxh3::xxh3_128(&bytes),
    };
    summary.add(written, &plan, |document| part_of_row(&rows, &sources, mix, document));
    Ok((temporary, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::MixPart;
    use crate::order::Order;
    use crate::pack::Method;
    use crate::shards::Expectations;
    use crate::writer::{Document, ShardWriter};
    use osler_schemas::shard::TokenizerIdentity;

    fn pack(context_length: u32, method: Method, tail: Tail) -> PackConfig {
        PackConfig { context_length, method, tail, seed: 3 }
    }

    fn mix(a: u64, b: u64, repeat: bool) -> MixConfig {
        let part = |name: &str, sources: &[&str], tokens| MixPart {
            name: name.into(),
            sources: sources.iter().map(|name| name.to_string()).collect(),
            tokens,
        };
        MixConfig { epochs: 2, repeat, part: vec![part("ac", &["a", "c"], a), part("b", &[], b)] }
    }

    fn write(directory: &Path, pack: PackConfig, mix: MixConfig, shard_bytes: u64) -> Result<Summary, Error> {
        let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size: 5000, eos_id: 0, bos_id: None, pad_id: 9 };
        let mut writer = ShardWriter::create(directory, tokenizer, pack, shard_bytes)?.with_mix(mix)?;
        for number in 0..60u32 {
            let ids: Vec<u32> = (0..(number * 13) % 37 + 1).map(|at| number * 50 + at).collect();
            let source = ["a", "b", "c", "d"][number as usize / 15];
            let spans = [1..ids.len() as u64];
            let loss = (number % 5 == 0 && ids.len() > 1).then_some(spans.as_slice());
            writer.push(Document { doc_id: &format!("{number}"), source, ids: &ids, loss })?;
        }
        writer.finish()
    }

    fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn repacked_shards_are_those_of_a_fresh_run() {
        let wanted = [
            (pack(16, Method::BestFit, Tail::Carry), MixConfig::default()),
            (pack(8, Method::Concat, Tail::Pad), MixConfig::default()),
            (pack(8, Method::Concat, Tail::Drop), mix(100, 150, false)),
            (pack(12, Method::BestFit, Tail::Drop), mix(60, 90, false)),
        ];
        for shard_bytes in [300, 1 << 20] {
            for (pack_after, mix_after) in &wanted {
                let (fresh, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let fresh_summary = write(fresh.path(), pack_after.clone(), mix_after.clone(), shard_bytes).unwrap();
                write(again.path(), pack(4, Method::Concat, Tail::Drop), MixConfig::default(), shard_bytes).unwrap();
                let summary = repack(again.path(), pack_after, mix_after).unwrap();
                assert!(files(fresh.path()) == files(again.path()), "{pack_after} {shard_bytes}");
                assert_eq!(summary.num_chunks, fresh_summary.num_chunks);
                assert_eq!(summary.num_documents, 60);
                assert_eq!((summary.part_chunks, summary.parts), (fresh_summary.part_chunks, fresh_summary.parts));
            }
        }
    }

    #[test]
    fn mixed_chunks_hold_one_part_and_the_order_gives_the_budget() {
        let directory = tempfile::tempdir().unwrap();
        let config = mix(96, 160, false);
        write(directory.path(), pack(8, Method::Concat, Tail::Carry), config.clone(), 300).unwrap();
        let set = ShardSet::open(directory.path(), &Expectations::default()).unwrap();
        assert_eq!(set.header().packing, "concat/drop");
        let order = Order::of(&set).unwrap();
        assert_eq!((order.chunks_per_epoch(), order.epochs()), (12 + 20, 2));
        for epoch in 0..2 {
            let mut tokens = [0; 2];
            for position in 0..order.chunks_per_epoch() {
                let chunk = set.chunk(order.at(epoch, position).unwrap()).unwrap();
                let parts: Vec<_> =
                    chunk.sources.iter().map(|&source| config.part_of(chunk.source_names().value(source as usize))).collect();
                assert!(parts.iter().all(|part| part.is_some() && *part == parts[0]));
                tokens[parts[0].unwrap()] += chunk.num_tokens();
            }
            assert_eq!(tokens, [96, 160]);
        }
    }

    #[test]
    fn a_refused_mix_leaves_the_set_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), pack(8, Method::Concat, Tail::Drop), MixConfig::default(), 300).unwrap();
        let before = files(directory.path());
        let error = repack(directory.path(), &pack(8, Method::Concat, Tail::Drop), &mix(100_000, 8, false)).unwrap_err();
        assert!(error.to_string().contains("mix.repeat = true"), "{error}");
        assert!(files(directory.path()) == before);
        repack(directory.path(), &pack(8, Method::Concat, Tail::Drop), &mix(100_000, 8, true)).unwrap();
    }

    #[test]
    fn an_interrupted_repacking_is_refused_and_mended() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(first.path(), pack(8, Method::Concat, Tail::Drop), MixConfig::default(), 300).unwrap();
        write(second.path(), pack(4, Method::Concat, Tail::Drop), MixConfig::default(), 300).unwrap();
        fs::copy(second.path().join("part-00001.meta.arrow"), first.path().join("part-00001.meta.arrow")).unwrap();
        let error = ShardSet::open(first.path(), &Expectations::default()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("part-00001.meta.arrow: settings"), "{error}");
        repack(first.path(), &pack(4, Method::Concat, Tail::Drop), &MixConfig::default()).unwrap();
        assert!(files(first.path()) == files(second.path()));
    }

    #[test]
    fn carried_tails_stay_carried_where_files_hold_whole_chunks() {
        let directory = tempfile::tempdir().unwrap();
        let packing = |context_length| {
            repack(directory.path(), &pack(context_length, Method::Concat, Tail::Carry), &MixConfig::default()).unwrap();
            ShardSet::open(directory.path(), &Expectations::default()).unwrap().header().packing.clone()
        };
        write(directory.path(), pack(16, Method::Concat, Tail::Carry), MixConfig::default(), 300).unwrap();
        assert_eq!((packing(8), packing(10), packing(16)), ("concat/carry".into(), "concat/drop".into(), "concat/carry".into()));
    }
}
