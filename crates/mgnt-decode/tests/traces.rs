//! Plans and caches against float64 traces with given tokens, iteration by iteration.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_decode::{CachePolicy, Strategy};
use mgnt_model::{KvCache, ModelConfig, NestedTransformer, published};
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

fn tensor(rows: &[Vec<i32>]) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), rows[0].len()]), &Device::flex())
}

/// Runs a trace in decode order; returns the largest error of a logit, relative to 1 + |expected|.
fn run(name: &str) -> f32 {
    let (config, model) = model();
    let trace = golden(name);
    let (order, tokens) = (rows(&trace, "order"), rows(&trace, "final_tokens"));
    let classes = trace.integers("class_ids").unwrap();
    let factors = trace.integers("p").unwrap();
    let refresh: Vec<bool> = trace.integers("refresh").unwrap().iter().map(|&r| r == 1).collect();
    let vocabulary = config.vocabulary();

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
    let mut cache: Option<KvCache> = None;
    for iteration in plan.iterations() {
        if iteration.refresh {
            cache = None;
        }
        let start = cache.as_ref().map_or(0, KvCache::len);
        let decided = config.tokens - iteration.masked;
        let (mut seen, mut positions) = (Vec::new(), Vec::new());
        for (row, order) in order.iter().enumerate() {
            let token =
                |i: usize| if i < decided { tokens[row][order[i]] as i32 } else { vocabulary.mask() as i32 };
            let class = vocabulary.class(classes[row] as usize).unwrap() as i32;
            let all = std::iter::once(class).chain((0..config.tokens).map(token));
            seen.push(all.skip(start).collect::<Vec<_>>());
            let all = std::iter::once(0).chain(order.iter().map(|&place| place as i32 + 1));
            positions.push(all.skip(start).collect::<Vec<_>>());
        }
        let (hidden, fresh) =
            model.forward_cached(tensor(&seen), tensor(&positions), cache.as_ref(), iteration.sub_model);
        let kept = fresh.keep(1 + decided);
        assert_eq!(
            kept.len() as i64,
            trace.integers("cache_len_after").map_or(kept.len() as i64, |c| c[iteration.index])
        );

        let [batch, active, width] = hidden.dims();
        let masked = hidden.narrow(1, active - iteration.masked, iteration.masked);
        let logits = model.code_logits(masked.reshape([batch * iteration.masked, width]));
        let logits = logits.into_data().try_into_vec::<f32>().unwrap();
        let key = |part: &str| format!("k{:02}/{part}", iteration.index);
        let expected = trace.get(&key("logits")).unwrap();
        let whole = *expected.shape().last().unwrap();
        let expected = expected.to_f32();
        for (row, places) in rows(&trace, &key("masked_positions")).iter().enumerate() {
            for (m, place) in places.iter().enumerate() {
                let at = order[row][decided..].iter().position(|p| p == place).unwrap();
                let ours = &logits[(row * iteration.masked + at) * config.codes..][..config.codes];
                let golden = &expected[(row * iteration.masked + m) * whole..][..config.codes];
                for (a, b) in ours.iter().zip(golden) {
                    worst = worst.max((a - b).abs() / (1.0 + b.abs()));
                }
            }
        }
        cache = iteration.cache_serves_next.then_some(kept);
    }
    worst
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
