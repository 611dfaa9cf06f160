//! Ranks whose devices reach each other: what is large goes from device to device, the rest over the mesh.

use super::{Addends, Communicator, Mesh, RankError, Round, Topic};
use crate::model::{ModelError, Parameters};
use osler_kernels::cuda::driver::Driver;
use osler_kernels::cuda::exchange::{self, Reduction};
use osler_kernels::cuda::nccl::{Connection, Id, Nccl};
use osler_kernels::cuda::{Gpu, Launcher};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How soon a device learns that a rank is gone.
const GLANCE: Duration = Duration::from_millis(100);

/// Time for all GPUs to join.
const PATIENCE: Duration = Duration::from_secs(300);

/// A mesh of ranks whose devices have joined.
pub struct Devices {
    mesh: Mesh,
    ways: Arc<dyn Ways>,
    /// Ends the watch when it goes.
    watched: Option<mpsc::Sender<()>>,
    watch: Option<JoinHandle<()>>,
}

/// What the devices of ranks reach each other by.
pub trait Ways: Send + Sync {
    /// Why transfers will not end, if that is known.
    fn problem(&self) -> Option<String>;
    /// Ends all transfers where they are, so that no device waits for a rank that is gone, and takes no more.
    fn give_up(&self);
}

impl Ways for Connection {
    fn problem(&self) -> Option<String> {
        Self::problem(self)
    }

    fn give_up(&self) {
        Self::give_up(self);
    }
}

impl Devices {
    /// Joins this rank's GPU with all others', by NCCL, and has all compute products alike. The ranks that fail at it tell the others why.
    /// `wait` is asked meanwhile; an error ends the wait.
    ///
    /// # Errors
    /// [`ModelError`] when the library is missing, GPUs differ or are not reached, or a rank is gone.
    pub fn join(
        mut mesh: Mesh,
        gpu: &Gpu<Driver>,
        libraries: &[PathBuf],
        wait: &dyn Fn() -> Result<(), String>,
    ) -> Result<Self, ModelError> {
        match connect(&mut mesh, gpu.launcher(), libraries, wait) {
            Ok(connection) => Ok(Self::new(mesh, connection)),
            Err(error) => {
                // One that waited for a rank that is gone knows less of it than the mesh.
                let error = mesh.fate.reason().map_or(error, ModelError::from);
                Communicator::<Gpu<Driver>>::abort(&mut mesh, &error.to_string());
                Err(error)
            }
        }
    }

    /// Ranks whose devices have joined. Once a rank is known to be gone, or the ways have failed, they are given up.
    pub fn new(mesh: Mesh, ways: Arc<dyn Ways>) -> Self {
        let ((watched, ended), fate, watched_ways) = (mpsc::channel::<()>(), mesh.fate.clone(), ways.clone());
        let watch = move || {
            while ended.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
                if let Some(problem) = watched_ways.problem() {
                    fate.fail(RankError::Devices(problem));
                }
                if fate.reason().is_some() {
                    return watched_ways.give_up();
                }
            }
        };
        // Without a watch, a rank that waits for one that is gone has to be stopped by hand.
        let watch = std::thread::Builder::new().name("osler-watch".into()).spawn(watch).ok();
        Self { mesh, ways, watched: Some(watched), watch }
    }
}

