//! The cases: what goes in, what must come out, and how far it may be off.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_decode::{CachePolicy, Decoder, Plan, Recorded, Strategy};
use mgnt_model::kernels::Operations;
use mgnt_model::{ModelConfig, NestedTransformer, Preset, published};
use mgnt_tokenizer::published::{self as tokenizers, VideoShape};
use mgnt_tokenizer::{ImageTokenizer, VideoTokenizer};
use mgnt_weights::{TensorMap, flax, read, safetensors};

use super::{Measure, Outcome, Row, kernels};
use crate::commands::probe::answers::{self, Asked};
use crate::device::{Compute, DeviceWord, Dtype, decoder};
use crate::failure::{one_line, text_of};

/// Limit of an f32 value against the published code's.
const SINGLE: f64 = 1e-4;
/// Limit of a half-precision logit, relative to the largest.
const HALF: f64 = 2e-2;
/// Share of tokens of a decode that rounding may turn: a draw near a boundary goes the other way, and what follows it.
const TURNED: f64 = 0.02;
/// The same where logits are of half precision on both sides: other kernels round other sums.
const TURNED_BY_HALF: f64 = 0.2;
/// What a folder of golden cases holds.
pub const FOLDERS: [&str; 4] = ["maskgit-transformer", "nested", "maskgit-vqgan", "magvit-3dvq"];
/// Classes of the golden transformers.
const CLASSES: usize = 10;

/// Every case. One that fails, as it does without its files, or panics below us, is a row that says so.
pub fn all(golden: &Path, compute: &Compute, device: &Device, mut told: impl FnMut(Row)) {
    type Case<'a> = Box<dyn Fn() -> anyhow::Result<Vec<Row>> + 'a>;
    let mut cases: Vec<(String, Case<'_>)> = vec![
        ("published MaskGIT transformer".into(), Box::new(|| published_transformer(golden, compute, device))),
        ("nested transformer".into(), Box::new(|| nested(golden, compute, device))),
        (
            "published image tokenizer".into(),
            Box::new(|| Ok(vec![image_tokenizer(golden, compute, device)?])),
        ),
        ("published 3D tokenizer".into(), Box::new(|| Ok(vec![video_tokenizer(golden, compute, device)?]))),
    ];
    cases.push(("kernels".into(), Box::new(|| against_operations(compute, device))));
    for p in drawn().sub_models {
        let name = format!("cached against whole, p = {p}");
        cases.push((name, Box::new(move || Ok(vec![cached_forward(p, compute, device)?]))));
    }
    cases.push((
        "drawn tokens, against the CPU's".into(),
        Box::new(|| Ok(vec![same_tokens_as_the_cpu(compute, device)?])),
    ));
    cases.push(("tokens of every decode".into(), Box::new(|| same_tokens_of_every_decode(compute, device))));
    for (name, case) in cases {
        let result = catch_unwind(AssertUnwindSafe(case))
            .unwrap_or_else(|panic| Err(anyhow::anyhow!("{}", one_line(text_of(&*panic)))));
        match result {
            Ok(rows) => rows.into_iter().for_each(&mut told),
            Err(error) => told(Row {
                case: name,
                outcome: Outcome::Failed(format!("{error:#}")),
                limit: SINGLE,
                measure: Measure::Element,
            }),
        }
    }
}

fn published_transformer(golden: &Path, compute: &Compute, device: &Device) -> anyhow::Result<Vec<Row>> {
    let folder = golden.join("maskgit-transformer");
    let model = transformer(flax::parameters(read(&folder.join("checkpoint.msgpack"))?), compute, device)?;
    let case = safetensors::read(&folder.join("case.safetensors"))?;
    let mut input = TensorMap::new();
    input.insert("sequence", case.get("input_ids")?.clone());
    let mut expected = TensorMap::new();
    expected.insert("logits_p1", case.get("logits")?.clone());
    let said = answers::transformer(&model, &input, &Asked { sub_models: &[1], cache: true })?;
    Ok(vec![compare("published MaskGIT transformer".into(), &said, &expected, compute.dtype)?])
}

