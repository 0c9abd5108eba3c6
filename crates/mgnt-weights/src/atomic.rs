//! Writing that leaves the old file or the new one, never half of one, by one process at a time.

mod held;
mod sync;

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

pub use self::held::{Lock, lock};
use self::sync::{sync_all, sync_folder};
use crate::Error;

/// Writes a file under a temporary name beside it, syncs it to disk, and renames it into place.
///
/// Parent folders are made. Where `write` fails, the temporary file is removed and an older file stays. A link stays, and
/// what it leads to is written. What is neither a file nor a folder, such as a pipe, is written straight into, and so are
/// standard output and error by their names in `/dev` and `/proc`, whatever they are.
///
/// Fails before `write` is called where `path` is a folder, or a link to nothing.
pub fn write_file<E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    const EXPECTED: &str = "a file, or nothing";
    if let Some(stream) = standard_stream(path) {
        return write_to(stream.map_err(Error::io(path))?, path, write);
    }
    match fs::metadata(path) {
        Ok(there) if there.is_dir() => return Err(place(path, EXPECTED, "a folder").into()),
        // Nothing can take the place of a pipe or a device: who reads it would wait on, or every program would miss it.
        Ok(there) if !there.is_file() => {
            let file = File::options().write(true).open(path).map_err(Error::io(path))?;
            return write_to(file, path, write);
        }
        _ => {}
    }
    let path = &behind_links(path, EXPECTED)?;
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let (temporary, file) = beside(path, |temporary| File::create_new(temporary))?;
    let written = (|| {
        let mut writer = BufWriter::new(file);
        write(&mut writer)?;
        let file = writer.into_inner().map_err(|e| Error::io(&temporary)(e.into_error()))?;
        file.sync_all().map_err(Error::io(&temporary))?;
        fs::rename(&temporary, path).map_err(Error::io(path))?;
        Ok(())
    })();
    if written.is_err() {
        // The error to report is the first one; a leftover of the clean-up is harmless.
        let _ = fs::remove_file(&temporary);
    } else {
        sync_folder(parent);
    }
    written
}

/// The stream that a path names, if it does: where it is a file, what is written goes behind what was printed, and in its place
/// nothing.
#[cfg(unix)]
fn standard_stream(path: &Path) -> Option<io::Result<File>> {
    use std::os::fd::AsFd;
    let is = |names: [&str; 3]| names.iter().any(|name| path == Path::new(name));
    let stream = if is(["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"]) {
        io::stdout().flush().and_then(|()| io::stdout().as_fd().try_clone_to_owned())
    } else if is(["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"]) {
        io::stderr().as_fd().try_clone_to_owned()
    } else {
        return None;
    };
    Some(stream.map(File::from))
}

#[cfg(not(unix))]
fn standard_stream(_: &Path) -> Option<io::Result<File>> {
    None
}

fn write_to<E: From<Error>>(
    file: File,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    Ok(writer.flush().map_err(Error::io(path))?)
}

/// Writes bytes as [`write_file`] does.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_file(path, |writer| writer.write_all(bytes).map_err(Error::io(path)))
}

/// Writes bytes into a file within a folder that [`write_folder`] fills: it is that which has them on disk. Parent folders
/// are made.
pub fn write_within(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    fs::write(path, bytes).map_err(Error::io(path))
}

/// Fills a folder under a temporary name, syncs all that is in it to disk, and renames it into place, replacing an older
/// one of that name, whatever that holds. On Linux the two change places in one step; elsewhere, and on file systems that
/// cannot, a process that is killed between two renames leaves the older one as `NAME.old.tmp`, for [`put_back`] and
/// [`remove_leftovers`]. A link stays, and the folder that it leads to is replaced.
///
/// Fails before `fill` is called where [`named_folder`] does.
pub fn write_folder<E: From<Error>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let path = &named_folder(path)?;
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let (temporary, ()) = beside(path, |temporary| fs::create_dir(temporary))?;
    let filled = fill(&temporary).and_then(|()| {
        sync_all(&temporary)?;
        replace_folder(&temporary, path, &name_beside(path, OLD))?;
        Ok(())
    });
    if filled.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    } else {
        sync_folder(parent);
    }
    filled
}

