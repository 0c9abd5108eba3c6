//! Grids that a training draws of what it has learned so far, from the same seeds and pictures each time.

use burn::tensor::Device;
use mgnt_data::{Picture, PictureStore};
use mgnt_decode::{CachePolicy, ModelSchedule, Plan, Strategy};
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_tokenizer::ImageTokenizer;

use super::generation::{Generator, check_pair};
use crate::output::canvas::Canvas;
use crate::output::grid::{Cell, labelled_grid};

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
        let strategy = schedule.strategy().clone();
        let full = Strategy { models: ModelSchedule::constant(1, strategy.iterations()), ..strategy };
        let baseline = full.with_cache(CachePolicy::Off).plan(config)?;
        // Evenly over the classes, which may be a thousand.
        let classes = (0..COLUMNS * ROWS).map(|i| i * config.classes.max(1) / (COLUMNS * ROWS)).collect();
        let plans = [("full", baseline), ("nested", schedule)];
        Ok(Self { tokenizer, plans, classes, names: names.to_vec(), device: device.clone() })
    }

    /// Draws the grid.
    pub fn grid(&self, model: &NestedTransformer) -> anyhow::Result<Canvas> {
        let mut rows = Vec::new();
        for (row, classes) in self.classes.chunks(COLUMNS).enumerate() {
            for (label, plan) in &self.plans {
                let generator = Generator::new(model, &self.tokenizer, plan.clone(), SEED, &self.device)?;
                rows.push((label, classes, generator.batch(classes, row * COLUMNS)?.pictures));
            }
        }
        let cell = |label: &str, class: usize, picture| {
            let name = self.names.get(class).map_or("", String::as_str);
            Cell { picture, label: format!("{label} {name}") }
        };
        let cells: Vec<Cell> = rows
            .iter()
            .flat_map(|(label, classes, pictures)| {
                classes.iter().zip(pictures).map(move |(&class, picture)| cell(label, class, picture))
            })
            .collect();
        Ok(labelled_grid(&cells, COLUMNS))
    }
}

/// Pictures of a store, and below them what a tokenizer makes of them.
pub fn rebuilt(tokenizer: &ImageTokenizer, store: &PictureStore, device: &Device) -> anyhow::Result<Canvas> {
    // Whole rows, where there are enough; evenly over the store, which is sorted by class.
    let rows = (store.len() / COLUMNS).min(ROWS);
    let count = if rows == 0 { store.len() } else { rows * COLUMNS };
    let items: Vec<usize> = (0..count).map(|i| i * store.len() / count).collect();
    let picture = |rgb: Vec<u8>| Ok(Picture::new(store.size(), store.size(), rgb)?);
    let mut rows = Vec::new();
    for chunk in items.chunks(COLUMNS) {
        let given: Vec<&[u8]> = chunk.iter().map(|&item| store.picture(item)).collect();
        let made = tokenizer.pictures(&tokenizer.tokens(&given, device)?, device)?;
        let given: Vec<Picture> =
            given.into_iter().map(|rgb| picture(rgb.to_vec())).collect::<anyhow::Result<_>>()?;
        let made: Vec<Picture> = made.into_iter().map(picture).collect::<anyhow::Result<_>>()?;
        rows.extend([("input", given), ("rebuilt", made)]);
    }
    let cells: Vec<Cell> = rows
        .iter()
        .flat_map(|(label, pictures)| {
            pictures.iter().map(|picture| Cell { picture, label: (*label).to_owned() })
        })
        .collect();
    Ok(labelled_grid(&cells, count.min(COLUMNS)))
}
