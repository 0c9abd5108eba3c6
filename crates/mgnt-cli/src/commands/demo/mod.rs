//! `mgnt demo`: the whole path on a bare machine, from drawn pictures to a page that compares the baseline with the
//! schedule and its cache; and the same comparison with weights of photos that come with mgnt.

mod compared;
mod page;
mod shipped;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use clap::Args;
use mgnt_data::{Picture, PictureStore, PrepareOptions, TokenStore, prepare, synthetic};
use mgnt_tokenizer::ImageTokenizer;
use mgnt_train::tokenizer::Networks;
use mgnt_train::{
    Optimization, Outcome, Recipe, RunOptions, Task, TokenizerRecipe, TokenizerTask, TransformerTask,
    has_checkpoint, run as train,
};
use mgnt_weights::atomic;
use mgnt_weights::directory::{self, is_of_a_file_manager};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::compared::{Comparison, Figures};
use self::shipped::Shipped;
use super::tokenize::{TokenizeOptions, tokenize};
use super::watch::stop_on_interrupt;
use super::watcher::RunWatcher;
use super::{output_folder, print_json};
use crate::device::{Compute, DeviceWord, Dtype};
use crate::failure::bad_use;
use crate::output::grid::{Cell, labelled_grid};

/// Arguments of `mgnt demo`.
#[derive(Args)]
pub struct Arguments {
    /// Folder for all that the demonstration makes; an unfinished one is continued
    #[arg(long, short, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// Drawn pictures of each class to train on
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(4..))]
    pictures: u16,
    /// Divide the steps of both trainings by this, and generate fewer pictures, for an impression in less time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    hurry: u16,
    /// Weights of photos to show beside: a folder with `transformer`, `tokenizer` and `classes.txt` (`cargo xtask demo`
    /// gives those of `assets`)
    #[arg(long, value_name = "DIR")]
    shipped: Option<PathBuf>,
    /// Seed of the generated pictures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Device to compute on
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    device: DeviceWord,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

const TOKENIZER: (&str, &str) =
    ("configs/image/demo-tokenizer.ron", include_str!("../../../../../configs/image/demo-tokenizer.ron"));
const TRANSFORMER: (&str, &str) =
    ("configs/image/demo.ron", include_str!("../../../../../configs/image/demo.ron"));
/// Drawn pictures of each class that are held out.
const HELD_OUT: usize = 8;
/// Generated pictures of each class, where there is no hurry.
const EACH: usize = 4;

/// What was measured.
#[derive(Serialize)]
struct Measures {
    page: PathBuf,
    /// Of held-out pictures through the tokenizer, in decibels.
    reconstruction_psnr: f64,
    /// Of the weights that were trained here.
    #[serde(flatten)]
    trained: Figures,
    /// Of the weights that came with mgnt.
    #[serde(skip_serializing_if = "Option::is_none")]
    shipped: Option<Figures>,
}

