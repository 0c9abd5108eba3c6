//! The RON files that describe a run.

use std::path::Path;

use mgnt_data::TokenStoreInfo;
use mgnt_model::{ModelConfig, Nesting, Norm};
use mgnt_weights::directory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::objective::NestedOptions;

/// What every run needs, whatever it trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimization {
    /// Samples a step.
    pub batch: usize,
    /// Parts that a step is computed in; their gradients add up. More of them need less memory, and on a CPU they
    /// run side by side.
    #[serde(default = "one")]
    pub parts: usize,
    /// Whether cheap results of the forward are computed again for the backward instead of kept: less memory, more
    /// time, the same numbers.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Steps in all.
    pub steps: usize,
    /// Learning rate after the warm-up.
    pub peak_learning_rate: f64,
    /// Steps of linear warm-up; a cosine down to zero follows.
    pub warm_up_steps: usize,
    /// AdamW's first decay.
    pub beta1: f32,
    /// AdamW's second decay.
    pub beta2: f32,
    /// Weight decay, on matrices only.
    pub weight_decay: f32,
    /// Largest global norm of the gradient.
    pub clip_norm: f64,
    /// Decay of the moving average of the weights.
    pub ema_decay: f64,
    /// Seed of all random choices.
    pub seed: u64,
    /// Steps between log lines.
    pub log_every: usize,
    /// Steps between validations.
    pub validate_every: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between samples of the averaged model; 0 is never.
    #[serde(default)]
    pub draw_every: usize,
    /// Steps in a row whose loss or gradient may be infinite or not a number before the run ends. Each is skipped.
    #[serde(default = "ten")]
    pub not_finite_limit: usize,
}

fn ten() -> usize {
    10
}

fn one() -> usize {
    1
}

/// A run of the nested transformer. Tokens, codes and classes are those of the token store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden units of the MLP.
    pub hidden: usize,
    /// Downscaling factors of the sub-models.
    #[serde(default = "four_sizes")]
    pub sub_models: Vec<usize>,
    /// Where the LayerNorms stand.
    #[serde(default)]
    pub norm: Norm,
    /// What a sub-model leaves out.
    #[serde(default)]
    pub nesting: Nesting,
    /// Dropout.
    pub dropout: f64,
    /// Share of samples whose class is dropped.
    pub class_dropout: f64,
    /// Share of the target that is spread over all codes.
    pub label_smoothing: f64,
    /// The nested objective.
    #[serde(default)]
    pub objective: NestedOptions,
    /// Type in which products are taken; parameters, gradients, optimiser and all else stay in `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// Optimisation.
    pub optimization: Optimization,
}

fn four_sizes() -> Vec<usize> {
    vec![1, 2, 4, 8]
}

/// Type in which the products of a training step are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Half precision with eight bits of exponent, where the device has it.
    Bf16,
}

impl Optimization {
    /// Checks every value; the error names the field.
    pub fn validate(&self) -> Result<(), Error> {
        // So large that nobody means them, and so small that samples of all steps can be counted.
        for (field, value, most) in [("batch", self.batch, 1 << 20), ("steps", self.steps, 1 << 40)] {
            if !(1..=most).contains(&value) {
                return Err(wrong(field, format!("1 to {most}"), value));
            }
        }
        let counts = [
            ("log_every", self.log_every),
            ("validate_every", self.validate_every),
            ("checkpoint_every", self.checkpoint_every),
            ("keep", self.keep),
            ("not_finite_limit", self.not_finite_limit),
        ];
        for (field, value) in counts {
            if value == 0 {
                return Err(wrong(field, "at least 1", value));
            }
        }
        if self.parts == 0 || self.parts > self.batch {
            return Err(wrong("parts", format!("1 to {}, the batch", self.batch), self.parts));
        }
        let ranges = [
            ("peak_learning_rate", self.peak_learning_rate, f64::MIN_POSITIVE, 1.0),
            ("beta1", f64::from(self.beta1), 0.0, 0.999_999),
            ("beta2", f64::from(self.beta2), 0.0, 0.999_999),
            ("weight_decay", f64::from(self.weight_decay), 0.0, 10.0),
            ("clip_norm", self.clip_norm, f64::MIN_POSITIVE, f64::MAX),
            ("ema_decay", self.ema_decay, 0.0, 0.999_999_9),
        ];
        in_ranges(&ranges)
    }
}

impl Recipe {
    /// The model for a token store.
    pub fn model(&self, store: &TokenStoreInfo) -> ModelConfig {
        self.sized(store.grid[0] * store.grid[1], store.codes, store.classes.len())
    }

    /// The model for the sizes that ImageNet 256 gives: 256 tokens, 1024 codes, 1000 classes.
    pub fn imagenet_model(&self) -> ModelConfig {
        self.sized(256, 1024, 1000)
    }

