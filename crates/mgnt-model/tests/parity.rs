//! Logits against the published MaskGIT code and against a float64 reference of the sub-models.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use mgnt_model::compute::whole_rows;
use mgnt_model::kernels::Operations;
use mgnt_model::{Error, ModelConfig, NestedTransformer, Nesting, Norm, published};
use mgnt_weights::{TensorMap, safetensors};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn ints(map: &TensorMap, name: &str) -> Tensor<2, Int> {
    let shape = map.get(name).unwrap().shape().to_vec();
    Tensor::from_data(TensorData::new(map.integers(name).unwrap(), shape), &Device::flex())
}

/// Largest |a - b| / (1 + |b|).
fn difference(got: Tensor<3>, map: &TensorMap, name: &str) -> f32 {
    let expected = map.get(name).unwrap();
    assert_eq!(got.dims(), *expected.shape());
    let got = got.into_data().try_into_vec::<f32>().unwrap();
    got.iter().zip(expected.to_f32()).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max)
}

fn weights_of(map: &TensorMap) -> TensorMap {
    let mut weights = TensorMap::new();
    for (name, tensor) in map.iter() {
        if let Some(name) = name.strip_prefix("weights/") {
            weights.insert(name, tensor.clone());
        }
    }
    weights
}

fn model(weights: TensorMap) -> (ModelConfig, NestedTransformer) {
    let (config, weights) = published::from_flax(weights, 10, false).unwrap();
    let model = NestedTransformer::from_weights(&config, weights, &Device::flex()).unwrap();
    (config, model)
}

#[test]
fn published_maskgit_transformer() {
    let (config, model) =
        model(safetensors::read(&golden("maskgit-transformer/weights.safetensors")).unwrap());
    assert_eq!((config.layers, config.width, config.heads, config.hidden), (4, 64, 8, 256));
    assert_eq!((config.tokens, config.codes, config.classes), (64, 32, 10));
    let case = safetensors::read(&golden("maskgit-transformer/case.safetensors")).unwrap();
    let logits = model.forward(ints(&case, "input_ids_positive"), config.full());
    let difference = difference(logits, &case, "logits");
    assert!(difference < 1e-4, "{difference}");
}

/// MAGVIT's transformer is the same under other names, and has an unconditional class.
#[test]
fn published_magvit_names() {
    let mut renamed = TensorMap::new();
    for (name, tensor) in
        safetensors::read(&golden("maskgit-transformer/weights.safetensors")).unwrap().iter()
    {
        let mut name = name.replace("TransformerLayer_", "BertLayer_");
        for part in ["Embed_0", "Attention_0", "Mlp_0", "MlmLayer_0"] {
            name = name.replace(part, &format!("Bert{part}"));
        }
        renamed.insert(name, tensor.clone());
    }
    assert!(renamed.get("BertLayer_0/BertAttention_0/self_attention/query/kernel").is_ok());
    assert_eq!(published::Family::of(&renamed), Some(published::Family::Magvit));
    let (config, weights) = published::from_flax(renamed.clone(), 9, true).unwrap();
    assert_eq!((config.codes, config.classes, config.vocabulary().null()), (32, 9, 41));
    let model = NestedTransformer::from_weights(&config, weights, &Device::flex()).unwrap();
    let case = safetensors::read(&golden("maskgit-transformer/case.safetensors")).unwrap();
    let logits = model.forward(ints(&case, "input_ids_positive"), config.full());
    assert!(difference(logits, &case, "logits") < 1e-4);

    renamed.insert_f32("BertEmbed_0/segment_embeddings/embedding", &[1, 64], &[0.0; 64]).unwrap();
    let error = published::from_flax(renamed, 9, true).unwrap_err().to_string();
    assert!(error.contains("extra    BertEmbed_0/segment_embeddings/embedding"), "{error}");
}

