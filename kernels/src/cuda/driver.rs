//! A CUDA device: found, opened, and a [`Launcher`]. **Nothing here but what happens without a device has run on a chip yet**: the rest runs on a
//! stand-in for the driver (`tests/driver.rs`).
//!
//! One stream carries all work in the order in which it is asked for, so nothing else orders it; what goes to other ranks is on a second, and
//! events order the two where `aside` and `wait` say so.

use super::architecture::Architecture;
use super::compile::{Compiler, Origin, Source};
use super::host_memory::{HostMemory, Pages};
use super::launcher::{Argument, Aside, Command, Launch, Launcher, MatrixBox, TensorMap};
use super::library::Library;
use super::nccl::{Connection, Id, Nccl};
use super::products::Products;
use super::units::UNITS;
use super::uploads::Uploads;
use crate::KernelError;
use crate::operations::Done;
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The driver's version of CUDA, as it counts: what is compiled by CUDA 13 runs on drivers of CUDA 13 or newer.
const OLDEST_DRIVER: i32 = 13_000;

/// Columns of the box that a tensor map moves: the 128 bytes that are swizzled together.
const BOX_COLUMNS: u32 = 64;

/// Sleep between two looks at whether the device has told what it was to tell, to which systems add some tens of microseconds: short beside the step of
/// AdamW that comes after it.
const GLANCE: Duration = Duration::from_micros(20);

/// Pieces of work that are aside at most: as many layers, of some ten commands each, where a stream has room for about a thousand.
const ASIDE_MAX: usize = 32;

/// What a device is opened with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Number of the device, as the driver counts.
    pub ordinal: usize,
    /// Folders that CUDA's libraries are looked for in, before the system's own.
    pub libraries: &'a [PathBuf],
    /// Folder of compiled kernels and of choices of matrix products; `None` keeps neither.
    pub cache: Option<&'a Path>,
    /// Whether kernels for Hopper alone are left out, so that those for older devices can be held against them.
    pub without_wgmma: bool,
}

/// A device that kernels can run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub architecture: Architecture,
    /// All there is, free or not.
    pub memory_bytes: usize,
    pub multiprocessors: usize,
}

/// The device with the number `ordinal`, if kernels can run on it. Takes nothing of it.
///
/// # Errors
/// [`KernelError::Cuda`] in one line: no driver, no device, too old a one of either, and what to do.
pub fn find(ordinal: usize) -> Result<Found, KernelError> {
    Library::Driver.open(&[])?;
    result::init().map_err(no_device)?;
    let mut version = 0;
    // SAFETY: the library is open, and the call writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed("the driver does not say its version"))?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(KernelError::Cuda(format!(
            "the NVIDIA driver is for CUDA {major}.{minor}, and kernels need 13.0: install driver 580 or newer"
        )));
    }
    let count = result::device::get_count().map_err(no_device)?;
    let number = i32::try_from(ordinal).ok().filter(|&number| number < count).ok_or_else(|| {
        KernelError::Cuda(format!("the driver sees {count} CUDA devices, none with the number {ordinal}: is CUDA_VISIBLE_DEVICES right?"))
    })?;
    let silent = failed("the device does not describe itself");
    let device = result::device::get(number).map_err(&silent)?;
    // SAFETY: `device` is what the driver gave for a number that it has.
    let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map_err(&silent);
    let major = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    Ok(Found {
        name: result::device::get_name(device).map_err(&silent)?,
        architecture: Architecture::of(major, minor)?,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }.map_err(&silent)?,
        multiprocessors: usize::try_from(multiprocessors).unwrap_or(1).max(1),
    })
}

