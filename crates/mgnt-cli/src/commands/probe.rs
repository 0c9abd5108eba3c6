//! `mgnt probe`: runs a checkpoint on tensors of a file and writes what it says, for comparison with other
//! implementations.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::{Args, ValueEnum};
use mgnt_decode::replay::{Given, replay};
use mgnt_decode::{CachePolicy, MaskSchedule, ModelSchedule, Strategy};
use mgnt_eval::{Dims, Inception};
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_tokenizer::{ImageTokenizer, ImageTokenizerConfig, VideoTokenizer, VideoTokenizerConfig};
use mgnt_weights::directory::ModelDirectory;
use mgnt_weights::{NamedTensor, TensorMap, safetensors};

use crate::device::Compute;
use crate::failure::bad_use;

/// Arguments of `mgnt probe`.
#[derive(Args)]
pub struct Arguments {
    /// A model directory: transformer, image tokenizer or video tokenizer
    #[arg(value_name = "DIR", required_unless_present = "inception")]
    model: Option<PathBuf>,
    /// In place of a directory: weights of the Inception network
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    inception: Option<PathBuf>,
    /// Tensors to run it on (safetensors)
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where its answers go (safetensors)
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Sub-models that answer a sequence [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    p: Vec<usize>,
    /// Whether a replayed decode keeps keys and values
    #[arg(long, value_enum, default_value_t = Switch::On)]
    cache: Switch,
    #[command(flatten)]
    compute: Compute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Answers the input.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let device = arguments.compute.open()?;
    let input = safetensors::read(&arguments.input)?;
    let mut output = TensorMap::new();
    let probed = Probed::load(&arguments, &device)?;
    for group in groups(&input) {
        let answers = match &probed {
            Probed::Inception(network) => inception(network, &group.tensors)?,
            Probed::Transformer(model) => transformer(&arguments, model, &group.tensors)?,
            Probed::Image(tokenizer) => image(tokenizer, &group.tensors, &device)?,
            Probed::Video(tokenizer) => video(tokenizer, &group.tensors, &device)?,
        };
        for (name, tensor) in answers.iter() {
            output.insert(format!("{}{name}", group.prefix), tensor.clone());
        }
    }
    if output.is_empty() {
        let names: Vec<&str> = input.iter().map(|(name, _)| name).collect();
        return Err(bad_use(format!(
            "{}: nothing in it that this model answers; it has {}",
            arguments.input.display(),
            names.join(", ")
        )));
    }
    safetensors::write(&arguments.output, &output)?;
    for (name, tensor) in output.iter() {
        eprintln!("{name} {:?}", tensor.shape());
    }
    Ok(())
}

/// What is probed.
enum Probed {
    Inception(Inception),
    Transformer(Box<NestedTransformer>),
    Image(Box<ImageTokenizer>),
    Video(Box<VideoTokenizer>),
}

impl Probed {
    /// What a directory holds is told by which configuration parses: their fields have different names.
    fn load(arguments: &Arguments, device: &Device) -> anyhow::Result<Self> {
        if let Some(weights) = &arguments.inception {
            return Ok(Self::Inception(Inception::load(weights, device)?));
        }
        let folder =
            arguments.model.as_ref().ok_or_else(|| bad_use("a directory or --inception is needed"))?;
        let directory = ModelDirectory::new(folder);
        if directory.config::<ImageTokenizerConfig>().is_ok() {
            return Ok(Self::Image(Box::new(ImageTokenizer::load(folder, device)?)));
        }
        if directory.config::<VideoTokenizerConfig>().is_ok() {
            return Ok(Self::Video(Box::new(VideoTokenizer::load(folder, device)?)));
        }
        directory.config::<ModelConfig>().context("not a tokenizer, and not a transformer")?;
        Ok(Self::Transformer(Box::new(arguments.compute.load(folder, device)?)))
    }
}

/// Inputs whose names share all before the last `/`: each group is answered by itself, under the same prefix.
struct Group {
    prefix: String,
    tensors: TensorMap,
}

fn groups(input: &TensorMap) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (name, tensor) in input.iter() {
        let (prefix, own) = name.split_at(name.rfind('/').map_or(0, |slash| slash + 1));
        let at = groups.iter().position(|group| group.prefix == prefix).unwrap_or_else(|| {
            groups.push(Group { prefix: prefix.into(), tensors: TensorMap::new() });
            groups.len() - 1
        });
        groups[at].tensors.insert(own, tensor.clone());
    }
    groups
}

fn transformer(
    arguments: &Arguments,
    model: &NestedTransformer,
    input: &TensorMap,
) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if let Ok(sequence) = input.get("sequence") {
        forwards(arguments, model, sequence, &mut output)?;
    }
    if input.get("order").is_ok() {
        replayed(arguments, model, input, &mut output)?;
    }
    Ok(output)
}

