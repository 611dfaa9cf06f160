//! Ranks with a TCP connection between any two.

use super::link::{Fate, Link};
use super::{Communicator, RankError, Topic};
use osler_kernels::Operations;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;

/// One of several ranks, connected to all others. Made by [`Meeting::join`](super::Meeting::join).
#[derive(Debug)]
pub struct Mesh {
    pub(super) rank: usize,
    /// By rank; none to itself.
    pub(super) links: Vec<Option<Link>>,
    pub(super) fate: Arc<Fate>,
}

impl Mesh {
    /// `streams` by rank, none for `rank` itself.
    pub(super) fn new(rank: usize, streams: Vec<Option<TcpStream>>) -> io::Result<Self> {
        let fate = Arc::<Fate>::default();
        let link = |(other, stream): (usize, Option<TcpStream>)| stream.map(|stream| Link::new(other, stream, fate.clone())).transpose();
        Ok(Self { rank, links: streams.into_iter().enumerate().map(link).collect::<Result<_, _>>()?, fate })
    }

    fn link(&self, other: usize) -> Result<&Link, RankError> {
        self.links.get(other).and_then(Option::as_ref).ok_or_else(|| RankError::Meeting(format!("there is no way to rank {other}")))
    }

    fn others(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().flatten()
    }

    fn receive_bytes(&self, from: usize, topic: Topic) -> Result<Arc<[u8]>, RankError> {
        let (number, bytes) = self.link(from)?.receive()?;
        match Topic::of(number) {
            Some(got) if got == topic => Ok(bytes),
            Some(got) => Err(unexpected(from, format!("{got:?}"), format!("{topic:?}"))),
            None => Err(unexpected(from, "what no rank sends".into(), format!("{topic:?}"))),
        }
    }
}

fn unexpected(rank: usize, got: String, wanted: String) -> RankError {
    RankError::Unexpected { rank, got, wanted }
}

impl Topic {
    /// Its number on the wire: the kind in the highest byte.
    fn number(self) -> u64 {
        let (kind, at) = match self {
            Self::Words => (0, 0),
            Self::Gradient(at) => (1, at),
            Self::Weights(at) => (2, at),
            Self::State(at) => (3, at),
        };
        kind << 56 | at as u64
    }

    fn of(number: u64) -> Option<Self> {
        let at = (number & ((1 << 56) - 1)) as usize;
        match number >> 56 {
            0 => Some(Self::Words),
            1 => Some(Self::Gradient(at)),
            2 => Some(Self::Weights(at)),
            3 => Some(Self::State(at)),
            _ => None,
        }
    }
}

impl<O: Operations> Communicator<O> for Mesh {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.links.len()
    }

    fn all_gather(&mut self, words: &[u64]) -> Result<Vec<Vec<u64>>, RankError> {
        let bytes: Arc<[u8]> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.others().try_for_each(|link| link.send(Topic::Words.number(), bytes.clone()))?;
        let of = |rank: usize| {
            if rank == self.rank {
                return Ok(words.to_vec());
            }
            let bytes = self.receive_bytes(rank, Topic::Words)?;
            match bytes.as_chunks::<8>() {
                (words, []) => Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect()),
                _ => Err(unexpected(rank, format!("{} bytes", bytes.len()), "a whole number of words".into())),
            }
        };
        (0..self.links.len()).map(of).collect()
    }

    fn send(&mut self, to: usize, topic: Topic, values: &[f32]) -> Result<(), RankError> {
        self.link(to)?.send(topic.number(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn receive(&mut self, from: usize, topic: Topic, values: &mut [f32]) -> Result<(), RankError> {
        let bytes = self.receive_bytes(from, topic)?;
        if bytes.len() != 4 * values.len() {
            return Err(unexpected(from, format!("{} bytes of {topic:?}", bytes.len()), format!("{} bytes", 4 * values.len())));
        }
        values.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
        Ok(())
    }

    fn abort(&mut self, message: &str) {
        self.others().for_each(|link| link.abort(message));
    }

    fn failure(&self) -> Option<RankError> {
        self.fate.reason()
    }
}
