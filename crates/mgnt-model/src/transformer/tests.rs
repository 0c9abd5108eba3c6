//! Where a model drops numbers, and what it takes for tokens: its layers are nobody else's to set.

use burn::module::{Lora, ModuleMapper, Param};
use burn::tensor::TensorData;

use super::*;
use crate::Preset;
use crate::attention::Dense;

/// What changes a model.
type Change = fn(&mut NestedTransformer);

fn zero(dense: &mut Dense) {
    for_each(&mut dense.weight);
    for_each(&mut dense.bias);
    fn for_each<const D: usize>(param: &mut Param<Tensor<D>>) {
        *param = Param::from_tensor(param.val().zeros_like().detach());
    }
}

fn small() -> ModelConfig {
    ModelConfig {
        layers: 1,
        width: 16,
        heads: 2,
        hidden: 32,
        tokens: 4,
        codes: 6,
        classes: 2,
        sub_models: vec![1, 2],
        dropout: 0.0,
        ..ModelConfig::preset(Preset::B)
    }
}

#[test]
fn each_place_of_dropout_drops_by_itself() {
    let config = small();
    let device = Device::flex().autodiff();
    device.seed(1);
    let base = NestedTransformer::init(&config, 5, &device).unwrap();
    let tokens = Tensor::<2, Int>::from_data(TensorData::from([[6, 1, 9, 3, 9]]), &device);
    let logits = |model: &NestedTransformer| {
        model.forward(tokens.clone(), config.full()).into_data().try_into_vec::<f32>().unwrap()
    };
    let nothing: Change = |_| ();
    let no_mlp: Change = |model| zero(&mut model.blocks[0].mlp.down);
    let no_attention: Change = |model| zero(&mut model.blocks[0].attention.output);
    let sites: [(&str, Change, Change); 4] = [
        ("embedding", nothing, |model| model.embedding.dropout.prob = 0.5),
        ("weights of attention", no_mlp, |model| model.blocks[0].attention.dropout.prob = 0.5),
        ("attention", no_mlp, |model| model.blocks[0].dropout.prob = 0.5),
        ("mlp", no_attention, |model| model.blocks[0].dropout.prob = 0.5),
    ];
    for (site, alone, dropping) in sites {
        let mut model = base.clone();
        alone(&mut model);
        let before = logits(&model);
        assert_eq!(logits(&model), before);
        dropping(&mut model);
        assert_ne!(logits(&model), before, "{site}");
    }
}

/// A model without a tape says the same of tokens from a device with one, and of any integers.
#[test]
fn tokens_change_neither_what_a_model_drops_nor_the_type_of_positions() {
    let device = Device::flex();
    let model = NestedTransformer::init(&ModelConfig { dropout: 0.5, ..small() }, 5, &device).unwrap();
    let kernels = Arc::new(crate::kernels::Operations);
    for model in [model.clone(), model.clone().with_kernels(kernels)] {
        let logits = |device: &Device, dtype: DType| {
            let ints = |values: [[i32; 5]; 1]| {
                Tensor::<2, Int>::from_data(TensorData::from(values), (device, dtype))
            };
            let (tokens, places) = (ints([[6, 1, 9, 3, 9]]), ints([[0, 1, 2, 3, 4]]));
            let sub_model = model.config().full();
            let whole = model.forward(tokens.clone(), sub_model);
            let first = |all: &Tensor<2, Int>| all.clone().narrow(1, 0, 2);
            let rest = |all: &Tensor<2, Int>| all.clone().narrow(1, 2, 3);
            let (_, cache) = model.forward_cached(first(&tokens), first(&places), None, 2, sub_model);
            let (hidden, _) = model.forward_cached(rest(&tokens), rest(&places), Some(cache), 0, sub_model);
            assert!(!whole.device().is_autodiff() && !hidden.device().is_autodiff());
            (whole.into_data(), hidden.into_data())
        };
        let expected = logits(&device, DType::I32);
        assert!(logits(&device.clone().autodiff(), DType::I32) == expected, "on a tape");
        assert!(logits(&device, DType::I64) == expected, "of 64 bits");
    }
    let tokens = Tensor::<2, Int>::zeros([1, 5], (&device, DType::I64));
    let (tokens, positions) = model.taken(tokens.clone(), places(&tokens).cast(IntDType::I32));
    assert_eq!([tokens.dtype(), positions.dtype()], [DType::I64; 2]);
}