    fn sized(&self, tokens: usize, codes: usize, classes: usize) -> ModelConfig {
        ModelConfig {
            layers: self.layers,
            width: self.width,
            heads: self.heads,
            hidden: self.hidden,
            tokens,
            codes,
            classes,
            null_class: true,
            sub_models: self.sub_models.clone(),
            norm: self.norm,
            nesting: self.nesting,
            dropout: self.dropout,
        }
    }

    /// Checks every value but the model's sizes, which [`ModelConfig::validate`] checks.
    pub fn validate(&self) -> Result<(), Error> {
        in_ranges(&[
            ("class_dropout", self.class_dropout, 0.0, 1.0),
            // With all of it spread, every code is as right as the true one.
            ("label_smoothing", self.label_smoothing, 0.0, 0.999_999),
        ])?;
        self.optimization.validate().map_err(within("optimization"))
    }
}

fn wrong(field: &str, expected: impl ToString, got: impl ToString) -> Error {
    Error::Recipe { field: field.into(), expected: expected.to_string(), got: got.to_string() }
}

/// Names the field of an error by its place in a recipe.
pub(crate) fn within(outer: &str) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Recipe { field, expected, got } => {
            Error::Recipe { field: format!("{outer}.{field}"), expected, got }
        }
        other => other,
    }
}

pub(crate) fn in_ranges(ranges: &[(&str, f64, f64, f64)]) -> Result<(), Error> {
    match ranges.iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
        Some((field, value, low, high)) => {
            let low = if *low == f64::MIN_POSITIVE { "above 0".into() } else { format!("{low}") };
            let expected = if *high == f64::MAX { low } else { format!("{low} to {high}") };
            Err(wrong(field, expected, value))
        }
        None => Ok(()),
    }
}

/// Reads a recipe and sets single values in it, each `key=value` or `outer.key=value`, the value in RON: a number, text, a
/// list, `variant`, `variant(value)` or `variant(field: value)`.
pub fn parse_with_overrides<R>(path: &Path, overrides: &[String]) -> Result<R, Error>
where
    R: DeserializeOwned + Serialize,
{
    let recipe: R = directory::read_ron(path)?;
    if overrides.is_empty() {
        return Ok(recipe);
    }
    let mut value = serde_json::to_value(&recipe).map_err(|e| wrong("overrides", "a plain recipe", e))?;
    for text in overrides {
        let (key, new) = text.split_once('=').ok_or_else(|| wrong("overrides", "key=value", text))?;
        let mut place = &mut value;
        for part in key.split('.') {
            place = match place.get(part) {
                Some(_) => &mut place[part],
                None => {
                    let fields =
                        place.as_object().map_or(Vec::new(), |fields| fields.keys().cloned().collect());
                    let expected = match fields.is_empty() {
                        true => "a field of the recipe".into(),
                        false => format!("one of {}", fields.join(", ")),
                    };
                    return Err(wrong(key, expected, format!("`{part}`, which is unknown")));
                }
            };
        }
        *place = plain(new).map_err(|e| wrong(key, "a plain value", e))?;
        // The words in it, as names of variants, would need their types.
        let expected = match new.starts_with('(') {
            true => format!("a value of its type; of several fields one at a time, as {key}.field=value"),
            false => "a value of its type".into(),
        };
        serde_json::from_value::<R>(value.clone()).map_err(|e| wrong(key, expected, e))?;
    }
    serde_json::from_value(value).map_err(|e| wrong("overrides", "values of the right type", e))
}

