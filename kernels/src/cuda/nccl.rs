//! NCCL: how the devices of several ranks reach each other. It is bound here because cudarc looks for `libnccl.so`, a name that NVIDIA's
//! packages give developers alone; programs find `libnccl.so.2`.

use super::launcher::Transfer;
use super::library::Library;
use crate::KernelError;
use crate::operations::Done;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// By this the ranks of a run find each other: rank 0 makes it, the others are given it.
pub type Id = [u8; 128];

/// Time that a call may take before the connection is given up under it.
const PATIENCE: Duration = Duration::from_secs(5);

/// NCCL's type of bytes (`ncclUint8`): nothing is reckoned on the way.
const BYTES: c_int = 1;
const SUCCESS: c_int = 0;

type Handle = *mut c_void;
type Stream = *mut c_void;

/// As `ncclUniqueId`, which is passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawId(Id);

macro_rules! calls {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The library's functions, of which none is called before all are found.
        struct Calls {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// What the functions lie in.
            _library: libloading::Library,
        }

        impl Calls {
            fn find(library: libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the names and types are those of nccl.h, from 2.13 on.
                    $($field: unsafe { *library.get($symbol)? },)*
                    _library: library,
                })
            }
        }
    };
}

calls! {
    new_id = b"ncclGetUniqueId": fn(*mut RawId) -> c_int;
    join = b"ncclCommInitRank": fn(*mut Handle, c_int, RawId, c_int) -> c_int;
    destroy = b"ncclCommDestroy": fn(Handle) -> c_int;
    abort = b"ncclCommAbort": fn(Handle) -> c_int;
    begin = b"ncclGroupStart": fn() -> c_int;
    end = b"ncclGroupEnd": fn() -> c_int;
    send = b"ncclSend": fn(*const c_void, usize, c_int, c_int, Handle, Stream) -> c_int;
    receive = b"ncclRecv": fn(*mut c_void, usize, c_int, c_int, Handle, Stream) -> c_int;
    broadcast = b"ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Stream) -> c_int;
    name = b"ncclGetErrorString": fn(c_int) -> *const c_char;
    last_error = b"ncclGetLastError": fn(Handle) -> *const c_char;
}

/// The library, open.
pub struct Nccl(Arc<Calls>);

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nccl")
    }
}

impl Nccl {
    /// Opens the library, from the first of `folders` that has it or else where the system looks.
    ///
    /// # Errors
    /// [`KernelError::Cuda`], which says how to come by it.
    pub fn open(folders: &[PathBuf]) -> Result<Self, KernelError> {
        let library = Library::Ranks.open_named(folders)?;
        let calls = Calls::find(library).map_err(|error| KernelError::Cuda(format!("{error}: install NCCL 2.18 or newer")))?;
        Ok(Self(Arc::new(calls)))
    }

    /// What rank 0 tells the others, once for each time that they join.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] where the machine has no network that it could be reached by.
    pub fn new_id(&self) -> Result<Id, KernelError> {
        let mut id = RawId([0; 128]);
        // SAFETY: the call writes an identifier.
        let code = unsafe { (self.0.new_id)(&mut id) };
        match code {
            SUCCESS => Ok(id.0),
            _ => Err(KernelError::Cuda(format!("NCCL makes no identifier: {}", self.0.said(code, std::ptr::null_mut())))),
        }
    }

    /// Waits until all of `ranks` ranks are here. The context has to be this thread's.
    pub(super) fn join(&self, id: &Id, rank: usize, ranks: usize) -> Result<Connection, KernelError> {
        let failed =
            |why: String| KernelError::Cuda(format!("rank {rank} of {ranks} does not reach the other ranks' devices by NCCL: {why}"));
        let [rank_number, ranks_number] =
            [rank, ranks].map(c_int::try_from).map(|number| number.map_err(|error| failed(error.to_string())));
        let mut handle = std::ptr::null_mut();
        // SAFETY: the call writes a handle; it refuses numbers that do not fit together.
        let code = unsafe { (self.0.join)(&mut handle, ranks_number?, RawId(*id), rank_number?) };
        if code != SUCCESS {
            return Err(failed(self.0.said(code, std::ptr::null_mut())));
        }
        Ok(Connection { calls: self.0.clone(), handle, ranks, used: Mutex::new(()), is_given_up: AtomicBool::new(false) })
    }
}