/// Runs the demonstration.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let start = Instant::now();
    let compute = Compute { device: arguments.device, dtype: Dtype::F32 };
    let device = compute.open()?;
    let stop = stop_on_interrupt()?;
    let out = &arguments.out;
    check_folder(out)?;

    let mut tokenizer_recipe: TokenizerRecipe = embedded(TOKENIZER)?;
    let mut recipe: Recipe = embedded(TRANSFORMER)?;
    for optimization in [&mut tokenizer_recipe.optimization, &mut recipe.optimization] {
        optimization.steps = (optimization.steps / usize::from(arguments.hurry)).max(2);
        optimization.warm_up_steps /= usize::from(arguments.hurry);
    }

    let each = (EACH / usize::from(arguments.hurry)).max(2);

    let shipped = arguments.shipped.as_deref().map(|folder| Shipped::load(folder, &compute, &device));
    let shipped = shipped.transpose()?;
    let lock = output_folder::lock(out, "demonstration")?;
    let write =
        |name: &str, bytes: &[u8]| lock.check().and_then(|()| atomic::write_bytes(&out.join(name), bytes));
    // Another may have worked there meanwhile.
    check_folder(out)?;
    let is_continued = out.join("data").exists();
    atomic::remove_leftovers_of(out, |of| PAGES.contains(&of))?;
    let photos = match &shipped {
        Some(shipped) => {
            tell!("decoding photos by the weights that come with mgnt");
            Some(shipped.compare(each, arguments.hurry, arguments.seed, &device)?)
        }
        None => None,
    };

    lock.check()?;
    tell!("1/5 drawing pictures of {} classes", synthetic::CLASSES.len());
    let size = tokenizer_recipe.tokenizer.size;
    let store = Arc::new(drawn(out, "train", usize::from(arguments.pictures), size, 1)?);
    let held_out = Arc::new(drawn(out, "held-out", HELD_OUT, size, 2)?);
    // Now that the folder is known as a demonstration's.
    if let Some(compared) = &photos {
        write("photos.png", &compared.grid)?;
    }

    lock.check()?;
    tell!("2/5 training the tokenizer");
    let tokenizer_run = out.join("tokenizer");
    let task = TokenizerTask::new(&tokenizer_recipe, &store, Some(&held_out), Networks::default(), &device)?;
    let optimization = &tokenizer_recipe.optimization;
    let side_by_side = arguments.device.is_cpu();
    let options = RunOptions { side_by_side, ..RunOptions::new(&device, &tokenizer_run, &stop) };
    if !finish(task, optimization, &tokenizer_recipe, options)? {
        return Ok(());
    }

    lock.check()?;
    tell!("3/5 turning pictures into tokens");
    let tokenizer_folder = tokenizer_run.join("model");
    let tokens = Arc::new(tokens(out, "train", &store, &tokenizer_folder, (&compute, &device))?);
    let held_out_tokens =
        Arc::new(self::tokens(out, "held-out", &held_out, &tokenizer_folder, (&compute, &device))?);

    lock.check()?;
    tell!("4/5 training the nested transformer");
    let run = out.join("transformer");
    let task = TransformerTask::new(&recipe, &tokens, Some(&held_out_tokens), &device)?;
    let task = arguments.device.trained(task, &device);
    if !finish(task, &recipe.optimization, &recipe, RunOptions { out: &run, ..options })? {
        return Ok(());
    }

    tell!("5/5 decoding the same seeds by the baseline and by the schedule with its cache");
    let model = compute.load(&run.join("model"), &device)?;
    let tokenizer = compute.image_tokenizer(&tokenizer_folder, &device)?;
    let names = synthetic::CLASSES.map(String::from);
    let comparison = Comparison {
        model: &model,
        tokenizer: &tokenizer,
        names: &names,
        each,
        guidance: 0.0,
        seed: arguments.seed,
        device: &device,
    };
    let compared = comparison.run()?;

    let (originals, rebuilt) = reconstructions(&tokenizer, &held_out, &device)?;
    let bytes = |pictures: &[Picture]| pictures.iter().flat_map(Picture::rgb).copied().collect::<Vec<u8>>();
    let psnr = mgnt_eval::psnr(&bytes(&originals), &bytes(&rebuilt))?;
    write("grid.png", &compared.grid)?;
    write("decoding.gif", &compared.animation)?;
    let shown: Vec<Cell> = originals
        .iter()
        .map(|picture| (picture, "drawn"))
        .chain(rebuilt.iter().map(|picture| (picture, "rebuilt")))
        .map(|(picture, label)| Cell { picture, label: label.into() })
        .collect();
    let rebuilt = labelled_grid(&shown, originals.len()).into_picture()?.to_png()?;
    let parts = page::Parts {
        trained: (model.config(), &compared),
        shipped: shipped.as_ref().map(Shipped::config).zip(photos.as_ref()),
        rebuilt: &rebuilt,
        reconstruction_psnr: psnr,
        seconds: (!is_continued).then(|| start.elapsed().as_secs_f64()),
    };
    let page = out.join("index.html");
    write(PAGES[0], parts.page().as_bytes())?;

    let measures = Measures {
        page,
        reconstruction_psnr: psnr,
        trained: compared.figures,
        shipped: photos.map(|compared| compared.figures),
    };
    if arguments.json {
        return print_json(&measures);
    }
    let told = |what: &str, figures: &Figures| {
        println!(
            "{what}: {:.2}x faster than the baseline in wall clock; {:.1} % of the tokens are the same ({:.1} % by chance)",
            figures.faster,
            100.0 * figures.code_agreement,
            100.0 * figures.agreement_by_chance
        );
    };
    print!("{}", measures.trained.schedule);
    told("trained here", &measures.trained);
    if let Some(figures) = &measures.shipped {
        told("photos", figures);
    }
    println!("open {}", measures.page.display());
    Ok(())
}

/// What a demonstration writes over, and what it works in.
const PAGES: [&str; 4] = ["index.html", "grid.png", "decoding.gif", "photos.png"];
const WORK: [&str; 4] = ["data", "tokenizer", "transformer", "lock"];

