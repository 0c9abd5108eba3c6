use serde::{Deserialize, Serialize};

use crate::{Error, SubModel, Vocabulary};

/// Sizes and options of a nested transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Number of blocks, L.
    pub layers: usize,
    /// Width of the residual stream, D.
    pub width: usize,
    /// Attention heads of the full model, H.
    pub heads: usize,
    /// Hidden units of the full model's MLP, F.
    pub hidden: usize,
    /// Visual tokens, N (a class token is added in front).
    pub tokens: usize,
    /// Codes of the tokenizer, V.
    pub codes: usize,
    /// Classes, C.
    pub classes: usize,
    /// Whether the vocabulary has a null class for guidance (published MaskGIT checkpoints have none).
    #[serde(default = "yes")]
    pub null_class: bool,
    /// Downscaling factors of the sub-models, growing from 1.
    #[serde(default = "four_sizes")]
    pub sub_models: Vec<usize>,
    /// Where the LayerNorms stand.
    #[serde(default)]
    pub norm: Norm,
    /// What a sub-model leaves out.
    #[serde(default)]
    pub nesting: Nesting,
    /// Dropout in training, on embeddings, attention weights and both branches.
    #[serde(default = "tenth")]
    pub dropout: f64,
}

fn yes() -> bool {
    true
}

fn tenth() -> f64 {
    0.1
}

fn four_sizes() -> Vec<usize> {
    vec![1, 2, 4, 8]
}

/// Where the LayerNorms stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// After each residual sum, as BERT, MaskGIT and MAGVIT have it.
    #[default]
    Post,
    /// Before each branch, with one more after the last block.
    Pre,
}

/// What a sub-model leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nesting {
    /// Heads and hidden units: H/p and F/p.
    #[default]
    HeadsAndHidden,
    /// Hidden units only (MatFormer): keys and values have one shape for every sub-model.
    Hidden,
    /// Heads, hidden units, and features: every projection reads and writes the first D/p features only (MoNE).
    Features,
}

/// A published or agreed scale, for 256 tokens, 1024 codes and 1000 classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The transformer of published MaskGIT: 24 layers of width 768, no null class.
    MaskgitBase,
    /// 12 layers of width 768.
    B,
    /// 24 layers of width 1024.
    L,
    /// 28 layers of width 1152.
    Xl,
}

impl ModelConfig {
    /// The configuration of a preset.
    pub fn preset(preset: Preset) -> Self {
        let (layers, width) = match preset {
            Preset::MaskgitBase => (24, 768),
            Preset::B => (12, 768),
            Preset::L => (24, 1024),
            Preset::Xl => (28, 1152),
        };
        Self {
            layers,
            width,
            heads: 16,
            hidden: 4 * width,
            tokens: 256,
            codes: 1024,
            classes: 1000,
            null_class: preset != Preset::MaskgitBase,
            sub_models: four_sizes(),
            norm: Norm::Post,
            nesting: Nesting::HeadsAndHidden,
            dropout: tenth(),
        }
    }

    /// Whether a device's kernels compute its blocks and their gradients in training: those of LayerNorms behind branches, and of
    /// sub-models that nest within blocks.
    pub fn is_learned_by_kernels(&self) -> bool {
        self.norm == Norm::Post && self.nesting != Nesting::Features
    }

    /// Checks every size; the error names the field.
    pub fn validate(&self) -> Result<(), Error> {
        let positive = [
            ("layers", self.layers),
            ("width", self.width),
            ("heads", self.heads),
            ("hidden", self.hidden),
            ("tokens", self.tokens),
            ("codes", self.codes),
            ("classes", self.classes),
        ];
        let wrong =
            |field, expected: &str, got: String| Error::Config { field, expected: expected.into(), got };
        for (field, value) in positive {
            // A block is dozens of objects before any weight is read.
            let most = if field == "layers" { 1024 } else { 1 << 20 };
            if value == 0 || value > most {
                return Err(wrong(field, &format!("1 to {most}"), value.to_string()));
            }
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(wrong(
                "heads",
                &format!("a divisor of the width {}", self.width),
                self.heads.to_string(),
            ));
        }
        if self.codes > usize::from(u16::MAX) + 1 {
            return Err(wrong(
                "codes",
                "at most 65536 (tokens are stored in 16 bits)",
                self.codes.to_string(),
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(wrong("dropout", "0 <= dropout < 1", self.dropout.to_string()));
        }
        let sizes = format!("{:?}", self.sub_models);
        if self.sub_models.first() != Some(&1) || !self.sub_models.is_sorted_by(|a, b| a < b) {
            return Err(wrong("sub_models", "growing factors that begin with 1", sizes));
        }
        let heads_nest = self.nesting != Nesting::Hidden;
        for &p in &self.sub_models {
            if heads_nest && !self.heads.is_multiple_of(p) {
                return Err(wrong("sub_models", &format!("divisors of the {} heads", self.heads), sizes));
            }
            if !self.hidden.is_multiple_of(p) {
                return Err(wrong(
                    "sub_models",
                    &format!("divisors of the {} hidden units", self.hidden),
                    sizes,
                ));
            }
        }
        Ok(())
    }

    /// The sub-model of factor `p`, if the model has it.
    pub fn sub_model(&self, p: usize) -> Result<SubModel, Error> {
        if self.sub_models.contains(&p) {
            Ok(SubModel::of_validated(p))
        } else {
            Err(Error::SubModel { p, sizes: self.sub_models.clone() })
        }
    }

    /// The full model.
    pub fn full(&self) -> SubModel {
        SubModel::of_validated(1)
    }

    /// Token numbers: codes, classes, null class, mask.
    pub fn vocabulary(&self) -> Vocabulary {
        Vocabulary { codes: self.codes, classes: self.classes, null_class: self.null_class }
    }

    /// Width of one head, D/H.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Positions with the class token, 1 + N.
    pub fn positions(&self) -> usize {
        1 + self.tokens
    }

    /// Number of parameters of the full model.
    pub fn parameters(&self) -> usize {
        let (d, f, v) = (self.width, self.hidden, self.vocabulary().size());
        let block = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d;
        let embedding = v * d + self.positions() * d + 2 * d;
        let head = d * d + d + 2 * d + v;
        let last_norm = if self.norm == Norm::Pre { 2 * d } else { 0 };
        embedding + self.layers * block + last_norm + head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_presets() {
        assert_eq!(ModelConfig::preset(Preset::MaskgitBase).parameters(), 172_457_193);
        let millions = |p| (ModelConfig::preset(p).parameters() as f64 / 1e5).round() / 10.0;
        assert_eq!([Preset::B, Preset::L, Preset::Xl].map(millions), [87.4, 305.7, 450.3]);
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let base = ModelConfig::preset(Preset::B);
        let cases = [
            (ModelConfig { heads: 7, ..base.clone() }, "heads"),
            (ModelConfig { layers: 0, ..base.clone() }, "layers"),
            (ModelConfig { layers: 1025, ..base.clone() }, "layers"),
            (ModelConfig { codes: 70_000, ..base.clone() }, "codes"),
            (ModelConfig { dropout: f64::NAN, ..base.clone() }, "dropout"),
            (ModelConfig { sub_models: vec![1, 32], ..base.clone() }, "sub_models"),
            (ModelConfig { sub_models: vec![2, 4], ..base.clone() }, "sub_models"),
        ];
        for (config, field) in cases {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        assert!(base.validate().is_ok());
        let twelve = ModelConfig { heads: 12, sub_models: vec![1, 2, 4], ..base };
        assert!(twelve.validate().is_ok());
        assert!(twelve.sub_model(8).is_err());
    }
}
