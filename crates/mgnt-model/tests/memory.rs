//! What a model holds in memory, counted at the allocator. One test, since the count is the whole process's.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor};
use mgnt_model::{ModelConfig, NestedTransformer, Preset};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The most bytes that were held at once during `work`, beyond those held before it.
fn peak<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    (ALLOCATOR.peak_usage() - before, result)
}

#[test]
fn loading_takes_little_more_than_the_file_and_a_sub_model_less_than_the_full_one() {
    let device = Device::flex();
    let config = ModelConfig {
        layers: 12,
        width: 256,
        heads: 8,
        hidden: 1024,
        tokens: 64,
        ..ModelConfig::preset(Preset::B)
    };
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("model");
    NestedTransformer::init(&config, 1, &device).unwrap().save(&directory).unwrap();
    let size = std::fs::metadata(directory.join("model.safetensors")).unwrap().len() as usize;

    let (loading, model) = peak(|| NestedTransformer::load(&directory, &device).unwrap());
    assert!(loading * 10 <= size * 13, "loading {size} bytes took {loading}");

    let tokens: Tensor<2, Int> = Tensor::zeros([2, config.positions()], &device);
    // The first forward warms up: what threads and kernels keep for themselves is not the forward's.
    let forward = |p: usize| {
        let sub_model = config.sub_model(p).unwrap();
        (0..3).map(|_| peak(|| model.forward(tokens.clone(), sub_model)).0).min().unwrap()
    };
    let full = forward(1);
    // Without the logits, which are the same for all.
    let hidden = |p: usize| {
        let sub_model = config.sub_model(p).unwrap();
        (0..3).map(|_| peak(|| model.hidden(tokens.clone(), sub_model)).0).min().unwrap()
    };
    let [one, half, quarter, eighth] = [1, 2, 4, 8].map(hidden);
    let all = [one, half, quarter, eighth];
    assert!(half < one && quarter < half && eighth < quarter, "{all:?} bytes of p = 1, 2, 4, 8");
    assert!(10 * half < 8 * one && 10 * eighth < 6 * one, "{all:?} bytes of p = 1, 2, 4, 8");
    assert!(full < size / 8, "the full model took {full} bytes: are weights of {size} copied?");

    // Three steps over a cache: the first moves what the whole forward left into buffers, the others write into those.
    let positions: Tensor<2, Int> =
        Tensor::arange(0..config.positions() as i64, &device).unsqueeze().repeat_dim(0, 2);
    let (_, mut cache) = model.forward_cached(tokens.clone(), positions.clone(), None, 61, config.full());
    let mut steps = Vec::new();
    for first in [61, 62, 63] {
        let rest = |t: &Tensor<2, Int>| t.clone().narrow(1, first, config.positions() - first);
        let (tokens, positions) = (rest(&tokens), rest(&positions));
        let bytes = cache.bytes() as usize;
        let work = || model.forward_cached(tokens, positions, Some(cache), first + 1, config.full()).1;
        let (step, next) = peak(work);
        steps.push(step);
        assert_eq!(next.bytes() as usize, bytes);
        cache = next;
    }
    let of_a_block = cache.bytes() as usize / config.layers;
    assert!(steps[1..].iter().all(|&step| step < of_a_block), "{steps:?} bytes, of a block {of_a_block}");
}
