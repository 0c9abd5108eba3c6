//! Archives of a source that has several.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{folder, is_hidden};
use crate::Error;

/// How a tar is compressed, by its name.
const COMPRESSED: [&str; 7] = ["gz", "xz", "bz2", "zst", "lz4", "lzma", "z"];
/// The same in one ending.
const COMPRESSED_TARS: [&str; 5] = [".tgz", ".txz", ".tbz", ".tbz2", ".tzst"];

/// Whether a name is that of a file which would end in `ending` if it were not compressed, or that has it in capitals.
pub(super) fn is_packed(name: &str, ending: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let packed = || lower.rsplit_once('.').filter(|(_, last)| COMPRESSED.contains(last));
    lower.ends_with(ending) && !name.ends_with(ending)
        || packed().is_some_and(|(name, _)| name.ends_with(ending))
        || ending == ".tar" && COMPRESSED_TARS.iter().any(|packed| lower.ends_with(packed))
}

/// Says of such a file what to do with it.
pub(super) fn packed(folder: &Path, name: &str, ending: &str) -> Error {
    let what = match name.to_ascii_lowercase().ends_with(ending) {
        true => "rename it to one that ends in",
        false => "unpack it to a file that ends in",
    };
    Error::Layout { path: folder.into(), reason: format!("`{name}`: {what} {ending}, or take it away") }
}

/// The path itself if it is a file, or the files of a folder that end in `ending`; their names must have the word
/// `split`. Links to files are followed, since a shard is named by whoever gives the source.
pub(super) fn shards(path: &Path, ending: &str, split: Option<&str>) -> Result<Vec<PathBuf>, Error> {
    let has_split = |name: &str| {
        split.is_none_or(|split| {
            name.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case(split))
        })
    };
    let with_word = split.map(|split| format!(" with the word `{split}`")).unwrap_or_default();
    if !fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        if !has_split(&path.file_name().unwrap_or_default().to_string_lossy()) {
            return Err(Error::Layout { path: path.into(), reason: format!("not a name{with_word}") });
        }
        return Ok(vec![path.into()]);
    }
    let mut files = Vec::new();
    for (name, kind) in folder(path)? {
        if is_hidden(&name) || !has_split(&name) {
            continue;
        }
        // Who has it there means it, and would miss its pictures.
        if is_packed(&name, ending) {
            return Err(packed(path, &name, ending));
        }
        if !name.ends_with(ending) {
            continue;
        }
        let file = path.join(name);
        if kind.is_file() || kind.is_symlink() && fs::metadata(&file).map_err(Error::io(&file))?.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Error::Layout { path: path.into(), reason: format!("no {ending} files{with_word}") });
    }
    Ok(files)
}

/// Words for what is held out, or not, in the names of shards.
const SPLITS: [&str; 5] = ["train", "test", "val", "valid", "validation"];

/// The shards of a split. Where none is named, shards of several are refused: who trains on all of them has nothing left to
/// measure with.
pub(super) fn shards_of_split(path: &Path, ending: &str, split: Option<&str>) -> Result<Vec<PathBuf>, Error> {
    let shards = shards(path, ending, split)?;
    if split.is_some() {
        return Ok(shards);
    }
    let mut found = shards.iter().filter_map(|shard| Some(splits_of(shard.file_name()?.to_str()?)));
    let Some(first) = found.find(|splits| !splits.is_empty()) else { return Ok(shards) };
    if let Some(other) = found.find(|splits| !splits.is_empty() && *splits != first) {
        let [first, other] = [first, other].map(|splits| splits.into_iter().collect::<Vec<_>>().join(" "));
        let reason =
            format!("shards of `{first}` and of `{other}`: a split must be named that says which are meant");
        return Err(Error::Layout { path: path.into(), reason });
    }
    Ok(shards)
}

/// The words for splits in a shard's name.
fn splits_of(name: &str) -> BTreeSet<&'static str> {
    let words = name.split(|c: char| !c.is_alphanumeric());
    words.filter_map(|word| SPLITS.into_iter().find(|split| word.eq_ignore_ascii_case(split))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_shards_are_known_by_their_names() {
        for (name, ending, expected) in [
            ("train-0.tar", ".tar", false),
            ("train-0.TAR", ".tar", true),
            ("train-0.tar.gz", ".tar", true),
            ("train-0.Tar.ZST", ".tar", true),
            ("train-0.tgz", ".tar", true),
            ("train-0.tar.idx", ".tar", false),
            ("train-0.gz", ".tar", false),
            ("train-0.parquet.gz", ".parquet", true),
            ("train-0.tgz", ".parquet", false),
        ] {
            assert_eq!(is_packed(name, ending), expected, "{name} {ending}");
        }
    }

    #[test]
    fn a_packed_shard_beside_others_is_refused_where_it_is_of_the_split() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["train-0.tar", "val-0.tar.gz"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let of = |split| shards(folder.path(), ".tar", split);
        for split in ["train", "Train"] {
            assert_eq!(of(Some(split)).unwrap(), [folder.path().join("train-0.tar")]);
        }
        for split in [None, Some("val")] {
            let error = of(split).unwrap_err().to_string();
            assert!(
                error.ends_with("`val-0.tar.gz`: unpack it to a file that ends in .tar, or take it away"),
                "{error}"
            );
        }
    }

    #[test]
    fn shards_of_several_splits_are_refused_by_all_words_of_their_names() {
        let of = |names: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            names.iter().for_each(|name| fs::write(folder.path().join(name), "").unwrap());
            shards_of_split(folder.path(), ".tar", None).map(|shards| shards.len()).map_err(|e| e.to_string())
        };
        for same in [
            ["a-train-0.tar", "a-train-1.tar"],
            ["test-a-train-0.tar", "Test-b-Train.tar"],
            ["x.tar", "val.tar"],
        ] {
            assert_eq!(of(&same), Ok(2));
        }
        for (several, told) in [
            (["smoke-test-train-0.tar", "smoke-test-val-0.tar"], ["`test train`", "`test val`"]),
            (["Train-0.tar", "Val-0.tar"], ["`train`", "`val`"]),
            (["imagenet-train.tar", "imagenet-train-val.tar"], ["`train val`", "`train`"]),
        ] {
            let error = of(&several).unwrap_err();
            // In the order of the names.
            let [first, other] = told;
            assert!(error.contains(&format!("shards of {first} and of {other}: ")), "{error}");
        }
    }
}
