//! NCCL: how the devices of several ranks reach each other. It is bound here because cudarc looks for `libnccl.so`, a name that NVIDIA's
//! packages give developers alone; programs find `libnccl.so.2`.

use super::launcher::Transfer;
use super::library::Library;
use crate::KernelError;
use crate::operations::Done;
use cudarc::driver::CudaContext;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::time::Duration;

/// By this the ranks of a run find each other: rank 0 makes it, the others are given it.
pub type Id = [u8; 128];

/// Time to close a connection. NCCL waits for the other ranks of a machine, of which one may hang.
const FAREWELL: Duration = Duration::from_secs(5);

/// As NCCL counts: 2.19.1. Before it, a communicator could not be ended safely in a process with several threads.
const OLDEST_VERSION: c_int = 21_901;

/// NCCL's type of bytes (`ncclUint8`): nothing is reckoned on the way.
const BYTES: c_int = 1;
const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;

type RawHandle = *mut c_void;
type Stream = *mut c_void;

/// As `ncclUniqueId`, which is passed by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawId(Id);

/// As `ncclConfig_t` was when it first was there, in 2.14; NCCL sees by the version what is missing, and takes what it takes without.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

macro_rules! calls {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The library's functions, of which none is called before all are found.
        struct Calls {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Calls {
            fn find(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the names and types are those of nccl.h, from 2.14 on.
                    $($field: unsafe { *library.get($symbol)? },)*
                })
            }
        }
    };
}

