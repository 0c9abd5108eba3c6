//! The one place that knows backends: the word after `--device` becomes a `Device`.

use std::str::FromStr;

use burn::tensor::Device;

use crate::failure::bad_use;

/// What the user asked for; whether it was built in is seen when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceWord {
    /// Burn's `flex`.
    Cpu,
    /// Burn's `ndarray`.
    Ndarray,
    /// Vulkan, Metal or DirectX through wgpu.
    Wgpu,
    /// The CUDA device of that number.
    Cuda(usize),
}

impl FromStr for DeviceWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let (name, number) = match word.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (word, None),
        };
        match (name, number) {
            ("cpu", None) => Ok(Self::Cpu),
            ("ndarray", None) => Ok(Self::Ndarray),
            ("wgpu", None) => Ok(Self::Wgpu),
            ("cuda", None) => Ok(Self::Cuda(0)),
            ("cuda", Some(number)) => {
                number.parse().map(Self::Cuda).map_err(|_| format!("`{number}` is not a device number"))
            }
            _ => Err("expected cpu, ndarray, wgpu or cuda[:n]".into()),
        }
    }
}

impl DeviceWord {
    /// Opens the device, or says which cargo command builds it in.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            #[cfg(feature = "flex")]
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            Self::Ndarray => Ok(Device::ndarray()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => Ok(Device::cuda(number)),
            #[allow(unreachable_patterns, reason = "with every backend built in, nothing is left")]
            other => Err(bad_use(format!(
                "--device {word}: this mgnt was built without it; `cargo xtask … --device {word}` or \
                 `cargo build --release -p mgnt-cli --features {feature}` builds it in",
                word = other.word(),
                feature = other.feature(),
            ))),
        }
    }

    /// Whether it is a processor of threads, on which small parts of work run better side by side.
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu | Self::Ndarray)
    }

    fn word(self) -> String {
        match self {
            Self::Cuda(number) => format!("cuda:{number}"),
            other => if other == Self::Cpu { "cpu" } else { other.feature() }.into(),
        }
    }

    fn feature(self) -> &'static str {
        match self {
            Self::Cpu => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
            Self::Cuda(_) => "cuda",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!("cuda:2".parse(), Ok(DeviceWord::Cuda(2)));
        assert_eq!("cpu".parse(), Ok(DeviceWord::Cpu));
        for wrong in ["gpu", "cuda:x", "cpu:1", ""] {
            assert!(wrong.parse::<DeviceWord>().is_err(), "{wrong}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_that_was_not_built_in_names_the_command_that_does() {
        let error = DeviceWord::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
    }
}