#[test]
fn every_sub_model() {
    let map = safetensors::read(&golden("nested/nested.safetensors")).unwrap();
    let (config, model) = model(weights_of(&map));
    for (form, model) in forms(&model) {
        for p in [1, 2, 4, 8] {
            let logits = model.forward(ints(&map, "input_ids"), config.sub_model(p).unwrap());
            let difference = difference(logits, &map, &format!("logits_p{p}"));
            assert!(difference < 1e-4, "{form}, p = {p}: {difference}");
        }
    }
}

/// A model in each form that devices have for it.
fn forms(model: &NestedTransformer) -> [(&'static str, NestedTransformer); 5] {
    [
        ("plain", model.clone()),
        ("processor", model.clone().on_processor()),
        ("accelerator", model.clone().on_accelerator()),
        ("exact", model.clone().on_accelerator().with_exact_products().unwrap()),
        ("kernels", by_kernels(model)),
    ]
}

fn by_kernels(model: &NestedTransformer) -> NestedTransformer {
    model.clone().with_kernels(Arc::new(Operations))
}

/// Whatever form a model has, Burn's records of that form are all of it.
#[test]
fn a_record_of_a_form_is_the_whole_model() {
    let map = safetensors::read(&golden("nested/nested.safetensors")).unwrap();
    let (config, base) = model(biased(&weights_of(&map)));
    let other = NestedTransformer::init(&config, 9, &Device::flex()).unwrap();
    let tokens = ints(&map, "input_ids");
    let logits = |model: &NestedTransformer, p| {
        let logits = model.forward(tokens.clone(), config.sub_model(p).unwrap());
        logits.into_data().try_into_vec::<f32>().unwrap()
    };
    for ((form, from), (_, into)) in forms(&base).into_iter().zip(forms(&other)) {
        let loaded = into.load_record(from.clone().into_record());
        for &p in &config.sub_models {
            assert!(logits(&loaded, p) == logits(&from, p), "{form} p = {p}");
        }
        // What is written is the plain model.
        let folder = tempfile::tempdir().unwrap();
        loaded.save(folder.path().join("m")).unwrap();
        let read = NestedTransformer::load(folder.path().join("m"), &Device::flex()).unwrap();
        assert!(logits(&read, 1) == logits(&base, 1), "{form}");
    }
}

/// A full model whose weights outside of what sub-model p uses are zero computes what p does, in every nesting.
#[test]
fn every_nesting_is_the_full_model_with_the_rest_at_zero() {
    let base = ModelConfig {
        layers: 2,
        width: 32,
        heads: 4,
        hidden: 48,
        tokens: 9,
        codes: 12,
        classes: 3,
        null_class: true,
        sub_models: vec![1, 2, 4],
        norm: Norm::Post,
        nesting: Nesting::HeadsAndHidden,
        dropout: 0.0,
    };
    let device = Device::flex();
    let tokens = Tensor::<2, Int>::from_data([[12, 1, 2, 16, 4, 16, 6, 7, 8, 16]], &device);
    for nesting in [Nesting::HeadsAndHidden, Nesting::Hidden, Nesting::Features] {
        for norm in [Norm::Post, Norm::Pre] {
            let config = ModelConfig { nesting, norm, ..base.clone() };
            let model = NestedTransformer::init(&config, 5, &device).unwrap();
            let folder = tempfile::tempdir().unwrap();
            model.save(folder.path().join("m")).unwrap();
            let weights = biased(&safetensors::read(&folder.path().join("m/model.safetensors")).unwrap());
            let model = NestedTransformer::from_weights(&config, weights.clone(), &device).unwrap();
            for p in [1, 2, 4] {
                let masked = NestedTransformer::from_weights(&config, zeroed(&weights, nesting, p), &device);
                let expected = masked.unwrap().forward(tokens.clone(), config.full());
                for (form, model) in forms(&model) {
                    let got = model.forward(tokens.clone(), config.sub_model(p).unwrap());
                    let difference = (got - expected.clone()).abs().max().into_scalar::<f32>();
                    assert!(difference < 1e-5, "{form} {nesting:?} {norm:?} p = {p}: {difference}");
                }
            }
        }
    }
}

/// Weights whose biases are not zero and whose LayerNorms are not alike, as those of a new model are.
fn biased(weights: &TensorMap) -> TensorMap {
    let mut out = TensorMap::new();
    for (place, (name, tensor)) in weights.iter().enumerate() {
        let mut values = tensor.to_f32();
        let wave = |i: usize| (i as f32 * 0.37 + place as f32).sin();
        if name.ends_with("bias") || name.ends_with("beta") {
            values.iter_mut().enumerate().for_each(|(i, v)| *v = 0.1 * wave(i));
        } else if name.ends_with("gamma") {
            values.iter_mut().enumerate().for_each(|(i, v)| *v = 1.0 + 0.3 * wave(i));
        }
        out.insert_f32(name, tensor.shape(), &values).unwrap();
    }
    out
}

/// Weights with zeros in the rows, columns and biases that sub-model p leaves out.
fn zeroed(weights: &TensorMap, nesting: Nesting, p: usize) -> TensorMap {
    let (heads, features) = match nesting {
        Nesting::HeadsAndHidden => (32 / p, 32),
        Nesting::Hidden => (32, 32),
        Nesting::Features => (32 / p, 32 / p),
    };
    let hidden = 48 / p;
    let mut out = TensorMap::new();
    for (name, tensor) in weights.iter() {
        let (rows, columns) = match name {
            n if n.contains("query") || n.contains("key") || n.contains("value") => (features, heads),
            n if n.contains("attention.output") => (heads, features),
            n if n.contains("mlp.up") => (features, hidden),
            n if n.contains("mlp.down") => (hidden, features),
            _ => (usize::MAX, usize::MAX),
        };
        let width = *tensor.shape().last().unwrap();
        let is_bias = tensor.shape().len() == 1;
        let keep = |i: usize| i % width < columns && (is_bias || i / width < rows);
        let values: Vec<f32> =
            tensor.to_f32().into_iter().enumerate().map(|(i, v)| if keep(i) { v } else { 0.0 }).collect();
        out.insert_f32(name, tensor.shape(), &values).unwrap();
    }
    out
}

#[test]
fn a_cached_step_over_the_same_tokens_equals_the_full_forward() {
    let map = safetensors::read(&golden("nested/nested.safetensors")).unwrap();
    let (config, model) = model(weights_of(&map));
    let device = Device::flex();
    let tokens = ints(&map, "input_ids");
    let [batch, length] = tokens.dims();
    let positions = Tensor::arange(0..length as i64, &device).unsqueeze().repeat_dim(0, batch);
    let from = |t: &Tensor<2, Int>, first: usize| t.clone().narrow(1, first, length - first);
    for (form, model) in forms(&model) {
        let room = |positions: usize| match form {
            "plain" | "processor" => positions,
            _ => whole_rows(positions),
        };
        for p in [1, 2, 4, 8] {
            let sub_model = config.sub_model(p).unwrap();
            let (full, cache) = model.forward_cached(tokens.clone(), positions.clone(), None, 30, sub_model);
            assert_eq!(cache.len(), 30);
            let of_a_position = (2 * config.layers * batch * config.width / p * 4) as u64;
            let bytes = of_a_position * room(length) as u64;
            assert_eq!(cache.bytes(), bytes);
            let near = |part: Tensor<3>, first: usize| {
                let rest = full.clone().narrow(1, first, length - first);
                let difference = (part - rest).abs().max().into_scalar::<f32>();
                assert!(difference < 1e-5, "{form}, p = {p}, from {first}: {difference}");
            };
            // What is cached serves twice: what is written behind it does not reach into a copy.
            let again = cache.clone();
            let (part, grown) =
                model.forward_cached(from(&tokens, 30), from(&positions, 30), Some(cache), 40, sub_model);
            near(part, 30);
            assert_eq!((grown.len(), grown.bytes()), (40, bytes));
            let other = from(&tokens, 40).zeros_like();
            let (_, spoilt) =
                model.forward_cached(other, from(&positions, 40), Some(grown), length, sub_model);
            assert_eq!((spoilt.len(), spoilt.bytes()), (length, bytes));
            let (part, whole) =
                model.forward_cached(from(&tokens, 30), from(&positions, 30), Some(again), length, sub_model);
            near(part, 30);
            assert_eq!(whole.len(), length);
            // A context that does not fill the buffers.
            let fewer = |t: &Tensor<2, Int>| t.clone().narrow(1, 0, 20);
            let (_, short) = model.forward_cached(fewer(&tokens), fewer(&positions), None, 10, sub_model);
            let one = |t: &Tensor<2, Int>| t.clone().narrow(1, 10, 1);
            let (_, less) =
                model.forward_cached(one(&tokens), one(&positions), Some(short.clone()), 11, sub_model);
            assert_eq!((less.len(), less.bytes()), (11, of_a_position * room(11) as u64));
            let (_, more) =
                model.forward_cached(from(&tokens, 10), from(&positions, 10), Some(short), length, sub_model);
            assert_eq!((more.len(), more.bytes()), (length, bytes));
        }
    }
}

#[test]
fn of_nothing_there_are_no_logits() {
    let map = safetensors::read(&golden("nested/nested.safetensors")).unwrap();
    let (config, model) = model(weights_of(&map));
    let vocabulary = config.vocabulary().size();
    for (form, model) in forms(&model) {
        let none = Tensor::<2, Int>::empty([0, config.positions()], &Device::flex());
        let logits = model.forward(none, config.full());
        assert_eq!(logits.dims(), [0, config.positions(), vocabulary], "{form}");
        let rows = Tensor::<2>::empty([0, config.width], &Device::flex());
        assert_eq!(model.vocabulary_logits(rows.clone()).dims(), [0, vocabulary], "{form}");
        assert_eq!(model.code_logits(rows).dims(), [0, config.codes], "{form}");
    }
}

#[test]
fn half_precision_stays_near_single() {
    let map = safetensors::read(&golden("nested/nested.safetensors")).unwrap();
    let (config, single) = model(weights_of(&map));
    let tokens = ints(&map, "input_ids");
    // A type with b bits of fraction rounds to 2^-(b + 1); bf16's bound is the one that users are promised.
    for (dtype, size, bound) in [(FloatDType::BF16, 2, 2e-2), (FloatDType::F16, 2, 2.5e-3)] {
        let half = single.clone().with_type(dtype).unwrap();
        assert_eq!((half.compute_type(), single.compute_type()), (dtype.into(), DType::F32));
        let joined = single.clone().on_accelerator().with_type(dtype).unwrap();
        let by_kernels = by_kernels(&single).with_type(dtype).unwrap();
        // f16 goes through a fused kernel, which takes any number of positions.
        let joined_is_whole = dtype == FloatDType::BF16;
        for (half, has_whole_rows, p) in [(&half, false), (&joined, joined_is_whole), (&by_kernels, true)]
            .into_iter()
            .flat_map(|(half, has)| [1, 2, 4, 8].map(|p| (half, has, p)))
        {
            let sub_model = config.sub_model(p).unwrap();
            let exact = single.forward(tokens.clone(), sub_model);
            let logits = half.forward(tokens.clone(), sub_model);
            assert_eq!(logits.dtype(), DType::F32);
            let largest = exact.clone().abs().max().into_scalar::<f32>();
            let difference = (logits - exact).abs().max().into_scalar::<f32>() / largest;
            assert!(difference < bound, "{dtype:?}, p = {p}: {difference} of the largest logit");
            assert!(difference > 0.0, "{dtype:?}, p = {p}: nothing was rounded");

            let [batch, length] = tokens.dims();
            let positions =
                Tensor::arange(0..length as i64, &Device::flex()).unsqueeze().repeat_dim(0, batch);
            let (_, cache) = half.forward_cached(tokens.clone(), positions, None, length, sub_model);
            let room = if has_whole_rows { whole_rows(length) } else { length };
            assert_eq!(cache.bytes(), (2 * config.layers * batch * room * config.width / p * size) as u64);
        }
    }
}

#[test]
fn a_model_directory_round_trips_and_says_what_does_not_fit() {
    let map = safetensors::read(&golden("nested/nested.safetensors")).unwrap();
    let (config, model) = model(weights_of(&map));
    let folder = tempfile::tempdir().unwrap();
    // In every form it is the same file.
    model.clone().on_accelerator().save(folder.path().join("m")).unwrap();
    let again = NestedTransformer::load(folder.path().join("m"), &Device::flex()).unwrap();
    let tokens = ints(&map, "input_ids");
    let difference = difference(again.forward(tokens, config.full()), &map, "logits_p1");
    assert!(difference < 1e-4, "{difference}");

    let other = ModelConfig { layers: 5, ..config };
    mgnt_weights::directory::write_ron(&folder.path().join("m/config.ron"), &other).unwrap();
    let error = NestedTransformer::load(folder.path().join("m"), &Device::flex()).unwrap_err();
    assert!(matches!(error, Error::Weights(_)));
    assert!(error.to_string().contains("missing  blocks.4.attention.query.weight"), "{error}");
}

#[test]
fn a_wrong_number_of_classes_or_a_stray_tensor_is_refused() {
    let weights = safetensors::read(&golden("maskgit-transformer/weights.safetensors")).unwrap();
    assert!(published::from_flax(weights.clone(), 43, false).is_err());
    let mut stray = weights;
    stray.insert_f32("Other_0/kernel", &[1], &[0.0]).unwrap();
    let error = published::from_flax(stray, 10, false).unwrap_err().to_string();
    assert!(error.contains("extra    Other_0/kernel"), "{error}");
}

#[test]
fn every_published_tensor_that_does_not_fit_is_listed() {
    let mut weights = safetensors::read(&golden("maskgit-transformer/weights.safetensors")).unwrap();
    let refused =
        |weights: &TensorMap| published::from_flax(weights.clone(), 10, false).unwrap_err().to_string();
    assert_eq!(published::Family::of(&weights), Some(published::Family::Maskgit));
    weights.remove("TransformerLayer_0/Attention_0/self_attention/key/bias").unwrap();
    weights.remove("MlmLayer_0/mlm_ln/scale").unwrap();
    weights.insert_f32("MlmLayer_0/mlm_bias/bias", &[5], &[0.0; 5]).unwrap();
    weights.insert_i32("MlmLayer_0/mlm_ln/bias", &[64], &[1; 64]).unwrap();
    weights.insert_f32("Other_0/kernel", &[1], &[0.0]).unwrap();
    let error = refused(&weights);
    for part in [
        "missing  TransformerLayer_0/Attention_0/self_attention/key/bias [8, 8]",
        "missing  MlmLayer_0/mlm_ln/scale [64]",
        "shape    MlmLayer_0/mlm_bias/bias: expected [43], got [5]",
        "type     MlmLayer_0/mlm_ln/bias: expected a floating-point type, got I32",
        "extra    Other_0/kernel [1]",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(error.lines().count(), 6, "{error}");

    weights.remove("Embed_0/position_embeddings/embedding").unwrap();
    weights.insert_f32("TransformerLayer_0/Mlp_0/intermediate_output/kernel", &[1], &[0.0]).unwrap();
    let error = refused(&weights);
    for part in [
        "missing  Embed_0/position_embeddings/embedding",
        "shape    TransformerLayer_0/Mlp_0/intermediate_output/kernel: expected 2 dimensions, got [1]",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(published::Family::of(&TensorMap::new()), None);
}