/// What the message of a panic says.
fn panic_of(run: impl FnOnce()) -> String {
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
    *payload.downcast::<String>().unwrap()
}

#[test]
fn what_does_not_fit_is_told_in_the_models_own_words() {
    let device = Device::flex();
    let config = ModelConfig { layers: 2, ..small() };
    let init = |config: &ModelConfig| NestedTransformer::init(config, 5, &device).unwrap();
    let (model, one_layer) = (init(&config), init(&small()));
    let numbers = |shape: [usize; 2]| Tensor::<2, Int>::zeros(shape, &device);
    let cached = |model: &NestedTransformer, batch, p| {
        let sub_model = config.sub_model(p).unwrap();
        let (tokens, places) = (numbers([batch, 3]), numbers([batch, 3]));
        model.forward_cached(tokens, places, None, 2, sub_model).1
    };
    let on = |tokens, places, cache: Option<KvCache>| {
        panic_of(|| drop(model.forward_cached(tokens, places, cache, 0, config.full())))
    };
    let [two, three] = [numbers([2, 2]), numbers([2, 3])];
    for (told, expected) in [
        (
            panic_of(|| drop(model.forward(numbers([1, 6]), config.full()))),
            "tokens: expected shape [B, A] with A at most 5, got [1, 6]",
        ),
        (
            on(three.clone(), numbers([3, 2]), None),
            "positions: expected shape [2, 3], that of the tokens, got [3, 2]",
        ),
        (
            on(numbers([2, 0]), numbers([2, 0]), None),
            "tokens: expected shape [B, A], none of it 0, got [2, 0]",
        ),
        (
            on(two.clone(), two.clone(), Some(cached(&one_layer, 2, 1))),
            "cache: expected keys and values of 2 blocks, got those of 1",
        ),
        (
            on(two.clone(), two.clone(), Some(cached(&model, 1, 1))),
            "cache: expected keys of 2 samples, 2 heads and head width 8 (p = 1), got those of 1, 2 and 8",
        ),
        (
            on(two.clone(), two, Some(cached(&model, 2, 2))),
            "cache: expected keys of 2 samples, 2 heads and head width 8 (p = 1), got those of 2, 1 and 8",
        ),
        (
            panic_of(|| drop(model.code_logits(Tensor::zeros([3, 15], &device)))),
            "residual stream: expected width 16, got shape [3, 15]",
        ),
    ] {
        assert_eq!(told, expected);
    }
    // Nothing was kept, which serves any batch.
    let (_, empty) = model.forward_cached(three.clone(), three.clone(), None, 0, config.full());
    model.forward_cached(three.clone(), three, Some(empty), 0, config.full());
}

/// Makes factors that are zero something else.
struct Lifted;

impl ModuleMapper for Lifted {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_zero = param.val().abs().sum().into_scalar::<f32>() == 0.0;
        if D == 2 && is_zero { param.map(|factor| factor + 0.5) } else { param }
    }
}

#[test]
fn low_rank_updates_are_saved_within_their_weights() {
    let folder = tempfile::tempdir().unwrap();
    let (config, device) = (small(), Device::flex());
    let base = NestedTransformer::init(&config, 5, &device).unwrap();
    let mut tuned = base.clone().apply_lora(Lora::new(2, 4.0));
    // A fresh update changes nothing, since one of its factors is zero.
    tuned = tuned.map(&mut Lifted);
    let tokens = Tensor::<2, Int>::from_data(TensorData::from([[6, 1, 9, 3, 9]]), &device);
    let logits = |model: &NestedTransformer| model.forward(tokens.clone(), config.full());
    tuned.save(folder.path().join("model")).unwrap();
    let loaded = NestedTransformer::load(folder.path().join("model"), &device).unwrap();
    let off = |a: Tensor<3>, b: Tensor<3>| (a - b).abs().max().into_scalar::<f32>();
    assert!(off(logits(&loaded), logits(&tuned)) < 1e-5);
    assert!(off(logits(&loaded), logits(&base)) > 1e-2);
}
