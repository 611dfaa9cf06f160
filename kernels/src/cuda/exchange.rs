//! Gradients that go to the rank that holds their sum, and weights that come from it, from device to device.

use super::launcher::Transfer;
use super::{ABSENT, Argument, Exact, Gpu, Launch, Launcher, Stored, blocks};
use crate::KernelError;
use crate::operations::Done;
use std::ops::Range;

const KERNEL: &str = "add_in_order";

/// Memory for what comes from other ranks until it is added, in bytes: large enough for links to run at their speed (a quarter of a
/// millisecond at 450 GB/s), small beside a layer's gradients.
pub const STAGING_BYTES: usize = 128 << 20;

/// Bytes of it that a rank needs at most, of `ranks`, where none holds more than `longest` numbers of what is added at the same time.
pub fn staging_bytes(ranks: usize, longest: usize) -> usize {
    ranks.saturating_sub(1) * stride(ranks, STAGING_BYTES).min(longest) * size_of::<f32>()
}

/// Numbers of each rank that the staging memory has room for: the same for all ranks, which cut their tensors in the same places.
fn stride(from: usize, staging_bytes: usize) -> usize {
    (staging_bytes / size_of::<f32>() / from).max(1)
}

/// Which ranks have gradients at the same time, and who is asking.
#[derive(Debug, Clone, Copy)]
pub struct Round<'a> {
    pub rank: usize,
    /// The ranks that have some, in order.
    pub from: &'a [usize],
    /// Whether sums begin with the first of them; what they held is then lost.
    pub begins: bool,
}

/// One tensor of gradients.
#[derive(Debug)]
pub struct Reduction<'a, L: Launcher> {
    /// The rank that holds the sum.
    pub owner: usize,
    /// This rank's, if it has some.
    pub own: Option<&'a Exact<L>>,
    /// The owner's sum.
    pub sum: Option<&'a mut Exact<L>>,
}

impl<L: Launcher> Reduction<'_, L> {
    /// Numbers of it; none where this rank has no part in it.
    fn len(&self) -> usize {
        self.own.map_or(0, |own| own.len).max(self.sum.as_ref().map_or(0, |sum| sum.len))
    }
}

/// Some numbers of one reduction that go at the same time as those of others.
struct Piece {
    reduction: usize,
    numbers: Range<usize>,
    /// Where they begin in the staging of each addend, in numbers.
    place: usize,
}

