//! A nested transformer inside somebody's own program: every sub-model, and one decoding step with a cache.

use burn::tensor::{Device, Int, Tensor};
use mgnt_model::{ModelConfig, NestedTransformer, Preset};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = ModelConfig {
        layers: 2,
        width: 64,
        heads: 8,
        hidden: 256,
        tokens: 16,
        codes: 32,
        classes: 10,
        ..ModelConfig::preset(Preset::B)
    };
    let device = Device::flex();
    let model = NestedTransformer::init(&config, 1, &device)?;
    let vocabulary = config.vocabulary();

    // The class token, then sixteen places of which half are masked.
    let mask = vocabulary.mask() as i32;
    let mut ids = vec![vocabulary.class(3)? as i32];
    ids.extend((0..16).map(|place| if place < 8 { place } else { mask }));
    let tokens = Tensor::<1, Int>::from_data(ids.as_slice(), &device).unsqueeze::<2>();
    for &p in &config.sub_models {
        let logits = model.forward(tokens.clone(), config.sub_model(p)?);
        assert_eq!(logits.dims(), [1, 17, vocabulary.size()]);
        println!("p = {p}: logits {:?}", logits.dims());
    }

    // One step over everything keeps keys and values of the class token and the eight known places; the next one
    // processes the masked places only and attends over what was kept.
    let half = config.sub_model(2)?;
    let positions = Tensor::<1, Int>::arange(0..17, &device).unsqueeze::<2>();
    let (whole, cache) = model.forward_cached(tokens.clone(), positions.clone(), None, 9, half);
    let rest = |t: Tensor<2, Int>| t.narrow(1, 9, 8);
    let (part, _) = model.forward_cached(rest(tokens), rest(positions), Some(cache), 0, half);
    let difference = (part.clone() - whole.narrow(1, 9, 8)).abs().max().into_scalar::<f32>();
    assert!(difference < 1e-5, "{difference}");
    let logits = model.code_logits(part.reshape([8, 64]));
    println!("cached step: logits {:?} of the masked places", logits.dims());
    Ok(())
}
