//! Records in partitions, in memory as far as they fit and else in a file.

use super::super::resources::SpillFile;
use super::anchors::Anchor;
use super::groups::EqualRun;
use crate::operator::Error;
use std::sync::{Mutex, PoisonError};

/// A record of [`RECORD_BYTES`].
pub trait Record: Copy {
    fn to_bytes(self) -> [u8; RECORD_BYTES];
    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self;
}

/// Bytes of a record, in memory and in a file.
pub const RECORD_BYTES: usize = 24;

/// Records that a [`Feeder`] gathers for a partition before it takes the partition's lock.
const FEED_LEN: usize = 64;

/// Partitions that several threads feed. Records of a partition come back in no certain order.
#[derive(Debug)]
pub struct Partitions<'a, R> {
    parts: Vec<Mutex<Part<R>>>,
    spill: Option<&'a SpillFile>,
    /// Records that a partition holds in memory.
    len_max: usize,
}

#[derive(Debug)]
struct Part<R> {
    memory: Vec<R>,
    /// Where records lie in the file, and how many.
    extents: Vec<(u64, usize)>,
}

impl<'a, R: Record> Partitions<'a, R> {
    /// `count` partitions that keep to `memory_bytes` together, if there is a file for the rest.
    pub fn new(count: usize, spill: Option<&'a SpillFile>, memory_bytes: u64) -> Self {
        let parts = (0..count).map(|_| Mutex::new(Part { memory: Vec::new(), extents: Vec::new() })).collect();
        let len_max = usize::try_from(memory_bytes / (count * RECORD_BYTES) as u64).unwrap_or(usize::MAX);
        Self { parts, spill, len_max: len_max.max(FEED_LEN) }
    }

    /// Number of partitions.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// A way to add records one by one.
    pub fn feeder(&self) -> Feeder<'_, 'a, R> {
        Feeder { partitions: self, buffers: (0..self.parts.len()).map(|_| Vec::with_capacity(FEED_LEN)).collect() }
    }

    /// Takes all records out of a partition.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be read.
    pub fn take(&self, index: usize) -> Result<Vec<R>, Error> {
        let mut part = self.parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (mut records, extents) = (std::mem::take(&mut part.memory), std::mem::take(&mut part.extents));
        let Some(spill) = self.spill.filter(|_| !extents.is_empty()) else { return Ok(records) };
        records.reserve_exact(extents.iter().map(|extent| extent.1).sum());
        let mut bytes = Vec::new();
        for (start, len) in extents {
            bytes.resize(len * RECORD_BYTES, 0);
            spill.read(start, &mut bytes)?;
            records.extend(bytes.as_chunks().0.iter().map(R::from_bytes));
        }
        Ok(records)
    }

    fn add(&self, index: usize, records: &mut Vec<R>) -> Result<(), Error> {
        let mut part = self.parts[index].lock().unwrap_or_else(PoisonError::into_inner);
        part.memory.append(records);
        if part.memory.len() >= self.len_max
            && let Some(spill) = self.spill
        {
            let bytes: Vec<u8> = part.memory.iter().flat_map(|record| record.to_bytes()).collect();
            let extent = (spill.append(&bytes)?, part.memory.len());
            part.extents.push(extent);
            part.memory.clear();
        }
        Ok(())
    }
}

/// Adds records to partitions, some at a time.
pub struct Feeder<'p, 'a, R> {
    partitions: &'p Partitions<'a, R>,
    buffers: Vec<Vec<R>>,
}

impl<R: Record> Feeder<'_, '_, R> {
    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn push(&mut self, index: usize, record: R) -> Result<(), Error> {
        let buffer = &mut self.buffers[index];
        buffer.push(record);
        if buffer.len() == FEED_LEN { self.partitions.add(index, buffer) } else { Ok(()) }
    }

    /// Adds what was gathered.
    ///
    /// # Errors
    /// As for [`Feeder::push`].
    pub fn finish(mut self) -> Result<(), Error> {
        self.buffers.iter_mut().enumerate().try_for_each(|(index, buffer)| self.partitions.add(index, buffer))
    }
}

fn words(bytes: &[u8; RECORD_BYTES]) -> [u64; 3] {
    let words = bytes.as_chunks::<8>().0;
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

fn bytes_of(words: [u64; 3]) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    for (target, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *target = word.to_le_bytes();
    }
    bytes
}

impl Record for Anchor {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        bytes_of(self.to_words())
    }

    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        Self::from_words(words(bytes))
    }
}

impl Record for EqualRun {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        bytes_of([self.first, self.leader, u64::from(self.len)])
    }

    fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let [first, leader, len] = words(bytes);
        Self { first, leader, len: len as u32 }
    }
}
