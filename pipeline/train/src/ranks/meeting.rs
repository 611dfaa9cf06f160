//! How the ranks of a run find each other: rank 0 listens, the others come, each says which it is and what it is going to run; when all
//! are there, each is told where the others listen, and any two connect. Who would run something else is refused.

use super::link::Frame;
use super::{Mesh, RankError};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Begins every greeting; changes with what ranks say to each other.
const MAGIC: u64 = u64::from_le_bytes(*b"oslrank1");
/// All ranks have to be there in this time.
const PATIENCE: Duration = Duration::from_secs(300);
/// A connection that does not greet in this time is none of ours.
const GREETING: Duration = Duration::from_secs(5);

/// Where ranks meet.
#[derive(Debug, Clone, Copy)]
pub enum Door<'a> {
    /// Rank 0 listens here.
    Listener(&'a TcpListener),
    /// The others go to `host:port`.
    Address(&'a str),
}

/// One rank's part in the meeting of all.
#[derive(Clone, Copy)]
pub struct Meeting<'a> {
    pub rank: usize,
    pub ranks: usize,
    pub door: Door<'a>,
    /// Hash of all that ranks have to have in common.
    pub agreement: u128,
    /// Asked while this rank waits; an error ends the wait.
    pub wait: &'a dyn Fn() -> Result<(), String>,
}

impl fmt::Debug for Meeting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rank, ranks, door, agreement, .. } = self;
        f.debug_struct("Meeting")
            .field("rank", rank)
            .field("ranks", ranks)
            .field("door", door)
            .field("agreement", agreement)
            .finish_non_exhaustive()
    }
}

/// What a rank says when it comes: which it is, of how many, the agreement, and the port that it listens on.
struct Greeting {
    rank: usize,
    ranks: usize,
    agreement: u128,
    port: u16,
}

