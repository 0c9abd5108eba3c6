//! What models answer to the tensors of a file: the forms of `docs/checkpoints.md`.

use anyhow::{Context, anyhow};
use burn::tensor::{Device, Int, Shape, Tensor, TensorData};
use mgnt_data::Picture;
use mgnt_decode::replay::{Given, replay};
use mgnt_decode::{CachePolicy, MaskSchedule, ModelSchedule, Strategy};
use mgnt_eval::{Dims, Inception};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::{ImageTokenizer, VideoTokenizer};
use mgnt_weights::module::numbers;
use mgnt_weights::{NamedTensor, TensorMap};

/// What a transformer is asked besides its input.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Sub-models that answer a sequence; all where none is named.
    pub sub_models: &'a [usize],
    /// Whether a replayed decode keeps keys and values.
    pub cache: bool,
}

/// A `sequence`, a decode to replay, or both.
pub fn transformer(model: &NestedTransformer, input: &TensorMap, asked: &Asked) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if let Ok(sequence) = input.get("sequence") {
        forwards(model, sequence, asked, &mut output)?;
    }
    if input.get("order").is_ok() {
        replayed(model, input, asked, &mut output)?;
    }
    Ok(output)
}

/// `sequence [B, 1 + N]` to `logits_p{p} [B, 1 + N, vocabulary]`.
fn forwards(
    model: &NestedTransformer,
    sequence: &NamedTensor,
    asked: &Asked,
    output: &mut TensorMap,
) -> anyhow::Result<()> {
    let (config, device) = (model.config(), model.device());
    let (positions, rows) = (config.positions(), config.vocabulary().size() as i64);
    let batch = match *sequence.shape() {
        [batch, length] if batch > 0 && length == positions => batch,
        ref shape => {
            return Err(anyhow!("`sequence`: expected shape [B, {positions}], B at least 1, got {shape:?}"));
        }
    };
    let ids = sequence.to_i64().context("`sequence`: expected integers")?;
    if let Some(wrong) = ids.iter().find(|&&id| id < -1 || id >= rows) {
        return Err(anyhow!("`sequence`: expected -1 (mask) to {}, got {wrong}", rows - 1));
    }
    let ids: Vec<i32> = ids
        .into_iter()
        .map(|id| if id == -1 { config.vocabulary().mask() as i32 } else { id as i32 })
        .collect();
    let sub_models = if asked.sub_models.is_empty() { &config.sub_models } else { asked.sub_models };
    for &p in sub_models {
        let sub_model = config.sub_model(p)?;
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [batch, positions]), &device);
        insert(output, &format!("logits_p{p}"), model.forward(tokens, sub_model))?;
    }
    Ok(())
}

/// `order`, `final_tokens`, `class_ids`, `p`, `masked_after` and optionally `refresh` to the masked positions and
/// their logits at the start of each iteration.
fn replayed(
    model: &NestedTransformer,
    input: &TensorMap,
    asked: &Asked,
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
    if classes.is_empty() {
        return Err(anyhow!("`class_ids`: expected at least one, got none"));
    }
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
    let factors = numbers("p")?;
    let cache = match (asked.cache, input.get("refresh")) {
        (false, _) => CachePolicy::Off,
        (true, Err(_)) => CachePolicy::AtSizeSwitch,
        (true, Ok(_)) => {
            let refresh = numbers("refresh")?;
            let (expected, got) = (factors.len(), refresh.len());
            if got != expected {
                return Err(anyhow!("`refresh`: expected {expected} values, one for each of `p`, got {got}"));
            }
            if let Some(wrong) = refresh.iter().find(|&&asked| asked > 1) {
                return Err(anyhow!("`refresh`: expected 0 or 1, got {wrong}"));
            }
            CachePolicy::Explicit((0..got).filter(|&i| refresh[i] == 1).collect())
        }
    };
    let strategy = Strategy {
        mask: MaskSchedule::Counts(decided),
        ..Strategy::new(ModelSchedule::from_factors(factors)).with_cache(cache)
    };
    let plan = strategy.plan(model.config())?;
    let vocabulary = model.config().vocabulary().size();
    replay(model, &plan, &given, &mut |said| {
        let key = |part: &str| format!("k{:02}/{part}", said.iteration.index);
        let (batch, masked) = (said.places.len(), said.iteration.masked);
        let places: Vec<i32> = said.places.concat().into_iter().map(|place| place as i32).collect();
        output.insert_i32(&key("masked_positions"), &[batch, masked], &places)?;
        output.insert_f32(&key("logits"), &[batch, masked, vocabulary], &said.logits)?;
        Ok::<_, anyhow::Error>(())
    })
}

/// `image [B, H, W, 3]`, floats in 0 to 1, to latents, codes and reconstruction; `indices` or `tokens` alone to a reconstruction.
/// All channels-last.
pub fn image(tokenizer: &ImageTokenizer, input: &TensorMap, device: &Device) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if let Ok(image) = input.get("image") {
        let said = tokenizer.probe(channels_first(coloured::<4>("image", image, device)?))?;
        insert(&mut output, "latents", channels_last(said.latents))?;
        insert(&mut output, "quantized", channels_last(said.quantized))?;
        insert_indices(&mut output, said.indices)?;
        insert(&mut output, "reconstruction", channels_last(said.reconstruction))?;
    } else if let Ok(indices) = input.get("indices") {
        let said = tokenizer.decode_indices(integers::<3>("indices", indices, device)?)?;
        insert(&mut output, "reconstruction", channels_last(said))?;
    } else if let Ok(tokens) = input.get("tokens") {
        let tokens = tokens_of::<3>(tokens, &[tokenizer.config().grid(); 2], device)?;
        insert(&mut output, "reconstruction", channels_last(tokenizer.decode_indices(tokens)?))?;
    }
    Ok(output)
}

