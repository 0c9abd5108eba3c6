//! The samples of a run, shard by shard: tokens, pictures, features. What is finished is not made again.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use burn::tensor::Device;
use clap::ValueEnum;
use mgnt_data::Picture;
use mgnt_data::manifest::{sha256, sha256_of_file};
use mgnt_decode::Plan;
use mgnt_eval::{Activations, Generation, Measured, Measuring, Meter, Side};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::ImageTokenizer;
use mgnt_weights::directory::WEIGHTS;
use mgnt_weights::npz::Writer;
use mgnt_weights::{DType, Error, NamedTensor, TensorMap, atomic, safetensors};
use serde::Serialize;

use super::Arguments;
use super::run_folder::{Identity, RunFolder, read_activations, write_activations};
use crate::commands::evaluation::{VERSION, activations};
use crate::commands::generation::{
    ClassChoice, Generator, check_pair, model_sha256, warn_of_another_tokenizer,
};
use crate::commands::watch::Progress;

/// How generated pictures are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Keep {
    /// png/SHARD/CLASS-SAMPLE.png
    Png,
    /// samples.npz with arr_0 u8 [N, H, W, 3]
    Npz,
}

/// What is to be generated.
pub(super) struct Request {
    model: NestedTransformer,
    tokenizer: ImageTokenizer,
    plan: Plan,
    identity: Identity,
    choice: ClassChoice,
    keep: Option<Keep>,
    model_path: PathBuf,
    /// Of the transformer's weights, and of the tokenizer's.
    weights_sha256: [String; 2],
}

/// What `manifest.json` holds.
#[derive(Serialize)]
struct Manifest<'a> {
    #[serde(flatten)]
    identity: &'a Identity,
    /// Sample i draws from `seed` and i alone.
    samples_are: &'static str,
    shards: &'a [ShardEntry],
    /// Class of each sample.
    labels: &'a [usize],
}

#[derive(Serialize)]
struct ShardEntry {
    tokens: String,
    first: usize,
    samples: usize,
    sha256: String,
}

/// Samples of one shard.
struct Shard<'a> {
    number: usize,
    first: usize,
    classes: &'a [usize],
}

impl Shard<'_> {
    /// Names of its pictures, where they are kept as PNG files.
    fn png_names(&self) -> impl Iterator<Item = String> {
        (self.first..).zip(self.classes).map(|(i, class)| format!("{class:04}-{i:06}.png"))
    }
}

/// What makes and measures every shard.
struct Work<'a> {
    generator: Generator<'a>,
    folder: &'a RunFolder,
    measuring: &'a Measuring<'a>,
}

impl Request {
    /// Checks what can be checked before anything is computed.
    pub(super) fn new(
        arguments: &Arguments,
        (model, model_path): (NestedTransformer, &Path),
        (tokenizer, tokenizer_path): (ImageTokenizer, &Path),
    ) -> anyhow::Result<Self> {
        let plan = arguments.strategy.plan(model.config())?;
        let batch = usize::from(arguments.batch).min(arguments.shard.min(arguments.samples) as usize);
        arguments.compute.check_memory(&plan, "--batch", batch)?;
        check_pair(model.config(), &tokenizer)?;
        warn_of_another_tokenizer(model_path, tokenizer_path)?;
        let identity = Identity {
            version: VERSION,
            model_sha256: model_sha256(model_path)?,
            tokenizer_sha256: model_sha256(tokenizer_path)?,
            samples: arguments.samples as usize,
            seed: arguments.seed,
            classes: arguments.classes.to_string(),
            class_count: model.config().classes,
            strategy: ron::to_string(plan.strategy())?,
            dtype: arguments.compute.dtype.to_string(),
            device: arguments.compute.device.kind().into(),
            batch: arguments.batch.into(),
            shard: arguments.shard as usize,
        };
        let (choice, keep) = (arguments.classes, arguments.keep);
        let weights_sha256 =
            [sha256_of_file(&model_path.join(WEIGHTS))?, sha256_of_file(&tokenizer_path.join(WEIGHTS))?];
        let model_path = model_path.into();
        Ok(Self { model, tokenizer, plan, identity, choice, keep, model_path, weights_sha256 })
    }

    /// The folder of the samples, of this run or new.
    pub(super) fn folder(&self, out: &Path, measuring: &Measuring) -> anyhow::Result<RunFolder> {
        RunFolder::open(out, &self.identity, measuring)
    }

