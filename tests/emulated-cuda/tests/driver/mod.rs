//! The driver as its callers see it.
#![allow(dead_code, reason = "not every test calls all of it")]

use std::ffi::{c_char, c_int, c_uint, c_void};

use cuda as _;

unsafe extern "C" {
    pub fn cuDeviceGetCount(count: *mut c_int) -> c_int;
    pub fn cuDevicePrimaryCtxRetain(context: *mut usize, device: c_int) -> c_int;
    pub fn cuCtxSetCurrent(context: usize) -> c_int;
    pub fn cuMemAlloc_v2(at: *mut usize, bytes: usize) -> c_int;
    pub fn cuMemFree_v2(at: usize) -> c_int;
    pub fn cuMemcpyHtoDAsync_v2(to: usize, from: *const c_void, bytes: usize, stream: usize) -> c_int;
    pub fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: usize, bytes: usize, stream: usize) -> c_int;
    pub fn cuMemcpyDtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) -> c_int;
    pub fn cuModuleLoadData(module: *mut usize, image: *const c_void) -> c_int;
    pub fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) -> c_int;
    pub fn cuLaunchKernel(
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
        extra: *const *const c_void,
    ) -> c_int;
    pub fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) -> c_int;
    pub fn cuStreamSynchronize(stream: usize) -> c_int;
    pub fn cuStreamBeginCapture_v2(stream: usize, mode: c_int) -> c_int;
    pub fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> c_int;
    pub fn cuGraphInstantiateWithFlags(exec: *mut usize, graph: usize, flags: u64) -> c_int;
    pub fn cuGraphLaunch(exec: usize, stream: usize) -> c_int;
}
