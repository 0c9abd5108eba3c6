//! Where a model drops numbers, and what it takes for tokens: its layers are nobody else's to set.

use burn::module::Param;
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
