//! The ranks of a training run as processes: starts those of this machine, and ends them when this one ends.

use crate::Failure;
use crate::arguments::RankArguments;
use osler_train::{Door, Place};
use std::net::TcpListener;
use std::os::unix::process::parent_id;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Time for the others to end by themselves.
const FAREWELL: Duration = Duration::from_secs(2);

/// This process among the ranks of a run.
pub struct Ranks {
    rank: usize,
    count: usize,
    /// Of rank 0.
    listener: Option<TcpListener>,
    address: String,
    /// Ranks on this machine, as far as that is known.
    neighbours: usize,
    /// Which of them this is.
    ordinal: usize,
    /// The process that started this one to be a rank.
    parent: Option<u32>,
    children: Mutex<Vec<Child>>,
}

impl Ranks {
    /// Finds out which of `count` ranks this process is; if it was not told, it is the first and starts the others.
    ///
    /// # Errors
    /// [`Failure`] when ranks and flags do not fit together, when the address cannot be listened on, or a process cannot be started.
    pub fn gather(arguments: &RankArguments, count: usize) -> Result<Self, Failure> {
        let (rank, address) = match (arguments.rank, &arguments.address) {
            (Some(rank), Some(address)) => (rank, address.clone()),
            _ => (0, "127.0.0.1:0".to_string()),
        };
        if rank >= count {
            return Err(Failure::user(format!("--rank {rank}: there are {count} ranks, counted from 0; --ranks says how many")));
        }
        // How many begin with this one.
        let here = match (arguments.neighbours, arguments.here, arguments.rank) {
            (Some(_), ..) | (_, None, Some(_)) => 1,
            (None, Some(here), _) => here as usize,
            (None, None, None) => count,
        };
        if rank + here > count {
            let most = count - rank;
            return Err(Failure::user(format!(
                "--here {here}: {most} of {count} ranks are left from rank {rank} on; --ranks says how many"
            )));
        }
        let mut ranks = Self {
            rank,
            count,
            listener: None,
            address,
            neighbours: arguments.neighbours.unwrap_or(here),
            ordinal: arguments.ordinal.unwrap_or(0),
            parent: arguments.neighbours.map(|_| parent_id()),
            children: Mutex::default(),
        };
        if rank == 0 && count > 1 {
            let listener = TcpListener::bind(&ranks.address);
            let listener = listener.map_err(|error| Failure::user(format!("cannot listen on {}: {error}", ranks.address)))?;
            ranks.address = listener.local_addr()?.to_string();
            ranks.listener = Some(listener);
        }
        (1..here).try_for_each(|ordinal| ranks.start(ordinal))?;
        Ok(ranks)
    }

    /// Starts another rank: this program with the same arguments and its place.
    fn start(&mut self, ordinal: usize) -> Result<(), Failure> {
        let rank = self.rank + ordinal;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).args(["--progress", "none", "--address", &self.address, "--rank", &rank.to_string()]);
        command.args(["--neighbours", &self.neighbours.to_string(), "--ordinal", &ordinal.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| Failure::user(format!("cannot start rank {rank}: {error}")))?;
        if let Ok(children) = self.children.get_mut() {
            children.push(child);
        }
        Ok(())
    }

    /// Which of the ranks this is.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Which of this machine's devices it takes: those of ranks that were started together follow each other.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Whether another process started this one, and says what there is to say.
    pub fn is_started(&self) -> bool {
        self.parent.is_some()
    }

    /// What a run is told; `wait` is [`check`](Self::check).
    pub fn place<'a>(&'a self, wait: &'a dyn Fn() -> Result<(), String>) -> Option<Place<'a>> {
        let door = self.listener.as_ref().map_or(Door::Address(&self.address), Door::Listener);
        (self.count > 1).then_some(Place { rank: self.rank, door, neighbours: self.neighbours, wait })
    }

    /// Whether there is still somebody to wait for.
    ///
    /// # Errors
    /// Says which process has ended.
    pub fn check(&self) -> Result<(), String> {
        if self.parent.is_some_and(|parent| parent != parent_id()) {
            return Err("the rank that started this one is gone".into());
        }
        let Ok(mut children) = self.children.lock() else { return Ok(()) };
        for (at, child) in children.iter_mut().enumerate() {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("rank {} ended before the run began: {status}", self.rank + at + 1));
            }
        }
        Ok(())
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        let Ok(children) = self.children.get_mut() else { return };
        let begun = Instant::now();
        for child in children {
            while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < FAREWELL {
                std::thread::sleep(Duration::from_millis(5));
            }
            // One that has ended is not there to be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
