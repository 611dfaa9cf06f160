//! Ranks whose devices reach each other: what is large goes from device to device, the rest over the mesh.

use super::{Addends, Communicator, Mesh, RankError, Round, Topic};
use crate::model::{ModelError, Parameters};
use osler_kernels::cuda::driver::Driver;
use osler_kernels::cuda::exchange::{self, Reduction};
use osler_kernels::cuda::nccl::{Id, Nccl};
use osler_kernels::cuda::{Gpu, Launcher};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How soon a device learns that a rank is gone.
const GLANCE: Duration = Duration::from_millis(100);

/// A mesh of ranks whose devices have joined.
pub struct Devices {
    mesh: Mesh,
    give_up: Arc<dyn Fn() + Send + Sync>,
    /// Ends the watch when it goes.
    watched: Option<mpsc::Sender<()>>,
    watch: Option<JoinHandle<()>>,
}

impl Devices {
    /// Joins this rank's GPU with all others', by NCCL. The ranks that fail at it tell the others why.
    ///
    /// # Errors
    /// [`ModelError`] when the library is missing, a GPU is not reached, or a rank is gone.
    pub fn join(mut mesh: Mesh, gpu: &Gpu<Driver>, libraries: &[PathBuf]) -> Result<Self, ModelError> {
        let joined = introduce(&mut mesh, libraries).and_then(|(nccl, id)| {
            let place = (mesh.rank, mesh.links.len());
            gpu.launcher().join(nccl, id, place, || mesh.fate.reason().map_or(Ok(()), |reason| Err(ModelError::from(reason))))
        });
        match joined {
            Ok(connection) => Ok(Self::new(mesh, move || connection.give_up())),
            Err(error) => {
                Communicator::<Gpu<Driver>>::abort(&mut mesh, &error.to_string());
                Err(error)
            }
        }
    }

    /// Ranks whose devices have joined. `give_up` ends all transfers where they are; it is called once a rank is known to be gone, so that no
    /// device waits for it.
    pub fn new(mesh: Mesh, give_up: impl Fn() + Send + Sync + 'static) -> Self {
        let give_up: Arc<dyn Fn() + Send + Sync> = Arc::new(give_up);
        let ((watched, ended), fate, give_up_here) = (mpsc::channel::<()>(), mesh.fate.clone(), give_up.clone());
        let watch = move || {
            while ended.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
                if fate.reason().is_some() {
                    return give_up_here();
                }
            }
        };
        // Without a watch, a rank that waits for one that is gone has to be stopped by hand.
        let watch = std::thread::Builder::new().name("osler-watch".into()).spawn(watch).ok();
        Self { mesh, give_up, watched: Some(watched), watch }
    }
}

/// Opens NCCL everywhere, and gives all ranks what rank 0 made.
fn introduce(mesh: &mut Mesh, libraries: &[PathBuf]) -> Result<(Nccl, Id), ModelError> {
    let nccl = Nccl::open(libraries)?;
    let own = if mesh.rank == 0 { nccl.new_id()?.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect() } else { Vec::new() };
    let words = Communicator::<Gpu<Driver>>::all_gather(mesh, &own)?.swap_remove(0);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let wrong =
        |bytes: Vec<u8>| RankError::Unexpected { rank: 0, got: format!("{} bytes", bytes.len()), wanted: "NCCL's identifier".into() };
    Ok((nccl, bytes.try_into().map_err(wrong)?))
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
        (self.give_up)();
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
