//! The one place that knows backends: the word after `--device` becomes a `Device`.

#[cfg(feature = "cuda")]
mod cuda;
mod inventory;
pub mod remote;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType};
use clap::{Args, ValueEnum};
use mgnt_decode::{DecodeMemory, Decoder, Plan};
use mgnt_model::NestedTransformer;
use mgnt_model::kernels::Kernels;
use mgnt_tokenizer::{ImageTokenizer, VideoTokenizer};
use mgnt_train::{Computed, TransformerTask};
use serde::Serialize;

pub use inventory::{Listed, list};

use crate::failure::bad_use;
use crate::model_kind::ModelKind;

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
            Self::Wgpu => {
                inventory::wgpu_adapter()?;
                Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => {
                cuda::check(number)?;
                cuda::configure(false);
                Ok(Device::cuda(number))
            }
            #[allow(unreachable_patterns, reason = "with every backend built in, nothing is left")]
            other => Err(bad_use(format!(
                "--device {word}: this mgnt was built without it; `cargo xtask … --device {word}` or \
                 `cargo build --release -p mgnt-cli --features {feature}` builds it in",
                word = other,
                feature = other.feature(),
            ))),
        }
    }

    /// The same for a process that trains.
    pub fn open_to_train(self) -> anyhow::Result<Device> {
        #[cfg(feature = "cuda")]
        if matches!(self, Self::Cuda(_)) {
            cuda::configure(true);
        }
        self.open()
    }

    /// Bytes of its memory, where the system tells.
    pub fn memory(self) -> Option<u64> {
        match self {
            Self::Cpu | Self::Ndarray => inventory::memory(),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => cuda::devices().ok()?.get(number).map(|found| found.memory),
            _ => None,
        }
    }

    /// Bytes that are held of it now, by all programs, where it has memory of its own and tells.
    pub fn held(self) -> Option<u64> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => cuda::held(number),
            _ => None,
        }
    }

    /// Whether it is a processor of threads, on which small parts of work run better side by side.
    pub fn is_cpu(self) -> bool {
        matches!(self, Self::Cpu | Self::Ndarray)
    }

    /// A training as it is fast there: on a processor with exponentials on the host, elsewhere by kernels, where there are
    /// some.
    pub fn trained(self, task: TransformerTask, device: &Device) -> TransformerTask {
        if self.is_cpu() {
            return task.on_processor();
        }
        match kernels_on(device) {
            Some(kernels) => task.with_kernels(kernels),
            None => task,
        }
    }

    /// Whether this build has kernels for transformers there.
    pub fn has_kernels(self) -> bool {
        cfg!(feature = "cuda") && matches!(self, Self::Cuda(_))
    }

    /// How a training of transformers computes the parts of a step there.
    pub fn computed(self) -> Computed {
        match self {
            _ if self.has_kernels() => Computed::ByKernels,
            _ if self.is_cpu() => Computed::ByOperations { at_once: rayon::current_num_threads() },
            _ => Computed::ByOperations { at_once: 1 },
        }
    }

    /// Whether tensor cores round what they multiply there, `f32` too.
    pub fn rounds_products(self) -> bool {
        matches!(self, Self::Cuda(_))
    }

    /// The word without a number.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            other => other.feature(),
        }
    }

    /// The feature that builds it in as `cargo xtask` does.
    fn feature(self) -> &'static str {
        match self {
            Self::Cpu => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
            Self::Cuda(_) => "cuda-nvrtc",
        }
    }
}

/// What is written after `--device`.
impl fmt::Display for DeviceWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            other => f.write_str(other.feature()),
        }
    }
}

/// Where and in which type of number a transformer runs.
#[derive(Debug, Clone, Copy, Args)]
pub struct Compute {
    /// Device to compute on
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    pub device: DeviceWord,
    /// Type of the transformer's matrices, keys and values; all else, and tokenizers, compute in f32 (on CUDA with products
    /// rounded to tf32, unless this is f32)
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
}

/// Types that a transformer can run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Single precision; where tensor cores would round its products (CUDA) each is taken as four
    F32,
    /// Single precision with products as tensor cores take them, of ten bits of fraction; elsewhere the same as f32
    Tf32,
    /// Eight bits of exponent, seven of fraction
    Bf16,
    /// Five bits of exponent, ten of fraction
    F16,
}

impl Dtype {
    /// Those that a device can compute in.
    fn of(word: DeviceWord, device: &Device) -> Vec<Self> {
        let all = [Self::F32, Self::Tf32, Self::Bf16, Self::F16].into_iter();
        all.filter(|&dtype| {
            let is_there = dtype != Self::Tf32 || word.rounds_products();
            is_there && device.supports_dtype(FloatDType::from(dtype))
        })
        .collect()
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl From<Dtype> for FloatDType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 | Dtype::Tf32 => Self::F32,
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
        }
    }
}

/// A decoder of a model, as it is fast where the model is: a processor draws tokens itself.
pub fn decoder<'a>(model: &'a NestedTransformer, plan: &'a Plan) -> Decoder<'a> {
    let decoder = Decoder::new(model, plan);
    if model.is_on_processor() { decoder } else { decoder.resident() }
}

/// Whose products CUDA's transformers have.
#[cfg(feature = "cuda")]
pub fn products_of_cuda() -> String {
    // What works on the first works on the others of a machine.
    match mgnt_kernels::library(0) {
        Some(library) => format!("products on CUDA: {library}"),
        None if std::env::var_os("MGNT_CUBLAS").is_some() => {
            "products on CUDA: Burn's, or as MGNT_CUBLAS says".into()
        }
        None => "products on CUDA: Burn's; cuBLASLt's are faster (libcublasLt.so on LD_LIBRARY_PATH, as in the Python package \
                 nvidia-cublas, of the CUDA that this was built for)"
            .into(),
    }
}

