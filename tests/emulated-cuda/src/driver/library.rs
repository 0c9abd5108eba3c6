//! The functions of libcublasLt that products are asked by, by NVIDIA's "cuBLAS" (chapter 3, "Using the cuBLASLt API"). The
//! library is the same file by another name: its products are works of this driver's streams.
//!
//! Matrices are stored by columns; operands are of one type, sums in `f32`, of operands that are rounded to TF32 where
//! the type of sums says so. What is asked wrongly is refused, as far as the manual says what is wrong.

use std::ffi::{c_int, c_void};
use std::fmt;

use half::{bf16, f16};

use super::{SUCCESS, Status, Work, set, state};
use crate::machine::Ranges;

const NOT_INITIALIZED: Status = 1;
const WRONG_VALUE: Status = 7;
const FAILED: Status = 13;
const NOT_SUPPORTED: Status = 15;

/// Types of `cudaDataType_t`.
const F32: c_int = 0;
const F16: c_int = 2;
const BF16: c_int = 14;

/// Types of `cublasComputeType_t`.
const SUMS_F32: c_int = 68;
const SUMS_TF32: c_int = 77;

const HANDLE: usize = 0xb1a5;

/// `cublasLtMatmulDesc_t`.
#[derive(Clone, Debug)]
struct Description {
    sums: c_int,
    transposed: [bool; 2],
    epilogue: c_int,
    bias: usize,
}

/// `cublasLtMatrixLayout_t`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Layout {
    of: c_int,
    rows: u64,
    columns: u64,
    between: i64,
    batch: i32,
    stride: i64,
}

impl Layout {
    fn bytes(&self) -> usize {
        if self.of == F32 { 4 } else { 2 }
    }

    /// Numbers from the first to the last.
    fn span(&self) -> usize {
        let last = (self.columns as usize - 1) * self.between as usize + self.rows as usize;
        (self.batch as usize - 1) * self.stride as usize + last
    }

    fn is_right(&self) -> bool {
        self.rows > 0 && self.columns > 0 && self.between >= self.rows as i64 && self.batch > 0
    }
}

/// `cublasLtMatmulPreference_t`.
#[derive(Clone, Debug, Default)]
struct Preference {
    workspace: u64,
    aligned: [u32; 4],
}

/// What `cublasLtMatmulAlgo_t` holds here: its alignments, and the bytes of its workspace.
#[repr(C)]
#[derive(Clone, Copy)]
struct Kernel {
    known: u64,
    aligned: [u32; 4],
    workspace: u64,
    rest: [u64; 4],
}

const KNOWN: u64 = 0x6d67_6e74;

#[repr(C)]
struct Found {
    kernel: Kernel,
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

/// A product as it is asked of a stream.
pub struct Product {
    description: Description,
    layouts: [Layout; 3],
    places: [usize; 3],
    /// Whether the product is added to what is there.
    is_added: bool,
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [.., out] = self.layouts;
        write!(f, "cublasLtMatmul {} x {} x {} ({})", out.rows, out.columns, self.inner(), out.batch)
    }
}

impl Product {
    fn inner(&self) -> usize {
        let first = self.layouts[0];
        (if self.description.transposed[0] { first.rows } else { first.columns }) as usize
    }

    pub fn flops(&self) -> u64 {
        let out = self.layouts[2];
        2 * out.rows * out.columns * self.inner() as u64 * out.batch as u64
    }

    /// Checks every address, and computes.
    pub fn run(&self, ranges: &Ranges) -> Result<(), String> {
        for (layout, at) in self.layouts.iter().zip(self.places) {
            reach(ranges, at, layout.span() * layout.bytes())?;
        }
        let [first, second, out] = self.layouts;
        let (rows, columns, inner) = (out.rows as usize, out.columns as usize, self.inner());
        let has_bias = self.description.epilogue & 4 != 0;
        let bias = Layout { columns: 1, between: out.rows as i64, batch: 1, ..out };
        if has_bias {
            reach(ranges, self.description.bias, bias.span() * bias.bytes())?;
        }
        for batch in 0..out.batch as usize {
            let of = |layout: Layout, at: usize| at + batch * layout.stride as usize * layout.bytes();
            // Rows of the first and columns of the second, each without gaps.
            let a = self.gathered(first, of(first, self.places[0]), !self.description.transposed[0]);
            let b = self.gathered(second, of(second, self.places[1]), self.description.transposed[1]);
            for column in 0..columns {
                let b = &b[column * inner..][..inner];
                for row in 0..rows {
                    let a = &a[row * inner..][..inner];
                    let mut sum = dot(a, b);
                    if has_bias {
                        sum += read(bias, self.description.bias, row);
                    }
                    let at = column * out.between as usize + row;
                    if self.is_added {
                        sum += read(out, of(out, self.places[2]), at);
                    }
                    if self.description.epilogue & 32 != 0 {
                        sum = gelu(sum);
                    }
                    write(out, of(out, self.places[2]), at, sum);
                }
            }
        }
        Ok(())
    }

