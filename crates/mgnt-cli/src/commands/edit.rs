//! `mgnt edit`: paints a part of a photo anew, around what is kept.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::{ArgGroup, Args};
use mgnt_data::{Filter, Picture};
use mgnt_decode::edit::{PixelMask, blend, known_tokens};
use mgnt_decode::{Iteration, Ledger, Strategy};
use mgnt_weights::atomic;
use serde::Serialize;

use super::generation::{
    AsRead, MadeWith, add_up, check_class, check_pair, parse_class, pictures, warn_of_another_tokenizer,
};
use super::output_folder::{self, Contents, is_number};
use super::strategy::StrategyArguments;
use super::watch::Progress;
use super::{in_words, print_json};
use crate::device::{Compute, Dtype, decoder};
use crate::failure::bad_use;
use crate::output::grid::{Cell, columns, labelled_grid};

/// Arguments of `mgnt edit`.
#[derive(Args)]
#[command(group = ArgGroup::new("region").required(true).args(["mask", "paint", "keep"]))]
pub struct Arguments {
    /// The photo, turned as its metadata asks for; its centre square is edited
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// A picture of the photo's size: light pixels are painted, dark ones kept (by the strongest of red, green and blue, so
    /// that a stroke of any colour on black is painted; transparency is not looked at)
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Paint this box of the photo (inpainting), in pixels
    #[arg(long = "box", value_name = "X,Y,W,H")]
    paint: Option<Rectangle>,
    /// Keep this box of the photo and paint all around it (outpainting)
    #[arg(long, value_name = "X,Y,W,H")]
    keep: Option<Rectangle>,
    /// Class of what is painted; without it, none
    #[arg(long, value_name = "C", value_parser = parse_class)]
    class: Option<usize>,
    /// Number of edits
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    count: u16,
    /// Pixels of the edit over which the seam is mixed, at most as many as the region is deep (default: half a token)
    #[arg(long, value_name = "PIXELS")]
    feather: Option<u16>,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The transformer's model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The tokenizer's model directory
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Folder for the edits and a grid of them; one that an earlier `edit` made is replaced
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// A box of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Rectangle {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl FromStr for Rectangle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Result<Vec<usize>, _> = text.split(',').map(|word| word.trim().parse()).collect();
        match numbers.as_deref() {
            Ok(&[left, top, width, height]) if width > 0 && height > 0 => {
                Ok(Self { left, top, width, height })
            }
            _ => Err("expected x,y,width,height in pixels, the last two above 0".into()),
        }
    }
}

impl Rectangle {
    fn contains(self, x: usize, y: usize) -> bool {
        (self.left..self.left.saturating_add(self.width)).contains(&x)
            && (self.top..self.top.saturating_add(self.height)).contains(&y)
    }
}

/// What is painted.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Region<'a> {
    /// Light pixels of a picture.
    Mask(#[serde(serialize_with = "in_words")] &'a Path),
    /// A box.
    Box(Rectangle),
    /// All but a box.
    Keep(Rectangle),
}

/// What the folder holds.
pub(super) const CONTENTS: Contents = Contents {
    manifest: "edited.json",
    is_picture: |name| {
        let number = name.strip_prefix("edit-").and_then(|rest| rest.strip_suffix(".png"));
        number.is_some_and(|number| is_number(number, 3))
    },
    grid: &["grid.png"],
};

#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "in_words")]
    out: &'a Path,
    #[serde(serialize_with = "in_words")]
    input: &'a Path,
    region: Region<'a>,
    feather: usize,
    count: usize,
    seed: u64,
    class: Option<usize>,
    dtype: Dtype,
    #[serde(flatten)]
    made_with: MadeWith<'a>,
    painted_tokens: usize,
    strategy: &'a Strategy,
    ledger: &'a Ledger,
}

/// Edits that are decoded at once.
const AT_ONCE: usize = 16;