fn nested(golden: &Path, compute: &Compute, device: &Device) -> anyhow::Result<Vec<Row>> {
    let file = safetensors::read(&golden.join("nested/nested.safetensors"))?;
    let (mut weights, mut input, mut expected) = (TensorMap::new(), TensorMap::new(), TensorMap::new());
    for (name, tensor) in file.iter() {
        match name.strip_prefix("weights/") {
            Some(name) => weights.insert(name, tensor.clone()),
            None if name == "input_ids" => input.insert("sequence", tensor.clone()),
            None => expected.insert(name, tensor.clone()),
        }
    }
    let model = transformer(weights, compute, device)?;
    let mut rows = Vec::new();
    for p in [1, 2, 4, 8] {
        let said = answers::transformer(&model, &input, &Asked { sub_models: &[p], cache: true })?;
        rows.push(compare(format!("sub-model p = {p}"), &said, &expected, compute.dtype)?);
    }
    let mut traces: Vec<_> = std::fs::read_dir(golden.join("nested"))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("trace_")))
        .collect();
    traces.sort();
    for path in traces {
        let trace = safetensors::read(&path)?;
        let said = answers::transformer(&model, &trace, &Asked { sub_models: &[], cache: true })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('_', " ");
        rows.push(compare(name, &said, &trace, compute.dtype)?);
    }
    Ok(rows)
}

fn image_tokenizer(golden: &Path, compute: &Compute, device: &Device) -> anyhow::Result<Row> {
    let folder = golden.join("maskgit-vqgan");
    let (config, weights) = tokenizers::image_from_port(read(&folder.join("pytorch_model.bin"))?, 32)?;
    let tokenizer = compute.exact_image(ImageTokenizer::from_weights(&config, weights, device)?);
    let case = safetensors::read(&folder.join("case.safetensors"))?;
    let case = case.below("a/");
    let said = answers::image(&tokenizer, &case, device)?;
    compare("published image tokenizer".into(), &said, &case, type_of_tokenizers(compute))
}

fn video_tokenizer(golden: &Path, compute: &Compute, device: &Device) -> anyhow::Result<Row> {
    let case = safetensors::read(&golden.join("magvit-3dvq/case.safetensors"))?.below("a/");
    let shape = VideoShape { frames: 8, size: 16, temporal_downsample: vec![true, false] };
    let (config, weights) =
        tokenizers::video_from_flax(read(&golden.join("magvit-3dvq/checkpoint.msgpack"))?, &shape)?;
    let tokenizer = compute.exact_video(VideoTokenizer::from_weights(&config, weights, device)?);
    let said = answers::video(&tokenizer, &case, device)?;
    compare("published 3D tokenizer".into(), &said, &case, type_of_tokenizers(compute))
}

/// Tokenizers are in f32, but for what a device rounds where nobody asked for more.
fn type_of_tokenizers(compute: &Compute) -> Dtype {
    if compute.device.rounds_products() { compute.dtype } else { Dtype::F32 }
}

/// Each kernel of the device against operations on the CPU, where the model is computed by kernels.
fn against_operations(compute: &Compute, device: &Device) -> anyhow::Result<Vec<Row>> {
    let Some(kernels) = compute.kernels(device) else { return Ok(Vec::new()) };
    let dtype = compute.dtype.into();
    let taped = |device: &Device| device.clone().autodiff();
    let checkpointed = |device: &Device| device.clone().autodiff().gradient_checkpointing();
    let cpu = Device::flex();
    let kinds: [(&str, &[kernels::Case], [Device; 2]); 3] = [
        ("kernel", kernels::ANSWERS, [device.clone(), cpu.clone()]),
        ("gradients", kernels::GRADIENTS, [device, &cpu].map(taped)),
        ("checkpointed", kernels::GRADIENTS, [device, &cpu].map(checkpointed)),
    ];
    let mut rows = Vec::new();
    for (kind, cases, [device, cpu]) in kinds {
        for case in cases {
            let said = case.of(&*kernels, dtype, &device)?;
            let expected = case.of(&Operations, dtype, &cpu)?;
            let judged = if case.single { Dtype::F32 } else { compute.dtype };
            rows.push(compare(format!("{kind}: {}", case.name), &said, &expected, judged)?);
        }
    }
    Ok(rows)
}

