use super::*;
use crate::pack::{Method, PackConfig, Tail};
use crate::writer::{Document, ShardWriter};
use osler_schemas::shard::TokenizerIdentity;
use tempfile::TempDir;

const NUM_DOCUMENTS: usize = 40;

fn document(number: usize, vocab_size: u32) -> Vec<u32> {
    (0..(number * 7) % 23).map(|at| (number * 1000 + at) as u32 % vocab_size).collect()
}

fn write(vocab_size: u32, method: Method, tail: Tail) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 77, vocab_size, eos_id: 0, bos_id: None, pad_id: 9 };
    let pack = PackConfig { context_length: 16, method, tail, seed: 3 };
    let mut writer = ShardWriter::create(directory.path(), tokenizer, pack, 400).unwrap();
    for number in 0..NUM_DOCUMENTS {
        let ids = document(number, vocab_size);
        let source = ["a", "b", "c"][number % 3];
        writer.push(Document { doc_id: &format!("{number:032x}"), source, ids: &ids, loss: None }).unwrap();
    }
    assert!(writer.finish().unwrap().shards.len() > 1);
    directory
}

fn open(directory: &TempDir) -> Result<ShardSet, ShardError> {
    ShardSet::open(directory.path(), &Expectations::default())
}

#[test]
fn chunks_give_every_token_back() {
    for vocab_size in [1000, 100_000] {
        let stream: Vec<u32> = (0..NUM_DOCUMENTS).flat_map(|number| document(number, vocab_size)).collect();
        for (method, tail) in [(Method::Concat, Tail::Carry), (Method::Concat, Tail::Pad), (Method::BestFit, Tail::Pad)] {
            let directory = write(vocab_size, method, tail);
            let set = open(&directory).unwrap();
            set.verify().unwrap();
            let summary = set.summary();
            assert_eq!((summary.num_documents, summary.num_tokens), (NUM_DOCUMENTS as u64, stream.len() as u64));
            assert_eq!(summary.source_tokens.values().sum::<u64>(), stream.len() as u64);
            assert_eq!(summary.num_chunks * 16 + summary.num_tail_tokens, summary.num_tokens + summary.num_padding);
            let mut given = Vec::new();
            for index in 0..set.num_chunks() {
                let chunk = set.chunk(index).unwrap();
                let mut copy = [u32::MAX; 16];
                chunk.copy_into(&mut copy);
                let pieces: Vec<u32> =
                    (0..chunk.num_pieces()).flat_map(|piece| chunk.piece(piece).unwrap().iter().collect::<Vec<_>>()).collect();
                assert_eq!(copy[..chunk.num_tokens()], pieces);
                assert!(copy[chunk.num_tokens()..].iter().all(|&id| id == 9), "padding is the pad id");
                assert_eq!(chunk.num_tokens() + chunk.num_padding as usize, 16);
                assert_eq!(chunk.sources.len(), chunk.num_pieces());
                if method == Method::Concat {
                    assert_eq!(chunk.contiguous().unwrap().iter().collect::<Vec<_>>(), pieces);
                }
                given.extend(pieces);
            }
            assert!(set.chunk(set.num_chunks()).is_none());
            if method == Method::Concat {
                assert_eq!(given, stream[..given.len()], "in stream order");
            }
            given.sort_unstable();
            let mut wanted = stream[..given.len()].to_vec();
            wanted.sort_unstable();
            assert_eq!(given, wanted);
        }
    }
}

/// A set of context length 16 of one source, in shards of `shard_bytes`.
fn write_documents(documents: &[Vec<u32>], shard_bytes: u64) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 77, vocab_size: 1000, eos_id: 0, bos_id: None, pad_id: 9 };
    let pack = PackConfig { context_length: 16, method: Method::Concat, tail: Tail::Carry, seed: 3 };
    let mut writer = ShardWriter::create(directory.path(), tokenizer, pack, shard_bytes).unwrap();
    for (number, ids) in documents.iter().enumerate() {
        writer.push(Document { doc_id: &format!("{number:032x}"), source: "a", ids, loss: None }).unwrap();
    }
    writer.finish().unwrap();
    directory
}

