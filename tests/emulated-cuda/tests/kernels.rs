//! Kernels in PTX of our own, through the functions that Burn's backend calls.

mod driver;

use std::ffi::{CString, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use driver::*;

const STREAM: usize = 7;
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The driver has one device, and a capture is everybody's.
fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(status: c_int) {
    assert_eq!(status, 0);
}

struct Buffer(usize, usize);

impl Buffer {
    fn new<T: Copy>(values: &[T]) -> Self {
        let (mut at, bytes) = (0, size_of_val(values));
        unsafe {
            check(cuMemAlloc_v2(&mut at, bytes));
            check(cuMemcpyHtoDAsync_v2(at, values.as_ptr().cast(), bytes, STREAM));
        }
        Self(at, bytes)
    }

    fn read<T: Copy + Default>(&self) -> Vec<T> {
        let mut values = vec![T::default(); self.1 / size_of::<T>()];
        unsafe { check(cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), self.0, self.1, STREAM)) };
        values
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        unsafe { check(cuMemFree_v2(self.0)) };
    }
}

/// A kernel `f` whose parameters are addresses.
fn kernel(params: usize, body: &str) -> usize {
    let list: Vec<String> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f({})\n{{\n{body}\n}}\n",
        list.join(", ")
    );
    let (text, name) = (CString::new(text).unwrap(), CString::new("f").unwrap());
    let (mut module, mut function) = (0, 0);
    unsafe {
        check(cuModuleLoadData(&mut module, text.as_ptr().cast()));
        check(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    }
    function
}

fn launch(function: usize, blocks: u32, threads: u32, buffers: &[&Buffer]) -> c_int {
    let addresses: Vec<usize> = buffers.iter().map(|buffer| buffer.0).collect();
    let params: Vec<*const c_void> =
        addresses.iter().map(|address| (address as *const usize).cast()).collect();
    unsafe {
        cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, STREAM, params.as_ptr(), std::ptr::null())
    }
}

/// The index of a thread in `%r1`, the address of its value in each buffer in `%a0`, `%a1`, ...
fn own_values(params: usize) -> String {
    let mut text = String::from(
        ".reg .pred %p<9>; .reg .f32 %f<9>; .reg .b32 %r<20>; .reg .b64 %a<9>; .reg .b64 %d<9>;
        mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r1, %r2, %r3, %r4;
        mul.wide.u32 %d0, %r1, 4;\n",
    );
    for i in 0..params {
        text += &format!("ld.param.u64 %a{i}, [p{i}]; add.s64 %a{i}, %a{i}, %d0;\n");
    }
    text
}

#[test]
fn lanes_part_and_meet_again() {
    let _alone = alone();
    // Each lane loops as often as its index says (Collatz-like work of different lengths), then all vote.
    let body = own_values(1)
        + "mov.u32 %r5, 0; mov.u32 %r6, %r1;
        $loop: setp.eq.u32 %p1, %r6, 0; @%p1 bra $out;
        add.u32 %r5, %r5, %r6; sub.u32 %r6, %r6, 1; bra.uni $loop;
        $out: setp.gt.u32 %p2, %r5, 100; vote.sync.ballot.b32 %r7, %p2, 0xffffffff;
        mad.lo.u32 %r5, %r5, 1000, %r7;
        st.global.u32 [%a0], %r5; ret;";
    let to = Buffer::new(&[0u32; 32]);
    check(launch(kernel(1, &body), 1, 32, &[&to]));
    let sums: Vec<u32> = (0..32).map(|i| i * (i + 1) / 2).collect();
    let votes = sums.iter().enumerate().fold(0u32, |all, (i, &sum)| all | u32::from(sum > 100) << i);
    let expected: Vec<u32> = sums.iter().map(|sum| (sum * 1000).wrapping_add(votes)).collect();
    assert_eq!(to.read::<u32>(), expected);
}

#[test]
fn warps_wait_for_each_other() {
    let _alone = alone();
    // Every thread of 128 writes to shared memory; after the barrier it reads what another warp wrote.
    let body = own_values(2)
        + ".shared .align 4 .b8 table[512];
        ld.global.f32 %f1, [%a0];
        mov.u32 %r5, table; shl.b32 %r6, %r4, 2; add.u32 %r7, %r5, %r6; st.shared.f32 [%r7], %f1;
        bar.sync 0;
        sub.u32 %r8, 508, %r6; add.u32 %r8, %r8, %r5; ld.shared.f32 %f2, [%r8];
        shfl.sync.bfly.b32 %r9|%p1, %r4, 1, 31, -1; cvt.rn.f32.u32 %f3, %r9;
        fma.rn.f32 %f4, %f3, 0f3F000000, %f2; st.global.f32 [%a1], %f4; ret;";
    let from: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let (from, to) = (Buffer::new(&from), Buffer::new(&[0f32; 256]));
    check(launch(kernel(2, &body), 2, 128, &[&from, &to]));
    let expected: Vec<f32> =
        (0..256).map(|i| (i / 128 * 128 + 127 - i % 128) as f32 + ((i % 128) ^ 1) as f32 / 2.0).collect();
    assert_eq!(to.read::<f32>(), expected);
}