/// Refuses a folder that holds anything but a demonstration.
fn check_folder(out: &Path) -> anyhow::Result<()> {
    let is_known = out.join("data/train-pictures").exists();
    let entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(anyhow::Error::new(error).context(format!("--out {}", out.display()))),
    };
    for entry in entries {
        let name = entry?.file_name();
        if is_of_a_file_manager(&name) {
            continue;
        }
        let name = name.to_string_lossy().into_owned();
        let of = atomic::leftover_of(&name).unwrap_or(&name);
        if !(WORK.contains(&of) || is_known && PAGES.contains(&of)) {
            let out = out.display();
            return Err(bad_use(format!("--out {out}: holds {name} of something else; take another folder")));
        }
    }
    Ok(())
}

fn embedded<R: DeserializeOwned>((name, text): (&str, &str)) -> anyhow::Result<R> {
    Ok(directory::parse_ron(text, Path::new(name))?)
}

/// A packed store of drawn pictures, drawn where it is not there yet.
fn drawn(out: &Path, name: &str, each: usize, size: usize, seed: u64) -> anyhow::Result<PictureStore> {
    let store = out.join("data").join(format!("{name}-pictures"));
    if !store.exists() {
        let source = out.join("data").join(name);
        if !source.exists() {
            // Of a demonstration that was killed while it drew.
            atomic::remove_leftovers_of(&out.join("data"), |of| of == name)?;
            atomic::write_folder(&source, |folder| synthetic::write_folder(folder, each, size, seed))?;
        }
        prepare(&source, &PrepareOptions { size, ..PrepareOptions::default() }, &store, &mut |_, _| {})?;
    }
    let store = PictureStore::open(&store)?;
    anyhow::ensure!(
        (store.len(), store.size()) == (each * synthetic::CLASSES.len(), size),
        "{} holds another demonstration; remove it, or choose another --out",
        out.display()
    );
    Ok(store)
}

fn tokens(
    out: &Path,
    name: &str,
    store: &PictureStore,
    tokenizer: &Path,
    on: (&Compute, &Device),
) -> anyhow::Result<TokenStore> {
    let folder = out.join("data").join(format!("{name}-tokens"));
    if !folder.exists() {
        let options = TokenizeOptions { batch: 16, flips: false, shard_items: None };
        tokenize(store, tokenizer, &options, &folder, on)?;
    }
    Ok(TokenStore::open(folder)?)
}

/// Trains to the end, from the newest checkpoint where there is one; `false` where the user stopped it.
fn finish<T: Task>(
    task: T,
    optimization: &Optimization,
    recipe: &impl Serialize,
    options: RunOptions,
) -> anyhow::Result<bool> {
    let resume = has_checkpoint(options.out)?;
    let outcome = train(
        task,
        optimization,
        recipe,
        RunOptions { resume, ..options },
        RunWatcher::new(options.out, None),
    )?;
    if let Outcome::Interrupted(step) = outcome {
        tell!("stopped after {step} steps; the same command continues");
    }
    Ok(outcome == Outcome::Finished)
}

/// One held-out picture of each class, and what the tokenizer makes of it.
fn reconstructions(
    tokenizer: &ImageTokenizer,
    store: &PictureStore,
    device: &Device,
) -> anyhow::Result<(Vec<Picture>, Vec<Picture>)> {
    let chosen: Vec<&[u8]> = (0..store.len()).step_by(HELD_OUT).map(|i| store.picture(i)).collect();
    let rebuilt = tokenizer.pictures(&tokenizer.tokens(&chosen, device)?, device)?;
    let picture = |rgb: Vec<u8>| Ok(Picture::new(store.size(), store.size(), rgb)?);
    let originals = chosen.iter().map(|rgb| picture(rgb.to_vec())).collect::<anyhow::Result<_>>()?;
    Ok((originals, rebuilt.into_iter().map(picture).collect::<anyhow::Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_pictures_that_a_kill_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        for name in ["train.77.tmp", "notes.77.tmp"] {
            std::fs::create_dir_all(data.join(name).join("disc")).unwrap();
        }
        drawn(folder.path(), "train", 1, 16, 1).unwrap();
        assert!(!data.join("train.77.tmp").exists() && data.join("notes.77.tmp").exists());
    }

    #[test]
    fn the_embedded_recipes_are_valid() {
        embedded::<TokenizerRecipe>(TOKENIZER).unwrap().validate().unwrap();
        embedded::<Recipe>(TRANSFORMER).unwrap().validate().unwrap();
    }
}