#[test]
fn many_shards_are_opened_in_order() {
    let documents: Vec<Vec<u32>> = (0..300).map(|number| vec![number; 16]).collect();
    let directory = write_documents(&documents, 32);
    let set = open(&directory).unwrap();
    assert!(set.shards().len() > 2 * SHARDS_PER_THREAD_MIN);
    assert!(set.shards().iter().enumerate().all(|(number, shard)| shard.header().shard as usize == number));
    let mut ids = [0; 16];
    let mut given = Vec::new();
    for index in 0..set.num_chunks() {
        set.chunk(index).unwrap().copy_into(&mut ids);
        given.extend(ids);
    }
    assert_eq!(given, documents.concat());
    // Of several, the first is named.
    for number in [250, 200, 130, 10] {
        fs::remove_file(directory.path().join(shard::sidecar_name(number))).unwrap();
        let error = open(&directory).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("part-{number:05}.meta.arrow: the set is incomplete")), "{error}");
    }
}

#[test]
fn large_files_are_mapped() {
    let documents: Vec<Vec<u32>> = (0..2000).map(|number| vec![number % 1000; 16]).collect();
    let directory = write_documents(&documents, 1 << 20);
    let (bin, sidecar) = (directory.path().join("part-00000.bin"), directory.path().join("part-00000.meta.arrow"));
    assert!([&bin, &sidecar].iter().all(|path| fs::metadata(path).unwrap().len() > MAPPED_BYTES_MIN));
    let set = open(&directory).unwrap();
    set.verify().unwrap();
    let Tokens::U16(ids) = set.shards()[0].tokens() else { panic!("not u16") };
    assert_eq!(ids.iter().map(|&id| u32::from(id)).collect::<Vec<_>>(), documents.concat());
    drop(set);
    cut(&bin, 24_000);
    assert!(open(&directory).map(|_| ()).unwrap_err().to_string().contains("length: wanted 64000 bytes, got 40000 bytes"));
}

#[test]
fn damage_is_named() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str); 7] = [
        ("truncated tokens", |at| cut(&at.join("part-00001.bin"), 2), "part-00001.bin: length: wanted"),
        ("tokens missing", |at| fs::remove_file(at.join("part-00001.bin")).unwrap(), "part-00001.bin: cannot be read"),
        ("truncated sidecar", |at| cut(&at.join("part-00000.meta.arrow"), 9), "part-00000.meta.arrow: not a sidecar"),
        ("empty sidecar", |at| fs::write(at.join("part-00000.meta.arrow"), b"").unwrap(), "part-00000.meta.arrow: not a sidecar"),
        ("shard missing", |at| fs::remove_file(at.join("part-00001.meta.arrow")).unwrap(), "part-00001.meta.arrow: the set is incomplete"),
        ("sidecar of another shard", |at| copy_over(at), "it says it is shard 0"),
        ("no shards", |at| fs::read_dir(at).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap()), "no token shards"),
    ];
    for (what, spoil, wanted) in cases {
        let directory = write(1000, Method::Concat, Tail::Pad);
        spoil(directory.path());
        let error = open(&directory).map(|_| ()).expect_err(what).to_string();
        assert!(error.contains(wanted), "{what}: {error}");
    }
    let directory = write(1000, Method::Concat, Tail::Pad);
    let last = open(&directory).unwrap().summary().num_shards - 1;
    fs::remove_file(directory.path().join(shard::sidecar_name(last as u32))).unwrap();
    assert!(open(&directory).map(|_| ()).unwrap_err().to_string().contains("the shards after it are missing"));
}

fn copy_over(directory: &Path) {
    fs::copy(directory.join("part-00000.meta.arrow"), directory.join("part-00001.meta.arrow")).unwrap();
    fs::copy(directory.join("part-00000.bin"), directory.join("part-00001.bin")).unwrap();
}

fn cut(path: &Path, num_bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - num_bytes).unwrap();
}

#[test]
fn every_altered_byte_of_a_token_file_is_found() {
    let directory = write(1000, Method::Concat, Tail::Carry);
    let path = directory.path().join("part-00000.bin");
    let bytes = fs::read(&path).unwrap();
    for at in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        fs::write(&path, altered).unwrap();
        let error = open(&directory).unwrap().verify().unwrap_err().to_string();
        assert!(error.contains("part-00000.bin: hash: wanted"), "{error}");
    }
    fs::write(&path, bytes).unwrap();
    open(&directory).unwrap().verify().unwrap();
}

#[test]
fn altered_bytes_of_a_sidecar_are_found() {
    let directory = write(1000, Method::Concat, Tail::Carry);
    let path = directory.path().join("part-00000.meta.arrow");
    let bytes = fs::read(&path).unwrap();
    for at in (0..bytes.len()).step_by(13) {
        let mut altered = bytes.clone();
        altered[at] ^= 0x81;
        fs::write(&path, altered).unwrap();
        let error = open(&directory).map(|_| ()).expect_err("damage").to_string();
        assert!(error.contains("part-00000.meta.arrow: "), "byte {at}: {error}");
    }
}