impl Greeting {
    fn frame(&self) -> Frame {
        let (low, high) = (self.agreement as u64, (self.agreement >> 64) as u64);
        let words = [self.rank as u64, self.ranks as u64, low, high, u64::from(self.port)];
        Frame::Data(MAGIC, words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// `None` for what is no greeting.
    fn read(stream: &mut TcpStream) -> Option<Self> {
        stream.set_read_timeout(Some(GREETING)).ok()?;
        let Ok(Frame::Data(MAGIC, bytes)) = Frame::read(stream) else { return None };
        let &[rank, ranks, low, high, port] = bytes.as_chunks::<8>().0 else { return None };
        let [rank, ranks, low, high, port] = [rank, ranks, low, high, port].map(u64::from_le_bytes);
        let agreement = u128::from(high) << 64 | u128::from(low);
        Some(Self { rank: rank.try_into().ok()?, ranks: ranks.try_into().ok()?, agreement, port: port.try_into().ok()? })
    }
}

fn meeting(problem: String) -> RankError {
    RankError::Meeting(problem)
}

impl Meeting<'_> {
    /// Waits for all ranks and connects to them.
    ///
    /// # Errors
    /// [`RankError::Meeting`] when one does not come, or comes to run something else.
    pub fn join(&self) -> Result<Mesh, RankError> {
        let (rank, ranks) = (self.rank, self.ranks);
        if rank >= ranks {
            return Err(meeting(format!("there is no rank {rank} among {ranks}: they are counted from 0")));
        }
        let streams = match self.door {
            Door::Listener(listener) => self.receive(listener)?,
            Door::Address(address) => self.go(address)?,
        };
        Mesh::new(rank, streams).map_err(|error| meeting(format!("cannot talk to the other ranks: {error}")))
    }

    /// Rank 0: lets all in, and tells each where the others are.
    fn receive(&self, listener: &TcpListener) -> Result<Vec<Option<TcpStream>>, RankError> {
        let mut guests: Vec<Option<(TcpStream, SocketAddr)>> = (0..self.ranks).map(|_| None).collect();
        let outcome = self.let_in(listener, 0, &mut guests);
        let addresses: Vec<String> =
            guests.iter().map(|guest| guest.as_ref().map_or(String::new(), |(_, address)| address.to_string())).collect();
        let told = match &outcome {
            Ok(()) => Frame::Data(MAGIC, addresses.join("\n").as_bytes().into()),
            Err(error) => Frame::Failure(error.to_string()),
        };
        for (stream, _) in guests.iter_mut().flatten() {
            // One that is gone by now is missed by the first message.
            let _ = told.write(stream);
        }
        outcome.map(|()| guests.into_iter().map(|guest| guest.map(|(stream, _)| stream)).collect())
    }

    /// Another rank: goes to rank 0, then to those before it, then lets those after it in.
    fn go(&self, address: &str) -> Result<Vec<Option<TcpStream>>, RankError> {
        let mut first = self.connect(address)?;
        let failed = |error: io::Error| meeting(format!("rank {} cannot meet rank 0 at {address}: {error}", self.rank));
        // On the network that leads to the others.
        let listener = TcpListener::bind((first.local_addr().map_err(failed)?.ip(), 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let greeting = Greeting { rank: self.rank, ranks: self.ranks, agreement: self.agreement, port };
        greeting.frame().write(&mut first).map_err(failed)?;
        first.set_read_timeout(Some(PATIENCE + GREETING)).map_err(failed)?;
        let told = match Frame::read(&mut first).map_err(failed)? {
            Frame::Data(MAGIC, bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Frame::Failure(why) => return Err(meeting(format!("rank 0 at {address} refused rank {}: {why}", self.rank))),
            _ => return Err(meeting(format!("{address} is not rank 0 of a run"))),
        };
        let addresses: Vec<&str> = told.split('\n').collect();
        if addresses.len() != self.ranks {
            return Err(meeting(format!("{address} tells of {} ranks, not of {}", addresses.len(), self.ranks)));
        }
        let mut met: Vec<Option<(TcpStream, SocketAddr)>> = (0..self.ranks).map(|_| None).collect();
        for other in 1..self.rank {
            let mut stream = self.connect(addresses[other])?;
            greeting.frame().write(&mut stream).map_err(failed)?;
            let address = stream.peer_addr().map_err(failed)?;
            met[other] = Some((stream, address));
        }
        self.let_in(&listener, self.rank, &mut met)?;
        let mut streams: Vec<_> = met.into_iter().map(|met| met.map(|(stream, _)| stream)).collect();
        streams[0] = Some(first);
        Ok(streams)
    }

    /// Waits for those after `rank`, with where each listens.
    fn let_in(&self, listener: &TcpListener, rank: usize, guests: &mut [Option<(TcpStream, SocketAddr)>]) -> Result<(), RankError> {
        let failed = |error: io::Error| meeting(format!("rank {rank} cannot listen: {error}"));
        let begun = Instant::now();
        listener.set_nonblocking(true).map_err(failed)?;
        while let Some(missing) = (rank + 1..guests.len()).find(|&rank| guests[rank].is_none()) {
            match listener.accept() {
                Ok((stream, address)) => {
                    if let Some((greeting, stream)) = greeted(stream) {
                        let guest = self.check(&greeting, rank, guests).map(|()| SocketAddr::new(address.ip(), greeting.port));
                        match guest {
                            Ok(address) => guests[greeting.rank] = Some((stream, address)),
                            Err(error) => return refuse(stream, error),
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (self.wait)().map_err(meeting)?;
                    if begun.elapsed() > PATIENCE {
                        let seconds = PATIENCE.as_secs();
                        return Err(meeting(format!("rank {missing} of {} did not come within {seconds} seconds", self.ranks)));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn check(&self, greeting: &Greeting, rank: usize, guests: &[Option<(TcpStream, SocketAddr)>]) -> Result<(), RankError> {
        let Greeting { rank: guest, ranks, agreement, .. } = *greeting;
        if ranks != self.ranks {
            return Err(meeting(format!("rank {guest} was started as one of {ranks} ranks, rank {rank} as one of {}", self.ranks)));
        }
        if agreement != self.agreement {
            let what = "another recipe, model or corpus, or another version of the program";
            return Err(meeting(format!("rank {guest} has {what} than rank {rank}: start all ranks with the same")));
        }
        if guest <= rank || guests.get(guest).is_none_or(Option::is_some) {
            return Err(meeting(format!("two processes were started as rank {guest} of {ranks}")));
        }
        Ok(())
    }

    /// Goes to an address, as often as it takes.
    fn connect(&self, address: &str) -> Result<TcpStream, RankError> {
        let begun = Instant::now();
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => return Ok(stream),
                Err(error) if begun.elapsed() > PATIENCE || error.kind() == io::ErrorKind::InvalidInput => {
                    return Err(meeting(format!("rank {} cannot reach {address}: {error}", self.rank)));
                }
                Err(_) => (self.wait)().map_err(meeting)?,
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What one who came says; strangers are let go.
fn greeted(mut stream: TcpStream) -> Option<(Greeting, TcpStream)> {
    stream.set_nonblocking(false).ok()?;
    Some((Greeting::read(&mut stream)?, stream))
}

/// Tells one who came why it has to go.
fn refuse(mut stream: TcpStream, error: RankError) -> Result<(), RankError> {
    let _ = Frame::Failure(error.to_string()).write(&mut stream);
    Err(error)
}