/// The ways from one rank's device to all others'.
pub struct Connection {
    calls: Arc<Calls>,
    handle: Handle,
    ranks: usize,
    /// Held during calls: NCCL takes one at a time.
    used: Mutex<()>,
    is_given_up: AtomicBool,
}

// SAFETY: the handle may be used by any thread, by one at a time (NCCL's guide, "Thread safety"), which `used` sees to; `give_up` may come
// during another's call, as NCCL's way out of one that waits ("Fault tolerance").
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("ranks", &self.ranks).finish_non_exhaustive()
    }
}

impl Connection {
    /// Starts all transfers at the same time, after what the stream was given before.
    pub(super) fn start(&self, transfers: &[Transfer], stream: Stream) -> Done {
        let _used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_given_up.load(Ordering::SeqCst) {
            return Err(KernelError::Launch("the way to the other ranks' devices was given up".into()));
        }
        let calls = &*self.calls;
        // SAFETY: needs nothing; is ended below, whatever happens.
        let mut code = unsafe { (calls.begin)() };
        if code == SUCCESS {
            code = transfers.iter().map(|transfer| self.start_one(transfer, stream)).find(|&code| code != SUCCESS).unwrap_or(SUCCESS);
            // SAFETY: a group was begun.
            let ended = unsafe { (calls.end)() };
            code = if code == SUCCESS { ended } else { code };
        }
        match code {
            SUCCESS => Ok(()),
            _ => Err(KernelError::Launch(format!("numbers that go to other ranks: {}", calls.said(code, self.handle)))),
        }
    }

    fn start_one(&self, transfer: &Transfer, stream: Stream) -> c_int {
        let (calls, handle) = (&*self.calls, self.handle);
        // What is no rank is refused by the calls.
        let number = |rank: usize| c_int::try_from(rank).unwrap_or(c_int::MAX);
        // SAFETY: the handle lives, and the stream is the caller's. Addresses are the device's: what is done there, right or wrong, touches
        // no memory of the host.
        unsafe {
            match *transfer {
                Transfer::Send { to, address, bytes } => (calls.send)(address as *const c_void, bytes, BYTES, number(to), handle, stream),
                Transfer::Receive { from, address, bytes } => {
                    (calls.receive)(address as *mut c_void, bytes, BYTES, number(from), handle, stream)
                }
                Transfer::Broadcast { root, address, bytes } => {
                    (calls.broadcast)(address as *const c_void, address as *mut c_void, bytes, BYTES, number(root), handle, stream)
                }
            }
        }
    }

    /// Ends all transfers where they are, so that nothing waits for a rank that is gone, and takes no more. For any thread.
    pub fn give_up(&self) {
        if self.is_given_up.swap(true, Ordering::SeqCst) {
            return;
        }
        let begun = Instant::now();
        // A call that is long in coming back is one that waits itself.
        while let Err(TryLockError::WouldBlock) = self.used.try_lock().map(drop)
            && begun.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: once, and nothing uses the handle after it: calls ask before, and `drop` does.
        unsafe { (self.calls.abort)(self.handle) };
    }

    /// Whether it was given up.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::SeqCst)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_given_up() {
            // SAFETY: nothing else has the handle any more. What it answers changes nothing.
            unsafe { (self.calls.destroy)(self.handle) };
        }
    }
}

impl Calls {
    /// What the library says of a failure.
    fn said(&self, code: c_int, handle: Handle) -> String {
        // SAFETY: both give text that lives as long as the library, the second until the next call; or nothing.
        let [name, last] = unsafe { [(self.name)(code), (self.last_error)(handle)] }.map(|text| {
            // SAFETY: as above.
            if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
        });
        if last.is_empty() { name } else { format!("{name} ({})", last.trim().replace('\n', " ")) }
    }
}
