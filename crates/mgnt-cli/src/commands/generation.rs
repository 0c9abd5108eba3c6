//! From classes to pictures: what `generate`, `edit`, `eval-fid` and `demo` share.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::anyhow;
use burn::tensor::Device;
use clap::ValueEnum;
use mgnt_data::Picture;
use mgnt_data::manifest::{sha256, sha256_of_file};
use mgnt_decode::{Decoded, Decoder, Ledger, Noise, Plan, Snapshot};
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_tokenizer::{ImageTokenizer, ImageTokenizerConfig, codes_sha256};
use mgnt_train::watch::DESCRIPTION;
use mgnt_weights::directory::{self, ModelDirectory};
use serde::{Deserialize, Serialize};

use super::in_words;
use crate::device::decoder;
use crate::failure::bad_use;
use crate::output::canvas::Canvas;
use crate::output::grid::{Cell, labelled_grid, veiled};

/// A model, its tokenizer, a plan and a seed.
pub struct Generator<'a> {
    model: &'a NestedTransformer,
    tokenizer: &'a ImageTokenizer,
    plan: Plan,
    seed: u64,
    device: &'a Device,
}

/// Pictures that were decoded together.
pub struct Batch {
    /// Tokens of each picture in raster order.
    pub tokens: Vec<Vec<u16>>,
    /// The pictures.
    pub pictures: Vec<Picture>,
    /// Plan and times.
    pub ledger: Ledger,
}

/// Samples whose iterations are shown.
const SHOWN: usize = 8;

impl<'a> Generator<'a> {
    /// Refuses a tokenizer whose tokens are not those of the model.
    pub fn new(
        model: &'a NestedTransformer,
        tokenizer: &'a ImageTokenizer,
        plan: Plan,
        seed: u64,
        device: &'a Device,
    ) -> anyhow::Result<Self> {
        check_pair(model.config(), tokenizer)?;
        Ok(Self { model, tokenizer, plan, seed, device })
    }

    /// Decodes samples `first`, `first + 1`, … of these classes.
    pub fn batch(&self, classes: &[usize], first: usize) -> anyhow::Result<Batch> {
        self.decode(self.decoder(classes, first))
    }

    /// As [`Self::batch`], without the pictures.
    pub fn tokens(&self, classes: &[usize], first: usize) -> anyhow::Result<Decoded> {
        Ok(self.decoder(classes, first).run()?)
    }

    /// As [`Self::batch`], with a canvas an iteration: the first samples side by side, masked cells veiled.
    pub fn watched(&self, classes: &[usize], first: usize) -> anyhow::Result<(Batch, Vec<Canvas>)> {
        let mut seen = Vec::new();
        let mut watch = |snapshot: &Snapshot| {
            let shown = snapshot.tokens.len().min(SHOWN);
            seen.push((snapshot.tokens[..shown].to_vec(), snapshot.undecided[..shown].to_vec()));
        };
        let batch = self.decode(self.decoder(classes, first).watch(&mut watch))?;
        let grid = self.tokenizer.config().grid();
        let canvas =
            |((tokens, undecided), iteration): ((Vec<_>, Vec<Vec<bool>>), &mgnt_decode::Iteration)| {
                let label = format!("i {} p {}", iteration.index, iteration.sub_model.p());
                let pictures = self.pictures(&tokens)?;
                let veiled: Vec<Picture> = pictures
                    .iter()
                    .zip(&undecided)
                    .map(|(picture, open)| veiled(picture, open, grid))
                    .collect();
                let cells: Vec<Cell> =
                    veiled.iter().map(|picture| Cell { picture, label: label.clone() }).collect();
                Ok(labelled_grid(&cells, SHOWN))
            };
        let frames =
            seen.into_iter().zip(self.plan.iterations()).map(canvas).collect::<anyhow::Result<_>>()?;
        Ok((batch, frames))
    }

    fn decoder<'d>(&'d self, classes: &[usize], first: usize) -> Decoder<'d> {
        decoder(self.model, &self.plan).classes(classes).seed(self.seed).first_sample(first as u64)
    }

    fn decode(&self, decoder: Decoder) -> anyhow::Result<Batch> {
        let decoded = decoder.run()?;
        let pictures = self.pictures(&decoded.tokens)?;
        Ok(Batch { tokens: decoded.tokens, pictures, ledger: decoded.ledger })
    }

    /// Pictures of tokens.
    pub fn pictures(&self, tokens: &[Vec<u16>]) -> anyhow::Result<Vec<Picture>> {
        pictures(self.tokenizer, tokens, self.device)
    }
}

