//! Several processes that take a run's steps together: each takes some of a step's passes, and holds the optimiser's state of some of the
//! parameters (Rajbhandari et al. 2020, stages 1 and 2). No bit of the result depends on how many there are: gradients are added in order
//! of the passes, by the rank that holds the parameter's state, whoever computed them.

mod devices;
mod link;
mod meeting;
mod mesh;
#[cfg(test)]
pub(crate) mod tests;

pub use devices::{Devices, Ways};
pub use meeting::{Door, Meeting};
pub use mesh::Mesh;

use crate::model::{ModelError, Parameters};
use osler_kernels::Operations;
use std::fmt::Debug;

/// What can go wrong between ranks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    #[error("rank {rank} is gone ({problem}); what it wrote may say why. The same command goes on from the last checkpoint")]
    Gone { rank: usize, problem: String },
    #[error("rank {rank} stopped: {message}")]
    Stopped { rank: usize, message: String },
    #[error("rank {rank} sent {got}, and not {wanted}: all ranks have to run the same program with the same recipe")]
    Unexpected { rank: usize, got: String, wanted: String },
    #[error("{0}")]
    Meeting(String),
    #[error("the GPUs of the ranks: {0}")]
    Devices(String),
}

/// What a message is about, so that ranks that have lost step are found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Small numbers of every rank for every rank.
    Words,
    /// The gradient of a parameter, by its place in the list.
    Gradient(usize),
    /// The weights of a parameter, by its place in the list.
    Weights(usize),
    /// A tensor of the optimiser's state, by its place in the file.
    State(usize),
}

/// One rank's way to the others. All ranks call the same methods in the same order, but for a sender and its receiver.
///
/// A transport gives the first methods, which move numbers of the host. The last move buffers of the device and go through the host block
/// by block; [`Devices`] with a network of their own have their own.
pub trait Communicator<O: Operations>: Debug + Send {
    /// Which of the ranks this is, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn ranks(&self) -> usize;
    /// What every rank gave, by rank. Nobody has it before all have come here.
    ///
    /// # Errors
    /// [`RankError`] when a rank is gone or out of step, as for all methods below.
    fn all_gather(&mut self, words: &[u64]) -> Result<Vec<Vec<u64>>, RankError>;
    /// Sends at most [`BLOCK`] numbers.
    ///
    /// # Errors
    /// [`RankError`].
    fn send(&mut self, to: usize, topic: Topic, values: &[f32]) -> Result<(), RankError>;
    /// Receives what the other rank sent: exactly as many numbers, on the same topic.
    ///
    /// # Errors
    /// [`RankError`].
    fn receive(&mut self, from: usize, topic: Topic, values: &mut [f32]) -> Result<(), RankError>;
    /// Tells the others why this rank stops, as far as they can still be reached.
    fn abort(&mut self, message: &str);
    /// Why others cannot be reached, once one of them cannot.
    fn failure(&self) -> Option<RankError> {
        None
    }

    /// Whether gradients are still read while the next ones are computed, which so need buffers of their own.
    fn overlaps(&self) -> bool {
        false
    }

    /// Sees to it that all that was reduced is in the sums, and that gradients are read no more.
    ///
    /// # Errors
    /// [`RankError`], and those of the device.
    fn settle(&mut self, _ops: &O) -> Result<(), ModelError> {
        Ok(())
    }

    /// Adds the gradients that ranks have of some parameters to the sums that their owners hold, in order of rank. Where it
    /// [overlaps](Self::overlaps), they may be written again when the next call has returned that has something to do here, and sums be read
    /// after [`settle`](Self::settle).
    ///
    /// # Errors
    /// [`RankError`], and those of the device.
    fn reduce(&mut self, ops: &O, round: Round<'_>, addends: Vec<Addends<'_, O>>) -> Result<(), ModelError> {
        addends.into_iter().try_for_each(|addends| self.reduce_one(ops, round, addends))
    }

    /// The same of one parameter.
    ///
    /// # Errors
    /// As [`reduce`](Self::reduce).
    fn reduce_one(&mut self, ops: &O, round: Round<'_>, addends: Addends<'_, O>) -> Result<(), ModelError> {
        let (Round { from, begins }, Addends { parameter, len, owner, own, sum }) = (round, addends);
        let (rank, topic) = (self.rank(), Topic::Gradient(parameter));
        let Some(sum) = sum.filter(|_| rank == owner) else {
            return match own.filter(|_| from.contains(&rank)) {
                Some(own) => blocks(len, |at, values| {
                    ops.read_exact(own, at, values)?;
                    Ok(self.send(owner, topic, values)?)
                }),
                None => Ok(()),
            };
        };
        let (mut begins, mut own) = (begins, own);
        for &source in from {
            match own.as_deref_mut().filter(|_| source == rank) {
                Some(own) if begins => std::mem::swap(own, sum),
                Some(own) => ops.add_exact(own, sum)?,
                None => add(ops, len, sum, begins, |_, values| Ok(self.receive(source, topic, values)?))?,
            }
            begins = false;
        }
        Ok(())
    }

