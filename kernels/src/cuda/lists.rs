//! Commands that a device takes as one.
//!
//! Starting a kernel costs the host some microseconds, which small models' kernels do not last. So what a pass does is listed first, and a list
//! that the device has had before is replayed from a recording. Nothing has to be declared the same: lists are compared, down to each address,
//! and one that differs runs as it is.

use super::launcher::{Argument, Command, Launcher};
use super::memory::{Held, Piece};
use super::{Gpu, lock};
use crate::KernelError;
use crate::operations::Done;
use std::hash::{Hash, Hasher};
use std::mem::take;
use std::sync::Mutex;
use xxhash_rust::xxh3::Xxh3;

/// Commands from which on a list is worth a recording.
const COMMANDS_MIN: usize = 8;
/// Lists that are known at most; the one that was not used for the longest time makes room. Of several ranks each layer is a list.
const KNOWN_MAX: usize = 256;

/// The list that is being made, if one is.
#[derive(Debug)]
pub(super) struct Lists<M>(Mutex<Option<Open<M>>>);

#[derive(Debug)]
struct Open<M> {
    commands: Vec<Command>,
    /// Memory that was given back while commands may still name it.
    dropped: Vec<Piece<M>>,
    /// Constants that commands may read, a bit for each place.
    read: u64,
}

/// Lists that the device had before, by their last use.
#[derive(Debug)]
pub(super) struct Known<R>(Vec<List<R>>);

/// A list, by its hash.
#[derive(Debug)]
struct List<R> {
    hash: u64,
    state: State<R>,
}

#[derive(Debug)]
enum State<R> {
    /// Once. The next time it is recorded.
    Seen,
    Recorded(Vec<Command>, R),
    /// The device would not record it.
    Refused,
}

/// Numbers of a step that kernels read from the device, so that lists of different steps are the same: the bits of what is there.
#[derive(Debug)]
pub(super) struct Constants<M> {
    memory: Held<M>,
    bits: [Option<u32>; NUM_CONSTANTS],
}

/// Which of them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Constant {
    LossScale,
    BalanceFactor,
    /// Those of AdamW for weights that decay, and for those that do not.
    AdamW {
        decays: bool,
    },
}

const NUM_CONSTANTS: usize = 2 + 2 * NUM_ADAMW_FACTORS;
/// What they take of a device.
pub const CONSTANTS_BYTES: usize = NUM_CONSTANTS * size_of::<f32>();
/// As `Step` in `cuda/optimiser.cu` has them.
pub(super) const NUM_ADAMW_FACTORS: usize = 8;

impl Constant {
    fn place(self) -> usize {
        match self {
            Self::LossScale => 0,
            Self::BalanceFactor => 1,
            Self::AdamW { decays } => 2 + usize::from(decays) * NUM_ADAMW_FACTORS,
        }
    }
}

impl<M> Default for Lists<M> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<M> Lists<M> {
    /// Begins a list. False where one is being made.
    fn open(&self) -> bool {
        let mut open = lock(&self.0);
        let begins = open.is_none();
        open.get_or_insert_with(|| Open { commands: Vec::new(), dropped: Vec::new(), read: 0 });
        begins
    }

    /// Gives a command back if no list is being made.
    fn add(&self, command: Command) -> Option<Command> {
        match lock(&self.0).as_mut() {
            Some(open) => {
                open.commands.push(command);
                None
            }
            None => Some(command),
        }
    }

    /// Gives memory back, when nothing listed may name it any more.
    pub fn give_back(&self, piece: Piece<M>) {
        let mut open = lock(&self.0);
        match open.as_mut() {
            Some(open) if !open.commands.is_empty() => open.dropped.push(piece),
            _ => {
                drop(open);
                drop(piece);
            }
        }
    }

    /// Whether what is listed may read the constants of a place.
    fn reads(&self, place: usize) -> bool {
        lock(&self.0).as_ref().is_some_and(|open| open.read & (1 << place) != 0)
    }

    fn will_read(&self, place: usize) {
        if let Some(open) = lock(&self.0).as_mut() {
            open.read |= 1 << place;
        }
    }
}

