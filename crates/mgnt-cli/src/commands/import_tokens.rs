//! `mgnt import-tokens`: tokens that another program made become a token store.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use mgnt_data::manifest::{sha256, sha256_of_file};
use mgnt_data::{TokenJob, TokenStoreInfo, class_names};
use mgnt_eval::is_npz;
use mgnt_tokenizer::{ImageTokenizer, VideoTokenizer, codes_sha256};
use mgnt_weights::directory::{ModelDirectory, WEIGHTS};
use mgnt_weights::npz::Archive;
use mgnt_weights::{NamedTensor, TensorMap};

use super::prepare::of_options;
use super::watch::Progress;
use crate::device::DeviceWord;
use crate::failure::bad_use;
use crate::model_kind::ModelKind;

/// Arguments of `mgnt import-tokens`.
#[derive(Args)]
pub struct Arguments {
    /// Files with `tokens [n, N]`, `[n, h, w]` or (of videos) `[n, t, h, w]` and `labels [n]` (or `class_ids`), both integers: safetensors, NumPy's npz, or a
    /// dictionary of tensors that PyTorch saved
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Number of the tokenizer's codes
    #[arg(long, value_name = "V", required_unless_present = "tokenizer", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    codes: Option<u32>,
    /// Rows and columns of the tokens; as many of both if not given
    #[arg(long, value_name = "ROWSxCOLUMNS", value_parser = parse_grid)]
    grid: Option<Grid>,
    /// Names of the classes, one a line
    #[arg(long, value_name = "FILE", conflicts_with = "classes")]
    class_names: Option<PathBuf>,
    /// Number of classes, where they have no names [default: as many as the labels need]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    classes: Option<u32>,
    /// Name of the tokenizer: stores of other names are not trained on together
    #[arg(long, value_name = "NAME", default_value = "of another program", conflicts_with = "tokenizer")]
    tokenizer_name: String,
    /// The tokenizer's model directory, where it is one of ours
    #[arg(long, value_name = "DIR", conflicts_with = "codes")]
    tokenizer: Option<PathBuf>,
    /// The token store to write; what a stopped run left in DIR.part is continued
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

/// Places of the tokens: rows and columns, of videos a layer each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    layers: Option<usize>,
    rows: usize,
    columns: usize,
}

impl Grid {
    fn flat([rows, columns]: [usize; 2]) -> Self {
        Self { layers: None, rows, columns }
    }

    fn layered([layers, rows, columns]: [usize; 3]) -> Self {
        Self { layers: Some(layers), rows, columns }
    }

    /// As a store has it: layers one below the other.
    fn stored(self) -> [usize; 2] {
        [self.layers.unwrap_or(1) * self.rows, self.columns]
    }

    /// Whether both may be told of the same tokens.
    fn agrees_with(self, other: Self) -> bool {
        match (self.layers, other.layers) {
            (Some(_), Some(_)) => self == other,
            _ => self.stored() == other.stored(),
        }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layers) = self.layers {
            write!(f, "{layers}x")?;
        }
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

fn parse_grid(text: &str) -> Result<Grid, String> {
    let sides = text.split_once('x').unwrap_or((text, text));
    let side = |text: &str| text.parse().ok().filter(|&side| side > 0);
    match (side(sides.0), side(sides.1)) {
        (Some(rows), Some(columns)) => Ok(Grid::flat([rows, columns])),
        _ => Err("expected rows and columns, such as 16x16".into()),
    }
}

/// Tokens and labels of all pictures.
struct Gathered {
    /// Tokens of a picture.
    positions: usize,
    /// Where a file tells.
    grid: Option<Grid>,
    tokens: Vec<u16>,
    labels: Vec<u16>,
}

/// Writes the store.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let tokenizer = match &arguments.tokenizer {
        Some(folder) => TokenizerOf::directory(folder)?,
        None => TokenizerOf {
            codes: arguments.codes.map_or(0, |codes| codes as usize),
            grid: None,
            name: arguments.tokenizer_name.clone(),
            codes_sha256: None,
        },
    };
    let codes = tokenizer.codes;
    let mut gathered: Option<Gathered> = None;
    for file in &arguments.files {
        let map = read(file)?;
        gather(&map, codes, &mut gathered).with_context(|| file.display().to_string())?;
    }
    let Some(Gathered { positions, grid, tokens, labels }) = gathered else {
        return Err(bad_use("there is no file"));
    };
    let told =
        [("the tokenizer's grid", tokenizer.grid), ("--grid", arguments.grid), ("the files' shape", grid)];
    let grid = grid_of(&told, positions)?;
    let classes = names(&arguments, labels.iter().max().map_or(0, |&last| usize::from(last) + 1))?;
    let sums: String =
        arguments.files.iter().map(|file| sha256_of_file(file)).collect::<Result<String, _>>()?;
    let names = arguments.files.iter().map(|file| file.file_name().unwrap_or(file.as_os_str()));
    let source = names.map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(", ");
    let count = classes.len();
    let TokenizerOf { name, codes_sha256, .. } = tokenizer;
    let info = TokenStoreInfo { grid: grid.stored(), codes, classes, tokenizer: name, codes_sha256, source };
    let pictures = sha256(sums.as_bytes());
    let job = TokenJob::of(&arguments.out, labels.len(), pictures, info, false, None).map_err(of_options)?;
    let pending = job.pending();
    let left: usize = pending.iter().map(|shard| shard.pictures().len()).sum();
    let mut progress = Progress::new(job.len(), "tokens of pictures");
    progress.skip(job.len() - left);
    for shard in pending {
        let pictures = shard.pictures();
        let of_shard: Vec<Vec<u16>> = tokens[pictures.start * positions..pictures.end * positions]
            .chunks(positions)
            .map(<[u16]>::to_vec)
            .collect();
        job.write(&shard, &of_shard, &labels[pictures.clone()])?;
        progress.add(pictures.len());
    }
    job.publish()?;
    progress.finish();
    let (out, samples) = (arguments.out.display(), labels.len());
    tell!("{out}: tokens {grid} of {samples} pictures of {count} classes");
    Ok(())
}