/// `sequence [B, 1 + N]` to `logits_p{p} [B, 1 + N, vocabulary]`.
fn forwards(
    arguments: &Arguments,
    model: &NestedTransformer,
    sequence: &NamedTensor,
    output: &mut TensorMap,
) -> anyhow::Result<()> {
    let (config, device) = (model.config(), model.device());
    let (positions, rows) = (config.positions(), config.vocabulary().len() as i64);
    let [batch, length] = *sequence.shape() else {
        return Err(anyhow!("`sequence`: expected shape [B, {positions}], got {:?}", sequence.shape()));
    };
    if length != positions {
        return Err(anyhow!("`sequence`: expected shape [B, {positions}], got {:?}", sequence.shape()));
    }
    let ids = sequence.to_i64().context("`sequence`: expected integers")?;
    if let Some(wrong) = ids.iter().find(|&&id| id < -1 || id >= rows) {
        return Err(anyhow!("`sequence`: expected -1 (mask) to {}, got {wrong}", rows - 1));
    }
    let ids: Vec<i32> = ids
        .into_iter()
        .map(|id| if id == -1 { config.vocabulary().mask() as i32 } else { id as i32 })
        .collect();
    let sub_models = if arguments.p.is_empty() { config.sub_models.clone() } else { arguments.p.clone() };
    for p in sub_models {
        let sub_model = config.sub_model(p)?;
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [batch, length]), &device);
        insert(output, &format!("logits_p{p}"), model.forward(tokens, sub_model))?;
    }
    Ok(())
}

/// `order`, `final_tokens`, `class_ids`, `p`, `masked_after` and optionally `refresh` to the masked positions and
/// their logits at the start of each iteration.
fn replayed(
    arguments: &Arguments,
    model: &NestedTransformer,
    input: &TensorMap,
    output: &mut TensorMap,
) -> anyhow::Result<()> {
    let tokens = model.config().tokens;
    let numbers = |name: &str| -> anyhow::Result<Vec<usize>> {
        let values = input.integers(name)?.into_iter();
        values
            .map(|value| {
                usize::try_from(value)
                    .map_err(|_| anyhow!("`{name}`: expected no negative number, got {value}"))
            })
            .collect()
    };
    let classes = numbers("class_ids")?;
    let (order, finals) = (numbers("order")?, numbers("final_tokens")?);
    for (name, got) in [("order", order.len()), ("final_tokens", finals.len())] {
        if got != classes.len() * tokens {
            return Err(anyhow!("`{name}`: expected {} x {tokens} values, got {got}", classes.len()));
        }
    }
    let token =
        |&token: &usize| u16::try_from(token).map_err(|_| anyhow!("`final_tokens`: {token} is no code"));
    let given = classes.iter().zip(order.chunks(tokens)).zip(finals.chunks(tokens));
    let given: Vec<Given> = given
        .map(|((&class, order), finals)| {
            let tokens = finals.iter().map(token).collect::<anyhow::Result<_>>()?;
            Ok(Given { class, order: order.to_vec(), tokens })
        })
        .collect::<anyhow::Result<_>>()?;

    let mut before = tokens;
    let decided: Vec<usize> = numbers("masked_after")?
        .into_iter()
        .map(|after| {
            let count =
                before.checked_sub(after).ok_or_else(|| anyhow!("`masked_after`: {after} after {before}"))?;
            before = after;
            Ok(count)
        })
        .collect::<anyhow::Result<_>>()?;
    let cache = match (arguments.cache, input.get("refresh")) {
        (Switch::Off, _) => CachePolicy::Off,
        (Switch::On, Err(_)) => CachePolicy::AtSizeSwitch,
        (Switch::On, Ok(_)) => {
            let refresh = numbers("refresh")?.into_iter().enumerate();
            CachePolicy::Explicit(refresh.filter(|(_, asked)| *asked == 1).map(|(i, _)| i).collect())
        }
    };
    let strategy = Strategy {
        mask: MaskSchedule::Counts(decided),
        ..Strategy::new(ModelSchedule::from_factors(numbers("p")?)).with_cache(cache)
    };
    let plan = strategy.plan(model.config())?;
    let vocabulary = model.config().vocabulary().len();
    replay(model, &plan, &given, &mut |said| {
        let key = |part: &str| format!("k{:02}/{part}", said.iteration.index);
        let (batch, masked) = (said.places.len(), said.iteration.masked);
        let places: Vec<i32> = said.places.concat().into_iter().map(|place| place as i32).collect();
        output.insert_i32(&key("masked_positions"), &[batch, masked], &places)?;
        output.insert_f32(&key("logits"), &[batch, masked, vocabulary], &said.logits)?;
        Ok::<_, anyhow::Error>(())
    })
}

