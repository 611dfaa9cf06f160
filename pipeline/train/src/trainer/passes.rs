//! The passes of a step, shared out among ranks: pass `p` is taken by rank `p` modulo their number, so as many passes as there are ranks
//! run at the same time, a round. After each, whoever holds a parameter's sum adds the round's gradients to it in order of the passes.
//! So all sums have the bits that one rank gives them.

use super::{BySource, Entropy, TrainError, Trainer, workspace};
use crate::model::{Batch, GradientKind, Gradients, Losses, ModelError, Parameters};
use crate::ranks::{Addends, Communicator, RankError, Round};
use osler_kernels::operations::IGNORED;
use osler_kernels::{Memory, Operations};
use std::ops::Range;

/// What a pass has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub num_rows: usize,
    pub num_targets: usize,
}

impl Size {
    fn of(batch: &Batch) -> Self {
        Self { num_rows: batch.len(), num_targets: batch.num_targets() }
    }
}

/// What a pass said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    /// Cross entropy of all its targets.
    pub entropy: Entropy,
    pub balance: f64,
    pub sources: BySource,
}

impl Told {
    pub fn new(batch: &Batch, losses: &Losses) -> Self {
        let mut sources = BySource::new();
        for ((&source, &target), &loss) in batch.sources.iter().zip(&batch.targets).zip(&losses.rows) {
            if target != IGNORED {
                sources.entry(source).or_default().add(f64::from(loss));
            }
        }
        let entropy = Entropy { sum: losses.sum(), num_targets: batch.num_targets() as u64 };
        Self { entropy, balance: losses.balance, sources }
    }

    fn write(&self, words: &mut Vec<u64>) {
        let Self { entropy, balance, sources } = self;
        words.extend([entropy.sum.to_bits(), entropy.num_targets, balance.to_bits(), sources.len() as u64]);
        for (&source, entropy) in sources {
            words.extend([u64::from(source), entropy.sum.to_bits(), entropy.num_targets]);
        }
    }

    /// `None` when the words are not those of a pass.
    fn read(words: &mut impl Iterator<Item = u64>) -> Option<Self> {
        let mut next = || words.next();
        let entropy = Entropy { sum: f64::from_bits(next()?), num_targets: next()? };
        let (balance, count) = (f64::from_bits(next()?), next()?);
        let mut sources = BySource::new();
        for _ in 0..count {
            let source = u32::try_from(next()?).ok()?;
            sources.insert(source, Entropy { sum: f64::from_bits(next()?), num_targets: next()? });
        }
        Some(Self { entropy, balance, sources })
    }
}

/// Which of `count` numbered pieces of work a rank takes, in order.
pub(super) fn share<O: Operations>(ranks: &dyn Communicator<O>, count: usize) -> impl Iterator<Item = usize> + use<O> {
    (ranks.rank()..count).step_by(ranks.ranks())
}

/// All `count` pieces in order, from what each rank gave of its share. `read` takes one from its words.
fn in_order<T>(words: Vec<Vec<u64>>, count: usize, read: impl Fn(&mut std::vec::IntoIter<u64>) -> Option<T>) -> Result<Vec<T>, RankError> {
    let ranks = words.len();
    let mut words: Vec<_> = words.into_iter().map(Vec::into_iter).collect();
    let wrong = |rank: usize| RankError::Unexpected { rank, got: "numbers of another length".into(), wanted: "those of its passes".into() };
    let all = (0..count).map(|at| read(&mut words[at % ranks]).ok_or_else(|| wrong(at % ranks))).collect::<Result<_, _>>()?;
    match words.iter().position(|rest| rest.len() > 0) {
        Some(rank) => Err(wrong(rank)),
        None => Ok(all),
    }
}

/// What all of `count` passes said, in order, from what those of this rank did.
pub(super) fn gather<O: Operations>(ranks: &mut dyn Communicator<O>, own: &[Told], count: usize) -> Result<Vec<Told>, RankError> {
    let mut words = Vec::new();
    own.iter().for_each(|told| told.write(&mut words));
    in_order(ranks.all_gather(&words)?, count, Told::read)
}

/// Whether the gradients of all of a step's passes are the sums': one rank's first pass begins them where they are, and others add to them as they
/// go if that is wanted.
pub(crate) fn are_in_sums(ranks: usize, num_passes: u32, adds_in_place: bool) -> bool {
    ranks == 1 && (num_passes <= 1 || adds_in_place)
}

/// Room for the sums of a step that are held here. Products alone add to those of bf16, so the sums of several ranks are f32.
pub(crate) fn sums<O: Memory>(
    memory: &O,
    parameters: &Parameters,
    kind: GradientKind,
    are_in_sums: bool,
    holds: impl Fn(usize) -> bool,
) -> Result<Gradients<O>, ModelError> {
    Gradients::of_kind(memory, parameters, if are_in_sums { kind } else { GradientKind::F32 }, holds)
}

