//! Folders that a command fills, and may fill again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf, absolute};

use mgnt_weights::atomic::Lock;
use mgnt_weights::directory::is_of_a_file_manager;
use mgnt_weights::{Error, atomic};

use crate::failure::bad_use;

/// All that a command writes into its folder.
pub struct Contents {
    /// Describes the folder, and marks it as one that may be replaced: the other names alone may be a person's own.
    pub manifest: &'static str,
    /// Whether a name is one of the pictures'.
    pub is_picture: fn(&str) -> bool,
    /// What is in `grid`.
    pub grid: &'static [&'static str],
}

/// Whether a word is a number as it is written with at least `width` digits.
pub fn is_number(word: &str, width: usize) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
        && (word.len() == width || word.len() > width && !word.starts_with('0'))
}

/// Refuses an output that holds anything but what an earlier run of the same command left, and one that cannot be made. Tells
/// of what stopped runs left beside it.
pub fn check(out: &Path, contents: &Contents) -> anyhow::Result<()> {
    if out.file_name().is_none() {
        return Err(bad_use(format!("--out {}: expected a folder's own name", out.display())));
    }
    atomic::put_back(out)?;
    check_again(out, contents)?;
    check_parent("--out", out)?;
    tell_of_leftovers("--out", out);
    Ok(())
}

/// Tells of what stopped runs left beside a model directory that is to be written.
pub fn tell_of_leftovers_of_a_model(out: &Path) -> anyhow::Result<()> {
    // A model that was about to be replaced is no leftover.
    atomic::put_back(out)?;
    tell_of_leftovers("--out", out);
    Ok(())
}

/// Tells of what stopped runs left beside a file or folder that is to be written, of the name of `option`.
fn tell_of_leftovers(option: &str, out: &Path) {
    let left = leftovers(out);
    if !left.is_empty() {
        tell!(
            "{option} {}: {} beside it is of a run that was stopped, or that is writing now; one that was stopped starts anew, \
             and what it left may be removed",
            out.display(),
            left.join(", ")
        );
    }
}

/// Refuses an output that no folder can be made at: a file, a link to nothing.
pub fn check_named(out: &Path) -> anyhow::Result<()> {
    match atomic::named_folder(out) {
        // The folder of work needs no name.
        Err(error) if !out.is_dir() => Err(bad_use(format!("--out {error}"))),
        _ => Ok(()),
    }
}

/// Refuses an output that holds anything but what an earlier run of the same command left: before it is replaced, since whoever
/// began some time ago does not know what was put there since.
pub fn check_again(out: &Path, contents: &Contents) -> anyhow::Result<()> {
    let refuse = |reason: String| Err(bad_use(format!("--out {}: {reason}", out.display())));
    match fs::metadata(out) {
        Ok(there) if !there.is_dir() => return refuse("is a file, where a folder is expected".into()),
        Ok(_) => {
            let mut names = entries(out, "")?;
            if names.iter().any(|(name, is_file)| name == "grid" && !is_file) {
                names.retain(|(name, _)| name != "grid");
                names.extend(entries(&out.join("grid"), "grid/")?);
            }
            let is_ours = |name: &str| match name.strip_prefix("grid/") {
                Some(name) => contents.grid.contains(&name),
                None => name == contents.manifest || (contents.is_picture)(name),
            };
            if let Some((other, _)) = names.iter().find(|(name, is_file)| !is_file || !is_ours(name)) {
                return refuse(format!("holds something else already, `{other}`"));
            }
            if !names.is_empty() && !names.iter().any(|(name, _)| name == contents.manifest) {
                return refuse(format!(
                    "holds pictures already, and no {} of an earlier run",
                    contents.manifest
                ));
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => check_named(out)?,
        Err(error) => return Err(Error::io(out)(error).into()),
    }
    Ok(())
}

/// Names in a folder, behind `prefix`, and whether each is a file, and no link to one.
fn entries(folder: &Path, prefix: &str) -> anyhow::Result<Vec<(String, bool)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let is_file = entry.file_type().map_err(Error::io(folder))?.is_file();
        if is_file && is_of_a_file_manager(&entry.file_name()) {
            continue;
        }
        names.push((format!("{prefix}{}", entry.file_name().to_string_lossy()), is_file));
    }
    Ok(names)
}