    /// Generates and measures what is not there yet.
    pub(super) fn run(
        self,
        folder: &RunFolder,
        measuring: &Measuring,
        device: &Device,
    ) -> anyhow::Result<(Measured, Side, Generation)> {
        let identity = &self.identity;
        let [model_sha256, tokenizer_sha256] = self.weights_sha256.clone();
        let schedule = self.plan.strategy().models.to_string();
        let generator =
            Generator::new(&self.model, &self.tokenizer, self.plan.clone(), identity.seed, device)?;
        let work = Work { generator, folder, measuring };
        let classes = self.choice.of(identity.class_count, identity.seed, identity.samples);
        let shards: Vec<Shard> = (classes.chunks(identity.shard).enumerate())
            .map(|(number, classes)| Shard { number, first: number * identity.shard, classes })
            .collect();

        let mut progress = Progress::new(2 * identity.samples, "pictures, generated and measured");
        for shard in &shards {
            let tokens = self.decode(shard, &work, &mut progress)?;
            self.measure(shard, &tokens, &work, &mut progress)?;
        }
        progress.finish();
        folder.check()?;
        if self.keep == Some(Keep::Npz) {
            assemble(&shards, folder, self.tokenizer.config().size)?;
        }

        let mut meter = Meter::new(measuring.dims, identity.samples);
        for shard in &shards {
            meter.add(&read_activations(&folder.features(shard.number), shard.classes.len())?)?;
        }
        let entries = shards.iter().map(|shard| entry(shard, folder)).collect::<anyhow::Result<Vec<_>>>()?;
        let all: String = entries.iter().map(|entry| entry.sha256.as_str()).collect();
        let manifest = Manifest {
            identity,
            samples_are: "functions of seed, number and class",
            shards: &entries,
            labels: &classes,
        };
        // What was read is of this run, too.
        folder.check()?;
        atomic::write_bytes(&folder.manifest(), &serde_json::to_vec(&manifest)?)?;
        let fake = Side::generated(&self.model_path, sha256(all.as_bytes()), identity.samples as u64);
        let generation = Generation {
            model_sha256,
            tokenizer_sha256,
            seed: identity.seed,
            classes: identity.classes.clone(),
            class_count: identity.class_count,
            schedule,
            strategy: identity.strategy.clone(),
            dtype: identity.dtype.clone(),
            device: identity.device.clone(),
            batch: identity.batch,
        };
        Ok((meter.finish()?, fake, generation))
    }

    /// The shard's tokens, which are written unless they are there.
    fn decode(&self, shard: &Shard, work: &Work, progress: &mut Progress) -> anyhow::Result<Vec<Vec<u16>>> {
        let path = work.folder.tokens(shard.number);
        let positions = self.model.config().tokens;
        if path.exists() {
            // Also where features are there already: they are not to be taken for those of other tokens.
            let tokens = read_tokens(&path, shard, positions, self.identity.seed)?;
            progress.skip(shard.classes.len());
            return Ok(tokens);
        }
        let mut tokens = Vec::new();
        let size = self.identity.batch;
        for (first, classes) in (shard.first..).step_by(size).zip(shard.classes.chunks(size)) {
            tokens.extend(work.generator.tokens(classes, first)?.tokens);
            progress.add(classes.len());
        }
        let count = shard.classes.len();
        let mut map = TensorMap::new();
        map.insert_u16("tokens", &[count, positions], &tokens.concat())?;
        let labels: Vec<i32> = shard.classes.iter().map(|&class| class as i32).collect();
        map.insert_i32("labels", &[count], &labels)?;
        map.set_metadata("first", shard.first.to_string());
        map.set_metadata("seed", self.identity.seed.to_string());
        work.folder.check()?;
        safetensors::write(&path, &map)?;
        Ok(tokens)
    }

    /// Turns the shard's tokens into pictures, and those into features; unless all that is asked for is there.
    fn measure(
        &self,
        shard: &Shard,
        tokens: &[Vec<u16>],
        work: &Work,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        let Work { generator, folder, measuring } = work;
        let path = folder.features(shard.number);
        let kept = match self.keep {
            None => true,
            Some(Keep::Png) => {
                // Each of them: people move pictures to elsewhere.
                let pngs = folder.png(shard.number);
                shard.png_names().all(|name| pngs.join(name).exists())
            }
            Some(Keep::Npz) => folder.archive().exists() || folder.part(shard.number).exists(),
        };
        if kept && path.exists() {
            progress.skip(shard.classes.len());
            return Ok(());
        }
        let (mut said, mut pictures) = (Activations::default(), Vec::new());
        for tokens in tokens.chunks(self.identity.batch) {
            let batch = generator.pictures(tokens)?;
            if !path.exists() {
                said.extend(activations(measuring, &batch)?);
            }
            progress.add(batch.len());
            if !kept {
                pictures.extend(batch);
            }
        }
        folder.check()?;
        if !kept {
            self.keep_pictures(shard, &pictures, folder)?;
        }
        if !path.exists() {
            folder.check()?;
            write_activations(&path, &said, shard.classes.len())?;
        }
        Ok(())
    }

