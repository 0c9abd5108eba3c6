//! The loop as a whole: against a naive decoder, across batches, with given tokens.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_decode::replay::{Given, replay};
use mgnt_decode::{
    CachePolicy, Candidate, Decoder, Error, Guidance, Ledger, Noise, Order, OrderKind, Recorded, Sequenced,
    Snapshot, Strategy, TokenTemperature, gumbel,
};
use mgnt_model::kernels::Operations;
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_weights::TensorMap;
use rayon::prelude::*;

fn config() -> ModelConfig {
    ModelConfig {
        layers: 2,
        width: 32,
        heads: 8,
        hidden: 64,
        tokens: 36,
        codes: 24,
        classes: 5,
        null_class: true,
        sub_models: vec![1, 2, 4, 8],
        norm: Default::default(),
        nesting: Default::default(),
        dropout: 0.0,
    }
}

/// Random weights, twenty times as large as they begin in a training, so that another class, size or scale gives other
/// tokens.
fn model() -> NestedTransformer {
    changed(|_, value| 20.0 * value)
}

/// The first model of a training with changed weights.
fn changed(change: impl Fn(&str, f32) -> f32) -> NestedTransformer {
    let (initial, mut map) =
        (NestedTransformer::init(&config(), 11, &Device::flex()).unwrap(), TensorMap::new());
    for (name, tensor) in mgnt_weights::module::to_map(&initial).unwrap().iter() {
        let values: Vec<f32> = tensor.to_f32().into_iter().map(|value| change(name, value)).collect();
        map.insert_f32(name, tensor.shape(), &values).unwrap();
    }
    NestedTransformer::from_weights(&config(), map, &Device::flex()).unwrap()
}

/// MaskGIT's loop written the plain way: raster order, the whole sequence each time, no cache; `scales` are guidance's.
fn naive(
    model: &NestedTransformer,
    strategy: &Strategy,
    scales: &[f32],
    class: usize,
    seed: u64,
    sample: u64,
) -> Vec<u16> {
    let config = model.config();
    let (n, steps) = (config.tokens, strategy.iterations());
    let vocabulary = config.vocabulary();
    let mut tokens: Vec<Option<u16>> = vec![None; n];
    let after = strategy.mask.masked_after(n, steps).unwrap();
    for (i, &after) in after.iter().enumerate() {
        let r = (i + 1) as f64 / steps as f64;
        let sub_model = config.sub_model(strategy.models.factors()[i]).unwrap();
        let said = |class: u32| {
            let seen = tokens.iter().map(|t| t.map_or(vocabulary.mask() as i32, i32::from));
            let ids: Vec<i32> = std::iter::once(class as i32).chain(seen).collect();
            let input = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, n + 1]), &Device::flex());
            model.forward(input, sub_model).into_data().try_into_vec::<f32>().unwrap()
        };
        let mut logits = said(vocabulary.class(class).unwrap());
        if scales[i] > 0.0 {
            let without = said(vocabulary.null());
            logits.iter_mut().zip(without).for_each(|(l, u)| *l = (1.0 + scales[i]) * *l - scales[i] * u);
        }
        let draws = Noise::new(seed).stream(sample, i).at(&(0..n).collect::<Vec<_>>());
        let mut candidates = Vec::new();
        for place in (0..n).filter(|&place| tokens[place].is_none()) {
            let row = &logits[(place + 1) * vocabulary.size()..][..config.codes];
            let exps: Vec<f64> = row.iter().map(|&l| f64::from(l).exp()).collect();
            let sum: f64 = exps.iter().sum();
            let mut cumulative = 0.0;
            let code = exps
                .iter()
                .position(|e| {
                    cumulative += e / sum;
                    cumulative > draws[place].token
                })
                .unwrap();
            let score = (exps[code] / sum).ln() + 4.5 * (1.0 - r) * gumbel(draws[place].choice);
            candidates.push((score, place, code as u16));
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        let open = candidates.len();
        for (_, place, code) in candidates.into_iter().take(open - after) {
            tokens[place] = Some(code);
        }
    }
    tokens.into_iter().map(Option::unwrap).collect()
}