/// A value in RON without its type, as JSON.
fn plain(text: &str) -> Result<serde_json::Value, serde_json::Error> {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let variant =
        text.strip_suffix(')').and_then(|text| text.split_once('(')).filter(|(word, _)| is_word(word));
    if let Some((word, inner)) = variant {
        let fields = ron::from_str::<ron::Value>(&format!("({inner})"));
        let value = match ron::from_str::<ron::Value>(inner).or(fields) {
            Ok(value) => serde_json::to_value(value)?,
            Err(_) => inner.into(),
        };
        return Ok(serde_json::json!({ word: value }));
    }
    match ron::from_str::<ron::Value>(text) {
        // A bare word, such as the name of a variant.
        Ok(ron::Value::Unit) | Err(_) => Ok(text.into()),
        Ok(value) => serde_json::to_value(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenizerRecipe;
    use crate::{Computed, Forecast};

    fn configs() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/image")
    }

    /// Each parses, is valid, has a forecast, and says in its head with which command it is run and what it costs.
    #[test]
    fn every_recipe_of_the_repository_is_valid() {
        let (mut transformers, mut priced) = (0, 0);
        for entry in std::fs::read_dir(configs()).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let head: String = text.lines().take_while(|line| line.starts_with("//")).collect();
            assert!(head.contains("// cargo xtask "), "{}", path.display());
            if path.file_stem().unwrap().to_str().unwrap().ends_with("tokenizer") {
                let recipe: TokenizerRecipe = parse_with_overrides(&path, &[]).unwrap();
                recipe.validate().unwrap();
                // The maps of a discriminator and a perceptual network take a fifth more.
                assert!(recipe.step_bytes(1) as f64 * 1.2 < 80e9, "{} on a card of 80 GB", path.display());
                continue;
            }
            transformers += 1;
            let recipe: Recipe = parse_with_overrides(&path, &[]).unwrap();
            let computed = Computed::ByOperations { at_once: 1 };
            let forecast = Forecast::new(&recipe, &recipe.imagenet_model(), computed).unwrap();
            assert!(forecast.flops > 0.0 && forecast.memory.total() > 0);
            if head.contains("TFLOP a step") {
                let teraflops = forecast.step_flops / 1e12;
                assert!(
                    head.contains(&format!("{teraflops:.2} TFLOP a step")),
                    "{}: {teraflops}",
                    path.display()
                );
                let hours = forecast.h100_hours();
                let shown =
                    if hours < 20.0 { format!("{hours:.1} hours") } else { format!("{hours:.0} hours") };
                assert!(head.contains(&shown), "{}: {shown}", path.display());
                let by_kernels =
                    Forecast::new(&recipe, &recipe.imagenet_model(), Computed::ByKernels).unwrap();
                let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
                let (memory, checkpoint) = (gib(by_kernels.memory.total()), gib(forecast.checkpoint_bytes));
                let shown = format!("Memory {memory} by CUDA's kernels; {checkpoint} a checkpoint");
                assert!(head.contains(&shown), "{}: {shown}", path.display());
                priced += 1;
            }
        }
        assert!(transformers >= 9 && priced >= 4, "{transformers} {priced}");
    }

    #[test]
    fn single_values_can_be_set() {
        let read = |overrides: &[&str]| {
            let overrides: Vec<String> = overrides.iter().map(|&s| s.into()).collect();
            parse_with_overrides::<Recipe>(&configs().join("debug.ron"), &overrides)
        };
        let recipe = read(&["optimization.steps=7", "dropout=0.25", "sub_models=[1, 2]"]).unwrap();
        assert_eq!((recipe.optimization.steps, recipe.dropout, recipe.sub_models), (7, 0.25, vec![1, 2]));
        assert_eq!(read(&["norm=pre"]).unwrap().norm, Norm::Pre);
        let error = read(&["layers=x"]).unwrap_err().to_string();
        assert!(error.contains("`layers`"), "{error}");
        for wrong in ["optimization.stepps=7", "dropout", "dropout=(", "layers=\"x\""] {
            assert!(read(&[wrong]).is_err(), "{wrong}");
        }
        let tokenizer = |text: &str| {
            let path = configs().join("imagenette64-tokenizer.ron");
            parse_with_overrides::<TokenizerRecipe>(&path, &[text.into()])
                .map(|recipe| recipe.adversary.unwrap())
        };
        use crate::tokenizer::AdversarialWeight;
        for (text, weight) in [
            ("adversary.weight=fixed(0.5)", AdversarialWeight::Fixed(0.5)),
            ("adversary.weight=adaptive(0.25)", AdversarialWeight::Adaptive(0.25)),
        ] {
            assert_eq!(tokenizer(text).unwrap().weight, weight);
        }
        assert!(
            tokenizer("adversary.weight=fixed(x)").is_err() && tokenizer("adversary.weight=none(1)").is_err()
        );
        let error = read(&["objective=(teacher:full,students:one)"]).unwrap_err().to_string();
        assert!(error.contains("as objective.field=value"), "{error}");
        let error = read(&["optimization.stpes=2"]).unwrap_err().to_string();
        assert!(error.contains("one of ") && error.contains("steps") && error.contains("`stpes`"), "{error}");
        for (text, expected) in [
            ("optimization.batch=1048577", "`optimization.batch`: expected 1 to 1048576, got 1048577"),
            ("optimization.steps=0", "`optimization.steps`: expected 1 to 1099511627776, got 0"),
            ("optimization.steps=1099511627777", "expected 1 to 1099511627776, got 1099511627777"),
        ] {
            let error = read(&[text]).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut recipe = read(&[]).unwrap();
        recipe.optimization.peak_learning_rate = f64::NAN;
        let error = recipe.validate().unwrap_err().to_string();
        assert!(
            error.contains("`optimization.peak_learning_rate`") && error.contains("above 0 to 1"),
            "{error}"
        );
    }
}