    fn keep_pictures(&self, shard: &Shard, pictures: &[Picture], folder: &RunFolder) -> anyhow::Result<()> {
        match self.keep {
            None => Ok(()),
            Some(Keep::Png) => {
                let target = folder.png(shard.number);
                // What else people put there stays.
                if target.exists() {
                    let own: Vec<String> = shard.png_names().collect();
                    atomic::remove_leftovers_of(&target, |name| own.iter().any(|own| own == name))?;
                    for (picture, name) in pictures.iter().zip(own) {
                        let path = target.join(name);
                        if !path.exists() {
                            atomic::write_bytes(&path, &picture.to_png()?)?;
                        }
                    }
                    return Ok(());
                }
                atomic::write_folder(&target, |target| {
                    for (picture, name) in pictures.iter().zip(shard.png_names()) {
                        atomic::write_within(&target.join(name), &picture.to_png()?)?;
                    }
                    Ok(())
                })
            }
            Some(Keep::Npz) => {
                let size = self.tokenizer.config().size;
                let bytes = pictures.iter().flat_map(Picture::rgb).copied().collect();
                let mut map = TensorMap::new();
                let shape = vec![pictures.len(), size, size, 3];
                map.insert("pictures", NamedTensor::new("pictures", DType::U8, shape, bytes)?);
                Ok(safetensors::write(&folder.part(shard.number), &map)?)
            }
        }
    }
}

/// The tokens of a shard in a file, which must be that shard's.
fn read_tokens(path: &Path, shard: &Shard, positions: usize, seed: u64) -> anyhow::Result<Vec<Vec<u16>>> {
    let damaged = || format!("{}: damaged; without it, its samples are made again", path.display());
    let map = safetensors::read(path).with_context(damaged)?;
    let count = shard.classes.len();
    if map.get("tokens").with_context(damaged)?.shape() != [count, positions] {
        return Err(anyhow!(damaged()));
    }
    let labels = map.integers("labels").with_context(damaged)?;
    let is_of = |name: &str, value: String| map.metadata().get(name).is_some_and(|found| *found == value);
    if !is_of("first", shard.first.to_string())
        || !is_of("seed", seed.to_string())
        || !labels.iter().copied().eq(shard.classes.iter().map(|&class| class as i64))
    {
        let path = path.display();
        return Err(anyhow!("{path}: holds other samples; without it, those of this shard are made again"));
    }
    let tokens = map.integers("tokens").with_context(damaged)?;
    Ok(tokens.chunks(positions).map(|row| row.iter().map(|&token| token as u16).collect()).collect())
}

fn entry(shard: &Shard, folder: &RunFolder) -> anyhow::Result<ShardEntry> {
    let path = folder.tokens(shard.number);
    let tokens = path.strip_prefix(folder.path()).unwrap_or(&path).display().to_string();
    let (first, samples) = (shard.first, shard.classes.len());
    Ok(ShardEntry { tokens, first, samples, sha256: sha256_of_file(&path)? })
}

/// Joins the shards' pictures into one archive, which then takes their place.
fn assemble(shards: &[Shard], folder: &RunFolder, size: usize) -> anyhow::Result<()> {
    let path = folder.archive();
    if !path.exists() {
        let samples: usize = shards.iter().map(|shard| shard.classes.len()).sum();
        atomic::write_file(&path, |file| {
            let mut writer = Writer::new(file, &path);
            writer.start("arr_0", DType::U8, &[samples, size, size, 3])?;
            for shard in shards {
                let map = safetensors::read(&folder.part(shard.number))?;
                writer.write(map.get("pictures")?.bytes())?;
            }
            writer.finish()
        })?;
    }
    let parts = folder.parts();
    match std::fs::remove_dir_all(&parts) {
        Err(error) if parts.exists() => Err(Error::io(&parts)(error).into()),
        _ => Ok(()),
    }
}
