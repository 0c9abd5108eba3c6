use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mgnt_data::loader::spread;
use mgnt_data::manifest::{sha256, sha256_of_file};
use mgnt_data::{Picture, PictureSet};
use mgnt_weights::DType;
use mgnt_weights::npz::Archive;
use rayon::prelude::*;

use crate::{Activations, Dims, Error, Inception, Measured, Meter};

/// Pictures to be measured: a packed store, a folder of picture files, or the array `arr_0` u8 `[n, H, W, 3]` of an
/// `.npz` archive, as ADM's evaluator takes samples.
#[derive(Debug)]
pub enum Pictures {
    /// A store or a folder.
    Set(PictureSet),
    /// An array.
    Array(PictureArray),
}

/// The pictures of an archive; they are read one after the other.
#[derive(Debug)]
pub struct PictureArray {
    path: PathBuf,
    shape: [usize; 4],
    /// Numbers of the pictures that belong to the set, rising.
    chosen: Vec<usize>,
    /// SHA-256 of the file, once it is asked for.
    sha256: OnceLock<String>,
}

/// Name of the array, which is what `numpy.savez` calls what is given without a name.
pub(crate) const ARRAY: &str = "arr_0";
/// Longest side that is accepted, in pixels.
const LONGEST: usize = 4096;

impl Pictures {
    /// Opens an archive where the name ends in `.npz`, else a store or folder.
    pub fn open(path: &Path) -> Result<Self, Error> {
        match is_npz(path) {
            true => Ok(Self::Array(PictureArray::open(path)?)),
            false => Ok(Self::Set(PictureSet::open(path)?)),
        }
    }

    /// At most `count` of the pictures, evenly over the set.
    pub fn thinned(self, count: usize) -> Self {
        match self {
            Self::Set(set) => Self::Set(set.thinned(count)),
            Self::Array(mut array) => {
                let all = array.chosen.len();
                if count < all {
                    array.chosen = spread(all, count).map(|i| array.chosen[i]).collect();
                }
                Self::Array(array)
            }
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Set(set) => set.path(),
            Self::Array(array) => &array.path,
        }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        match self {
            Self::Set(set) => set.len(),
            Self::Array(array) => array.chosen.len(),
        }
    }

    /// Number of pictures that there are to choose from, chosen or not.
    pub fn found(&self) -> usize {
        match self {
            Self::Set(set) => set.found(),
            Self::Array(array) => array.shape[0],
        }
    }

