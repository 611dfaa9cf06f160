//! Files read at random, as the footer-first format Parquet wants: from this machine, or over the network block by block.

use crate::open::{Fault, in_time, wait};
use bytes::{Bytes, BytesMut};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// One request. Pages of about 1 MiB, read one after another, come a few to a request.
const BLOCK_BYTES: u64 = 4 << 20;
/// Blocks held per file: one for each of a few columns that are read side by side.
const BLOCKS_HELD: usize = 8;

/// A file that is read at random, as stored.
pub enum Ranged {
    Local(std::fs::File),
    Remote(Arc<RemoteFile>),
}

/// An object of which blocks are fetched when needed; the last few are held.
pub struct RemoteFile {
    url: String,
    store: Arc<dyn ObjectStore>,
    path: object_store::path::Path,
    num_bytes: u64,
    runtime: tokio::runtime::Handle,
    blocks: Mutex<VecDeque<(u64, Bytes)>>,
}

impl RemoteFile {
    pub(crate) fn new(
        url: String,
        store: Arc<dyn ObjectStore>,
        path: object_store::path::Path,
        num_bytes: u64,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { url, store, path, num_bytes, runtime, blocks: Mutex::default() }
    }

    /// The bytes from `start` to the end of its block, at most `length`; empty at the end of the file.
    fn piece(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let number = start / BLOCK_BYTES;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let held = blocks.iter().find(|(held, _)| *held == number).map(|(_, block)| block.clone());
        let block = match held {
            Some(block) => block,
            None => {
                let block = self.fetch(number)?;
                blocks.push_back((number, block.clone()));
                if blocks.len() > BLOCKS_HELD {
                    blocks.pop_front();
                }
                block
            }
        };
        let from = ((start % BLOCK_BYTES) as usize).min(block.len());
        let to = from.saturating_add(length).min(block.len());
        Ok(block.slice(from..to))
    }

    fn fetch(&self, number: u64) -> io::Result<Bytes> {
        let start = number.saturating_mul(BLOCK_BYTES);
        let end = start.saturating_add(BLOCK_BYTES).min(self.num_bytes);
        if start >= end {
            return Ok(Bytes::new());
        }
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let transfer = self.runtime.spawn(async move { in_time(store.get_range(&path, start..end)).await });
        let answer = wait(transfer).map_err(io::Error::other).and_then(|answer| answer);
        answer.map_err(|cause| io::Error::new(cause.kind(), Fault { url: self.url.clone(), byte: Some(start), doing: "reading", cause }))
    }
}

/// Reads on from a place in a [`RemoteFile`].
struct RemoteRead {
    file: Arc<RemoteFile>,
    at: u64,
}

impl Read for RemoteRead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.file.piece(self.at, buffer.len())?;
        buffer[..piece.len()].copy_from_slice(&piece);
        self.at += piece.len() as u64;
        Ok(piece.len())
    }
}

impl Length for Ranged {
    fn len(&self) -> u64 {
        match self {
            Self::Local(file) => file.len(),
            Self::Remote(file) => file.num_bytes,
        }
    }
}

impl ChunkReader for Ranged {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(match self {
            Self::Local(file) => Box::new(file.get_read(start)?),
            Self::Remote(file) => Box::new(RemoteRead { file: Arc::clone(file), at: start }),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let file = match self {
            Self::Local(file) => return file.get_bytes(start, length),
            Self::Remote(file) => file,
        };
        let end = start.checked_add(length as u64).filter(|&end| end <= file.num_bytes);
        if end.is_none() {
            return Err(ParquetError::EOF(format!("{length} bytes at byte {start} lie beyond the end of the file")));
        }
        let mut bytes = BytesMut::with_capacity(length);
        while bytes.len() < length {
            let at = start + bytes.len() as u64;
            let piece = file.piece(at, length - bytes.len())?;
            if piece.is_empty() {
                return Err(ParquetError::EOF(format!("the server has no byte {at}")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }
}
