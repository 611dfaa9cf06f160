//! Products of matrices by cuBLASLt. **Not run on a chip yet**: how a product is put to it is checked against its definition, the calls on a
//! stand-in for the library (`tests/driver.rs`).
//!
//! cuBLASLt counts by columns. A row-major matrix `[rows, columns]` is a column-major one `[columns, rows]`, so `output = left · right` is
//! asked for as `outputᵀ = rightᵀ · leftᵀ`, and nothing is transposed in memory.

mod choices;
mod columnar;
mod handles;

use super::driver::{launch_failed, no_memory};
use super::launcher::{OutputKind, Product};
use crate::KernelError;
use crate::operations::Done;
use choices::{Algorithm, Choices, Key};
use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result, sys as driver};
use handles::{Handle, Problem};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What cuBLASLt may use beside operands and output: NVIDIA's advice for Hopper.
pub const WORKSPACE_BYTES: usize = 32 << 20;
/// Ways to compute a product that are timed when it is first asked for.
const CANDIDATES: usize = 8;
/// Runs of each that are timed together.
const TIMED_RUNS: usize = 4;

/// cuBLASLt with its memory and what it has chosen before.
#[derive(Debug)]
pub(super) struct Products {
    handle: Handle,
    workspace: CudaSlice<u8>,
    choices: Choices,
    /// The first ways that were proposed for products of exactly these sizes, where no others are timed. Not by about these sizes: what came first
    /// would decide.
    first: Option<HashMap<Key, Algorithm>>,
    stream: Arc<CudaStream>,
}

impl Products {
    /// For the device of `stream`, whose name is `device`. Choices are kept in the folder `cache`, by device and version of cuBLASLt: a
    /// choice is the clock's, and the next run is to compute the same bits.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] when cuBLASLt, which must be open, does not start; [`KernelError::Memory`].
    pub(super) fn new(stream: Arc<CudaStream>, device: &str, cache: Option<&Path>) -> Result<Self, KernelError> {
        let handle = Handle::new()?;
        // SAFETY: nothing reads the workspace before cuBLASLt wrote to it.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.map_err(|error| no_memory(error, WORKSPACE_BYTES))?;
        let choices = Choices::open(cache.map(|folder| folder.join(choices::file_name(device, handle.version()))));
        Ok(Self { handle, workspace, choices, first: None, stream })
    }

    /// Version of cuBLASLt.
    pub(super) fn version(&self) -> usize {
        self.handle.version()
    }

    /// All choices, as their file has them.
    pub(super) fn choices(&self) -> String {
        self.choices.to_string()
    }

    /// Takes these choices, and chooses and keeps nothing any more.
    pub(super) fn follow(&mut self, choices: &str) {
        self.choices = Choices::read(choices);
        self.first = Some(HashMap::new());
    }

    /// Starts a product, after all work that was started before. The stream's context is this thread's.
    ///
    /// # Errors
    /// [`KernelError::Launch`] when cuBLASLt has no way to do it.
    pub(super) fn multiply(&mut self, product: &Product) -> Done {
        if product.rows == 0 || product.columns == 0 {
            return Ok(());
        }
        if product.inner == 0 {
            return self.empty_sum(product);
        }
        let problem = Problem::new(product).map_err(|error| failed("describing a product", error))?;
        let key = Key::of(product);
        let known = self.choices.get(&key).filter(|&algorithm| problem.takes(&self.handle, algorithm, WORKSPACE_BYTES));
        let exact = Key::exact(product);
        let known = known.or_else(|| self.first.as_ref()?.get(&exact).copied());
        let algorithm = match known {
            Some(algorithm) => algorithm,
            None => {
                let algorithm = self.choose(product, &problem)?;
                match &mut self.first {
                    Some(first) => drop(first.insert(exact, algorithm)),
                    None => self.choices.put(key, algorithm),
                }
                algorithm
            }
        };
        self.start(product, &problem, algorithm, product.output)
    }