impl<L: Launcher> Gpu<L> {
    /// Adds what ranks have of several tensors to the sums of their owners, in order of rank, whatever comes first. All ranks call it with the
    /// same tensors in the same order.
    ///
    /// Each owner's tensors are laid end to end and cut where the staging memory ends, so that in each turn all owners receive at the same time.
    ///
    /// # Errors
    /// [`KernelError::Shape`] where an owner has no sum, a rank of the round no addend, or both have not the same length; those of the device.
    pub fn reduce(&self, round: Round<'_>, reductions: &mut [Reduction<'_, L>]) -> Done {
        self.reduce_by(round, reductions, STAGING_BYTES)
    }

    /// The same with so much staging memory.
    ///
    /// # Errors
    /// As [`reduce`](Self::reduce).
    pub fn reduce_by(&self, round: Round<'_>, reductions: &mut [Reduction<'_, L>], staging_bytes: usize) -> Done {
        if round.from.is_empty() {
            return Ok(());
        }
        let takes = round.from.contains(&round.rank);
        for reduction in reductions.iter() {
            let (own, sum) = (reduction.own.map(|own| own.len), reduction.sum.as_ref().map(|sum| sum.len));
            let fits = match (takes, reduction.owner == round.rank) {
                (true, true) => own.is_some() && own == sum,
                (true, false) => own.is_some(),
                (false, true) => sum.is_some(),
                (false, false) => true,
            };
            if !fits {
                return Err(KernelError::Shape { kernel: "reduce", argument: "sum", wanted: own.unwrap_or(0), got: sum.unwrap_or(0) });
            }
        }
        let others = round.from.len() - usize::from(takes);
        let stride = stride(round.from.len(), staging_bytes);
        let longest = longest(reductions);
        self.with_scratch(others * stride.min(longest) * size_of::<f32>(), |staging| {
            (0..longest).step_by(stride).try_for_each(|begin| self.turn(round, reductions, staging, begin..begin + stride.min(longest)))
        })
    }

    /// Moves and adds those numbers of each owner's tensors.
    fn turn(&self, round: Round<'_>, reductions: &mut [Reduction<'_, L>], staging: u64, window: Range<usize>) -> Done {
        let (stride, pieces) = (window.len(), pieces(reductions, window));
        let at = |place: usize| (place * size_of::<f32>()) as u64;
        let mut transfers = Vec::new();
        for Piece { reduction, numbers, place } in &pieces {
            let (Reduction { owner, own, .. }, bytes) = (&reductions[*reduction], numbers.len() * size_of::<f32>());
            if *owner == round.rank {
                let others = round.from.iter().filter(|&&from| from != round.rank).enumerate();
                transfers.extend(others.map(|(slot, &from)| Transfer::Receive {
                    from,
                    address: staging + at(slot * stride + place),
                    bytes,
                }));
            } else if let Some(own) = own.filter(|_| round.from.contains(&round.rank)) {
                transfers.push(Transfer::Send { to: *owner, address: self.address(own, numbers.start), bytes });
            }
        }
        self.exchange(&transfers)?;
        let own_place = round.from.iter().position(|&from| from == round.rank).unwrap_or(round.from.len());
        for Piece { reduction, numbers, place } in &pieces {
            let Reduction { owner, own, sum: Some(sum) } = &mut reductions[*reduction] else { continue };
            if *owner != round.rank {
                continue;
            }
            let launch = Launch { kernel: KERNEL, grid: [blocks(KERNEL, numbers.len(), 256)?, 1, 1], threads: 256, shared_bytes: 0 };
            let arguments = [
                Argument::Pointer(self.address(sum, numbers.start)),
                own.map_or(ABSENT, |own| Argument::Pointer(self.address(own, numbers.start))),
                Argument::Pointer(staging + at(*place)),
                Argument::U32(own_place as u32),
                Argument::U32(round.from.len() as u32),
                Argument::U32(u32::from(round.begins)),
                Argument::U64(stride as u64),
                Argument::U64(numbers.len() as u64),
            ];
            self.launch(launch, &arguments)?;
        }
        Ok(())
    }

    /// Copies each tensor from its owner to all other ranks. All call it with the same tensors in the same order.
    ///
    /// # Errors
    /// Those of the device.
    pub fn broadcast(&self, owners: &[usize], tensors: &mut [Stored<L>]) -> Done {
        let transfer = |(&root, tensor): (&usize, &mut Stored<L>)| Transfer::Broadcast {
            root,
            address: self.address(tensor, 0),
            bytes: tensor.len * size_of::<u16>(),
        };
        self.exchange(&owners.iter().zip(tensors).map(transfer).collect::<Vec<_>>())
    }

    /// Starts transfers, after what has been listed so far.
    fn exchange(&self, transfers: &[Transfer]) -> Done {
        if transfers.is_empty() {
            return Ok(());
        }
        self.start_listed()?;
        self.launcher.exchange(transfers)
    }
}

/// Numbers of the owner who has the most, as far as this rank sees.
fn longest<L: Launcher>(reductions: &[Reduction<'_, L>]) -> usize {
    let of = |owner: usize| reductions.iter().filter(|reduction| reduction.owner == owner).map(Reduction::len).sum();
    reductions.iter().map(|reduction| of(reduction.owner)).max().unwrap_or(0)
}

/// What of each owner's tensors, end to end, lies in a window.
fn pieces<L: Launcher>(reductions: &[Reduction<'_, L>], window: Range<usize>) -> Vec<Piece> {
    let mut found = Vec::new();
    for (at, reduction) in reductions.iter().enumerate() {
        let begin: usize = reductions[..at].iter().filter(|other| other.owner == reduction.owner).map(Reduction::len).sum();
        let (first, last) = (begin.max(window.start), (begin + reduction.len()).min(window.end));
        if first < last {
            found.push(Piece { reduction: at, numbers: first - begin..last - begin, place: first - window.start });
        }
    }
    found
}