/// Edits the photo.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    output_folder::check(&arguments.out, &CONTENTS)?;
    output_folder::check_outside(&arguments.out, "--input", &arguments.input)?;
    if let Some(mask) = &arguments.mask {
        output_folder::check_outside(&arguments.out, "--mask", mask)?;
    }
    let photo = Picture::open_upright(&arguments.input)?;
    let region = region(&arguments)?;
    let mask = mask(region, &photo)?;
    let device = arguments.compute.open()?;
    let as_read = AsRead::new(&[&arguments.model, &arguments.tokenizer]);
    let tokenizer = arguments.compute.image_tokenizer(&arguments.tokenizer, &device)?;
    let (size, grid) = (tokenizer.config().size, tokenizer.config().grid());
    let original = photo.centre_square(size, Filter::Lanczos)?;
    let shrunk = shrunk(&mask, size)?;
    let refused = |e: mgnt_decode::Error| bad_use(format!("{e} (in the centre square of the photo)"));
    let mask = PixelMask::new(size, size, light(&shrunk).collect()).map_err(refused)?;
    let open = mask.cells(grid).map_err(refused)?;

    let model = arguments.compute.load(&arguments.model, &device)?;
    check_pair(model.config(), &tokenizer)?;
    check_class(model.config().classes, arguments.class)?;
    let painted_tokens = open.iter().filter(|&&open| open).count();
    let plan = arguments.strategy.plan_for(model.config(), painted_tokens)?;
    if arguments.class.is_none() && plan.iterations().iter().any(Iteration::is_guided) {
        return Err(bad_use("--guidance: without --class there is nothing to guide to"));
    }
    let count = usize::from(arguments.count);
    arguments.compute.check_memory(&plan, "--count", count.min(AT_ONCE))?;
    warn_of_another_tokenizer(&arguments.model, &arguments.tokenizer)?;
    let made_with = MadeWith::new(&arguments.model, Some(&arguments.tokenizer))?;
    as_read.check()?;
    let tokens = tokenizer.tokens(&[original.rgb()], &device)?;
    let feather = arguments.feather.map_or(size / grid / 2, usize::from);
    let (mut edits, mut ledger) = (Vec::with_capacity(count), None);
    let mut progress = Progress::new(count, "edits");
    for first in (0..count).step_by(AT_ONCE) {
        let some = AT_ONCE.min(count - first);
        let known = known_tokens(&tokens[0], &open);
        let decoder = decoder(&model, &plan).seed(arguments.seed).first_sample(first as u64).known(known);
        let decoded = match arguments.class {
            Some(class) => decoder.classes(&vec![class; some]),
            None => decoder.unconditional(some),
        }
        .run()?;
        for painted in pictures(&tokenizer, &decoded.tokens, &device)? {
            edits.push(Picture::new(size, size, blend(original.rgb(), painted.rgb(), &mask, feather)?)?);
        }
        add_up(&mut ledger, decoded.ledger);
        progress.add(some);
    }
    progress.finish();
    let ledger = ledger.context("--count: nothing to edit")?;
    let cell = |picture, label: &str| Cell { picture, label: label.into() };
    let mut cells = vec![cell(&original, "photo"), cell(&shrunk, "mask")];
    cells.extend(edits.iter().map(|edit| cell(edit, "edit")));
    let drawn = labelled_grid(&cells, columns(cells.len()).max(3)).into_picture()?;
    let report = Report {
        out: &arguments.out,
        input: &arguments.input,
        region,
        feather,
        count,
        seed: arguments.seed,
        class: arguments.class,
        dtype: arguments.compute.dtype,
        made_with,
        painted_tokens,
        strategy: plan.strategy(),
        ledger: &ledger,
    };
    atomic::write_folder(&arguments.out, |folder| {
        for (i, edit) in edits.iter().enumerate() {
            atomic::write_within(&folder.join(format!("edit-{i:03}.png")), &edit.to_png()?)?;
        }
        atomic::write_within(&folder.join("grid/grid.png"), &drawn.to_png()?)?;
        output_folder::check_again(&arguments.out, &CONTENTS)?;
        Ok::<_, anyhow::Error>(atomic::write_within(
            &folder.join(CONTENTS.manifest),
            &serde_json::to_vec(&report)?,
        )?)
    })?;

    if arguments.json {
        return print_json(&report);
    }
    println!("{count} edits of {painted_tokens} tokens in {}", arguments.out.display());
    print!("{ledger}");
    Ok(())
}

fn region(arguments: &Arguments) -> anyhow::Result<Region<'_>> {
    match (&arguments.mask, arguments.paint, arguments.keep) {
        (Some(path), ..) => Ok(Region::Mask(path)),
        (None, Some(rectangle), _) => Ok(Region::Box(rectangle)),
        (None, None, Some(rectangle)) => Ok(Region::Keep(rectangle)),
        (None, None, None) => Err(bad_use("one of --mask, --box and --keep is needed")),
    }
}

