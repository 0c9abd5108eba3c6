//! The devices that are there.

use std::thread::available_parallelism;

use super::{DeviceWord, Dtype};
use crate::memory::bytes_of;

/// A device that this binary might use.
pub struct Listed {
    /// What to write after `--device`.
    pub word: DeviceWord,
    /// What it is, or why it cannot be used.
    pub found: anyhow::Result<Found>,
}

/// What a device says of itself.
pub struct Found {
    /// Its name, where the system tells.
    pub name: Option<String>,
    /// Bytes of its memory, where the system tells.
    pub memory: Option<u64>,
    /// Types that a transformer can run in.
    pub types: Vec<Dtype>,
}

/// Every device of every kind, those that are not built in or not there with the reason.
pub fn list() -> Vec<Listed> {
    let mut all: Vec<Listed> =
        [DeviceWord::Cpu, DeviceWord::Ndarray].map(|word| listed(word, processor(), memory())).into();
    all.push(wgpu());
    all.extend(cuda());
    all
}

fn listed(word: DeviceWord, name: Option<String>, memory: Option<u64>) -> Listed {
    let found = word.open().map(|device| Found { name, memory, types: Dtype::of(word, &device) });
    Listed { word, found }
}

/// Model and threads of the processor, where the system tells.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    let name = name.trim_start_matches([' ', '\t', ':']);
    Some(format!("{name}, {} threads", available_parallelism().ok()?))
}

/// Bytes of the system's memory.
pub fn memory() -> Option<u64> {
    bytes_of(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Listed {
    listed(DeviceWord::Wgpu, None, None)
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Listed {
    match wgpu_adapter() {
        Ok(name) => listed(DeviceWord::Wgpu, name, None),
        Err(error) => Listed { word: DeviceWord::Wgpu, found: Err(error) },
    }
}

/// Name of the adapter that wgpu would take; an error where there is none, since the library below panics then.
#[cfg(feature = "wgpu")]
pub fn wgpu_adapter() -> anyhow::Result<Option<String>> {
    use burn::tensor::{Device, DeviceType};
    let adapters = Device::enumerate(DeviceType::Wgpu).into_vec();
    let first = adapters.first().ok_or_else(|| {
        anyhow::anyhow!(
            "--device wgpu: no graphics adapter is there; a driver for Vulkan, Metal or DirectX 12 is needed \
             (Debian: mesa-vulkan-drivers, which has one in software too)"
        )
    })?;
    Ok(first.identity().map(|identity| identity.name))
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<Listed> {
    vec![listed(DeviceWord::Cuda(0), None, None)]
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<Listed> {
    match super::cuda::devices() {
        Ok(found) if !found.is_empty() => found
            .into_iter()
            .enumerate()
            .map(|(i, found)| listed(DeviceWord::Cuda(i), Some(found.name), Some(found.memory)))
            .collect(),
        Ok(_) => {
            let found = Err(anyhow::anyhow!("the CUDA driver knows no device"));
            vec![Listed { word: DeviceWord::Cuda(0), found }]
        }
        Err(error) => vec![Listed { word: DeviceWord::Cuda(0), found: Err(error) }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_there_and_every_kind_is_listed() {
        let all = list();
        let cpu = all.iter().find(|listed| listed.word == DeviceWord::Cpu).unwrap();
        assert_eq!(cpu.found.as_ref().unwrap().types, [Dtype::F32, Dtype::Bf16, Dtype::F16]);
        for kind in ["cpu", "ndarray", "wgpu", "cuda:0"] {
            assert!(all.iter().any(|listed| listed.word.to_string() == kind), "{kind}");
        }
    }
}