/// What is known of the tokenizer that made the tokens.
struct TokenizerOf {
    codes: usize,
    grid: Option<Grid>,
    name: String,
    codes_sha256: Option<String>,
}

impl TokenizerOf {
    /// Of one of ours, which must be whole.
    fn directory(folder: &Path) -> anyhow::Result<Self> {
        let (directory, device) = (ModelDirectory::new(folder), DeviceWord::Cpu.open()?);
        let (codes, grid, codes_sha256) = match ModelKind::of(&directory)? {
            ModelKind::ImageTokenizer => {
                let tokenizer = ImageTokenizer::load(folder, &device)?;
                let config = tokenizer.config();
                (config.codes, Grid::flat([config.grid(); 2]), Some(codes_sha256(&directory)?))
            }
            ModelKind::VideoTokenizer => {
                let tokenizer = VideoTokenizer::load(folder, &device)?;
                (tokenizer.config().codes, Grid::layered(tokenizer.config().grid()), None)
            }
            ModelKind::Transformer => {
                return Err(bad_use(format!(
                    "{}: expected a tokenizer, got a transformer",
                    folder.display()
                )));
            }
        };
        Ok(Self { codes, grid: Some(grid), name: sha256_of_file(&folder.join(WEIGHTS))?, codes_sha256 })
    }
}

fn read(file: &Path) -> anyhow::Result<TensorMap> {
    if std::fs::metadata(file).is_ok_and(|there| !there.is_file()) {
        return Err(bad_use(format!("{}: expected a file, which is read twice", file.display())));
    }
    if !is_npz(file) && !Archive::open(file).is_ok_and(|archive| archive.has("tokens")) {
        return Ok(mgnt_weights::read(file)?);
    }
    let (mut archive, mut map) = (Archive::open(file)?, TensorMap::new());
    let labels = if archive.has("labels") { "labels" } else { "class_ids" };
    for name in ["tokens", labels] {
        if archive.has(name) {
            let array = archive.array(name)?;
            let shape = array.shape().to_vec();
            map.insert(name, array.read(&shape)?);
        }
    }
    Ok(map)
}

/// Adds a file's tokens and labels to those of the files before.
fn gather(map: &TensorMap, codes: usize, all: &mut Option<Gathered>) -> anyhow::Result<()> {
    let tokens = map.get("tokens")?;
    let (count, positions, grid) = match *tokens.shape() {
        [count, positions] => (count, positions, None),
        [count, rows, columns] => (count, rows * columns, Some(Grid::flat([rows, columns]))),
        [count, layers, rows, columns] => {
            (count, layers * rows * columns, Some(Grid::layered([layers, rows, columns])))
        }
        ref shape => {
            return Err(anyhow!("`tokens`: expected shape [n, N], [n, h, w] or [n, t, h, w], got {shape:?}"));
        }
    };
    if count == 0 || positions == 0 {
        return Err(anyhow!("`tokens`: expected some, got shape {:?}", tokens.shape()));
    }
    let name = if map.get("labels").is_ok() { "labels" } else { "class_ids" };
    let labels = map.get(name).map_err(|_| anyhow!("`labels` and `class_ids` are missing"))?;
    if *labels.shape() != [count] {
        return Err(anyhow!("`{name}`: expected shape [{count}], got {:?}", labels.shape()));
    }
    let all = all.get_or_insert(Gathered { positions, grid, tokens: Vec::new(), labels: Vec::new() });
    if all.positions != positions {
        let (expected, got) = (all.positions, tokens.shape());
        return Err(anyhow!(
            "`tokens`: expected {expected} of a picture, as in the files before, got shape {got:?}"
        ));
    }
    if let Some((expected, got)) = all.grid.zip(grid).filter(|(before, grid)| !before.agrees_with(*grid)) {
        return Err(anyhow!("`tokens`: expected {expected} of a picture, as in the files before, got {got}"));
    }
    // Of two that agree, the one that tells more.
    all.grid = all.grid.filter(|before| before.layers.is_some() || grid.is_none()).or(grid);
    add(&mut all.tokens, "tokens", tokens, codes)?;
    add(&mut all.labels, name, labels, 1 << 16)
}