/// The rest of a context over the keys and values of its first half, against the context as a whole.
fn cached_forward(p: usize, compute: &Compute, device: &Device) -> anyhow::Result<Row> {
    let config = drawn();
    let model = compute.cast(NestedTransformer::init(&config, 1, device)?)?;
    let (length, batch) = (config.positions(), 3);
    let ids: Vec<i32> = (0..batch * length).map(|i| (i * 31 % config.codes) as i32).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, [batch, length]), device);
    let positions: Tensor<2, Int> = Tensor::arange(0..length as i64, device).unsqueeze().repeat_dim(0, batch);
    let first = length / 2;
    let sub_model = config.sub_model(p)?;
    let (whole, cache) = model.forward_cached(tokens.clone(), positions.clone(), None, first, sub_model);
    let rest = |ids: Tensor<2, Int>| ids.narrow(1, first, length - first);
    let (cached, _) = model.forward_cached(rest(tokens), rest(positions), Some(cache), 0, sub_model);
    let (mut said, mut expected) = (TensorMap::new(), TensorMap::new());
    answers::insert(&mut said, "hidden", cached)?;
    answers::insert(&mut expected, "hidden", whole.narrow(1, first, length - first))?;
    compare(format!("cached against whole, p = {p}"), &said, &expected, compute.dtype)
}

/// Tokens of one schedule from the same seeds on this device and on the CPU, both in this type.
fn same_tokens_as_the_cpu(compute: &Compute, device: &Device) -> anyhow::Result<Row> {
    let (config, plan, classes) = decode_of_drawn()?;
    // Each as it is used there: the CPU draws on the host, and takes exponentials its own way.
    let cpu = Compute { device: DeviceWord::Cpu, dtype: compute.dtype };
    let decode = |compute: &Compute, device: &Device| -> anyhow::Result<Vec<Vec<u16>>> {
        let model = compute.cast(NestedTransformer::init(&config, 1, device)?)?;
        Ok(decoder(&model, &plan).classes(&classes).seed(1).run()?.tokens)
    };
    let limit = if compute.dtype == Dtype::F32 { TURNED } else { TURNED_BY_HALF };
    let (here, there) = (decode(compute, device)?, decode(&cpu, &cpu.open()?)?);
    Ok(turned("drawn tokens, against the CPU's", &here, &there, limit))
}

/// Tokens of one schedule from the same seeds on this device: drawn on the host, on the device, and recorded.
fn same_tokens_of_every_decode(compute: &Compute, device: &Device) -> anyhow::Result<Vec<Row>> {
    let (config, plan, classes) = decode_of_drawn()?;
    let model = compute.cast(NestedTransformer::init(&config, 1, device)?)?;
    let decoder = || Decoder::new(&model, &plan).classes(&classes).seed(1);
    let (on_host, resident) = (decoder().run()?.tokens, decoder().resident().run()?.tokens);
    let mut rows = vec![turned("tokens, resident against on the host", &resident, &on_host, TURNED)];
    // Without graphs a recording decodes five times, so some of the samples are enough.
    let some = 2;
    if let Some(mut recorded) = Recorded::new(&model, &plan, some)? {
        let name = match recorded.is_graph() {
            true => "tokens, replayed graph against resident",
            false => "tokens, recorded (no graph) against resident",
        };
        // Of a batch of another size a library may round products otherwise.
        let resident = Decoder::new(&model, &plan).classes(&classes[..some]).seed(1).resident().run()?.tokens;
        rows.push(turned(name, &recorded.run(&classes[..some], 1, 0)?, &resident, TURNED));
    }
    Ok(rows)
}

/// The model of drawn weights, a schedule with its cache, and a class for each sample.
fn decode_of_drawn() -> anyhow::Result<(ModelConfig, Plan, Vec<usize>)> {
    let config = drawn();
    let strategy = Strategy::parse("8x2,4x2,2x2,1x2")?.with_cache(CachePolicy::AtSizeSwitch);
    let plan = strategy.plan(&config)?;
    Ok((config, plan, (0..8).collect()))
}

/// Share of tokens that are not the same.
fn turned(what: &str, here: &[Vec<u16>], there: &[Vec<u16>], limit: f64) -> Row {
    let (here, there) = (here.concat(), there.concat());
    let differ = here.iter().zip(&there).filter(|(a, b)| a != b).count();
    Row {
        case: format!("{} {what}", there.len()),
        outcome: Outcome::Worst(differ as f64 / there.len() as f64),
        limit,
        measure: Measure::Share,
    }
}

/// A model of drawn weights, of sizes that kernels meet in earnest: 257 positions, heads of 16 features.
fn drawn() -> ModelConfig {
    ModelConfig { layers: 3, width: 256, heads: 16, hidden: 1024, ..ModelConfig::preset(Preset::B) }
}

