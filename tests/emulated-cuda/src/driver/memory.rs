//! Memory and copies.

use std::ffi::c_int;

use super::{CAPTURE_UNSUPPORTED, INVALID_VALUE, SUCCESS, Status, Work, set, state};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(at: *mut usize, bytes: usize) -> Status {
    let mut state = state();
    state.count("allocations");
    if let Some(capture) = &mut state.capture {
        // Not stream-ordered, so unsafe in a capture of mode "global".
        capture.broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    match state.allocate(bytes) {
        Ok(address) => unsafe { set(at, address) },
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocAsync(at: *mut usize, bytes: usize, stream: usize) -> Status {
    let mut state = state();
    state.count("allocations");
    if let Some(capture) = &mut state.capture
        && capture.stream == stream
    {
        capture.works.push(Work::Memory);
    }
    match state.allocate(bytes) {
        Ok(address) => unsafe { set(at, address) },
        Err(status) => status,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(at: usize) -> Status {
    let mut state = state();
    if let Some(capture) = &mut state.capture {
        capture.broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    state.release(at)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(at: usize, stream: usize) -> Status {
    let mut state = state();
    if let Some(capture) = &mut state.capture
        && capture.stream == stream
    {
        capture.works.push(Work::Memory);
        return SUCCESS;
    }
    state.release(at)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAllocHost_v2(at: *mut usize, bytes: usize) -> Status {
    let mut state = state();
    if let Some(capture) = &mut state.capture {
        capture.broken = true;
        return CAPTURE_UNSUPPORTED;
    }
    let memory = vec![0u128; bytes.div_ceil(16).max(1)];
    unsafe { set(at, Box::leak(memory.into_boxed_slice()).as_mut_ptr() as usize) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(_at: usize) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) -> Status {
    let mut state = state();
    state.count("copies to the device");
    if state.capture.as_ref().is_some_and(|capture| capture.stream == stream) {
        state.count("copies to the device while capturing");
    }
    state.copy(stream, (to, true), (from, false), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) -> Status {
    let mut state = state();
    state.count("copies to the host");
    state.copy(stream, (to, false), (from, true), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) -> Status {
    let mut state = state();
    state.count("copies on the device");
    state.copy(stream, (to, true), (from, true), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: usize, value: u8, bytes: usize, stream: usize) -> Status {
    let mut state = state();
    if !state.holds(to, bytes) {
        return INVALID_VALUE;
    }
    state.submit(stream, Work::Fill { to, value, bytes })
}

/// `CUDA_MEMCPY2D`
#[repr(C)]
struct Copy2d {
    src_x: usize,
    src_y: usize,
    src_type: c_int,
    src_host: usize,
    src_device: usize,
    src_array: usize,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_type: c_int,
    dst_host: usize,
    dst_device: usize,
    dst_array: usize,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpy2DAsync_v2(copy: *const Copy2d, stream: usize) -> Status {
    let copy = unsafe { &*copy };
    let mut state = state();
    state.count("copies in two dimensions");
    let end =
        |kind: c_int, host: usize, device: usize| if kind == 1 { (host, false) } else { (device, true) };
    let from = end(copy.src_type, copy.src_host, copy.src_device);
    let to = end(copy.dst_type, copy.dst_host, copy.dst_device);
    for row in 0..copy.height {
        let at = |base: usize, x: usize, y: usize, pitch: usize| base + (y + row) * pitch + x;
        let from = (at(from.0, copy.src_x, copy.src_y, copy.src_pitch), from.1);
        let to = (at(to.0, copy.dst_x, copy.dst_y, copy.dst_pitch), to.1);
        let status = state.copy(stream, to, from, copy.width);
        if status != SUCCESS {
            return status;
        }
    }
    SUCCESS
}
