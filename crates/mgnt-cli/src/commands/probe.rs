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

use crate::device::DeviceWord;
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
    /// Device to compute on
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    device: DeviceWord,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// Answers the input.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let device = arguments.device.open()?;
    let input = safetensors::read(&arguments.input)?;
    let mut output = TensorMap::new();
    match (&arguments.inception, &arguments.model) {
        (Some(weights), _) => inception(&Inception::load(weights, &device)?, &input, &mut output)?,
        (None, Some(folder)) => match Kind::of(&ModelDirectory::new(folder))? {
            Kind::Transformer => {
                let model = NestedTransformer::load(folder, &device)?;
                transformer(&arguments, &model, &input, &mut output)?;
            }
            Kind::Image => image(&ImageTokenizer::load(folder, &device)?, &input, &mut output, &device)?,
            Kind::Video => video(&VideoTokenizer::load(folder, &device)?, &input, &mut output, &device)?,
        },
        (None, None) => return Err(bad_use("a model directory or --inception is needed")),
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

/// What a model directory holds.
enum Kind {
    Transformer,
    Image,
    Video,
}

impl Kind {
    /// By which configuration parses: their fields have different names.
    fn of(directory: &ModelDirectory) -> anyhow::Result<Self> {
        if directory.config::<ImageTokenizerConfig>().is_ok() {
            return Ok(Self::Image);
        }
        if directory.config::<VideoTokenizerConfig>().is_ok() {
            return Ok(Self::Video);
        }
        directory.config::<ModelConfig>().context("not a tokenizer, and not a transformer")?;
        Ok(Self::Transformer)
    }
}

fn transformer(
    arguments: &Arguments,
    model: &NestedTransformer,
    input: &TensorMap,
    output: &mut TensorMap,
) -> anyhow::Result<()> {
    if let Ok(sequence) = input.get("sequence") {
        forwards(arguments, model, sequence, output)?;
    }
    if input.get("order").is_ok() {
        replayed(arguments, model, input, output)?;
    }
    Ok(())
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
    let ids: Vec<i32> =
        ids.into_iter().map(|id| if id == -1 { config.vocabulary().mask() as i32 } else { id as i32 }).collect();
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
            .map(|value| usize::try_from(value).map_err(|_| anyhow!("`{name}`: expected no negative number, got {value}")))
            .collect()
    };
    let classes = numbers("class_ids")?;
    let (order, finals) = (numbers("order")?, numbers("final_tokens")?);
    for (name, got) in [("order", order.len()), ("final_tokens", finals.len())] {
        if got != classes.len() * tokens {
            return Err(anyhow!("`{name}`: expected {} x {tokens} values, got {got}", classes.len()));
        }
    }
    let token = |&token: &usize| u16::try_from(token).map_err(|_| anyhow!("`final_tokens`: {token} is no code"));
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
            let count = before.checked_sub(after).ok_or_else(|| anyhow!("`masked_after`: {after} after {before}"))?;
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

/// `images` u8 `[B, H, W, 3]` to features, as far as the weights reach.
fn inception(network: &Inception, input: &TensorMap, output: &mut TensorMap) -> anyhow::Result<()> {
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
    Ok(())
}

fn insert<const D: usize>(output: &mut TensorMap, name: &str, tensor: Tensor<D>) -> anyhow::Result<()> {
    let shape = tensor.dims();
    let values = tensor.into_data().convert::<f32>().try_into_vec::<f32>();
    let values = values.map_err(|error| anyhow!("the device failed: {error:?}"))?;
    Ok(output.insert_f32(name, &shape, &values)?)
}