fn transformer(tensors: TensorMap, compute: &Compute, device: &Device) -> anyhow::Result<NestedTransformer> {
    let (config, weights) = published::from_flax(tensors, CLASSES, false)?;
    compute.cast(NestedTransformer::from_weights(&config, weights, device)?)
}

/// Every tensor of `said` that is expected too. Integers must be equal; one that is not counts as far beyond.
fn compare(case: String, said: &TensorMap, expected: &TensorMap, dtype: Dtype) -> anyhow::Result<Row> {
    let (measure, limit) =
        if dtype == Dtype::F32 { (Measure::Element, SINGLE) } else { (Measure::Tensor, HALF) };
    let mut worst: Option<f64> = None;
    for (name, ours) in said.iter() {
        let Ok(theirs) = expected.get(name) else { continue };
        if ours.shape() != theirs.shape() {
            anyhow::bail!("{case}: `{name}`: expected shape {:?}, got {:?}", theirs.shape(), ours.shape());
        }
        let difference = match (ours.to_i64(), theirs.to_i64()) {
            (Some(ours), Some(theirs)) => f64::from(u8::from(ours != theirs)),
            _ => difference(&ours.to_f32(), &theirs.to_f32(), measure),
        };
        // A value that is no number is beyond every limit.
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        worst = Some(worst.unwrap_or(0.0).max(difference));
    }
    let Some(worst) = worst else {
        anyhow::bail!("{case}: the golden case has none of the tensors that the model answers");
    };
    Ok(Row { case, outcome: Outcome::Worst(worst), limit, measure })
}

fn difference(ours: &[f32], theirs: &[f32], measure: Measure) -> f64 {
    let pairs = ours.iter().zip(theirs).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let largest = theirs.iter().fold(0.0f64, |largest, &b| largest.max(f64::from(b).abs()));
    let scale = |b: f64| match measure {
        Measure::Tensor => largest,
        Measure::Element | Measure::Share => 1.0 + b.abs(),
    };
    // `max` drops NaN, so the sum over a NaN is kept apart.
    let mut worst = 0.0f64;
    for (a, b) in pairs {
        let difference = (a - b).abs() / scale(b);
        if difference.is_nan() {
            return f64::NAN;
        }
        worst = worst.max(difference);
    }
    worst
}

#[cfg(test)]
mod tests {
    use burn::tensor::FloatDType;

    use super::*;

    #[test]
    fn differences() {
        assert_eq!(difference(&[1.5, 3.0], &[1.0, 3.0], Measure::Element), 0.25);
        assert_eq!(difference(&[1.5, 4.0], &[1.0, 4.0], Measure::Tensor), 0.125);
        assert!(difference(&[f32::NAN, 1.0], &[1.0, 1.0], Measure::Element).is_nan());
    }

    #[test]
    fn kernels_are_held_against_operations() {
        let cpu = Device::flex();
        for (cases, device) in [(kernels::ANSWERS, cpu.clone()), (kernels::GRADIENTS, cpu.autodiff())] {
            for case in cases {
                let said = |dtype| case.of(&Operations, dtype, &device).unwrap();
                let (full, half) = (said(FloatDType::F32), said(FloatDType::F16));
                let worst = |dtype| compare(case.name.into(), &half, &full, dtype).unwrap();
                // f16 is within the limit of halves of f32, and no f32; but some are in f32 whatever products are in.
                assert!(worst(Dtype::F16).passes(), "{:?}", worst(Dtype::F16));
                assert_eq!(worst(Dtype::F32).passes(), case.single, "{:?}", worst(Dtype::F32));
            }
        }
    }

    #[test]
    fn an_integer_or_a_nan_off_is_beyond() {
        let map = |value: f32, code: i32| {
            let mut map = TensorMap::new();
            map.insert_f32("x", &[1], &[value]).unwrap();
            map.insert_i32("codes", &[1], &[code]).unwrap();
            map
        };
        let row = |said: &TensorMap| compare("case".into(), said, &map(1.0, 3), Dtype::F32).unwrap();
        assert!(row(&map(1.0, 3)).passes());
        assert!(!row(&map(1.0, 4)).passes());
        assert!(!row(&map(f32::NAN, 3)).passes());
        assert!(compare("case".into(), &TensorMap::new(), &map(1.0, 3), Dtype::F32).is_err());
    }
}