/// A device with its kernels loaded.
#[derive(Debug)]
pub struct Driver {
    found: Found,
    /// Whether kernels for Hopper are there.
    wgmma: bool,
    kernels: HashMap<&'static str, Kernel>,
    products: Mutex<Products>,
    uploads: Mutex<Uploads>,
    not_kept: Option<String>,
    /// Major and minor version of NVRTC.
    compiler_version: (i32, i32),
    /// To the devices of other ranks, once they are joined.
    connection: OnceLock<Arc<Connection>>,
    /// The host's memory that kernels write to.
    pages: Arc<Pages>,
    /// Ends of what is aside.
    under_way: Mutex<VecDeque<Arc<CudaEvent>>>,
    /// For what goes to other ranks.
    beside: Arc<CudaStream>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

/// The device's memory, or the host's that it writes to.
#[derive(Debug)]
pub struct DriverMemory(Place);

#[derive(Debug)]
enum Place {
    Device(CudaSlice<u8>),
    Host(HostMemory),
}

/// Commands that were recorded as one.
pub struct Recording(CudaGraph);

// SAFETY: a graph may be used by any thread, by one at a time (CUDA driver API, "Graphs: thread safety"), and nothing shares it.
unsafe impl Send for Recording {}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recording")
    }
}

/// A kernel, and the sizes of its parameters in bytes.
#[derive(Debug)]
struct Kernel {
    function: CudaFunction,
    parameters: Vec<usize>,
}

impl Driver {
    /// Opens a device, compiles for it every unit that it can run, or reads it from the cache, and loads their kernels.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] as for [`find`] and where a library is missing; [`KernelError::Compile`]; [`KernelError::Memory`].
    pub fn open(options: &Options<'_>) -> Result<Self, KernelError> {
        let found = find(options.ordinal)?;
        // Before anything is taken of the device.
        let compiler = Compiler::open(options.libraries, options.cache.map(Path::to_path_buf))?;
        Library::MatrixProducts.open(options.libraries)?;
        let context = CudaContext::new(options.ordinal).map_err(failed("the device does not open"))?;
        // SAFETY: of the two streams below, the device's memory is allocated, copied and freed on the first alone, and `aside` and `wait` order the other.
        // Where work fails, memory may be freed while the other is at it; nothing is allocated after that.
        unsafe { context.disable_event_tracking() };
        let [stream, beside] =
            [context.new_stream(), first_in_line(&context)].map(|stream| stream.map_err(failed("the device gives no stream")));
        let (stream, beside) = (stream?, beside?);
        keep_freed_memory(&context)?;
        let (mut kernels, mut not_kept) = (HashMap::new(), None);
        // Units of warpgroup products are for architectures that have them alone.
        let wgmma = found.architecture.has_wgmma() && !options.without_wgmma;
        for unit in UNITS.iter().filter(|unit| wgmma || !unit.needs_wgmma) {
            let cubin = compiler.compile(&Source::from(unit), found.architecture)?;
            if let Origin::NotKept(reason) = cubin.origin {
                not_kept = Some(reason);
            }
            let module = context.load_module(Ptx::from_binary(cubin.bytes)).map_err(failed(unit.name))?;
            for &name in unit.kernels {
                let function = module.load_function(name).map_err(failed(name))?;
                kernels.insert(name, Kernel::new(&context, function).map_err(failed(name))?);
            }
        }
        let products = Mutex::new(Products::new(stream.clone(), &found.name, options.cache)?);
        Ok(Self {
            found,
            wgmma,
            kernels,
            products,
            uploads: Mutex::default(),
            not_kept,
            compiler_version: compiler.version(),
            connection: OnceLock::new(),
            pages: Arc::default(),
            under_way: Mutex::default(),
            beside,
            stream,
            context,
        })
    }

    /// Name, architecture and memory.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// Why something compiled could not be kept, if it could not: the next run compiles it again, which is worth a warning.
    pub fn not_kept(&self) -> Option<&str> {
        self.not_kept.as_deref()
    }

