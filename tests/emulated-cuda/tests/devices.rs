//! Two devices. The driver asks the environment how many there are, so that this is a process of its own.

mod driver;

use std::ffi::{CString, c_void};

use driver::*;

#[test]
fn kernels_reach_the_memory_of_their_own_device() {
    // SAFETY: nothing else runs in this process yet.
    unsafe { std::env::set_var("EMULATED_CUDA_DEVICES", "2") };
    let text = CString::new(
        ".visible .entry f(.param .u64 p)\n{\n.reg .b64 %d<2>; .reg .b32 %r<2>;\n\
         ld.param.u64 %d1, [p]; mov.u32 %r1, 7; st.global.u32 [%d1], %r1; ret;\n}\n",
    )
    .unwrap();
    let (mut module, mut function, mut count, mut contexts, mut places) = (0, 0, 0, [0; 2], [0; 2]);
    unsafe {
        assert_eq!(cuDeviceGetCount(&mut count), 0);
        assert_eq!(count, 2);
        for device in 0..2 {
            assert_eq!(cuDevicePrimaryCtxRetain(&mut contexts[device], device as i32), 0);
            assert_eq!(cuCtxSetCurrent(contexts[device]), 0);
            assert_eq!(cuMemAlloc_v2(&mut places[device], 64), 0);
        }
        assert_eq!(cuCtxSetCurrent(contexts[1] + 1), 1, "there is no third");
        assert_eq!(cuModuleLoadData(&mut module, text.as_ptr().cast()), 0);
        assert_eq!(cuModuleGetFunction(&mut function, module, c"f".as_ptr()), 0);
        let launch = |place: &usize| {
            let params = [std::ptr::from_ref(place).cast::<c_void>()];
            cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, 7, params.as_ptr(), std::ptr::null())
        };
        assert_eq!(launch(&places[1]), 0);
        assert_eq!(cuMemcpyDtoDAsync_v2(places[0], places[1], 64, 7), 0, "copies go from one to the other");
        assert_eq!(launch(&places[0]), 700);
    }
}
