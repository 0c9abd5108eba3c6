//! A folder that one process at a time writes in.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;

use super::parent_of;
use crate::Error;

/// A file that this process holds until this is dropped, so that no other writes in its folder.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Fails where the file is no longer what lies at its path: its folder was removed or moved, and another process may work
    /// in one that came there since. Whoever writes there looks before, since writing would make the folder anew. Where the system
    /// does not tell, it is for what is written to fail or not.
    pub fn check(&self) -> Result<(), Error> {
        match is_at(&self.file, &self.path) {
            Ok(false) => Err(Error::Replaced { path: self.path.clone() }),
            Ok(true) | Err(_) => Ok(()),
        }
    }
}

/// Makes a file, if it is not there, and holds it for this process for as long as what is returned is there; `None` where
/// another process holds it. Parent folders are made. What is in the file stays, since it may be somebody else's. On a file system
/// that has no locks nobody is kept out.
pub fn lock(path: &Path) -> Result<Option<Lock>, Error> {
    /// Whoever ends at this moment removes a file and a folder once.
    const TRIES: usize = 10;
    let parent = parent_of(path);
    for left in (0..TRIES).rev() {
        let open = || File::options().create(true).append(true).open(path).map_err(|error| (path, error));
        let file = match fs::create_dir_all(parent).map_err(|error| (parent, error)).and_then(|()| open()) {
            Ok(file) => file,
            // The folder was removed in between, as the last of somebody's work.
            Err((_, error))
                if left > 0 && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) =>
            {
                thread::yield_now();
                continue;
            }
            Err((place, error)) => return Err(Error::io(place)(error)),
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) if !is_of_no_locks(&error) => return Err(Error::io(path)(error)),
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // Where it was removed before it was held, to hold it keeps nobody out.
        if is_at(&file, path)? {
            return Ok(Some(Lock { file, path: path.into() }));
        }
    }
    Err(Error::Replaced { path: path.into() })
}

/// Whether a file system cannot lock: some of clusters, and NFS without its daemon (ENOLCK).
fn is_of_no_locks(error: &io::Error) -> bool {
    const NO_LOCKS: i32 = 37;
    error.kind() == ErrorKind::Unsupported
        || cfg!(target_os = "linux") && error.raw_os_error() == Some(NO_LOCKS)
}

/// Whether a path leads to this very file.
fn is_at(file: &File, path: &Path) -> Result<bool, Error> {
    let both = file.metadata().and_then(|held| Ok((held, fs::metadata(path)?)));
    match both {
        Ok((held, there)) => Ok(identity(&there) == identity(&held)),
        Err(error) => match error.kind() {
            // The last is what a file system of another machine says of a file that was removed there.
            ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle => Ok(false),
            _ => Err(Error::io(path)(error)),
        },
    }
}

/// What tells a file from all others, where the system does.
#[cfg(unix)]
fn identity(there: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (there.dev(), there.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) {}

/// Elsewhere a folder stays where it is while a file of it is open.
#[cfg(all(test, unix))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_lock_tells_that_its_folder_is_another_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (run, path) = (folder.path().join("run"), folder.path().join("run/lock"));
        let first = lock(&path).unwrap().unwrap();
        first.check().unwrap();
        assert!(lock(&path).unwrap().is_none(), "another holds it");
        let lost = |held: &Lock| {
            let error = held.check().unwrap_err().to_string();
            assert!(error.ends_with("run/lock: was removed or replaced, by itself or with its folder; nothing more is written there"), "{error}");
        };
        fs::rename(&run, folder.path().join("moved")).unwrap();
        lost(&first);
        assert!(!run.exists(), "who looks makes nothing");
        let second = lock(&path).unwrap().unwrap();
        second.check().unwrap();
        lost(&first);
        fs::remove_dir_all(&run).unwrap();
        lost(&second);
        fs::write(&run, "a file").unwrap();
        lost(&second);
    }

    #[test]
    fn who_holds_a_lock_that_others_remove_holds_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (run, path) = (folder.path().join("run"), folder.path().join("run/lock"));
        // What is told of a folder that went at each try: a thread has no turn for so long in a loop as tight as this.
        let gave_up = |error: &Error| match error {
            Error::Replaced { .. } => true,
            Error::Io { reason, .. } => {
                matches!(reason.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
            }
            _ => false,
        };
        let held = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let lock = match lock(&path) {
                            Ok(Some(lock)) => lock,
                            // Another was quicker.
                            Ok(None) => continue,
                            Err(error) if gave_up(&error) => continue,
                            Err(error) => panic!("{error}"),
                        };
                        held.fetch_add(1, Ordering::Relaxed);
                        lock.check().unwrap();
                        // In the order in which one ends who has made a store.
                        fs::remove_file(&path).unwrap();
                        let _ = fs::remove_dir(&run);
                    }
                });
            }
        });
        assert!(held.into_inner() > 0);
    }
}