/// What unfinished writing of a file or folder is called, beside it.
fn leftovers(out: &Path) -> Vec<String> {
    // A link stays, and what it leads to is written.
    let out = fs::canonicalize(out).or_else(|_| absolute(out)).unwrap_or_else(|_| out.into());
    let (Some(folder), Some(own)) = (out.parent(), out.file_name()) else { return Vec::new() };
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut left: Vec<_> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    left.retain(|name| atomic::leftover_of(name).is_some_and(|name| own == name));
    left.sort();
    left
}

/// Refuses a file, named by `option`, that could not be written in the end: a folder, a link to nothing, or in a place that
/// is no folder, or may not be written. Tells of what stopped runs left beside it.
pub fn check_file(option: &str, file: &Path) -> anyhow::Result<()> {
    let refuse = |got: &str| {
        Err(bad_use(format!("{option} {}: expected a file, or nothing, got {got}", file.display())))
    };
    match fs::metadata(file) {
        Ok(there) if there.is_dir() => refuse("a folder"),
        // Pipes and devices are written into, and need no place beside them.
        Ok(there) if !there.is_file() => Ok(()),
        Err(_) if file.is_symlink() => refuse("a link to nothing"),
        _ => {
            check_parent(option, file)?;
            tell_of_leftovers(option, file);
            Ok(())
        }
    }
}

/// Refuses a place whose parent folder is not there and cannot be made, or may not be written.
fn check_parent(option: &str, path: &Path) -> anyhow::Result<()> {
    let place = fs::canonicalize(path).or_else(|_| absolute(path)).map_err(Error::io(path))?;
    // Made is what lacks of it, in the nearest that is there.
    let there = place.ancestors().skip(1).find(|folder| folder.is_symlink() || folder.exists());
    let Some(there) = there else { return Ok(()) };
    // One without a name, that is gone with it.
    let Err(reason) = tempfile::tempfile_in(there) else { return Ok(()) };
    Err(bad_use(format!(
        "{option} {}: nothing can be written in {}: {reason}",
        path.display(),
        there.display()
    )))
}

/// Refuses a file, named by `option`, that would lie in the output folder, which is replaced as a whole.
pub fn check_outside(out: &Path, option: &str, file: &Path) -> anyhow::Result<()> {
    if is_within(file, out) {
        return Err(bad_use(format!(
            "{option} {}: expected a place outside of --out {}, which is replaced as a whole",
            file.display(),
            out.display()
        )));
    }
    Ok(())
}

/// Refuses an output folder in which lies what is read, named by `input`: it is replaced as a whole.
pub fn check_not_within(input: &str, read: &Path, out: &Path) -> anyhow::Result<()> {
    if is_within(read, out) {
        return Err(bad_use(format!(
            "--out {}: is replaced as a whole, and {input} {} lies in it",
            out.display(),
            read.display()
        )));
    }
    Ok(())
}

/// Whether a place is a folder or lies in it, by whatever links and ways up either is named.
pub fn is_within(place: &Path, folder: &Path) -> bool {
    resolved(place).starts_with(resolved(folder))
}

/// Refuses a place, named by `option`, that is one of those read: each with what names it.
pub fn check_not_read(option: &str, file: &Path, read: &[(&str, Option<&Path>)]) -> anyhow::Result<()> {
    let same = |read: &Path| is_within(file, read) && is_within(read, file);
    match read.iter().find(|(_, read)| read.is_some_and(same)) {
        Some((input, read)) => {
            let kind = if read.is_some_and(Path::is_dir) { "folder" } else { "file" };
            Err(bad_use(format!("{option} {}: {input} is the same {kind}", file.display())))
        }
        None => Ok(()),
    }
}

/// A path without links, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    // What is beside a bare name is the folder of work.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let whole = absolute(path).unwrap_or_else(|_| path.into());
    let there = whole.ancestors().find_map(|part| Some((part, fs::canonicalize(part).ok()?)));
    match there {
        Some((part, real)) => match whole.strip_prefix(part) {
            Ok(rest) if rest.as_os_str().is_empty() => real,
            Ok(rest) => rest.components().fold(real, |place, part| match part {
                Component::ParentDir => place.parent().map_or(place.clone(), Path::to_path_buf),
                part => place.join(part),
            }),
            Err(_) => whole,
        },
        None => whole,
    }
}

