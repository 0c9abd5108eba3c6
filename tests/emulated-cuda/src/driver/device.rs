//! What the device says of itself.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint};

use super::{INVALID_VALUE, MOST_DEVICES, SUCCESS, Status, capability, memory_limit, set, setting, state};

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The device of the thread's context.
pub fn current() -> usize {
    CURRENT.get()
}

fn count() -> usize {
    setting("EMULATED_CUDA_DEVICES", 1).clamp(1, MOST_DEVICES)
}

/// Contexts are devices by number.
const CONTEXTS: usize = 0x10;

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    unsafe { set(version, 13000) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Status {
    if !usize::try_from(ordinal).is_ok_and(|ordinal| ordinal < count()) {
        return 101;
    }
    unsafe { set(device, ordinal) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Status {
    unsafe { set(count, self::count() as c_int) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) -> Status {
    unsafe { text(name, len, &format!("emulated, capability {}", capability())) }
}

unsafe fn text(to: *mut c_char, len: c_int, text: &str) -> Status {
    let bytes = &text.as_bytes()[..text.len().min(len.max(1) as usize - 1)];
    // SAFETY: by the caller, `len` bytes are there.
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        to.cast::<u8>().add(bytes.len()).write(0);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetPCIBusId(name: *mut c_char, len: c_int, device: c_int) -> Status {
    unsafe { text(name, len, &format!("0000:0{device}:00.0")) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> Status {
    unsafe { set(uuid, [7 + device as u8; 16]) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> Status {
    unsafe { set(bytes, memory_limit()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    unsafe {
        set(free, memory_limit() - state().held[current()]);
        set(total, memory_limit())
    }
}

/// Shared memory that a block may take unless its function is allowed more.
pub const SHARED_BY_DEFAULT: usize = 48 << 10;

/// Cards of desks and the like, with less of everything ("CUDA C++ Programming Guide", technical specifications).
fn is_small() -> bool {
    matches!(capability(), 86 | 89 | 120..)
}

/// Shared memory that a block may be allowed.
pub fn most_shared() -> usize {
    match capability() {
        _ if is_small() => 99 << 10,
        90.. => 227 << 10,
        _ => 163 << 10,
    }
}

/// Whether a launch of so many blocks of so many threads is one.
pub fn takes(grid: [c_uint; 3], block: [c_uint; 3]) -> bool {
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    !grid.contains(&0)
        && grid[0] <= i32::MAX as c_uint
        && grid[1..].iter().all(|&blocks| blocks <= 65535)
        && (1..=1024).contains(&threads)
        && block[2] <= 64
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> Status {
    let hopper = capability() >= 90;
    let number = match attribute {
        1 => 1024,       // threads a block
        2 | 3 => 1024,   // its width and height
        4 => 64,         // its depth
        5 => i32::MAX,   // blocks along x
        6 | 7 => 65535,  // along y and z
        8 => 48 << 10,   // shared memory a block
        10 => 32,        // lanes a warp
        12 => 65536,     // registers a block
        13 => 1_980_000, // clock, kHz
        16 => {
            if hopper {
                132
            } else {
                108
            }
        } // multiprocessors
        36 => 2_619_000, // memory clock
        // Threads a multiprocessor.
        39 => {
            if is_small() {
                1536
            } else {
                2048
            }
        }
        75 => (capability() / 10) as c_int, // capability
        76 => (capability() % 10) as c_int,
        81 => most_shared() as c_int + 1024, // shared memory a multiprocessor
        97 => most_shared() as c_int,        // shared memory a block, at most
        115 => 0,                            // memory pools
        _ => 0,
    };
    unsafe { set(value, number) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) -> Status {
    unsafe { set(context, CONTEXTS + device as usize) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetCurrent(context: *mut usize) -> Status {
    unsafe { set(context, CONTEXTS + current()) }
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: usize) -> Status {
    let Some(device) = context.checked_sub(CONTEXTS).filter(|&device| device < count()) else {
        return INVALID_VALUE;
    };
    CURRENT.set(device);
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Status {
    unsafe {
        set(least, 0);
        set(greatest, 0)
    }
}