/// Room for the gradients of a pass, layer by layer; none where they are the sums'. Where they are read while the next layer's are computed,
/// two layers have theirs.
pub(crate) fn gradients<O: Memory>(
    memory: &O,
    parameters: &Parameters,
    are_in_sums: bool,
    overlaps: bool,
) -> Result<Gradients<O>, ModelError> {
    if are_in_sums {
        Gradients::of_part(memory, parameters, |_| false)
    } else {
        Gradients::of_pass(memory, parameters, if overlaps { 2 } else { 1 })
    }
}

/// What the passes over those of `batches` that `took` part said.
pub(super) fn told(losses: Vec<Losses>, batches: &[Batch], took: impl Fn(&Batch) -> bool) -> Vec<Told> {
    let mut losses = losses.into_iter();
    let one = |batch: &Batch| match took(batch) {
        true => losses.next().map_or_else(Told::default, |losses| Told::new(batch, &losses)),
        false => Told::default(),
    };
    batches.iter().map(one).collect()
}

impl<O: Operations> Trainer<O> {
    /// The sizes of all passes, in order, from the batches of this rank.
    pub(super) fn sizes(&mut self, batches: &[Batch]) -> Result<Vec<Size>, RankError> {
        let sizes = batches.iter().map(Size::of);
        let words: Vec<u64> = sizes.flat_map(|size| [size.num_rows as u64, size.num_targets as u64]).collect();
        let size = |words: &mut std::vec::IntoIter<u64>| {
            Some(Size { num_rows: words.next()?.try_into().ok()?, num_targets: words.next()?.try_into().ok()? })
        };
        in_order(self.ranks.all_gather(&words)?, self.plan.accumulation as usize, size)
    }

    /// Starts this rank's passes, whose `batches` these are, and adds the gradients of all ranks' to the sums that are held here.
    pub(super) fn passes(&mut self, ops: &O, batches: &[Batch], sizes: &[Size], scale: f64) -> Result<(), TrainError> {
        let Self { model, plan, grads, sums, owners, work, ranks, kept, .. } = self;
        let (rank, is_alone, mut begins) = (ranks.rank(), ranks.ranks() == 1, true);
        grads.clear();
        kept.clear(ops, batches.iter().map(Batch::len))?;
        for (round, sizes) in sizes.chunks(ranks.ranks()).enumerate() {
            let from: Vec<usize> = (0..sizes.len()).filter(|&rank| sizes[rank].num_rows > 0).collect();
            let takes = from.contains(&rank);
            let mut take = |parameters: Range<usize>, grads: &mut Gradients<O>| {
                let both = grads.several(parameters.clone()).into_iter().zip(sums.several(parameters.clone()));
                let addends = parameters.clone().zip(both).map(|(parameter, (own, sum))| Addends {
                    parameter,
                    len: model.parameters.list[parameter].len(),
                    owner: owners[parameter],
                    own: own.filter(|_| takes),
                    sum,
                });
                ranks.reduce(ops, Round { from: &from, begins }, addends.collect())?;
                parameters.for_each(|parameter| grads.clear_one(parameter));
                Ok(())
            };
            match batches.get(round) {
                // The first's: the same bits as from a sum that begins with the pass's, and the same buffers in every step.
                Some(batch) if takes && is_alone && (begins || plan.adds_in_place()) => {
                    if begins {
                        sums.clear();
                    }
                    let work = workspace(work, ops, model, batch, plan.recompute)?;
                    let share = model.start_forward_backward(ops, batch, scale, work, sums, &mut |_, _| Ok(()))?;
                    kept.keep(ops, work, share)?;
                }
                Some(batch) if takes => {
                    let work = workspace(work, ops, model, batch, plan.recompute)?;
                    let share = model.start_forward_backward(ops, batch, scale, work, grads, &mut take)?;
                    kept.keep(ops, work, share)?;
                }
                _ => model.parameters.backward().try_for_each(|parameters| take(parameters, grads))?,
            }
            begins &= from.is_empty();
            // The next pass begins with the head, which then is the embedding, whose gradient was the last to go.
            if model.config.tied {
                ranks.settle(ops)?;
            }
        }
        Ok(ranks.settle(ops)?)
    }

    /// Has the squares of all parameters' gradients of the ranks that hold them. Waits for the device.
    pub(super) fn share_squares(&mut self, ops: &O) -> Result<(), TrainError> {
        let own = ops.read_squares(&self.optimiser.norm)?;
        let holds = |at: &usize| self.owners[*at] == self.ranks.rank();
        let words: Vec<u64> = (0..own.len()).filter(holds).map(|at| own[at].to_bits()).collect();
        let mut of_ranks: Vec<_> = self.ranks.all_gather(&words)?.into_iter().map(Vec::into_iter).collect();
        let mut one = |&rank: &usize| {
            let (got, wanted) = ("too few squares".to_string(), "one for each parameter that it holds".to_string());
            of_ranks[rank].next().map(f64::from_bits).ok_or(RankError::Unexpected { rank, got, wanted })
        };
        let squares: Vec<f64> = self.owners.iter().map(&mut one).collect::<Result<_, _>>()?;
        Ok(ops.write_squares(&mut self.optimiser.norm, &squares)?)
    }
}