    /// Free memory and all memory of the device, in bytes.
    ///
    /// # Errors
    /// [`KernelError::Launch`].
    pub fn memory_bytes(&self) -> Result<(usize, usize), KernelError> {
        self.context.mem_get_info().map_err(launch_failed("the device does not say what memory it has"))
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// [`KernelError::Launch`] when some of it failed, or was given up.
    pub fn synchronize(&self) -> Done {
        self.stream.synchronize().map_err(launch_failed("work that was started before"))?;
        self.expect_connected()
    }

    /// Device, library of matrix products and compiler of kernels: where they are the same, and the choices of products too, so are the bits.
    pub fn kind(&self) -> String {
        let (major, minor) = self.compiler_version;
        format!("{}, cuBLASLt {}, NVRTC {major}.{minor}", self.found.name, self.products().version())
    }

    /// How products are computed that were asked for before, by this run or an earlier one.
    pub fn choices(&self) -> String {
        self.products().choices()
    }

    /// Computes products as `choices` of a device of the same [kind](Self::kind) say, and all others in the way that cuBLASLt proposes first;
    /// nothing is timed and nothing kept from now on, so devices that are given the same compute the same bits.
    pub fn follow(&self, choices: &str) {
        self.products().follow(choices);
    }

    fn products(&self) -> MutexGuard<'_, Products> {
        // A thread that panicked left at most a choice out.
        self.products.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until few enough things are aside that the stream takes more at once: in a call that waits for a stream with no room, nothing would be
    /// learnt of ranks that are gone.
    fn leave_room(&self, under_way: &mut VecDeque<Arc<CudaEvent>>) -> Done {
        while let Some(first) = under_way.front().filter(|_| under_way.len() >= ASIDE_MAX) {
            if first.try_is_complete().map_err(launch_failed("work beside the rest"))? {
                under_way.pop_front();
            } else {
                self.expect_connected()?;
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        Ok(())
    }

    /// Whether the stream has work under way.
    fn is_at_it(&self) -> Result<bool, KernelError> {
        // SAFETY: the stream lives.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(false),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(true),
            error => Err(launch_failed("work that was started before")(DriverError(error))),
        }
    }

    /// Whether what transfers write is what other ranks sent.
    fn expect_connected(&self) -> Done {
        match self.connection.get() {
            Some(connection) if connection.is_given_up() => {
                Err(KernelError::Launch("the way to the other ranks' devices was given up while some of it was under way".into()))
            }
            _ => Ok(()),
        }
    }

    /// Joins the devices of all ranks, each of which calls this with the same identifier and its rank and their number: waits for them, and
    /// asks `wait` meanwhile, whose error ends the wait.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] when they do not come to each other, or this device has been joined before; those of `wait`.
    pub fn join<E: From<KernelError>>(
        &self,
        nccl: Nccl,
        id: Id,
        place: (usize, usize),
        wait: impl Fn() -> Result<(), E>,
    ) -> Result<Arc<Connection>, E> {
        let connection = Arc::new(nccl.join(self.context.clone(), &id, place, wait)?);
        let again = |_| KernelError::Cuda("the device has been joined with others before".into());
        self.connection.set(connection.clone()).map_err(again)?;
        Ok(connection)
    }

    /// Starts a kernel. The context is this thread's.
    fn launch(&self, launch: &Launch, arguments: &[Argument], stream: &CudaStream) -> Done {
        let Some(kernel) = self.kernels.get(launch.kernel) else {
            let architecture = self.found.architecture;
            return Err(KernelError::Launch(format!("no kernel `{}` is loaded for {architecture}", launch.kernel)));
        };
        if !arguments.iter().map(Argument::size).eq(kernel.parameters.iter().copied()) {
            let wanted = &kernel.parameters;
            return Err(KernelError::Launch(format!("{}: parameters of {wanted:?} bytes are given {arguments:?}", launch.kernel)));
        }
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        let [x, y, z] = launch.grid;
        // SAFETY: function and stream live, and are of this context, which is this thread's (`run` and `aside` see to it); there is a pointer to a value of the right
        // size for each parameter, which the call copies. Addresses among them are of the device, or of memory that `host_memory.rs` keeps while
        // kernels may be at it: what else a kernel does, right or wrong, touches no memory of the host.
        let launched = unsafe {
            result::launch_kernel(
                kernel.function.cu_function(),
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared_bytes,
                stream.cu_stream(),
                &mut pointers,
            )
        };
        launched.map_err(launch_failed(launch.kernel))
    }
}

impl Launcher for Driver {
    type Memory = DriverMemory;
    type Recording = Recording;
    type Mark = Arc<CudaEvent>;

    fn allocate(&self, bytes: usize) -> Result<Self::Memory, KernelError> {
        // The driver gives no memory of no bytes; one stands for them.
        let memory = self.stream.alloc_zeros::<u8>(bytes.max(1)).map_err(|error| no_memory(error, bytes))?;
        Ok(DriverMemory(Place::Device(memory)))
    }

    fn allocate_unwritten(&self, bytes: usize) -> Result<Self::Memory, KernelError> {
        // SAFETY: who asks for it knows that it may hold anything, and any bytes are numbers.
        let memory = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(|error| no_memory(error, bytes))?;
        Ok(DriverMemory(Place::Device(memory)))
    }

    fn allocate_on_host(&self, bytes: usize) -> Result<Self::Memory, KernelError> {
        let refused = |error| no_memory(error, bytes);
        self.context.bind_to_thread().map_err(refused)?;
        Ok(DriverMemory(Place::Host(HostMemory::new(&self.pages, &self.stream, bytes.max(1)).map_err(refused)?)))
    }

    fn address(&self, memory: &Self::Memory) -> u64 {
        match &memory.0 {
            // What comes with the address records an event, of which there are none.
            Place::Device(memory) => memory.device_ptr(&self.stream).0,
            Place::Host(memory) => memory.address(),
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Done {
        let refused = launch_failed("a copy to the device");
        self.context.bind_to_thread().map_err(&refused)?;
        // A thread that panicked left at most a slot out.
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.copy(&self.stream, address, bytes).map_err(refused)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Done {
        let refused = launch_failed("a copy from the device");
        self.context.bind_to_thread().map_err(&refused)?;
        // SAFETY: the stream lives, and the bytes until the copy has ended, which is waited for. The address is the device's: what is done there,
        // right or wrong, touches no memory of the host.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) };
        let waited = self.synchronize();
        copied.map_err(refused).and(waited)
    }

    fn told(&self, mark: u64, bytes: &mut [u8]) -> Done {
        self.context.bind_to_thread().map_err(launch_failed("what the device has to tell"))?;
        let not_there = || KernelError::Launch(format!("{mark:#x} is not where the device could tell something"));
        loop {
            // Asked first: what ends in between has left its mark when that is looked at.
            let is_at_it = self.is_at_it()?;
            if self.pages.take(mark, bytes).ok_or_else(not_there)? {
                return self.expect_connected();
            }
            self.expect_connected()?;
            if !is_at_it {
                return Err(KernelError::nothing_told());
            }
            std::thread::sleep(GLANCE);
        }
    }

    fn run(&self, command: &Command) -> Done {
        self.context.bind_to_thread().map_err(launch_failed("work that was started before"))?;
        let stream = self.stream.cu_stream();
        match command {
            Command::Launch(launch, arguments) => self.launch(launch, arguments, &self.stream),
            Command::Multiply(product) => self.products().multiply(product),
            &Command::Copy { from, to, bytes } => {
                // SAFETY: the stream lives. Addresses are the device's: what is done there, right or wrong, touches no memory of the host.
                let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, stream) };
                copied.map_err(launch_failed("a copy on the device"))
            }
            &Command::Clear { address, bytes } => {
                // SAFETY: as above.
                let cleared = unsafe { result::memset_d8_async(address, 0, bytes, stream) };
                cleared.map_err(launch_failed("clearing memory"))
            }
        }
    }

    fn record(&self, commands: &[Command]) -> Result<Recording, KernelError> {
        let refused = launch_failed("a list of commands");
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(&refused)?;
        let listed = commands.iter().try_for_each(|command| self.run(command));
        // The stream is to leave its recording whatever has happened.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        listed?;
        let empty = || KernelError::Launch("a list of commands: the driver recorded none".into());
        graph.map_err(&refused)?.map(Recording).ok_or_else(empty)
    }

    fn replay(&self, recording: &Recording) -> Done {
        recording.0.launch().map_err(launch_failed("a recorded list of commands"))
    }

    fn aside(&self, work: &[Aside]) -> Result<Arc<CudaEvent>, KernelError> {
        let refused = launch_failed("work beside the rest");
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        self.leave_room(&mut under_way)?;
        let before = self.stream.record_event(None).map_err(&refused)?;
        self.beside.wait(&before).map_err(&refused)?;
        for one in work {
            match one {
                Aside::Run(Command::Launch(launch, arguments)) => self.launch(launch, arguments, &self.beside)?,
                Aside::Run(_) => return Err(KernelError::Launch("work beside the rest: kernels and transfers alone".into())),
                Aside::Exchange(transfers) => {
                    let alone = || KernelError::Launch("numbers that go to other ranks, whose devices this one was not joined with".into());
                    self.connection.get().ok_or_else(alone)?.start(transfers, self.beside.cu_stream().cast())?;
                }
            }
        }
        let end = Arc::new(self.beside.record_event(None).map_err(&refused)?);
        under_way.push_back(end.clone());
        Ok(end)
    }

    fn wait(&self, mark: Arc<CudaEvent>) -> Done {
        self.stream.wait(&mark).map_err(launch_failed("work beside the rest"))
    }

    fn has_wgmma(&self) -> bool {
        self.wgmma
    }

    fn multiprocessors(&self) -> usize {
        self.found.multiprocessors
    }

    fn tensor_map(&self, matrix: &MatrixBox) -> Result<TensorMap, KernelError> {
        let too_large = |_| KernelError::Value { kernel: "tensor map", argument: "box_rows", wanted: "at most 256" };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // The dimension whose elements lie side by side comes first; its stride goes without saying.
        let sizes = [matrix.columns as u64, matrix.rows as u64];
        let strides_bytes = [matrix.row_bytes as u64];
        let box_sizes = [BOX_COLUMNS, u32::try_from(matrix.box_rows).map_err(too_large)?];
        let steps = [1, 1];
        // SAFETY: all arrays live, with two elements for each of the two dimensions, one for the strides; the call writes the map. The address
        // is the device's, and not read.
        let encoded = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                2,
                matrix.address as *mut c_void,
                sizes.as_ptr(),
                strides_bytes.as_ptr(),
                box_sizes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                // Zeros.
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        encoded.result().map_err(launch_failed(&format!("a map of {matrix:?}")))?;
        Ok(TensorMap(map.opaque))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // What goes to other ranks is to arrive before the connection is closed, unless it never will.
        if self.connection.get().is_some_and(|connection| !connection.is_given_up()) {
            let _ = self.beside.synchronize();
        }
    }
}

impl Kernel {
    fn new(context: &CudaContext, function: CudaFunction) -> Result<Self, DriverError> {
        // All the shared memory that a block may have; without this, 48 KiB.
        let largest = context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let rest = largest - function.shared_size_bytes()?;
        function.set_attribute(sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, rest)?;
        let mut parameters = Vec::new();
        loop {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function lives; the call writes two integers.
            match unsafe { sys::cuFuncGetParamInfo(function.cu_function(), parameters.len(), &mut offset, &mut size) } {
                sys::CUresult::CUDA_SUCCESS => parameters.push(size),
                // There are no more.
                sys::CUresult::CUDA_ERROR_INVALID_VALUE => return Ok(Self { function, parameters }),
                error => return Err(DriverError(error)),
            }
        }
    }
}

impl Argument {
    fn size(&self) -> usize {
        match self {
            Self::Pointer(value) | Self::U64(value) => size_of_val(value),
            Self::U32(value) => size_of_val(value),
            Self::F32(value) => size_of_val(value),
            Self::TensorMap(value) => size_of_val(value),
        }
    }

    /// Where the value lies on the host; only read through, whatever the type says.
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::Pointer(value) | Self::U64(value) => (&raw const *value).cast_mut().cast(),
            Self::U32(value) => (&raw const *value).cast_mut().cast(),
            Self::F32(value) => (&raw const *value).cast_mut().cast(),
            Self::TensorMap(value) => (&raw const *value).cast_mut().cast(),
        }
    }
}

/// A stream whose blocks run before others that wait: they are few, and other ranks wait for them.
fn first_in_line(context: &Arc<CudaContext>) -> Result<Arc<CudaStream>, DriverError> {
    context.bind_to_thread()?;
    let (_least, most) = result::stream::get_priority_range()?;
    context.new_stream_with_priority(most)
}

/// Lets the device's pool keep freed memory for the next allocation, where it would give it back at every wait.
fn keep_freed_memory(context: &CudaContext) -> Done {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut threshold_bytes = u64::MAX;
    // SAFETY: the device is the context's, the pool its default one, and the attribute an integer of 64 bits.
    let set = unsafe {
        result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold_bytes).cast())
        })
    };
    set.map_err(failed("the device's pool of memory cannot be set"))
}

