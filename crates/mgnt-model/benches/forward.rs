//! The whole model at scale L, batch 4, by each sub-model, and the loading of its weights.
//!
//! `cargo bench -p mgnt-model`: times are of use beside each other, not by themselves. Memory is counted at the
//! allocator and printed once for each.

use std::time::Duration;

use burn::tensor::{Device, FloatDType, Int, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use mgnt_model::{ModelConfig, NestedTransformer, Preset};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const BATCH: usize = 4;

/// Prints the most memory that `work` held at once beyond what was held before.
fn print_peak<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let result = work();
    println!("{name}: peak {:.1} MiB", (ALLOCATOR.peak_usage() - before) as f64 / f64::from(1 << 20));
    result
}

fn forwards(c: &mut Criterion) {
    let device = Device::flex();
    let config = ModelConfig::preset(Preset::L);
    let tokens: Tensor<2, Int> = Tensor::zeros([BATCH, config.positions()], &device);
    for dtype in [FloatDType::F32, FloatDType::BF16] {
        let model = NestedTransformer::init(&config, 1, &device)
            .and_then(|model| model.with_type(dtype))
            .expect("scale L is valid and the CPU computes in both types");
        let mut group = c.benchmark_group(format!("forward, scale L, batch {BATCH}, {dtype:?}"));
        group.sample_size(10).measurement_time(Duration::from_secs(10));
        for &p in &config.sub_models {
            let sub_model = config.sub_model(p).expect("one of its own");
            print_peak(&format!("p = {p}"), || model.forward(tokens.clone(), sub_model));
            group.bench_function(format!("p = {p}"), |b| b.iter(|| model.forward(tokens.clone(), sub_model)));
        }
        group.finish();
    }
}

fn loading(c: &mut Criterion) {
    let device = Device::flex();
    let folder = tempfile::tempdir().expect("a folder for the weights");
    let directory = folder.path().join("model");
    NestedTransformer::init(&ModelConfig::preset(Preset::L), 1, &device)
        .and_then(|model| model.save(&directory))
        .expect("the weights are written");
    let size = directory.join("model.safetensors").metadata().expect("they are there").len();
    println!("weights: {:.1} MiB", size as f64 / f64::from(1 << 20));
    let load = || NestedTransformer::load(&directory, &device).expect("they are read");
    print_peak("loading", load);
    c.benchmark_group("loading").sample_size(10).bench_function("scale L", |b| b.iter(load));
}

criterion_group!(benches, forwards, loading);
criterion_main!(benches);
