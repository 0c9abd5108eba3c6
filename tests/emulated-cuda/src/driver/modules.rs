//! Modules, kernels and their launches.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::{Allocation, INVALID_PTX, INVALID_VALUE, NOT_FOUND, SUCCESS, Status, Work, device, set, state};
use crate::lower::lower;
use crate::machine::{Kernel, Launch};
use crate::ptx;

type Loaded = HashMap<String, Arc<Kernel>>;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadData(module: *mut usize, image: *const c_char) -> Status {
    let text = unsafe { CStr::from_ptr(image) }.to_string_lossy();
    match load(&text) {
        Ok(loaded) => {
            keep(&loaded, &text);
            state().kernels.extend(loaded.values().cloned());
            unsafe { set(module, Box::into_raw(Box::new(loaded)) as usize) }
        }
        Err(why) => {
            eprintln!("emulated CUDA: {why}");
            if let Ok(path) = std::env::var("EMULATED_CUDA_REFUSED") {
                let _ = std::fs::write(path, text.as_bytes());
            }
            INVALID_PTX
        }
    }
}

/// Leaves a module's text where it was asked for, by the name of its kernel, for other tools to look at.
fn keep(loaded: &Loaded, text: &str) {
    let Ok(folder) = std::env::var("EMULATED_CUDA_MODULES") else { return };
    for name in loaded.keys() {
        let path = std::path::Path::new(&folder).join(format!("{name}.ptx"));
        if let Err(error) = std::fs::write(&path, text) {
            eprintln!("emulated CUDA: {}: {error}", path.display());
        }
    }
}

fn load(text: &str) -> Result<Loaded, String> {
    let parsed = ptx::parse(text)?;
    let globals = parsed
        .globals
        .into_iter()
        .map(|(name, values)| {
            // In words, so that any access is aligned; there for as long as the process.
            let mut words = vec![0u128; values.len().div_ceil(16) + 1];
            for (i, byte) in values.iter().enumerate() {
                words[i / 16] |= u128::from(*byte) << (8 * (i % 16));
            }
            let bytes = words.len() * 16;
            let at = Box::leak(words.into_boxed_slice()).as_ptr() as usize;
            let mut state = state();
            let device = device::current();
            state.allocations.insert(at, Allocation { bytes, device });
            state.changed(device);
            (name, at as u64)
        })
        .collect();
    parsed.entries.iter().map(|entry| Ok((entry.name.clone(), Arc::new(lower(entry, &globals)?)))).collect()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) -> Status {
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    match unsafe { &*(module as *const Loaded) }.get(&*name) {
        Some(kernel) => unsafe { set(function, Box::into_raw(Box::new(kernel.clone())) as usize) },
        None => NOT_FOUND,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: usize,
    params: *const *const c_void,
    _extra: *const *const c_void,
) -> Status {
    let kernel = unsafe { &*(function as *const Arc<Kernel>) }.clone();
    let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let opted_in = OPTED_IN.lock().unwrap_or_else(PoisonError::into_inner).get(&function).copied();
    let most = opted_in.unwrap_or_else(|| device::SHARED_BY_DEFAULT.saturating_sub(kernel.shared_bytes));
    if !device::takes(grid, block) || shared as usize > most {
        return INVALID_VALUE;
    }
    let mut bytes = vec![0u8; kernel.param_bytes];
    for (i, &(at, size)) in kernel.params.iter().enumerate() {
        // SAFETY: as many pointers as the kernel has parameters, by the driver's contract.
        unsafe { bytes[at..at + size].as_mut_ptr().copy_from_nonoverlapping((*params.add(i)).cast(), size) };
    }
    let mut state = state();
    state.count("launches");
    let launch = Launch { kernel, grid, block, dynamic_shared: shared as usize, params: bytes };
    state.submit(stream, Work::Launch(launch))
}

/// Bytes of shared memory that launches of a function may ask for, beside its own, where that was said.
static OPTED_IN: LazyLock<Mutex<HashMap<usize, usize>>> = LazyLock::new(Mutex::default);

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> Status {
    const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
    if attribute == MAX_DYNAMIC_SHARED_SIZE_BYTES {
        let own = unsafe { &*(function as *const Arc<Kernel>) }.shared_bytes;
        let Some(bytes) = usize::try_from(value).ok().filter(|&bytes| bytes + own <= device::most_shared())
        else {
            return INVALID_VALUE;
        };
        OPTED_IN.lock().unwrap_or_else(PoisonError::into_inner).insert(function, bytes);
    }
    SUCCESS
}

/// What the encoder of tensor maps demands, by its page in the "CUDA Driver API"; the map itself serves no emulated kernel.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut [u64; 16],
    _kind: c_int,
    rank: c_uint,
    address: usize,
    dims: *const u64,
    strides: *const u64,
    boxes: *const c_uint,
    steps: *const c_uint,
    _interleave: c_int,
    _swizzle: c_int,
    _promotion: c_int,
    _fill: c_int,
) -> Status {
    let rank = rank as usize;
    let (dims, strides, boxes, steps) = unsafe {
        (
            std::slice::from_raw_parts(dims, rank),
            std::slice::from_raw_parts(strides, rank - 1),
            std::slice::from_raw_parts(boxes, rank),
            std::slice::from_raw_parts(steps, rank),
        )
    };
    state().count("tensor maps");
    let fits = (1..=5).contains(&rank)
        && is_mappable(address, dims, strides)
        && boxes.iter().all(|&n| n > 0 && n <= 256)
        && steps.iter().all(|&n| n > 0 && n <= 8);
    if !fits {
        state().count("tensor maps refused");
        return INVALID_VALUE;
    }
    unsafe { set(map, [0; 16]) }
}