fn no_device(error: DriverError) -> KernelError {
    match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            KernelError::Cuda("the NVIDIA driver sees no CUDA device: does nvidia-smi list one, and is CUDA_VISIBLE_DEVICES right?".into())
        }
        _ => failed("the NVIDIA driver does not start (does nvidia-smi work?)")(error),
    }
}

/// A device that cannot be had, with what the driver says.
fn failed(what: &str) -> impl Fn(DriverError) -> KernelError {
    move |error| KernelError::Cuda(format!("{what}: {}", said(error)))
}

/// Work that failed, with what the driver says.
pub(super) fn launch_failed(what: &str) -> impl Fn(DriverError) -> KernelError {
    move |error| KernelError::Launch(format!("{what}: {}", said(error)))
}

/// Memory that the device has not, or the reason why it gives none.
pub(super) fn no_memory(error: DriverError, bytes: usize) -> KernelError {
    match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => KernelError::Memory { bytes },
        _ => launch_failed("no memory is given")(error),
    }
}

fn said(error: DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    format!("{:?}: {text}", error.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_where_they_lie() {
        let arguments = [Argument::Pointer(1 << 40), Argument::U32(7), Argument::U64(u64::MAX), Argument::F32(0.5)];
        assert_eq!(arguments.each_ref().map(Argument::size), [8, 4, 8, 4]);
        let bytes = |argument: &Argument| {
            // SAFETY: the argument lives, and its value has as many bytes.
            unsafe { std::slice::from_raw_parts(argument.pointer().cast::<u8>(), argument.size()) }.to_vec()
        };
        assert_eq!(bytes(&arguments[0]), (1_u64 << 40).to_le_bytes());
        assert_eq!(bytes(&arguments[1]), 7_u32.to_le_bytes());
        assert_eq!(bytes(&arguments[2]), u64::MAX.to_le_bytes());
        assert_eq!(bytes(&arguments[3]), 0.5_f32.to_le_bytes());
        let map = Argument::TensorMap(TensorMap(std::array::from_fn(|at| at as u64 + 1)));
        assert_eq!(bytes(&map), (1..=16_u64).flat_map(u64::to_le_bytes).collect::<Vec<_>>());
    }

    /// On a machine with a device, too: it is found or refused in one line, and nothing panics.
    #[test]
    fn a_device_is_found_or_refused_in_one_line() {
        match find(0) {
            Ok(found) => assert!(found.memory_bytes > 0 && !found.name.is_empty(), "{found:?}"),
            Err(error) => {
                let line = error.to_string();
                assert!(!line.contains('\n') && line.contains(": ") && line.contains("driver"), "{line}");
                assert_eq!(Driver::open(&Options::default()).unwrap_err(), error);
            }
        }
        assert!(find(usize::MAX).is_err());
    }
}