#[test]
fn expectations_are_checked() {
    let directory = write(1000, Method::Concat, Tail::Carry);
    let open = |tokenizer_xxh3, context_length| {
        ShardSet::open(directory.path(), &Expectations { tokenizer_xxh3, context_length, ..Expectations::default() })
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(open(Some(77), Some(16)), Ok(()));
    assert!(open(Some(78), None).unwrap_err().contains("hash of tokenizer.json: wanted 0000000000000000000000000000004e, got"));
    assert!(open(None, Some(32)).unwrap_err().contains("context length: wanted 32, got 16"));
}

/// Shards that a program of the first version wrote.
#[test]
fn first_version_is_still_read() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/token-shard-1");
    let set = ShardSet::open(&directory, &Expectations { verify_contents: true, ..Expectations::default() }).unwrap();
    let summary = set.summary();
    assert_eq!((summary.num_documents, summary.num_tokens, summary.num_chunks, summary.num_tail_tokens), (5, 670, 10, 30));
    let (header, chunk) = (set.header(), set.chunk(9).unwrap());
    assert_eq!((header.packing.as_str(), header.seed, &header.mix, header.tokenizer.eos_id), ("concat/carry", 7, &None, 0));
    assert_eq!((chunk.num_tokens(), chunk.loss()), (64, vec![0..64]));
    // Packed again, the same tokens are a set of this version.
    let copy = tempfile::tempdir().unwrap();
    for name in ["part-00000.bin", "part-00000.meta.arrow"] {
        fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    let pack = PackConfig { context_length: 32, ..PackConfig::default() };
    crate::repack(copy.path(), &pack, &MixConfig::default()).unwrap();
    assert_eq!(ShardSet::open(copy.path(), &Expectations::default()).unwrap().num_chunks(), 20);
    assert_eq!(fs::read(directory.join("part-00000.bin")).unwrap(), fs::read(copy.path().join("part-00000.bin")).unwrap());
}

#[test]
fn a_version_to_come_is_refused() {
    let directory = write(1000, Method::Concat, Tail::Pad);
    let path = directory.path().join("part-00000.meta.arrow");
    let mut bytes = fs::read(&path).unwrap();
    let version = b"token-shard/2";
    let places: Vec<usize> = (0..bytes.len() - version.len()).filter(|&at| bytes[at..].starts_with(version)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[at + version.len() - 1] = b'3');
    shard::seal(&mut bytes).unwrap();
    fs::write(&path, bytes).unwrap();
    let error = open(&directory).map(|_| ()).unwrap_err();
    assert!(matches!(&error, ShardError::Schema { source, .. } if source.to_string().contains("token-shard/3")), "{error:?}");
}

#[test]
fn loss_follows_the_pieces() {
    for (method, tail) in [(Method::Concat, Tail::Carry), (Method::BestFit, Tail::Pad)] {
        let directory = tempfile::tempdir().unwrap();
        let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size: 60_000, eos_id: 0, bos_id: None, pad_id: 9 };
        let pack = PackConfig { context_length: 16, method, tail, seed: 3 };
        let mut writer = ShardWriter::create(directory.path(), tokenizer, pack, 400).unwrap();
        // An id is even where its token counts.
        for number in 0..NUM_DOCUMENTS as u64 {
            let ids: Vec<u32> =
                (0..(number * 7) % 23).map(|at| (number * 200 + at * 2 + u64::from((at * number) % 3 != 0)) as u32).collect();
            let loss: Vec<Range<u64>> =
                (0..ids.len() as u64).filter(|&at| ids[at as usize].is_multiple_of(2)).map(|at| at..at + 1).collect();
            writer.push(Document { doc_id: &number.to_string(), source: "s", ids: &ids, loss: Some(&loss) }).unwrap();
        }
        writer.finish().unwrap();
        let set = open(&directory).unwrap();
        for index in 0..set.num_chunks() {
            let chunk = set.chunk(index).unwrap();
            let ids: Vec<u32> = (0..chunk.num_pieces()).flat_map(|piece| chunk.piece(piece).unwrap().iter().collect::<Vec<_>>()).collect();
            let wanted: Vec<u32> = (0..ids.len() as u32).filter(|&at| ids[at as usize].is_multiple_of(2)).collect();
            assert_eq!(chunk.loss().into_iter().flatten().collect::<Vec<_>>(), wanted);
            for piece in 0..chunk.num_pieces() {
                let first = chunk.piece(piece).unwrap().iter().next().unwrap();
                assert_eq!(chunk.doc_id(piece).unwrap(), (first / 200).to_string());
            }
        }
    }
}
