//! Gradients that go to the rank that holds their sum, and weights that come from it, from device to device. Gradients go while the device
//! computes the next ones.

use super::launcher::{Aside, Command, Transfer};
use super::memory::ALIGNMENT_BYTES;
use super::{ABSENT, Argument, Exact, Gpu, Growing, Launch, Launcher, Stored, blocks, lock};
use crate::KernelError;
use crate::operations::Done;
use std::ops::Range;

const KERNEL: &str = "add_in_order";

/// Memory for what comes from other ranks until it is added, in bytes: large enough for links to run at their speed (a quarter of a
/// millisecond at 450 GB/s), small beside a layer's gradients.
pub const STAGING_BYTES: usize = 128 << 20;

/// What is under way between this device and others'.
#[derive(Debug)]
pub(super) struct Exchange<L: Launcher> {
    /// For what comes from others.
    staging: Growing<L::Memory>,
    /// The end of what was asked for last.
    mark: Option<L::Mark>,
}

impl<L: Launcher> Default for Exchange<L> {
    fn default() -> Self {
        Self { staging: Growing::default(), mark: None }
    }
}

impl<L: Launcher> Exchange<L> {
    /// Makes room for what comes from others, if any is needed.
    pub fn reserve(&mut self, gpu: &Gpu<L>, bytes: usize) -> Done {
        self.staging.reserve(gpu, bytes)
    }
}

/// Bytes of it that a rank needs at most, of `ranks`, where none holds more than `longest` numbers of what is added at the same time.
pub fn staging_bytes(ranks: usize, longest: usize) -> usize {
    (ranks.saturating_sub(1) * longest.next_multiple_of(LINE) * size_of::<f32>()).min(STAGING_BYTES)
}

/// Numbers that each rank's part of the staging memory is a multiple of, unless it is smaller: what pieces of an arena are. NCCL copies single
/// bytes where an address is not a multiple of 16.
const LINE: usize = ALIGNMENT_BYTES / size_of::<f32>();

