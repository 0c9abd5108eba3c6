//! Names of the published Flax checkpoints (MaskGIT, and MAGVIT's, which differ in a prefix).
//!
//! Source: google-research/maskgit and google-research/magvit; shapes and names as in their checkpoints.

use mgnt_weights::{Fitting, Sizing, TensorMap};

use crate::{Error, ModelConfig, Nesting, Norm};

/// Whose names the tensors of a published transformer have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// MaskGIT's, such as `TransformerLayer_0/Attention_0`.
    Maskgit,
    /// MAGVIT's, such as `BertLayer_0/BertAttention_0`.
    Magvit,
}

impl Family {
    /// Told by the name of the embedding; `None` where there is none.
    pub fn of(tensors: &TensorMap) -> Option<Self> {
        let families = [Self::Maskgit, Self::Magvit];
        families.into_iter().find(|family| {
            let embedding = format!("{}Embed_0/", family.prefix());
            tensors.iter().any(|(name, _)| name.starts_with(&embedding))
        })
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Maskgit => "",
            Self::Magvit => "Bert",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Maskgit => "TransformerLayer",
            Self::Magvit => "BertLayer",
        }
    }
}

/// Turns the tensors of a MaskGIT or MAGVIT transformer, named by tree paths joined with `/`, into ours.
///
/// Every size but the split of the vocabulary is read off the tensors: `classes` tells how many rows of the token
/// table are classes, and `null_class` whether one more is MAGVIT's unconditional class; the rows that neither takes are
/// codes, less one for the mask. The configuration's sub-models are those that the sizes can be cut into; of a published
/// checkpoint none was trained but the full one. A tensor that is missing, left over or of another shape is an error, which
/// lists them all.
pub fn from_flax(
    tensors: TensorMap,
    classes: usize,
    null_class: bool,
) -> Result<(ModelConfig, TensorMap), Error> {
    let family = Family::of(&tensors).unwrap_or(Family::Maskgit);
    let (prefix, layer) = (family.prefix(), family.layer());
    let config = sizes(&tensors, prefix, layer, classes, null_class)?;
    config.validate()?;

    let (mut ours, mut tensors) = (TensorMap::new(), Fitting::new(tensors));
    let (d, f, v) = (config.width, config.hidden, config.vocabulary().size());
    let mut take = |theirs: String, name: String, given: &[usize], shape: &[usize]| -> Result<(), Error> {
        if let Some(tensor) = tensors.take(&theirs, given) {
            ours.insert_f32(&name, shape, &tensor.to_f32())?;
        }
        Ok(())
    };
    let embed = format!("{prefix}Embed_0");
    take(format!("{embed}/word_embeddings/embedding"), "embedding.tokens".into(), &[v, d], &[v, d])?;
    let positions = [config.positions(), d];
    take(
        format!("{embed}/position_embeddings/embedding"),
        "embedding.positions".into(),
        &positions,
        &positions,
    )?;
    let mut norms = vec![(format!("{embed}/embeddings_ln"), "embedding.norm".to_owned())];

    let (h, w) = (config.heads, config.head_width());
    for i in 0..config.layers {
        let attention = format!("{layer}_{i}/{prefix}Attention_0");
        let mlp = format!("{layer}_{i}/{prefix}Mlp_0");
        for part in ["query", "key", "value"] {
            let theirs = format!("{attention}/self_attention/{part}");
            let name = format!("blocks.{i}.attention.{part}");
            take(format!("{theirs}/kernel"), format!("{name}.weight"), &[d, h, w], &[d, d])?;
            take(format!("{theirs}/bias"), format!("{name}.bias"), &[h, w], &[d])?;
        }
        let (theirs, name) =
            (format!("{attention}/self_attention/out"), format!("blocks.{i}.attention.output"));
        take(format!("{theirs}/kernel"), format!("{name}.weight"), &[h, w, d], &[d, d])?;
        take(format!("{theirs}/bias"), format!("{name}.bias"), &[d], &[d])?;
        for (part, ours, shape) in [("intermediate_output", "up", [d, f]), ("layer_output", "down", [f, d])] {
            let name = format!("blocks.{i}.mlp.{ours}");
            take(format!("{mlp}/{part}/kernel"), format!("{name}.weight"), &shape, &shape)?;
            take(format!("{mlp}/{part}/bias"), format!("{name}.bias"), &shape[1..], &shape[1..])?;
        }
        norms.push((format!("{attention}/attention_output_ln"), format!("blocks.{i}.attention_norm")));
        norms.push((format!("{mlp}/layer_output_ln"), format!("blocks.{i}.mlp_norm")));
    }

    let head = format!("{prefix}MlmLayer_0");
    take(format!("{head}/mlm_dense/kernel"), "head.dense.weight".into(), &[d, d], &[d, d])?;
    take(format!("{head}/mlm_dense/bias"), "head.dense.bias".into(), &[d], &[d])?;
    take(format!("{head}/mlm_bias/bias"), "head.bias".into(), &[v], &[v])?;
    norms.push((format!("{head}/mlm_ln"), "head.norm".to_owned()));
    for (theirs, name) in norms {
        take(format!("{theirs}/scale"), format!("{name}.gamma"), &[d], &[d])?;
        take(format!("{theirs}/bias"), format!("{name}.beta"), &[d], &[d])?;
    }
    tensors.end()?;
    Ok((config, ours))
}

fn sizes(
    tensors: &TensorMap,
    prefix: &str,
    layer: &str,
    classes: usize,
    null_class: bool,
) -> Result<ModelConfig, Error> {
    let mut sizing = Sizing::new(tensors);
    let words = sizing.shape(&format!("{prefix}Embed_0/word_embeddings/embedding"), 2);
    let positions = sizing.shape(&format!("{prefix}Embed_0/position_embeddings/embedding"), 2);
    let query = sizing.shape(&format!("{layer}_0/{prefix}Attention_0/self_attention/query/kernel"), 3);
    let up = sizing.shape(&format!("{layer}_0/{prefix}Mlp_0/intermediate_output/kernel"), 2);
    sizing.end()?;
    let layers = (0..)
        .take_while(|i| {
            tensors.get(&format!("{layer}_{i}/{prefix}Attention_0/self_attention/query/kernel")).is_ok()
        })
        .count();
    let special = classes + usize::from(null_class) + 1;
    let codes = words[0].checked_sub(special).ok_or_else(|| Error::Config {
        field: "classes",
        expected: format!("fewer than the {} rows of the token table", words[0]),
        got: classes.to_string(),
    })?;
    let (heads, hidden) = (query[1], up[1]);
    let nests = |p: &usize| heads.is_multiple_of(*p) && hidden.is_multiple_of(*p);
    Ok(ModelConfig {
        layers,
        width: words[1],
        heads,
        hidden,
        tokens: positions[0].saturating_sub(1),
        codes,
        classes,
        null_class,
        sub_models: [1, 2, 4, 8].into_iter().filter(nests).collect(),
        norm: Norm::Post,
        nesting: Nesting::HeadsAndHidden,
        dropout: 0.1,
    })
}
