//! Pictures to be measured, wherever they lie.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::loader::spread;
use crate::manifest::{self, StoreKind, sha256, sha256_of_file};
use crate::source::is_hidden;
use crate::{Crop, Error, Picture, PictureStore};

/// A set of pictures: a packed store, or the picture files of a folder.
#[derive(Debug)]
pub struct PictureSet {
    path: PathBuf,
    kind: Kind,
    /// The pictures that belong to the set, of those that are there.
    chosen: Vec<usize>,
    /// Pictures in folders, where those of the top are the set.
    passed_over: usize,
    /// Pictures of formats that are not read, beside those of the set.
    unread: usize,
    /// Once it is asked for: to read all pictures takes long.
    sha256: OnceLock<String>,
}

#[derive(Debug)]
enum Kind {
    Store(Box<PictureStore>),
    Files(Vec<PathBuf>),
}

/// Endings of files that are taken for pictures; what a file is, its first bytes say.
const ENDINGS: [&str; 6] = ["png", "jpg", "jpeg", "webp", "gif", "bmp"];
/// Endings of pictures that are not read here, and that others read.
const UNREAD: [&str; 4] = ["tif", "tiff", "ppm", "pgm"];

impl PictureSet {
    /// Opens a packed store, or lists a folder in byte order of the paths. Where the folder itself holds pictures,
    /// those are the set; else those in its folders are, at any depth. Links to files are followed; links to folders are
    /// refused where pictures in folders are the set.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if StoreKind::of(path).is_some() {
            return Self::of_store(path);
        }
        if path.is_file() {
            let reason = "a file, where a folder of pictures or a store of them is expected".into();
            return Err(Error::Layout { path: path.into(), reason });
        }
        let Listed { mut files, folders: mut waiting, mut links, mut unread } = listed(path)?;
        let mut inner = Vec::new();
        while let Some(folder) = waiting.pop() {
            match listed(&folder) {
                Ok(mut found) => {
                    inner.append(&mut found.files);
                    waiting.append(&mut found.folders);
                    links.append(&mut found.links);
                    unread += if files.is_empty() { found.unread } else { 0 };
                }
                Err(error) if files.is_empty() => return Err(error),
                // Only counted.
                Err(_) => {}
            }
        }
        if files.is_empty()
            && let Some(link) = links.into_iter().min()
        {
            let reason =
                "a link to a folder, or to nothing, which is not followed; the folder itself must be here";
            return Err(Error::Layout { path: link, reason: reason.into() });
        }
        let passed_over = if files.is_empty() { 0 } else { inner.len() };
        if files.is_empty() {
            files = inner;
        }
        if files.is_empty() && path.join(manifest::MANIFEST).is_file() {
            // Which says what is wrong with the manifest.
            return Self::of_store(path);
        }
        if files.is_empty() {
            let reason = match unread {
                0 => "holds no pictures".into(),
                _ => format!(
                    "holds no pictures but {unread} of formats that are not read ({})",
                    UNREAD.join(", ")
                ),
            };
            return Err(Error::Layout { path: path.into(), reason });
        }
        files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
        let chosen = (0..files.len()).collect();
        let kind = Kind::Files(files);
        Ok(Self { path: path.into(), kind, chosen, passed_over, unread, sha256: OnceLock::new() })
    }

    fn of_store(path: &Path) -> Result<Self, Error> {
        let store = PictureStore::open(path)?;
        let chosen = (0..store.len()).collect();
        let kind = Kind::Store(Box::new(store));
        let sha256 = OnceLock::new();
        Ok(Self { path: path.into(), kind, chosen, passed_over: 0, unread: 0, sha256 })
    }

    /// At most `count` of the pictures, evenly over the set.
    pub fn thinned(mut self, count: usize) -> Self {
        let all = self.chosen.len();
        if count < all {
            self.chosen = spread(all, count).map(|i| self.chosen[i]).collect();
            self.sha256 = OnceLock::new();
        }
        self
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pictures in folders that are not of the set, since the folder itself holds some.
    pub fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Pictures beside those of the set whose formats, by their names, are not read (TIFF, PPM and PGM).
    pub fn unread(&self) -> usize {
        self.unread
    }

    /// Pictures that were found, chosen or not.
    pub fn found(&self) -> usize {
        match &self.kind {
            Kind::Store(store) => store.len(),
            Kind::Files(files) => files.len(),
        }
    }

    /// How the pictures of a packed store were made square; of files it is not known.
    pub fn crop(&self) -> Option<Crop> {
        match &self.kind {
            Kind::Store(store) => Some(store.manifest().crop),
            Kind::Files(_) => None,
        }
    }

    /// Whether the pictures of a packed store were turned first as their metadata asks for; files are not.
    pub fn upright(&self) -> bool {
        matches!(&self.kind, Kind::Store(store) if store.manifest().upright)
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Picture `index`; a file that is no picture is an error that names it.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn get(&self, index: usize) -> Result<Picture, Error> {
        let index = self.chosen[index];
        match &self.kind {
            Kind::Store(store) => Picture::new(store.size(), store.size(), store.picture(index).to_vec()),
            Kind::Files(files) => Picture::open(&files[index]),
        }
    }

    /// SHA-256 that changes with any picture of the set: of the shards' checksums, or of every file's, and of which
    /// are chosen. Files are read when it is first asked for.
    pub fn sha256(&self) -> Result<String, Error> {
        if let Some(known) = self.sha256.get() {
            return Ok(known.clone());
        }
        let sha256 = self.computed_sha256()?;
        Ok(self.sha256.get_or_init(|| sha256).clone())
    }

    fn computed_sha256(&self) -> Result<String, Error> {
        let mut digest = Sha256::new();
        match &self.kind {
            Kind::Store(store) => {
                store.manifest().shards.iter().for_each(|shard| digest.update(&shard.sha256));
                self.chosen.iter().for_each(|&index| digest.update((index as u64).to_le_bytes()));
            }
            Kind::Files(files) => {
                let sums = self.chosen.par_iter().map(|&index| sha256_of_file(&files[index]));
                let sums: Vec<String> = sums.collect::<Result<_, _>>()?;
                sums.iter().for_each(|sum| digest.update(sum));
            }
        }
        Ok(sha256(&digest.finalize()))
    }
}

/// What a folder holds.
#[derive(Default)]
struct Listed {
    /// Picture files, and links to such.
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// Links to folders, or to nothing.
    links: Vec<PathBuf>,
    /// Pictures of formats that are not read.
    unread: usize,
}

/// Whether a file's name says that it is a picture of a format that is read.
pub fn is_picture_name(path: &Path) -> bool {
    has_ending(path, &ENDINGS)
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// Lists a folder. A picture that is a link to nothing is an error, since without it the set would be another.
fn listed(folder: &Path) -> Result<Listed, Error> {
    let mut listed = Listed::default();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let mut kind = entry.file_type().map_err(Error::io(entry.path()))?;
        let path = entry.path();
        // What systems and editors leave beside pictures, as in sources.
        if is_hidden(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let is_picture = is_picture_name(&path);
        if kind.is_symlink() {
            match fs::metadata(&path) {
                Ok(there) if !there.is_dir() => kind = there.file_type(),
                Err(error) if is_picture => return Err(Error::io(path)(error)),
                _ => {
                    listed.links.push(path);
                    continue;
                }
            }
        }
        if kind.is_dir() {
            listed.folders.push(path);
        } else if kind.is_file() && is_picture {
            listed.files.push(path);
        } else if kind.is_file() && has_ending(&path, &UNREAD) {
            listed.unread += 1;
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PrepareOptions, prepare, synthetic};

    #[test]
    fn a_folder_of_classes_and_its_store() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        synthetic::write_folder(&source, 2, 32, 1).unwrap();
        // Neither counts a picture twice for what an editor keeps of it, nor fails for what a system leaves.
        let (class, hidden) = (source.join("disc"), source.join("disc/.ipynb_checkpoints"));
        fs::create_dir(&hidden).unwrap();
        fs::copy(class.join("0000.png"), hidden.join("0000-checkpoint.png")).unwrap();
        fs::write(class.join("._0000.png"), "no picture").unwrap();
        let files = PictureSet::open(&source).unwrap();
        let out = folder.path().join("store");
        let options = PrepareOptions { size: 32, ..PrepareOptions::default() };
        prepare(&source, &options, &out, &mut |_, _| {}).unwrap();
        let store = PictureSet::open(&out).unwrap();
        assert_eq!((files.len(), store.len()), (16, 16));
        for i in 0..16 {
            assert_eq!(files.get(i).unwrap(), store.get(i).unwrap());
        }
    }

    #[test]
    fn a_thinned_set_is_spread_evenly() {
        let folder = tempfile::tempdir().unwrap();
        synthetic::write_folder(folder.path(), 2, 16, 1).unwrap();
        let open = || PictureSet::open(folder.path()).unwrap();
        let (all, thin) = (open(), open().thinned(4));
        assert_eq!((all.len(), thin.len(), open().thinned(99).len()), (16, 4, 16));
        for i in 0..4 {
            assert_eq!(thin.get(i).unwrap(), all.get(4 * i).unwrap());
        }
        assert_ne!(thin.sha256().unwrap(), all.sha256().unwrap());
        // Files are read for it once.
        let Kind::Files(paths) = &thin.kind else { panic!("no files") };
        let files = || thin.chosen.iter().map(|&index| paths[index].clone());
        let sums: String = files().map(|file| sha256_of_file(&file).unwrap()).collect();
        assert_eq!(thin.sha256().unwrap(), sha256(&Sha256::digest(sums)));
        let (before, of_thin) = (all.sha256().unwrap(), thin.sha256().unwrap());
        files().for_each(|file| fs::remove_file(file).unwrap());
        assert_eq!((all.sha256().unwrap(), thin.sha256().unwrap()), (before, of_thin));
        assert!(all.thinned(4).sha256().is_err(), "others of them are another set");
    }

    #[test]
    fn pictures_of_the_folder_itself_come_before_those_below() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let picture = |class| synthetic::draw(class, 0, 16, 1).unwrap();
        picture(0).save_png(&path.join("grid/grid.png")).unwrap();
        assert_eq!(PictureSet::open(path).unwrap().get(0).unwrap(), picture(0));
        picture(1).save_png(&path.join("a.png")).unwrap();
        let set = PictureSet::open(path).unwrap();
        assert_eq!((set.len(), set.get(0).unwrap()), (1, picture(1)));

        let before = set.sha256().unwrap();
        assert_eq!(before, PictureSet::open(path).unwrap().sha256().unwrap());
        picture(2).save_png(&path.join("a.png")).unwrap();
        assert_ne!(before, PictureSet::open(path).unwrap().sha256().unwrap());
        fs::write(path.join("b.png"), b"no picture").unwrap();
        let error = PictureSet::open(path).unwrap().get(1).unwrap_err().to_string();
        assert!(error.contains("b.png"), "{error}");
    }

    #[test]
    fn no_pictures_no_set() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), b"text").unwrap();
        assert!(PictureSet::open(folder.path()).unwrap_err().to_string().contains("no pictures"));
        assert!(PictureSet::open(&folder.path().join("missing")).is_err());
    }

    #[test]
    fn pictures_that_are_not_read_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("a")).unwrap();
        ["1.tif", "a/2.PPM"].iter().for_each(|name| fs::write(path.join(name), b"").unwrap());
        let error = PictureSet::open(path).unwrap_err().to_string();
        assert!(error.contains("no pictures but 2 of formats that are not read (tif"), "{error}");
        let picture = synthetic::draw(0, 0, 16, 1).unwrap();
        picture.save_png(&path.join("a/3.png")).unwrap();
        assert_eq!(PictureSet::open(path).unwrap().unread(), 2);
        picture.save_png(&path.join("4.png")).unwrap();
        assert_eq!(PictureSet::open(path).unwrap().unread(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_to_pictures_are_followed_and_other_links_are_not_silent() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let [real, set] = ["real", "set"].map(|name| folder.path().join(name));
        synthetic::write_folder(&real, 1, 16, 1).unwrap();
        let class = real.join(synthetic::CLASSES[0]);
        fs::create_dir_all(set.join("a")).unwrap();
        symlink(class.join("0000.png"), set.join("a/1.png")).unwrap();
        let found = PictureSet::open(&set).unwrap();
        assert_eq!((found.len(), found.get(0).is_ok()), (1, true));

        let refusal = || PictureSet::open(&set).unwrap_err().to_string();
        for (target, name) in
            [(class.as_path(), "b"), (Path::new("nowhere"), "b"), (Path::new("nowhere"), "b.png")]
        {
            symlink(target, set.join(name)).unwrap();
            assert!(refusal().contains(&format!("{name}: ")), "{}", refusal());
            fs::remove_file(set.join(name)).unwrap();
        }
        // Beside pictures, folders do not matter, and so neither do links to such.
        symlink(class.join("0000.png"), set.join("1.png")).unwrap();
        symlink(&class, set.join("latest")).unwrap();
        assert_eq!(PictureSet::open(&set).unwrap().len(), 1);
        symlink("nowhere", set.join("2.png")).unwrap();
        assert!(refusal().contains("2.png"));
    }

    #[test]
    fn a_manifest_of_others_makes_no_store() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("manifest.json"), r#"{"name": "samples"}"#).unwrap();
        assert!(PictureSet::open(folder.path()).unwrap_err().to_string().contains("manifest"));
        synthetic::draw(0, 0, 16, 1).unwrap().save_png(&folder.path().join("1.png")).unwrap();
        assert_eq!(PictureSet::open(folder.path()).unwrap().len(), 1);
    }
}