/// Numbers of a tokenizer's widest layer that are there at once, 256 MiB of them; all its layers take up to five times that.
const AT_ONCE: usize = 1 << 26;

/// Pictures of tokens.
///
/// A picture takes much more memory than its tokens did while they were decoded, so of a batch only some are made at once,
/// which changes none of them.
pub fn pictures(
    tokenizer: &ImageTokenizer,
    tokens: &[Vec<u16>],
    device: &Device,
) -> anyhow::Result<Vec<Picture>> {
    pictures_in_parts(tokenizer, tokens, at_once(tokenizer.config()), device)
}

fn pictures_in_parts(
    tokenizer: &ImageTokenizer,
    tokens: &[Vec<u16>],
    at_once: usize,
    device: &Device,
) -> anyhow::Result<Vec<Picture>> {
    let size = tokenizer.config().size;
    let mut pictures = Vec::with_capacity(tokens.len());
    for part in tokens.chunks(at_once) {
        for rgb in tokenizer.pictures(part, device)? {
            pictures.push(Picture::new(size, size, rgb)?);
        }
    }
    Ok(pictures)
}

/// Pictures that are made at once.
fn at_once(config: &ImageTokenizerConfig) -> usize {
    // The widest layers have the pictures' own resolution, at the width of the first two levels.
    let multiplier = config.multipliers.iter().take(2).max().map_or(1, |&multiplier| multiplier);
    (AT_ONCE / (config.size * config.size * config.filters * multiplier)).max(1)
}

/// The models that made pictures, as the record beside these names them.
#[derive(Serialize)]
pub struct MadeWith<'a> {
    model: Weights<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokenizer: Option<Weights<'a>>,
}

/// A model directory.
#[derive(Serialize)]
struct Weights<'a> {
    #[serde(serialize_with = "in_words")]
    path: &'a Path,
    weights_sha256: String,
}

impl<'a> MadeWith<'a> {
    /// Reads the weights of the model directories.
    pub fn new(model: &'a Path, tokenizer: Option<&'a Path>) -> anyhow::Result<Self> {
        let weights = |path: &'a Path| -> anyhow::Result<Weights<'a>> {
            Ok(Weights { path, weights_sha256: sha256_of_file(&path.join(directory::WEIGHTS))? })
        };
        Ok(Self { model: weights(model)?, tokenizer: tokenizer.map(weights).transpose()? })
    }
}

/// Model directories as they were before they were read: what is made of them names their weights by a checksum that is taken
/// later, and a training may have put others there meanwhile.
pub struct AsRead<'a>(Vec<(&'a Path, Stamps)>);

/// Lengths, times and, where the system tells, numbers of a model's files, of those that are there.
type Stamps = [Option<(u64, Option<SystemTime>, u64)>; 2];

impl<'a> AsRead<'a> {
    /// To be asked for before the models are loaded.
    pub fn new(directories: &[&'a Path]) -> Self {
        Self(directories.iter().map(|&path| (path, stamps(path))).collect())
    }

    /// Fails where one has changed since.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.0.iter().find(|(path, before)| stamps(path) != *before) {
            Some((path, _)) => {
                Err(anyhow!("{}: the model changed while it was read; try again", path.display()))
            }
            None => Ok(()),
        }
    }
}

fn stamps(model: &Path) -> Stamps {
    [directory::CONFIG, directory::WEIGHTS].map(|file| {
        let there = fs::metadata(model.join(file)).ok()?;
        Some((there.len(), there.modified().ok(), number(&there)))
    })
}

#[cfg(unix)]
fn number(there: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(there)
}

#[cfg(not(unix))]
fn number(_: &fs::Metadata) -> u64 {
    0
}

/// Adds a batch's times to those of the batches before.
pub fn add_up(total: &mut Option<Ledger>, ledger: Ledger) {
    match total {
        Some(total) => total.add(&ledger),
        None => *total = Some(ledger),
    }
}

/// Refuses a tokenizer whose tokens are not those of the model.
pub fn check_pair(m: &ModelConfig, tokenizer: &ImageTokenizer) -> anyhow::Result<()> {
    let t = tokenizer.config();
    if (m.tokens, m.codes) != (t.grid() * t.grid(), t.codes) {
        return Err(bad_use(format!(
            "the model has {} tokens of {} codes, the tokenizer {} of {}",
            m.tokens,
            m.codes,
            t.grid() * t.grid(),
            t.codes
        )));
    }
    Ok(())
}

