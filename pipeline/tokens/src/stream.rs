//! Chunks straight from a running corpus, with no shard in between: the same bytes in the same order as the shards would have.
//!
//! Only `concat` with a carried tail can be streamed: best-fit packing and mixes look at a whole shard before they give its first chunk.

use crate::error::Error;
use crate::pack::PackConfig;
use osler_schemas::shard::{Dtype, TokenizerIdentity};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// One packed chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamedChunk<'a> {
    /// Number of the chunk, from 0: its number in the set that the same recipe would write.
    pub index: u64,
    /// One context length of ids, little-endian and of the type that shards would have.
    pub bytes: &'a [u8],
    /// Cumulative lengths of the pieces, from 0 to the context length.
    pub cu_seqlens: &'a [u32],
    /// Source of every piece, a number in the order in which sources first came.
    pub sources: &'a [u32],
}

/// Packs documents as they come, and gives each chunk to `consumer` when it is full.
pub struct StreamPacker<F> {
    consumer: F,
    dtype: Dtype,
    vocab_size: u32,
    context_length: u32,
    sources: HashMap<String, u32>,
    bytes: Vec<u8>,
    cu_seqlens: Vec<u32>,
    piece_sources: Vec<u32>,
    num_chunks: u64,
}

impl<F: FnMut(StreamedChunk<'_>) -> ControlFlow<()>> StreamPacker<F> {
    /// A stream of chunks of `pack`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a packing that cannot be streamed.
    pub fn new(tokenizer: &TokenizerIdentity, pack: &PackConfig, consumer: F) -> Result<Self, Error> {
        pack.check().map_err(|error| Error::Setting { setting: "pack", problem: error.to_string() })?;
        if !pack.carries() {
            let problem = format!("`{pack}` cannot be streamed: it looks at a whole shard first; use concat with the tail carried");
            return Err(Error::Setting { setting: "pack", problem });
        }
        Ok(Self {
            consumer,
            dtype: tokenizer.dtype(),
            vocab_size: tokenizer.vocab_size,
            context_length: pack.context_length,
            sources: HashMap::new(),
            bytes: Vec::new(),
            cu_seqlens: vec![0],
            piece_sources: Vec::new(),
            num_chunks: 0,
        })
    }

    /// Appends one document. `Break` when the consumer wants no more.
    ///
    /// # Errors
    /// [`Error::Data`] for an id outside the vocabulary.
    pub fn push(&mut self, doc_id: &str, source: &str, ids: &[u32]) -> Result<ControlFlow<()>, Error> {
        if let Some(position) = ids.iter().position(|&id| id >= self.vocab_size) {
            let (id, size) = (ids[position], self.vocab_size);
            return Err(Error::Data(format!("document {doc_id}, token {position}: id {id} is not in the vocabulary of {size}")));
        }
        let next = self.sources.len() as u32;
        let source = match self.sources.get(source) {
            Some(&source) => source,
            None => *self.sources.entry(source.to_string()).or_insert(next),
        };
        let mut rest = ids;
        while !rest.is_empty() {
            let used = self.cu_seqlens.last().copied().unwrap_or(0);
            let (piece, left) = rest.split_at(rest.len().min((self.context_length - used) as usize));
            match self.dtype {
                Dtype::U16 => self.bytes.extend(piece.iter().flat_map(|&id| (id as u16).to_le_bytes())),
                Dtype::U32 => self.bytes.extend(piece.iter().flat_map(|&id| id.to_le_bytes())),
            }
            let used = used + piece.len() as u32;
            self.cu_seqlens.push(used);
            self.piece_sources.push(source);
            rest = left;
            if used == self.context_length && self.give().is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tokens that fill no chunk, and the chunks given.
    pub fn finish(self) -> (u64, u64) {
        (self.cu_seqlens.last().copied().unwrap_or(0).into(), self.num_chunks)
    }

    fn give(&mut self) -> ControlFlow<()> {
        let Self { bytes, cu_seqlens, piece_sources, .. } = self;
        let chunk = StreamedChunk { index: self.num_chunks, bytes, cu_seqlens, sources: piece_sources };
        let flow = (self.consumer)(chunk);
        self.num_chunks += 1;
        self.bytes.clear();
        self.cu_seqlens.truncate(1);
        self.piece_sources.clear();
        flow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::{Method, Tail};
    use crate::shards::{Expectations, ShardSet};
    use crate::writer::{Document, ShardWriter};

    #[test]
    fn streamed_chunks_are_those_of_the_shards() {
        for (vocab_size, shard_bytes) in [(5000, 100), (5000, 1 << 20), (70_000, 300)] {
            let directory = tempfile::tempdir().unwrap();
            let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size, eos_id: 0, bos_id: None, pad_id: 9 };
            let pack = PackConfig { context_length: 8, seed: 3, ..PackConfig::default() };
            let mut writer = ShardWriter::create(directory.path(), tokenizer.clone(), pack.clone(), shard_bytes).unwrap();
            let mut streamed = Vec::new();
            let mut packer = StreamPacker::new(&tokenizer, &pack, |chunk: StreamedChunk<'_>| {
                streamed.push((chunk.index, chunk.bytes.to_vec(), chunk.cu_seqlens.to_vec(), chunk.sources.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
            for number in 0..40u32 {
                let ids: Vec<u32> = (0..number * 5 % 29).map(|at| number * 100 + at).collect();
                let source = ["a", "b", "a"][number as usize % 3];
                writer.push(Document { doc_id: "d", source, ids: &ids, loss: None }).unwrap();
                assert!(packer.push("d", source, &ids).unwrap().is_continue());
            }
            let (rest, num_chunks) = packer.finish();
            let summary = writer.finish().unwrap();
            assert_eq!((rest, num_chunks), (summary.num_tail_tokens, summary.num_chunks));
            let set = ShardSet::open(directory.path(), &Expectations::default()).unwrap();
            let written: Vec<_> = (0..set.num_chunks())
                .map(|index| {
                    let chunk = set.chunk(index).unwrap();
                    let mut bytes = vec![0; chunk.num_bytes()];
                    chunk.copy_bytes_into(&mut bytes);
                    (index, bytes, chunk.cu_seqlens.to_vec(), chunk.sources.to_vec())
                })
                .collect();
            assert!(streamed == written, "{vocab_size} {shard_bytes}");
        }
    }

    #[test]
    fn a_consumer_may_stop_and_what_cannot_be_streamed_is_refused() {
        let tokenizer = TokenizerIdentity { name: "test".into(), xxh3: 7, vocab_size: 100, eos_id: 0, bos_id: None, pad_id: 9 };
        let pack = PackConfig { context_length: 2, ..PackConfig::default() };
        let mut count = 0;
        let mut packer = StreamPacker::new(&tokenizer, &pack, |_: StreamedChunk<'_>| {
            count += 1;
            if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert!(packer.push("d", "s", &[1; 9]).unwrap().is_break());
        assert!(packer.push("d", "s", &[100]).is_err());
        drop(packer);
        assert_eq!(count, 2);
        let best = PackConfig { method: Method::BestFit, tail: Tail::Pad, ..pack };
        assert!(StreamPacker::new(&tokenizer, &best, |_: StreamedChunk<'_>| ControlFlow::Continue(())).is_err());
    }
}