/// Adds integers from 0 to below `end`.
fn add(all: &mut Vec<u16>, name: &str, tensor: &NamedTensor, end: usize) -> anyhow::Result<()> {
    let values =
        tensor.iter_i64().ok_or_else(|| anyhow!("`{name}`: expected integers, got {:?}", tensor.dtype()))?;
    all.reserve_exact(tensor.shape().iter().product());
    for value in values {
        let number = u16::try_from(value).ok().filter(|&number| usize::from(number) < end);
        all.push(number.ok_or_else(|| anyhow!("`{name}`: expected 0 to {}, got {value}", end - 1))?);
    }
    Ok(())
}

/// The grid that is told, in one way or more, or the square.
fn grid_of(told: &[(&str, Option<Grid>)], positions: usize) -> anyhow::Result<Grid> {
    let mut told = told.iter().filter_map(|&(name, grid)| Some((name, grid?)));
    let Some((name, grid)) = told.next() else {
        let no_square =
            || bad_use(format!("--grid: {positions} tokens are no square: expected ROWSxCOLUMNS"));
        return square(positions).ok_or_else(no_square);
    };
    if let Some((other, differs)) = told.find(|&(_, other)| !other.agrees_with(grid)) {
        return Err(bad_use(format!("{name} is {grid}, and {other} is {differs}")));
    }
    if grid.stored().iter().product::<usize>() != positions {
        return Err(bad_use(format!("{name} is {grid}, and a picture has {positions} tokens")));
    }
    Ok(grid)
}

/// The grid of as many rows as columns.
fn square(positions: usize) -> Option<Grid> {
    let side = positions.isqrt();
    (side * side == positions).then_some(Grid::flat([side; 2]))
}

/// Names of the classes, of which the labels need so many.
fn names(arguments: &Arguments, needed: usize) -> anyhow::Result<Vec<String>> {
    let (option, names) = match (&arguments.class_names, arguments.classes) {
        (Some(path), _) => (format!("--class-names {}", path.display()), class_names(path)?),
        (None, Some(count)) => {
            (format!("--classes {count}"), (0..count).map(|class| class.to_string()).collect())
        }
        (None, None) => return Ok((0..needed).map(|class| class.to_string()).collect()),
    };
    if names.len() < needed {
        let (last, count) = (needed - 1, names.len());
        return Err(bad_use(format!("{option}: label {last} is used, and there are {count} classes")));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_two_sides() {
        assert_eq!((parse_grid("4x6"), parse_grid("8")), (Ok(Grid::flat([4, 6])), Ok(Grid::flat([8, 8]))));
        for wrong in ["", "x", "4x", "0x4", "-1x2", "4x4x4"] {
            assert!(parse_grid(wrong).is_err(), "{wrong}");
        }
        let sides = [256, 255, 1].map(|positions| square(positions).map(Grid::stored));
        assert_eq!(sides, [Some([16, 16]), None, Some([1, 1])]);
    }

    #[test]
    fn layers_agree_in_their_order_alone() {
        let (of_file, of_model) = (Grid::layered([16, 4, 16]), Grid::layered([4, 16, 16]));
        assert_eq!(of_file.stored(), of_model.stored());
        assert!(!of_file.agrees_with(of_model) && of_model.agrees_with(of_model));
        assert!(Grid::flat([64, 16]).agrees_with(of_model) && !Grid::flat([16, 64]).agrees_with(of_model));
        let told = [("the tokenizer's grid", Some(of_model)), ("the files' shape", Some(of_file))];
        let error = grid_of(&told, 1024).unwrap_err().to_string();
        assert_eq!(error, "the tokenizer's grid is 4x16x16, and the files' shape is 16x4x16");
    }
}
