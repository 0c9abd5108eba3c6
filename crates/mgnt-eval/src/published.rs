//! Statistics as others publish them: `.npz` archives of pytorch-fid and of ADM's evaluator.

use std::io::{Read, Seek, Write};
use std::path::Path;

use mgnt_weights::npz::{Archive, Writer};
use mgnt_weights::{DType, atomic};

use crate::pictures::ARRAY;
use crate::{Dims, Error, Inception, Measured, Moments, Pictures, Resize};

/// Number of spatial features.
const SPATIAL: usize = 2023;
/// Pictures that ADM's own reference files hold beside the statistics of all.
const PICTURES: usize = 10_000;

/// Statistics of an archive.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// `mu` and `sigma`.
    pub moments: Moments,
    /// `mu_s` and `sigma_s`, where the archive has them.
    pub spatial: Option<Moments>,
    /// Whether there are pictures too.
    pub has_pictures: bool,
    /// What they were made with, where the archive says so, as those do that are written here.
    pub origin: Option<Origin>,
}

/// What statistics were made with. Archives have it in two arrays of bytes that other readers do not look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// How pictures became the network's input.
    pub resize: Resize,
    /// SHA-256 of the file of the network's weights.
    pub weights_sha256: String,
}

/// Names of those two arrays.
const RESIZE: &str = "mgnt_resize";
const WEIGHTS: &str = "mgnt_weights_sha256";

impl Origin {
    /// That of what this network measures.
    pub fn of(network: &Inception) -> Self {
        Self { resize: network.resize(), weights_sha256: network.sha256().into() }
    }

    /// What an archive says, if it does.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, Error> {
        Self::within(&mut Archive::open(path)?, path)
    }

    fn within<R: Read + Seek>(archive: &mut Archive<R>, path: &Path) -> Result<Option<Self>, Error> {
        let fail = |name: &str, reason: String| Error::File {
            path: path.into(),
            reason: format!("`{name}`: {reason}"),
        };
        if !archive.has(RESIZE) {
            return Ok(None);
        }
        let mut text = |name: &str| -> Result<String, Error> {
            let array = archive.array(name)?;
            let shape = array.shape().to_vec();
            if array.dtype() != DType::U8 || shape.iter().product::<usize>() > LONGEST_TEXT {
                let got = format!("{:?} {shape:?}", array.dtype());
                return Err(fail(name, format!("expected at most {LONGEST_TEXT} bytes of text, got {got}")));
            }
            Ok(String::from_utf8_lossy(array.read(&shape)?.bytes()).into_owned())
        };
        let (resize, weights_sha256) = (text(RESIZE)?, text(WEIGHTS)?);
        let resize = resize.parse().map_err(|expected| fail(RESIZE, expected))?;
        Ok(Some(Self { resize, weights_sha256 }))
    }

    fn write<W: Write + Seek>(&self, writer: &mut Writer<W>) -> Result<(), Error> {
        for (name, text) in [(RESIZE, &self.resize.to_string()), (WEIGHTS, &self.weights_sha256)] {
            writer.start(name, DType::U8, &[text.len()])?;
            writer.write(text.as_bytes())?;
        }
        Ok(())
    }

    /// Refuses another origin; `path` is for the error only.
    pub(crate) fn require(&self, expected: &Self, path: &Path) -> Result<(), Error> {
        let (expected_resize, resize) = (expected.resize.to_string(), self.resize.to_string());
        for (name, expected, got) in [
            ("resize", &expected_resize, &resize),
            ("weights", &expected.weights_sha256, &self.weights_sha256),
        ] {
            if expected != got {
                let reason = format!("{name}: expected {expected}, got {got}");
                return Err(Error::File { path: path.into(), reason });
            }
        }
        Ok(())
    }
}

/// Bytes of a SHA-256 in hexadecimal, than which no text here is longer.
const LONGEST_TEXT: usize = 64;

impl From<Published> for Measured {
    fn from(published: Published) -> Self {
        let Published { moments, spatial, .. } = published;
        Self { moments, spatial, sample: None, inception_score: None }
    }
}

/// Whether an archive holds statistics, and not pictures alone.
pub fn has_statistics(path: &Path) -> Result<bool, Error> {
    Ok(Archive::open(path)?.has("mu"))
}

