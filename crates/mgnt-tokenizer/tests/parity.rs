//! Against outputs of the published code, from its own checkpoint formats.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_tokenizer::published::{self, VideoShape};
use mgnt_tokenizer::{
    Error, ImageTokenizer, ImageTokenizerConfig, Probe, Shortcut, VideoTokenizer, VideoTokenizerConfig,
};
use mgnt_weights::{Error as WeightsError, NamedTensor, TensorMap, module, safetensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn maskgit_flax() -> TensorMap {
    mgnt_weights::flax::read(&golden("maskgit-vqgan/checkpoint.msgpack")).unwrap()
}

fn maskgit_port() -> TensorMap {
    mgnt_weights::torch::read(&golden("maskgit-vqgan/pytorch_model.bin")).unwrap()
}

fn magvit_flax() -> TensorMap {
    mgnt_weights::flax::read(&golden("magvit-3dvq/checkpoint.msgpack")).unwrap()
}

/// A float tensor of the case file, channels moved from last to second.
fn floats<const R: usize>(case: &TensorMap, name: &str) -> Tensor<R> {
    let tensor = case.get(name).unwrap();
    let data = TensorData::new(tensor.to_f32(), tensor.shape().to_vec());
    Tensor::<R>::from_data(data, &Device::flex()).movedim(R - 1, 1)
}

fn ints<const G: usize>(case: &TensorMap, name: &str) -> Tensor<G, Int> {
    let shape = case.get(name).unwrap().shape().to_vec();
    Tensor::from_data(TensorData::new(case.integers(name).unwrap(), shape), &Device::flex())
}

/// Largest |a - b| / (1 + |b|), checked.
fn close<const R: usize>(got: Tensor<R>, case: &TensorMap, name: &str) {
    let expected = floats::<R>(case, name);
    assert_eq!(got.dims(), expected.dims(), "{name}");
    let error = ((got - expected.clone()).abs() / (expected.abs() + 1.0)).max().into_scalar::<f32>();
    eprintln!("{name}: {error:.2e}");
    assert!(error < 1e-4, "{name}: {error}");
}

fn check<const R: usize, const G: usize>(probe: Probe<R, G>, case: &TensorMap, name: &str) {
    let indices = probe.indices.into_data().convert::<i64>();
    assert_eq!(indices.shape().to_vec(), case.get(&format!("{name}/indices")).unwrap().shape(), "{name}");
    let indices = indices.try_into_vec::<i64>().unwrap();
    assert_eq!(indices, case.integers(&format!("{name}/indices")).unwrap(), "{name}");
    close(probe.latents, case, &format!("{name}/latents"));
    close(probe.quantized, case, &format!("{name}/quantized"));
    close(probe.reconstruction, case, &format!("{name}/reconstruction"));
}

fn check_image((config, weights): (ImageTokenizerConfig, TensorMap)) {
    let expected = ImageTokenizerConfig {
        size: 256,
        filters: 32,
        multipliers: vec![1, 1, 2],
        residual_blocks: 2,
        embedding: 16,
        codes: 32,
        groups: 32,
        shortcut: Shortcut::Published,
    };
    assert_eq!(config, expected);
    let tokenizer = ImageTokenizer::from_weights(&config, weights, &Device::flex()).unwrap();
    let case = safetensors::read(&golden("maskgit-vqgan/case.safetensors")).unwrap();
    for name in ["a", "b"] {
        check(tokenizer.probe(floats(&case, &format!("{name}/image"))).unwrap(), &case, name);
    }
    for name in ["a", "b", "ids_only"] {
        let indices = ints(&case, &format!("{name}/indices"));
        let pictures = tokenizer.decode_indices(indices).unwrap();
        close(pictures, &case, &format!("{name}/reconstruction"));
    }
}

#[test]
fn published_maskgit_tokenizer() {
    check_image(published::image_from_flax(maskgit_flax(), 256).unwrap());
}

#[test]
fn the_pytorch_port_of_it() {
    check_image(published::image_from_port(maskgit_port(), 256).unwrap());
}

#[test]
fn ours_goes_back_to_the_port() {
    let (config, ours) = published::image_from_flax(maskgit_flax(), 256).unwrap();
    let port = published::image_to_port(&config, ours).unwrap();
    let original = maskgit_port();
    assert_eq!(port.len(), original.len());
    for (name, tensor) in original.iter() {
        assert!(port.get(name).unwrap() == tensor, "{name}");
    }
}

/// Sizes whose levels, blocks and widths all differ.
#[test]
fn a_tokenizer_of_ours_goes_to_the_port_and_comes_back() {
    let config = ImageTokenizerConfig {
        size: 64,
        filters: 32,
        multipliers: vec![1, 3, 2, 2],
        residual_blocks: 1,
        embedding: 5,
        codes: 7,
        groups: 32,
        shortcut: Shortcut::Published,
    };
    let ours = module::to_map(&ImageTokenizer::init(&config, 1, &Device::flex()).unwrap()).unwrap();
    let port = published::image_to_port(&config, ours.clone()).unwrap();
    assert_eq!(published::image_from_port(port, 64).unwrap(), (config.clone(), ours.clone()));

    let input = ImageTokenizerConfig { shortcut: Shortcut::Input, ..config.clone() };
    let error = published::image_to_port(&input, ours.clone()).unwrap_err().to_string();
    assert!(error.contains("`shortcut`"), "{error}");
    let groups = ImageTokenizerConfig { groups: 16, ..config };
    let error = published::image_to_port(&groups, ours).unwrap_err().to_string();
    assert!(error.contains("`groups`"), "{error}");
}

#[test]
fn published_magvit_tokenizer() {
    let tensors = magvit_flax();
    let shape = VideoShape { frames: 8, size: 16, temporal_downsample: vec![true, false] };
    let (config, weights) = published::video_from_flax(tensors.clone(), &shape).unwrap();
    let expected = VideoTokenizerConfig {
        frames: 8,
        size: 16,
        filters: 32,
        multipliers: vec![1, 1, 2],
        temporal_downsample: vec![true, false],
        encoder_residual_blocks: 1,
        decoder_residual_blocks: 1,
        embedding: 16,
        codes: 32,
        groups: 32,
    };
    assert_eq!(config, expected);
    let tokenizer = VideoTokenizer::from_weights(&config, weights, &Device::flex()).unwrap();
    let case = safetensors::read(&golden("magvit-3dvq/case.safetensors")).unwrap();
    for name in ["a", "b_odd_frames"] {
        check(tokenizer.probe(floats(&case, &format!("{name}/video"))).unwrap(), &case, name);
        let indices = ints(&case, &format!("{name}/indices"));
        let videos = tokenizer.decode_indices(indices).unwrap();
        close(videos, &case, &format!("{name}/reconstruction"));
    }

    let error = published::video_from_flax(tensors, &VideoShape::default()).unwrap_err().to_string();
    assert!(error.contains("`temporal_downsample`"), "{error}");
}

/// Checks that `read` lists a missing, a misshapen, an extra and an integer tensor of a map that is whole otherwise.
fn lists_all<C: std::fmt::Debug>(
    mut tensors: TensorMap,
    read: impl Fn(TensorMap) -> Result<C, Error>,
    [missing, shape]: [&str; 2],
) {
    tensors.remove(missing).unwrap();
    tensors.insert_f32(shape, &[5], &[0.0; 5]).unwrap();
    tensors.insert_f32("other", &[1], &[0.0]).unwrap();
    let sound = |&(name, _): &(&str, &NamedTensor)| name != shape && name != "other";
    let (whole, dims) = tensors.iter().find(sound).map(|(n, t)| (n.to_owned(), t.shape().to_vec())).unwrap();
    tensors.insert_i32(&whole, &dims, &vec![1; dims.iter().product()]).unwrap();
    let error = read(tensors).unwrap_err();
    let Error::Weights(WeightsError::Mismatch(problems)) = error else { panic!("{error}") };
    assert_eq!(problems.len(), 4, "{problems:?}");
    let wanted = [
        format!("missing  {missing} "),
        format!("shape    {shape}: "),
        format!("type     {whole}: expected a floating-point type, got I32"),
        "extra    other [1]".to_owned(),
    ];
    for part in wanted {
        assert!(problems.iter().any(|problem| problem.contains(&part)), "{part}: {problems:?}");
    }
}

#[test]
fn every_tensor_that_does_not_fit_is_listed() {
    let flax = mgnt_weights::flax::parameters(maskgit_flax());
    let names = ["encoder/ResBlock_4/Conv_2/kernel", "decoder/Conv_1/bias"];
    lists_all(flax, |tensors| published::image_from_flax(tensors, 256), names);
    let names = ["decoder.up.1.block.0.nin_shortcut.weight", "encoder.norm_out.bias"];
    lists_all(maskgit_port(), |tensors| published::image_from_port(tensors, 256), names);
    let (config, ours) = published::image_from_port(maskgit_port(), 256).unwrap();
    let names = ["decoder.upsampled.1.weight", "quantizer.codebook"];
    lists_all(ours, |tensors| published::image_to_port(&config, tensors), names);
}

#[test]
fn what_hides_the_sizes_is_named() {
    let mut flax = mgnt_weights::flax::parameters(maskgit_flax());
    flax.remove("encoder/Conv_0/kernel").unwrap();
    flax.remove("quantizer/codebook").unwrap();
    let error = published::image_from_flax(flax, 256).unwrap_err().to_string();
    assert!(error.contains("missing  encoder/Conv_0/kernel"), "{error}");
    assert!(error.contains("missing  quantizer/codebook"), "{error}");
    assert!(published::image_from_flax(TensorMap::new(), 256).is_err());
    assert!(published::image_from_port(TensorMap::new(), 256).is_err());
    assert!(published::image_from_port(maskgit_port(), 250).unwrap_err().to_string().contains("`size`"));
}
