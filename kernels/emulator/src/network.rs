//! What emulated devices of several ranks send each other: each rank is a thread of this process.

use osler_kernels::KernelError;
use osler_kernels::cuda::{Aside, Transfer};
use osler_kernels::operations::Done;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One of several devices, and the work that it has put off.
#[derive(Debug, Clone)]
pub struct Place {
    rank: usize,
    ranks: usize,
    network: Arc<Network>,
    aside: Arc<Mutex<PutOff>>,
}

#[derive(Debug, Default)]
struct PutOff {
    work: VecDeque<Vec<Aside>>,
    /// Pieces of work that were taken.
    taken: u64,
}

impl Place {
    /// The place of one of `ranks` ranks.
    pub fn new(rank: usize, ranks: usize, network: Arc<Network>) -> Self {
        Self { rank, ranks, network, aside: Arc::default() }
    }

    /// Keeps work for later, and gives its number.
    pub(crate) fn put_off(&self, work: &[Aside]) -> u64 {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        aside.work.push_back(work.to_vec());
        aside.taken + aside.work.len() as u64
    }

    /// What was put off, up to a number.
    pub(crate) fn take(&self, number: u64) -> Vec<Aside> {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let count = number.saturating_sub(aside.taken).min(aside.work.len() as u64);
        aside.taken += count;
        aside.work.drain(..count as usize).flatten().collect()
    }

    pub(crate) fn exchange(&self, transfers: &[Transfer]) -> Done {
        self.network.exchange(self.rank, self.ranks, transfers)
    }
}

/// Bytes under way between any two ranks.
#[derive(Debug, Default)]
pub struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// From one rank to another, the first first.
    sent: HashMap<(usize, usize), VecDeque<Vec<u8>>>,
    is_given_up: bool,
}

impl Network {
    /// Ends all waiting, with an error.
    pub fn give_up(&self) {
        self.lock().is_given_up = true;
        self.changed.notify_all();
    }

    /// What a rank of `ranks` sends, and then what it receives.
    fn exchange(&self, rank: usize, ranks: usize, transfers: &[Transfer]) -> Done {
        for transfer in transfers {
            match *transfer {
                Transfer::Send { to, address, bytes } => self.send(rank, to, address, bytes),
                Transfer::Broadcast { root, address, bytes } if root == rank => {
                    (0..ranks).filter(|&to| to != rank).for_each(|to| self.send(rank, to, address, bytes));
                }
                Transfer::Receive { .. } | Transfer::Broadcast { .. } => {}
            }
        }
        transfers.iter().try_for_each(|transfer| match *transfer {
            Transfer::Receive { from, address, bytes } => self.receive(from, rank, address, bytes),
            Transfer::Broadcast { root, address, bytes } if root != rank => self.receive(root, rank, address, bytes),
            Transfer::Send { .. } | Transfer::Broadcast { .. } => Ok(()),
        })
    }

    fn send(&self, from: usize, to: usize, address: u64, bytes: usize) {
        // SAFETY: the caller gives the address of so many bytes of its device, which runs nothing else meanwhile.
        let sent = unsafe { std::slice::from_raw_parts(address as *const u8, bytes) }.to_vec();
        self.lock().sent.entry((from, to)).or_default().push_back(sent);
        self.changed.notify_all();
    }

    fn receive(&self, from: usize, to: usize, address: u64, bytes: usize) -> Done {
        let mut state = self.lock();
        let received = loop {
            if state.is_given_up {
                return Err(KernelError::Launch("the network was given up".into()));
            }
            match state.sent.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
                Some(received) => break received,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        if received.len() != bytes {
            return Err(KernelError::Launch(format!("rank {to} wants {bytes} bytes and rank {from} sends {}", received.len())));
        }
        // SAFETY: as in `send`.
        unsafe { std::slice::from_raw_parts_mut(address as *mut u8, bytes) }.copy_from_slice(&received);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