impl Published {
    /// Reads an archive of pytorch-fid (`mu`, `sigma`) or ADM's evaluator (those, `mu_s`, `sigma_s`, `arr_0`), of f64
    /// or f32.
    pub fn read(path: &Path, dims: Dims) -> Result<Self, Error> {
        let file = |error: mgnt_weights::Error| Error::File { path: path.into(), reason: error.to_string() };
        let mut archive = Archive::open(path)?;
        let (has_spatial, has_pictures) = (archive.has("mu_s"), archive.has(ARRAY));
        let origin = Origin::within(&mut archive, path)?;
        let mut values = |name: &str, shape: &[usize]| -> Result<Vec<f64>, Error> {
            let tensor = archive.array(name)?.read(shape).map_err(file)?;
            Ok(tensor.require_float(name).map_err(file)?.to_f64())
        };
        let mut moments = |mean: &str, covariance: &str, dims: usize| -> Result<Moments, Error> {
            let (mean, covariance) = (values(mean, &[dims])?, values(covariance, &[dims, dims])?);
            let named = |error: Error| Error::File { path: path.into(), reason: error.to_string() };
            Moments::new(mean, &covariance, None).map_err(named)
        };
        let own = moments("mu", "sigma", dims.count())?;
        let spatial = has_spatial.then(|| moments("mu_s", "sigma_s", SPATIAL)).transpose()?;
        Ok(Self { moments: own, spatial, has_pictures, origin })
    }
}

/// Writes `mu` and `sigma`, as pytorch-fid does, and what they were made with, where that is known.
pub fn write_pytorch_fid(path: &Path, moments: &Moments, origin: Option<&Origin>) -> Result<(), Error> {
    atomic::write_file(path, |file| {
        let mut writer = Writer::new(file, path);
        write_moments(&mut writer, "mu", "sigma", moments)?;
        origin.map_or(Ok(()), |origin| origin.write(&mut writer))?;
        Ok(writer.finish()?)
    })
}

/// Writes `mu`, `sigma`, `mu_s`, `sigma_s` of all pictures, and as `arr_0` the pictures themselves, or 10,000 evenly
/// over them where there are more: what ADM's evaluator takes for a reference. And what they were made with.
///
/// The pictures must be of one size, and the statistics have spatial features.
pub fn write_adm(
    path: &Path,
    measured: &Measured,
    pictures: &Pictures,
    origin: &Origin,
) -> Result<(), Error> {
    let spatial = measured.spatial.as_ref().ok_or_else(|| {
        Error::input("statistics for ADM's evaluator", "spatial features (768 or 2048 dimensions)", "none")
    })?;
    let count = pictures.len().min(PICTURES);
    atomic::write_file(path, |file| {
        let mut writer = Writer::new(file, path);
        write_moments(&mut writer, "mu", "sigma", &measured.moments)?;
        write_moments(&mut writer, "mu_s", "sigma_s", spatial)?;
        let mut size = None;
        pictures.batches_of(count, 16, &mut |batch| {
            for picture in batch {
                let own = [picture.height(), picture.width()];
                if size.is_none() {
                    writer.start(ARRAY, DType::U8, &[count, own[0], own[1], 3])?;
                    size = Some(own);
                }
                if size != Some(own) {
                    let expected = format!("all of one size, {:?} as the first", size.unwrap_or_default());
                    return Err(Error::input("pictures for `arr_0`", expected, format!("{own:?}")));
                }
                writer.write(picture.rgb())?;
            }
            Ok(())
        })?;
        origin.write(&mut writer)?;
        Ok(writer.finish()?)
    })
}

fn write_moments<W: Write + Seek>(
    writer: &mut Writer<W>,
    mean: &str,
    covariance: &str,
    moments: &Moments,
) -> Result<(), Error> {
    let dims = moments.dims();
    writer.values(mean, &[dims], moments.mean())?;
    Ok(writer.values(covariance, &[dims, dims], &moments.covariance_values())?)
}

#[cfg(test)]
mod tests {
    use mgnt_data::{Picture, synthetic};

    use super::*;
    use crate::Statistics;

