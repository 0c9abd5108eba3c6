//! Accesses beyond memory. A fault stays, as it does on a device, so that this is a process of its own.

mod driver;

use std::ffi::{CString, c_void};

use driver::*;

#[test]
fn a_store_beyond_an_allocation_is_a_fault_that_stays() {
    let text = CString::new(
        ".visible .entry f(.param .u64 p)\n{\n.reg .b64 %d<4>; .reg .b32 %r<3>;\n\
         ld.param.u64 %d1, [p]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.s64 %d3, %d1, %d2;\n\
         st.global.u32 [%d3], %r1; ret;\n}\n",
    )
    .unwrap();
    let (mut module, mut function, mut at) = (0, 0, 0);
    unsafe {
        assert_eq!(cuModuleLoadData(&mut module, text.as_ptr().cast()), 0);
        assert_eq!(cuModuleGetFunction(&mut function, module, c"f".as_ptr()), 0);
        assert_eq!(cuMemAlloc_v2(&mut at, 64), 0);
        let params = [(&raw const at).cast::<c_void>()];
        let launch = |threads| {
            cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, 7, params.as_ptr(), std::ptr::null())
        };
        let shaped = |grid: [u32; 3], block: [u32; 3], shared| {
            let [(x, y, z), (a, b, c)] = [grid, block].map(|[x, y, z]| (x, y, z));
            cuLaunchKernel(function, x, y, z, a, b, c, shared, 7, params.as_ptr(), std::ptr::null())
        };
        for (grid, block) in [
            ([1, 65536, 1], [1; 3]),
            ([1, 1, 65536], [1; 3]),
            ([1; 3], [1, 1, 65]),
            ([1; 3], [1025, 1, 1]),
            ([1; 3], [1 << 16, 1 << 16, 1]),
            ([0, 1, 1], [1; 3]),
        ] {
            assert_eq!(shaped(grid, block, 0), 1, "{grid:?} {block:?}");
        }
        // More than each kernel may take has to be asked for, and has an end.
        assert_eq!(shaped([1; 3], [1; 3], 48 << 10), 0);
        assert_eq!(shaped([1; 3], [1; 3], (48 << 10) + 1), 1);
        assert_eq!(cuFuncSetAttribute(function, 8, 300 << 10), 1);
        assert_eq!(cuFuncSetAttribute(function, 8, 100 << 10), 0);
        assert_eq!(shaped([1; 3], [1; 3], 100 << 10), 0);
        assert_eq!(launch(16), 0, "all of the allocation");
        assert_eq!(launch(17), 700, "one thread too many");
        assert_eq!(cuStreamSynchronize(7), 700);
    }
}
