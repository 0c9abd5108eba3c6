//! Plans and caches against float64 traces with given tokens, iteration by iteration.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::Device;
use mgnt_decode::replay::{Given, replay};
use mgnt_decode::{CachePolicy, Error, Strategy};
use mgnt_model::{ModelConfig, NestedTransformer, published};
use mgnt_weights::{TensorMap, safetensors};

fn golden(name: &str) -> TensorMap {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/nested");
    safetensors::read(&folder.join(format!("{name}.safetensors"))).unwrap()
}

fn model() -> (ModelConfig, NestedTransformer) {
    let mut weights = TensorMap::new();
    for (name, tensor) in golden("nested").iter() {
        if let Some(name) = name.strip_prefix("weights/") {
            weights.insert(name, tensor.clone());
        }
    }
    let (config, weights) = published::from_flax(weights, 10, false).unwrap();
    let model = NestedTransformer::from_weights(&config, weights, &Device::flex()).unwrap();
    (config, model)
}

fn rows(map: &TensorMap, name: &str) -> Vec<Vec<usize>> {
    let values: Vec<usize> = map.integers(name).unwrap().into_iter().map(|v| v as usize).collect();
    let columns = *map.get(name).unwrap().shape().last().unwrap();
    values.chunks(columns).map(<[usize]>::to_vec).collect()
}

/// Runs a trace in decode order; returns the largest error of a logit, relative to 1 + |expected|.
fn run(name: &str) -> f32 {
    let (config, model) = model();
    let trace = golden(name);
    let (order, tokens) = (rows(&trace, "order"), rows(&trace, "final_tokens"));
    let classes = trace.integers("class_ids").unwrap();
    let factors = trace.integers("p").unwrap();
    let refresh: Vec<bool> = trace.integers("refresh").unwrap().iter().map(|&r| r == 1).collect();
    let given: Vec<Given> = (0..classes.len())
        .map(|row| Given {
            class: classes[row] as usize,
            order: order[row].clone(),
            tokens: tokens[row].iter().map(|&token| token as u16).collect(),
        })
        .collect();

    let text: Vec<String> = factors.iter().map(i64::to_string).collect();
    let asked = (0..refresh.len()).filter(|&i| refresh[i]).collect();
    let strategy = Strategy::parse(&text.join(",")).unwrap().with_cache(CachePolicy::Explicit(asked));
    let plan = strategy.plan(&config).unwrap();
    assert_eq!(plan.iterations().iter().map(|i| i.refresh).collect::<Vec<_>>(), refresh);
    let after: Vec<i64> = plan.iterations().iter().map(|i| (i.masked - i.decided) as i64).collect();
    assert_eq!(after, trace.integers("masked_after").unwrap());
    let active: Vec<i64> = plan.iterations().iter().map(|i| i.active as i64).collect();
    assert_eq!(active, trace.integers("active_count").unwrap());

    let mut worst = 0.0f32;
    replay(&model, &plan, &given, &mut |said| {
        let key = |part: &str| format!("k{:02}/{part}", said.iteration.index);
        assert_eq!(said.places, rows(&trace, &key("masked_positions")));
        let expected = trace.get(&key("logits")).unwrap().to_f32();
        assert_eq!(said.logits.len(), expected.len());
        for (a, b) in said.logits.iter().zip(&expected) {
            worst = worst.max((a - b).abs() / (1.0 + b.abs()));
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    worst
}

#[test]
fn what_cannot_be_replayed() {
    let (config, model) = model();
    let plan = Strategy::baseline(4).plan(&config).unwrap();
    let good = Given { class: 0, order: (0..64).collect(), tokens: vec![0; 64] };
    let refused = |given: Given| replay(&model, &plan, &[given], &mut |_| Ok::<_, Error>(())).is_err();
    assert!(!refused(good.clone()));
    assert!(refused(Given { order: vec![0; 64], ..good.clone() }));
    assert!(refused(Given { order: (0..63).collect(), ..good.clone() }));
    assert!(refused(Given { tokens: vec![32; 64], ..good.clone() }));
    assert!(refused(Given { class: 10, ..good.clone() }));
    let of = |config: ModelConfig| {
        let plan = Strategy::baseline(4).plan(&config).unwrap();
        replay(&model, &plan, std::slice::from_ref(&good), &mut |_| Ok::<_, Error>(()))
    };
    assert!(of(ModelConfig { dropout: 0.5, ..config.clone() }).is_ok());
    let error = of(ModelConfig { layers: config.layers + 1, ..config.clone() }).unwrap_err().to_string();
    let (planned, got) = (config.layers + 1, config.layers);
    assert_eq!(error, format!("layers: expected {planned}, as the plan was made for, got {got}"));
}

#[test]
fn all_traces() {
    for name in [
        "trace_uncached",
        "trace_cached_switch",
        "trace_cached_refresh_all",
        "trace_uncached_p2",
        "trace_cached_never_p2",
        "trace_cached_explicit_p2",
        "trace_cached_updown",
        "trace_batch2_uncached",
        "trace_batch2_cached_switch",
    ] {
        let error = run(name);
        assert!(error < 1e-4, "{name}: {error}");
    }
}
