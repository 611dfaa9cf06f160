//! One connection between two ranks. A thread reads and a thread writes, so that a rank that computes still shows that it is there, and
//! one that waits learns at once of any that is gone.
//!
//! A frame is a kind (u8), a number that depends on the kind (u64), a length (u32), all little-endian, and so many bytes.

use super::RankError;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A rank that has nothing to send says so once in this time.
const BEAT: Duration = Duration::from_secs(1);
/// A rank that is not heard for this long is gone.
const SILENCE: Duration = Duration::from_secs(20);
/// Time for last words.
const FAREWELL: Duration = Duration::from_secs(2);
/// Frames that wait on either side of a connection.
const WAITING: usize = 32;
/// Bytes of a frame, at most.
const FRAME_BYTES: usize = 1 << 24;

/// What goes over a connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    /// Nothing, but from one who is there.
    Beat,
    /// Content, with the number that says what it is.
    Data(u64, Arc<[u8]>),
    /// Why the other side stops.
    Failure(String),
    /// The other side is done.
    End,
}

impl Frame {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, number, bytes): (u8, u64, &[u8]) = match self {
            Self::Beat => (0, 0, &[]),
            Self::Data(number, bytes) => (1, *number, bytes),
            Self::Failure(text) => (2, 0, text.as_bytes()),
            Self::End => (3, 0, &[]),
        };
        let len = u32::try_from(bytes.len()).ok().filter(|&len| len as usize <= FRAME_BYTES);
        let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a message that is too long"))?;
        let mut head = [0; 13];
        head[0] = kind;
        head[1..9].copy_from_slice(&number.to_le_bytes());
        head[9..].copy_from_slice(&len.to_le_bytes());
        to.write_all(&head)?;
        to.write_all(bytes)
    }

    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let (mut kind, mut number, mut len) = ([0; 1], [0; 8], [0; 4]);
        from.read_exact(&mut kind)?;
        from.read_exact(&mut number)?;
        from.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > FRAME_BYTES {
            return wrong("a message that no rank sends");
        }
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes)?;
        match kind[0] {
            0 => Ok(Self::Beat),
            1 => Ok(Self::Data(u64::from_le_bytes(number), bytes.into())),
            2 => Ok(Self::Failure(String::from_utf8_lossy(&bytes).into_owned())),
            3 => Ok(Self::End),
            _ => wrong("a message that no rank sends"),
        }
    }
}

/// What became of the ranks that a rank is connected to.
#[derive(Debug, Default)]
pub(super) struct Fate {
    /// The first failure that any connection met.
    failure: OnceLock<RankError>,
    /// The first rank that was done, which is as it should be where there is nothing more to do.
    ended: OnceLock<usize>,
}

impl Fate {
    pub fn fail(&self, error: RankError) {
        let _ = self.failure.set(error);
    }

    /// Why nothing that is still to come from others will come.
    pub fn reason(&self) -> Option<RankError> {
        self.failure.get().cloned().or_else(|| self.ended.get().map(|&rank| too_early(rank)))
    }
}

fn too_early(rank: usize) -> RankError {
    RankError::Gone { rank, problem: "it has ended, and should not have yet".into() }
}

/// A connection to one other rank.
#[derive(Debug)]
pub(super) struct Link {
    rank: usize,
    stream: TcpStream,
    fate: Arc<Fate>,
    inbox: Option<Receiver<(u64, Arc<[u8]>)>>,
    outbox: Option<SyncSender<Frame>>,
    reader: Option<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

impl Link {
    /// Takes over a connection to `rank`.
    ///
    /// # Errors
    /// Those of the system.
    pub fn new(rank: usize, stream: TcpStream, fate: Arc<Fate>) -> io::Result<Self> {
        Self::with_silence(rank, stream, fate, SILENCE)
    }

    fn with_silence(rank: usize, stream: TcpStream, fate: Arc<Fate>, silence: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(silence))?;
        let (outbox, to_send) = mpsc::sync_channel(WAITING);
        let (received, inbox) = mpsc::sync_channel(WAITING);
        let (from, mut to, heard) = (stream.try_clone()?, stream.try_clone()?, fate.clone());
        let spawn = |name: String| std::thread::Builder::new().name(name);
        let reader = spawn(format!("osler-from-{rank}")).spawn(move || {
            if let Err(error) = read(rank, BufReader::with_capacity(1 << 18, from), &received, &heard) {
                heard.fail(RankError::Gone { rank, problem: why(&error, silence) });
            }
        })?;
        // What cannot be written, the reader learns too: the other side is gone.
        let writer = spawn(format!("osler-to-{rank}")).spawn(move || drop(write(&mut to, &to_send)))?;
        Ok(Self { rank, stream, fate, inbox: Some(inbox), outbox: Some(outbox), reader: Some(reader), writer: Some(writer) })
    }

