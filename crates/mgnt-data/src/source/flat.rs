//! Pictures side by side, and a text file that has their classes, as ILSVRC2012's validation pictures come.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::archive::{self, Kind};
use super::names::Names;
use super::{Classes, Found, Place, folder, is_hidden, not_a_file};
use crate::Error;

/// Label files and lists of names are small; what is larger is something else.
const LIST_BYTES: u64 = 64 << 20;

/// What helps a file of classes with spaces.
const SEVERAL_WORDS: &str =
    "classes of several words need the picture's name and a tab before them, or a list of the classes' names";

/// The lines of a text file, without the spaces around them and without the mark that some editors put first.
pub(super) fn lines(path: &Path) -> Result<Vec<String>, Error> {
    let length = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if length > LIST_BYTES {
        let reason = format!("{length} bytes; a list has at most {LIST_BYTES}");
        return Err(Error::Layout { path: path.into(), reason });
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    Ok(text.trim_start_matches('\u{feff}').lines().map(|line| line.trim().to_owned()).collect())
}

/// Splits a line `picture class`, at a tab if there is one, else at a comma, else at spaces; only a class if there is
/// none of them. A class may have spaces and, behind a tab, commas. None if there are more columns.
fn columns(line: &str) -> Option<(Option<&str>, &str)> {
    let line = line.trim_end_matches([',', '\t', ' ']);
    let Some(separator) = ['\t', ',', ' '].into_iter().find(|separator| line.contains(*separator)) else {
        return Some((None, line));
    };
    let (picture, class) = line.split_once(separator)?;
    let more = separator != ' ' && class.contains(separator);
    (!more).then(|| (Some(picture.trim()), without_boxes(class.trim())))
}

/// The class of what Kaggle gives as `class x y x y`, once or more: there the numbers are places in the picture.
fn without_boxes(class: &str) -> &str {
    let words: Vec<&str> = class.split_whitespace().collect();
    let is_box =
        |words: &[&str]| words.len() == 5 && words[1..].iter().all(|word| word.parse::<f64>().is_ok());
    if words.chunks(5).all(is_box) { words.first().copied().unwrap_or(class) } else { class }
}

/// The classes of the pictures.
enum Labels {
    /// A class for each picture, in byte order of their names.
    InOrder(Vec<String>),
    /// A class for each name, with or without the ending.
    ByName(HashMap<String, String>),
}

impl Labels {
    /// Reads lines `class`, or `picture class`. Where all lines are names of classes, each is one, though it has spaces. Beside
    /// them comes what an error may add.
    fn read(path: &Path, names: Option<&Names>) -> Result<(Self, String), Error> {
        let layout = |reason: String| Error::Layout { path: path.into(), reason };
        let lines = lines(path)?;
        let lines: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        let mut hint = SEVERAL_WORDS.to_owned();
        if let Some(Names { path, names }) = names {
            let names: HashSet<&String> = names.iter().collect();
            match lines.iter().find(|line| !names.contains(line)) {
                None => return Ok((Self::InOrder(lines), hint)),
                Some(other) => hint = format!("as a class alone, `{other}` is not in {}", path.display()),
            }
        }
        let odd = |line: &str| layout(format!("line `{line}` has not as many columns as the first; {hint}"));
        let (mut in_order, mut by_name) = (Vec::new(), HashMap::new());
        for line in &lines {
            let more = || layout(format!("line `{line}` has more columns than a picture and a class"));
            match columns(line).ok_or_else(more)? {
                (Some(_), _) if !in_order.is_empty() => return Err(odd(line)),
                (None, _) if !by_name.is_empty() => return Err(odd(line)),
                (None, class) => in_order.push(class.to_owned()),
                (Some(picture), class) => {
                    let known = by_name.insert(picture.to_owned(), class.to_owned());
                    if known.is_some_and(|known| known != class) {
                        return Err(layout(format!("`{picture}` has two classes; {hint}")));
                    }
                }
            }
        }
        Ok((if by_name.is_empty() { Self::InOrder(in_order) } else { Self::ByName(by_name) }, hint))
    }
}

/// Lists the pictures of a folder or tar. With `names`, those are the classes, and a class that is a number is a place
/// among them, the first being 1.
pub(super) fn list(path: &Path, labels: Option<&Path>, names: Option<&Names>) -> Result<Found, Error> {
    let labels_path = labels.unwrap_or(path);
    let layout = |reason: String| Error::Layout { path: labels_path.into(), reason };
    let (labels, hint) = Labels::read(labels_path, names)?;
    let mut found = Found::named();
    if let Some(Names { path, names }) = names {
        let classes: HashMap<String, u32> = names.iter().cloned().zip(0..).collect();
        // Classes are known by their names: numbers that share one would become one class.
        let is_twice = |(at, name): &(usize, &String)| classes[*name] as usize != *at;
        if let Some((_, twice)) = names.iter().enumerate().find(is_twice) {
            let reason = format!("two classes are called `{twice}`; each needs a name of its own");
            return Err(Error::Layout { path: path.clone(), reason });
        }
        // A part of a set has the labels of the whole.
        found.classes = Classes::Named { classes, all_used: false };
    }
    if std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        for (name, kind) in folder(path)? {
            if is_hidden(&name) {
                continue;
            }
            if kind.is_file() {
                found.push(name, 0, Place::File);
            } else {
                found
                    .skip(name, if kind.is_dir() { "a folder, which is not read" } else { not_a_file(kind) });
            }
        }
    } else {
        let container = found.container(path);
        for member in archive::members(path, None)? {
            if member.name.split('/').any(is_hidden) {
                continue;
            }
            match member.kind {
                Kind::File => {
                    let place = Place::Archive { container, offset: member.offset, length: member.length };
                    found.push(member.name, 0, place);
                }
                Kind::Other(reason) => found.skip(member.name, reason),
                Kind::Folder => {}
            }
        }
    }
    found.entries.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
    if let Labels::InOrder(classes) = &labels
        && classes.len() != found.entries.len()
    {
        return Err(layout(format!("{} labels for {} pictures", classes.len(), found.entries.len())));
    }
    let mut entries = std::mem::take(&mut found.entries);
    for (at, entry) in entries.iter_mut().enumerate() {
        let class = match &labels {
            Labels::InOrder(classes) => &classes[at],
            Labels::ByName(classes) => {
                let file = entry.key.rsplit('/').next().unwrap_or_default();
                let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
                let known = classes.get(file).or_else(|| classes.get(stem));
                // Where the first has one, lines have their columns.
                let hint = if at == 0 { format!("; {hint}") } else { String::new() };
                known.ok_or_else(|| layout(format!("no label for `{}`{hint}", entry.key)))?
            }
        };
        entry.label = label(class, names, &mut found).map_err(layout)?;
    }
    found.entries = entries;
    Ok(found)
}

/// The label of a class, which is a number or a name.
fn label(class: &str, names: Option<&Names>, found: &mut Found) -> Result<u32, String> {
    let is_number = class.parse::<f64>().is_ok_and(f64::is_finite);
    match names {
        None if is_number => {
            Err(format!("class {class} is a number; a file of the classes' names is needed"))
        }
        None => Ok(found.class(class)),
        Some(Names { names, .. }) if is_number => {
            let place = class.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let label = place.and_then(|place| found.known(names.get(place)?));
            match (label, found.known(class)) {
                (Some(label), Some(named)) if named != label => Err(format!(
                    "class {class}: it may be the number of `{}`, numbers counting from 1, or the name of number {}",
                    names[label as usize],
                    named + 1,
                )),
                (label, _) => label
                    .ok_or_else(|| format!("class {class}; the names are of classes 1 to {}", names.len())),
            }
        }
        Some(Names { path, .. }) => {
            found.known(class).ok_or_else(|| format!("class `{class}` is not in {}", path.display()))
        }
    }
}
