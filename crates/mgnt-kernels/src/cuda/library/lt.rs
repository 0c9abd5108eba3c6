//! The library's own objects, each freed when it goes.

use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};

use burn::tensor::DType;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use crate::layout::{Layout, Matrix, Operand};

/// Bytes that a product may take beside its operands: what NVIDIA recommends for Hopper ("cuBLAS", 2.1.3).
const WORKSPACE: usize = 32 << 20;

/// What is done with a sum before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Then<T = ()> {
    /// Nothing.
    Nothing,
    /// What is there already is added.
    Added,
    /// A bias of the columns is added, of the result's type.
    Bias(T),
    /// The same, and the tanh gelu of it.
    Gelu(T),
}

impl<T> Then<T> {
    /// The bias, where there is one.
    pub fn bias(&self) -> Option<&T> {
        match self {
            Then::Nothing | Then::Added => None,
            Then::Bias(bias) | Then::Gelu(bias) => Some(bias),
        }
    }

    /// The same of another bias.
    pub fn map<U>(self, of: impl FnOnce(T) -> U) -> Then<U> {
        match self {
            Then::Nothing => Then::Nothing,
            Then::Added => Then::Added,
            Then::Bias(bias) => Then::Bias(of(bias)),
            Then::Gelu(bias) => Then::Gelu(of(bias)),
        }
    }
}

/// All that chooses a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Product {
    /// Sizes and places.
    pub layout: Layout,
    /// Type of both operands.
    pub of: DType,
    /// Type of the result.
    pub into: DType,
    /// What is done with sums.
    pub then: Then,
    /// Alignment of first, second and result, bytes.
    pub aligned: [u64; 3],
    /// Alignment of the bias, bytes.
    pub bias_aligned: u64,
}

/// A product's tensors, as handles or as addresses on the device.
#[derive(Debug, Clone)]
pub struct Places<T> {
    /// First operand.
    pub first: T,
    /// Second operand.
    pub second: T,
    /// Result.
    pub out: T,
    /// Bias, where there is one.
    pub bias: Option<T>,
    /// Workspace, where there is one.
    pub workspace: Option<T>,
}

impl<T> Places<T> {
    /// Each of them.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        [&self.first, &self.second, &self.out].into_iter().chain(&self.bias).chain(&self.workspace)
    }

    /// The same of something else.
    pub fn try_map<U, E>(self, mut of: impl FnMut(T) -> Result<U, E>) -> Result<Places<U>, E> {
        Ok(Places {
            first: of(self.first)?,
            second: of(self.second)?,
            out: of(self.out)?,
            bias: self.bias.map(&mut of).transpose()?,
            workspace: self.workspace.map(of).transpose()?,
        })
    }
}

/// The library on the current device.
#[derive(Debug)]
pub struct Handle(sys::cublasLtHandle_t);

impl Handle {
    /// Of the current context.
    pub fn new() -> Result<Self, CublasError> {
        result::create_handle().map(Self)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// A product whose kernel is chosen.
#[derive(Debug)]
pub struct Chosen {
    description: Description,
    first: Stored,
    second: Stored,
    out: Stored,
    kernel: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
    /// Of what is there already.
    share: f32,
}

impl Chosen {
    /// By the library's own judgement; `None` where it has no kernel for sizes, types or alignments.
    pub fn new(handle: &Handle, product: &Product) -> Result<Option<Self>, CublasError> {
        let Layout { first, second, out, batch } = product.layout;
        let description = Description::new(product)?;
        let [Some(of), Some(into)] = [product.of, product.into].map(data_type) else { return Ok(None) };
        let [first, second] = [first, second].map(|Operand { matrix, .. }| Stored::new(matrix, of, batch));
        let (first, second) = (first?, second?);
        let out = Stored::new(out, into, batch)?;
        let preference = Preference::new(product.aligned)?;
        // SAFETY: all objects are alive.
        let asked = unsafe {
            result::get_matmul_algo_heuristic(
                handle.0,
                description.0,
                first.0,
                second.0,
                out.0,
                out.0,
                preference.0,
            )
        };
        let found = match asked {
            Err(error) if has_no_kernel(error) => return Ok(None),
            found => found?,
        };
        let share = if product.then == Then::Added { 1.0 } else { 0.0 };
        let (kernel, workspace) = (found.algo, found.workspaceSize);
        Ok(Some(Self { description, first, second, out, kernel, workspace, share }))
    }

    /// Bytes that it takes beside its operands.
    pub fn workspace(&self) -> usize {
        self.workspace
    }

    /// Asks a stream for it.
    ///
    /// # Safety
    ///
    /// The places are of the sizes, types and alignments of the product; the workspace of as many bytes as it takes; and
    /// `stream` is one of the context of the handle.
    pub unsafe fn run(
        &self,
        handle: &Handle,
        places: &Places<u64>,
        stream: sys::cudaStream_t,
    ) -> Result<(), CublasError> {
        use sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        if let Some(bias) = places.bias {
            self.description.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let one = 1.0f32;
        let out = places.out as *mut c_void;
        // SAFETY: as the caller says; both factors are read before the call returns.
        unsafe {
            result::matmul(
                handle.0,
                self.description.0,
                from_ref(&one).cast(),
                from_ref(&self.share).cast(),
                places.first as *const c_void,
                self.first.0,
                places.second as *const c_void,
                self.second.0,
                out,
                self.out.0,
                out,
                self.out.0,
                &self.kernel,
                places.workspace.map_or(null_mut(), |at| at as *mut c_void),
                self.workspace,
                stream,
            )
        }
    }
}

/// What is computed.
#[derive(Debug)]
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(product: &Product) -> Result<Self, CublasError> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        use sys::cublasLtEpilogue_t::{CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS};
        use sys::cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_TRANSA,
            CUBLASLT_MATMUL_DESC_TRANSB,
        };
        let sums = if product.of == DType::F32 { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let description = Self(result::create_matmul_desc(sums, sys::cudaDataType_t::CUDA_R_32F)?);
        description.set(CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(product.layout.first.is_turned))?;
        description.set(CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(product.layout.second.is_turned))?;
        if product.then.bias().is_some() {
            // A kernel is chosen for some bias only where there is one, and for its alignment; its place is said when the product is
            // asked for.
            description.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &(product.bias_aligned as usize))?;
        }
        match product.then {
            Then::Nothing | Then::Added => {}
            Then::Bias(()) => description.set(CUBLASLT_MATMUL_DESC_EPILOGUE, &CUBLASLT_EPILOGUE_BIAS)?,
            Then::Gelu(()) => description.set(CUBLASLT_MATMUL_DESC_EPILOGUE, &CUBLASLT_EPILOGUE_GELU_BIAS)?,
        }
        Ok(description)
    }

