//! CUDA before Burn opens it: the libraries below panic where something is missing, so it is looked for here.

use std::ffi::c_int;

use anyhow::{anyhow, bail};
use cubecl_runtime::config::memory::PersistentMemory;
use cubecl_runtime::config::{CubeClRuntimeConfig, RuntimeConfig};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

/// What CUDA says of a device.
pub struct Found {
    /// The card's name.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
}

/// All devices that the driver knows.
pub fn devices() -> anyhow::Result<Vec<Found>> {
    // SAFETY: only looks whether the library can be opened.
    if !unsafe { sys::is_culib_present() } {
        bail!(
            "no CUDA driver: the library libcuda.so.1 (nvcuda.dll) is not there; it comes with NVIDIA's driver \
             (Debian: nvidia-driver, or the container toolkit's --gpus option inside a container)"
        );
    }
    let refused = |error: DriverError| anyhow!("the CUDA driver refused: {error}");
    result::init().map_err(refused)?;
    (0..result::device::get_count().map_err(refused)?)
        .map(|number: c_int| {
            let device = result::device::get(number).map_err(refused)?;
            let name = result::device::get_name(device).map_err(refused)?;
            // SAFETY: `device` comes from `get`.
            let memory = unsafe { result::device::total_mem(device) }.map_err(refused)? as u64;
            Ok(Found { name, memory })
        })
        .collect()
}

/// Fails with what is missing where the device of that number cannot be opened.
pub fn check(number: usize) -> anyhow::Result<()> {
    let count = devices()?.len();
    if number >= count {
        bail!(
            "--device cuda:{number}: the driver knows {count} device(s), cuda:0 to cuda:{}",
            count.max(1) - 1
        );
    }
    #[cfg(feature = "cuda-nvrtc")]
    compiler()?;
    Ok(())
}

/// Settings of CubeCL that Burn leaves as they are; a `cubecl.toml` says all else, the folder too.
///
/// Compiled kernels are kept from run to run where what tuning finds is kept already (`target/environment` of a checkout, else the
/// user's cache folder): the first decode of scale L compiles hundreds, which takes minutes.
///
/// A training also gives what is of a parameter's size (gradients, averages) memory of its own, which is found by its size: else the
/// host looks through all that lives for each tensor, a quarter of its time in a step of scale L (docs/cuda.md).
pub fn configure(trains: bool) {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.compilation.cache = true;
    if trains && matches!(config.memory.persistent_memory, PersistentMemory::Enabled) {
        config.memory.persistent_memory = PersistentMemory::SizeMatch;
    }
    // The first to say it has said it: once a device is open it is too late, and needless.
    CubeClRuntimeConfig::try_set(config);
}

/// The compiler and the headers that kernels in C++ need.
#[cfg(feature = "cuda-nvrtc")]
fn compiler() -> anyhow::Result<()> {
    // SAFETY: only looks whether the library can be opened.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        bail!(
            "no NVRTC: the library libnvrtc.so is not on LD_LIBRARY_PATH; it comes with the CUDA toolkit \
             (package cuda-nvrtc, or the Python package nvidia-cuda-nvrtc)"
        );
    }
    let Some(toolkit) = cubecl_cuda::install::cuda_path() else {
        bail!("no CUDA toolkit: set CUDA_PATH to the folder whose `include` has cuda_runtime.h");
    };
    let header = toolkit.join("include/cuda_runtime.h");
    if !header.is_file() {
        bail!("no CUDA headers: {} is not there (package cuda-cudart-dev)", header.display());
    }
    Ok(())
}