/// Puts a folder back that a process was about to replace when it was killed. Whoever looks at what `path` holds before it
/// is replaced does this first, so that what comes back is looked at too.
pub fn put_back(path: &Path) -> Result<(), Error> {
    let path = end_of_links(path);
    let old = name_beside(&path, OLD);
    if path.file_name().is_some() && old.is_dir() && !path.exists() {
        fs::rename(&old, &path).map_err(Error::io(&old))?;
    }
    Ok(())
}

/// Where a link, or several behind one another, leads, also where nothing is there and the system does not say; another path
/// as it is.
pub fn end_of_links(path: &Path) -> PathBuf {
    let mut path: PathBuf = path.components().collect();
    for _ in 0..MOST_LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        path = parent_of(&path).join(target);
    }
    path
}

/// Links behind one another that are followed.
const MOST_LINKS: usize = 40;

/// The place that a folder can be renamed to: `path`, or where it leads if it is a link. Refuses one without a name of its
/// own, such as `.`, a file, and a link to nothing.
pub fn named_folder(path: &Path) -> Result<PathBuf, Error> {
    const EXPECTED: &str = "a folder, or nothing";
    let own_name = |place: &Path| place.file_name().is_some();
    let behind = if own_name(path) { behind_links(path, EXPECTED)? } else { path.into() };
    if !own_name(&behind) {
        return Err(place(path, "a folder's own name", "a folder that is named by where it is"));
    }
    if behind.exists() && !behind.is_dir() {
        return Err(place(path, EXPECTED, "a file"));
    }
    Ok(behind)
}

/// Where a link leads; another path as it is.
fn behind_links(path: &Path, expected: &'static str) -> Result<PathBuf, Error> {
    // Without a slash at the end, behind which the system would not show the link.
    let path: PathBuf = path.components().collect();
    if !path.is_symlink() {
        return Ok(path);
    }
    fs::canonicalize(&path).map_err(|reason| match reason.kind() {
        ErrorKind::NotFound => place(&path, expected, "a link to nothing"),
        _ => Error::io(&path)(reason),
    })
}

fn place(path: &Path, expected: &'static str, got: &str) -> Error {
    Error::Place { path: path.into(), expected, got: got.into() }
}

/// Puts the folder `new` in the place of the one at `path`, or where that leads if it is a link; there may be none. On the
/// way the older one may be called `old`. An older one that cannot be removed stays, as `new` or `old`.
pub fn replace_folder(new: &Path, path: &Path, old: &Path) -> Result<(), Error> {
    let path = &named_folder(path)?;
    if !path.exists() {
        match fs::rename(new, path) {
            // Somebody else's came in between.
            Err(_) if path.is_dir() => {}
            renamed => return renamed.map_err(Error::io(path)),
        }
    }
    if exchange(new, path) {
        remove_replaced(new);
        return Ok(());
    }
    replace_by_renames(new, path, old)
}

fn replace_by_renames(new: &Path, path: &Path, old: &Path) -> Result<(), Error> {
    if old.exists() {
        fs::remove_dir_all(old).map_err(Error::io(old))?;
    }
    fs::rename(path, old).map_err(Error::io(path))?;
    if let Err(error) = fs::rename(new, path) {
        // The first error is the one to tell.
        let _ = fs::rename(old, path);
        return Err(Error::io(path)(error));
    }
    remove_replaced(old);
    Ok(())
}

/// Removes a folder under another name, so that a process that is killed over it leaves no half of it in its place, but what
/// [`remove_leftovers`] removes.
pub fn remove_folder(path: &Path) -> Result<(), Error> {
    let (temporary, ()) = beside(path, |temporary| fs::rename(path, temporary))?;
    fs::remove_dir_all(&temporary).map_err(Error::io(&temporary))
}

/// The new folder is in its place, whether the older one can be removed or not: what stays is a leftover.
fn remove_replaced(older: &Path) {
    let _ = fs::remove_dir_all(older);
}

/// Whether two folders changed places, which they do in one step or not at all.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Ending of a folder that another is about to replace.
const OLD: &str = ".old.tmp";

/// Makes what is to take the place of `path` under a name of its own, which no other writer has: neither a thread of this process,
/// nor a process elsewhere with the same number.
fn beside<T>(path: &Path, make: impl Fn(&Path) -> io::Result<T>) -> Result<(PathBuf, T), Error> {
    loop {
        // Drawn by the system once a thread, and another each time.
        let number = RandomState::new().build_hasher().finish();
        let temporary = name_beside(path, &format!(".{number}.tmp"));
        match make(&temporary) {
            Ok(made) => return Ok((temporary, made)),
            Err(reason) if reason.kind() == ErrorKind::AlreadyExists => {}
            Err(reason) => return Err(Error::io(path)(reason)),
        }
    }
}