    /// Sends content, after what was sent before.
    ///
    /// # Errors
    /// The first failure of any connection.
    pub fn send(&self, number: u64, bytes: Arc<[u8]>) -> Result<(), RankError> {
        let mut frame = Frame::Data(number, bytes);
        while let Some(outbox) = &self.outbox {
            frame = match outbox.try_send(frame) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(frame)) => frame,
                Err(TrySendError::Disconnected(_)) => break,
            };
            self.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(self.ended())
    }

    /// The next content.
    ///
    /// # Errors
    /// The first failure of any connection.
    pub fn receive(&self) -> Result<(u64, Arc<[u8]>), RankError> {
        while let Some(inbox) = &self.inbox {
            match inbox.recv_timeout(Duration::from_millis(20)) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Timeout) => self.check()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Err(self.ended())
    }

    /// Sends last words, if there is room for them.
    pub fn abort(&self, message: &str) {
        if let Some(outbox) = &self.outbox {
            let _ = outbox.try_send(Frame::Failure(message.to_string()));
        }
    }

    fn check(&self) -> Result<(), RankError> {
        self.fate.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Why there is nothing more from the other side.
    fn ended(&self) -> RankError {
        self.fate.failure.get().cloned().unwrap_or_else(|| too_early(self.rank))
    }

    /// The connection, to be cut as when the process is killed.
    #[cfg(test)]
    pub fn stream(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The writer says what waits, then that this is the end. What the other side has not read yet is not to be lost, so the
        // connection is closed when it has ended too.
        drop(self.outbox.take());
        drop(self.inbox.take());
        let begun = Instant::now();
        let wait = |thread: &Option<JoinHandle<()>>| {
            while thread.as_ref().is_some_and(|thread| !thread.is_finished()) && begun.elapsed() < FAREWELL {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        wait(&self.writer);
        let _ = self.stream.shutdown(Shutdown::Write);
        wait(&self.reader);
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in [self.writer.take(), self.reader.take()].into_iter().flatten() {
            let _ = thread.join();
        }
    }
}

/// Takes what the other side sends, to its end, also when nobody asks for it any more.
fn read(rank: usize, mut from: impl Read, received: &SyncSender<(u64, Arc<[u8]>)>, fate: &Fate) -> io::Result<()> {
    loop {
        match Frame::read(&mut from)? {
            Frame::Beat => {}
            Frame::Data(number, bytes) => drop(received.send((number, bytes))),
            Frame::Failure(message) => fate.fail(RankError::Stopped { rank, message }),
            Frame::End => {
                let _ = fate.ended.set(rank);
                return Ok(());
            }
        }
    }
}

fn why(error: &io::Error, silence: Duration) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "its connection is closed".into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("it was not heard for {} seconds", silence.as_secs_f64()),
        _ => error.to_string(),
    }
}

/// Sends what there is, and a beat now and then, until there will be no more.
fn write(to: &mut impl Write, to_send: &Receiver<Frame>) -> io::Result<()> {
    loop {
        match to_send.recv_timeout(BEAT) {
            Ok(frame) => frame.write(to)?,
            Err(RecvTimeoutError::Timeout) => Frame::Beat.write(to)?,
            Err(RecvTimeoutError::Disconnected) => return Frame::End.write(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Links of this process with two others: one that hangs, and one that only computes.
    #[test]
    fn one_that_hangs_is_gone_and_one_that_computes_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap().0);
        let (_hangs, here) = pair();
        let link = Link::with_silence(3, here, Arc::default(), Duration::from_millis(1500)).unwrap();
        let wanted = RankError::Gone { rank: 3, problem: "it was not heard for 1.5 seconds".into() };
        assert_eq!(link.receive(), Err(wanted));
        let (there, here) = pair();
        let computes = Link::new(0, there, Arc::default()).unwrap();
        let link = Link::with_silence(3, here, Arc::default(), Duration::from_millis(1500)).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        computes.send(5, vec![6].into()).unwrap();
        assert_eq!(link.receive(), Ok((5, vec![6].into())));
    }

    /// What waits is bounded, and what is not taken is not lost.
    #[test]
    fn a_slow_receiver_gets_all() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let [from, to] = [there, listener.accept().unwrap().0].map(|stream| Link::new(0, stream, Arc::default()).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(move || (0..400).for_each(|number| from.send(number, vec![number as u8; 1 << 18].into()).unwrap()));
            std::thread::sleep(Duration::from_millis(200));
            // The sender has ended before all is read.
            for number in 0..400 {
                let (got, bytes) = to.receive().unwrap();
                assert!(got == number && bytes.len() == 1 << 18 && bytes[1000] == number as u8);
            }
        });
    }

    #[test]
    fn frames_come_back_and_wrong_ones_are_errors() {
        let frames = [Frame::Beat, Frame::Data(7, vec![1, 2, 3].into()), Frame::Failure("why".into()), Frame::End];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
        let mut from = bytes.as_slice();
        frames.iter().for_each(|frame| assert_eq!(Frame::read(&mut from).unwrap(), *frame));
        let kind = |bytes: &[u8]| Frame::read(&mut &bytes[..]).unwrap_err().kind();
        assert_eq!(kind(b""), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(b"GET / HTTP/1.1\r\n\r\n"), io::ErrorKind::InvalidData);
        assert_eq!(kind(&[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), io::ErrorKind::InvalidData);
        // A length that is not there, and one that is too much to try.
        assert_eq!(kind(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 200, 0, 0, 0, 1]), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]), io::ErrorKind::InvalidData);
    }
}