    /// Copies the weights of each parameter from its owner to all others.
    ///
    /// # Errors
    /// [`RankError`], and those of the device.
    fn broadcast(&mut self, ops: &O, parameters: &Parameters, owners: &[usize], weights: &mut [O::Stored]) -> Result<(), ModelError> {
        let rank = self.rank();
        for (at, (weights, &owner)) in weights.iter_mut().zip(owners).enumerate() {
            blocks(parameters.list[at].len(), |place, values| {
                if rank != owner {
                    self.receive(owner, Topic::Weights(at), values)?;
                    return Ok(ops.write_stored(weights, place, values)?);
                }
                ops.read_stored(weights, place, values)?;
                (0..self.ranks()).filter(|&to| to != rank).try_for_each(|to| Ok(self.send(to, Topic::Weights(at), values)?))
            })?;
        }
        Ok(())
    }
}

/// Passes that ranks took at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    /// The ranks that took one, in order.
    pub from: &'a [usize],
    /// Whether sums begin with the first of them; what they held is then lost.
    pub begins: bool,
}

/// The gradients of one parameter that ranks have of a round.
#[derive(Debug)]
pub struct Addends<'a, O: Operations> {
    /// Its place in the list, and how many numbers it has.
    pub parameter: usize,
    pub len: usize,
    /// The rank that holds the sum.
    pub owner: usize,
    /// This rank's gradient, if it took a pass; what it holds afterwards is not told.
    pub own: Option<&'a mut O::Exact>,
    /// The owner's sum.
    pub sum: Option<&'a mut O::Exact>,
}

/// Numbers in one message, at most.
pub const BLOCK: usize = 1 << 16;

/// Goes over `len` numbers block by block: the place of the first, and room for them.
pub(crate) fn blocks(len: usize, mut each: impl FnMut(usize, &mut [f32]) -> Result<(), ModelError>) -> Result<(), ModelError> {
    let mut values = vec![0.0; BLOCK.min(len)];
    (0..len).step_by(BLOCK).try_for_each(|at| each(at, &mut values[..BLOCK.min(len - at)]))
}

/// Adds what `read` gives of `len` numbers to `sum`, or begins the sum with it.
fn add<O: Operations>(
    ops: &O,
    len: usize,
    sum: &mut O::Exact,
    begins: bool,
    mut read: impl FnMut(usize, &mut [f32]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut before = vec![0.0; if begins { 0 } else { BLOCK.min(len) }];
    blocks(len, |at, values| {
        read(at, values)?;
        if !begins {
            let before = &mut before[..values.len()];
            ops.read_exact(sum, at, before)?;
            values.iter_mut().zip(before).for_each(|(value, before)| *value += *before);
        }
        Ok(ops.write_exact(sum, at, values)?)
    })
}

/// One rank that is all there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl<O: Operations> Communicator<O> for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn all_gather(&mut self, words: &[u64]) -> Result<Vec<Vec<u64>>, RankError> {
        Ok(vec![words.to_vec()])
    }

    fn send(&mut self, to: usize, _: Topic, _: &[f32]) -> Result<(), RankError> {
        Err(RankError::Meeting(format!("there is no rank {to}")))
    }

    fn receive(&mut self, from: usize, _: Topic, _: &mut [f32]) -> Result<(), RankError> {
        Err(RankError::Meeting(format!("there is no rank {from}")))
    }

    fn abort(&mut self, _: &str) {}
}

/// Which rank holds the sum of gradients and the optimiser's state of each parameter: the largest first, each to the rank that has the
/// fewest numbers so far (Graham 1969), so that no rank has more than its share and one parameter.
pub fn owners(parameters: &Parameters, ranks: usize) -> Vec<usize> {
    let len = |at: usize| parameters.list[at].len();
    let mut order: Vec<usize> = (0..parameters.list.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(len(at)));
    let (mut owners, mut loads) = (vec![0; order.len()], vec![0; ranks.max(1)]);
    for at in order {
        let rank = (0..loads.len()).min_by_key(|&rank| loads[rank]).unwrap_or(0);
        loads[rank] += len(at);
        owners[at] = rank;
    }
    owners
}
