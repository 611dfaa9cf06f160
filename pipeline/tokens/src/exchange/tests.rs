use super::*;
use crate::pack::{Method, PackConfig, Tail};
use crate::shards::Expectations;
use osler_schemas::shard::TokenizerIdentity;
use tempfile::TempDir;

const EOS: u32 = 3;

fn identity(vocab_size: u32) -> TokenizerIdentity {
    TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size, eos_id: EOS, bos_id: None, pad_id: 9 }
}

fn writer(directory: &Path, vocab_size: u32, tail: Tail) -> ShardWriter {
    let pack = PackConfig { context_length: 16, method: Method::Concat, tail, seed: 1 };
    ShardWriter::create(directory, identity(vocab_size), pack, 400).unwrap()
}

/// A set of several shards; documents end with the end-of-document token, and no other token is one.
fn write(vocab_size: u32, with_loss: bool) -> (TempDir, ShardSet) {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(directory.path(), vocab_size, Tail::Pad);
    for number in 0..50u32 {
        let mut ids: Vec<u32> = (0..number * 7 % 23).map(|at| 4 + (number * 1009 + at * 31) % (vocab_size - 4)).collect();
        ids.push(EOS);
        let spans = [0..1];
        let loss = (with_loss && number % 3 == 0).then_some(spans.as_slice());
        writer.push(Document { doc_id: &format!("{number:032x}"), source: ["a", "b,\"c"][number as usize % 2], ids: &ids, loss }).unwrap();
    }
    assert!(writer.finish().unwrap().shards.len() > 1);
    let set = ShardSet::open(directory.path(), &Expectations::default()).unwrap();
    (directory, set)
}

fn stream(set: &ShardSet) -> Vec<Vec<u32>> {
    let ids = |shard: &crate::shards::Shard, start, len| shard.tokens().slice(start, len).unwrap().iter().collect();
    set.shards()
        .iter()
        .flat_map(|shard| shard.documents().map(|document| ids(shard, document.start, document.len)).collect::<Vec<_>>())
        .collect()
}

fn losses(set: &ShardSet) -> Vec<Range<u64>> {
    let mut before = 0;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for shard in set.shards() {
        let all = || std::iter::once(0..shard.header().num_tokens).collect::<Vec<_>>();
        for range in shard.loss().map_or_else(all, Iterator::collect) {
            match ranges.last_mut() {
                Some(last) if last.end == before + range.start => last.end = before + range.end,
                _ => ranges.push(before + range.start..before + range.end),
            }
        }
        before += shard.header().num_tokens;
    }
    ranges
}

#[test]
fn what_is_exported_is_imported_token_for_token() {
    for vocab_size in [1000, 100_000] {
        for format in [Format::Megatron, Format::Datatrove, Format::Olmo] {
            let with_loss = format != Format::Megatron;
            let (_directory, set) = write(vocab_size, with_loss);
            let out = tempfile::tempdir().unwrap();
            let exported = export(&set, format, &out.path().join("x")).unwrap();
            assert!(exported.linked_bytes > 0, "{format:?}: token files are links");
            let back = tempfile::tempdir().unwrap();
            let mut writer = writer(back.path(), vocab_size, Tail::Carry);
            let imported = import(format, &[out.path().join("x")], "theirs", &mut writer).unwrap();
            writer.finish().unwrap();
            let again = ShardSet::open(back.path(), &Expectations { verify_contents: true, ..Expectations::default() }).unwrap();
            assert_eq!((imported.num_documents, imported.num_without_eos), (50, 0), "{format:?}");
            assert_eq!(imported.num_files as usize, set.shards().len());
            assert_eq!(stream(&again).concat(), stream(&set).concat(), "{format:?}");
            assert_eq!(again.summary().num_documents, 50);
            assert_eq!(losses(&again), losses(&set), "{format:?}");
        }
    }
}

#[test]
fn olmo_without_boundaries_is_cut_at_the_end_tokens() {
    let (_directory, set) = write(1000, false);
    let out = tempfile::tempdir().unwrap();
    export(&set, Format::Olmo, &out.path().join("x")).unwrap();
    for entry in fs::read_dir(out.path().join("x")).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with(".csv.gz") {
            fs::remove_file(path).unwrap();
        }
    }
    let back = tempfile::tempdir().unwrap();
    let mut writer = writer(back.path(), 1000, Tail::Drop);
    assert_eq!(import(Format::Olmo, &[out.path().join("x")], "theirs", &mut writer).unwrap().num_documents, 50);
    writer.finish().unwrap();
    assert_eq!(stream(&ShardSet::open(back.path(), &Expectations::default()).unwrap()), stream(&set));
}