impl<R> Default for Known<R> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<R> Known<R> {
    /// What is known of a list, which then was the last to be used; a new one comes in, and where there are too many the oldest goes.
    fn state(&mut self, hash: u64) -> Option<&mut State<R>> {
        let at = self.0.iter().position(|list| list.hash == hash)?;
        let found = self.0.remove(at);
        self.0.push(found);
        self.0.last_mut().map(|list| &mut list.state)
    }

    fn add(&mut self, hash: u64) {
        if self.0.len() == KNOWN_MAX {
            self.0.remove(0);
        }
        self.0.push(List { hash, state: State::Seen });
    }
}

/// Closes a list when it is dropped, by a panic too.
struct Closing<'a, M>(&'a Lists<M>);

impl<M> Closing<'_, M> {
    /// Closes it now, and gives what it has.
    fn close(&self) -> Option<Open<M>> {
        lock(&self.0.0).take()
    }
}

impl<M> Drop for Closing<'_, M> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl<L: Launcher> Gpu<L> {
    /// Starts a command, or lists it.
    pub(super) fn run(&self, command: Command) -> Done {
        self.lists.add(command).map_or(Ok(()), |command| self.launcher.run(&command))
    }

    /// Lists what `work` does, and starts it as one.
    pub(super) fn listed<R, E: From<KernelError>>(&self, work: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        if !self.lists.open() {
            return work();
        }
        let closing = Closing(&self.lists);
        let value = work()?;
        // What was dropped meanwhile is given back after it.
        closing.close().map_or(Ok(()), |open| self.start(open.commands))?;
        Ok(value)
    }

    /// Starts what has been listed so far: before the host reads or writes.
    pub(super) fn start_listed(&self) -> Done {
        let taken = lock(&self.lists.0).as_mut().map(|open| {
            open.read = 0;
            (take(&mut open.commands), take(&mut open.dropped))
        });
        // What was dropped is given back after it.
        taken.map_or(Ok(()), |(commands, _dropped)| self.start(commands))
    }

    fn start(&self, commands: Vec<Command>) -> Done {
        let one_by_one = || commands.iter().try_for_each(|command| self.launcher.run(command));
        if commands.len() < COMMANDS_MIN {
            return one_by_one();
        }
        let mut hasher = Xxh3::new();
        commands.hash(&mut hasher);
        let mut known = lock(&self.known);
        match known.state(hasher.finish()) {
            None => {
                one_by_one()?;
                known.add(hasher.finish());
                Ok(())
            }
            Some(State::Recorded(recorded, recording)) if *recorded == commands => self.launcher.replay(recording),
            Some(State::Recorded(..) | State::Refused) => one_by_one(),
            Some(state) => match self.launcher.record(&commands) {
                Ok(recording) => {
                    self.launcher.replay(&recording)?;
                    *state = State::Recorded(commands, recording);
                    Ok(())
                }
                Err(_) => {
                    *state = State::Refused;
                    one_by_one()
                }
            },
        }
    }

    /// Makes room for constants where there is none.
    pub(super) fn make_constants<'a>(
        &self,
        held: &'a mut Option<Constants<L::Memory>>,
    ) -> Result<&'a mut Constants<L::Memory>, KernelError> {
        match held {
            Some(constants) => Ok(constants),
            none => Ok(none.insert(Constants { memory: self.allocate(CONSTANTS_BYTES)?, bits: [None; NUM_CONSTANTS] })),
        }
    }

    /// Where numbers are on the device, written there if any has changed: before all that is listed, unless that reads the ones that were
    /// there.
    pub(super) fn constant<const N: usize>(&self, which: Constant, values: [f32; N]) -> Result<Argument, KernelError> {
        let mut held = lock(&self.constants);
        let constants = self.make_constants(&mut held)?;
        let (place, bits) = (which.place(), values.map(|value| Some(value.to_bits())));
        if constants.bits[place..place + N] != bits {
            if self.lists.reads(place) {
                self.start_listed()?;
            }
            constants.bits[place..place + N].fill(None);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.launcher.write(constants.memory.address() + (place * size_of::<f32>()) as u64, &bytes)?;
            constants.bits[place..place + N].copy_from_slice(&bits);
        }
        self.lists.will_read(place);
        Ok(Argument::Pointer(constants.memory.address() + (place * size_of::<f32>()) as u64))
    }
}
