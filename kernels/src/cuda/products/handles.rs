//! Calls of cuBLASLt, which must be open.

use super::choices::{Algorithm, alignment};
use super::columnar::Columnar;
use super::output_type;
use crate::KernelError;
use crate::cuda::launcher::Product;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Preference;

/// cuBLASLt itself.
#[derive(Debug)]
pub(super) struct Handle(sys::cublasLtHandle_t);

// SAFETY: NVIDIA allows a handle to be used by any thread; `Products` is behind a lock besides.
unsafe impl Send for Handle {}

impl Handle {
    pub(super) fn new() -> Result<Self, KernelError> {
        result::create_handle().map(Self).map_err(|error| KernelError::Cuda(format!("cuBLASLt does not start: {:?}", error.0)))
    }

    pub(super) fn version(&self) -> usize {
        // SAFETY: the library is open.
        unsafe { sys::cublasLtGetVersion() }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once. What the call answers changes nothing any more.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// A product as cuBLASLt describes it: what is computed, and three matrices.
pub(super) struct Problem {
    computed: Computed,
    a: Layout,
    b: Layout,
    output: Layout,
    addresses: [u64; 2],
}

impl Problem {
    pub(super) fn new(product: &Product) -> Result<Self, CublasError> {
        let operands = Columnar::operands(product);
        let [a, b] = operands;
        let bf16 = sys::cudaDataType::CUDA_R_16BF;
        let computed = Computed::new()?;
        computed.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, operation(a))?;
        computed.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, operation(b))?;
        if let Some(bias) = product.bias {
            computed.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS)?;
            computed.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias)?;
            computed.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, bf16)?;
        }
        Ok(Self {
            computed,
            a: Layout::new(bf16, a.rows, a.columns)?,
            b: Layout::new(bf16, b.rows, b.columns)?,
            output: Layout::new(output_type(product.output_kind), product.columns, product.rows)?,
            addresses: operands.map(|operand| operand.address),
        })
    }

    /// Ways to compute it, the likeliest to be fast first; there may be none.
    pub(super) fn propose(
        &self,
        handle: &Handle,
        product: &Product,
        workspace_bytes: usize,
        count: usize,
    ) -> Result<Vec<Algorithm>, CublasError> {
        let preference = Preferred::new()?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes as u64)?;
        let [a, b] = self.addresses.map(alignment);
        let output = alignment(product.output);
        // Parts of a sum are added as they are computed, in f32: by default, those of a bf16 output may be rounded one by one.
        let in_f32 = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        for (attribute, value) in [
            (Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, in_f32),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, output),
            (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, output),
        ] {
            preference.set(attribute, value)?;
        }
        let mut proposed = vec![MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); count];
        let mut found = 0;
        // SAFETY: all descriptions live; the call writes `found` results, at most as many as there is room for.
        unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                handle.0,
                self.computed.0,
                self.a.0,
                self.b.0,
                self.output.0,
                self.output.0,
                preference.0,
                count as i32,
                proposed.as_mut_ptr().cast(),
                &mut found,
            )
        }
        .result()?;
        let found = usize::try_from(found).unwrap_or_default().min(count);
        // SAFETY: the call wrote the first `found`.
        let results = proposed[..found].iter().map(|result| unsafe { result.assume_init_ref() });
        Ok(results.filter(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).map(|result| result.algo.data).collect())
    }

    /// Whether it can be computed in a way that was chosen for one like it.
    pub(super) fn takes(&self, handle: &Handle, algorithm: Algorithm, workspace_bytes: usize) -> bool {
        let algorithm = sys::cublasLtMatmulAlgo_t { data: algorithm };
        let mut needed = MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit();
        let (computed, output) = (self.computed.0, self.output.0);
        // SAFETY: all descriptions live; the call writes one result, and reads an algorithm of whatever bytes, which it is there to check.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(handle.0, computed, self.a.0, self.b.0, output, output, &algorithm, needed.as_mut_ptr())
        };
        // SAFETY: a call that succeeds wrote the result.
        status.result().is_ok() && unsafe { needed.assume_init_ref() }.workspaceSize <= workspace_bytes
    }

    /// Starts it on `stream`, with the output at `output` and memory besides as address and bytes.
    pub(super) fn start(
        &self,
        handle: &Handle,
        product: &Product,
        algorithm: Algorithm,
        output: u64,
        workspace: (u64, usize),
        stream: sys::cudaStream_t,
    ) -> Result<(), CublasError> {
        let algorithm = sys::cublasLtMatmulAlgo_t { data: algorithm };
        let (one, beta) = (1.0_f32, if product.add { 1.0_f32 } else { 0.0 });
        let [a, b] = self.addresses;
        // SAFETY: all descriptions live, and so does the stream; the factors are f32, as `Computed` says, and read by the call. Addresses
        // are of the device: what happens there, right or wrong, touches no memory of the host.
        unsafe {
            result::matmul(
                handle.0,
                self.computed.0,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                a as *const c_void,
                self.a.0,
                b as *const c_void,
                self.b.0,
                output as *const c_void,
                self.output.0,
                output as *mut c_void,
                self.output.0,
                &algorithm,
                workspace.0 as *mut c_void,
                workspace.1,
                stream,
            )
        }
    }
}

/// `cublasOperation_t`: as it lies, or transposed.
fn operation(matrix: Columnar) -> i32 {
    i32::from(matrix.transposed)
}

/// What is computed: products of f32 sums with f32 factors.
struct Computed(sys::cublasLtMatmulDesc_t);

impl Computed {
    fn new() -> Result<Self, CublasError> {
        result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F).map(Self)
    }

    /// `value` is of the type that NVIDIA documents for the attribute.
    fn set<T: Copy>(&self, attribute: Attribute, value: T) -> Result<(), CublasError> {
        // SAFETY: the description lives; the call copies the bytes of a value that lives.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
    }
}

impl Drop for Computed {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix, by columns and without gaps.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(kind: sys::cudaDataType, rows: usize, columns: usize) -> Result<Self, CublasError> {
        result::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What proposals must keep to.
struct Preferred(sys::cublasLtMatmulPreference_t);

impl Preferred {
    fn new() -> Result<Self, CublasError> {
        result::create_matmul_pref().map(Self)
    }

    /// `value` is of the type that NVIDIA documents for the attribute.
    fn set<T: Copy>(&self, attribute: Preference, value: T) -> Result<(), CublasError> {
        // SAFETY: the preference lives; the call copies the bytes of a value that lives.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
    }
}

impl Drop for Preferred {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