fn name_beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    path.with_file_name(name)
}

/// The name of what is not finished, where `name` is one that this module gives to such: `NAME` of `NAME.NUMBER.tmp` and of
/// `NAME.old.tmp`.
pub fn leftover_of(name: &str) -> Option<&str> {
    let (name, word) = name.strip_suffix(".tmp")?.rsplit_once('.')?;
    let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    (!name.is_empty() && (word == "old" || is_number)).then_some(name)
}

/// Removes from a folder what a process that was killed left unfinished there. A folder that was about to be replaced,
/// and whose place is empty, is put back. A missing folder has no leftovers.
///
/// No other process may be writing there meanwhile.
pub fn remove_leftovers(folder: &Path) -> Result<(), Error> {
    remove_leftovers_of(folder, |_| true)
}

/// The same of files and folders of these names alone, in a folder that may hold what is somebody else's.
pub fn remove_leftovers_of(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let mut stays = Ok(());
    // Ours are text.
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| leftover_of(name).is_some_and(&is_ours)) {
        let path = folder.join(&name);
        let place = name.strip_suffix(OLD).map(|name| folder.join(name)).filter(|place| !place.exists());
        let done = match place {
            Some(place) => fs::rename(&path, place),
            None if path.is_dir() => fs::remove_dir_all(&path),
            None => fs::remove_file(&path),
        };
        // One that stays is no reason for the others to.
        if let Err(error) = done {
            stays = stays.and(Err(Error::io(&path)(error)));
        }
    }
    stays
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.txt");
        write_bytes(&path, b"old").unwrap();
        let failed: Result<(), Error> = write_file(&path, |w| {
            w.write_all(b"half").unwrap();
            Err(Error::Missing { name: "x".into() })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_written_into_and_stays() {
        use std::io::Read;
        use std::os::unix::fs::FileTypeExt;

        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // Open at both ends, so that nobody waits for the other.
        let mut ends = File::options().read(true).write(true).open(&pipe).unwrap();
        write_bytes(&pipe, b"text").unwrap();
        let mut got = [0; 4];
        ends.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"text");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let refused = write_bytes(folder.path(), b"text").unwrap_err().to_string();
        assert!(refused.ends_with("expected a file, or nothing, got a folder"), "{refused}");
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_what_they_lead_to_is_replaced() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("far")).unwrap();
        for (link, to) in [("file", "far/file"), ("model", "far/model"), ("root", "/"), ("lost", "far/none")]
        {
            symlink(to, at(link)).unwrap();
        }
        fs::write(at("far/file"), "old").unwrap();
        write_bytes(&at("file"), b"new").unwrap();
        assert_eq!(fs::read_to_string(at("far/file")).unwrap(), "new");

        fs::create_dir(at("far/model")).unwrap();
        for name in ["model", "model/"] {
            write_folder(&at(name), |folder| write_bytes(&folder.join("f"), name.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(at("far/model/f")).unwrap(), name);
        }
        fs::create_dir(at("ready")).unwrap();
        replace_folder(&at("ready"), &at("model"), &at("old")).unwrap();
        assert_eq!(fs::read_dir(at("far/model")).unwrap().count(), 0);
        for link in ["file", "model", "root", "lost"] {
            assert!(at(link).is_symlink(), "{link}");
        }
        assert_eq!(
            (fs::read_dir(at("far")).unwrap().count(), fs::read_dir(folder.path()).unwrap().count()),
            (2, 5)
        );

        let refused =
            |path: &Path| write_folder::<Error>(path, |_| panic!("it is filled")).unwrap_err().to_string();
        for path in [at("lost"), at("lost/")] {
            assert!(
                refused(&path).ends_with("expected a folder, or nothing, got a link to nothing"),
                "{}",
                refused(&path)
            );
        }
        assert!(refused(&at("root")).contains("own name"), "{}", refused(&at("root")));
        let refused = write_bytes(&at("lost"), b"").unwrap_err().to_string();
        assert!(refused.ends_with("expected a file, or nothing, got a link to nothing"), "{refused}");
    }

    #[test]
    fn leftovers_go_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["notes.tmp", "a.b.tmp", "old.tmp", "12.tmp", "model.12.tmp", "x.old.tmp", "x", "tmp"] {
            fs::write(at(name), name).unwrap();
        }
        for name in ["precious.tmp", "step.7.tmp", "best.old.tmp"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("f"), name).unwrap();
        }
        remove_leftovers_of(folder.path(), |name| name == "nobody").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 11);
        remove_leftovers(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["12.tmp", "a.b.tmp", "best", "notes.tmp", "old.tmp", "precious.tmp", "tmp", "x"]);
        assert_eq!(fs::read_to_string(at("x")).unwrap(), "x", "what replaced it stays");
        assert_eq!(fs::read_to_string(at("best").join("f")).unwrap(), "best.old.tmp");
        remove_leftovers(&at("none")).unwrap();
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for text in ["one", "two"] {
            write_folder(&path, |p| write_bytes(&p.join("f"), text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(path.join("f")).unwrap(), text);
        }
        let failed: Result<(), Error> = write_folder(&path, |_| Err(Error::Missing { name: "x".into() }));
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        // Killed between two renames.
        fs::rename(&path, folder.path().join("model.old.tmp")).unwrap();
        put_back(&path).unwrap();
        put_back(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        #[cfg(unix)]
        {
            let at = |name: &str| folder.path().join(name);
            fs::create_dir(at("far")).unwrap();
            fs::rename(&path, at("far/model.old.tmp")).unwrap();
            std::os::unix::fs::symlink("far/model", at("link")).unwrap();
            std::os::unix::fs::symlink(at("link"), &path).unwrap();
            put_back(&path).unwrap();
            assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "two");
            assert!(path.is_symlink() && at("far/model").is_dir());
        }
    }

    #[test]
    fn a_folder_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let [new, path, old] = ["new", "model-0.1", "old"].map(|name| folder.path().join(name));
        for replace in [replace_folder, replace_by_renames] {
            for (text, place) in [("one", &path), ("two", &new), ("zero", &old)] {
                fs::create_dir_all(place).unwrap();
                fs::write(place.join("f"), text).unwrap();
            }
            replace(&new, &path, &old).unwrap();
            assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "two");
            assert!(!new.exists());
        }
        assert!(!old.exists());
        // The new one is not there: the older one stays.
        assert!(replace_by_renames(&new, &path, &old).is_err());
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "two");
        assert!(!old.exists());
        assert_eq!(name_beside(&path, OLD).file_name().unwrap(), "model-0.1.old.tmp");
    }

    #[test]
    fn a_removed_folder_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step-7");
        write_bytes(&path.join("f"), b"text").unwrap();
        remove_folder(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(remove_folder(&path).is_err());
    }

    /// Each writes a length of its own, so that a mixture would show. Folders change places in one step on Linux alone.
    #[cfg(target_os = "linux")]
    #[test]
    fn writers_and_readers_side_by_side_see_whole_files() {
        let folder = tempfile::tempdir().unwrap();
        let (file, model) = (folder.path().join("file"), folder.path().join("model"));
        let text = |writer: u8| vec![writer; 10_000 + usize::from(writer)];
        write_bytes(&file, &text(0)).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (file, model, text) = (&file, &model, &text);
                scope.spawn(move || {
                    for _ in 0..10 {
                        write_bytes(file, &text(writer)).unwrap();
                        write_folder(model, |folder| write_bytes(&folder.join("f"), &text(writer))).unwrap();
                        let read = fs::read(file).unwrap();
                        assert_eq!(read, text(read[0]));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn no_folder_is_emptied_that_was_not_named() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = folder.path().join("thesis.txt");
        fs::write(&file, "text").unwrap();
        for place in
            [inner.join(".."), folder.path().join("inner/../.."), PathBuf::from("/"), PathBuf::from("..")]
        {
            let refused: Result<(), Error> =
                write_folder(&place, |_| panic!("{} is filled", place.display()));
            assert!(refused.unwrap_err().to_string().contains("own name"), "{}", place.display());
        }
        let refused: Result<(), Error> = write_folder(&file, |_| panic!("a file is replaced"));
        assert!(refused.unwrap_err().to_string().contains("got a file"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