    /// A matrix column by column, or row by row, in `f32`, rounded as products round it.
    fn gathered(&self, layout: Layout, at: usize, by_rows: bool) -> Vec<f32> {
        let (rows, columns, between) =
            (layout.rows as usize, layout.columns as usize, layout.between as usize);
        let round = |x: f32| if self.description.sums == SUMS_TF32 { tf32(x) } else { x };
        let number = |row: usize, column: usize| round(read(layout, at, column * between + row));
        if by_rows {
            (0..rows)
                .flat_map(|row| (0..columns).map(move |column| (row, column)))
                .map(|(r, c)| number(r, c))
                .collect()
        } else {
            (0..columns)
                .flat_map(|column| (0..rows).map(move |row| (row, column)))
                .map(|(r, c)| number(r, c))
                .collect()
        }
    }
}

/// Eight sums side by side, as a vector of the host holds.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks(8), b.chunks(8));
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    (0.5 * x * (1.0 + inner.tanh())) as f32
}

/// To nearest, ten bits of fraction.
fn tf32(x: f32) -> f32 {
    if x.is_finite() { f32::from_bits(x.to_bits().wrapping_add(0x1000) & !0x1fff) } else { x }
}

fn reach(ranges: &Ranges, at: usize, bytes: usize) -> Result<(), String> {
    let i = ranges.partition_point(|range| range.0 <= at);
    match i.checked_sub(1).map(|i| ranges[i]) {
        Some((_, end)) if at + bytes <= end => Ok(()),
        _ => Err(format!("{bytes} bytes at {at:#x}, which no allocation has")),
    }
}

fn read(layout: Layout, at: usize, index: usize) -> f32 {
    let at = at + index * layout.bytes();
    // SAFETY: within what `reach` has checked, and aligned as `right` has.
    unsafe {
        match layout.of {
            F32 => *(at as *const f32),
            F16 => (*(at as *const f16)).to_f32(),
            _ => (*(at as *const bf16)).to_f32(),
        }
    }
}