/// `image [B, H, W, 3]` in 0 to 1 to latents, codes and reconstruction; `indices` alone to a reconstruction. All
/// channels-last.
fn image(tokenizer: &ImageTokenizer, input: &TensorMap, device: &Device) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if let Ok(image) = input.get("image") {
        let said = tokenizer.probe(channels_first(floats::<4>("image", image, device)?))?;
        insert(&mut output, "latents", channels_last(said.latents))?;
        insert(&mut output, "quantized", channels_last(said.quantized))?;
        insert_indices(&mut output, said.indices)?;
        insert(&mut output, "reconstruction", channels_last(said.reconstruction))?;
    } else if let Ok(indices) = input.get("indices") {
        let said = tokenizer.decode_indices(integers::<3>("indices", indices, device)?)?;
        insert(&mut output, "reconstruction", channels_last(said))?;
    }
    Ok(output)
}

/// As `image`, of `video [B, T, H, W, 3]`.
fn video(tokenizer: &VideoTokenizer, input: &TensorMap, device: &Device) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if let Ok(video) = input.get("video") {
        let said = tokenizer.probe(channels_first(floats::<5>("video", video, device)?))?;
        insert(&mut output, "latents", channels_last(said.latents))?;
        insert(&mut output, "quantized", channels_last(said.quantized))?;
        insert_indices(&mut output, said.indices)?;
        insert(&mut output, "reconstruction", channels_last(said.reconstruction))?;
    } else if let Ok(indices) = input.get("indices") {
        let said = tokenizer.decode_indices(integers::<4>("indices", indices, device)?)?;
        insert(&mut output, "reconstruction", channels_last(said))?;
    }
    Ok(output)
}

fn floats<const D: usize>(name: &str, tensor: &NamedTensor, device: &Device) -> anyhow::Result<Tensor<D>> {
    let shape = shaped::<D>(name, tensor)?;
    Ok(Tensor::from_data(TensorData::new(tensor.to_f32(), shape), device))
}

fn integers<const D: usize>(
    name: &str,
    tensor: &NamedTensor,
    device: &Device,
) -> anyhow::Result<Tensor<D, Int>> {
    let shape = shaped::<D>(name, tensor)?;
    let values = tensor.to_i64().with_context(|| format!("`{name}`: expected integers"))?;
    let values: Result<Vec<i32>, _> = values.into_iter().map(i32::try_from).collect();
    let values = values.with_context(|| format!("`{name}`: expected 32-bit integers"))?;
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

fn shaped<const D: usize>(name: &str, tensor: &NamedTensor) -> anyhow::Result<[usize; D]> {
    let shape = tensor.shape();
    shape.try_into().map_err(|_| anyhow!("`{name}`: expected {D} dimensions, got shape {shape:?}"))
}

fn channels_first<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.movedim(D as i32 - 1, 1)
}

fn channels_last<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.movedim(1, D as i32 - 1)
}

fn insert_indices<const D: usize>(output: &mut TensorMap, indices: Tensor<D, Int>) -> anyhow::Result<()> {
    let shape = indices.dims();
    let values = indices.into_data().convert::<i32>().try_into_vec::<i32>();
    let values = values.map_err(|error| anyhow!("the device failed: {error:?}"))?;
    Ok(output.insert_i32("indices", &shape, &values)?)
}

/// `images` u8 `[B, H, W, 3]` to features, as far as the weights reach.
fn inception(network: &Inception, input: &TensorMap) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if input.get("images").is_err() {
        return Ok(output);
    }
    let images = input.get("images")?;
    let [count, height, width, 3] = *images.shape() else {
        return Err(anyhow!("`images`: expected shape [B, H, W, 3], got {:?}", images.shape()));
    };
    if images.dtype() != mgnt_weights::DType::U8 {
        return Err(anyhow!("`images`: expected U8, got {:?}", images.dtype()));
    }
    let views: Vec<_> =
        images.bytes().chunks_exact((height * width * 3).max(1)).map(|rgb| (rgb, width, height)).collect();
    let names = [
        (Dims::D64, "features_64"),
        (Dims::D192, "features_192"),
        (Dims::D768, "features_768"),
        (Dims::D2048, "pool_2048"),
    ];
    for (dims, name) in names.into_iter().filter(|(dims, _)| network.reaches(*dims)) {
        let mut features = Vec::new();
        for view in &views {
            features.extend(network.features(std::slice::from_ref(view), dims)?);
        }
        output.insert_f32(name, &[count, dims.count()], &features)?;
        if let (Dims::D2048, Some(logits)) = (dims, network.logits(&features)?) {
            output.insert_f32("logits_unbiased", &[count, logits.len() / count.max(1)], &logits)?;
        }
    }
    Ok(output)
}

fn insert<const D: usize>(output: &mut TensorMap, name: &str, tensor: Tensor<D>) -> anyhow::Result<()> {
    let shape = tensor.dims();
    let values = tensor.into_data().convert::<f32>().try_into_vec::<f32>();
    let values = values.map_err(|error| anyhow!("the device failed: {error:?}"))?;
    Ok(output.insert_f32(name, &shape, &values)?)
}