/// The mask at the photo's size, light where it is to be painted.
fn mask(region: Region, photo: &Picture) -> anyhow::Result<Picture> {
    let (width, height) = (photo.width(), photo.height());
    let (rectangle, inside) = match region {
        Region::Mask(path) => {
            let mask = Picture::open_upright(path)?;
            if (mask.width(), mask.height()) != (width, height) {
                return Err(bad_use(format!(
                    "--mask {}: expected {width}x{height} pixels, as the photo has, got {}x{}",
                    path.display(),
                    mask.width(),
                    mask.height()
                )));
            }
            return Ok(mask);
        }
        Region::Box(rectangle) => (rectangle, 255),
        Region::Keep(rectangle) => (rectangle, 0),
    };
    if rectangle.left.saturating_add(rectangle.width) > width
        || rectangle.top.saturating_add(rectangle.height) > height
    {
        return Err(bad_use(format!("the box reaches outside the photo of {width}x{height} pixels")));
    }
    let value = |i: usize| if rectangle.contains(i % width, i / width) { inside } else { 255 - inside };
    Ok(Picture::new(width, height, (0..width * height).flat_map(|i| [value(i); 3]).collect())?)
}

/// Whether each pixel of a mask is light, in any colour.
fn light(mask: &Picture) -> impl Iterator<Item = bool> {
    mask.rgb().chunks(3).map(|pixel| pixel.iter().any(|&byte| byte > 127))
}

/// The mask at the size of the edits. Refuses one whose light or dark pixels are not there, or too thin to be left there.
fn shrunk(mask: &Picture, size: usize) -> anyhow::Result<Picture> {
    let shrunk = mask.centre_square(size, Filter::Area)?;
    for (open, to_do, done) in [(true, "paint", "painted"), (false, "keep", "kept")] {
        if light(&shrunk).any(|light| light == open) {
            continue;
        }
        let square = mask.centre_square(mask.width().min(mask.height()), Filter::Area)?;
        return Err(bad_use(if light(&square).any(|light| light == open) {
            format!("mask: what is to be {done} is less than half a pixel in an edit of {size}x{size} pixels")
        } else {
            let (width, height) = (mask.width(), mask.height());
            let side = width.min(height);
            let (x, y) = ((width - side) / 2, (height - side) / 2);
            format!(
                "mask: expected some pixels to {to_do} in the centre square of the photo, {x},{y},{side},{side} of \
                 {width}x{height}, got none"
            )
        }));
    }
    Ok(shrunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_is_light_in_any_colour() {
        let pixels = [[128; 3], [127; 3], [255, 0, 0], [0, 200, 0], [0, 0, 128], [90, 127, 60]];
        let mask = Picture::new(3, 2, pixels.concat()).unwrap();
        assert_eq!(light(&mask).collect::<Vec<_>>(), [true, false, true, true, true, false]);
    }

    #[test]
    fn a_mask_that_has_nothing_left_says_why() {
        let of = |is_light: fn(usize, usize) -> bool| {
            let value = |i: usize| [if is_light(i % 48, i / 48) { 255 } else { 0 }; 3];
            let mask = Picture::new(48, 24, (0..48 * 24).flat_map(value).collect()).unwrap();
            shrunk(&mask, 6).map(|_| ()).map_err(|error| error.to_string())
        };
        of(|x, _| x < 24).unwrap();
        for (is_light, reason) in [
            // Beside the centre square, which is from 12 to 36.
            ((|x, _| x < 6) as fn(usize, usize) -> bool, "some pixels to paint in the centre square"),
            (|x, _| (12..36).contains(&x), "some pixels to keep in the centre square"),
            (|x, _| x == 20, "what is to be painted is less than half a pixel in an edit of 6x6"),
            (|x, y| (x, y) != (20, 9), "what is to be kept is less than half a pixel"),
        ] {
            let error = of(is_light).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn boxes() {
        let parse = |text: &str| text.parse::<Rectangle>();
        let rectangle = parse("1, 2,3,4").unwrap();
        assert!(rectangle.contains(3, 5) && !rectangle.contains(4, 5) && !rectangle.contains(0, 2));
        for wrong in ["", "1,2,3", "1,2,0,4", "1,2,3,-4", "a,b,c,d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