/// As [`image`], of `video [B, T, H, W, 3]`.
pub fn video(tokenizer: &VideoTokenizer, input: &TensorMap, device: &Device) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if let Ok(video) = input.get("video") {
        let said = tokenizer.probe(channels_first(coloured::<5>("video", video, device)?))?;
        insert(&mut output, "latents", channels_last(said.latents))?;
        insert(&mut output, "quantized", channels_last(said.quantized))?;
        insert_indices(&mut output, said.indices)?;
        insert(&mut output, "reconstruction", channels_last(said.reconstruction))?;
    } else if let Ok(indices) = input.get("indices") {
        let said = tokenizer.decode_indices(integers::<4>("indices", indices, device)?)?;
        insert(&mut output, "reconstruction", channels_last(said))?;
    } else if let Ok(tokens) = input.get("tokens") {
        let [layers, rows, columns] = tokenizer.config().grid();
        let tokens = tokens_of::<4>(tokens, &[layers, rows, columns], device)?;
        insert(&mut output, "reconstruction", channels_last(tokenizer.decode_indices(tokens)?))?;
    }
    Ok(output)
}

fn floats<const D: usize>(name: &str, tensor: &NamedTensor, device: &Device) -> anyhow::Result<Tensor<D>> {
    let shape = shaped::<D>(name, tensor)?;
    // Bytes are from 0 to 255.
    if !tensor.dtype().is_float() {
        return Err(anyhow!("`{name}`: expected floats in 0 to 1, got {:?}", tensor.dtype()));
    }
    Ok(Tensor::from_data(TensorData::new(tensor.to_f32(), shape), device))
}

/// `tokens [B, N]` as indices in a grid.
fn tokens_of<const D: usize>(
    tokens: &NamedTensor,
    grid: &[usize],
    device: &Device,
) -> anyhow::Result<Tensor<D, Int>> {
    let tokens = integers::<2>("tokens", tokens, device)?;
    let ([batch, count], expected) = (tokens.dims(), grid.iter().product::<usize>());
    if count != expected {
        return Err(anyhow!("`tokens`: expected shape [B, {expected}], got {:?}", [batch, count]));
    }
    Ok(tokens.reshape(Shape::from([&[batch], grid].concat())))
}

/// Of three colours, which come last.
fn coloured<const D: usize>(name: &str, tensor: &NamedTensor, device: &Device) -> anyhow::Result<Tensor<D>> {
    let pictures = floats::<D>(name, tensor, device)?;
    let shape = pictures.dims();
    if shape[D - 1] != 3 || shape.contains(&0) {
        let expected = if D == 4 { "[B, H, W, 3]" } else { "[B, T, H, W, 3]" };
        return Err(anyhow!("`{name}`: expected shape {expected}, none of it 0, got {shape:?}"));
    }
    let [least, most] = [pictures.clone().min(), pictures.clone().max()].map(numbers::<1, _, f32>);
    let (least, most) = (least.map_err(failed)?[0], most.map_err(failed)?[0]);
    if least < 0.0 || most > 1.0 {
        tracing::warn!("`{name}`: expected floats in 0 to 1, and these are {least} to {most}");
    }
    Ok(pictures)
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

fn failed(reason: String) -> anyhow::Error {
    anyhow!("the device failed: {reason}")
}

fn channels_first<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.movedim(D as i32 - 1, 1)
}

fn channels_last<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.movedim(1, D as i32 - 1)
}

fn insert_indices<const D: usize>(output: &mut TensorMap, indices: Tensor<D, Int>) -> anyhow::Result<()> {
    let shape = indices.dims();
    let values: Vec<i32> = numbers(indices).map_err(failed)?;
    Ok(output.insert_i32("indices", &shape, &values)?)
}

/// `images` u8 `[B, H, W, 3]` to features, as far as the weights reach.
pub fn inception(network: &Inception, input: &TensorMap) -> anyhow::Result<TensorMap> {
    let mut output = TensorMap::new();
    if input.get("images").is_err() {
        return Ok(output);
    }
    let images = input.get("images")?;
    let (&[count, height, width, 3], false) = (images.shape(), images.bytes().is_empty()) else {
        return Err(anyhow!(
            "`images`: expected shape [B, H, W, 3], each at least 1, got {:?}",
            images.shape()
        ));
    };
    if images.dtype() != mgnt_weights::DType::U8 {
        return Err(anyhow!("`images`: expected U8, got {:?}", images.dtype()));
    }
    let pictures = (images.bytes().chunks_exact(height * width * 3))
        .map(|rgb| Ok(Picture::new(width, height, rgb.to_vec())?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let names = [
        (Dims::D64, "features_64"),
        (Dims::D192, "features_192"),
        (Dims::D768, "features_768"),
        (Dims::D2048, "pool_2048"),
    ];
    for (dims, name) in names.into_iter().filter(|(dims, _)| network.reaches(*dims)) {
        let (mut features, mut logits) = (Vec::new(), Vec::new());
        for picture in &pictures {
            let said = network.activations(std::slice::from_ref(picture), dims)?;
            features.extend(said.features);
            logits.extend(said.logits.unwrap_or_default());
        }
        output.insert_f32(name, &[count, dims.count()], &features)?;
        if !logits.is_empty() {
            output.insert_f32("logits_unbiased", &[count, logits.len() / count], &logits)?;
        }
    }
    Ok(output)
}

/// Reads a tensor from its device and files it.
pub fn insert<const D: usize>(output: &mut TensorMap, name: &str, tensor: Tensor<D>) -> anyhow::Result<()> {
    let shape = tensor.dims();
    let values: Vec<f32> = numbers(tensor).map_err(failed)?;
    Ok(output.insert_f32(name, &shape, &values)?)
}