fn write(layout: Layout, at: usize, index: usize, value: f32) {
    let at = at + index * layout.bytes();
    // SAFETY: as above.
    unsafe {
        match layout.of {
            F32 => *(at as *mut f32) = value,
            F16 => *(at as *mut f16) = f16::from_f32(value),
            _ => *(at as *mut bf16) = bf16::from_f32(value),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(handle: *mut usize) -> Status {
    unsafe { set(handle, HANDLE) }
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(_handle: usize) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(description: *mut usize, sums: c_int, scale: c_int) -> Status {
    if ![SUMS_F32, SUMS_TF32].contains(&sums) || scale != F32 {
        return NOT_SUPPORTED;
    }
    let new = Description { sums, transposed: [false; 2], epilogue: 1, bias: 0 };
    unsafe { set(description, Box::into_raw(Box::new(new)) as usize) }
}

/// A value of an attribute's size.
unsafe fn value<T: Copy>(from: *const c_void, bytes: usize) -> Option<T> {
    (bytes == size_of::<T>() && !from.is_null()).then(|| unsafe { from.cast::<T>().read_unaligned() })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: *mut Description,
    what: c_int,
    from: *const c_void,
    bytes: usize,
) -> Status {
    let description = unsafe { &mut *description };
    let is_set = match what {
        3 | 4 => unsafe { value::<i32>(from, bytes) }
            .filter(|operation| [0, 1].contains(operation))
            .map(|operation| description.transposed[what as usize - 3] = operation == 1),
        7 => unsafe { value::<i32>(from, bytes) }
            .filter(|epilogue| [1, 4, 36].contains(epilogue))
            .map(|epilogue| description.epilogue = epilogue),
        8 => unsafe { value::<usize>(from, bytes) }.map(|at| description.bias = at),
        _ => None,
    };
    if is_set.is_some() { SUCCESS } else { WRONG_VALUE }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescDestroy(description: *mut Description) -> Status {
    drop(unsafe { Box::from_raw(description) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut usize,
    of: c_int,
    rows: u64,
    columns: u64,
    between: i64,
) -> Status {
    if ![F32, F16, BF16].contains(&of) {
        return NOT_SUPPORTED;
    }
    let new = Layout { of, rows, columns, between, batch: 1, stride: 0 };
    unsafe { set(layout, Box::into_raw(Box::new(new)) as usize) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: *mut Layout,
    what: c_int,
    from: *const c_void,
    bytes: usize,
) -> Status {
    let layout = unsafe { &mut *layout };
    let is_set = match what {
        5 => unsafe { value::<i32>(from, bytes) }.map(|batch| layout.batch = batch),
        6 => unsafe { value::<i64>(from, bytes) }.map(|stride| layout.stride = stride),
        _ => None,
    };
    if is_set.is_some() { SUCCESS } else { WRONG_VALUE }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut Layout) -> Status {
    drop(unsafe { Box::from_raw(layout) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut usize) -> Status {
    let new = Preference { workspace: 0, aligned: [256; 4] };
    unsafe { set(preference, Box::into_raw(Box::new(new)) as usize) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: *mut Preference,
    what: c_int,
    from: *const c_void,
    bytes: usize,
) -> Status {
    let preference = unsafe { &mut *preference };
    let is_set = match what {
        1 => unsafe { value::<u64>(from, bytes) }.map(|most| preference.workspace = most),
        // Parts of a split sum are added in f32 here in any case.
        3 => unsafe { value::<u32>(from, bytes) }.filter(|schemes| *schemes <= 7).map(drop),
        5..=8 => unsafe { value::<u32>(from, bytes) }
            .filter(|aligned| aligned.is_power_of_two())
            .map(|aligned| preference.aligned[what as usize - 5] = aligned),
        _ => None,
    };
    if is_set.is_some() { SUCCESS } else { WRONG_VALUE }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut Preference) -> Status {
    drop(unsafe { Box::from_raw(preference) });
    SUCCESS
}

/// Whether sizes and types belong together.
fn right(description: &Description, [first, second, before, out]: [Layout; 4]) -> Status {
    let turned = |layout: Layout, is: bool| {
        if is { (layout.columns, layout.rows) } else { (layout.rows, layout.columns) }
    };
    let (rows, inner) = turned(first, description.transposed[0]);
    let (same, columns) = turned(second, description.transposed[1]);
    let all = [first, second, before, out];
    let is_whole = all.iter().all(|layout| layout.is_right() && layout.batch == out.batch);
    if !is_whole || before != out || same != inner || (rows, columns) != (out.rows, out.columns) {
        return WRONG_VALUE;
    }
    let operands_fit = first.of == second.of && (first.of == F32 || description.sums == SUMS_F32);
    // Results are in f32 or of the operands' type; a bias is for one product alone.
    let result_fits = out.of == F32 || out.of == first.of;
    if operands_fit && result_fits && (description.epilogue == 1 || out.batch == 1) {
        SUCCESS
    } else {
        NOT_SUPPORTED
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: usize,
    description: *const Description,
    first: *const Layout,
    second: *const Layout,
    before: *const Layout,
    out: *const Layout,
    preference: *const Preference,
    asked: c_int,
    found: *mut Found,
    count: *mut c_int,
) -> Status {
    if handle != HANDLE {
        return NOT_INITIALIZED;
    }
    let (description, preference) = unsafe { (&*description, &*preference) };
    let layouts = [first, second, before, out].map(|layout| unsafe { *layout });
    let status = right(description, layouts);
    if status != SUCCESS || asked < 1 {
        return status;
    }
    // As NVIDIA's does.
    if description.epilogue & 4 != 0 && description.bias == 0 {
        return NOT_SUPPORTED;
    }
    // As kernels that split their sums do, some take a workspace.
    let out = layouts[3];
    let workspace = if out.columns < 512 { preference.workspace.min(1 << 20) } else { 0 };
    let kernel = Kernel { known: KNOWN, aligned: preference.aligned, workspace, rest: [0; 4] };
    let result =
        Found { kernel, workspace: workspace as usize, state: SUCCESS, waves: 1.0, reserved: [0; 4] };
    unsafe {
        found.write(result);
        set(count, 1)
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
    handle: usize,
    description: *const Description,
    alpha: *const f32,
    first: usize,
    of_first: *const Layout,
    second: usize,
    of_second: *const Layout,
    beta: *const f32,
    before: usize,
    of_before: *const Layout,
    out: usize,
    of_out: *const Layout,
    kernel: *const Kernel,
    workspace: usize,
    workspace_bytes: usize,
    stream: usize,
) -> Status {
    if handle != HANDLE {
        return NOT_INITIALIZED;
    }
    let description = unsafe { &*description }.clone();
    let layouts = [of_first, of_second, of_before, of_out].map(|layout| unsafe { *layout });
    let (kernel, alpha, beta) = unsafe { (*kernel, *alpha, *beta) };
    let status = right(&description, layouts);
    if status != SUCCESS {
        return status;
    }
    let places = [first, second, before, out];
    let aligned = |(at, aligned): (&usize, u32)| at.is_multiple_of(aligned as usize);
    let fits = workspace_bytes as u64 >= kernel.workspace
        && (kernel.workspace == 0 || workspace.is_multiple_of(256));
    let is_known = kernel.known == KNOWN && alpha == 1.0 && [0.0, 1.0].contains(&beta) && before == out;
    if !is_known || !fits || !places.iter().zip(kernel.aligned).all(aligned) {
        return WRONG_VALUE;
    }
    let mut state = state();
    if kernel.workspace > 0 && !state.holds(workspace, workspace_bytes) {
        return WRONG_VALUE;
    }
    let [first, second, _, out] = layouts;
    let product = Product {
        description,
        layouts: [first, second, out],
        places: [places[0], places[1], places[3]],
        is_added: beta == 1.0,
    };
    state.count("cublasLtMatmul");
    match state.submit(stream, Work::Product(product)) {
        SUCCESS => SUCCESS,
        _ => FAILED,
    }
}