    fn set<T>(&self, what: sys::cublasLtMatmulDescAttributes_t, to: &T) -> Result<(), CublasError> {
        // SAFETY: alive, and the value is copied.
        unsafe { result::set_matmul_desc_attribute(self.0, what, from_ref(to).cast(), size_of::<T>()) }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// How a matrix is stored.
#[derive(Debug)]
struct Stored(sys::cublasLtMatrixLayout_t);

impl Stored {
    fn new(matrix: Matrix, of: sys::cudaDataType_t, batch: usize) -> Result<Self, CublasError> {
        use sys::cublasLtMatrixLayoutAttribute_t::{
            CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
        };
        let Matrix { rows, columns, between, stride } = matrix;
        let stored = Self(result::create_matrix_layout(of, rows as u64, columns as u64, between as i64)?);
        if batch > 1 {
            let too_many = CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
            let batch = i32::try_from(batch).map_err(|_| too_many)?;
            stored.set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch)?;
            stored.set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &(stride as i64))?;
        }
        Ok(stored)
    }

    fn set<T>(&self, what: sys::cublasLtMatrixLayoutAttribute_t, to: &T) -> Result<(), CublasError> {
        // SAFETY: alive, and the value is copied.
        unsafe { result::set_matrix_layout_attribute(self.0, what, from_ref(to).cast(), size_of::<T>()) }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What kernels may ask for.
#[derive(Debug)]
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new([first, second, out]: [u64; 3]) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Preferred;
        let preference = Self(result::create_matmul_pref()?);
        preference.set(Preferred::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        // A long sum may be split, but its parts are added in `f32`: by default the library may add them in halves.
        let parts = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(Preferred::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &parts)?;
        for (what, aligned) in [
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, first),
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, second),
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out),
            (Preferred::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out),
        ] {
            preference.set(what, &(aligned as u32))?;
        }
        Ok(preference)
    }

    fn set<T>(&self, what: sys::cublasLtMatmulPreferenceAttributes_t, to: &T) -> Result<(), CublasError> {
        // SAFETY: alive, and the value is copied.
        unsafe { result::set_matmul_pref_attribute(self.0, what, from_ref(to).cast(), size_of::<T>()) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and freed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Whether this is what the library says of a product for which it has no kernel, or of a description that it does not take:
/// asked again, it says so again.
pub fn has_no_kernel(error: CublasError) -> bool {
    use sys::cublasStatus_t::{CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED};
    matches!(error.0, CUBLAS_STATUS_NOT_SUPPORTED | CUBLAS_STATUS_INVALID_VALUE)
}

/// Whether this is what the library says where it does not work with the driver or the card.
pub fn does_not_work(error: CublasError) -> bool {
    use sys::cublasStatus_t::{CUBLAS_STATUS_ARCH_MISMATCH, CUBLAS_STATUS_NOT_INITIALIZED};
    matches!(error.0, CUBLAS_STATUS_NOT_INITIALIZED | CUBLAS_STATUS_ARCH_MISMATCH)
}

fn data_type(dtype: DType) -> Option<sys::cudaDataType_t> {
    match dtype {
        DType::F32 => Some(sys::cudaDataType_t::CUDA_R_32F),
        DType::F16 => Some(sys::cudaDataType_t::CUDA_R_16F),
        DType::BF16 => Some(sys::cudaDataType_t::CUDA_R_16BF),
        _ => None,
    }
}