/// Numbers of each of `from` ranks that the staging memory has room for: the same for all ranks, which cut their tensors in the same places.
fn stride(from: usize, staging_bytes: usize) -> usize {
    let most = (staging_bytes / size_of::<f32>() / from).max(1);
    if most < LINE { most } else { most / LINE * LINE }
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
    /// Begins after what was started before, and goes beside what comes next: the tensors may be written again after the next call that has
    /// something to do here, sums be read and memory be given back after [`settle`](Self::settle).
    ///
    /// Each owner's tensors are laid end to end and cut where the staging memory ends, so that in each turn all owners receive at the same time.
    ///
    /// # Errors
    /// [`KernelError::Value`] where an owner has no sum or a rank of the round no addend, [`KernelError::Shape`] where they have not the same
    /// length; those of the device.
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
                return Err(match (own, sum) {
                    (Some(own), Some(sum)) => KernelError::Shape { kernel: "reduce", argument: "sum", wanted: own, got: sum },
                    (None, _) if takes => KernelError::Value { kernel: "reduce", argument: "own", wanted: "there, of a rank of the round" },
                    _ => KernelError::Value { kernel: "reduce", argument: "sum", wanted: "there, of the rank that holds it" },
                });
            }
        }
        let others = round.from.len() - usize::from(takes);
        let (stride, longest) = (stride(round.from.len(), staging_bytes), longest(reductions));
        // Where the numbers of one rank begin after those of another, in what this rank receives.
        let apart = stride.min(numbers_of(reductions, round.rank).next_multiple_of(LINE));
        self.with_staging(others * apart * size_of::<f32>(), |staging| {
            let mut work = Vec::new();
            for begin in (0..longest).step_by(stride) {
                self.turn(round, reductions, (staging, apart), begin..begin + stride, &mut work)?;
            }
            Ok(work)
        })
    }

    /// What moves and adds those numbers of each owner's tensors.
    fn turn(
        &self,
        round: Round<'_>,
        reductions: &mut [Reduction<'_, L>],
        (staging, apart): (u64, usize),
        window: Range<usize>,
        work: &mut Vec<Aside>,
    ) -> Done {
        let pieces = pieces(reductions, window);
        let at = |place: usize| (place * size_of::<f32>()) as u64;
        let mut transfers = Vec::new();
        for Piece { reduction, numbers, place } in &pieces {
            let (Reduction { owner, own, .. }, bytes) = (&reductions[*reduction], numbers.len() * size_of::<f32>());
            if *owner == round.rank {
                let others = round.from.iter().filter(|&&from| from != round.rank).enumerate();
                transfers.extend(others.map(|(slot, &from)| Transfer::Receive {
                    from,
                    address: staging + at(slot * apart + place),
                    bytes,
                }));
            } else if let Some(own) = own.filter(|_| round.from.contains(&round.rank)) {
                transfers.push(Transfer::Send { to: *owner, address: self.address(own, numbers.start), bytes });
            }
        }
        if !transfers.is_empty() {
            work.push(Aside::Exchange(transfers));
        }
        let own_place = round.from.iter().position(|&from| from == round.rank).unwrap_or(round.from.len());
        for Piece { reduction, numbers, place } in &pieces {
            let Reduction { owner, own, sum: Some(sum) } = &mut reductions[*reduction] else { continue };
            if *owner != round.rank {
                continue;
            }
            let launch = Launch { kernel: KERNEL, grid: [blocks(KERNEL, numbers.len(), 256)?, 1, 1], threads: 256, shared_bytes: 0 };
            let arguments = vec![
                Argument::Pointer(self.address(sum, numbers.start)),
                own.map_or(ABSENT, |own| Argument::Pointer(self.address(own, numbers.start))),
                Argument::Pointer(staging + at(*place)),
                Argument::U32(own_place as u32),
                Argument::U32(round.from.len() as u32),
                Argument::U32(u32::from(round.begins)),
                Argument::U64(apart as u64),
                Argument::U64(numbers.len() as u64),
            ];
            work.push(Aside::Run(Command::Launch(launch, arguments)));
        }
        Ok(())
    }

    /// Copies each tensor from its owner to all other ranks. All call it with the same tensors in the same order. What comes next waits for it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn broadcast(&self, owners: &[usize], tensors: &mut [Stored<L>]) -> Done {
        let transfer = |(&root, tensor): (&usize, &mut Stored<L>)| Transfer::Broadcast {
            root,
            address: self.address(tensor, 0),
            bytes: tensor.len * size_of::<u16>(),
        };
        let transfers: Vec<_> = owners.iter().zip(tensors).filter(|(_, tensor)| tensor.len > 0).map(transfer).collect();
        if !transfers.is_empty() {
            self.put_aside(&mut lock(&self.exchange), &[Aside::Exchange(transfers)])?;
        }
        self.settle()
    }

    /// Lets what comes next wait for all that goes beside it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn settle(&self) -> Done {
        self.wait_for(lock(&self.exchange).mark.take())
    }

    fn wait_for(&self, mark: Option<L::Mark>) -> Done {
        let Some(mark) = mark else { return Ok(()) };
        self.start_listed()?;
        self.launcher.wait(mark)
    }

    /// Starts aside what `work` makes of the address of so much staging memory.
    fn with_staging(&self, bytes: usize, work: impl FnOnce(u64) -> Result<Vec<Aside>, KernelError>) -> Done {
        let mut exchange = lock(&self.exchange);
        if !exchange.staging.has(bytes) {
            // What uses the old one is to end first.
            self.wait_for(exchange.mark.take())?;
        }
        let work = work(exchange.staging.at_least(self, bytes)?)?;
        if work.is_empty() { Ok(()) } else { self.put_aside(&mut exchange, &work) }
    }

    /// Starts work aside, and lets what comes next wait for what was aside before.
    fn put_aside(&self, exchange: &mut Exchange<L>, work: &[Aside]) -> Done {
        self.start_listed()?;
        let mark = self.launcher.aside(work)?;
        self.wait_for(exchange.mark.replace(mark))
    }
}

/// Numbers of the owner who has the most, as far as this rank sees.
fn longest<L: Launcher>(reductions: &[Reduction<'_, L>]) -> usize {
    reductions.iter().map(|reduction| numbers_of(reductions, reduction.owner)).max().unwrap_or(0)
}

/// Numbers of one owner.
fn numbers_of<L: Launcher>(reductions: &[Reduction<'_, L>], owner: usize) -> usize {
    reductions.iter().filter(|reduction| reduction.owner == owner).map(Reduction::len).sum()
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
