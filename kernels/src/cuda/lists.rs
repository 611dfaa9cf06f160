//! Commands that a device takes as one.
//!
//! Starting a kernel costs the host some microseconds, which small models' kernels do not last. So what a pass does is listed first, and a list
//! that the device has had before is replayed from a recording. Nothing has to be declared the same: lists are compared, down to each address,
//! and one that differs runs as it is.

use super::launcher::{Command, Launcher};
use super::{Gpu, lock};
use crate::KernelError;
use crate::operations::Done;
use std::mem::{ManuallyDrop, take};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

/// Commands from which on a list is worth a recording.
const COMMANDS_MIN: usize = 8;
/// Lists that are known at most; the one that was not used for the longest time makes room.
const KNOWN_MAX: usize = 64;

/// The list that is being made, if one is.
#[derive(Debug)]
pub(super) struct Lists<M>(Mutex<Option<Open<M>>>);

#[derive(Debug)]
struct Open<M> {
    commands: Vec<Command>,
    /// Memory that was given back while commands may still name it.
    dropped: Vec<M>,
}

/// Memory that is given back when it is dropped, but not before what was listed has been started.
#[derive(Debug)]
pub(super) struct Held<M> {
    memory: ManuallyDrop<M>,
    lists: Arc<Lists<M>>,
}

/// Lists that the device had before, by their last use.
#[derive(Debug)]
pub(super) struct Known<R>(Vec<(Vec<Command>, State<R>)>);

#[derive(Debug)]
enum State<R> {
    /// Once. The next time it is recorded.
    Seen,
    Recorded(R),
    /// The device would not record it.
    Refused,
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
        open.get_or_insert_with(|| Open { commands: Vec::new(), dropped: Vec::new() });
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
}

impl<M> Held<M> {
    pub fn new(memory: M, lists: Arc<Lists<M>>) -> Self {
        Self { memory: ManuallyDrop::new(memory), lists }
    }
}

impl<M> Deref for Held<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.memory
    }
}

impl<M> DerefMut for Held<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.memory
    }
}

impl<M> Drop for Held<M> {
    fn drop(&mut self) {
        // SAFETY: taken here alone, once, and not used after.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        match lock(&self.lists.0).as_mut() {
            Some(open) if !open.commands.is_empty() => open.dropped.push(memory),
            _ => drop(memory),
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
    fn state(&mut self, commands: &[Command]) -> Option<&mut State<R>> {
        let at = self.0.iter().position(|(known, _)| known == commands)?;
        let found = self.0.remove(at);
        self.0.push(found);
        self.0.last_mut().map(|(_, state)| state)
    }

    fn add(&mut self, commands: Vec<Command>) {
        if self.0.len() == KNOWN_MAX {
            self.0.remove(0);
        }
        self.0.push((commands, State::Seen));
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
        let done = work();
        let started = if done.is_ok() { self.start_listed() } else { Ok(()) };
        *lock(&self.lists.0) = None;
        started?;
        done
    }

    /// Starts what has been listed so far: before the host reads or writes.
    pub(super) fn start_listed(&self) -> Done {
        let taken = lock(&self.lists.0).as_mut().map(|open| (take(&mut open.commands), take(&mut open.dropped)));
        // What was dropped is given back after it.
        taken.map_or(Ok(()), |(commands, _dropped)| self.start(commands))
    }

    fn start(&self, commands: Vec<Command>) -> Done {
        let one_by_one = |commands: &[Command]| commands.iter().try_for_each(|command| self.launcher.run(command));
        if commands.len() < COMMANDS_MIN {
            return one_by_one(&commands);
        }
        let mut known = lock(&self.known);
        match known.state(&commands) {
            None => {
                one_by_one(&commands)?;
                known.add(commands);
                Ok(())
            }
            Some(State::Recorded(recording)) => self.launcher.replay(recording),
            Some(State::Refused) => one_by_one(&commands),
            Some(state) => match self.launcher.record(&commands) {
                Ok(recording) => {
                    self.launcher.replay(&recording)?;
                    *state = State::Recorded(recording);
                    Ok(())
                }
                Err(_) => {
                    *state = State::Refused;
                    one_by_one(&commands)
                }
            },
        }
    }
}
