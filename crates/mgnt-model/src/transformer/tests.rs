//! Where a model drops numbers: its layers are nobody else's to set.

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

#[test]
fn each_place_of_dropout_drops_by_itself() {
    let config = ModelConfig {
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
    };
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