#[test]
fn tensor_cores_multiply() {
    let _alone = alone();
    // 16 x 8 x 16 halves in bf16: lane and slot of every element as the ISA's figures have them.
    let at = |values: &dyn Fn(usize, usize) -> f32, rows: usize, columns: usize| -> Vec<u16> {
        (0..rows * columns).map(|i| (values(i / columns, i % columns).to_bits() >> 16) as u16).collect()
    };
    let x = |i: usize, l: usize| (i as f32 - 3.0) * ((l % 3) as f32);
    let y = |l: usize, j: usize| (l as f32) + (j as f32) * 0.5;
    let (a, b) = (at(&x, 16, 16), at(&|j, l| y(l, j), 8, 16));
    let body = ".reg .b32 %r<20>; .reg .b64 %d<20>; .reg .f32 %f<9>;
        ld.param.u64 %d1, [p0]; ld.param.u64 %d2, [p1]; ld.param.u64 %d3, [p2];
        mov.u32 %r1, %laneid; shr.u32 %r2, %r1, 2; and.b32 %r3, %r1, 3;
        mad.lo.u32 %r4, %r2, 32, 0; mad.lo.u32 %r4, %r3, 4, %r4; cvt.u64.u32 %d4, %r4;
        add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4;
        ld.global.u32 %r5, [%d5]; ld.global.u32 %r6, [%d5+256]; ld.global.u32 %r7, [%d5+16]; ld.global.u32 %r8, [%d5+272];
        ld.global.u32 %r9, [%d6]; ld.global.u32 %r10, [%d6+16];
        mov.f32 %f1, 0f3F800000;
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2, %f3, %f4, %f5}, {%r5, %r6, %r7, %r8}, {%r9, %r10},
            {%f1, %f1, %f1, %f1};
        mad.lo.u32 %r11, %r2, 32, 0; mad.lo.u32 %r11, %r3, 8, %r11; cvt.u64.u32 %d7, %r11; add.s64 %d8, %d3, %d7;
        st.global.v2.f32 [%d8], {%f2, %f3}; st.global.v2.f32 [%d8+256], {%f4, %f5}; ret;";
    let (a, b, to) = (Buffer::new(&a), Buffer::new(&b), Buffer::new(&[0f32; 128]));
    check(launch(kernel(3, body), 1, 32, &[&a, &b, &to]));
    let round = |v: f32| f32::from_bits(v.to_bits() & 0xffff_0000);
    let expected: Vec<f32> = (0..128)
        .map(|e| 1.0 + (0..16).map(|l| round(x(e / 8, l)) * round(y(l, e % 8))).sum::<f32>())
        .collect();
    assert_eq!(to.read::<f32>(), expected);
}

#[test]
fn a_graph_is_what_was_launched_and_a_wait_spoils_it() {
    let _alone = alone();
    let body =
        own_values(1) + "ld.global.u32 %r5, [%a0]; add.u32 %r5, %r5, 1; st.global.u32 [%a0], %r5; ret;";
    let (function, to) = (kernel(1, &body), Buffer::new(&[5u32; 64]));
    let (mut graph, mut exec) = (0, 0);
    unsafe {
        check(cuStreamBeginCapture_v2(STREAM, 0));
        check(launch(function, 2, 32, &[&to]));
        check(launch(function, 1, 32, &[&to]));
        check(cuStreamEndCapture(STREAM, &mut graph));
        assert_eq!(to.read::<u32>(), [5; 64], "nothing runs while it is recorded");
        check(cuGraphInstantiateWithFlags(&mut exec, graph, 0));
        check(cuGraphLaunch(exec, STREAM));
        check(cuGraphLaunch(exec, STREAM));
        assert_eq!(to.read::<u32>(), [[9u32; 32], [7; 32]].concat());

        check(cuStreamBeginCapture_v2(STREAM, 0));
        assert_eq!(cuStreamSynchronize(STREAM), 900, "a recording stream is never done");
        assert_eq!(cuStreamEndCapture(STREAM, &mut graph), 901);
    }
}

#[test]
fn two_halves_are_compared_each_by_itself() {
    let _alone = alone();
    let body = own_values(2)
        + "ld.global.u32 %r5, [%a0]; mov.u32 %r6, 0x38003800; set.gt.f16x2.f16x2 %r7, %r5, %r6;
        st.global.u32 [%a1], %r7; ret;";
    // 1 and 0.25, 0.25 and 1, both 1, both no number; beside a half each.
    let (from, to) =
        (Buffer::new(&[0x3400_3c00u32, 0x3c00_3400, 0x3c00_3c00, 0x7e00_7e00]), Buffer::new(&[9u32; 4]));
    check(launch(kernel(2, &body), 1, 4, &[&from, &to]));
    assert_eq!(to.read::<u32>(), [0x0000_3c00, 0x3c00_0000, 0x3c00_3c00, 0]);
}

#[test]
fn what_is_not_known_is_refused() {
    let _alone = alone();
    let text = CString::new(".version 8.0\n.visible .entry f()\n{\nfrobnicate.u32 %r1, %r2;\n}\n").unwrap();
    let mut module = 0;
    assert_eq!(unsafe { cuModuleLoadData(&mut module, text.as_ptr().cast()) }, 218);
}