    fn moments(dims: usize) -> Moments {
        let mut statistics = Statistics::new(dims);
        statistics.add(&(0..dims * 4).map(|i| (i as f32).sin()).collect::<Vec<_>>()).unwrap();
        statistics.moments()
    }

    #[test]
    fn both_forms_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.npz");
        let origin = Origin { resize: Resize::Tf1, weights_sha256: "0f".repeat(32) };
        write_pytorch_fid(&path, &moments(64), None).unwrap();
        assert_eq!(Published::read(&path, Dims::D64).unwrap().origin, None);
        write_pytorch_fid(&path, &moments(64), Some(&origin)).unwrap();
        let read = Published::read(&path, Dims::D64).unwrap();
        assert_eq!((read.moments.mean(), read.moments.count()), (moments(64).mean(), None));
        assert_eq!(read.moments.covariance_values(), moments(64).covariance_values());
        assert_eq!((read.spatial, read.has_pictures), (None, false));
        assert_eq!(
            (Origin::read(&path).unwrap().as_ref(), read.origin.as_ref()),
            (Some(&origin), Some(&origin))
        );
        assert!(has_statistics(&path).unwrap());
        let error = Published::read(&path, Dims::D192).unwrap_err().to_string();
        assert!(
            error.contains("reference.npz") && error.contains("expected shape [192], got [64]"),
            "{error}"
        );

        let pictures = folder.path().join("pictures");
        let draw = |i: u64| synthetic::draw(1, i, 16, 7).unwrap();
        (0..3).for_each(|i| draw(i).save_png(&pictures.join(format!("{i}.png"))).unwrap());
        let measured = Measured {
            moments: moments(64),
            spatial: Some(moments(SPATIAL)),
            sample: None,
            inception_score: None,
        };
        write_adm(&path, &measured, &Pictures::open(&pictures).unwrap(), &origin).unwrap();
        let read = Published::read(&path, Dims::D64).unwrap();
        assert_eq!(read.spatial.unwrap().mean(), moments(SPATIAL).mean());
        assert!(read.has_pictures && read.origin.as_ref() == Some(&origin));
        let mut seen = Vec::new();
        let mut see = |batch: &[Picture]| {
            seen.extend_from_slice(batch);
            Ok(())
        };
        Pictures::open(&path).unwrap().batches(8, &mut see).unwrap();
        assert_eq!(seen, (0..3).map(draw).collect::<Vec<_>>());

        let odd = Picture::new(17, 16, vec![0; 17 * 16 * 3]).unwrap();
        odd.save_png(&pictures.join("9.png")).unwrap();
        let before = std::fs::read(&path).unwrap();
        let write = |measured: &Measured| {
            write_adm(&path, measured, &Pictures::open(&pictures).unwrap(), &origin)
                .map_err(|e| e.to_string())
        };
        let error = write(&measured).unwrap_err();
        assert!(error.contains("of one size"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(write(&Measured { spatial: None, ..measured }).is_err());
    }

    #[test]
    fn statistics_of_integers_and_odd_origins_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd.npz");
        let write = |dtype: DType, resize: &str| {
            let mut writer = Writer::new(std::fs::File::create(&path).unwrap(), &path);
            for (name, shape) in [("mu", &[64][..]), ("sigma", &[64, 64])] {
                writer.start(name, dtype, shape).unwrap();
                writer.write(&vec![0; shape.iter().product::<usize>() * dtype.size()]).unwrap();
            }
            for (name, text) in [(RESIZE, resize), (WEIGHTS, "0f")] {
                writer.start(name, DType::U8, &[text.len()]).unwrap();
                writer.write(text.as_bytes()).unwrap();
            }
            writer.finish().unwrap();
            Published::read(&path, Dims::D64).map_err(|e| e.to_string())
        };
        assert!(write(DType::F32, "tf1").is_ok());
        for (got, part) in [
            (write(DType::I32, "tf1"), "odd.npz: tensor `mu`: expected a floating-point type, got I32"),
            (write(DType::F32, "tf3"), "`mgnt_resize`: expected pytorch-fid or tf1"),
            (write(DType::F32, &"a".repeat(65)), "expected at most 64 bytes of text, got U8 [65]"),
        ] {
            let error = got.unwrap_err();
            assert!(error.ends_with(part), "{error}");
        }
    }
}