/// A build without CUDA has none.
#[cfg(not(feature = "cuda"))]
pub fn products_of_cuda() -> String {
    String::new()
}

/// Kernels for a device, where there are some.
#[cfg(feature = "cuda")]
fn kernels_on(device: &Device) -> Option<Arc<dyn Kernels>> {
    mgnt_kernels::on(device)
}

/// A build without CUDA has none.
#[cfg(not(feature = "cuda"))]
fn kernels_on(_: &Device) -> Option<Arc<dyn Kernels>> {
    None
}

/// Fails where a batch, of the size that `option` says, needs more than so many bytes.
fn enough(place: &str, has: u64, memory: DecodeMemory, option: &str, batch: usize) -> anyhow::Result<()> {
    let needs = memory.of_batch(batch);
    if needs <= has {
        return Ok(());
    }
    let fits = match memory.largest_batch(has) {
        0 => "not even one sample fits".into(),
        batch => format!("{option} {batch} fits"),
    };
    anyhow::bail!(
        "{place}: not enough memory: to decode {batch} at once takes about {}, and it has {}; {fits}",
        gib(needs),
        gib(has)
    )
}

/// Bytes in words.
pub fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

impl Compute {
    /// Opens the device.
    pub fn open(&self) -> anyhow::Result<Device> {
        self.device.open()
    }

    /// Fails where the device has less memory than decodes of `batch` samples need, and says which `option`, the batch's
    /// name on the command line, fits.
    pub fn check_memory(&self, plan: &Plan, option: &str, batch: usize) -> anyhow::Result<()> {
        let number = FloatDType::from(self.dtype);
        let number = burn::tensor::DType::from(number).size() as u64;
        let memory = DecodeMemory::new(plan, number);
        let memory = if self.device.is_cpu() { memory } else { memory.on_accelerator(plan, number) };
        let memory = if self.is_exact() { memory.with_exact_products(plan) } else { memory };
        match self.device.memory() {
            Some(has) => enough(&format!("--device {}", self.device), has, memory, option, batch),
            None => Ok(()),
        }
    }

    /// Reads a model directory.
    pub fn load(&self, directory: &Path, device: &Device) -> anyhow::Result<NestedTransformer> {
        let model = NestedTransformer::load(directory, device);
        self.cast(model.map_err(|error| ModelKind::Transformer.missed(directory, error.into()))?)
    }

    /// The model in the type that was asked for, as it is fast on the device.
    pub fn cast(&self, model: NestedTransformer) -> anyhow::Result<NestedTransformer> {
        let device = model.device();
        // In the type first, so that what is joined is joined in it.
        let model = model.with_type(self.dtype.into())?;
        let model = match self.kernels(&device) {
            Some(kernels) => model.with_kernels(kernels),
            None if self.device.is_cpu() => model.on_processor(),
            None => model.on_accelerator(),
        };
        // The weights before the change are nobody's now, and what is kept for a model's size is else found by no other.
        device.memory_cleanup();
        Ok(if self.is_exact() { model.with_exact_products()? } else { model })
    }

    /// The kernels that compute a transformer's blocks there: none on a processor, or where products want more than a
    /// device's own.
    pub fn kernels(&self, device: &Device) -> Option<Arc<dyn Kernels>> {
        if self.device.is_cpu() || self.is_exact() { None } else { kernels_on(device) }
    }

    /// Reads an image tokenizer, which is in `f32` in any type: where the device would round that, as exact as the type
    /// that was asked for.
    pub fn image_tokenizer(&self, directory: &Path, device: &Device) -> anyhow::Result<ImageTokenizer> {
        let tokenizer = ImageTokenizer::load(directory, device);
        let missed = |error: mgnt_tokenizer::Error| ModelKind::ImageTokenizer.missed(directory, error.into());
        Ok(self.exact_image(tokenizer.map_err(missed)?))
    }

    /// An image tokenizer as exact as the type that was asked for.
    pub fn exact_image(&self, tokenizer: ImageTokenizer) -> ImageTokenizer {
        if self.is_exact() { tokenizer.with_exact_products() } else { tokenizer }
    }

    /// A video tokenizer as exact as the type that was asked for.
    pub fn exact_video(&self, tokenizer: VideoTokenizer) -> VideoTokenizer {
        if self.is_exact() { tokenizer.with_exact_products() } else { tokenizer }
    }

    /// Whether products of `f32` want more than the device's own.
    pub fn is_exact(&self) -> bool {
        self.dtype == Dtype::F32 && self.device.rounds_products()
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

    #[test]
    fn too_large_a_batch_is_refused_with_one_that_fits() {
        let memory = DecodeMemory { weights: 1 << 30, a_sample: 1 << 28 };
        assert!(enough("--device cuda:0", 3 << 30, memory, "--batch", 8).is_ok());
        let error = enough("--device cuda:0", 3 << 30, memory, "--batch", 64).unwrap_err().to_string();
        let expected = "--device cuda:0: not enough memory: to decode 64 at once takes about 17.0 GiB, and it has 3.0 GiB; \
                        --batch 8 fits";
        assert_eq!(error, expected);
        let error = enough("--device cuda:0", 1 << 29, memory, "--count", 1).unwrap_err().to_string();
        assert!(error.ends_with("not even one sample fits"), "{error}");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_that_was_not_built_in_names_the_command_that_does() {
        let error = DeviceWord::Cuda(0).open().unwrap_err().to_string();
        assert!(error.contains("--features cuda-nvrtc"), "{error}");
    }
}