    /// How the pictures of a packed store were made square, in words; of others it is not known.
    pub fn crop(&self) -> Option<String> {
        match self {
            Self::Set(set) if set.upright() => set.crop().map(|crop| format!("{crop}, of upright pictures")),
            Self::Set(set) => set.crop().map(|crop| crop.to_string()),
            Self::Array(_) => None,
        }
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 that changes with any picture of the set and with which are chosen. Files are read when it is first asked for.
    pub fn sha256(&self) -> Result<String, Error> {
        match self {
            Self::Set(set) => Ok(set.sha256()?),
            Self::Array(array) => {
                let numbers: Vec<u8> =
                    array.chosen.iter().flat_map(|&number| (number as u64).to_le_bytes()).collect();
                let parts = [array.sha256()?, &sha256(&numbers)].concat();
                Ok(sha256(parts.as_bytes()))
            }
        }
    }

    /// Gives all pictures in order, up to `size` at a time.
    pub fn batches(
        &self,
        size: usize,
        visit: &mut dyn FnMut(&[Picture]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.batches_of(self.len(), size, visit)
    }

    /// The same of at most `count` of them, evenly over the set; the others are not decoded.
    pub(crate) fn batches_of(
        &self,
        count: usize,
        size: usize,
        visit: &mut dyn FnMut(&[Picture]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let size = size.max(1);
        let numbers: Vec<usize> = spread(self.len(), count).collect();
        match self {
            Self::Set(set) => numbers.chunks(size).try_for_each(|part| {
                let pictures: Vec<Picture> =
                    part.par_iter().map(|&i| set.get(i)).collect::<Result<_, _>>()?;
                visit(&pictures)
            }),
            Self::Array(array) => {
                let chosen: Vec<usize> = numbers.into_iter().map(|i| array.chosen[i]).collect();
                array.batches(&chosen, size, visit)
            }
        }
    }
}

/// Whether a file's name says that it is an archive of NumPy's.
pub fn is_npz(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz"))
}

impl PictureArray {
    fn open(path: &Path) -> Result<Self, Error> {
        let mut archive = Archive::open(path)?;
        let array = archive.array(ARRAY)?;
        let fail = |got: String| Error::File {
            path: path.into(),
            reason: format!(
                "`{ARRAY}`: expected bytes [n, height, width, 3] of at most {LONGEST} pixels a side, got {got}"
            ),
        };
        match *array.shape() {
            [count, height, width, 3]
                if array.dtype() == DType::U8
                    && count > 0
                    && (1..=LONGEST).contains(&height)
                    && (1..=LONGEST).contains(&width) =>
            {
                let shape = [count, height, width, 3];
                let (chosen, sha256) = ((0..count).collect(), OnceLock::new());
                Ok(Self { path: path.into(), shape, chosen, sha256 })
            }
            _ => Err(fail(format!("{:?} {:?}", array.dtype(), array.shape()))),
        }
    }

    fn sha256(&self) -> Result<&str, Error> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let sha256 = sha256_of_file(&self.path)?;
        Ok(self.sha256.get_or_init(|| sha256))
    }

    /// Gives the pictures of these numbers, which rise.
    fn batches(
        &self,
        chosen: &[usize],
        size: usize,
        visit: &mut dyn FnMut(&[Picture]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let [_, height, width, channels] = self.shape;
        let mut archive = Archive::open(&self.path)?;
        let mut array = archive.array(ARRAY)?;
        let mut pictures = Vec::with_capacity(size);
        let mut next = 0;
        for &number in chosen {
            let mut rgb = vec![0; height * width * channels];
            // What is not chosen is read over.
            for _ in next..=number {
                array.next(&mut rgb)?;
            }
            next = number + 1;
            pictures.push(Picture::new(width, height, rgb)?);
            if pictures.len() == size {
                visit(&pictures)?;
                pictures.clear();
            }
        }
        match pictures.is_empty() {
            true => Ok(()),
            false => visit(&pictures),
        }
    }
}

/// By what pictures are measured.
#[derive(Debug, Clone, Copy)]
pub struct Measuring<'a> {
    /// The network.
    pub network: &'a Inception,
    /// Which of its features.
    pub dims: Dims,
    /// Pictures at a time, which changes nothing beyond rounding.
    pub batch: usize,
}

/// Measures all pictures of a set; `progress` hears of pictures done.
///
/// Refuses a set of one picture, which has no covariance.
pub fn measure(
    pictures: &Pictures,
    measuring: &Measuring,
    progress: &mut dyn FnMut(usize),
) -> Result<Measured, Error> {
    let &Measuring { network, dims, batch } = measuring;
    if pictures.len() < 2 {
        let reason = format!("expected at least 2 pictures to measure, got {}", pictures.len());
        return Err(Error::File { path: pictures.path().into(), reason });
    }
    let mut meter = Meter::new(dims, pictures.len());
    let mut done = 0;
    pictures.batches(batch, &mut |pictures| {
        let said: Activations = network.activations(pictures, dims)?;
        meter.add(&said)?;
        done += pictures.len();
        progress(done);
        Ok(())
    })?;
    meter.finish()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use mgnt_weights::npz::Writer;

    use super::*;

    fn archive(path: &Path, dtype: DType, shape: &[usize], bytes: &[u8]) {
        let mut writer = Writer::new(File::create(path).unwrap(), path);
        writer.start(ARRAY, dtype, shape).unwrap();
        writer.write(bytes).unwrap();
        writer.finish().unwrap();
    }

    #[test]
    fn the_pictures_of_an_array_in_batches_and_thinned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npz");
        let bytes: Vec<u8> = (0..5 * 2 * 3 * 3).map(|i| i as u8).collect();
        archive(&path, DType::U8, &[5, 2, 3, 3], &bytes);
        let seen = |pictures: &Pictures, size: usize| {
            let (mut sizes, mut firsts) = (Vec::new(), Vec::new());
            pictures
                .batches(size, &mut |batch| {
                    sizes.push(batch.len());
                    firsts.extend(batch.iter().map(|picture| picture.rgb()[0]));
                    assert!(batch.iter().all(|picture| (picture.width(), picture.height()) == (3, 2)));
                    Ok(())
                })
                .unwrap();
            (sizes, firsts)
        };
        let all = Pictures::open(&path).unwrap();
        assert_eq!(seen(&all, 2), (vec![2, 2, 1], vec![0, 18, 36, 54, 72]));
        let mut firsts = Vec::new();
        let mut see = |batch: &[Picture]| {
            firsts.extend(batch.iter().map(|picture| picture.rgb()[0]));
            Ok(())
        };
        all.batches_of(2, 8, &mut see).unwrap();
        assert_eq!(firsts, [0, 36]);
        let before = all.sha256().unwrap();
        let some = all.thinned(2);
        assert_eq!((some.len(), some.found(), seen(&some, 8)), (2, 5, (vec![2], vec![0, 36])));
        assert_eq!(some.crop(), None);
        assert_ne!(some.sha256().unwrap(), before);
        let again = Pictures::open(&path).unwrap();
        assert_eq!(again.sha256().unwrap(), before);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(again.sha256().unwrap(), before, "the file is read for it once");
    }

    #[test]
    fn arrays_that_are_no_pictures_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npz");
        archive(&path, DType::U8, &[2, 2, 2, 4], &[0; 32]);
        let error = Pictures::open(&path).unwrap_err().to_string();
        assert!(error.contains("samples.npz") && error.contains("[2, 2, 2, 4]"), "{error}");
        archive(&path, DType::I32, &[1, 1, 1, 3], &[0; 12]);
        assert!(Pictures::open(&path).unwrap_err().to_string().contains("I32"));
    }
}
