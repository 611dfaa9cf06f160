//! What emulated devices of several ranks send each other: each rank is a thread of this process.

use osler_kernels::KernelError;
use osler_kernels::cuda::Transfer;
use osler_kernels::operations::Done;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

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
    pub(crate) fn exchange(&self, rank: usize, ranks: usize, transfers: &[Transfer]) -> Done {
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