#[test]
fn without_a_cache_the_loop_is_the_naive_decoder() {
    let model = model();
    let whole = Strategy::parse("8x2,4x2,2x1,1x3").unwrap().with_cache(CachePolicy::Off);
    let scales: Vec<f32> = (0..8).map(|i| i as f32 * 0.25).collect();
    for (guidance, scales) in [
        (Guidance::Off, &[0.0; 8][..]),
        (Guidance::Constant(1.5), &[1.5; 8][..]),
        (Guidance::Linear(1.75), &scales[..]),
    ] {
        let strategy = whole.clone().with_guidance(guidance);
        let plan = strategy.plan(&config()).unwrap();
        let decode = |resident: bool| {
            let decoder = Decoder::new(&model, &plan).classes(&[0, 3, 4]).seed(5).first_sample(7);
            if resident { decoder.resident() } else { decoder }.run().unwrap()
        };
        for (i, class) in [0, 3, 4].into_iter().enumerate() {
            let expected = naive(&model, &strategy, scales, class, 5, 7 + i as u64);
            for resident in [false, true] {
                assert_eq!(
                    decode(resident).tokens[i],
                    expected,
                    "sample {i}, resident: {resident}, {scales:?}"
                );
            }
        }
    }
}

#[test]
fn another_class_scale_or_size_gives_other_tokens() {
    let model = model();
    let strategy = || Strategy::parse("4x6").unwrap().with_guidance(Guidance::Constant(1.5));
    let decode = |strategy: Strategy, class: usize| {
        let plan = strategy.plan(&config()).unwrap();
        Decoder::new(&model, &plan).classes(&[class]).seed(5).run().unwrap().tokens.remove(0)
    };
    let same = |a: &[u16], b: &[u16]| a.iter().zip(b).filter(|(a, b)| a == b).count();
    let tokens = decode(strategy(), 2);
    for (what, other) in [
        ("class", decode(strategy(), 3)),
        ("scale", decode(strategy().with_guidance(Guidance::Constant(0.5)), 2)),
        ("size", decode(Strategy { models: "8x6".parse().unwrap(), ..strategy() }, 2)),
    ] {
        assert!(same(&tokens, &other) < 30, "another {what}: {} of 36 are the same", same(&tokens, &other));
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let plan = Strategy::parse("8x2,1x2").unwrap().plan(&config()).unwrap();
    for broken in [f32::NAN, f32::INFINITY] {
        let model = changed(|name, value| if name == "head.bias" { broken } else { value });
        for resident in [false, true] {
            let decoder = Decoder::new(&model, &plan).classes(&[1, 2]);
            let decoded = if resident { decoder.resident() } else { decoder }.run();
            assert!(matches!(decoded, Err(Error::NotFinite)), "{broken}, resident: {resident}");
        }
    }
}

#[test]
fn a_batch_has_samples() {
    let (model, plan) = (model(), Strategy::baseline(4).plan(&config()).unwrap());
    let none = || Decoder::new(&model, &plan).classes(&[]);
    for decoder in [none(), none().resident(), none().unconditional(0)] {
        let error = decoder.run().unwrap_err().to_string();
        assert_eq!(error, "classes: expected at least one sample, got 0");
    }
    assert!(Recorded::new(&model, &plan, 0).is_err());
    assert!(replay::<Error>(&model, &plan, &[], &mut |_| Ok(())).is_err());
    let few = Strategy::parse("1x2").unwrap().plan_for(model.config(), 10).unwrap();
    let given = Given { class: 0, order: (0..36).collect(), tokens: vec![0; 36] };
    let refused = replay::<Error>(&model, &few, &[given], &mut |_| panic!("it runs")).unwrap_err();
    assert!(refused.to_string().contains("all 36 tokens, got 10"), "{refused}");
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let model = model();
    let strategy = Strategy::parse("8x3,4x3,2x3,1x3").unwrap().with_guidance(Guidance::Constant(1.5));
    let plan = strategy.plan(&config()).unwrap();
    let classes = [0, 1, 2, 3, 4, 0, 1, 2];
    let together = Decoder::new(&model, &plan).classes(&classes).seed(2).run().unwrap();
    for (i, &class) in classes.iter().enumerate() {
        let alone =
            Decoder::new(&model, &plan).classes(&[class]).seed(2).first_sample(i as u64).run().unwrap();
        assert_eq!(alone.tokens[0], together.tokens[i], "sample {i}");
    }
}

#[test]
fn a_refresh_in_every_iteration_is_no_cache() {
    let model = model();
    let decode = |cache| {
        let plan = Strategy::parse("2x12").unwrap().with_cache(cache).plan(&config()).unwrap();
        Decoder::new(&model, &plan).classes(&[1, 2]).seed(9).run().unwrap().tokens
    };
    assert_eq!(decode(CachePolicy::Every(1)), decode(CachePolicy::Off));
}

#[test]
fn the_cache_holds_what_is_planned_and_goes_at_a_switch() {
    let model = model();
    for guidance in [Guidance::Constant(0.0), Guidance::Constant(1.5)] {
        let plan =
            Strategy::parse("8x3,4x3,2x3,1x3").unwrap().with_guidance(guidance).plan(&config()).unwrap();
        let ledger = Decoder::new(&model, &plan).classes(&[1, 2, 3]).run().unwrap().ledger;
        for line in &ledger.iterations {
            assert_eq!(line.cache_held, Some(3 * line.cache_bytes), "iteration {}", line.iteration);
            assert_eq!(line.cache_bytes == 0, line.iteration % 3 == 2, "iteration {}", line.iteration);
        }
    }
}

#[test]
fn decided_tokens_never_change() {
    let model = model();
    for order in
        [OrderKind::Confidence, OrderKind::Random, OrderKind::Halton, OrderKind::Explicit(vec![5, 4])]
    {
        let plan = Strategy { order, ..Strategy::parse("8x3,1x3").unwrap() }.plan(&config()).unwrap();
        let mut seen: Vec<(Vec<u16>, Vec<bool>)> = Vec::new();
        let mut watch = |snapshot: &Snapshot| {
            seen.push((snapshot.tokens[0].clone(), snapshot.undecided[0].clone()));
        };
        let decoded = Decoder::new(&model, &plan).watch(&mut watch).run().unwrap();
        assert_eq!(seen.len(), 6);
        for pair in seen.windows(2) {
            for place in 0..36 {
                if !pair[0].1[place] {
                    assert!(!pair[1].1[place]);
                    assert_eq!(pair[0].0[place], pair[1].0[place]);
                }
            }
        }
        let open: Vec<usize> = seen.iter().map(|s| s.1.iter().filter(|&&open| open).count()).collect();
        let planned: Vec<usize> = plan.iterations().iter().map(|i| i.masked - i.decided).collect();
        assert_eq!(open, planned);
        assert_eq!(seen[5].0, decoded.tokens[0]);
        assert!(decoded.tokens[0].iter().all(|&token| token < 24));
    }
}

#[test]
fn given_tokens_stay() {
    let model = model();
    let known: Vec<Option<u16>> = (0..36).map(|i| (i % 3 == 0).then_some(i as u16 % 24)).collect();
    let plan = Strategy::parse("4x2,1x3").unwrap().plan_for(&config(), 24).unwrap();
    let decoded = Decoder::new(&model, &plan).known(known.clone()).run().unwrap();
    for (token, known) in decoded.tokens[0].iter().zip(&known) {
        assert!(known.is_none_or(|known| known == *token));
    }
    let whole = Strategy::parse("4x2,1x3").unwrap().plan(&config()).unwrap();
    assert!(matches!(Decoder::new(&model, &whole).known(known).run(), Err(Error::Field { .. })));
}

#[test]
fn no_class_needs_a_null_class() {
    let plan = Strategy::baseline(4).plan(&config()).unwrap();
    let model = model();
    let of_none = Decoder::new(&model, &plan).unconditional(2).seed(4).run().unwrap();
    let of_zero = Decoder::new(&model, &plan).classes(&[0, 0]).seed(4).run().unwrap();
    assert_ne!(of_none.tokens, of_zero.tokens);
    let without = ModelConfig { null_class: false, ..config() };
    let model = NestedTransformer::init(&without, 1, &Device::flex()).unwrap();
    let plan = Strategy::baseline(4).plan(&without).unwrap();
    let error = Decoder::new(&model, &plan).unconditional(1).run().unwrap_err().to_string();
    assert!(error.contains("null class"), "{error}");
}

/// An order of one's own: columns from the right.
#[derive(Debug)]
struct FromTheRight;

impl Order for FromTheRight {
    fn score(&self, candidate: &Candidate) -> f64 {
        (candidate.place % 6) as f64
    }
}

#[test]
fn an_order_of_ones_own() {
    let plan = Strategy::baseline(6).plan(&config()).unwrap().with_order(Arc::new(FromTheRight));
    let mut first = Vec::new();
    let mut watch = |snapshot: &Snapshot| {
        if snapshot.iteration == 2 {
            first = (0..36).filter(|&place| !snapshot.undecided[0][place]).map(|place| place % 6).collect();
        }
    };
    Decoder::new(&model(), &plan).watch(&mut watch).run().unwrap();
    assert!(!first.is_empty() && first.iter().all(|&column| column >= 4), "{first:?}");
}

/// Places that it does not rank come last; a device, which knows no such places, is not asked.
#[test]
fn an_order_of_fewer_places_stays_on_the_host() {
    let model = model();
    let order = Arc::new(Sequenced::new([7, 2], 12));
    let plan = Strategy::baseline(6).plan(&config()).unwrap().with_order(order);
    let decoder = || Decoder::new(&model, &plan).unconditional(2).seed(3);
    assert_eq!(decoder().resident().run().unwrap().tokens, decoder().run().unwrap().tokens);
    assert!(Recorded::new(&model, &plan, 2).unwrap().is_none());
}

#[test]
fn a_class_out_of_range_is_refused() {
    let model = model();
    let plan = Strategy::baseline(4).plan(&config()).unwrap();
    let error = Decoder::new(&model, &plan).classes(&[5]).run().unwrap_err().to_string();
    assert_eq!(error, "class 5 is out of range: the model has 5 classes (0 to 4)");
}

/// Whatever a strategy asks for, a decode on the device gives the tokens of one on the host.
#[test]
fn a_resident_decode_gives_the_same_tokens() {
    let model = model();
    let classes = [1, 2, 0, 4, 3, 1];
    let growing = || Strategy::parse("8x2,4x2,2x2,1x2").unwrap();
    let strategies = [
        ("no cache", growing().with_cache(CachePolicy::Off)),
        ("cache", growing()),
        ("guided", Strategy { guidance: Guidance::Linear(3.0), ..growing() }),
        ("random", Strategy { order: OrderKind::Random, ..growing() }),
        ("halton", Strategy { order: OrderKind::Halton, ..growing() }),
        ("top k", Strategy { top_k: Some(3), ..growing() }),
        (
            "tempered",
            Strategy { token_temperature: TokenTemperature::Ramp { end: 0.5, span: 0.8 }, ..growing() },
        ),
        ("top p stays on the host", Strategy { top_p: Some(0.7), ..growing() }),
    ];
    let by_kernels = model.clone().with_kernels(Arc::new(Operations));
    for ((name, strategy), model) in
        strategies.iter().flat_map(|named| [&model, &by_kernels].map(|model| (named.clone(), model)))
    {
        let plan = strategy.plan(&config()).unwrap();
        let decoder = || Decoder::new(model, &plan).classes(&classes).seed(3).first_sample(9);
        let here = decoder().run().unwrap();
        let there = decoder().resident().run().unwrap();
        assert_eq!(here.tokens, there.tokens, "{name}");
        assert_eq!(here.ledger.milliseconds.is_some(), there.ledger.milliseconds.is_some());
        let held = |ledger: &Ledger| ledger.iterations.iter().map(|line| line.cache_held).collect::<Vec<_>>();
        assert_eq!(held(&here.ledger), held(&there.ledger), "{name}");
    }
    let known: Vec<Option<u16>> = (0..36).map(|i| (i % 3 == 0).then_some(i / 2)).collect();
    let plan = growing().plan_for(&config(), 24).unwrap();
    let mut seen = [Vec::new(), Vec::new()];
    for (resident, seen) in [false, true].into_iter().zip(&mut seen) {
        let mut watch =
            |snapshot: &Snapshot| seen.push((snapshot.tokens.to_vec(), snapshot.undecided.to_vec()));
        let decoder = Decoder::new(&model, &plan).unconditional(2).known(known.clone()).watch(&mut watch);
        let decoded = if resident { decoder.resident() } else { decoder }.run().unwrap();
        seen.push((decoded.tokens, Vec::new()));
        assert!(decoded.ledger.iterations.iter().all(|line| line.milliseconds.is_some()));
    }
    assert_eq!(seen[0].len(), 9);
    assert_eq!(seen[0], seen[1]);
}

/// On this device there are no graphs: what is tested is that batches follow each other as decodes do.
#[test]
fn a_recorded_decode_serves_batch_after_batch() {
    let model = model();
    let strategy =
        Strategy { guidance: Guidance::Constant(1.0), ..Strategy::parse("8x2,4x2,2x2,1x2").unwrap() };
    let plan = strategy.plan(&config()).unwrap();
    let mut recorded = Recorded::new(&model, &plan, 3).unwrap().unwrap();
    for (classes, seed, first) in [([1, 2, 0], 3, 0), ([4, 4, 4], 3, 3), ([1, 2, 0], 5, 0)] {
        let decoder = Decoder::new(&model, &plan).classes(&classes).seed(seed).first_sample(first);
        assert_eq!(recorded.run(&classes, seed, first).unwrap(), decoder.run().unwrap().tokens);
    }
    assert!(!recorded.is_graph());
    let error = recorded.run(&[1], 0, 0).unwrap_err().to_string();
    assert!(error.contains("3, as recorded"), "{error}");
    let on_host = Strategy { top_p: Some(0.5), ..strategy }.plan(&config()).unwrap();
    assert!(Recorded::new(&model, &on_host, 3).unwrap().is_none());
}

#[test]
fn samples_with_and_without_a_class_are_one_batch() {
    let (model, plan) = (model(), Strategy::parse("8x2,4x2,2x2,1x2").unwrap().plan(&config()).unwrap());
    let decoder = || Decoder::new(&model, &plan).seed(4);
    let both = decoder().labels(&[Some(1), None, Some(3)]).run().unwrap().tokens;
    assert_eq!(both[0], decoder().classes(&[1]).run().unwrap().tokens[0]);
    assert_eq!(both[1], decoder().unconditional(1).first_sample(1).run().unwrap().tokens[0]);
    assert_eq!(both[2], decoder().classes(&[3]).first_sample(2).run().unwrap().tokens[0]);
    let error = Strategy::parse("1x2").unwrap().plan_for(&config(), 0).unwrap_err().to_string();
    assert!(error.contains("tokens to decide: expected at least one, got 0"), "{error}");
}

/// Parts of a batch side by side, as on processors: the same tokens, and a ledger of the whole batch.
#[test]
fn parts_of_a_batch_are_the_batch() {
    let (model, plan) = (model(), Strategy::parse("8x2,4x2,2x2,1x2").unwrap().plan(&config()).unwrap());
    let beside = model.clone().on_processor();
    let classes = [1, 2, 0, 4, 3];
    let decode = |model: &NestedTransformer| {
        Decoder::new(model, &plan).classes(&classes).seed(3).first_sample(9).run().unwrap()
    };
    let (whole, parts) = (decode(&model), decode(&beside));
    assert_eq!(whole.tokens, parts.tokens);
    assert_eq!((parts.ledger.batch, parts.ledger.gflops), (5, whole.ledger.gflops));
    let held = |ledger: &Ledger| ledger.iterations.iter().map(|line| line.cache_held).collect::<Vec<_>>();
    assert_eq!(held(&whole.ledger), held(&parts.ledger));
    assert!(parts.ledger.milliseconds.is_some() && parts.ledger.sampling_milliseconds.is_some());
}

/// A training's own model, with its dropout and its tape.
#[test]
fn a_model_on_a_tape_decodes_as_off_it() {
    let config = ModelConfig { dropout: 0.5, ..config() };
    let taped = NestedTransformer::init(&config, 11, &Device::flex().autodiff()).unwrap();
    let plan = Strategy::parse("4x2,1x2").unwrap().plan(&config).unwrap();
    let of = |model: &NestedTransformer| Decoder::new(model, &plan).classes(&[1, 2]).run().unwrap().tokens;
    assert_eq!(of(&taped), of(&taped.valid()));
    assert!(Recorded::new(&taped, &plan, 2).unwrap_err().to_string().contains("without a tape"));
}

/// Many requests of one pool's threads, each of a batch.
#[test]
fn threads_of_a_pool_decode_their_batches_themselves() {
    let model = model().on_processor();
    let plan = Strategy::parse("4x2,1x2").unwrap().plan(model.config()).unwrap();
    let of = |seed: u64| Decoder::new(&model, &plan).classes(&[1, 2, 3]).seed(seed).run().unwrap().tokens;
    let alone: Vec<_> = (0..8).map(of).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| (0..8u64).into_par_iter().map(of).collect::<Vec<_>>()), alone);
}
