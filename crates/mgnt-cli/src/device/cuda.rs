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
    {
        compiler()?;
        check_versions(driver_version()?, compiler_version()?)?;
    }
    Ok(())
}

/// Bytes that all programs hold of a device's memory, where the driver tells.
pub fn held(number: usize) -> Option<u64> {
    let device = result::device::get(number.try_into().ok()?).ok()?;
    // SAFETY: `device` comes from `get`; the context that is retained is released after it is asked, and is not the thread's then.
    unsafe {
        let context = result::primary_ctx::retain(device).ok()?;
        let told = result::ctx::set_current(context).and_then(|()| result::mem_get_info());
        let _ = result::ctx::set_current(std::ptr::null_mut());
        let _ = result::primary_ctx::release(device);
        told.ok().map(|(free, total)| (total - free) as u64)
    }
}

/// Thousands are the major version, tens the minor one.
#[cfg(feature = "cuda-nvrtc")]
fn driver_version() -> anyhow::Result<c_int> {
    let mut version = 0;
    // SAFETY: the driver is there, and writes the number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .map_err(|error| anyhow!("the CUDA driver does not tell its version: {error}"))?;
    Ok(version)
}

#[cfg(feature = "cuda-nvrtc")]
fn compiler_version() -> anyhow::Result<c_int> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and writes the numbers.
    unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) }
        .result()
        .map_err(|error| anyhow!("NVRTC does not tell its version: {error}"))?;
    Ok(1000 * major + 10 * minor)
}

/// What a compiler makes is for drivers of its version or newer ones.
#[cfg(feature = "cuda-nvrtc")]
fn check_versions(driver: c_int, compiler: c_int) -> anyhow::Result<()> {
    let word = |version: c_int| format!("{}.{}", version / 1000, version % 1000 / 10);
    if driver / 1000 < compiler / 1000 {
        bail!(
            "the CUDA driver is too old: it is for CUDA {}, and NVRTC is of {}; update the driver, or put an NVRTC of \
             CUDA {} on LD_LIBRARY_PATH, and its toolkit into CUDA_PATH",
            word(driver),
            word(compiler),
            driver / 1000
        );
    }
    if driver < compiler {
        tracing::warn!(
            "the CUDA driver is for CUDA {}, and NVRTC is of {}: the driver may refuse its kernels",
            word(driver),
            word(compiler)
        );
    }
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

#[cfg(all(test, feature = "cuda-nvrtc"))]
mod tests {
    use super::*;

    #[test]
    fn a_driver_of_an_older_major_version_is_refused() {
        for (driver, compiler) in
            [(13000, 13000), (13010, 13000), (14000, 13000), (13000, 13010), (12080, 12090)]
        {
            check_versions(driver, compiler).unwrap();
        }
        let error = check_versions(12080, 13000).unwrap_err().to_string();
        assert!(error.contains("it is for CUDA 12.8, and NVRTC is of 13.0"), "{error}");
    }
}