calls! {
    version = b"ncclGetVersion": fn(*mut c_int) -> c_int;
    new_id = b"ncclGetUniqueId": fn(*mut RawId) -> c_int;
    join = b"ncclCommInitRankConfig": fn(*mut RawHandle, c_int, RawId, c_int, *mut Config) -> c_int;
    state = b"ncclCommGetAsyncError": fn(RawHandle, *mut c_int) -> c_int;
    destroy = b"ncclCommDestroy": fn(RawHandle) -> c_int;
    abort = b"ncclCommAbort": fn(RawHandle) -> c_int;
    begin = b"ncclGroupStart": fn() -> c_int;
    end = b"ncclGroupEnd": fn() -> c_int;
    send = b"ncclSend": fn(*const c_void, usize, c_int, c_int, RawHandle, Stream) -> c_int;
    receive = b"ncclRecv": fn(*mut c_void, usize, c_int, c_int, RawHandle, Stream) -> c_int;
    broadcast = b"ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, RawHandle, Stream) -> c_int;
    name = b"ncclGetErrorString": fn(c_int) -> *const c_char;
    last_error = b"ncclGetLastError": fn(RawHandle) -> *const c_char;
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
        let old = |what: String| KernelError::Cuda(format!("{what}: install NCCL 2.19.1 or newer"));
        let calls = Calls::find(&library).map_err(|error| old(error.to_string()))?;
        // It has threads of its own, so it is never closed.
        std::mem::forget(library);
        let mut version = 0;
        // SAFETY: the call writes one integer.
        match unsafe { (calls.version)(&mut version) } {
            SUCCESS if version >= OLDEST_VERSION => Ok(Self(Arc::new(calls))),
            _ => Err(old(format!("NCCL is of version {}.{}.{}", version / 10_000, version / 100 % 100, version % 100))),
        }
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

    /// Waits until all of `ranks` ranks are here, and asks `wait` meanwhile, whose error ends the wait.
    pub(super) fn join<E: From<KernelError>>(
        self,
        context: Arc<CudaContext>,
        id: &Id,
        (rank, ranks): (usize, usize),
        wait: impl Fn() -> Result<(), E>,
    ) -> Result<Connection, E> {
        let failed =
            |why: String| KernelError::Cuda(format!("rank {rank} of {ranks} does not reach the other ranks' devices by NCCL: {why}"));
        let [rank_number, ranks_number] =
            [rank, ranks].map(c_int::try_from).map(|number| number.map_err(|error| failed(error.to_string())));
        let (rank_number, ranks_number) = (rank_number?, ranks_number?);
        context.bind_to_thread().map_err(|error| failed(format!("{:?}", error.0)))?;
        // No call waits for other ranks then, and a connection can be given up between two.
        let mut config = Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: 21_400, blocking: 0 };
        let mut handle = std::ptr::null_mut();
        // SAFETY: the call writes a handle, and copies the configuration; it refuses numbers that do not fit together.
        let code = unsafe { (self.0.join)(&mut handle, ranks_number, RawId(*id), rank_number, &mut config) };
        let refused = (!matches!(code, SUCCESS | IN_PROGRESS)).then(|| self.0.said(code, std::ptr::null_mut()));
        // NCCL may have begun something all the same.
        let handle = Mutex::new(Some(handle).filter(|handle| !handle.is_null()).map(Handle));
        let connection = Connection { calls: self.0, context, ranks, handle, is_given_up: AtomicBool::new(false) };
        if let Some(why) = refused {
            connection.give_up();
            return Err(failed(why).into());
        }
        loop {
            let progress = connection.lock().as_ref().and_then(|handle| connection.calls.progress(handle.0));
            match progress {
                Some(Progress::Done) => return Ok(connection),
                Some(Progress::Failed(why)) => {
                    connection.give_up();
                    return Err(failed(why).into());
                }
                None => {}
            }
            if let Err(error) = wait() {
                connection.give_up();
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The ways from one rank's device to all others'.
pub struct Connection {
    calls: Arc<Calls>,
    context: Arc<CudaContext>,
    ranks: usize,
    /// Held during calls: NCCL takes one at a time, and none once it is given up.
    handle: Mutex<Option<Handle>>,
    is_given_up: AtomicBool,
}

/// What NCCL knows a connection by.
struct Handle(RawHandle);

// SAFETY: it may be used by any thread, by one at a time (NCCL's guide, "Thread safety"), which the lock around it sees to.
unsafe impl Send for Handle {}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("ranks", &self.ranks).finish_non_exhaustive()
    }
}

/// How far the last call has come.
enum Progress {
    Done,
    Failed(String),
}

impl Connection {
    /// Starts all transfers at the same time, after what the stream was given before. The context is this thread's.
    pub(super) fn start(&self, transfers: &[Transfer], stream: Stream) -> Done {
        let given_up = || KernelError::Launch("the way to the other ranks' devices was given up".into());
        let refused = |why: String| KernelError::Launch(format!("numbers that go to other ranks: {why}"));
        let held = self.lock();
        let Some(Handle(handle)) = *held else { return Err(given_up()) };
        let calls = &*self.calls;
        let is_wrong = |code: &c_int| !matches!(*code, SUCCESS | IN_PROGRESS);
        // SAFETY: needs nothing; is ended below, whatever happens.
        let begun = unsafe { (calls.begin)() };
        if is_wrong(&begun) {
            return Err(refused(calls.said(begun, handle)));
        }
        let wrong = transfers.iter().map(|transfer| self.start_one(transfer, handle, stream)).find(is_wrong);
        // SAFETY: a group was begun.
        let ended = unsafe { (calls.end)() };
        if let Some(code) = wrong.or(Some(ended).filter(is_wrong)) {
            return Err(refused(calls.said(code, handle)));
        }
        // They are on the stream when this has ended, which takes as long as a start of a kernel but for the first time.
        loop {
            match calls.progress(handle) {
                Some(Progress::Done) => return Ok(()),
                Some(Progress::Failed(why)) => return Err(refused(why)),
                None if self.is_given_up() => return Err(given_up()),
                None => std::thread::yield_now(),
            }
        }
    }

    fn start_one(&self, transfer: &Transfer, handle: RawHandle, stream: Stream) -> c_int {
        let calls = &*self.calls;
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

    /// Why transfers will not end, if NCCL knows: a network that failed, say. For any thread; where another is in a call, that one is told.
    pub fn problem(&self) -> Option<String> {
        let held = match self.handle.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        match self.calls.progress(held.as_ref()?.0) {
            Some(Progress::Failed(why)) => Some(why),
            Some(Progress::Done) | None => None,
        }
    }

    /// Ends all transfers where they are, so that nothing waits for a rank that is gone, and takes no more. For any thread.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::SeqCst);
        let held = self.lock().take();
        self.close(held, self.calls.abort);
    }

    /// Whether it was given up. What transfers wrote since is anything.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Handle>> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes it in a thread that can be left alone.
    fn close(&self, handle: Option<Handle>, call: unsafe extern "C" fn(RawHandle) -> c_int) {
        let Some(handle) = handle else { return };
        let (context, (tell, told)) = (self.context.clone(), mpsc::channel::<()>());
        let close = move || {
            // All of it: the pointer within may not go to another thread by itself.
            let Handle(raw) = { handle };
            if context.bind_to_thread().is_ok() {
                // SAFETY: nothing else has the handle any more. What it answers changes nothing.
                unsafe { call(raw) };
            }
            drop(tell);
        };
        if std::thread::Builder::new().name("osler-nccl".into()).spawn(close).is_ok() {
            let _ = told.recv_timeout(FAREWELL);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let held = self.lock().take();
        self.close(held, self.calls.destroy);
    }
}

impl Calls {
    /// How far the last call has come; none while it is under way. The caller holds the handle.
    fn progress(&self, handle: RawHandle) -> Option<Progress> {
        let mut state = SUCCESS;
        // SAFETY: the handle lives, and the call writes one integer.
        let code = unsafe { (self.state)(handle, &mut state) };
        match if code == SUCCESS { state } else { code } {
            SUCCESS => Some(Progress::Done),
            IN_PROGRESS => None,
            code => Some(Progress::Failed(self.said(code, handle))),
        }
    }

    /// What the library says of a failure.
    fn said(&self, code: c_int, handle: RawHandle) -> String {
        // SAFETY: both give nothing, or text that lives as long as the library; another call may change the second's letters, not its end.
        let [name, last] = unsafe { [(self.name)(code), (self.last_error)(handle)] }.map(|text| {
            // SAFETY: as above.
            if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
        });
        if last.is_empty() { name } else { format!("{name} ({})", last.trim().replace('\n', " ")) }
    }
}