/// Packed formats, read back by their published layouts.
#[test]
fn packed_exports_hold_every_chunk() {
    for vocab_size in [1000, 100_000] {
        let width = if vocab_size < 65_536 { 2 } else { 4 };
        let (_directory, set) = write(vocab_size, false);
        let mut wanted = Vec::new();
        for index in 0..set.num_chunks() {
            let mut chunk = vec![0; 16 * width];
            set.chunk(index).unwrap().copy_bytes_into(&mut chunk);
            wanted.extend(chunk);
        }
        let out = tempfile::tempdir().unwrap();
        for format in [Format::Mds, Format::Litdata, Format::Npy] {
            export(&set, format, &out.path().join(format.name())).unwrap();
        }
        for file in ["mds/shard.00000.mds", "litdata/chunk-0-0.bin"] {
            let bytes = fs::read(out.path().join(file)).unwrap();
            let number = |at: usize| u32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap()) as usize;
            assert_eq!(number(0) as u64, set.num_chunks());
            assert_eq!(number(1 + number(0)), bytes.len());
            assert_eq!(bytes[number(1)..], wanted, "{file}");
        }
        let mut rows = Vec::new();
        for shard in set.shards() {
            let bytes = fs::read(out.path().join(format!("npy/part-{:05}.npy", shard.header().shard))).unwrap();
            let head = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert!(bytes.starts_with(b"\x93NUMPY\x01\x00") && head.is_multiple_of(64) && bytes[head - 1] == b'\n');
            rows.extend_from_slice(&bytes[head..]);
        }
        assert_eq!(rows, wanted);
        let index: serde_json::Value = serde_json::from_slice(&fs::read(out.path().join("mds/index.json")).unwrap()).unwrap();
        assert_eq!((&index["version"], &index["shards"][0]["samples"]), (&2.into(), &set.num_chunks().into()));
    }
}

#[test]
fn an_export_is_whole_or_not_there() {
    let (_directory, set) = write(1000, false);
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("x");
    fs::create_dir(out.path().join("x.partial")).unwrap();
    fs::write(out.path().join("x.partial/leftover"), b"x").unwrap();
    let first = export(&set, Format::Datatrove, &to).unwrap();
    assert_eq!(fs::read_dir(&to).unwrap().count() as u64, first.num_files, "nothing of a run before");
    assert!(!out.path().join("x.partial").exists());
    let error = export(&set, Format::Datatrove, &to).unwrap_err().to_string();
    assert!(error.contains("is there already"), "{error}");
}

#[test]
fn damage_is_named() {
    type Spoil = fn(&Path);
    let cases: [(Format, Spoil, &str); 8] = [
        (Format::Megatron, |at| fs::write(at.join("part-00000.idx"), b"MMID").unwrap(), "does not begin"),
        (Format::Megatron, |at| alter(&at.join("part-00000.idx"), |bytes| bytes.truncate(60)), "shorter than its counts"),
        (Format::Megatron, |at| alter(&at.join("part-00000.idx"), |bytes| bytes[17] = 7), "holds no token ids"),
        (Format::Megatron, |at| alter(&at.join("part-00000.idx"), |bytes| bytes[34..38].fill(0xff)), "does not lie in the token file"),
        (Format::Datatrove, |at| fs::remove_file(at.join("part-00000.ds.index")).unwrap(), "part-00000.ds.index"),
        (Format::Datatrove, |at| alter(&at.join("part-00000.ds.index"), |bytes| bytes[7] = 1), "document 0 ends at token"),
        (Format::Datatrove, |at| alter(&at.join("part-00000.ds.metadata"), |bytes| bytes.clear()), "bytes per token"),
        (Format::Olmo, |at| alter(&at.join("part-00000.csv.gz"), |bytes| bytes.truncate(20)), "part-00000.csv.gz"),
    ];
    for (format, spoil, wanted) in cases {
        let (_directory, set) = write(1000, false);
        let out = tempfile::tempdir().unwrap();
        export(&set, format, &out.path().join("x")).unwrap();
        spoil(&out.path().join("x"));
        let back = tempfile::tempdir().unwrap();
        let error = import(format, &[out.path().join("x")], "s", &mut writer(back.path(), 1000, Tail::Pad)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{format:?}: {error}");
    }
    let (_directory, set) = write(1000, false);
    let out = tempfile::tempdir().unwrap();
    export(&set, Format::Olmo, &out.path().join("x")).unwrap();
    let back = tempfile::tempdir().unwrap();
    let error = import(Format::Olmo, &[out.path().join("x")], "s", &mut writer(back.path(), 10, Tail::Pad)).unwrap_err().to_string();
    assert!(error.contains("part-00000.npy, document") && error.contains("is not in the vocabulary of 10"), "{error}");
    assert!(import(Format::Mds, &[], "s", &mut writer(back.path(), 10, Tail::Pad)).is_err());
}

fn alter(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    // The export may share its bytes with the set.
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}