    /// The fastest of what cuBLASLt proposes, or its first proposal where there is no memory to try them in.
    fn choose(&self, product: &Product, problem: &Problem) -> Result<Algorithm, KernelError> {
        let proposed = problem.propose(&self.handle, product, WORKSPACE_BYTES, CANDIDATES);
        let proposed = proposed.map_err(|error| failed(&format!("cuBLASLt has no way for {product:?}"), error))?;
        let [first, _, ..] = proposed[..] else {
            return proposed.first().copied().ok_or_else(|| KernelError::Launch(format!("cuBLASLt has no way for {product:?}")));
        };
        if self.first.is_some() {
            return Ok(first);
        }
        // What is added to must be added to once: trials write elsewhere.
        let trial = if product.add {
            // SAFETY: trials read what happens to be there, and nothing reads their sums.
            match unsafe { self.stream.alloc::<u8>(output_bytes(product)) } {
                Ok(memory) => Some(memory),
                Err(_) => return Ok(first),
            }
        } else {
            None
        };
        let output = trial.as_ref().map_or(product.output, |memory| memory.device_ptr(&self.stream).0);
        let mut fastest = (f32::INFINITY, first);
        for algorithm in proposed {
            let milliseconds = self.time(product, problem, algorithm, output)?;
            if milliseconds < fastest.0 {
                fastest = (milliseconds, algorithm);
            }
        }
        if let Some(memory) = trial {
            drop(memory);
            self.give_back()?;
        }
        Ok(fastest.1)
    }

    /// Has the device's pool give back what trials took: the run was reckoned without it.
    fn give_back(&self) -> Done {
        let context = self.stream.context();
        if !context.has_async_alloc() {
            return Ok(());
        }
        let given = self.stream.synchronize().and_then(|()| {
            // SAFETY: the device is the context's, and the pool its default one; memory in use stays.
            unsafe { result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| result::mem_pool::trim_to(pool, 0)) }
        });
        given.map_err(launch_failed("giving back memory"))
    }

    fn time(&self, product: &Product, problem: &Problem, algorithm: Algorithm, output: u64) -> Result<f32, KernelError> {
        let untimed = launch_failed("timing a product");
        let event = || self.stream.context().new_event(Some(driver::CUevent_flags::CU_EVENT_DEFAULT)).map_err(&untimed);
        let (begin, end) = (event()?, event()?);
        self.start(product, problem, algorithm, output)?;
        begin.record(&self.stream).map_err(&untimed)?;
        for _ in 0..TIMED_RUNS {
            self.start(product, problem, algorithm, output)?;
        }
        end.record(&self.stream).map_err(&untimed)?;
        begin.elapsed_ms(&end).map_err(&untimed)
    }

    fn start(&self, product: &Product, problem: &Problem, algorithm: Algorithm, output: u64) -> Done {
        let (workspace, _) = self.workspace.device_ptr(&self.stream);
        let stream = self.stream.cu_stream().cast();
        problem
            .start(&self.handle, product, algorithm, output, (workspace, WORKSPACE_BYTES), stream)
            .map_err(|error| failed(&format!("cuBLASLt does not start {product:?}"), error))
    }

    /// A sum of nothing is zero.
    fn empty_sum(&self, product: &Product) -> Done {
        if product.bias.is_some() {
            return Err(KernelError::Value { kernel: "product", argument: "inner", wanted: "at least 1 where there is a bias" });
        }
        if product.add {
            return Ok(());
        }
        // SAFETY: the output is memory of the device of that many bytes, as for every product.
        unsafe { result::memset_d8_async(product.output, 0, output_bytes(product), self.stream.cu_stream()) }
            .map_err(launch_failed("clearing a product"))
    }
}

fn output_bytes(product: &Product) -> usize {
    product.rows * product.columns * product.output_kind.bytes()
}

fn failed(what: &str, error: CublasError) -> KernelError {
    KernelError::Launch(format!("{what}: {:?}", error.0))
}

/// The type of a product's output, as cuBLASLt names it.
fn output_type(kind: OutputKind) -> sys::cudaDataType {
    match kind {
        OutputKind::Stored => sys::cudaDataType::CUDA_R_16BF,
        OutputKind::Exact => sys::cudaDataType::CUDA_R_32F,
    }
}
