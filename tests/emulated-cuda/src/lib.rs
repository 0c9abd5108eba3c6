//! A CUDA driver that needs no GPU: the kernels that Burn writes run on the host, lane by lane.
//!
//! [`ptx`] reads what NVIDIA's compiler wrote, [`lower`] turns each instruction into a function over a warp's 32 lanes
//! ([`tensor`] those of tensor cores), [`machine`] runs blocks of warps, [`checks`] looks for what their order hides, and
//! [`driver`] is `libcuda` as Burn's backend calls it: memory, streams, events, graphs. README.md says what it is good for,
//! and what not. Start at [`driver`]'s `cuLaunchKernel`.

mod checks;
mod driver;
mod lower;
mod machine;
mod ptx;
mod tensor;