fn connect(
    mesh: &mut Mesh,
    driver: &Driver,
    libraries: &[PathBuf],
    wait: &dyn Fn() -> Result<(), String>,
) -> Result<Arc<Connection>, ModelError> {
    let (nccl, place) = (Nccl::open(libraries)?, (mesh.rank, mesh.links.len()));
    let kinds = tell_all(mesh, driver.kind().as_bytes())?;
    if let Some(other) = kinds.iter().position(|kind| *kind != kinds[0]) {
        let [first, kind] = [&kinds[0], &kinds[other]].map(|kind| String::from_utf8_lossy(kind));
        let problem = format!("rank 0 has {first} and rank {other} {kind}: of one run all have the same");
        return Err(RankError::Devices(problem).into());
    }
    // Rank 0 says by what they find each other, and how products are computed.
    let own = if place.0 == 0 { [&nccl.new_id()?[..], driver.choices().as_bytes()].concat() } else { Vec::new() };
    let told = tell_all(mesh, &own)?.swap_remove(0);
    let wrong = || RankError::Unexpected { rank: 0, got: format!("{} bytes", told.len()), wanted: "NCCL's identifier and choices".into() };
    let (id, choices) = told.split_first_chunk::<{ size_of::<Id>() }>().ok_or_else(wrong)?;
    driver.follow(&String::from_utf8_lossy(choices));
    let begun = Instant::now();
    driver.join(nccl, *id, place, || match (mesh.fate.reason(), wait()) {
        (Some(reason), _) => Err(ModelError::from(reason)),
        (None, Err(why)) => Err(RankError::Meeting(why).into()),
        (None, Ok(())) if begun.elapsed() > PATIENCE => {
            let seconds = PATIENCE.as_secs();
            let remedy = "does NCCL_SOCKET_IFNAME name the network between the machines? NCCL_DEBUG=INFO says what it tries";
            Err(RankError::Devices(format!("the GPUs did not reach each other within {seconds} seconds: {remedy}")).into())
        }
        (None, Ok(())) => Ok(()),
    })
}

/// What every rank says, by rank.
pub(super) fn tell_all(mesh: &mut Mesh, bytes: &[u8]) -> Result<Vec<Vec<u8>>, RankError> {
    let mut words = vec![bytes.len() as u64];
    words.extend(bytes.chunks(8).map(|bytes| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))));
    let all = Communicator::<Gpu<Driver>>::all_gather(mesh, &words)?;
    let one = |words: Vec<u64>| {
        let mut bytes: Vec<u8> = words.iter().skip(1).flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(words.first().map_or(0, |&len| len as usize));
        bytes
    };
    Ok(all.into_iter().map(one).collect())
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        drop(self.watched.take());
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
        // It may have looked before the last that became known.
        if self.mesh.fate.reason().is_some() {
            self.ways.give_up();
        }
    }
}

impl<L: Launcher> Communicator<Gpu<L>> for Devices {
    fn rank(&self) -> usize {
        Communicator::<Gpu<L>>::rank(&self.mesh)
    }

    fn ranks(&self) -> usize {
        Communicator::<Gpu<L>>::ranks(&self.mesh)
    }

    fn all_gather(&mut self, words: &[u64]) -> Result<Vec<Vec<u64>>, RankError> {
        Communicator::<Gpu<L>>::all_gather(&mut self.mesh, words)
    }

    fn send(&mut self, to: usize, topic: Topic, values: &[f32]) -> Result<(), RankError> {
        Communicator::<Gpu<L>>::send(&mut self.mesh, to, topic, values)
    }

    fn receive(&mut self, from: usize, topic: Topic, values: &mut [f32]) -> Result<(), RankError> {
        Communicator::<Gpu<L>>::receive(&mut self.mesh, from, topic, values)
    }

    fn abort(&mut self, message: &str) {
        Communicator::<Gpu<L>>::abort(&mut self.mesh, message);
        // Nothing of this rank is to wait for answers either.
        self.ways.give_up();
    }

    fn failure(&self) -> Option<RankError> {
        Communicator::<Gpu<L>>::failure(&self.mesh)
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn settle(&mut self, ops: &Gpu<L>) -> Result<(), ModelError> {
        Ok(ops.settle()?)
    }

    fn reduce(&mut self, ops: &Gpu<L>, round: Round<'_>, addends: Vec<Addends<'_, Gpu<L>>>) -> Result<(), ModelError> {
        let round = exchange::Round { rank: self.mesh.rank, from: round.from, begins: round.begins };
        let reduction = |Addends { owner, own, sum, .. }| Reduction { owner, own: own.map(|own: &mut _| &*own), sum };
        Ok(ops.reduce(round, &mut addends.into_iter().map(reduction).collect::<Vec<_>>())?)
    }

    fn broadcast(
        &mut self,
        ops: &Gpu<L>,
        _: &Parameters,
        owners: &[usize],
        weights: &mut [<Gpu<L> as osler_kernels::Memory>::Stored],
    ) -> Result<(), ModelError> {
        Ok(ops.broadcast(owners, weights)?)
    }
}