/// Warns of a tokenizer that has other tokens than those that the model was trained on, where its run says which they were: pictures
/// of another are only a little worse, if it is of the same training.
pub fn warn_of_another_tokenizer(model: &Path, tokenizer: &Path) -> anyhow::Result<()> {
    if let Some(warning) = another_tokenizer(model, tokenizer)? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

fn another_tokenizer(model: &Path, tokenizer: &Path) -> anyhow::Result<Option<String>> {
    let Some(tokens) = tokens_of(model) else { return Ok(None) };
    let is_told = |others| format!("{others} than those that {} was trained on", model.display());
    Ok(other_tokens(tokenizer, &tokens)?.map(is_told))
}

/// Says that a tokenizer has other tokens than those of a store or a run, if it has.
pub fn other_tokens(tokenizer: &Path, tokens: &str) -> anyhow::Result<Option<String>> {
    let got = codes_sha256(&ModelDirectory::new(tokenizer))?;
    // Of older stores the checksum of the whole file is known, which may be that of the tokenizer whose tokens this one keeps.
    let is_right = tokens == got
        || tokens == sha256_of_file(&tokenizer.join(directory::WEIGHTS))?
        || tokens_of(tokenizer).is_some_and(|kept| tokens == kept);
    let own = match tokens.len() {
        64 => format!("checksum {got}, not {tokens}"),
        // A name that was given to what another program made.
        _ => format!("checksum {got}; those are named \"{tokens}\""),
    };
    Ok((!is_right).then(|| format!("{}: has other tokens ({own})", tokenizer.display())))
}

/// The checksum of the tokens that a model was trained on, or that a tokenizer keeps, where it lies in the folder of its run.
fn tokens_of(model: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Run {
        tokenizer: Option<String>,
    }
    let run = fs::canonicalize(model).ok()?.parent()?.join(DESCRIPTION);
    serde_json::from_slice::<Run>(&fs::read(run).ok()?).ok()?.tokenizer
}

/// SHA-256 of a model directory: of its configuration and its weights.
pub fn model_sha256(folder: &Path) -> anyhow::Result<String> {
    let [config, weights] =
        [directory::CONFIG, directory::WEIGHTS].map(|file| sha256_of_file(&folder.join(file)));
    Ok(sha256((config? + &weights?).as_bytes()))
}

/// A class on the command line: a model knows its number alone.
pub fn parse_class(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| {
        "expected the number of a class, from 0 on (a store's manifest lists them in order)".into()
    })
}

/// Refuses a class that a model with `all` classes does not have.
pub fn check_class(all: usize, class: Option<usize>) -> anyhow::Result<()> {
    match class {
        Some(class) if class >= all => {
            Err(bad_use(format!("--class {class}: the model has classes 0 to {}", all - 1)))
        }
        _ => Ok(()),
    }
}

/// A class for each picture: the one that is asked for, or all in turn.
pub fn classes(all: usize, class: Option<usize>, count: usize) -> anyhow::Result<Vec<usize>> {
    check_class(all, class)?;
    Ok((0..count).map(|i| class.unwrap_or(i % all)).collect())
}

/// How the classes of many samples are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClassChoice {
    /// All in turn, so that each is there as often
    Balanced,
    /// Each sample's by itself, all with the same chance
    Drawn,
}

impl std::fmt::Display for ClassChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Balanced => "balanced",
            Self::Drawn => "drawn",
        })
    }
}

/// Stream of a sample's random numbers that its class is drawn from; its iterations have the lower ones.
const CLASS_STREAM: usize = u32::MAX as usize;

