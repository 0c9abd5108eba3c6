//! `mgnt probe`: runs a checkpoint on tensors of a file and writes what it says, for comparison with other
//! implementations.

pub mod answers;

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use mgnt_eval::Inception;
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::{ImageTokenizer, VideoTokenizer};
use mgnt_weights::directory::{CONFIG, ModelDirectory, WEIGHTS};
use mgnt_weights::{TensorMap, safetensors};

use answers::Asked;

use super::output_folder::{check_file, check_not_read};
use super::watch::Progress;
use crate::device::Compute;
use crate::failure::bad_use;
use crate::model_kind::ModelKind;

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
    /// Whether a replayed decode keeps keys and values [default: on]
    #[arg(long, value_enum)]
    cache: Option<Switch>,
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
    let own = |name| arguments.model.as_ref().map(|model| model.join(name));
    let read = [
        ("--input", Some(arguments.input.clone())),
        ("--inception", arguments.inception.clone()),
        ("the model's config", own(CONFIG)),
        ("the model's file", own(WEIGHTS)),
    ];
    let read = read.each_ref().map(|(name, path)| (*name, path.as_deref()));
    check_not_read("--output", &arguments.output, &read)?;
    check_file("--output", &arguments.output)?;
    let device = arguments.compute.open()?;
    let input = safetensors::read(&arguments.input)?;
    let mut output = TensorMap::new();
    let probed = Probed::load(&arguments, &device)?;
    for (option, is_given) in [("--p", !arguments.p.is_empty()), ("--cache", arguments.cache.is_some())] {
        if is_given && !matches!(probed, Probed::Transformer(_)) {
            tell!("{option} says something of transformers alone, and this is none");
        }
    }
    let asked = Asked { sub_models: &arguments.p, cache: arguments.cache != Some(Switch::Off) };
    let groups = groups(&input);
    let mut progress = Progress::new(groups.len(), "groups of tensors");
    for group in groups {
        let answers = match &probed {
            Probed::Inception(network) => answers::inception(network, &group.tensors),
            Probed::Transformer(model) => answers::transformer(model, &group.tensors, &asked),
            Probed::Image(tokenizer) => answers::image(tokenizer, &group.tensors, &device),
            Probed::Video(tokenizer) => answers::video(tokenizer, &group.tensors, &device),
        };
        let named = || match group.prefix.as_str() {
            "" => arguments.input.display().to_string(),
            prefix => format!("{}: {prefix}", arguments.input.display()),
        };
        let answers = answers.with_context(named)?;
        progress.add(1);
        for (name, tensor) in answers.iter() {
            output.insert(format!("{}{name}", group.prefix), tensor.clone());
        }
    }
    progress.finish();
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
        tell!("{name} {:?}", tensor.shape());
    }
    Ok(())
}

/// What is probed.
enum Probed {
    Inception(Box<Inception>),
    Transformer(Box<NestedTransformer>),
    Image(Box<ImageTokenizer>),
    Video(Box<VideoTokenizer>),
}

impl Probed {
    fn load(arguments: &Arguments, device: &Device) -> anyhow::Result<Self> {
        if let Some(weights) = &arguments.inception {
            let network = Inception::load(weights, device)?;
            let exact = arguments.compute.device.rounds_products();
            let network = if exact { network.with_exact_products() } else { network };
            return Ok(Self::Inception(Box::new(network)));
        }
        let folder =
            arguments.model.as_ref().ok_or_else(|| bad_use("a directory or --inception is needed"))?;
        let compute = &arguments.compute;
        Ok(match ModelKind::of(&ModelDirectory::new(folder))? {
            ModelKind::ImageTokenizer => Self::Image(Box::new(compute.image_tokenizer(folder, device)?)),
            ModelKind::VideoTokenizer => {
                Self::Video(Box::new(compute.exact_video(VideoTokenizer::load(folder, device)?)))
            }
            ModelKind::Transformer => Self::Transformer(Box::new(compute.load(folder, device)?)),
        })
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