/// Keeps other processes of this command out of a folder, which is made.
pub fn lock(out: &Path, command: &str) -> anyhow::Result<Lock> {
    let held = atomic::lock(&out.join("lock"))?;
    held.ok_or_else(|| bad_use(format!("--out {}: another {command} works in it", out.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::edit::CONTENTS as EDITS;

    #[test]
    fn what_a_run_left_may_be_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let check = || check(&out, &EDITS);
        check().unwrap();
        fs::create_dir_all(out.join("grid")).unwrap();
        check().unwrap();
        for name in ["grid/grid.png", "edit-000.png"] {
            fs::write(out.join(name), "").unwrap();
            assert!(check().unwrap_err().to_string().contains("no edited.json"));
        }
        fs::write(out.join("edited.json"), "").unwrap();
        check().unwrap();
        for name in ["mine.txt", "edit-0.png", "edit-0000.png", "edit-1-2.png", "000.png", "grid/notes.txt"] {
            fs::write(out.join(name), "").unwrap();
            let error = check().unwrap_err().to_string();
            assert!(error.contains(&format!("something else already, `{name}`")), "{error}");
            fs::remove_file(out.join(name)).unwrap();
        }
        for name in ["edit-001.png", "grid/iterations.gif"] {
            fs::create_dir(out.join(name)).unwrap();
            assert!(check().unwrap_err().to_string().contains("something else"), "{name}");
            fs::remove_dir(out.join(name)).unwrap();
        }
        // Whoever looked at the pictures may have left that.
        fs::write(out.join("grid/.DS_Store"), "").unwrap();
        check().unwrap();
        fs::remove_dir_all(out.join("grid")).unwrap();
        fs::write(out.join("grid"), "").unwrap();
        assert!(check().unwrap_err().to_string().contains("something else"));
        let of = |out: &Path| super::check(out, &EDITS).unwrap_err().to_string();
        assert!(of(&out.join("edited.json")).contains("is a file"));
        assert!(of(&out.join("edited.json/deep/out")).contains("edited.json"));
    }

    #[test]
    fn a_file_that_could_not_be_written_in_the_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        fs::write(at("file"), "").unwrap();
        for right in ["file", "new", "deep/new", "folder/new"] {
            check_file("--save-tokens", &at(right)).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is made");
        for (wrong, part) in [("folder", "got a folder"), ("file/new", "nothing can be written in")] {
            let error = check_file("--save-tokens", &at(wrong)).unwrap_err().to_string();
            assert!(error.contains("--save-tokens") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn leftovers_are_known_by_the_folders_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        for name in ["out.12.tmp", "out.old.tmp", "out.a.tmp", "about.12.tmp", "out.12", "out.x.12.tmp"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(leftovers(&out), ["out.12.tmp", "out.old.tmp"]);
        assert!(leftovers(&folder.path().join("none/out")).is_empty());
    }

    #[test]
    fn a_file_beside_the_folder_is_right_and_one_in_it_is_not() {
        let check = |file: &str| check_outside(Path::new("out"), "--save-tokens", Path::new(file));
        for right in ["t.st", "out.st", "more/out/t.st", "../out/t.st"] {
            check(right).unwrap();
        }
        for wrong in ["out", "out/t.st", "./out/deep/t.st"] {
            assert!(check(wrong).unwrap_err().to_string().contains(wrong), "{wrong}");
        }

        assert!(is_within(Path::new(""), Path::new(".")) && is_within(Path::new("."), Path::new("")));
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("other/deep")).unwrap();
        for (place, of, right) in [
            ("other/deep/../../out/t.st", "out", true),
            ("other/t.st", "other/deep/..", true),
            ("other/deep/../../t.st", "out", false),
            ("others/t.st", "other", false),
            ("none/../other/t.st", "other", true),
            ("none/deep/../../t.st", "other", false),
        ] {
            assert_eq!(is_within(&at(place), &at(of)), right, "{place}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("other"), at("link")).unwrap();
            assert!(
                is_within(&at("other/t.st"), &at("link")) && is_within(&at("link/new/t.st"), &at("other"))
            );
        }
    }
}