impl ClassChoice {
    /// Class of each of `count` samples of a model with `all` classes.
    pub fn of(self, all: usize, seed: u64, count: usize) -> Vec<usize> {
        (0..count)
            .map(|i| match self {
                Self::Balanced => i % all,
                Self::Drawn => {
                    let uniform = Noise::new(seed).stream(i as u64, CLASS_STREAM).at(&[0])[0].token;
                    ((uniform * all as f64) as usize).min(all - 1)
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_changed_meanwhile_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let [model, tokenizer] = ["model", "tokenizer"].map(|name| folder.path().join(name));
        for path in [&model, &tokenizer] {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join(directory::CONFIG), "()").unwrap();
        }
        let as_read = AsRead::new(&[&model, &tokenizer]);
        as_read.check().unwrap();
        fs::write(tokenizer.join(directory::WEIGHTS), "more").unwrap();
        let error = as_read.check().unwrap_err().to_string();
        assert!(error.ends_with("tokenizer: the model changed while it was read; try again"), "{error}");
    }

    fn small() -> ImageTokenizerConfig {
        ImageTokenizerConfig {
            size: 8,
            filters: 8,
            multipliers: vec![1, 2],
            residual_blocks: 1,
            embedding: 4,
            codes: 16,
            groups: 4,
            ..ImageTokenizerConfig::maskgit()
        }
    }

    #[test]
    fn pictures_that_are_made_in_parts_are_the_same() {
        let device = Device::flex();
        let tokenizer = ImageTokenizer::init(&small(), 1, &device).unwrap();
        let tokens: Vec<Vec<u16>> = (0..5).map(|i| (0..16).map(|j| (i * 7 + j * 3) % 16).collect()).collect();
        let whole = pictures(&tokenizer, &tokens, &device).unwrap();
        assert_eq!(whole.len(), 5);
        assert!(whole[0] != whole[1]);
        for at_once in [1, 2, 3] {
            assert!(pictures_in_parts(&tokenizer, &tokens, at_once, &device).unwrap() == whole, "{at_once}");
        }
    }

    #[test]
    fn a_tokenizer_of_other_tokens_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let [model, ours, other, tuned] =
            ["run/model", "ours", "other", "tuned"].map(|name| folder.path().join(name));
        let drawn = |seed| ImageTokenizer::init(&small(), seed, &Device::flex()).unwrap();
        for (place, tokenizer) in [
            (&ours, drawn(1)),
            (&other, drawn(2)),
            // One with another decoder only.
            (&tuned, drawn(2).with_codes_of(&drawn(1)).unwrap()),
        ] {
            tokenizer.save(place).unwrap();
        }
        fs::create_dir_all(&model).unwrap();
        let said = |run: &str| {
            fs::write(folder.path().join("run/run.json"), run).unwrap();
            [&ours, &tuned, &other].map(|tokenizer| another_tokenizer(&model, tokenizer).unwrap())
        };
        let codes = |place: &Path| codes_sha256(&ModelDirectory::new(place)).unwrap();
        let of = |sum: &str| format!(r#"{{"task": "transformer", "tokenizer": "{sum}"}}"#);
        let sum = codes(&ours);
        let [None, None, Some(warning)] = said(&of(&sum)) else { panic!("the other alone is told of") };
        assert!(warning.contains(&sum) && warning.contains(&codes(&other)), "{warning}");
        assert!(warning.contains("run/model was trained on"), "{warning}");
        for text in [r#"{"task": "transformer"}"#, "no run's"] {
            assert_eq!(said(text), [None, None, None]);
        }
        // Of tokens that an older version made.
        let sum = sha256_of_file(&ours.join(directory::WEIGHTS)).unwrap();
        assert_eq!(said(&of(&sum)).map(|told| told.is_some()), [false, true, true]);
        let run = folder.path().join("kept/run.json");
        ImageTokenizer::load(&tuned, &Device::flex())
            .unwrap()
            .save(folder.path().join("kept/model"))
            .unwrap();
        fs::write(run, of(&sum)).unwrap();
        assert!(another_tokenizer(&model, &folder.path().join("kept/model")).unwrap().is_none());
    }

    #[test]
    fn the_larger_pictures_are_the_fewer_are_made_at_once() {
        let of = |size, filters, multipliers: &[usize]| {
            let multipliers = multipliers.to_vec();
            at_once(&ImageTokenizerConfig { size, filters, multipliers, ..ImageTokenizerConfig::maskgit() })
        };
        assert_eq!(at_once(&ImageTokenizerConfig::maskgit()), 8);
        assert_eq!(of(512, 128, &[1, 1, 2, 2, 4]), 2);
        assert_eq!(of(256, 128, &[1, 2, 4]), 4);
        assert_eq!(of(2048, 128, &[1]), 1);
        assert_eq!(of(32, 32, &[1, 2]), 1024);
    }

    #[test]
    fn balanced_classes_are_as_many_and_drawn_ones_nearly() {
        let counts = |choice: ClassChoice, seed: u64| {
            let mut counts = [0u32; 5];
            choice.of(5, seed, 5000).into_iter().for_each(|class| counts[class] += 1);
            counts
        };
        assert_eq!(counts(ClassChoice::Balanced, 1), [1000; 5]);
        let drawn = counts(ClassChoice::Drawn, 1);
        // A deviation of 28.
        assert!(drawn.iter().all(|&n| (860..1140).contains(&n)) && drawn != [1000; 5], "{drawn:?}");
        // A sample's class does not depend on how many there are.
        assert_eq!(ClassChoice::Drawn.of(5, 1, 40)[..10], ClassChoice::Drawn.of(5, 1, 10));
        assert_ne!(ClassChoice::Drawn.of(5, 1, 40), ClassChoice::Drawn.of(5, 2, 40));
    }
}