/// The compiler asks for tables of the driver's own; there are none here.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetExportTable(table: *mut usize, _id: *const c_void) -> Status {
    unsafe { set(table, 0) };
    NOT_FOUND
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(status: c_int, name: *mut *const c_char) -> Status {
    let known: &CStr = match status {
        0 => c"CUDA_SUCCESS",
        1 => c"CUDA_ERROR_INVALID_VALUE",
        2 => c"CUDA_ERROR_OUT_OF_MEMORY",
        218 => c"CUDA_ERROR_INVALID_PTX",
        700 => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        716 => c"CUDA_ERROR_MISALIGNED_ADDRESS",
        719 => c"CUDA_ERROR_LAUNCH_FAILED",
        900 => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        901 => c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        _ => c"another error",
    };
    unsafe { set(name, known.as_ptr()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(status: c_int, text: *mut *const c_char) -> Status {
    unsafe { cuGetErrorName(status, text) }
}

/// What every tensor map demands of memory.
fn is_mappable(address: usize, dims: &[u64], strides: &[u64]) -> bool {
    address.is_multiple_of(16)
        && dims.iter().all(|&n| n > 0 && n <= 1 << 32)
        && strides.iter().all(|&n| n.is_multiple_of(16) && n < 1 << 40)
}

/// Maps for convolutions: as above, they serve no emulated kernel, and what asks for one is told whether it could have it.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeIm2col(
    map: *mut [u64; 16],
    _kind: c_int,
    rank: c_uint,
    address: usize,
    dims: *const u64,
    strides: *const u64,
    _lower: *const c_int,
    _upper: *const c_int,
    channels: c_uint,
    pixels: c_uint,
    _steps: *const c_uint,
    _interleave: c_int,
    _swizzle: c_int,
    _promotion: c_int,
    _fill: c_int,
) -> Status {
    let rank = rank as usize;
    let (dims, strides) =
        unsafe { (std::slice::from_raw_parts(dims, rank), std::slice::from_raw_parts(strides, rank - 1)) };
    state().count("tensor maps");
    let fits = (3..=5).contains(&rank)
        && is_mappable(address, dims, strides)
        && (1..=256).contains(&channels)
        && (1..=1024).contains(&pixels);
    if !fits {
        state().count("tensor maps refused");
        return INVALID_VALUE;
    }
    unsafe { set(map, [0; 16]) }
}
