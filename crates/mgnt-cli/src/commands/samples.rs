//! Grids that a training draws of what it has learned so far, from the same seeds and pictures each time.

use burn::tensor::Device;
use mgnt_data::loader::spread;
use mgnt_data::{Picture, PictureStore};
use mgnt_decode::{CachePolicy, Plan};
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_tokenizer::ImageTokenizer;

use super::generation::{Generator, check_pair};
use crate::output::canvas::Canvas;
use crate::output::grid::compared_grid;

/// Pictures in a row.
const COLUMNS: usize = 8;
/// Rows of each kind.
const ROWS: usize = 2;
/// Seed of every grid.
const SEED: u64 = 0;

/// Samples of a transformer: the full model in every iteration, above a schedule of sub-models from the same seeds.
pub struct Sampler {
    tokenizer: ImageTokenizer,
    /// With their labels.
    plans: [(&'static str, Plan); 2],
    classes: Vec<usize>,
    names: Vec<String>,
    device: Device,
}

impl Sampler {
    /// Of models of these sizes, whose classes have these names. Refuses a tokenizer of other tokens.
    pub fn new(
        tokenizer: ImageTokenizer,
        schedule: Plan,
        config: &ModelConfig,
        names: &[String],
        device: &Device,
    ) -> anyhow::Result<Self> {
        check_pair(config, &tokenizer)?;
        let full = schedule.strategy().clone().of_full_model();
        let baseline = full.with_cache(CachePolicy::Off).plan(config)?;
        // Evenly over the classes, which may be a thousand.
        let classes = (0..COLUMNS * ROWS).map(|i| i * config.classes.max(1) / (COLUMNS * ROWS)).collect();
        let plans = [("full", baseline), ("nested", schedule)];
        Ok(Self { tokenizer, plans, classes, names: names.to_vec(), device: device.clone() })
    }

    /// Draws the grid.
    pub fn grid(&self, model: &NestedTransformer) -> anyhow::Result<Canvas> {
        let mut ways = Vec::new();
        for (label, plan) in &self.plans {
            let generator = Generator::new(model, &self.tokenizer, plan.clone(), SEED, &self.device)?;
            let mut pictures = Vec::new();
            for (row, classes) in self.classes.chunks(COLUMNS).enumerate() {
                pictures.extend(generator.batch(classes, row * COLUMNS)?.pictures);
            }
            ways.push((*label, pictures));
        }
        let name = |sample: usize| self.names.get(self.classes[sample]).map_or("", String::as_str);
        Ok(compared_grid(&ways, COLUMNS, |label, sample| format!("{label} {}", name(sample))))
    }
}

/// Pictures of a store, and below them what a tokenizer makes of them.
pub fn rebuilt(tokenizer: &ImageTokenizer, store: &PictureStore, device: &Device) -> anyhow::Result<Canvas> {
    // Whole rows, where there are enough; evenly over the store, which is sorted by class.
    let rows = (store.len() / COLUMNS).min(ROWS);
    let count = if rows == 0 { store.len() } else { rows * COLUMNS };
    let items: Vec<usize> = spread(store.len(), count).collect();
    let picture = |rgb: Vec<u8>| Ok(Picture::new(store.size(), store.size(), rgb)?);
    let (mut given, mut made) = (Vec::new(), Vec::new());
    for chunk in items.chunks(COLUMNS) {
        let pictures: Vec<&[u8]> = chunk.iter().map(|&item| store.picture(item)).collect();
        made.extend(tokenizer.pictures(&tokenizer.tokens(&pictures, device)?, device)?);
        given.extend(pictures.into_iter().map(<[u8]>::to_vec));
    }
    let [given, made] = [given, made].map(|all| all.into_iter().map(picture).collect::<anyhow::Result<_>>());
    Ok(compared_grid(&[("input", given?), ("rebuilt", made?)], COLUMNS, |label, _| label.into()))
}
